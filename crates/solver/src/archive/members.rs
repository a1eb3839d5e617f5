//! The members of a tar, one after the other, with as little memory as a header takes.
//!
//! Tars were extended three times, and readers disagree about what counts where the extensions do. Here it is POSIX.1-2017
//! (pax): what an extended header says stands above the plain one; GNU's long names are read as well. Where two readers could
//! see two archives (two names of one member, two sizes, content behind a link, an extension that nobody follows), the tar
//! is refused. Fields of plain headers are read by the crate `tar`. Knows nothing of packages.

use std::collections::VecDeque;
use std::io::{self, Read};

use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

/// Headers and content start at multiples of this.
const BLOCK_BYTES: u64 = 512;

/// No extension (a long name, an extended header) is longer: names have some hundred bytes, and attributes at most 64 KiB.
const MAX_EXTENSION_BYTES: u64 = 1 << 20;

/// A plain header holds sizes below this in octal digits (8 GiB).
const MAX_OCTAL_SIZE_BYTES: u64 = (1 << 33) - 1;

/// No sparse file has more pieces.
const MAX_PIECES: usize = 1 << 16;

/// Why a tar cannot be read.
#[derive(Debug)]
pub(super) enum TarError {
    /// It cannot be read at all.
    Unreadable(io::Error),
    /// Says what is wrong with it, after "its tar".
    Malformed(String),
}

type Result<T> = std::result::Result<T, TarError>;

impl From<io::Error> for TarError {
    fn from(error: io::Error) -> Self {
        Self::Unreadable(error)
    }
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) kind: EntryType,
    pub(super) path: Vec<u8>,
    /// Where a link leads; empty where nothing is said.
    pub(super) link: Vec<u8>,
    /// Of the content.
    pub(super) size_bytes: u64,
    /// How much of it is zeros that are not in the tar.
    pub(super) hole_bytes: u64,
    pub(super) mode: u32,
    /// As the plain header has it, in seconds since 1970.
    pub(super) rounded_mtime_s: u64,
    /// The whole seconds of the time that an extended header tells ("mtime" of pax).
    ///
    /// Writers that know fractions of a second round them in the plain header, as Python's `tarfile` does. Bytecode was
    /// compiled against the time before the point: a file that is a second younger makes it stale.
    pub(super) exact_mtime_s: Option<i64>,
}

/// The members of a tar.
pub(super) struct Members<R> {
    input: R,
    /// What is left of the content of the last member.
    pieces: VecDeque<Piece>,
    /// What follows its content up to the next header.
    padding_bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    Data(u64),
    /// So many zeros that are not in the tar.
    Hole(u64),
}

/// What stands before a member and belongs to it.
#[derive(Debug, Default)]
struct Extensions {
    gnu_path: Option<Vec<u8>>,
    gnu_link: Option<Vec<u8>>,
    pax: Option<Pax>,
}

/// What counts of an extended header.
#[derive(Debug, Default, PartialEq, Eq)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size_bytes: Option<u64>,
    mtime_s: Option<i64>,
}

