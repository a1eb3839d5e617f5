//! Which environments go: of those that nothing keeps, the ones that were not used for the longest time.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use super::inventory::{Holding, Inventory};
use crate::digest::{Digest, Sha256};

/// An environment that nothing keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) signature: Digest,
    pub(crate) base: Option<Digest>,
    pub(crate) last_used_unix_s: u64,
}

/// How much may stay.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) now_unix_s: u64,
    pub(crate) grace: Duration,
    pub(crate) max_age: Option<Duration>,
    pub(crate) max_bytes: Option<u64>,
}

/// Chooses among `candidates`. `bytes_without` says how large the store is when something more is removed.
///
/// Without limits all go that were not used within the grace. With a limit on the age those go that are older, and with one
/// on the size as many as it takes. What another one that stays inherits from stays, too.
pub(crate) fn choose(candidates: &[Candidate], limits: &Limits, sizes: &mut Sizes<'_>) -> HashSet<Digest> {
    let mut by_use: Vec<Candidate> = with_heirs(candidates);
    by_use.sort_by_key(|candidate| (candidate.last_used_unix_s, candidate.signature));
    let heirs = |chosen: &HashSet<Digest>, base: &Digest| {
        candidates
            .iter()
            .any(|other| other.base == Some(*base) && !chosen.contains(&other.signature))
    };
    let mut chosen = HashSet::new();
    // Whoever inherits is as old as what it inherits from, or older: a second look finds the bases free.
    loop {
        let before = chosen.len();
        for candidate in &by_use {
            let age = Duration::from_secs(limits.now_unix_s.saturating_sub(candidate.last_used_unix_s));
            let is_excess = || match (limits.max_age, limits.max_bytes) {
                (None, None) => true,
                (max_age, max_bytes) => {
                    max_age.is_some_and(|max| age > max) || max_bytes.is_some_and(|max| sizes.total_bytes() > max)
                }
            };
            if age >= limits.grace
                && !chosen.contains(&candidate.signature)
                && !heirs(&chosen, &candidate.signature)
                && is_excess()
            {
                chosen.insert(candidate.signature);
                sizes.remove(&candidate.signature);
            }
        }
        if chosen.len() == before {
            return chosen;
        }
    }
}

/// Whoever uses an environment uses what it inherits from.
fn with_heirs(candidates: &[Candidate]) -> Vec<Candidate> {
    let mut used: HashMap<Digest, u64> = HashMap::new();
    for candidate in candidates {
        let mut at = Some(candidate.signature);
        while let Some(signature) = at {
            let last = used.entry(signature).or_default();
            *last = (*last).max(candidate.last_used_unix_s);
            at = candidates
                .iter()
                .find(|other| other.signature == signature)
                .and_then(|other| other.base);
        }
    }
    candidates
        .iter()
        .map(|candidate| Candidate {
            last_used_unix_s: used[&candidate.signature],
            ..*candidate
        })
        .collect()
}

/// How large the store is while environments are taken away.
pub(crate) struct Sizes<'a> {
    inventory: &'a Inventory,
    holdings: &'a BTreeMap<Digest, Holding>,
    objects: Vec<u32>,
    trees: HashMap<Digest, u32>,
    layers: HashMap<Sha256, u32>,
    total_bytes: u64,
}

impl<'a> Sizes<'a> {
    /// With everything that `holdings` list.
    pub(crate) fn new(inventory: &'a Inventory, holdings: &'a BTreeMap<Digest, Holding>) -> Self {
        let mut this = Self {
            inventory,
            holdings,
            objects: vec![0; inventory.len()],
            trees: HashMap::new(),
            layers: HashMap::new(),
            total_bytes: 0,
        };
        for holding in holdings.values() {
            for number in inventory.objects_of(holding) {
                let count = &mut this.objects[number as usize];
                *count += 1;
                if *count == 1 {
                    this.total_bytes += inventory.size_bytes(number);
                }
            }
            for tree in &holding.trees {
                let count = this.trees.entry(*tree).or_default();
                *count += 1;
                if *count == 1 {
                    this.total_bytes += inventory.tree(tree).file_bytes;
                }
            }
            for layer in &holding.layers {
                let count = this.layers.entry(*layer).or_default();
                *count += 1;
                if *count == 1 {
                    this.total_bytes += inventory.layer(layer).file_bytes;
                }
            }
        }
        this
    }

    /// What everything that is held takes on disk, in bytes.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// What only this environment holds, in bytes.
    pub(crate) fn unique_bytes(&self, signature: &Digest) -> u64 {
        let holding = &self.holdings[signature];
        let objects = self.inventory.objects_of(holding).into_iter();
        let objects = objects.filter(|&number| self.objects[number as usize] == 1);
        let trees = holding.trees.iter().filter(|tree| self.trees[*tree] == 1);
        let layers = holding.layers.iter().filter(|layer| self.layers[*layer] == 1);
        objects.map(|number| self.inventory.size_bytes(number)).sum::<u64>()
            + trees.map(|tree| self.inventory.tree(tree).file_bytes).sum::<u64>()
            + layers.map(|layer| self.inventory.layer(layer).file_bytes).sum::<u64>()
    }

    /// Takes an environment away.
    pub(crate) fn remove(&mut self, signature: &Digest) {
        self.total_bytes -= self.unique_bytes(signature);
        let holding = &self.holdings[signature];
        for number in self.inventory.objects_of(holding) {
            self.objects[number as usize] -= 1;
        }
        for tree in &holding.trees {
            self.trees.entry(*tree).and_modify(|count| *count -= 1);
        }
        for layer in &holding.layers {
            self.layers.entry(*layer).and_modify(|count| *count -= 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(name: u8) -> Digest {
        Digest::of(&[name])
    }

    fn chosen(candidates: &[(u8, Option<u8>, u64)], limits: &Limits) -> Vec<u8> {
        let candidates: Vec<_> = candidates
            .iter()
            .map(|&(name, base, last_used_unix_s)| Candidate {
                signature: digest(name),
                base: base.map(digest),
                last_used_unix_s,
            })
            .collect();
        let inventory = Inventory::default();
        let holdings = candidates
            .iter()
            .map(|candidate| (candidate.signature, Holding::default()))
            .collect();
        let chosen = choose(&candidates, limits, &mut Sizes::new(&inventory, &holdings));
        (0..u8::MAX).filter(|&name| chosen.contains(&digest(name))).collect()
    }

    #[test]
    fn the_old_go_and_what_is_inherited_stays() {
        let limits = Limits {
            now_unix_s: 100,
            grace: Duration::from_secs(10),
            max_age: None,
            max_bytes: None,
        };
        // 2 inherits from 1 and was just used; 4 inherits from 3, and both are old; 5 is young.
        let candidates = [
            (1, None, 1),
            (2, Some(1), 95),
            (3, None, 5),
            (4, Some(3), 50),
            (5, None, 91),
        ];
        assert_eq!(chosen(&candidates, &limits), [3, 4]);
        let aged = |seconds| Limits {
            max_age: Some(Duration::from_secs(seconds)),
            ..limits
        };
        assert_eq!(chosen(&candidates, &aged(49)), [3, 4]);
        assert_eq!(chosen(&candidates, &aged(50)), [0; 0]);
        let sized = Limits {
            max_bytes: Some(0),
            ..limits
        };
        assert_eq!(chosen(&candidates, &sized), [0; 0], "nothing takes room here");
    }
}
