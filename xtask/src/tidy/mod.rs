//! `cargo xtask tidy`: the rules of this house that no other tool checks.
//!
//! `text` reads files line by line, `imports` reads which room uses which, `unsafe_code` what is unsafe. All are also a test,
//! so that `cargo test` alone finds what tidy finds.

mod code;
mod imports;
mod text;
mod unsafe_code;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::sh;

/// One thing that is not as it should be.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Finding {
    path: PathBuf,
    /// From 1; 0 means the whole file.
    line: usize,
    message: String,
    /// A warning does not fail the check.
    is_warning: bool,
}

/// A file of the repository, with its text.
pub(crate) struct Source {
    /// Relative to the root.
    path: PathBuf,
    text: String,
}

/// The command.
///
/// # Errors
/// When a rule is broken.
pub(crate) fn run() -> Result<()> {
    let findings = check(&sh::root())?;
    for finding in &findings {
        eprintln!("{finding}");
    }
    let broken = findings.iter().filter(|finding| !finding.is_warning).count();
    if broken > 0 {
        bail!("tidy: {broken} rules are broken");
    }
    println!("tidy: all rules kept, {} warnings", findings.len());
    Ok(())
}

/// Everything that is not tidy below `root`, sorted by place.
///
/// # Errors
/// When the files cannot be listed or read.
pub(crate) fn check(root: &Path) -> Result<Vec<Finding>> {
    let sources = sources(root)?;
    let mut findings = Vec::new();
    for source in &sources {
        text::check(source, root, &mut findings);
    }
    imports::check_crates(&sources, &mut findings);
    imports::check_modules(&sources, &mut findings);
    unsafe_code::check(&sources, &mut findings);
    findings.sort();
    Ok(findings)
}

/// Every text file that is, or would be, under version control.
fn sources(root: &Path) -> Result<Vec<Source>> {
    let mut git = sh::command("git");
    git.current_dir(root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let listed = sh::capture(&mut git)?;
    let mut sources = Vec::new();
    // What fuzzing found is nobody's text.
    let is_text = |path: &&str| !path.is_empty() && !path.ends_with(".lock") && !path.starts_with("fuzz/corpus/");
    for path in listed.split('\0').filter(is_text) {
        // Binary files and files that were deleted but not yet committed have no text to check.
        if let Ok(text) = std::fs::read_to_string(root.join(path)) {
            sources.push(Source {
                path: path.into(),
                text,
            });
        }
    }
    Ok(sources)
}

impl Finding {
    fn error(source: &Source, line: usize, message: impl Into<String>) -> Self {
        Self {
            path: source.path.clone(),
            line,
            message: message.into(),
            is_warning: false,
        }
    }

    fn warning(source: &Source, line: usize, message: impl Into<String>) -> Self {
        Self {
            is_warning: true,
            ..Self::error(source, line, message)
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = if self.is_warning { "warning" } else { "error" };
        write!(
            formatter,
            "{}:{}: {level}: {}",
            self.path.display(),
            self.line,
            self.message
        )
    }
}

impl Source {
    fn is_rust(&self) -> bool {
        self.path.extension().is_some_and(|extension| extension == "rs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_repository_is_tidy() {
        let broken: Vec<Finding> = check(&sh::root())
            .unwrap()
            .into_iter()
            .filter(|finding| !finding.is_warning)
            .collect();
        let list: Vec<String> = broken.iter().map(ToString::to_string).collect();
        assert!(broken.is_empty(), "run `cargo xtask tidy`:\n{}", list.join("\n"));
    }

    #[test]
    fn each_rule_finds_what_breaks_it() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        sh::run_quiet(sh::command("git").current_dir(root.path()).arg("init")).unwrap();
        write(
            "crates/store/Cargo.toml",
            "[package]\nname = \"envfs-store\"\n[dependencies]\nenvfs-fuse.workspace = true\n",
        );
        write("crates/store/src/lib.rs", "fn no_room_comment() {}\n");
        write(
            "crates/store/src/a.rs",
            "//! A.\nuse crate::b::B;\nfn f() { println!(\"{}\", 1); }\n",
        );
        write(
            "crates/store/src/b.rs",
            "//! B.\nuse super::a;\nfn f() { std::env::var(\"X\"); } \n",
        );
        write(
            "crates/store/src/c.rs",
            "//! C.\n// FIX\u{4d}E later\n#[cfg(test)]\nmod tests { fn f() { println!(); } }\n",
        );
        write("crates/store/src/d.rs", "//! D.\nfn f() { std::fs::rename(a, b); }\n");
        write(
            "crates/store/src/durable.rs",
            "//! The one.\nfn f() { std::fs::rename(a, b); }\n",
        );
        write("README.md", "See [this](docs/missing.md).\n");
        write("long.rs", &format!("//! Long.\n{}", "//\n".repeat(700)));
        let found: Vec<String> = check(root.path()).unwrap().iter().map(ToString::to_string).collect();
        let expected = [
            ("README.md:1", "missing.md"),
            ("crates/store/Cargo.toml:4", "may not depend on envfs-fuse"),
            ("crates/store/src/a.rs:0", "a -> b -> a"),
            ("crates/store/src/a.rs:3", "println!"),
            ("crates/store/src/b.rs:3", "env::var"),
            ("crates/store/src/b.rs:3", "white space"),
            ("crates/store/src/c.rs:2", "FIX"),
            ("crates/store/src/d.rs:2", "through crates/store/src/durable.rs"),
            ("crates/store/src/lib.rs:1", "//!"),
            ("long.rs:0", "701 lines"),
        ];
        for (place, words) in expected {
            assert!(
                found.iter().any(|line| line.starts_with(place) && line.contains(words)),
                "{place} {words}: {found:#?}"
            );
        }
        assert_eq!(found.len(), expected.len(), "{found:#?}");
    }
}
