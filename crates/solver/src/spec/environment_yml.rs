//! environment.yml: the file format of conda ([CEP 24](https://github.com/conda/ceps/blob/main/cep-0024.md)).
//!
//! Reads keys and lines with their places in the file, so that a mistake can be pointed at. Decides nothing else.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

use super::selector::Selector;
use super::{Dependency, Spec, SpecError, parse_match_spec, without_nodefaults};
use crate::known_keys::nearest;
use crate::requirements::{self, Place};
use crate::subdir::UnknownSubdir;

/// The keys a file may have, for suggestions.
const KEYS: [&str; 8] = [
    "name",
    "channels",
    "dependencies",
    "variables",
    "prefix",
    "base",
    "platforms",
    "category",
];

/// What is wrong with a file that is a list or a text.
const NO_KEYS: &str = "it does not begin with keys such as 'channels:' and 'dependencies:'";

pub(super) fn parse(text: &str, path: &Path) -> Result<Spec, SpecError> {
    let document = read_document(text, path)?;
    let mut spec = Spec {
        name: document.name,
        channels: without_nodefaults(&document.channels),
        variables: document.variables,
        base: document.base.map(|base| relative_base(&base, path)),
        origin: Some(path.to_owned()),
        ..Spec::default()
    };
    for channel in &mut spec.channels {
        *channel = relative_to_file(channel, path);
    }
    for platform in &document.platforms {
        let subdir = platform.value.parse();
        let subdir = subdir.map_err(|error: UnknownSubdir| at(path, platform.referenced, error.to_string()))?;
        spec.platforms.push(subdir);
    }
    let lines: Vec<_> = text.lines().collect();
    for entry in document.dependencies {
        read_entry(entry, &lines, path, &mut spec)?;
    }
    spec.settle_python();
    Ok(spec)
}

fn read_document(text: &str, path: &Path) -> Result<Document, SpecError> {
    let not_a_spec = |problem: &str| SpecError::NotASpec {
        path: path.to_owned(),
        problem: problem.to_owned(),
    };
    if text
        .lines()
        .map(str::trim)
        .all(|line| line.is_empty() || line.starts_with('#'))
    {
        return Err(not_a_spec("it is empty"));
    }
    let document: Document = serde_saphyr::from_str(text).map_err(|error| {
        let problem = first_line(&error);
        match error.location() {
            Some(location) if !problem.contains(NO_KEYS) => at(path, location, problem),
            _ => not_a_spec(NO_KEYS),
        }
    })?;
    if let Some(key) = document.unknown_keys.first() {
        return Err(at(path, key.referenced, unknown_key(&key.value)));
    }
    if !document.has_dependencies && document.base.is_none() {
        return Err(not_a_spec("it has no key 'dependencies'"));
    }
    Ok(document)
}

/// An item of `dependencies`.
fn read_entry(entry: Spanned<Entry>, lines: &[&str], path: &Path, spec: &mut Spec) -> Result<(), SpecError> {
    let place = entry.referenced;
    match entry.value {
        Entry::MatchSpec(text) => {
            let text = text.trim().to_owned();
            parse_match_spec(&text)
                .map_err(|reason| at(path, place, format!("'{text}' is not a MatchSpec: {reason}")))?;
            // Comments are no part of the parsed document: the selector is looked up in the line itself.
            let line = usize::try_from(place.line())
                .ok()
                .and_then(|line| lines.get(line.checked_sub(1)?));
            let selector = line.and_then(|line| Selector::of_line(line));
            spec.dependencies.push(Dependency { text, selector });
        }
        Entry::Section(name, requirements) if name == "pip" => {
            let directory = beside("", path);
            let placed = requirements.iter().map(|(line, text)| {
                let line = if *line == 0 { place.line() } else { *line };
                let path = Some(path.to_owned());
                (Place { path, line }, text.as_str())
            });
            requirements::read_lines(&mut spec.requirements, placed, &directory)?;
        }
        Entry::Section(name, _) => {
            return Err(at(
                path,
                place,
                format!("'{name}:' is no section of dependencies; if it is a package, write it without the colon"),
            ));
        }
    }
    Ok(())
}

fn at(path: &Path, place: Location, problem: String) -> SpecError {
    SpecError::Place {
        path: path.to_owned(),
        line: place.line(),
        column: place.column(),
        problem,
    }
}

