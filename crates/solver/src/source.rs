//! One distribution of a lock that must be built: what is known of it, where its sources are, and what they are.
//!
//! Knows how sources are named (PEP 508 and PEP 610, the URLs of uv and pixi) and when two are the same; nothing of resolving,
//! of fetching or of how anything is built.

mod tree_digest;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use url::Url;

use crate::direct_url;
use crate::network::{redact, take_user, without_credentials};
use crate::pypi::{LockedWheel, normalized_name};

/// One distribution of a lock, and the sources that it is built of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockedSource {
    name: String,
    version: Option<String>,
    place: SourcePlace,
    requires_dist: Vec<String>,
    requires_python: Option<String>,
    is_requested: bool,
}

/// What is installed from PyPI: wheels, and sources that are to become wheels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distributions {
    /// The wheels.
    pub wheels: Vec<LockedWheel>,
    /// The sources.
    pub sources: Vec<LockedSource>,
}

/// One of [`Distributions`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Distribution {
    Wheel(LockedWheel),
    Source(LockedSource),
}

impl Distributions {
    /// In the order of their names.
    pub(crate) fn sorted(all: impl IntoIterator<Item = Distribution>) -> Self {
        let mut this = Self::default();
        for one in all {
            match one {
                Distribution::Wheel(wheel) => this.wheels.push(wheel),
                Distribution::Source(source) => this.sources.push(source),
            }
        }
        this.wheels.sort_by(|a, b| a.name().cmp(b.name()));
        this.sources.sort_by(|a, b| a.name().cmp(b.name()));
        this
    }
}

/// Where sources are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourcePlace {
    /// A source distribution.
    Archive {
        /// `https://`, `http://` or `file://`. May hold credentials.
        url: Url,
        /// The digest of its bytes, if it is known.
        sha256: Option<[u8; 32]>,
        /// Where in it the project is; none: at its root.
        subdirectory: Option<String>,
        /// Whether it was asked for by its place, and is of no index.
        is_direct: bool,
    },
    /// A commit of a git repository.
    Repository {
        /// Without `git+`. May hold credentials.
        url: Url,
        /// The commit, 40 digits.
        commit: String,
        /// The branch or tag that was asked for.
        requested: Option<String>,
        /// Where in it the project is; none: at its root.
        subdirectory: Option<String>,
    },
    /// A directory of this machine.
    Directory {
        /// Absolute.
        path: PathBuf,
        /// Whether the environment refers to the sources instead of holding a copy.
        is_editable: bool,
    },
}

impl LockedSource {
    /// The sources of the distribution `name` at a place.
    #[must_use]
    pub fn new(name: &str, version: Option<String>, place: SourcePlace) -> Self {
        Self {
            name: normalized_name(name),
            version,
            place,
            requires_dist: Vec::new(),
            requires_python: None,
            is_requested: false,
        }
    }

    /// With what it depends on, as PEP 508 writes it, and the Pythons it is for, as PEP 440 writes them.
    #[must_use]
    pub fn with_requirements(self, requires_dist: Vec<String>, requires_python: Option<String>) -> Self {
        Self {
            requires_dist,
            requires_python,
            ..self
        }
    }

    /// As one that was asked for, and not only needed by another (PEP 376, `REQUESTED`).
    #[must_use]
    pub fn with_requested(self, is_requested: bool) -> Self {
        Self { is_requested, ..self }
    }

