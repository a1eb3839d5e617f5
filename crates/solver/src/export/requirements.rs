//! A requirements file: the wheels and sources of an environment with their digests, as pip's hash-checking mode wants them.

use std::fmt::Write as _;

use super::Export;
use crate::installed::is_built_here;
use crate::lock::LockedContents;
use crate::pypi::LockedWheel;

pub(super) fn write(request: &Export<'_>, contents: &LockedContents) -> String {
    let mut text = String::new();
    if let Some(asked) = &request.asked {
        for requirement in &asked.requirements {
            let _ = writeln!(text, "{requirement}");
        }
        return text;
    }
    // pip wants a digest for all or for none. That of what was built here nobody else's build has.
    let is_known = |wheel: &LockedWheel| wheel.sha256().is_some() && !is_built_here(wheel);
    let has_digests =
        contents.wheels.iter().all(is_known) && contents.sources.iter().all(|source| source.sha256().is_some());
    for wheel in &contents.wheels {
        text.push_str(&wheel.line());
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
