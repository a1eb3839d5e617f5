//! `direct_url.json` ([PEP 610](https://peps.python.org/pep-0610/)): where a distribution came from that is of no index.
//!
//! A text with its keys in one order, because its bytes become a file of an environment. Knows nothing else.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use url::Url;

#[derive(Serialize)]
struct DirectUrl<'a> {
    url: &'a str,
    #[serde(flatten)]
    info: Info<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subdirectory: Option<&'a str>,
}

#[derive(Serialize)]
enum Info<'a> {
    #[serde(rename = "archive_info")]
    Archive {
        #[serde(skip_serializing_if = "Option::is_none")]
        hash: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        hashes: Option<BTreeMap<&'static str, String>>,
    },
    #[serde(rename = "vcs_info")]
    Repository {
        vcs: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        requested_revision: Option<&'a str>,
        commit_id: &'a str,
    },
    #[serde(rename = "dir_info")]
    Directory {
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        editable: bool,
    },
}

/// The text for an archive at a URL, without credentials and without a fragment.
pub(crate) fn of_archive(url: &Url, sha256: Option<[u8; 32]>, subdirectory: Option<&str>) -> Option<String> {
    let digits = sha256.map(hex::encode);
    let info = Info::Archive {
        hash: digits.as_ref().map(|digits| format!("sha256={digits}")),
        hashes: digits.map(|digits| BTreeMap::from([("sha256", digits)])),
    };
    text(url, info, subdirectory)
}

/// The text for a commit of a git repository.
pub(crate) fn of_repository(
    url: &Url,
    commit: &str,
    requested: Option<&str>,
    subdirectory: Option<&str>,
) -> Option<String> {
    let info = Info::Repository {
        vcs: "git",
        requested_revision: requested,
        commit_id: commit,
    };
    text(url, info, subdirectory)
}

/// The text for a directory of this machine.
pub(crate) fn of_directory(path: &Path, is_editable: bool) -> Option<String> {
    let url = Url::from_file_path(path).ok()?;
    text(&url, Info::Directory { editable: is_editable }, None)
}

fn text(url: &Url, info: Info<'_>, subdirectory: Option<&str>) -> Option<String> {
    let mut url = crate::network::without_credentials(url);
    url.set_fragment(None);
    let direct_url = DirectUrl {
        url: url.as_str(),
        info,
        subdirectory,
    };
    serde_json::to_string(&direct_url).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_where_and_what_but_not_who() {
        let url = "https://u:p@h/x-1-py3-none-any.whl#sha256=00".parse().unwrap();
        let expected = r#"{"url":"https://h/x-1-py3-none-any.whl","archive_info":{}}"#;
        assert_eq!(of_archive(&url, None, None).as_deref(), Some(expected));
        let text = of_archive(&url, Some([0xab; 32]), None).unwrap();
        let digits = "ab".repeat(32);
        let info = format!(r#""archive_info":{{"hash":"sha256={digits}","hashes":{{"sha256":"{digits}"}}}}}}"#);
        assert!(text.ends_with(&info), "{text}");
    }

    #[test]
    fn sources_say_what_they_are() {
        let url = "https://u:p@h/x.git".parse().unwrap();
        let expected = r#"{"url":"https://h/x.git","vcs_info":{"vcs":"git","requested_revision":"main","commit_id":"12"},"subdirectory":"a"}"#;
        assert_eq!(
            of_repository(&url, "12", Some("main"), Some("a")).as_deref(),
            Some(expected)
        );
        let expected = r#"{"url":"file:///a%20b","dir_info":{"editable":true}}"#;
        assert_eq!(of_directory(Path::new("/a b"), true).as_deref(), Some(expected));
        let expected = r#"{"url":"file:///a","dir_info":{}}"#;
        assert_eq!(of_directory(Path::new("/a"), false).as_deref(), Some(expected));
    }
}
