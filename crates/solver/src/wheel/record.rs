//! `RECORD`: the list of a distribution's files with their digests and sizes (PEP 376 and 427), read and written.

use std::collections::BTreeMap;
use std::fmt::Write;

use envfs_store::digest::Sha256;
use envfs_store::path::EnvPath;

/// What a wheel's `RECORD` says, by path.
pub(super) type Record = BTreeMap<EnvPath, Row>;

/// What `RECORD` says of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// Nothing for `RECORD` itself and its signatures.
    pub(super) digest: Option<RowDigest>,
    pub(super) size_bytes: Option<u64>,
}

/// A digest by one of the algorithms that PEP 427 allows: SHA-256 or better.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RowDigest {
    Sha256(Vec<u8>),
    Sha384(Vec<u8>),
    Sha512(Vec<u8>),
}

/// Reads the text of a `RECORD`. The error says what is wrong with which line.
pub(super) fn parse(text: &str) -> Result<Record, String> {
    let mut record = Record::new();
    for (index, fields) in csv_rows(text).into_iter().enumerate() {
        let at = |what: String| format!("line {} of its RECORD: {what}", index + 1);
        let [path, digest, size] = fields.as_slice() else {
            return Err(at(format!("{} fields instead of path, digest and size", fields.len())));
        };
        let path = EnvPath::parse(path).map_err(|error| at(error.to_string()))?;
        let row = Row {
            digest: parse_digest(digest).map_err(|what| at(format!("`{path}` {what}")))?,
            size_bytes: match size.as_str() {
                "" => None,
                size => Some(size.parse().map_err(|_| at(format!("`{size}` is no size")))?),
            },
        };
        if record.get(&path).is_some_and(|earlier| *earlier != row) {
            return Err(at(format!("`{path}` is listed twice, and not alike")));
        }
        record.insert(path, row);
    }
    Ok(record)
}

/// The paths that an installed `RECORD` lists, as they stand there: relative to the directory of the distributions, and often
/// leading out of it.
pub(crate) fn installed_paths(text: &str) -> Vec<String> {
    csv_rows(text)
        .into_iter()
        .filter_map(|fields| fields.into_iter().next())
        .collect()
}

/// What an installed `RECORD` lists: paths in the environment, each with its SHA-256 where there is one. What leads out of the
/// environment is left out.
pub(crate) fn installed_rows(text: &str, site_packages: &str) -> BTreeMap<EnvPath, Option<Sha256>> {
    let rows = csv_rows(text).into_iter().filter_map(|fields| {
        let path = resolve(site_packages, fields.first()?)?;
        let digest = match parse_digest(fields.get(1).map_or("", String::as_str)) {
            Ok(Some(RowDigest::Sha256(bytes))) => bytes.try_into().ok().map(Sha256::from_bytes),
            _ => None,
        };
        Some((path, digest))
    });
    rows.collect()
}

/// Where a row of an installed `RECORD` leads: relative to the directory of the distributions, and maybe out of it.
pub(crate) fn resolve(site_packages: &str, row: &str) -> Option<EnvPath> {
    let mut names: Vec<&str> = site_packages.split('/').collect();
    for name in row.split('/') {
        match name {
            ".." => drop(names.pop()?),
            "." => {}
            name => names.push(name),
        }
    }
    EnvPath::parse(names.join("/")).ok()
}

/// Appends a line of an installed `RECORD`.
pub(crate) fn write_row(text: &mut String, path: &str, file: Option<(&Sha256, u64)>) {
    if path.contains([',', '"', '\n', '\r']) {
        let _ = write!(text, "\"{}\"", path.replace('"', "\"\""));
    } else {
        text.push_str(path);
    }
    let _ = match file {
        Some((sha256, size_bytes)) => {
            writeln!(text, ",sha256={},{size_bytes}", base64url(sha256.as_bytes()))
        }
        None => writeln!(text, ",,"),
    };
}

impl RowDigest {
    pub(super) fn algorithm(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "sha256",
            Self::Sha384(_) => "sha384",
            Self::Sha512(_) => "sha512",
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(bytes) | Self::Sha384(bytes) | Self::Sha512(bytes) => bytes,
        }
    }
}