#[derive(Default)]
struct Document {
    name: Option<String>,
    channels: Vec<String>,
    has_dependencies: bool,
    dependencies: Vec<Spanned<Entry>>,
    variables: BTreeMap<String, String>,
    base: Option<String>,
    platforms: Vec<Spanned<String>>,
    unknown_keys: Vec<Spanned<String>>,
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("keys such as 'channels:' and 'dependencies:'")
            }

            fn visit_str<E: Error>(self, _text: &str) -> Result<Document, E> {
                Err(E::custom(NO_KEYS))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, _seq: A) -> Result<Document, A::Error> {
                Err(A::Error::custom(NO_KEYS))
            }

            fn visit_unit<E: Error>(self) -> Result<Document, E> {
                Err(E::custom(NO_KEYS))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
                let mut document = Document::default();
                while let Some(key) = map.next_key::<Spanned<String>>()? {
                    match key.value.as_str() {
                        "name" => document.name = map.next_value()?,
                        "channels" => document.channels = map.next_value::<Option<_>>()?.unwrap_or_default(),
                        "dependencies" => {
                            document.has_dependencies = true;
                            document.dependencies = map.next_value::<Option<_>>()?.unwrap_or_default();
                        }
                        "variables" => document.variables = map.next_value::<Option<_>>()?.unwrap_or_default(),
                        "base" => document.base = map.next_value()?,
                        "platforms" => document.platforms = map.next_value::<Option<_>>()?.unwrap_or_default(),
                        "prefix" | "category" => drop(map.next_value::<IgnoredAny>()?),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            document.unknown_keys.push(key);
                        }
                    }
                }
                Ok(document)
            }
        }
        deserializer.deserialize_any(Keys)
    }
}

/// An item of `dependencies`.
enum Entry {
    MatchSpec(String),
    /// A section for another package manager, with its lines.
    Section(String, Vec<(u64, String)>),
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Item;
        impl<'de> Visitor<'de> for Item {
            type Value = Entry;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a MatchSpec such as 'numpy >=1.26', or a section 'pip:' with a list")
            }

            fn visit_str<E>(self, text: &str) -> Result<Entry, E> {
                Ok(Entry::MatchSpec(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Entry, A::Error> {
                let mut section = Entry::Section(String::new(), Vec::new());
                while let Some(name) = map.next_key::<String>()? {
                    section = Entry::Section(name, map.next_value::<Lines>()?.0);
                }
                Ok(section)
            }
        }
        deserializer.deserialize_any(Item)
    }
}

/// The lines of a section, each with its number, from 1; 0: it stands where the section does.
struct Lines(Vec<(u64, String)>);

impl<'de> Deserialize<'de> for Lines {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Section;
        impl<'de> Visitor<'de> for Section {
            type Value = Lines;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_unit<E>(self) -> Result<Lines, E> {
                Ok(Lines(Vec::new()))
            }

            fn visit_str<E>(self, text: &str) -> Result<Lines, E> {
                Ok(Lines(vec![(0, text.to_owned())]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Lines, A::Error> {
                let mut lines = Vec::new();
                while let Some(line) = seq.next_element::<Spanned<Option<String>>>()? {
                    let number = line.referenced.line();
                    lines.extend(line.value.map(|text| (number, text)));
                }
                Ok(Lines(lines))
            }
        }
        deserializer.deserialize_any(Section)
    }
}

fn unknown_key(key: &str) -> String {
    match nearest(key, &KEYS) {
        Some((distance, known)) if distance <= 3 && distance < known.len() => {
            format!("unknown key '{key}'; did you mean '{known}'?")
        }
        _ => format!("unknown key '{key}'; known keys are {}", KEYS.join(", ")),
    }
}

/// Paths in a file are relative to the file, so that it means the same from wherever it is used.
fn relative_to_file(channel: &str, file: &Path) -> String {
    if channel.starts_with("./") || channel.starts_with("../") || channel == "." || channel == ".." {
        return beside(channel, file).display().to_string();
    }
    channel.to_owned()
}

/// A base is a path if it looks like one; anything else is a signature or a name.
fn relative_base(base: &str, file: &Path) -> String {
    let path = Path::new(base);
    let is_path = base.contains('/') || path.extension().is_some();
    if is_path && path.is_relative() {
        return beside(base, file).display().to_string();
    }
    base.to_owned()
}

fn beside(relative: &str, file: &Path) -> PathBuf {
    let folder = file.parent().unwrap_or(Path::new(""));
    let joined = folder.join(relative);
    std::path::absolute(&joined).unwrap_or(joined)
}

/// The parser's messages name the place at the end of their first line and draw it below; we name it in front.
fn first_line(error: &serde_saphyr::Error) -> String {
    let error = error.without_snippet();
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    let line = line.strip_prefix("error: ").unwrap_or(line);
    line.split(" at line ").next().unwrap_or(line).to_owned()
}
