//! One line of a requirements file: an option, or a requirement with its hashes.
//!
//! The format is pip's ([requirements file format](https://pip.pypa.io/en/stable/reference/requirements-file-format/)).
//! Knows no files but the paths that lines name.

use std::path::Path;

use url::Url;

use super::{Kind, Place, Requirement, RequirementError, Source, SourceKind};
use crate::pep508;
use crate::source::normal;

/// What a line says.
#[derive(Debug)]
pub(super) enum Line {
    Requirement(Box<Requirement>),
    /// `-r FILE`
    Include(String),
    /// `-c FILE`
    Constraints(String),
    IndexUrl(String),
    ExtraIndexUrl(String),
    FindLinks(String),
    NoIndex,
    Prereleases,
    /// `--no-binary NAME,...`
    NoBinary(Vec<String>),
    /// An option that says nothing about what is installed.
    Nothing,
}

/// Options that take a value and change nothing that we do.
const IGNORED_WITH_VALUE: [&str; 5] = [
    "--trusted-host",
    "--use-feature",
    "--only-binary",
    "--progress-bar",
    "--src",
];
/// Options without a value that change nothing that we do: hashes are always checked, wheels always preferred.
const IGNORED: [&str; 7] = [
    "--require-hashes",
    "--prefer-binary",
    "--use-pep517",
    "--no-use-pep517",
    "--no-build-isolation",
    "--no-cache-dir",
    "--upgrade",
];

/// Reads a line that holds no comment and is not empty. Relative paths are relative to `directory`.
///
/// # Errors
/// It is neither a known option nor a requirement.
pub(super) fn parse(text: &str, place: &Place, directory: &Path) -> Result<Line, RequirementError> {
    if text.starts_with('-') {
        return parse_option(text, place, directory);
    }
    let (text, sha256) = split_hashes(text, place)?;
    let kind = parse_requirement(text, place, directory)?;
    Ok(Line::Requirement(Box::new(Requirement {
        place: place.clone(),
        kind,
        sha256,
    })))
}

fn parse_option(text: &str, place: &Place, directory: &Path) -> Result<Line, RequirementError> {
    let (name, value) = split_option(text);
    let value = value.map(unquoted).filter(|value| !value.is_empty());
    let needed = || {
        value.map(str::to_owned).ok_or_else(|| RequirementError::Option {
            place: place.clone(),
            reason: format!("'{name}' needs a value"),
        })
    };
    Ok(match name {
        "-r" | "--requirement" => Line::Include(needed()?),
        "-c" | "--constraint" => Line::Constraints(needed()?),
        "-i" | "--index-url" | "--pypi-url" => Line::IndexUrl(needed()?),
        "--extra-index-url" => Line::ExtraIndexUrl(needed()?),
        "-f" | "--find-links" => Line::FindLinks(place_of_links(&needed()?, directory)),
        "--no-index" => Line::NoIndex,
        "--pre" => Line::Prereleases,
        "--no-binary" if value == Some(":none:") => Line::Nothing,
        "--no-binary" => Line::NoBinary(needed()?.split(',').map(|name| name.trim().to_owned()).collect()),
        "-e" | "--editable" => {
            let value = needed()?;
            Line::Requirement(Box::new(Requirement {
                place: place.clone(),
                kind: Kind::Source(editable(&value, directory)),
                sha256: Vec::new(),
            }))
        }
        name if IGNORED.contains(&name) || IGNORED_WITH_VALUE.contains(&name) => Line::Nothing,
        name => {
            return Err(RequirementError::Option {
                place: place.clone(),
                reason: format!("'{name}' is no option of a requirements file that is known"),
            });
        }
    })
}

/// `--name=value`, `--name value`, `-rvalue`
fn split_option(text: &str) -> (&str, Option<&str>) {
    let is_short = !text.starts_with("--");
    let end = match text.find(['=', ' ', '\t']) {
        _ if is_short => 2.min(text.len()),
        Some(end) => end,
        None => text.len(),
    };
    let Some(value) = text.get(end..) else {
        return (text, None);
    };
    let value = value.trim_start_matches(['=', ' ', '\t']).trim();
    (&text[..end], (!value.is_empty()).then_some(value))
}

fn unquoted(text: &str) -> &str {
    let text = text.trim();
    ['"', '\'']
        .into_iter()
        .find_map(|quote| text.strip_prefix(quote)?.strip_suffix(quote))
        .unwrap_or(text)
}

