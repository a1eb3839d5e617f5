//! Names of files inside an environment: relative, normal, bounded. Parsed once at the door.

use std::fmt;

/// The longest name of a file, in bytes (`NAME_MAX` of Linux).
pub const MAX_NAME_BYTES: usize = 255;

/// The longest path inside an environment, in bytes. With the mount path before it, it must stay below
/// `PATH_MAX` (4,096 bytes).
pub const MAX_PATH_BYTES: usize = 3072;

/// The path of a file inside an environment: one or more names joined by `/`, none of them empty, `.` or `..`,
/// none longer than [`MAX_NAME_BYTES`], no NUL. Ordered by its names, so that a directory's entries are
/// neighbours.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct EnvPath(Vec<u8>);

/// A path that no environment may hold.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the path `{path}` {reason}")]
pub struct InvalidPath {
    /// The path, with what is not UTF-8 replaced.
    pub path: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl EnvPath {
    /// Checks a path as it stands in an archive. One leading `./` is taken off.
    ///
    /// # Errors
    /// When the path is empty, absolute, too long, holds NUL, or has an empty, `.` or `..` component.
    pub fn parse(bytes: impl AsRef<[u8]>) -> Result<Self, InvalidPath> {
        let whole = bytes.as_ref();
        let bytes = whole.strip_prefix(b"./").unwrap_or(whole);
        let refuse = |reason| {
            Err(InvalidPath {
                path: String::from_utf8_lossy(whole).into_owned(),
                reason,
            })
        };
        if bytes.is_empty() {
            return refuse("is empty");
        }
        if bytes[0] == b'/' {
            return refuse("is absolute; archives hold relative paths only");
        }
        if bytes.len() > MAX_PATH_BYTES {
            return refuse("is longer than 3072 bytes");
        }
        for name in bytes.split(|&byte| byte == b'/') {
            if let Err(reason) = check_name(name) {
                return refuse(reason);
            }
        }
        Ok(Self(bytes.to_owned()))
    }

    /// The bytes of the path.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Its names, outermost first.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&byte| byte == b'/')
    }

    /// The path one level up, or none at the top.
    #[must_use]
    pub fn parent(&self) -> Option<EnvPath> {
        let slash = self.0.iter().rposition(|&byte| byte == b'/')?;
        Some(Self(self.0[..slash].to_owned()))
    }

    /// Whether it lies below `directory`, at any depth.
    #[must_use]
    pub fn is_below(&self, directory: &EnvPath) -> bool {
        self.0
            .strip_prefix(directory.0.as_slice())
            .is_some_and(|rest| rest.starts_with(b"/"))
    }
}

/// Whether `name` may be the name of a file.
///
/// # Errors
/// Says what is wrong with it.
pub fn check_name(name: &[u8]) -> Result<(), &'static str> {
    match name {
        b"" => Err("has an empty component"),
        b"." => Err("has a `.` component"),
        b".." => Err("has a `..` component and could leave the environment"),
        _ if name.len() > MAX_NAME_BYTES => Err("has a component longer than 255 bytes"),
        _ if name.contains(&0) => Err("holds a NUL byte"),
        _ => Ok(()),
    }
}

impl Ord for EnvPath {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.names().cmp(other.names())
    }
}

impl PartialOrd for EnvPath {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for EnvPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for EnvPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_leave_is_refused() {
        for bad in ["", "/etc/passwd", "a/../b", "..", "a//b", "a/.", "a/", "a\0b", "./"] {
            assert!(EnvPath::parse(bad).is_err(), "{bad:?}");
        }
        assert!(EnvPath::parse(vec![b'x'; 256]).is_err());
        assert_eq!(EnvPath::parse("./lib/a b").unwrap().as_bytes(), b"lib/a b");
    }

    #[test]
    fn what_lies_below_has_more_names() {
        let path = |text: &str| EnvPath::parse(text).unwrap();
        assert!(path("a/b/c").is_below(&path("a")) && path("a/b/c").is_below(&path("a/b")));
        assert!(!path("a-b/c").is_below(&path("a")) && !path("a").is_below(&path("a")));
    }

    #[test]
    fn order_is_by_names_not_by_bytes() {
        let mut paths: Vec<_> = ["a-b", "a/b", "a"].map(|text| EnvPath::parse(text).unwrap()).into();
        paths.sort();
        assert_eq!(
            paths.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["a", "a/b", "a-b"]
        );
    }
}
