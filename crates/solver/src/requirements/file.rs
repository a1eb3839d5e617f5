//! Requirements files: lines put together, comments taken off, other files included.
//!
//! Knows how files are laid out; what a line says is read in [`line`](super::line).

use std::fs;
use std::path::{Path, PathBuf};

use super::line::{self, Line};
use super::{Place, RequirementError, Requirements};

/// Reads a requirements file, and all that it includes.
///
/// # Errors
/// A file cannot be read, includes itself, or has a line that is neither an option nor a requirement.
pub(crate) fn read_file(path: &Path) -> Result<Requirements, RequirementError> {
    let mut requirements = Requirements::default();
    let mut reader = Reader {
        into: &mut requirements,
        open: Vec::new(),
    };
    reader.read(path, None, Role::Wanted)?;
    Ok(requirements)
}

/// Reads lines that stand elsewhere, such as in a `pip:` section. Files that they name are relative to `directory`.
///
/// # Errors
/// As [`read_file`].
pub(crate) fn read_lines<'a>(
    into: &mut Requirements,
    lines: impl IntoIterator<Item = (Place, &'a str)>,
    directory: &Path,
) -> Result<(), RequirementError> {
    let mut reader = Reader { into, open: Vec::new() };
    for (place, text) in lines {
        let text = without_comment(text);
        if !text.is_empty() {
            reader.take(text, &place, directory, Role::Wanted)?;
        }
    }
    Ok(())
}

/// What the requirements of a file are there for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    Wanted,
    Constraints,
}

struct Reader<'a> {
    into: &'a mut Requirements,
    /// The files that are being read, the outermost first.
    open: Vec<PathBuf>,
}

impl Reader<'_> {
    fn read(&mut self, path: &Path, from: Option<&Place>, role: Role) -> Result<(), RequirementError> {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        if let (Some(place), true) = (from, self.open.contains(&path)) {
            return Err(RequirementError::Cycle {
                place: place.clone(),
                path,
            });
        }
        let text = fs::read_to_string(&path).map_err(|source| RequirementError::Io {
            path: path.clone(),
            from: from.cloned(),
            source,
        })?;
        let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
        self.open.push(path.clone());
        for (line, text) in logical_lines(&text) {
            let place = Place {
                path: Some(path.clone()),
                line,
            };
            self.take(&text, &place, &directory, role)?;
        }
        self.open.pop();
        Ok(())
    }

    fn take(&mut self, text: &str, place: &Place, directory: &Path, role: Role) -> Result<(), RequirementError> {
        let sources = &mut self.into.sources;
        match line::parse(text, place, directory)? {
            Line::Requirement(requirement) if role == Role::Constraints => self.into.constraints.push(*requirement),
            Line::Requirement(requirement) => self.into.wanted.push(*requirement),
            Line::Include(file) => self.read(&directory.join(file), Some(place), role)?,
            Line::Constraints(file) => self.read(&directory.join(file), Some(place), Role::Constraints)?,
            Line::IndexUrl(url) => sources.index_url = Some(url),
            Line::ExtraIndexUrl(url) => sources.extra_index_urls.push(url),
            Line::FindLinks(place) => sources.find_links.push(place),
            Line::NoIndex => sources.no_index = true,
            Line::Prereleases => sources.allow_prereleases = true,
            Line::NoBinary(names) => sources.no_binary.extend(names),
            Line::Nothing => {}
        }
        Ok(())
    }
}

/// Lines as pip reads them: joined where they end in a backslash, without comments and empty ones; each with the number of its
/// first line, from 1.
fn logical_lines(text: &str) -> Vec<(u64, String)> {
    let mut lines = Vec::new();
    let mut open: Option<(u64, String)> = None;
    for (number, line) in (1..).zip(text.trim_start_matches('\u{feff}').lines()) {
        let is_comment = line.trim_start().starts_with('#');
        let (start, before) = open.take().unwrap_or((number, String::new()));
        match line.strip_suffix('\\') {
            Some(begun) if !is_comment => open = Some((start, format!("{before}{begun}"))),
            // A comment ends a line that was to be continued.
            _ => lines.push((start, if is_comment { before } else { format!("{before}{line}") })),
        }
    }
    lines.extend(open);
    lines
        .into_iter()
        .map(|(number, line)| (number, without_comment(&line).to_owned()))
        .filter(|(_, line)| !line.is_empty())
        .collect()
}

/// A comment begins at the line's start or after white space.
fn without_comment(line: &str) -> &str {
    let mut previous = ' ';
    for (at, c) in line.char_indices() {
        if c == '#' && previous.is_whitespace() {
            return line[..at].trim();
        }
        previous = c;
    }
    line.trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_joined_and_comments_taken_off() {
        let text = "# all\na==1 \\\n    --hash=sha256:00 \\\n    --hash=sha256:11\nb # why\nc@https://h/x#egg=c\n\nd \\\n# end\ne";
        assert_eq!(
            logical_lines(text),
            [
                (2, "a==1     --hash=sha256:00     --hash=sha256:11".to_owned()),
                (5, "b".to_owned()),
                (6, "c@https://h/x#egg=c".to_owned()),
                (8, "d".to_owned()),
                (10, "e".to_owned()),
            ]
        );
    }
}
