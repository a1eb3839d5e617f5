//! Keys of TOML that nobody knows: a mistyped one would ask for nothing, without a word.
//!
//! Knows lines and keys; which ones there are is the business of who reads the file.

use toml::de::{DeTable, DeValue};

/// Refuses a key that is not `known`, in the table at `path`, where `*` stands for every key. What cannot be parsed is for others to tell.
///
/// # Errors
/// The line, the key, and what is known.
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
    match table.keys().find(|key| !known.contains(&key.get_ref().as_ref())) {
        None => Ok(()),
        Some(key) => {
            let line = line_of(key.span().start, text);
            let name = key.get_ref();
            Err(format!(
                "line {line}: unknown key `{name}`, expected one of {}",
                known.join(", ")
            ))
        }
    }
}

/// The line, from 1, in which the byte `offset` of `text` lies.
pub(crate) fn line_of(offset: usize, text: &str) -> usize {
    text.as_bytes()[..offset.min(text.len())]
        .iter()
        .filter(|byte| **byte == b'\n')
        .count()
        + 1
}
