//! Keys that nobody knows: a mistyped one would ask for nothing, without a word.
//!
//! Knows lines and keys; which ones there are is the business of who reads the file.

use toml::de::{DeTable, DeValue};

/// How many letters a mistyped key of TOML differs by, and how long the right one is at least: a newer version of the tool may have
/// any other.
const MAX_DISTANCE: usize = 2;
const MIN_LEN: usize = 6;

/// Refuses a key that is mistyped for one that is `known`, in the table at `path`, where `*` stands for every key. What cannot be parsed
/// is for others to tell.
///
/// # Errors
/// The line, the key, and the one that was meant.
pub(crate) fn refuse_unknown(text: &str, path: &[&str], known: &[&str]) -> Result<(), String> {
    match DeTable::parse(text) {
        Ok(document) => refuse_in(document.get_ref(), text, path, known),
        Err(_) => Ok(()),
    }
}

fn refuse_in(table: &DeTable<'_>, text: &str, path: &[&str], known: &[&str]) -> Result<(), String> {
    if let [first, rest @ ..] = path {
        for (key, value) in table {
            match value.get_ref() {
                DeValue::Table(table) if *first == "*" || key.get_ref() == first => {
                    refuse_in(table, text, rest, known)?;
                }
                _ => {}
            }
        }
        return Ok(());
    }
    for key in table.keys() {
        let name = key.get_ref().as_ref();
        let meant =
            nearest(name, known).filter(|(distance, meant)| *distance <= MAX_DISTANCE && meant.len() >= MIN_LEN);
        if let Some((1.., meant)) = meant {
            let line = line_of(key.span().start, text);
            return Err(format!("line {line}: unknown key `{name}`; did you mean `{meant}`?"));
        }
    }
    Ok(())
}

/// The key among `known` that is most like `key`, and by how many letters it differs.
pub(crate) fn nearest<'a>(key: &str, known: &[&'a str]) -> Option<(usize, &'a str)> {
    known.iter().map(|known| (edit_distance(key, known), *known)).min()
}

/// Levenshtein's distance.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let cost = usize::from(from != *to);
            let next = (diagonal + cost).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}

/// The line, from 1, in which the byte `offset` of `text` lies.
pub(crate) fn line_of(offset: usize, text: &str) -> usize {
    text.as_bytes()[..offset.min(text.len())]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
        + 1
}
