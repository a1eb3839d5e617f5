//! What wheels need, asked of the index ([PEP 658](https://peps.python.org/pep-0658/)), and of the wheel where the index does not tell.
//!
//! A lock says of every wheel what it needs, so that tools can tell whether it still fits, and people why something is there.
//! Nothing depends on it: where neither can be asked, or the wheel is large, it stays as it is. What was asked once is
//! kept, by the wheel's digest. Knows nothing of resolving or lock files.

use std::path::{Path, PathBuf};

use futures::stream::{self, StreamExt};

use crate::fetch::NoProgress;
use crate::network::Network;
use crate::pep508;
use crate::pypi::LockedWheel;
use crate::wheel;

/// How many questions are asked at a time.
const MAX_QUESTIONS: usize = 16;
/// Metadata is small; a larger answer is none.
const MAX_METADATA_BYTES: usize = 4 << 20;
/// A larger wheel is not fetched for its metadata alone.
const MAX_WHEEL_BYTES: u64 = 32 << 20;

/// The wheels with what they need, as far as their index tells.
pub async fn complete_wheels(network: &Network, wheels: Vec<LockedWheel>) -> Vec<LockedWheel> {
    let questions = wheels.into_iter().map(|wheel| complete(network, wheel));
    stream::iter(questions).buffered(MAX_QUESTIONS).collect().await
}

async fn complete(network: &Network, wheel: LockedWheel) -> LockedWheel {
    if wheel.has_requirements() || !matches!(wheel.parsed_url().scheme(), "http" | "https") {
        return wheel;
    }
    match metadata(network, &wheel).await {
        Some(text) => {
            let (requires_dist, requires_python) = requirements(&text);
            wheel.with_requirements(requires_dist, requires_python)
        }
        None => wheel,
    }
}

async fn metadata(network: &Network, wheel: &LockedWheel) -> Option<String> {
    let kept = wheel.sha256().map(|sha256| {
        let name = format!("{}.metadata", hex::encode(sha256));
        network.cache_dir().join("wheel-metadata").join(name)
    });
    if let Some(text) = kept.as_ref().and_then(|kept| std::fs::read_to_string(kept).ok()) {
        return Some(text);
    }
    let text = match of_index(network, wheel).await {
        Some(text) => text,
        None => of_wheel(network, wheel).await?,
    };
    if let Some(kept) = &kept {
        // What cannot be kept is asked again.
        let _ = keep(kept, &text);
    }
    Some(text)
}

async fn of_index(network: &Network, wheel: &LockedWheel) -> Option<String> {
    let mut url = wheel.parsed_url().clone();
    url.set_path(&format!("{}.metadata", url.path()));
    let answer = network.archive_client().get(url).send().await;
    let answer = match answer {
        Ok(answer) if answer.status().is_success() => answer,
        Ok(answer) => return unknown(wheel, &answer.status()),
        Err(error) => return unknown(wheel, &error.without_url()),
    };
    let bytes = answer
        .bytes()
        .await
        .ok()
        .filter(|bytes| bytes.len() <= MAX_METADATA_BYTES)?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Fetches a small wheel, with every check of its digest, and reads what it says of itself.
async fn of_wheel(network: &Network, wheel: &LockedWheel) -> Option<String> {
    let size_bytes = match wheel.size_bytes() {
        Some(size_bytes) => size_bytes,
        None => size_of(network, wheel).await?,
    };
    if size_bytes > MAX_WHEEL_BYTES {
        return unknown(wheel, &"the wheel is large");
    }
    let spool = network.cache_dir().join("wheel-metadata");
    let fetched = match network.fetch_wheel(wheel, &spool, &NoProgress).await {
        Ok(fetched) => fetched,
        Err(error) => return unknown(wheel, &error),
    };
    match wheel::read_metadata(fetched.file, wheel.file_name(), network.limits()) {
        Ok(metadata) => Some(String::from_utf8_lossy(&metadata).into_owned()),
        Err(error) => unknown(wheel, &error),
    }
}

/// How long the server says that the wheel is.
async fn size_of(network: &Network, wheel: &LockedWheel) -> Option<u64> {
    let answer = network.archive_client().head(wheel.parsed_url().clone()).send().await;
    let answer = answer.ok().filter(|answer| answer.status().is_success())?;
    answer.headers().get("content-length")?.to_str().ok()?.parse().ok()
}

fn unknown(wheel: &LockedWheel, error: &dyn std::fmt::Display) -> Option<String> {
    tracing::debug!("nobody says what {wheel} needs: {error}");
    None
}

/// The file appears whole or not at all: several processes may keep the same.
fn keep(path: &PathBuf, text: &str) -> std::io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(directory)?;
    let temporary = tempfile::NamedTempFile::new_in(directory)?;
    std::fs::write(temporary.path(), text)?;
    temporary.persist(path).map_err(|error| error.error)?;
    Ok(())
}

/// `Requires-Dist` and `Requires-Python` of a `METADATA`. What is not as PEP 508 wants it is left out.
pub(crate) fn requirements(text: &str) -> (Vec<String>, Option<String>) {
    let headers = || text.lines().take_while(|line| !line.trim().is_empty());
    let field = |line: &'_ str, name: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned());
    let requires_dist = headers().filter_map(|line| {
        let requirement = pep508::parse(&field(line, "Requires-Dist")?, None).ok()?;
        Some(requirement.to_string())
    });
    let requires_python = headers().find_map(|line| field(line, "Requires-Python"));
    let is_known = |text: &String| text.parse::<pep440_rs::VersionSpecifiers>().is_ok();
    (requires_dist.collect(), requires_python.filter(is_known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requirements_are_headers_and_not_text() {
        let text = "Metadata-Version: 2.1\nName: x\nRequires-Python: >=3.8\nRequires-Dist: idna<4,>=2.5\n\
                    Requires-Dist: PySocks ; extra == 'socks'\nRequires-Dist: (broken\nRequires-Dist: a[b-]\nRequires-Dist: c- >1\n\nRequires-Dist: body\n";
        let (requires_dist, requires_python) = requirements(text);
        assert_eq!(requires_dist, ["idna>=2.5,<4", "pysocks ; extra == 'socks'"]);
        assert_eq!(requires_python.as_deref(), Some(">=3.8"));
    }
}
