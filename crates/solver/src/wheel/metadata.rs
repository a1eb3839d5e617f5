//! What a wheel says of itself: its `.dist-info` directory, `WHEEL`, `METADATA` and `entry_points.txt`.

use std::collections::{BTreeMap, BTreeSet};

use pep440_rs::Version;

use super::WheelError;
use super::contents::Contents;
use super::entry_points;
use super::info;
use crate::pypi::{WheelFileName, normalized_name};

type Info = BTreeMap<String, Vec<u8>>;

/// Reads it and checks that it is of the wheel called `name`.
pub(super) fn read(contents: &mut Contents<'_>, name: &WheelFileName) -> Result<Info, WheelError> {
    let dist_info = only_dist_info(contents)?;
    let mut info = Info::from([(info::DIST_INFO.to_owned(), dist_info.clone().into_bytes())]);
    let wheel = contents
        .metadata_file(&dist_info, "WHEEL")?
        .ok_or_else(|| missing(contents, "WHEEL"))?;
    check_format(contents, &wheel)?;
    let metadata = contents
        .metadata_file(&dist_info, "METADATA")?
        .ok_or_else(|| missing(contents, "METADATA"))?;
    info.insert(info::WHEEL.to_owned(), wheel);
    info.insert(info::METADATA.to_owned(), fields_only(&metadata).to_owned());
    if let Some(text) = contents.metadata_file(&dist_info, "entry_points.txt")? {
        let parsed = std::str::from_utf8(&text).map_err(|error| format!("its entry_points.txt: {error}"));
        parsed
            .and_then(entry_points::scripts)
            .map_err(|what| contents.malformed(what))?;
        info.insert(info::ENTRY_POINTS.to_owned(), text);
    }
    check(&info, name)?;
    Ok(info)
}

/// The name of the `.dist-info` directory.
pub(super) fn dist_info(info: &Info) -> &str {
    info.get(info::DIST_INFO)
        .and_then(|name| std::str::from_utf8(name).ok())
        .unwrap_or_default()
}

/// Checks that all places that name the distribution agree with the wheel's file name. A version may lack the local part
/// (`+cu128`) that another place has.
pub(super) fn check(info: &Info, name: &WheelFileName) -> Result<(), WheelError> {
    let directory = dist_info(info);
    let Some(metadata) = info.get(info::METADATA).filter(|_| !directory.is_empty()) else {
        return Err(WheelError::Malformed {
            wheel: name.to_string(),
            what: "an archive of another kind has the same sha256".to_owned(),
        });
    };
    let other = |place: &str, found: String| WheelError::OtherDistribution {
        wheel: name.to_string(),
        wanted: format!("{} {}", name.name(), name.version()),
        place: place.to_owned(),
        found,
    };
    let stem = directory.trim_end_matches(".dist-info");
    let (found_name, found_version) = stem.rsplit_once('-').unwrap_or((stem, ""));
    if normalized_name(found_name) != name.name() || !is_same_version(&found_version.replace('_', "-"), name.version())
    {
        return Err(other("its directory", format!("`{directory}`")));
    }
    let field = |field| field_of(metadata, field).unwrap_or_default();
    if normalized_name(&field("Name")) != name.name() || !is_same_version(&field("Version"), name.version()) {
        return Err(other("its METADATA", format!("{} {}", field("Name"), field("Version"))));
    }
    Ok(())
}

/// The one directory of the kind.
fn only_dist_info(contents: &Contents<'_>) -> Result<String, WheelError> {
    let found: BTreeSet<&[u8]> = contents
        .paths()
        .filter(|path| path.parent().is_some())
        .filter_map(|path| path.names().next())
        .filter(|top| top.ends_with(b".dist-info"))
        .collect();
    let names: Vec<String> = found
        .iter()
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect();
    match names.as_slice() {
        [name] => Ok(name.clone()),
        [] => Err(contents.malformed("it has no .dist-info directory")),
        several => Err(contents.malformed(format!("it has several .dist-info directories: {}", several.join(", ")))),
    }
}

/// PEP 427: another major version means other rules.
fn check_format(contents: &Contents<'_>, wheel: &[u8]) -> Result<(), WheelError> {
    let version = field_of(wheel, "Wheel-Version").unwrap_or_default();
    match version.split_once('.') {
        Some(("1", _)) => Ok(()),
        _ if version.is_empty() => Err(contents.malformed("its WHEEL has no Wheel-Version")),
        _ => Err(contents.malformed(format!("it has the Wheel-Version {version}, and 1.x is what is known"))),
    }
}

/// The fields before the description, which may be long and is in the file itself.
pub(crate) fn fields_only(metadata: &[u8]) -> &[u8] {
    let mut end = 0;
    for line in metadata.split_inclusive(|&byte| byte == b'\n') {
        if line.trim_ascii().is_empty() {
            break;
        }
        end += line.len();
    }
    &metadata[..end]
}

/// The first field of this name, as in a mail's header.
fn field_of(text: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(text);
    let mut header = text.lines().take_while(|line| !line.trim().is_empty());
    header.find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

fn is_same_version(left: &str, right: &str) -> bool {
    match (left.parse::<Version>(), right.parse::<Version>()) {
        (Ok(left), Ok(right)) => {
            let is_public = !left.is_local() || !right.is_local();
            left == right || (is_public && left.without_local() == right.without_local())
        }
        _ => left == right,
    }
}

fn missing(contents: &Contents<'_>, file: &str) -> WheelError {
    contents.malformed(format!("it has no {file} in its .dist-info directory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_may_differ_in_their_spelling_and_local_part() {
        for (left, right) in [
            ("1.0", "1.0.0"),
            ("2.0+cu12", "2.0"),
            ("1.0-1", "1.0.post1"),
            ("odd", "odd"),
        ] {
            assert!(is_same_version(left, right), "{left} {right}");
        }
        for (left, right) in [("1.0", "1.1"), ("2.0+cu12", "2.0+cpu"), ("odd", "1")] {
            assert!(!is_same_version(left, right), "{left} {right}");
        }
    }

    #[test]
    fn the_description_is_left_out() {
        let text = b"Name: x\r\nVersion: 1\r\n\r\nName: y\r\n";
        assert_eq!(fields_only(text), b"Name: x\r\nVersion: 1\r\n");
        assert_eq!(field_of(text, "name").as_deref(), Some("x"));
        assert_eq!(field_of(text, "Summary"), None);
    }
}