    /// The source, an archive to be fetched by who asks at what `user_of` gives for its URL.
    pub(crate) fn with_user<'a>(mut self, user_of: impl Fn(&Url) -> Option<&'a Url>) -> Self {
        if let SourcePlace::Archive { url, .. } = &mut self.place
            && let Some(other) = user_of(url)
        {
            take_user(url, other);
        }
        self
    }

    /// The distribution's name, normalized (PEP 503).
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The distribution's version, where it is known before it is built.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// Where its sources are.
    #[must_use]
    pub fn place(&self) -> &SourcePlace {
        &self.place
    }

    /// Whether it is a directory, which changes under the same name.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        matches!(self.place, SourcePlace::Directory { .. })
    }

    /// The digest of its archive, where it is one and the digest is known.
    #[must_use]
    pub fn sha256(&self) -> Option<[u8; 32]> {
        match &self.place {
            SourcePlace::Archive { sha256, .. } => *sha256,
            SourcePlace::Repository { .. } | SourcePlace::Directory { .. } => None,
        }
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

    /// What is built, in one line for people.
    #[must_use]
    pub fn describe(&self) -> String {
        match &self.place {
            SourcePlace::Archive { url, .. } => format!("the source distribution {}", redact(url)),
            SourcePlace::Repository { url, commit, .. } => format!("commit {commit} of {}", redact(url)),
            SourcePlace::Directory { path, .. } => format!("the project in {}", path.display()),
        }
    }

    /// The JSON of its `direct_url.json` (PEP 610), unless it comes from an index.
    pub(crate) fn direct_url(&self) -> Option<String> {
        match &self.place {
            SourcePlace::Archive { is_direct: false, .. } => None,
            SourcePlace::Archive {
                url,
                sha256,
                subdirectory,
                ..
            } => direct_url::of_archive(url, *sha256, subdirectory.as_deref()),
            SourcePlace::Repository {
                url,
                commit,
                requested,
                subdirectory,
            } => direct_url::of_repository(url, commit, requested.as_deref(), subdirectory.as_deref()),
            SourcePlace::Directory { path, is_editable } => direct_url::of_directory(path, *is_editable),
        }
    }

    /// As a line of a requirements file, without credentials.
    pub(crate) fn line(&self) -> String {
        match (&self.place, &self.version) {
            (SourcePlace::Archive { is_direct: false, .. }, Some(version)) => format!("{}=={version}", self.name),
            (
                SourcePlace::Directory {
                    path,
                    is_editable: true,
                },
                _,
            ) => format!("-e {}", path.display()),
            _ => {
                let mut public = self.clone();
                if let SourcePlace::Archive { url, .. } | SourcePlace::Repository { url, .. } = &mut public.place {
                    *url = without_credentials(url);
                }
                public.requirement()
            }
        }
    }

    /// As the argument that uv installs it by.
    pub(crate) fn requirement(&self) -> String {
        let mut fragment = Vec::new();
        let url = match &self.place {
            SourcePlace::Archive {
                url,
                sha256,
                subdirectory,
                ..
            } => {
                fragment.extend(sha256.map(|sha256| format!("sha256={}", hex::encode(sha256))));
                fragment.extend(subdirectory.as_ref().map(|inside| format!("subdirectory={inside}")));
                url.to_string()
            }
            SourcePlace::Repository {
                url,
                commit,
                subdirectory,
                ..
            } => {
                fragment.extend(subdirectory.as_ref().map(|inside| format!("subdirectory={inside}")));
                format!("git+{url}@{commit}")
            }
            SourcePlace::Directory { path, .. } => {
                Url::from_directory_path(path).map_or_else(|()| path.display().to_string(), Into::into)
            }
        };
        let mark = if fragment.is_empty() { "" } else { "#" };
        format!("{} @ {url}{mark}{}", self.name, fragment.join("&"))
    }

    /// A text that is another one whenever something else would be built by the same Python. Of an editable project only the
    /// files that say how it is built matter.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub(crate) fn identity(&self) -> io::Result<String> {
        let inside = |subdirectory: &Option<String>| match subdirectory {
            Some(subdirectory) => format!("subdirectory {subdirectory}\n"),
            None => String::new(),
        };
        Ok(match &self.place {
            SourcePlace::Archive {
                sha256: Some(sha256),
                subdirectory,
                ..
            } => format!("archive sha256:{}\n{}", hex::encode(sha256), inside(subdirectory)),
            SourcePlace::Archive { url, subdirectory, .. } => {
                let url = without_credentials(url);
                format!("archive {url}\n{}", inside(subdirectory))
            }
            SourcePlace::Repository {
                commit, subdirectory, ..
            } => format!("commit {commit}\n{}", inside(subdirectory)),
            SourcePlace::Directory {
                path,
                is_editable: false,
            } => format!("tree {}\n", tree_digest::of_tree(path)?),
            SourcePlace::Directory {
                path,
                is_editable: true,
            } => format!(
                "editable {}\ntree {}\n",
                path.display(),
                tree_digest::of_build_files(path)?
            ),
        })
    }
}

