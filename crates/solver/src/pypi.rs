//! One wheel of a lock: what is known of it and where it lies.
//!
//! Knows how wheels are named (PEP 427, the binary distribution format; PEP 503, names) and nothing of resolving, fetching or
//! what is inside of one.

use std::fmt;
use std::path::Path;

use url::Url;

use crate::package::PackageError;

/// One distribution of a lock with its exact wheel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockedWheel {
    url: Url,
    file_name: WheelFileName,
    sha256: Option<[u8; 32]>,
    size_bytes: Option<u64>,
    requires_dist: Vec<String>,
    requires_python: Option<String>,
    is_requested: bool,
    direct_url: Option<String>,
}

/// The name of a wheel, taken apart: `name-version(-build)?-python-abi-platform.whl`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WheelFileName {
    whole: String,
    name: String,
    version: String,
    build: Option<String>,
    python: String,
    abi: String,
    platform: String,
}

/// Why something is not the wheel of a lock.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WheelNameError {
    /// Not the name of a wheel.
    #[error(
        "`{file_name}` is not the name of a wheel: it must read name-version-python-abi-platform.whl; build a wheel of a \
         source distribution first"
    )]
    NotAWheel {
        /// What was to be one.
        file_name: String,
    },
    /// Not a place.
    #[error("`{url}` is neither a URL nor an absolute path: write https://, file:// or an absolute path")]
    NotAPlace {
        /// What was to be one.
        url: String,
    },
}

/// A distribution's name as PEP 503 writes it: lower case, with one `-` for every run of `-`, `_` and `.`.
#[must_use]
pub fn normalized_name(name: &str) -> String {
    let mut normalized = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if normalized.ends_with('-') => {}
            '-' | '_' | '.' => normalized.push('-'),
            c => normalized.push(c.to_ascii_lowercase()),
        }
    }
    normalized
}

/// The wheels in the order in which they are linked, which is that of their names.
///
/// # Errors
/// Two wheels are of the same distribution: an environment holds one of each.
pub fn wheel_order(mut wheels: Vec<LockedWheel>) -> Result<Vec<LockedWheel>, PackageError> {
    wheels.sort_by(|left, right| left.name().cmp(right.name()));
    match wheels.windows(2).find(|pair| pair[0].name() == pair[1].name()) {
        Some(pair) => Err(PackageError::SameName {
            name: pair[0].name().to_owned(),
            urls: format!("{} and {}", pair[0].redacted_url(), pair[1].redacted_url()),
        }),
        None => Ok(wheels),
    }
}

impl LockedWheel {
    /// The wheel at a URL (`https://`, `http://` or `file://`) or at an absolute path. The name is taken from the last part,
    /// a fragment is dropped.
    ///
    /// # Errors
    /// It is no URL, or its last part is not the name of a wheel.
    pub fn new(url: &str) -> Result<Self, WheelNameError> {
        let mut place = match Url::parse(url) {
            Ok(place) => place,
            Err(_) => {
                Url::from_file_path(Path::new(url)).map_err(|()| WheelNameError::NotAPlace { url: url.to_owned() })?
            }
        };
        place.set_fragment(None);
        let last = place.path_segments().and_then(Iterator::last).unwrap_or_default();
        let file_name = percent_encoding::percent_decode_str(last).decode_utf8_lossy();
        Ok(Self {
            file_name: WheelFileName::parse(&file_name)?,
            url: place,
            sha256: None,
            size_bytes: None,
            requires_dist: Vec::new(),
            requires_python: None,
            is_requested: false,
            direct_url: None,
        })
    }

    /// The wheel under another name than the last part of its URL.
    #[must_use]
    pub fn with_file_name(self, file_name: WheelFileName) -> Self {
        Self { file_name, ..self }
    }

    /// The wheel with the digest of its bytes.
    #[must_use]
    pub fn with_sha256(self, sha256: [u8; 32]) -> Self {
        Self {
            sha256: Some(sha256),
            ..self
        }
    }

    /// The wheel with the number of its bytes.
    #[must_use]
    pub fn with_size_bytes(self, size_bytes: u64) -> Self {
        Self {
            size_bytes: Some(size_bytes),
            ..self
        }
    }

    /// The wheel with what it depends on, as PEP 508 writes it, and the Pythons it is for, as PEP 440 writes them.
    #[must_use]
    pub fn with_requirements(self, requires_dist: Vec<String>, requires_python: Option<String>) -> Self {
        Self {
            requires_dist,
            requires_python,
            ..self
        }
    }

    /// The wheel as one that was asked for, and not only needed by another (PEP 376, `REQUESTED`).
    #[must_use]
    pub fn with_requested(self, is_requested: bool) -> Self {
        Self { is_requested, ..self }
    }

    /// The wheel with the JSON of its `direct_url.json` (PEP 610), for what does not come from an index.
    #[must_use]
    pub fn with_direct_url(self, direct_url: Option<String>) -> Self {
        Self { direct_url, ..self }
    }

    /// The wheel, to be fetched by who asks at `other`.
    pub(crate) fn with_user_of(mut self, other: &Url) -> Self {
        crate::network::take_user(&mut self.url, other);
        self
    }

    /// The distribution's name, normalized (PEP 503).
    #[must_use]
    pub fn name(&self) -> &str {
        &self.file_name.name
    }

