//! Limits on archives as people write them: `--limit files=2000000`, or `files = 2000000` below `[envfs.limits]`.

use envfs_solver::{Exceeded, LimitKind};
use envfs_store::path::MAX_PATH_BYTES;

use crate::units;

/// A limit that was set.
pub(crate) type Limit = (LimitKind, u64);

/// What stands behind `--limit`.
pub(crate) fn parse(text: &str) -> Result<Limit, String> {
    let (name, amount) = text
        .split_once('=')
        .ok_or_else(|| format!("`{text}` is no limit, such as files=2000000 or unpacked=200GiB"))?;
    of(name.trim(), amount.trim())
}

/// The limit called `name`, set to `amount`.
pub(crate) fn of(name: &str, amount: &str) -> Result<Limit, String> {
    let kind: LimitKind = name
        .parse()
        .map_err(|error: envfs_solver::UnknownLimit| error.to_string())?;
    let value = match kind.is_bytes() {
        true => units::size(amount)?,
        false => amount
            .parse()
            .map_err(|_| format!("`{amount}` is no number, as `{name}` needs one"))?,
    };
    Ok((kind, value))
}

/// What a person does who trusts an archive that is more than it may be.
pub(crate) fn help(limit: &Exceeded) -> String {
    if limit.kind == LimitKind::Path && limit.limit >= MAX_PATH_BYTES as u64 {
        return "no path in an environment may be longer, whatever the limit".to_owned();
    }
    let (name, twice) = (limit.kind.name(), limit.limit.saturating_mul(2));
    format!(
        "if you trust where it comes from, raise the limit: `--limit {name}={twice}`, or `{name} = {twice}` below \
         [envfs.limits] in a configuration file"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_names_and_amounts() {
        assert_eq!(parse("files=5"), Ok((LimitKind::Files, 5)));
        assert_eq!(parse("unpacked = 2GiB"), Ok((LimitKind::Unpacked, 2 << 30)));
        for (text, expected) in [
            ("files", "is no limit"),
            ("inodes=5", "there is no limit `inodes`; there are archive, unpacked"),
            ("files=5GB", "is no number"),
            ("unpacked=much", "is no size"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}
