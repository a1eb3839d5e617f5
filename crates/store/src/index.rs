//! What is known about environments and is not what they are: whose they are, how large, when and how often they were used.
//!
//! ```text
//! <store>/index.sqlite        SQLite, in WAL mode, with its -wal and -shm beside it
//! <store>/index.sqlite-uses   uses since it was opened last: a line for each, the signature and the time
//! ```
//!
//! A mount or a run waits for no database: it adds a line, and whoever opens the index next takes the lines in.
//!
//! Never the truth: everything that matters stands in the files of the store, and the index is made from them again. It is the one
//! file that `durable` does not write; SQLite has rules of its own. A database that is damaged, or that a newer version made,
//! is put aside. Where SQLite cannot work (a network file system, a store that may only be read) there is no index, and
//! nobody fails for it.

mod schema;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statfs::{self, FsType};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, Row, params};

use crate::answers;
use crate::digest::Digest;
use crate::durable;
use crate::environment::{self, Environment};
use crate::error::Error;
use crate::store::Store;

/// How long to wait for another process that writes. Whoever waits longer goes on without the index.
const BUSY_TIMEOUT: Duration = Duration::from_millis(250);

/// So much is noted while nobody opens the index, some 14,000 uses; further ones count for nothing but the time of the last.
const MAX_USES_BYTES: u64 = 1 << 20;

/// File systems on which the locks and the shared memory of SQLite do not work, or not on all hosts (statfs(2), and
/// <https://sqlite.org/wal.html>, "All processes using a database must be on the same host computer").
const REMOTE_FILE_SYSTEMS: [i64; 10] = [
    0x6969,      // NFS
    0x517b,      // SMB
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB2
    0x0bd0_0bd0, // Lustre
    0x4750_4653, // GPFS
    0x00c3_6400, // Ceph
    0x6573_5546, // FUSE
    0x0102_1997, // 9P
    0x5346_414f, // AFS
];

/// The index of a store.
#[derive(Debug)]
pub struct Index {
    connection: Connection,
    /// Why what was there before was put aside, if it was.
    put_aside: Option<String>,
}

/// What is known about an environment.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Metadata {
    /// The bytes of all its files, those of its base among them.
    pub file_bytes: Option<u64>,
    /// The user who made it.
    pub owner_uid: Option<u32>,
    /// When it was used last, in seconds since 1970-01-01 UTC.
    pub last_used_unix_s: Option<u64>,
    /// How often it was used.
    pub uses: u64,
    /// The file it was asked for with last.
    pub spec: Option<PathBuf>,
}

/// There is no index.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// SQLite does not work there.
    #[error("`{}` is on a network file system, where there is no index", .0.display())]
    Remote(PathBuf),
    /// SQLite failed.
    #[error("the index `{}` cannot be used", path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// A file beside it failed.
    #[error(transparent)]
    Store(#[from] Error),
}

impl Index {
    /// Opens the index of `store`; makes an empty one where there is none or where it cannot be used, which
    /// [`Index::take_warning`] then tells. A store that may only be read is looked at as it is.
    ///
    /// # Errors
    /// When there can be none.
    pub fn open(store: &Store) -> Result<Self, IndexError> {
        let path = path(store);
        if is_remote(store.root()) {
            return Err(IndexError::Remote(path));
        }
        let failed = |source| IndexError::Sqlite {
            path: path.clone(),
            source,
        };
        let reason = match connect(&path) {
            Ok(Opened::Usable(connection)) => {
                let index = Self::with(connection, None);
                index.take_uses_in(store)?;
                return Ok(index);
            }
            Ok(Opened::Newer) => "it was made by a newer version".to_owned(),
            Err(error) if is_damage(&error) => format!("it is damaged ({error})"),
            Err(error) if is_read_only(&error) => {
                return connect_to_read(&path)
                    .map(|connection| Self::with(connection, None))
                    .map_err(failed);
            }
            Err(error) => return Err(failed(error)),
        };
        put_aside(store, &path)?;
        match connect(&path).map_err(failed)? {
            Opened::Usable(connection) => {
                let mut index = Self::with(connection, Some(reason));
                index.rebuild(store)?;
                Ok(index)
            }
            // Another process of a newer version was quicker.
            Opened::Newer => Err(failed(rusqlite::Error::InvalidQuery)),
        }
    }

    fn with(connection: Connection, put_aside: Option<String>) -> Self {
        Self { connection, put_aside }
    }

    /// Why the database that was there was put aside and made anew, if it was. Told once.
    pub fn take_warning(&mut self) -> Option<String> {
        self.put_aside.take()
    }

