//! Which environment answered a question, and by which lock: asked again, it need not be solved again.
//!
//! ```text
//! <store>/cache/locks/<digest>.json.zst   one answer, named by the digest of its question
//! ```
//!
//! Never the truth, and evictable at any time: without it a question is solved once more. A file that cannot be read is no
//! answer. What a question is, and how old an answer may be, is decided by who asks. The time of a file is when it was last asked
//! for, to the day; a collection removes what nobody has asked for in a month.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::digest::Digest;
use crate::durable;
use crate::error::{Error, IoContext as _, Result};
use crate::sealed;
use crate::store::Store;

/// Where answers are kept in a store.
const DIRECTORY: &str = "cache/locks";

/// The version of the fields. A reader passes over any other.
const FORMAT_VERSION: u32 = 2;

/// A lock is text that repeats itself.
const COMPRESSION_LEVEL: i32 = 3;

/// A larger answer is none: the largest known lock files have some 10 MB.
const MAX_ANSWER_BYTES: u64 = 256 << 20;

/// Who asks again within so long after the time of a file leaves it as it is: a question that is asked a thousand times an hour
/// writes nothing.
const TIME_PRECISION: Duration = Duration::from_secs(24 * 3600);

/// An answer that nobody has asked for in so long goes with the next collection.
const MAX_UNASKED: Duration = Duration::from_secs(30 * 24 * 3600);

/// One answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    format: u32,
    /// The environment that the lock makes. It may have been collected since.
    pub signature: Digest,
    /// The lock, as its ecosystem writes it; none where the question was a lock itself.
    pub lock: Option<String>,
    /// The file that was asked for, as it was named then; for people only.
    pub spec: Option<PathBuf>,
    /// When it was solved, in seconds since 1970-01-01 UTC.
    pub solved_unix_s: u64,
}

impl Answer {
    /// An answer that was found just now.
    #[must_use]
    pub fn new(signature: Digest, lock: Option<String>, spec: Option<PathBuf>) -> Self {
        Self {
            format: FORMAT_VERSION,
            signature,
            lock,
            spec,
            solved_unix_s: std::time::UNIX_EPOCH.elapsed().map_or(0, |age| age.as_secs()),
        }
    }

    fn is_current(&self) -> bool {
        self.format == FORMAT_VERSION
    }

    /// Keeps it as the answer to `question`, in place of an older one.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn keep(&self, store: &Store, question: &Digest) -> Result<()> {
        let name = name(question);
        let path = store.path(&name);
        let text = sealed::seal(&name, self).expect("strings and numbers become JSON");
        let text = zstd::encode_all(text.as_slice(), COMPRESSION_LEVEL).at("compress", &path)?;
        durable::create_directory(path.parent().unwrap_or(Path::new("/")))?;
        durable::write_evictable(&store.path("tmp"), &path, &text)
    }
}

/// The answer to `question`, if one is kept.
#[must_use]
pub fn find(store: &Store, question: &Digest) -> Option<Answer> {
    let answer = read(&place(store, question), question)
        .ok()
        .filter(Answer::is_current)?;
    let own = store.path(&name(question));
    if clock::age(&own).is_some_and(|age| age > TIME_PRECISION) {
        // Of a store that cannot be written nothing is swept either.
        let _ = durable::touch(&own);
    }
    Some(answer)
}

/// Checks the answers of this store, and gives each that is damaged.
pub(crate) fn damaged(store: &Store) -> Result<(u64, Vec<Error>)> {
    let paths = crate::store::list(&store.path(DIRECTORY))?;
    let results = paths.iter().map(|path| match question_of(path) {
        Some(question) => read(path, &question).map(drop),
        None => Err(Error::corrupt(path, "its name is that of no question")),
    });
    Ok((paths.len() as u64, results.filter_map(Result::err).collect()))
}

