//! What was asked for before, and which environment it became: so that the same question costs a look.
//!
//! ```text
//! <store>/cache/asked/<digest of the question>.json
//! ```
//!
//! Never the truth, and evictable at any time: whoever finds nothing asks again. What a question is, and how long its
//! answer is good, the caller knows.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::durable;
use crate::environment::{self, Environment};
use crate::error::Result;
use crate::store::Store;
use crate::workspace::Workspace;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// What was built.
    pub environment: Environment,
    /// How long ago, in seconds; 0 if the clock was set back.
    pub age_s: u64,
}

#[derive(Serialize, Deserialize)]
struct Record {
    signature: Digest,
    answered_unix_s: u64,
}

/// The answer to `question`, if it was kept and the environment is still there.
///
/// # Errors
/// When the environment's record is damaged.
pub fn recall(store: &Store, question: &str) -> Result<Option<Answer>> {
    // What cannot be read was never kept.
    let Some(record) = std::fs::read(path(store, question))
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Record>(&bytes).ok())
    else {
        return Ok(None);
    };
    Ok(environment::get(store, &record.signature)?.map(|environment| Answer {
        environment,
        age_s: now_unix_s().saturating_sub(record.answered_unix_s),
    }))
}

/// Keeps the answer to `question`.
///
/// # Errors
/// When the store cannot be written.
pub fn keep(store: &Store, question: &str, signature: &Digest) -> Result<()> {
    let record = Record {
        signature: *signature,
        answered_unix_s: now_unix_s(),
    };
    let bytes = serde_json::to_vec(&record).expect("a record becomes JSON");
    durable::create_directory(&store.path("cache").join("asked"))?;
    durable::write_evictable(Workspace::create(store)?.path(), &path(store, question), &bytes)
}

fn path(store: &Store, question: &str) -> PathBuf {
    let name = format!("{}.json", Digest::of(question.as_bytes()));
    store.path("cache").join("asked").join(name)
}

fn now_unix_s() -> u64 {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |age| age.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_kept_as_long_as_its_environment_is_there() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let environment = Environment::new(Digest::of(b"e"), "linux-64".into(), Digest::of(b"tree"));
        assert_eq!(recall(&store, "q").unwrap(), None);
        keep(&store, "q", &environment.signature).unwrap();
        assert_eq!(recall(&store, "q").unwrap(), None, "it was not built");
        environment
            .publish(&store, &Workspace::create(&store).unwrap())
            .unwrap();
        assert_eq!(recall(&store, "q").unwrap().unwrap().environment, environment);
        assert_eq!(recall(&store, "another").unwrap(), None);
        std::fs::write(path(&store, "q"), "{").unwrap();
        assert_eq!(recall(&store, "q").unwrap(), None, "what is damaged is asked again");
    }
}