    /// Notes an environment that was made or found, and by what it was asked for.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn record(
        &self,
        environment: &Environment,
        file_bytes: Option<u64>,
        spec: Option<&Path>,
    ) -> Result<(), IndexError> {
        let bytes = file_bytes.and_then(|bytes| i64::try_from(bytes).ok());
        let owner = nix::unistd::geteuid().as_raw();
        let spec = spec.map(Path::to_string_lossy);
        self.connection
            .execute(
                schema::RECORD,
                params![environment.signature.to_string(), bytes, owner, spec],
            )
            .map(drop)
            .map_err(|error| self.failed(error))
    }

    /// Takes in what was used since the index was opened last.
    fn take_uses_in(&self, store: &Store) -> Result<(), IndexError> {
        let Some(lines) = durable::take_evictable(&uses_path(store))? else {
            return Ok(());
        };
        let take = || {
            let transaction = self.connection.unchecked_transaction()?;
            for line in lines.lines() {
                if let Some((signature, at_unix_s)) = line.split_once(' ')
                    && let (Ok(signature), Ok(at_unix_s)) = (signature.parse::<Digest>(), at_unix_s.parse::<i64>())
                {
                    transaction.execute(schema::USED, params![signature.to_string(), at_unix_s])?;
                }
            }
            transaction.commit()
        };
        take().map_err(|error| self.failed(error))
    }

    /// What is known about one environment.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn of(&self, signature: &Digest) -> Result<Option<Metadata>, IndexError> {
        self.connection
            .query_row(schema::ONE, [signature.to_string()], |row| metadata(row, 0))
            .optional()
            .map_err(|error| self.failed(error))
    }

    /// What is known about all environments.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn all(&self) -> Result<HashMap<Digest, Metadata>, IndexError> {
        let rows = || {
            let mut query = self.connection.prepare(schema::ALL)?;
            let rows = query.query_map([], |row| Ok((row.get::<_, String>(0)?, metadata(row, 1)?)))?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        let rows = rows().map_err(|error| self.failed(error))?;
        let parsed = |(signature, metadata): (String, _)| Some((signature.parse().ok()?, metadata));
        Ok(rows.into_iter().filter_map(parsed).collect())
    }

    /// The environments that were used last, the latest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn latest(&self, count: usize) -> Result<Vec<Digest>, IndexError> {
        let rows = || {
            let mut query = self.connection.prepare(schema::LATEST)?;
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            let rows = query.query_map([count], |row| row.get::<_, String>(0))?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        let rows = rows().map_err(|error| self.failed(error))?;
        Ok(rows.iter().filter_map(|signature| signature.parse().ok()).collect())
    }

    /// Makes the index say what the files of `store` say: environments that are gone are forgotten, those it does not know are
    /// added. What only it knows, how often an environment was used, it keeps. Gives the number of environments.
    ///
    /// # Errors
    /// When the store cannot be read or the database not be written.
    pub fn rebuild(&mut self, store: &Store) -> Result<usize, IndexError> {
        self.take_uses_in(store)?;
        let mut found = Vec::new();
        // A damaged record is somebody else's to report.
        for environment in environment::list(store)?.into_iter().flatten() {
            let file_bytes = content_bytes(store, &environment);
            let facts = environment::facts(store, &environment.signature);
            found.push((environment.signature, file_bytes, facts));
        }
        let specs: HashMap<Digest, PathBuf> = answers::list(store)?
            .into_iter()
            .filter_map(|(_, answer)| Some((answer.signature, answer.spec?)))
            .collect();
        let path = path(store);
        let failed = |source| IndexError::Sqlite {
            path: path.clone(),
            source,
        };
        let write = |connection: &mut Connection| {
            let transaction = connection.transaction()?;
            transaction.execute_batch(schema::MARK)?;
            for (signature, file_bytes, facts) in &found {
                let seconds = |moment: Option<u64>| moment.and_then(|moment| i64::try_from(moment).ok());
                transaction.execute(
                    schema::REBUILD,
                    params![
                        signature.to_string(),
                        seconds(*file_bytes),
                        facts.owner_uid,
                        seconds(facts.last_used_unix_s),
                        specs.get(signature).map(|spec| spec.to_string_lossy()),
                    ],
                )?;
            }
            transaction.execute_batch(schema::SWEEP)?;
            transaction.commit()
        };
        write(&mut self.connection).map_err(failed)?;
        Ok(found.len())
    }

    fn failed(&self, source: rusqlite::Error) -> IndexError {
        IndexError::Sqlite {
            path: self.connection.path().unwrap_or_default().into(),
            source,
        }
    }
}