impl<R: Read> Members<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            pieces: VecDeque::new(),
            padding_bytes: 0,
        }
    }

    /// The next member, or none at the end, after which only zeros may follow. What was not read of the one before is passed
    /// over.
    pub(super) fn next(&mut self) -> Result<Option<Member>> {
        // A hole has no bytes in the archive, and may be longer than anybody lives.
        self.pieces.retain(|piece| matches!(piece, Piece::Data(_)));
        io::copy(&mut *self, &mut io::sink())?;
        let mut extensions = Extensions::default();
        let mut is_extended = false;
        loop {
            self.skip_padding()?;
            let Some(header) = self.header()? else {
                if is_extended {
                    return malformed("ends with a name or attributes that belong to nothing");
                }
                self.check_end()?;
                return Ok(None);
            };
            if !self.take_extension(&header, &mut extensions)? {
                return self.member(&header, extensions).map(Some);
            }
            is_extended |= header.entry_type() != EntryType::XGlobalHeader;
        }
    }

    /// The next header that is not the end.
    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        let block = header.as_mut_bytes();
        let len = read_full(&mut self.input, block)?;
        if len == 0 || block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        if len < block.len() {
            return malformed("is cut off in a header");
        }
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(at, &byte)| if (148..156).contains(&at) { 32 } else { u32::from(byte) })
            .sum();
        match header.cksum() {
            Ok(said) if said == sum => Ok(Some(header)),
            _ => malformed("has a header whose sum is wrong; it is no tar, or damaged"),
        }
    }

    /// Reads an extension, if this header is of one.
    fn take_extension(&mut self, header: &Header, extensions: &mut Extensions) -> Result<bool> {
        let kind = header.entry_type();
        let is_twice = match kind {
            EntryType::GNULongName => extensions.gnu_path.is_some(),
            EntryType::GNULongLink => extensions.gnu_link.is_some(),
            EntryType::XHeader => extensions.pax.is_some(),
            EntryType::XGlobalHeader => false,
            _ => return Ok(false),
        };
        if is_twice {
            return malformed("says twice what one member is called, or how it is");
        }
        let size_bytes = size_of(header)?;
        if size_bytes > MAX_EXTENSION_BYTES {
            return malformed(format!(
                "has a name or attributes of {size_bytes} bytes; {MAX_EXTENSION_BYTES} are the most"
            ));
        }
        let mut content = Vec::new();
        (&mut self.input).take(size_bytes).read_to_end(&mut content)?;
        if content.len() as u64 != size_bytes {
            return malformed("is cut off in a name");
        }
        self.padding_bytes = padding_of(size_bytes);
        match kind {
            EntryType::GNULongName => extensions.gnu_path = Some(without_nul(content)),
            EntryType::GNULongLink => extensions.gnu_link = Some(without_nul(content)),
            EntryType::XHeader => extensions.pax = Some(Pax::parse(&content)?),
            _ if Pax::parse(&content)?.is_plain() => {}
            _ => return malformed("says for all members what they are called, or how large they are"),
        }
        Ok(true)
    }

    /// A member, whose content is read next.
    fn member(&mut self, header: &Header, extensions: Extensions) -> Result<Member> {
        let pax = extensions.pax.unwrap_or_default();
        let named = |pax: Option<Vec<u8>>, gnu: Option<Vec<u8>>, plain: Vec<u8>| match (pax, gnu) {
            (Some(pax), Some(gnu)) if pax != gnu => malformed(format!(
                "calls one member `{}` and `{}`",
                String::from_utf8_lossy(&pax),
                String::from_utf8_lossy(&gnu)
            )),
            (pax, gnu) => Ok(pax.or(gnu).unwrap_or(plain)),
        };
        let mut path = named(pax.path, extensions.gnu_path, header.path_bytes().into_owned())?;
        let plain_link = header.link_name_bytes().unwrap_or_default().into_owned();
        let link = named(pax.link, extensions.gnu_link, plain_link)?;
        let mut kind = header.entry_type();
        if path.ends_with(b"/") {
            // The oldest tars know directories only by their names.
            if header.as_bytes()[156] == 0 {
                kind = EntryType::Directory;
            }
            if !matches!(kind, EntryType::Directory) && path != b"./" {
                return malformed(format!(
                    "calls what is no directory `{}`",
                    String::from_utf8_lossy(&path)
                ));
            }
            path.pop();
        }
        let in_tar_bytes = agreed_size(header, pax.size_bytes)?;
        let has_content = matches!(kind, EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse);
        if !has_content && in_tar_bytes > 0 {
            return malformed(format!(
                "has {in_tar_bytes} bytes of content for `{}`, which is no plain file",
                String::from_utf8_lossy(&path)
            ));
        }
        self.pieces = match kind {
            EntryType::GNUSparse => self.sparse(header, in_tar_bytes)?,
            _ => [Piece::Data(in_tar_bytes)].into(),
        };
        self.padding_bytes = padding_of(in_tar_bytes);
        let size_bytes = self.left_bytes();
        Ok(Member {
            kind,
            path,
            link,
            size_bytes,
            hole_bytes: size_bytes - in_tar_bytes,
            mode: header.mode()?,
            rounded_mtime_s: header.mtime()?,
            exact_mtime_s: pax.mtime_s,
        })
    }

    /// The pieces of a file with holes, as GNU tar and those who follow it store them.
    fn sparse(&mut self, header: &Header, in_tar_bytes: u64) -> Result<VecDeque<Piece>> {
        let wrong = || TarError::Malformed("has a file with holes that do not fit".to_owned());
        let gnu = header.as_gnu().ok_or_else(wrong)?;
        let mut pieces = Pieces::default();
        gnu.sparse.iter().try_for_each(|piece| pieces.add(piece))?;
        let mut is_extended = gnu.is_extended();
        while is_extended {
            let mut more = GnuExtSparseHeader::new();
            if read_full(&mut self.input, more.as_mut_bytes())? < 512 {
                return malformed("is cut off in a header");
            }
            more.sparse().iter().try_for_each(|piece| pieces.add(piece))?;
            is_extended = more.is_extended();
        }
        let real_bytes = gnu.real_size()?;
        let hole_bytes = real_bytes.checked_sub(pieces.end_bytes).ok_or_else(wrong)?;
        pieces.list.push_back(Piece::Hole(hole_bytes));
        match pieces.data_bytes == in_tar_bytes {
            true => Ok(pieces.list),
            false => Err(wrong()),
        }
    }

    fn left_bytes(&self) -> u64 {
        let pieces = self.pieces.iter().map(|piece| match piece {
            Piece::Data(bytes) | Piece::Hole(bytes) => *bytes,
        });
        pieces.fold(0, u64::saturating_add)
    }

    fn skip_padding(&mut self) -> Result<()> {
        let mut padding = [0; 512];
        let padding = &mut padding[..usize::try_from(std::mem::take(&mut self.padding_bytes)).unwrap_or(0)];
        match read_full(&mut self.input, padding)? == padding.len() {
            true => Ok(()),
            false => malformed("is cut off behind a file"),
        }
    }

    /// Tars are filled up with zeros; what else comes behind the end is read by some.
    fn check_end(&mut self) -> Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let len = read_full(&mut self.input, &mut buffer)?;
            if len == 0 {
                return Ok(());
            }
            if buffer[..len].iter().any(|&byte| byte != 0) {
                return malformed("goes on behind its end");
            }
        }
    }
}