/// Bytes in the alphabet of RFC 4648, section 5, without padding.
pub(super) fn base64url(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let mut group = [0; 4];
        group[1..=chunk.len()].copy_from_slice(chunk);
        let group = u32::from_be_bytes(group);
        for position in 0..=chunk.len() {
            let index = group >> (18 - 6 * position) & 63;
            text.push(char::from(ALPHABET[index as usize]));
        }
    }
    text
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn parse_digest(field: &str) -> Result<Option<RowDigest>, String> {
    if field.is_empty() {
        return Ok(None);
    }
    let (algorithm, digest) = field.split_once('=').ok_or("has a digest without an algorithm")?;
    let bytes = from_base64url(digest).ok_or_else(|| format!("has the digest `{digest}`, which is not base64url"))?;
    let (wanted_bytes, digest) = match algorithm {
        "sha256" => (32, RowDigest::Sha256(bytes)),
        "sha384" => (48, RowDigest::Sha384(bytes)),
        "sha512" => (64, RowDigest::Sha512(bytes)),
        _ => {
            return Err(format!(
                "has a digest by `{algorithm}`; sha256, sha384 and sha512 are allowed"
            ));
        }
    };
    if digest.bytes().len() != wanted_bytes {
        return Err(format!(
            "has a digest of {} bytes instead of {wanted_bytes}",
            digest.bytes().len()
        ));
    }
    Ok(Some(digest))
}

fn from_base64url(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let value = ALPHABET.iter().position(|&known| known == byte)?;
        bits = bits << 6 | u32::try_from(value).ok()?;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push(u8::try_from(bits >> count & 0xFF).ok()?);
        }
    }
    Some(bytes)
}

/// Lines of comma-separated fields, quoted as Python's `csv` module does it. Empty lines are left out.
fn csv_rows(text: &str) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut fields = vec![String::new()];
    let mut is_quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let field = fields.last_mut().expect("a row has a field");
        match c {
            '"' if is_quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.push('"');
            }
            '"' if is_quoted || field.is_empty() => is_quoted = !is_quoted,
            ',' if !is_quoted => fields.push(String::new()),
            '\r' if !is_quoted && matches!(chars.peek(), Some('\n') | None) => {}
            '\n' if !is_quoted => rows.push(std::mem::replace(&mut fields, vec![String::new()])),
            c => field.push(c),
        }
    }
    rows.push(fields);
    rows.retain(|fields| *fields != [""]);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_as_they_are_written() {
        for len in 0..70_u8 {
            let bytes: Vec<u8> = (0..len).map(|byte| byte.wrapping_mul(37)).collect();
            assert_eq!(from_base64url(&base64url(&bytes)), Some(bytes));
        }
        assert_eq!(base64url(&[0xFB, 0xFF]), "-_8");
        assert_eq!(from_base64url("a+b/"), None);
    }

    #[test]
    fn rows_survive_quoting() {
        let sha256 = Sha256::from_bytes([7; 32]);
        let mut text = String::new();
        write_row(&mut text, "a,\"b\"", Some((&sha256, 5)));
        write_row(&mut text, "x.dist-info/RECORD", None);
        let record = parse(&text.replace('\n', "\r\n")).unwrap();
        let row = &record[&EnvPath::parse("a,\"b\"").unwrap()];
        assert_eq!(row.digest, Some(RowDigest::Sha256(vec![7; 32])));
        assert_eq!(row.size_bytes, Some(5));
        assert_eq!(record.len(), 2);
        assert_eq!(installed_paths("../../../bin/x,,\n"), ["../../../bin/x"]);
    }

    #[test]
    fn rows_lead_where_they_lead_and_never_out() {
        let at = |row| resolve("lib/python3.12/site-packages", row).map(|path| path.to_string());
        assert_eq!(at("x/a.py").as_deref(), Some("lib/python3.12/site-packages/x/a.py"));
        assert_eq!(at("../../../bin/x").as_deref(), Some("bin/x"));
        for out in ["../../../../x", "/bin/x", "../../.."] {
            assert_eq!(at(out), None, "{out}");
        }
    }

    #[test]
    fn installed_rows_have_their_digests() {
        let sha256 = Sha256::from_bytes([7; 32]);
        let mut text = String::new();
        write_row(&mut text, "x/a.py", Some((&sha256, 5)));
        write_row(&mut text, "../bin/x", None);
        write_row(&mut text, "../../out", None);
        let path = |path: &str| EnvPath::parse(path).unwrap();
        let expected = [(path("lib/x/a.py"), Some(sha256)), (path("bin/x"), None)];
        assert_eq!(installed_rows(&text, "lib"), BTreeMap::from(expected));
    }

    #[test]
    fn what_no_record_says_is_refused() {
        for (text, expected) in [
            ("a,,\na,,1\n", "line 2 of its RECORD: `a` is listed twice"),
            ("a\n", "1 fields"),
            ("../a,,\n", "has a `..` component"),
            ("a,md5=AAAA,1\n", "by `md5`"),
            ("a,sha256=AAAA,1\n", "of 3 bytes instead of 32"),
            ("a,sha256,1\n", "without an algorithm"),
            ("a,,many\n", "`many` is no size"),
        ] {
            let message = parse(text).unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
}
