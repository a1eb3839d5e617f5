//! The tables of the index, and what is asked of them.

/// The number of the tables below, as `PRAGMA user_version`. Raise it when they change: an older one is then made anew.
pub(super) const VERSION: i32 = 1;

/// Times are seconds since 1970-01-01 UTC.
pub(super) const CREATE: &str = "
    BEGIN IMMEDIATE;
    CREATE TABLE IF NOT EXISTS environments (
        signature TEXT PRIMARY KEY,
        file_bytes INTEGER,
        owner_uid INTEGER,
        last_used_unix_s INTEGER,
        uses INTEGER NOT NULL DEFAULT 0,
        spec TEXT,
        is_seen INTEGER NOT NULL DEFAULT 1
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS by_last_use ON environments (last_used_unix_s);
    PRAGMA user_version = 1;
    COMMIT;
";

/// Writes nothing, and fails where nothing may be written.
pub(super) const TOUCH: &str = "DELETE FROM environments WHERE signature = ''";

pub(super) const RECORD: &str = "
    INSERT INTO environments (signature, file_bytes, owner_uid, spec) VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (signature) DO UPDATE SET
        file_bytes = coalesce(excluded.file_bytes, file_bytes),
        owner_uid = coalesce(owner_uid, excluded.owner_uid),
        spec = coalesce(excluded.spec, spec)";

pub(super) const USED: &str = "
    INSERT INTO environments (signature, last_used_unix_s, uses) VALUES (?1, ?2, 1)
    ON CONFLICT (signature) DO UPDATE SET last_used_unix_s = max(?2, coalesce(last_used_unix_s, 0)), uses = uses + 1";

pub(super) const ONE: &str =
    "SELECT file_bytes, owner_uid, last_used_unix_s, uses, spec FROM environments WHERE signature = ?1";

pub(super) const ALL: &str = "SELECT signature, file_bytes, owner_uid, last_used_unix_s, uses, spec FROM environments";

pub(super) const LATEST: &str = "
    SELECT signature FROM environments WHERE last_used_unix_s IS NOT NULL
    ORDER BY last_used_unix_s DESC, uses DESC, signature LIMIT ?1";

/// A rebuild marks what it has seen, and sweeps the rest.
pub(super) const MARK: &str = "UPDATE environments SET is_seen = 0";
pub(super) const SWEEP: &str = "DELETE FROM environments WHERE is_seen = 0";

pub(super) const REBUILD: &str = "
    INSERT INTO environments (signature, file_bytes, owner_uid, last_used_unix_s, spec) VALUES (?1, ?2, ?3, ?4, ?5)
    ON CONFLICT (signature) DO UPDATE SET
        file_bytes = coalesce(excluded.file_bytes, file_bytes),
        owner_uid = coalesce(owner_uid, excluded.owner_uid),
        last_used_unix_s = max(coalesce(excluded.last_used_unix_s, 0), coalesce(last_used_unix_s, 0)),
        spec = coalesce(spec, excluded.spec),
        is_seen = 1";
