//! conda-lock.yml, version 1 ([CEP 37](https://github.com/conda/ceps/blob/main/cep-0037.md)).
//!
//! The content hash of a platform is a digest of its URLs: it says whether two files hold the same, not which specification
//! they came from.

use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use super::{Export, name_of, scalar};
use crate::lock::LockedContents;
use crate::network::without_credentials;
use crate::pypi::normalized_name;
use crate::source::SourcePlace;

pub(super) fn write(request: &Export<'_>) -> String {
    let mut text = "version: 1\nmetadata:\n  content_hash:\n".to_owned();
    for contents in request.contents {
        let _ = writeln!(text, "    {}: {}", contents.subdir, content_hash(contents));
    }
    text.push_str("  channels:\n");
    for channel in request.channels {
        let _ = writeln!(text, "  - url: {}\n    used_env_vars: []", scalar(channel));
    }
    text.push_str("  platforms:\n");
    for contents in request.contents {
        let _ = writeln!(text, "  - {}", contents.subdir);
    }
    text.push_str("  sources: []\npackage:\n");
    for contents in request.contents {
        for entry in entries(contents) {
            entry.write(&mut text, contents.subdir.as_str());
        }
    }
    if text.ends_with("package:\n") {
        text.truncate(text.len() - 1);
        text.push_str(" []\n");
    }
    text
}

struct Entry {
    name: String,
    version: String,
    manager: &'static str,
    url: String,
    /// Names and what is asked of them.
    depends: Vec<(String, String)>,
    md5: Option<String>,
    sha256: Option<String>,
    build: Option<String>,
}

fn entries(contents: &LockedContents) -> Vec<Entry> {
    let packages = contents.packages.iter().map(|package| Entry {
        name: package.name().to_owned(),
        version: package.version(),
        manager: "conda",
        url: without_credentials(&package.record().url).into(),
        depends: split(package.depends(), str::to_owned),
        md5: package.md5().map(hex::encode),
        sha256: package.sha256().map(hex::encode),
        build: Some(package.build().to_owned()),
    });
    let wheels = contents.wheels.iter().map(|wheel| Entry {
        name: wheel.name().to_owned(),
        version: wheel.version().to_owned(),
        manager: "pip",
        url: without_credentials(wheel.parsed_url()).into(),
        depends: split(wheel.requires_dist(), normalized_name),
        md5: None,
        sha256: wheel.sha256().map(hex::encode),
        build: None,
    });
    // Of what has to be built the format holds archives alone.
    let archives = contents.sources.iter().filter_map(|source| {
        let SourcePlace::Archive { url, sha256, .. } = source.place() else {
            return None;
        };
        Some(Entry {
            name: source.name().to_owned(),
            version: source.version()?.to_owned(),
            manager: "pip",
            url: without_credentials(url).into(),
            depends: split(source.requires_dist(), normalized_name),
            md5: None,
            sha256: sha256.map(hex::encode),
            build: None,
        })
    });
    packages.chain(wheels).chain(archives).collect()
}

/// Each dependency as its name and the rest; of several with one name the first. What depends on a marker is left out.
fn split(depends: &[String], named: impl Fn(&str) -> String) -> Vec<(String, String)> {
    let mut split: Vec<(String, String)> = Vec::new();
    for text in depends.iter().filter(|text| !text.contains(';')) {
        let name = name_of(text);
        let constraint = text[name.len()..].trim();
        let constraint = if constraint.is_empty() { "*" } else { constraint };
        if !split.iter().any(|(known, _)| *known == named(name)) {
            split.push((named(name), constraint.to_owned()));
        }
    }
    split.sort();
    split
}

fn content_hash(contents: &LockedContents) -> String {
    let mut digest = Sha256::new();
    for entry in entries(contents) {
        digest.update(entry.url.as_bytes());
        digest.update(b"\n");
    }
    hex::encode(digest.finalize())
}

impl Entry {
    fn write(&self, text: &mut String, platform: &str) {
        let _ = writeln!(text, "- name: {}", scalar(&self.name));
        let mut line = |key: &str, value: &str| {
            let space = if value.is_empty() { "" } else { " " };
            let _ = writeln!(text, "  {key}:{space}{value}");
        };
        line("version", &scalar(&self.version));
        line("manager", self.manager);
        line("platform", platform);
        if self.depends.is_empty() {
            line("dependencies", "{}");
        } else {
            line("dependencies", "");
            for (name, constraint) in &self.depends {
                line(&format!("  {}", scalar(name)), &quoted(constraint));
            }
        }
        line("url", &scalar(&self.url));
        line("hash", "");
        for (name, digest) in [("md5", &self.md5), ("sha256", &self.sha256)] {
            if let Some(digest) = digest {
                line(&format!("  {name}"), &quoted(digest));
            }
        }
        if let Some(build) = &self.build {
            line("build", &quoted(build));
        }
        line("category", "main");
        line("optional", "false");
    }
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}