/// Takes ` --hash=sha256:...` (and other options of a single requirement) off the end.
fn split_hashes<'a>(text: &'a str, place: &Place) -> Result<(&'a str, Vec<[u8; 32]>), RequirementError> {
    let Some(start) = text.find(" --") else {
        return Ok((text.trim(), Vec::new()));
    };
    let (requirement, options) = text.split_at(start);
    let mut sha256 = Vec::new();
    let mut other = None;
    let options = options.replace("--hash ", "--hash=");
    for option in options.split_whitespace() {
        let Some(hash) = option.strip_prefix("--hash=") else {
            continue;
        };
        let Some(digits) = unquoted(hash).strip_prefix("sha256:").map(str::to_owned) else {
            // pip allows others, mostly beside this one.
            other = Some(unquoted(hash).split(':').next().unwrap_or_default().to_owned());
            continue;
        };
        let bytes = hex::decode(&digits).ok().and_then(|bytes| bytes.try_into().ok());
        sha256.push(bytes.ok_or_else(|| RequirementError::Option {
            place: place.clone(),
            reason: format!("'{digits}' is no SHA-256: it must have 64 hexadecimal digits"),
        })?);
    }
    match other {
        Some(algorithm) if sha256.is_empty() => Err(RequirementError::Option {
            place: place.clone(),
            reason: format!(
                "its only digest is one of '{algorithm}', and digests of sha256 are compared: add what `pip hash` prints for the file"
            ),
        }),
        _ => Ok((requirement.trim(), sha256)),
    }
}

fn parse_requirement(text: &str, place: &Place, directory: &Path) -> Result<Kind, RequirementError> {
    let text = unquoted(text);
    if let Some((name, target)) = text.split_once(" @ ").or_else(|| named_url(text)) {
        let target = target.trim();
        let (place_only, marker) = split_marker(target);
        if !is_wheel(place_only) {
            let line = format!("{} @ {}{marker}", name.trim(), absolute_url(place_only, directory));
            return Ok(Kind::Source(source(text, line, place_only, directory)));
        }
    } else if is_place(text) {
        let (place_only, marker) = split_marker(text);
        return match is_wheel(place_only).then(|| url_of(place_only, directory)).flatten() {
            Some(url) => Ok(Kind::Wheel(url)),
            None => {
                let line = format!("{}{marker}", absolute_place(place_only, directory));
                Ok(Kind::Source(source(text, line, place_only, directory)))
            }
        };
    }
    let parsed = pep508::parse(text, Some(directory)).map_err(|message| RequirementError::NotARequirement {
        place: place.clone(),
        text: text.to_owned(),
        reason: explain(text, &message),
    })?;
    if parsed.name.as_ref() == "python" {
        return Err(RequirementError::NotARequirement {
            place: place.clone(),
            text: text.to_owned(),
            reason:
                "Python is no package of PyPI: name it among the conda dependencies, or with --python; if the file \
                     is a list of conda packages, write them into an environment.yml"
                    .to_owned(),
        });
    }
    Ok(Kind::Pep508(Box::new(parsed)))
}

/// Splits ` ; marker` off the end.
fn split_marker(text: &str) -> (&str, &str) {
    let end = text.find(" ;").unwrap_or(text.len());
    (text[..end].trim(), &text[end..])
}

/// `-e PLACE`. Only a directory can be edited; uv takes a repository as it is.
pub(super) fn editable(place: &str, directory: &Path) -> Source {
    let (place_only, marker) = split_marker(place);
    let option = if is_repository(place_only) { "" } else { "-e " };
    let line = format!("{option}{}{marker}", absolute_place(place_only, directory));
    source(&format!("-e {place}"), line, place_only, directory)
}

fn source(text: &str, line: String, place: &str, directory: &Path) -> Source {
    Source {
        text: text.to_owned(),
        line,
        what: source_kind(place, directory),
    }
}

/// A place as uv reads it in any directory: a URL, or a path from the root, with the extras behind it.
fn absolute_place(place: &str, directory: &Path) -> String {
    let Some(path) = local_path(place) else {
        return place.to_owned();
    };
    let (path, extras) = path.find('[').map_or((path, ""), |at| path.split_at(at));
    format!("{}{extras}", normal(&directory.join(path)).display())
}

