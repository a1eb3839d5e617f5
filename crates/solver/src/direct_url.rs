//! `direct_url.json` ([PEP 610](https://peps.python.org/pep-0610/)): where a distribution came from that is of no index.
//!
//! A text with its keys in one order, because its bytes become a file of an environment. Knows nothing else.

use std::collections::BTreeMap;

use serde::Serialize;
use url::Url;

#[derive(Serialize)]
struct DirectUrl<'a> {
    url: &'a str,
    archive_info: ArchiveInfo,
}

#[derive(Serialize)]
struct ArchiveInfo {
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hashes: Option<BTreeMap<&'static str, String>>,
}

/// The text for an archive at a URL, without credentials and without a fragment.
pub(crate) fn of_archive(url: &Url, sha256: Option<[u8; 32]>) -> Option<String> {
    let mut url = crate::network::without_credentials(url);
    url.set_fragment(None);
    let digits = sha256.map(hex::encode);
    let direct_url = DirectUrl {
        url: url.as_str(),
        archive_info: ArchiveInfo {
            hash: digits.as_ref().map(|digits| format!("sha256={digits}")),
            hashes: digits.map(|digits| BTreeMap::from([("sha256", digits)])),
        },
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
        assert_eq!(of_archive(&url, None).as_deref(), Some(expected));
        let text = of_archive(&url, Some([0xab; 32])).unwrap();
        let digits = "ab".repeat(32);
        let info = format!(r#""archive_info":{{"hash":"sha256={digits}","hashes":{{"sha256":"{digits}"}}}}}}"#);
        assert!(text.ends_with(&info), "{text}");
    }
}