impl fmt::Display for LockedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Some(version) => write!(f, "{} {version}", self.name),
            None => f.write_str(&self.name),
        }
    }
}

impl SourcePlace {
    /// Its URL, without credentials: fit for messages and for what is shown to others.
    #[must_use]
    pub fn redacted_url(&self) -> String {
        match self {
            Self::Archive { url, .. } => redact(url),
            Self::Repository { url, commit, .. } => format!("git+{}@{commit}", redact(url)),
            Self::Directory { path, .. } => {
                Url::from_file_path(path).map_or_else(|()| path.display().to_string(), Into::into)
            }
        }
    }

    /// A repository, from the URL that locks write: `https://host/name?rev=main&subdirectory=x#commit`, with or without `git+`.
    /// None if it names no commit.
    pub(crate) fn of_git_url(text: &str) -> Option<Self> {
        let mut url: Url = text.strip_prefix("git+").unwrap_or(text).parse().ok()?;
        let commit = url.fragment().filter(|commit| is_commit(commit))?.to_owned();
        let asked: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        let named = |names: &[&str]| {
            let found = asked.iter().find(|(name, _)| names.contains(&name.as_str()));
            found.map(|(_, value)| value.clone())
        };
        url.set_fragment(None);
        url.set_query(None);
        Some(Self::Repository {
            url,
            commit,
            requested: named(&["rev", "tag", "branch"]),
            subdirectory: named(&["subdirectory"]),
        })
    }

    /// The sources that a `direct_url.json` names (PEP 610). None if it names no directory, git repository or archive.
    pub(crate) fn of_direct_url(text: &str) -> Option<Self> {
        let json: serde_json::Value = serde_json::from_str(text).ok()?;
        let url: Url = json["url"].as_str()?.parse().ok()?;
        let text_of = |value: &serde_json::Value| value.as_str().map(str::to_owned);
        let subdirectory = text_of(&json["subdirectory"]);
        if let Some(directory) = json.get("dir_info") {
            return Some(Self::Directory {
                path: url.to_file_path().ok()?,
                is_editable: directory["editable"].as_bool().unwrap_or_default(),
            });
        }
        if let Some(repository) = json.get("vcs_info") {
            return Some(Self::Repository {
                url,
                commit: text_of(&repository["commit_id"])
                    .filter(|commit| is_commit(commit) && repository["vcs"] == "git")?,
                requested: text_of(&repository["requested_revision"]),
                subdirectory,
            });
        }
        let digits = json.get("archive_info")?["hashes"]["sha256"].as_str();
        Some(Self::Archive {
            url,
            sha256: digits.and_then(|digits| hex::decode(digits).ok()?.try_into().ok()),
            subdirectory,
            is_direct: true,
        })
    }

    /// [`SourcePlace::of_git_url`] back, with `git+` and without credentials.
    pub(crate) fn to_git_url(url: &Url, commit: &str, requested: Option<&str>, subdirectory: Option<&str>) -> Url {
        let mut url = without_credentials(url);
        if requested.is_some() || subdirectory.is_some() {
            let mut query = url.query_pairs_mut();
            query.extend_pairs(requested.map(|requested| ("rev", requested)));
            query.extend_pairs(subdirectory.map(|inside| ("subdirectory", inside)));
        }
        url.set_fragment(Some(commit));
        format!("git+{url}").parse().unwrap_or(url)
    }

