//! What one contender gave: its figures, how to repeat them, and why some are missing. It measures nothing.

use std::collections::BTreeMap;

use super::figures::Samples;
use super::rows::{Against, Group, Row};
use super::world::MadeOnce;

/// A contender in the report.
pub(super) struct Entry {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    /// How a person offers it, takes it away, and runs `true` in it.
    pub(super) commands: Vec<(&'static str, String)>,
    pub(super) made_once: Option<MadeOnce>,
    /// Why it takes no part at all.
    pub(super) absent: Option<String>,
    /// Why it has no figures in a group in which it takes part.
    pub(super) failed: BTreeMap<Group, String>,
    samples: BTreeMap<&'static str, Samples>,
}

impl Entry {
    pub(super) fn new(name: &'static str, about: &'static str) -> Self {
        Self {
            name,
            about,
            commands: Vec::new(),
            made_once: None,
            absent: None,
            failed: BTreeMap::new(),
            samples: BTreeMap::new(),
        }
    }

    pub(super) fn add(&mut self, key: &'static str, round: usize, value: f64) {
        self.samples.entry(key).or_default().add(round, value);
    }

    /// Takes it out of a group: half a series is none.
    pub(super) fn fail(&mut self, group: Group, reason: String) {
        for row in group.rows() {
            self.samples.remove(row.key);
        }
        self.failed.insert(group, reason);
    }

    pub(super) fn samples(&self, key: &str) -> Option<&Samples> {
        self.samples.get(key)
    }

    pub(super) fn has_any(&self, group: Group) -> bool {
        group.rows().any(|row| self.samples.contains_key(row.key))
    }
}

/// The entry of a name.
pub(super) fn named<'a>(entries: &'a [Entry], name: &str) -> Option<&'a Entry> {
    entries.iter().find(|entry| entry.name == name)
}

/// The samples to which a figure is compared.
pub(super) fn compared<'a>(entries: &'a [Entry], row: &Row, names: (&str, &str)) -> Option<&'a Samples> {
    let (spawn, ext4) = names;
    let name = match row.against {
        Against::Spawn => spawn,
        Against::Ext4 => ext4,
        Against::Nothing => return None,
    };
    named(entries, name)?.samples(row.key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_group_has_no_figures_and_others_stay() {
        let mut entry = Entry::new("x", "");
        entry.add("new_inodes", 0, 3.0);
        entry.add("warm_import_ms", 0, 3.0);
        entry.fail(Group::Warm, "broke".to_owned());
        assert!(entry.samples("warm_import_ms").is_none() && entry.has_any(Group::Create));
        assert_eq!(entry.failed[&Group::Warm], "broke");
    }
}