    /// The distribution's version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.file_name.version
    }

    /// As a line of a requirements file, without credentials.
    pub(crate) fn line(&self) -> String {
        match self.direct_url() {
            Some(_) => format!("{} @ {}", self.name(), crate::network::without_credentials(&self.url)),
            None => format!("{}=={}", self.name(), self.version()),
        }
    }

    /// Where the wheel lies: `https://`, `http://` or `file://`. May hold credentials.
    #[must_use]
    pub fn url(&self) -> &str {
        self.url.as_str()
    }

    /// The URL without user, password and access token: fit for messages and for what is shown to others.
    #[must_use]
    pub fn redacted_url(&self) -> String {
        crate::network::redact(&self.url)
    }

    /// The wheel's file name.
    #[must_use]
    pub fn file_name(&self) -> &WheelFileName {
        &self.file_name
    }

    /// SHA-256 of the wheel.
    #[must_use]
    pub fn sha256(&self) -> Option<[u8; 32]> {
        self.sha256
    }

    /// Size of the wheel.
    #[must_use]
    pub fn size_bytes(&self) -> Option<u64> {
        self.size_bytes
    }

    /// What it depends on, as PEP 508 writes it.
    #[must_use]
    pub fn requires_dist(&self) -> &[String] {
        &self.requires_dist
    }

    /// The Pythons it is for, as PEP 440 writes them.
    #[must_use]
    pub fn requires_python(&self) -> Option<&str> {
        self.requires_python.as_deref()
    }

    /// Whether it was asked for, and not only needed by another.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.is_requested
    }

    /// The JSON of its `direct_url.json` (PEP 610), for what does not come from an index.
    #[must_use]
    pub fn direct_url(&self) -> Option<&str> {
        self.direct_url.as_deref()
    }

    pub(crate) fn parsed_url(&self) -> &Url {
        &self.url
    }
}

impl WheelFileName {
    /// Takes a file name apart.
    ///
    /// # Errors
    /// It is not the name of a wheel.
    pub fn parse(file_name: &str) -> Result<Self, WheelNameError> {
        Self::read(file_name).ok_or_else(|| WheelNameError::NotAWheel {
            file_name: file_name.to_owned(),
        })
    }

    /// The distribution's name, normalized (PEP 503).
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The distribution's version. What a file name writes as `_` was a `-`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The build tag, which starts with a digit.
    #[must_use]
    pub fn build(&self) -> Option<&str> {
        self.build.as_deref()
    }

    /// The Python tags (`py2.py3` are two).
    pub fn pythons(&self) -> impl Iterator<Item = &str> {
        self.python.split('.')
    }

    /// The ABI tags.
    pub fn abis(&self) -> impl Iterator<Item = &str> {
        self.abi.split('.')
    }

    /// The platform tags.
    pub fn platforms(&self) -> impl Iterator<Item = &str> {
        self.platform.split('.')
    }

    /// What tells this wheel from others of the same version: `py3-none-any`, with the build tag before it if there is one.
    #[must_use]
    pub fn tag(&self) -> String {
        let tag = format!("{}-{}-{}", self.python, self.abi, self.platform);
        match &self.build {
            Some(build) => format!("{build}-{tag}"),
            None => tag,
        }
    }

    fn read(whole: &str) -> Option<Self> {
        let parts: Vec<&str> = whole.strip_suffix(".whl")?.split('-').collect();
        let (name, version, build, tags) = match *parts.as_slice() {
            [name, version, python, abi, platform] => (name, version, None, [python, abi, platform]),
            [name, version, build, python, abi, platform] => (name, version, Some(build), [python, abi, platform]),
            _ => return None,
        };
        let is_named = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || "._+!".contains(c));
        let is_build = build.is_none_or(|build| build.starts_with(|c: char| c.is_ascii_digit()));
        if !parts.iter().all(|part| is_named(part)) || !is_build {
            return None;
        }
        Some(Self {
            whole: whole.to_owned(),
            name: normalized_name(name),
            version: version.replace('_', "-"),
            build: build.map(str::to_owned),
            python: tags[0].to_owned(),
            abi: tags[1].to_owned(),
            platform: tags[2].to_owned(),
        })
    }
}

impl fmt::Display for WheelFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.whole)
    }
}

impl fmt::Display for LockedWheel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name(), self.version())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let name = WheelFileName::parse("Foo.Bar-1.0+cu12_1-2a-py2.py3-none-any.whl").unwrap();
        assert_eq!(
            (name.name(), name.version(), name.build()),
            ("foo-bar", "1.0+cu12-1", Some("2a"))
        );
        assert_eq!(name.pythons().collect::<Vec<_>>(), ["py2", "py3"]);
        assert_eq!(name.tag(), "2a-py2.py3-none-any");
        for bad in [
            "x-1.tar.gz",
            "x-1-py3-none.whl",
            "x-1-b-py3-none-any.whl",
            "x--py3-none-any.whl",
            "../x-1-py3-none-any.whl",
        ] {
            assert!(WheelFileName::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_place_is_a_url_or_a_path() {
        let wheel =
            LockedWheel::new("https://u:p@host/a/torch-2.0%2Bcpu-cp311-cp311-linux_x86_64.whl#sha256=ab").unwrap();
        assert_eq!((wheel.name(), wheel.version()), ("torch", "2.0+cpu"));
        assert!(!wheel.redacted_url().contains("u:p"), "{}", wheel.redacted_url());
        assert!(wheel.url().ends_with(".whl"));
        assert_eq!(
            LockedWheel::new("/a b/x-1-py3-none-any.whl").unwrap().url(),
            "file:///a%20b/x-1-py3-none-any.whl"
        );
        assert!(LockedWheel::new("x-1-py3-none-any.whl").is_err());
    }

    #[test]
    fn runs_of_separators_are_one_dash() {
        assert_eq!(normalized_name("Foo__Bar.-baz"), "foo-bar-baz");
    }
}