/// Removes the answers that nobody has asked for in a month, where it is `now`, in a `dry_run` none; gives how many bytes of the disk
/// they took.
pub(crate) fn sweep(store: &Store, now: SystemTime, dry_run: bool) -> Result<u64> {
    let mut freed_bytes = 0;
    for path in crate::store::list(&store.path(DIRECTORY))? {
        let age = match dry_run {
            true => now.duration_since(clock::dated(&path)).ok(),
            false => clock::age_at(&path, now),
        };
        if age.is_some_and(|age| age > MAX_UNASKED) {
            freed_bytes += path.metadata().map_or(0, |metadata| metadata.blocks() * 512);
            if !dry_run {
                durable::remove(&path)?;
            }
        }
    }
    Ok(freed_bytes)
}

/// All answers with the digests of their questions, in that order.
///
/// # Errors
/// When the directory cannot be listed.
pub fn list(store: &Store) -> Result<Vec<(Digest, Answer)>> {
    let paths = crate::store::list(&store.path(DIRECTORY))?;
    let answer = |path: PathBuf| {
        let question = question_of(&path)?;
        let answer = read(&path, &question).ok().filter(Answer::is_current)?;
        Some((question, answer))
    };
    Ok(paths.into_iter().filter_map(answer).collect())
}

/// Where the answer to `question` is kept.
#[must_use]
pub fn place(store: &Store, question: &Digest) -> PathBuf {
    store.find(&name(question))
}

fn name(question: &Digest) -> String {
    format!("{DIRECTORY}/{question}.json.zst")
}

fn question_of(path: &Path) -> Option<Digest> {
    let digits = path.file_name()?.to_str()?.strip_suffix(".json.zst")?;
    digits.parse().ok()
}

fn read(path: &Path, question: &Digest) -> Result<Answer> {
    let file = std::fs::File::open(path).at("open", path)?;
    let mut text = Vec::new();
    let decompressed = zstd::Decoder::new(file).and_then(|file| file.take(MAX_ANSWER_BYTES).read_to_end(&mut text));
    decompressed.map_err(|error| Error::corrupt(path, error.to_string()))?;
    sealed::open(path, &name(question), &text).map(|opened| opened.document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_found_by_its_question_and_damage_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let (question, other) = (Digest::of(b"question"), Digest::of(b"other"));
        let answer = Answer::new(Digest::of(b"environment"), Some("version: 7\n".into()), None);
        answer.keep(&store, &question).unwrap();
        assert_eq!(find(&store, &question), Some(answer.clone()));
        assert_eq!(find(&store, &other), None);
        assert_eq!(list(&store).unwrap(), [(question, answer.clone())]);

        let newer = Answer {
            format: FORMAT_VERSION + 1,
            ..answer
        };
        newer.keep(&store, &other).unwrap();
        std::fs::remove_file(place(&store, &question)).unwrap();
        std::fs::write(place(&store, &question), "{").unwrap();
        assert_eq!(list(&store).unwrap(), []);
    }

    #[test]
    fn what_nobody_asks_for_is_swept() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let questions = [b"asked", b"stale", b"young"].map(|text| Digest::of(text));
        let answer = Answer::new(Digest::of(b"environment"), None, None);
        for question in &questions {
            answer.keep(&store, question).unwrap();
        }
        let day = Duration::from_secs(24 * 3600);
        let set_age = |question: &Digest, age: Duration| {
            let file = std::fs::File::options().write(true).open(place(&store, question));
            file.unwrap().set_modified(SystemTime::now() - age).unwrap();
        };
        for question in &questions[..2] {
            set_age(question, 31 * day);
        }
        set_age(&questions[2], 29 * day);
        // To ask is to keep.
        assert!(find(&store, &questions[0]).is_some());
        assert!(sweep(&store, SystemTime::now(), true).unwrap() > 0);
        assert_eq!(list(&store).unwrap().len(), 3);
        assert!(sweep(&store, SystemTime::now(), false).unwrap() > 0);
        let left = questions.map(|question| find(&store, &question).is_some());
        assert_eq!(left, [true, false, true]);
        assert_eq!(sweep(&store, SystemTime::now(), false).unwrap(), 0);
    }
}