/// As [`absolute_place`], but always a URL, as behind a name (PEP 508).
fn absolute_url(place: &str, directory: &Path) -> String {
    let Some(path) = local_path(place) else {
        return place.to_owned();
    };
    let (path, fragment) = path.find('#').map_or((path, ""), |at| path.split_at(at));
    let path = normal(&directory.join(path));
    match Url::from_file_path(&path) {
        Ok(url) => format!("{url}{fragment}"),
        Err(()) => place.to_owned(),
    }
}

/// The path that a place is, unless it is a URL.
fn local_path(place: &str) -> Option<&str> {
    let is_url = place.contains("://") && !place.starts_with("file:");
    let path = place.strip_prefix("file://").unwrap_or(place);
    (!is_url && !is_repository(place)).then(|| path.strip_prefix("file:").unwrap_or(path))
}

/// `name@https://...`, without spaces.
fn named_url(text: &str) -> Option<(&str, &str)> {
    let (name, url) = text.split_once('@')?;
    let is_name = name.chars().all(|c| c.is_alphanumeric() || "-_.[], ".contains(c));
    (is_name && (url.contains("://") || is_place(url.trim()))).then_some((name, url))
}

/// Whether a text without a name is a URL or a path.
fn is_place(text: &str) -> bool {
    let scheme = text.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| scheme.chars().all(|c| c.is_alphanumeric() || c == '+'))
        || text.starts_with(['.', '/', '~'])
        || text.starts_with("file:")
        || text.contains(".whl")
        || [".tar.gz", ".zip", ".tar.bz2"].iter().any(|end| text.ends_with(end))
}

fn is_wheel(place: &str) -> bool {
    let path = place.split(['#', '?']).next().unwrap_or(place);
    path.trim_end().ends_with(".whl") && !is_repository(place)
}

fn is_repository(place: &str) -> bool {
    ["git+", "hg+", "svn+", "bzr+"]
        .iter()
        .any(|scheme| place.starts_with(scheme))
        || place.ends_with(".git")
}

fn source_kind(place: &str, directory: &Path) -> SourceKind {
    if is_repository(place) {
        return SourceKind::Repository;
    }
    let path = place.strip_prefix("file://").unwrap_or(place);
    let path = path.strip_prefix("file:").unwrap_or(path);
    let is_archive = [".tar.gz", ".tgz", ".zip", ".tar.bz2", ".tar.xz"]
        .iter()
        .any(|end| path.split('#').next().unwrap_or(path).ends_with(end));
    if is_archive || path.contains("://") {
        return SourceKind::Archive;
    }
    let path = path.split(['#', '[']).next().unwrap_or(path).trim();
    let joined = directory.join(path);
    SourceKind::Directory(joined.components().collect())
}

/// The absolute URL of a URL or path.
fn url_of(place: &str, directory: &Path) -> Option<Url> {
    if place.contains("://") {
        return Url::parse(place).ok();
    }
    let (path, fragment) = place
        .split_once('#')
        .map_or((place, None), |(path, fragment)| (path, Some(fragment)));
    let path = path.strip_prefix("file:").unwrap_or(path);
    let mut url = Url::from_file_path(std::path::absolute(directory.join(path)).ok()?).ok()?;
    url.set_fragment(fragment);
    Some(url)
}

fn place_of_links(place: &str, directory: &Path) -> String {
    if place.contains("://") {
        return place.to_owned();
    }
    directory.join(place).display().to_string()
}

/// Frequent mistakes, with what would be right.
fn explain(text: &str, message: &str) -> String {
    for (wrong, right) in [("=>", ">="), ("=<", "<=")] {
        if text.contains(wrong) {
            return format!("write '{right}' instead of '{wrong}'");
        }
    }
    let has_single_equals = text.find('=').is_some_and(|at| {
        let (before, after) = text.split_at(at);
        !before.ends_with(['=', '<', '>', '!', '~']) && !after.starts_with("==")
    });
    if has_single_equals && !text.contains(';') {
        return "PyPI's versions are pinned with '==', not '='".to_owned();
    }
    let message = message.lines().next().unwrap_or(message).trim_end_matches('.');
    format!(
        "{message}; it must read like 'numpy', 'numpy>=1.26,<3' or 'requests[socks]==2.32.3 ; python_version < \"3.12\"'"
    )
}