/// The content of the last member.
impl<R: Read> Read for Members<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while let Some(piece) = self.pieces.front_mut() {
            let (Piece::Data(left) | Piece::Hole(left)) = piece;
            if *left == 0 {
                self.pieces.pop_front();
                continue;
            }
            let most = usize::try_from(*left).map_or(into.len(), |left| left.min(into.len()));
            let into = &mut into[..most];
            let len = match piece {
                Piece::Data(_) => self.input.read(into)?,
                Piece::Hole(_) => {
                    into.fill(0);
                    most
                }
            };
            if len == 0 && most > 0 {
                let error = "the tar is cut off in a file";
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, error));
            }
            let (Piece::Data(left) | Piece::Hole(left)) = piece;
            *left -= len as u64;
            return Ok(len);
        }
        Ok(0)
    }
}

/// The pieces of a file with holes, while they are read.
#[derive(Default)]
struct Pieces {
    list: VecDeque<Piece>,
    end_bytes: u64,
    data_bytes: u64,
}

impl Pieces {
    fn add(&mut self, piece: &GnuSparseHeader) -> Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        let (offset, len) = (piece.offset()?, piece.length()?);
        let end = offset.checked_add(len);
        let hole_bytes = offset.checked_sub(self.end_bytes);
        // Each piece but the last fills its blocks, so that none needs to be padded.
        let is_aligned = len == 0 || self.data_bytes.is_multiple_of(BLOCK_BYTES);
        match (hole_bytes, end) {
            (Some(hole_bytes), Some(end)) if is_aligned && self.list.len() < MAX_PIECES => {
                self.list.extend([Piece::Hole(hole_bytes), Piece::Data(len)]);
                self.end_bytes = end;
                self.data_bytes = self.data_bytes.saturating_add(len);
                Ok(())
            }
            _ => malformed("has a file with holes that do not fit"),
        }
    }
}

