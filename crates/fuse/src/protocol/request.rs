//! What the kernel asks, parsed: every length is checked, whatever the bytes are.

use zerocopy::FromBytes;

use super::wire::{self, fuse_getxattr_in, fuse_in_header, fuse_init_in, fuse_init_in_ext, fuse_read_in};

/// One request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    /// The number that its answer bears.
    pub(crate) unique: u64,
    /// The inode that it is about.
    pub(crate) inode: u64,
    /// What is asked.
    pub(crate) operation: Operation<'a>,
}

/// What is asked, as far as it is ever answered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Operation<'a> {
    /// The first message.
    Init {
        version: fuse_init_in,
        flags: u64,
    },
    /// The last one.
    Destroy,
    /// The child of a directory with this name.
    Lookup(&'a [u8]),
    GetAttr,
    ReadLink,
    Open,
    OpenDir,
    Release,
    /// Bytes of a file.
    Read(Span),
    /// Lines of a directory.
    ReadDir(Span),
    /// The same with what the names stand for.
    ReadDirPlus(Span),
    StatFs,
    /// The value of an attribute, in at most so many bytes; with 0 only its size.
    GetXattr {
        name: &'a [u8],
        size: u32,
    },
    /// The names of the attributes, likewise.
    ListXattr {
        size: u32,
    },
    Ioctl,
    /// What wants no answer: the kernel forgets an inode, or answers a notification.
    Silent,
    /// What is never done here: the kernel remembers that, where it makes a difference.
    Unknown,
    /// The message is not what its opcode promises.
    Malformed,
}

/// A piece of something that has an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) offset: u64,
    /// At most so many bytes.
    pub(crate) size: u32,
}

impl<'a> Request<'a> {
    /// Parses one message. None where not even its header is there, so that no answer could name it.
    pub(crate) fn parse(message: &'a [u8]) -> Option<Self> {
        let (header, body) = fuse_in_header::read_from_prefix(message).ok()?;
        let is_whole = usize::try_from(header.len).is_ok_and(|len| len == message.len());
        let operation = if is_whole {
            Operation::parse(header.opcode, body).unwrap_or(Operation::Malformed)
        } else {
            Operation::Malformed
        };
        Some(Self {
            unique: header.unique,
            inode: header.nodeid,
            operation,
        })
    }
}

impl<'a> Operation<'a> {
    fn parse(opcode: u32, body: &'a [u8]) -> Option<Self> {
        Some(match opcode {
            wire::FUSE_INIT => parse_init(body)?,
            wire::FUSE_DESTROY => Self::Destroy,
            wire::FUSE_LOOKUP => Self::Lookup(text(body)?),
            wire::FUSE_GETATTR => Self::GetAttr,
            wire::FUSE_READLINK => Self::ReadLink,
            wire::FUSE_OPEN => Self::Open,
            wire::FUSE_OPENDIR => Self::OpenDir,
            wire::FUSE_RELEASE => Self::Release,
            wire::FUSE_READ => Self::Read(span(body)?),
            wire::FUSE_READDIR => Self::ReadDir(span(body)?),
            wire::FUSE_READDIRPLUS => Self::ReadDirPlus(span(body)?),
            wire::FUSE_STATFS => Self::StatFs,
            wire::FUSE_GETXATTR => {
                let (fixed, name) = fuse_getxattr_in::read_from_prefix(body).ok()?;
                Self::GetXattr {
                    name: text(name)?,
                    size: fixed.size,
                }
            }
            wire::FUSE_LISTXATTR => {
                let (fixed, _) = fuse_getxattr_in::read_from_prefix(body).ok()?;
                Self::ListXattr { size: fixed.size }
            }
            wire::FUSE_IOCTL => Self::Ioctl,
            wire::FUSE_FORGET | wire::FUSE_BATCH_FORGET | wire::FUSE_NOTIFY_REPLY => Self::Silent,
            // Answered so, the kernel interrupts no more: everything is answered soon.
            wire::FUSE_INTERRUPT => Self::Unknown,
            _ => Self::Unknown,
        })
    }
}