/// Checks the structure of the index, if there is one: not what its counts are.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn check(store: &Store) -> crate::Result<bool> {
    let path = path(store);
    if !path.exists() || is_remote(store.root()) {
        return Ok(false);
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let ask = || -> rusqlite::Result<String> {
        let connection = Connection::open_with_flags(&path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if tables == 0 {
            // Whoever was making it was killed, or is at it: the next one goes on.
            return Ok("ok".to_owned());
        }
        connection.prepare(schema::ALL)?.query([])?.next()?;
        connection.pragma_query_value(None, "integrity_check", |row| row.get(0))
    };
    match ask() {
        Ok(verdict) if verdict == "ok" => Ok(true),
        Ok(verdict) => Err(Error::corrupt(&path, verdict)),
        Err(error) if is_damage(&error) => Err(Error::corrupt(&path, error.to_string())),
        // Whoever may not read it has nothing to say of it.
        Err(_) => Ok(false),
    }
}

/// Puts the database into the directory `aside`, and makes another of the files of the store.
pub(crate) fn replace(store: &Store, aside: &Path) -> Result<(), IndexError> {
    {
        let _making = store.reserve("index")?;
        for file in ["index.sqlite", "index.sqlite-wal", "index.sqlite-shm"] {
            durable::move_file(&store.path(file), &aside.join(file))?;
        }
    }
    Index::open(store)?.rebuild(store).map(drop)
}

/// The bytes of all files of an environment, if its tree can be read.
#[must_use]
pub fn content_bytes(store: &Store, environment: &Environment) -> Option<u64> {
    let contents = store.tree(&environment.tree).and_then(|tree| tree.contents());
    contents.ok().map(|(_, bytes)| bytes)
}

/// Where the index of `store` is.
#[must_use]
pub fn path(store: &Store) -> PathBuf {
    store.path("index.sqlite")
}

enum Opened {
    Usable(Connection),
    Newer,
}

fn connect(path: &Path) -> rusqlite::Result<Opened> {
    if !path.exists() {
        // With the permission bits of other files, and so are those beside it: SQLite gives a group none. An empty file is a database.
        let _ = durable::append_evictable(path, &[], 0);
    }
    let connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    // Moving pages back into the database costs syncs; it is done now and then by who writes, and not by each who leaves.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    let version: i32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    match version {
        schema::VERSION => {}
        0 => {
            connection.pragma_update(None, "journal_mode", "WAL")?;
            connection.execute_batch(schema::CREATE)?;
        }
        _ => return Ok(Opened::Newer),
    }
    // A statement that does nothing tells whether it may be written.
    connection.execute(schema::TOUCH, [])?;
    Ok(Opened::Usable(connection))
}

/// As it is on disk, without locks and shared memory, which would have to be written.
fn connect_to_read(path: &Path) -> rusqlite::Result<Connection> {
    let mut uri = "file:".to_owned();
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' => uri.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => uri.push(char::from(*byte)),
            byte => uri.push_str(&format!("%{byte:02x}")),
        }
    }
    uri.push_str("?immutable=1");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
    let connection = Connection::open_with_flags(uri, flags)?;
    connection.prepare(schema::ALL)?;
    Ok(connection)
}

fn put_aside(store: &Store, path: &Path) -> crate::Result<()> {
    let _making = store.reserve("index")?;
    // Who came second finds that it was done.
    if matches!(connect(path), Ok(Opened::Usable(_))) {
        return Ok(());
    }
    durable::replace(path, &path.with_extension("sqlite.aside"))?;
    for log in ["sqlite-wal", "sqlite-shm"] {
        durable::remove(&path.with_extension(log))?;
    }
    Ok(())
}

/// Notes that an environment is used now, for whoever opens the index next.
///
/// # Errors
/// When the store cannot be written.
pub fn used(store: &Store, signature: &Digest) -> crate::Result<()> {
    let now_unix_s = std::time::UNIX_EPOCH.elapsed().map_or(0, |age| age.as_secs());
    let line = format!("{signature} {now_unix_s}\n");
    durable::append_evictable(&uses_path(store), line.as_bytes(), MAX_USES_BYTES)
}

fn uses_path(store: &Store) -> PathBuf {
    store.path("index.sqlite-uses")
}

fn metadata(row: &Row<'_>, first: usize) -> rusqlite::Result<Metadata> {
    let number = |column: usize| row.get::<_, Option<i64>>(first + column);
    Ok(Metadata {
        file_bytes: number(0)?.and_then(|bytes| bytes.try_into().ok()),
        owner_uid: number(1)?.and_then(|uid| uid.try_into().ok()),
        last_used_unix_s: number(2)?.and_then(|moment| moment.try_into().ok()),
        uses: number(3)?.and_then(|uses| uses.try_into().ok()).unwrap_or_default(),
        spec: row.get::<_, Option<String>>(first + 4)?.map(PathBuf::from),
    })
}

fn is_remote(path: &Path) -> bool {
    statfs::statfs(path).is_ok_and(|status| {
        let FsType(kind) = status.filesystem_type();
        #[allow(clippy::useless_conversion, reason = "its width depends on the platform")]
        let kind = i64::from(kind) & 0xffff_ffff;
        REMOTE_FILE_SYSTEMS.contains(&kind)
    })
}

fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown)
    )
}

fn is_read_only(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied)
    )
}
