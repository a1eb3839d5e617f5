//! A requirements file: the wheels and sources of an environment with their digests, as pip's hash-checking mode wants them.

use std::fmt::Write as _;

use super::Export;
use crate::lock::LockedContents;

pub(super) fn write(request: &Export<'_>, contents: &LockedContents) -> String {
    let mut text = String::new();
    if let Some(asked) = &request.asked {
        for requirement in &asked.requirements {
            let _ = writeln!(text, "{requirement}");
        }
        return text;
    }
    // pip wants a digest for all or for none.
    let has_digests = contents.wheels.iter().all(|wheel| wheel.sha256().is_some())
        && contents.sources.iter().all(|source| source.sha256().is_some());
    for wheel in &contents.wheels {
        let _ = match wheel.direct_url() {
            Some(_) => {
                let url = crate::network::without_credentials(wheel.parsed_url());
                write!(text, "{} @ {url}", wheel.name())
            }
            None => write!(text, "{}=={}", wheel.name(), wheel.version()),
        };
        add_digest(&mut text, wheel.sha256().filter(|_| has_digests));
    }
    for source in &contents.sources {
        text.push_str(&source.line());
        add_digest(&mut text, source.sha256().filter(|_| has_digests));
    }
    text
}

fn add_digest(text: &mut String, sha256: Option<[u8; 32]>) {
    if let Some(sha256) = sha256 {
        let _ = write!(text, " \\\n    --hash=sha256:{}", hex::encode(sha256));
    }
    text.push('\n');
}
