//! A requirements file: the wheels of an environment with their digests, as pip's hash-checking mode wants them.

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
    let has_digests = contents.wheels.iter().all(|wheel| wheel.sha256().is_some());
    for wheel in &contents.wheels {
        let _ = match wheel.direct_url() {
            Some(_) => {
                let url = crate::network::without_credentials(wheel.parsed_url());
                write!(text, "{} @ {url}", wheel.name())
            }
            None => write!(text, "{}=={}", wheel.name(), wheel.version()),
        };
        if let Some(sha256) = wheel.sha256().filter(|_| has_digests) {
            let _ = write!(text, " \\\n    --hash=sha256:{}", hex::encode(sha256));
        }
        text.push('\n');
    }
    text
}
