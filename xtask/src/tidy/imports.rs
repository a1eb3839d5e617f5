//! Rules about who may use whom: crates in one direction, and no cycles among the rooms of a crate.
//!
//! Rooms are compared with their siblings: the modules that lie in one directory, each with all that is below it. A
//! parent (`lib.rs`, `mod.rs`) is no sibling: it may use its children, and they the nouns that it holds for all.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::code::{is_test_file, shipping_lines};
use super::{Finding, Source};

/// Which of our crates each of our crates may depend on.
const ALLOWED: [(&str, &[&str]); 8] = [
    ("envfs-store", &[]),
    ("envfs-solver", &["envfs-store"]),
    ("envfs-fuse", &["envfs-store"]),
    ("envfs-cli", &["envfs-store", "envfs-solver", "envfs-fuse"]),
    (
        "envfs-tests",
        &["envfs-store", "envfs-solver", "envfs-fuse", "envfs-cli"],
    ),
    (
        "envfs-fuzz",
        &["envfs-store", "envfs-solver", "envfs-fuse", "envfs-tests"],
    ),
    ("envfs-bench-replay", &[]),
    ("xtask", &[]),
];

/// Uses among siblings: who, to whom.
type Graph = BTreeMap<String, BTreeSet<String>>;

/// Checks the direction of dependencies between crates, as their Cargo.toml files state them.
pub(super) fn check_crates(sources: &[Source], findings: &mut Vec<Finding>) {
    let manifests = sources
        .iter()
        .filter(|source| source.path.ends_with("Cargo.toml") && source.path != Path::new("Cargo.toml"));
    for manifest in manifests {
        let mut section = "";
        let mut name = "";
        for (index, line) in manifest.text.lines().enumerate() {
            if line.starts_with('[') {
                section = line.trim_matches(['[', ']']);
            }
            let (key, value) = line.split_once('=').unwrap_or((line, ""));
            if section == "package" && key.trim() == "name" {
                name = value.trim().trim_matches('"');
            }
            let dependency = key.trim().split('.').next().unwrap_or_default();
            let is_ours =
                section.ends_with("dependencies") && (dependency.starts_with("envfs-") || dependency == "xtask");
            if is_ours && !allowed(name).is_some_and(|allowed| allowed.contains(&dependency)) {
                findings.push(Finding::error(
                    manifest,
                    index + 1,
                    format!("{name} may not depend on {dependency}"),
                ));
            }
        }
        if allowed(name).is_none() {
            findings.push(Finding::error(
                manifest,
                0,
                format!("{name} has no place in the order of crates: give it one in xtask's tidy"),
            ));
        }
    }
}

/// Checks that siblings do not use each other in a circle.
pub(super) fn check_modules(sources: &[Source], findings: &mut Vec<Finding>) {
    let mut levels: BTreeMap<PathBuf, Graph> = BTreeMap::new();
    for source in sources
        .iter()
        .filter(|source| source.is_rust() && !is_test_file(&source.path))
    {
        let Some((root, module)) = module_path(&source.path) else {
            continue;
        };
        let code: String = shipping_lines(&source.text)
            .iter()
            .map(|line| format!("{}\n", line.text))
            .collect();
        for used in uses(&code, &module) {
            let shared = module
                .iter()
                .zip(&used)
                .take_while(|(left, right)| left == right)
                .count();
            if let (Some(from), Some(to)) = (module.get(shared), used.get(shared)) {
                let level = module[..shared].iter().fold(root.clone(), |path, part| path.join(part));
                levels
                    .entry(level)
                    .or_default()
                    .entry(from.clone())
                    .or_default()
                    .insert(to.clone());
            }
        }
    }
    for (directory, graph) in &levels {
        if let Some(cycle) = cycle(graph) {
            let room = directory.join(&cycle[0]);
            let file = sources
                .iter()
                .find(|source| source.path == room.with_extension("rs") || source.path == room.join("mod.rs"));
            if let Some(file) = file {
                findings.push(Finding::error(
                    file,
                    0,
                    format!("these use each other in a circle: {}", cycle.join(" -> ")),
                ));
            }
        }
    }
}

fn allowed(name: &str) -> Option<&'static [&'static str]> {
    ALLOWED
        .iter()
        .find(|(crate_name, _)| *crate_name == name)
        .map(|(_, allowed)| *allowed)
}

/// The source root of a file's crate, and its module path; the crate's root module is empty.
fn module_path(path: &Path) -> Option<(PathBuf, Vec<String>)> {
    let parts: Vec<String> = path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
    let src = parts.iter().position(|part| part == "src")?;
    let mut module: Vec<String> = parts[src + 1..].to_vec();
    let file = module.pop()?;
    match file.strip_suffix(".rs")? {
        "lib" | "main" | "mod" => {}
        stem => module.push(stem.to_owned()),
    }
    Some((parts[..=src].iter().collect(), module))
}