    /// A directory, whose path may be relative to another one.
    pub(crate) fn of_directory(path: &Path, beside: &Path, is_editable: bool) -> Self {
        let joined = beside.join(path);
        let whole = std::path::absolute(&joined).unwrap_or(joined);
        Self::Directory {
            path: normal(&whole),
            is_editable,
        }
    }
}

fn is_commit(text: &str) -> bool {
    text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The path without `.` and `..`.
pub(crate) fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::ParentDir => drop(normal.pop()),
            std::path::Component::CurDir => {}
            component => normal.push(component),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "95c084960b00833f6d008202445f89258a785f3b";

    #[test]
    fn a_repository_is_read_as_it_is_written() {
        let text = format!("git+https://u:p@h/a/b.git?rev=main&subdirectory=x%2Fy#{COMMIT}");
        let place = SourcePlace::of_git_url(&text).unwrap();
        let source = LockedSource::new("A_b", None, place);
        assert_eq!(
            source.requirement(),
            format!("a-b @ git+https://u:p@h/a/b.git@{COMMIT}#subdirectory=x/y")
        );
        let SourcePlace::Repository {
            url,
            commit,
            requested,
            subdirectory,
        } = source.place()
        else {
            panic!("{source:?}")
        };
        let written = SourcePlace::to_git_url(url, commit, requested.as_deref(), subdirectory.as_deref());
        assert!(!written.as_str().contains("u:p"), "{written}");
        let read = SourcePlace::of_git_url(&written.as_str().replace("https://h", "https://u:p@h")).unwrap();
        assert_eq!(&read, source.place());
        assert_eq!(SourcePlace::of_git_url("https://h/a?rev=main#main"), None);
    }

    #[test]
    fn where_a_distribution_came_from_is_read_as_it_is_written() {
        let url: Url = "https://h/x-1.tar.gz".parse().unwrap();
        let archive = SourcePlace::Archive {
            url,
            sha256: Some([7; 32]),
            subdirectory: Some("in".to_owned()),
            is_direct: true,
        };
        let git = format!("https://h/a.git?rev=main#{COMMIT}");
        for place in [
            archive,
            SourcePlace::of_git_url(&git).unwrap(),
            SourcePlace::of_directory("a b".as_ref(), "/p".as_ref(), true),
            SourcePlace::of_directory("c".as_ref(), "/p".as_ref(), false),
        ] {
            let source = LockedSource::new("x", None, place.clone());
            assert_eq!(SourcePlace::of_direct_url(&source.direct_url().unwrap()), Some(place));
        }
        for text in [
            "",
            "{}",
            r#"{"url":"x"}"#,
            r#"{"url":"https://h/x","vcs_info":{"vcs":"hg","commit_id":"1"}}"#,
        ] {
            assert_eq!(SourcePlace::of_direct_url(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_built_depends_on_the_sources_and_not_on_where_they_are() {
        let archive = |url: &str, sha256: [u8; 32]| {
            let place = SourcePlace::Archive {
                url: url.parse().unwrap(),
                sha256: Some(sha256),
                subdirectory: None,
                is_direct: false,
            };
            LockedSource::new("x", Some("1".to_owned()), place).identity().unwrap()
        };
        assert_eq!(
            archive("https://a/x-1.tar.gz", [1; 32]),
            archive("file:///x.zip", [1; 32])
        );
        assert_ne!(
            archive("https://a/x-1.tar.gz", [1; 32]),
            archive("https://a/x-1.tar.gz", [2; 32])
        );
    }

    #[test]
    fn paths_are_absolute_and_plain() {
        let place = SourcePlace::of_directory(Path::new("../lib/./x"), Path::new("/p/app"), true);
        let expected = SourcePlace::Directory {
            path: "/p/lib/x".into(),
            is_editable: true,
        };
        assert_eq!(place, expected);
    }
}