fn parse_init(body: &[u8]) -> Option<Operation<'_>> {
    let (version, rest) = fuse_init_in::read_from_prefix(body).ok()?;
    let mut flags = u64::from(version.flags);
    if flags & wire::FUSE_INIT_EXT != 0 {
        let (more, _) = fuse_init_in_ext::read_from_prefix(rest).ok()?;
        flags |= u64::from(more.flags2) << 32;
    }
    Some(Operation::Init { version, flags })
}

fn span(body: &[u8]) -> Option<Span> {
    let (read, _) = fuse_read_in::read_from_prefix(body).ok()?;
    Some(Span {
        offset: read.offset,
        size: read.size,
    })
}

/// What stands before the first zero, which must be there.
fn text(body: &[u8]) -> Option<&[u8]> {
    let end = body.iter().position(|&byte| byte == 0)?;
    Some(&body[..end])
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    fn message(opcode: u32, body: &[u8]) -> Vec<u8> {
        let header = fuse_in_header {
            len: u32::try_from(size_of::<fuse_in_header>() + body.len()).unwrap(),
            opcode,
            unique: 7,
            nodeid: 3,
            uid: 0,
            gid: 0,
            pid: 0,
            total_extlen: 0,
            padding: 0,
        };
        [header.as_bytes(), body].concat()
    }

    #[test]
    fn a_request_says_what_it_is_about() {
        let bytes = message(wire::FUSE_LOOKUP, b"python\0");
        let request = Request::parse(&bytes).unwrap();
        assert_eq!((request.unique, request.inode), (7, 3));
        assert!(matches!(request.operation, Operation::Lookup(b"python")));
        let body = [&512u32.to_ne_bytes()[..], &[0; 4], b"user.x\0"].concat();
        let bytes = message(wire::FUSE_GETXATTR, &body);
        let parsed = Request::parse(&bytes).unwrap().operation;
        assert!(matches!(
            parsed,
            Operation::GetXattr {
                name: b"user.x",
                size: 512
            }
        ));
    }

    #[test]
    fn what_is_not_answered_is_told_from_what_is_broken() {
        let operation = |opcode, body: &[u8]| {
            let bytes = message(opcode, body);
            let parsed = Request::parse(&bytes).unwrap();
            format!("{:?}", parsed.operation)
        };
        assert_eq!(operation(16, &[0; 40]), "Unknown");
        assert_eq!(operation(u32::MAX, b""), "Unknown");
        assert_eq!(operation(wire::FUSE_FORGET, b""), "Silent");
        assert_eq!(operation(wire::FUSE_READ, &[0; 10]), "Malformed");
        assert_eq!(operation(wire::FUSE_LOOKUP, b"no end"), "Malformed");
        assert_eq!(operation(wire::FUSE_LOOKUP, b""), "Malformed");
        assert_eq!(operation(wire::FUSE_INIT, &[0; 8]), "Malformed");
        assert_eq!(operation(wire::FUSE_GETXATTR, &[0; 8]), "Malformed");
        assert_eq!(operation(wire::FUSE_LISTXATTR, &[0; 8]), "ListXattr { size: 0 }");
        assert_eq!(operation(wire::FUSE_LISTXATTR, &[0; 7]), "Malformed");
    }

    #[test]
    fn no_message_makes_it_panic() {
        let whole = message(wire::FUSE_READ, &[0xff; 40]);
        for end in 0..whole.len() {
            let parsed = Request::parse(&whole[..end]);
            assert_eq!(parsed.is_some(), end >= size_of::<fuse_in_header>());
            assert!(parsed.is_none_or(|request| matches!(request.operation, Operation::Malformed)));
        }
        let mut state = 1u64;
        for round in 0..20_000u32 {
            let mut bytes: Vec<u8> = (0..round % 90)
                .map(|_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    state.to_be_bytes()[0]
                })
                .collect();
            if bytes.len() >= 8 {
                let len = u32::try_from(bytes.len()).unwrap();
                bytes[..4].copy_from_slice(&len.to_ne_bytes());
                bytes[4..8].copy_from_slice(&(round % 60).to_ne_bytes());
            }
            let _ = Request::parse(&bytes);
        }
    }
}