/// The absolute module paths that code names by `crate::`, `super::` or `self::`.
fn uses(code: &str, module: &[String]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for keyword in ["crate::", "super::", "self::"] {
        for (at, _) in code.match_indices(keyword) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
                continue;
            }
            let mut tree = Vec::new();
            expand(&code[at..], &mut Vec::new(), &mut tree);
            found.extend(tree.iter().filter_map(|path| absolute(path, module)));
        }
    }
    found
}

/// Turns a path as written into one from the crate's root.
fn absolute(path: &[String], module: &[String]) -> Option<Vec<String>> {
    let mut base = match path.first()?.as_str() {
        "crate" => Vec::new(),
        _ => module.to_vec(),
    };
    let supers = path.iter().filter(|part| *part == "super").count();
    base.truncate(base.len().checked_sub(supers)?);
    base.extend(
        path.iter()
            .filter(|part| !["crate", "super", "self"].contains(&part.as_str()))
            .cloned(),
    );
    Some(base)
}

/// Expands `a::{b, c::d}` into `a::b` and `a::c::d`; returns what follows the tree.
fn expand<'a>(text: &'a str, prefix: &mut Vec<String>, out: &mut Vec<Vec<String>>) -> &'a str {
    let depth = prefix.len();
    let mut rest = text.trim_start();
    loop {
        if let Some(group) = rest.strip_prefix('{') {
            rest = group.trim_start();
            while !rest.is_empty() && !rest.starts_with('}') {
                let before = rest.len();
                rest = expand(rest, prefix, out).trim_start();
                rest = rest.strip_prefix(',').unwrap_or(rest).trim_start();
                if rest.len() == before {
                    break;
                }
            }
            prefix.truncate(depth);
            return rest.strip_prefix('}').unwrap_or(rest);
        }
        let end = rest
            .find(|c: char| !(c.is_alphanumeric() || c == '_'))
            .unwrap_or(rest.len());
        prefix.push(rest[..end].to_owned());
        rest = &rest[end..];
        match rest.strip_prefix("::") {
            Some(next) if next.starts_with(|c: char| c.is_alphanumeric() || c == '_' || c == '{') => rest = next,
            _ => break,
        }
    }
    out.push(prefix.clone());
    prefix.truncate(depth);
    // `as name` and `::*` belong to this branch.
    let end = rest.find([',', '}', ';']).unwrap_or(rest.len());
    &rest[end..]
}

/// A circle in the graph, its first room named again at the end.
fn cycle(graph: &Graph) -> Option<Vec<String>> {
    let mut done = BTreeSet::new();
    graph
        .keys()
        .find_map(|start| walk(graph, start, &mut Vec::new(), &mut done))
}

fn walk(graph: &Graph, room: &str, path: &mut Vec<String>, done: &mut BTreeSet<String>) -> Option<Vec<String>> {
    if let Some(start) = path.iter().position(|earlier| earlier == room) {
        let mut circle = path[start..].to_vec();
        circle.push(room.to_owned());
        return Some(circle);
    }
    if !done.insert(room.to_owned()) {
        return None;
    }
    path.push(room.to_owned());
    let found = graph
        .get(room)
        .into_iter()
        .flatten()
        .find_map(|next| walk(graph, next, path, done));
    path.pop();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(path: &str) -> Vec<String> {
        path.split("::")
            .filter(|part| !part.is_empty())
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn uses_are_read_from_groups_and_expressions() {
        let code = "use crate::{a, b::{C, d::E as F}};\nuse super::g::*;\nlet x = crate::h::i(crate::j);\nuse other::crate_name;\n";
        let mut found: Vec<String> = uses(code, &module("m::n")).iter().map(|path| path.join("::")).collect();
        found.sort();
        assert_eq!(found, ["a", "b::C", "b::d::E", "h::i", "j", "m::g"]);
    }

    #[test]
    fn a_circle_is_found_behind_a_tail() {
        let graph: Graph = [("a", "b"), ("b", "c"), ("c", "b")]
            .map(|(from, to)| (from.to_owned(), BTreeSet::from([to.to_owned()])))
            .into();
        assert_eq!(cycle(&graph).unwrap(), ["b", "c", "b"]);
        assert_eq!(
            cycle(&Graph::from([("a".to_owned(), BTreeSet::from(["b".to_owned()]))])),
            None
        );
    }

    #[test]
    fn files_are_modules() {
        let path = |path: &str| module_path(Path::new(path)).map(|(_, module)| module.join("::"));
        assert_eq!(path("crates/store/src/lib.rs").as_deref(), Some(""));
        assert_eq!(path("crates/store/src/pack/mod.rs").as_deref(), Some("pack"));
        assert_eq!(path("crates/store/src/pack/read.rs").as_deref(), Some("pack::read"));
        assert_eq!(path("build.rs"), None);
    }
}