impl Pax {
    /// Reads the records of an extended header: each is its own length, a space, a key, `=`, a value and a newline.
    fn parse(mut text: &[u8]) -> Result<Self> {
        let mut pax = Self::default();
        while !text.is_empty() {
            let (key, value, rest) = record(text).ok_or_else(|| {
                TarError::Malformed("has attributes that are cut off or not as long as they say".into())
            })?;
            text = rest;
            let is_twice = match key {
                b"path" => pax.path.replace(value.to_owned()).is_some_and(|path| path != value),
                b"linkpath" => pax.link.replace(value.to_owned()).is_some_and(|link| link != value),
                b"size" => {
                    let size_bytes = digits(value).ok_or_else(|| {
                        TarError::Malformed(format!("has the size `{}`", String::from_utf8_lossy(value)))
                    })?;
                    pax.size_bytes
                        .replace(size_bytes)
                        .is_some_and(|size| size != size_bytes)
                }
                b"mtime" => {
                    pax.mtime_s = whole_seconds(value);
                    false
                }
                _ if key.starts_with(b"GNU.sparse.") => {
                    return malformed(
                        "holds a file with holes in a form that is not read (GNU.sparse): pack it without `--sparse`",
                    );
                }
                _ => false,
            };
            if is_twice {
                let key = String::from_utf8_lossy(key);
                return malformed(format!("says the {key} of one member twice, and not alike"));
            }
        }
        Ok(pax)
    }

    /// Whether it may hold for all members: it changes neither what they are called nor how large they are.
    fn is_plain(&self) -> bool {
        self.path.is_none() && self.link.is_none() && self.size_bytes.is_none()
    }
}

/// The first record of an extended header, and what follows it.
fn record(text: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = text.iter().position(|&byte| byte == b' ')?;
    let len = usize::try_from(digits(&text[..space])?).ok()?;
    let (record, rest) = text.split_at_checked(len)?;
    let record = record.get(space + 1..)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|&byte| byte == b'=')?;
    Some((&record[..equals], &record[equals + 1..], rest))
}

fn digits(text: &[u8]) -> Option<u64> {
    let are_digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    are_digits.then(|| std::str::from_utf8(text).ok()?.parse().ok())?
}

fn whole_seconds(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.split('.').next()?.parse().ok()
}

/// The size that both headers tell. A plain one that is too small for it says zero, or all it can.
fn agreed_size(header: &Header, pax_bytes: Option<u64>) -> Result<u64> {
    let plain_bytes = size_of(header)?;
    match pax_bytes {
        Some(pax_bytes) if ![0, MAX_OCTAL_SIZE_BYTES, pax_bytes].contains(&plain_bytes) => malformed(format!(
            "says that `{}` has {plain_bytes} bytes and that it has {pax_bytes}",
            String::from_utf8_lossy(&header.path_bytes())
        )),
        Some(pax_bytes) => Ok(pax_bytes),
        None => Ok(plain_bytes),
    }
}

/// What a plain header says; the binary form has room for more than anything has.
fn size_of(header: &Header) -> Result<u64> {
    let field = header.as_old().size;
    let is_binary = field[0] & 0x80 != 0;
    match header.entry_size() {
        Ok(size_bytes) if !is_binary || (field[0] == 0x80 && field[1..4] == [0; 3]) => Ok(size_bytes),
        _ => malformed(format!(
            "has no size for `{}`",
            String::from_utf8_lossy(&header.path_bytes())
        )),
    }
}

fn padding_of(size_bytes: u64) -> u64 {
    size_bytes.wrapping_neg() % BLOCK_BYTES
}

fn without_nul(mut name: Vec<u8>) -> Vec<u8> {
    if name.last() == Some(&0) {
        name.pop();
    }
    name
}

/// Reads until `into` is full or nothing comes any more, and says how much came.
fn read_full(input: &mut impl Read, into: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < into.len() {
        match input.read(&mut into[len..]) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

fn malformed<T>(what: impl Into<String>) -> Result<T> {
    Err(TarError::Malformed(what.into()))
}
