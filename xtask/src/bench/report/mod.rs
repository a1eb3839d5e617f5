//! Writing the figures down: tables for people, JSON for programs, plots for who passes by.

mod goals;
mod plot;
mod shown;

use std::collections::HashSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use self::shown::{cell, shown, spread_json};
use super::contenders::{EXT4, SPAWN};
use super::entries::{Entry, compared};
use super::rows::{Group, ROWS, Unit};
use super::world::{SPECS, World};

/// Everything that a run gave.
pub(super) struct Report<'a> {
    pub(super) world: &'a World,
    pub(super) entries: &'a [Entry],
    /// How many rounds each group had.
    pub(super) rounds: &'a [(Group, usize)],
    pub(super) took: Duration,
    pub(super) is_quick: bool,
}

/// With whom is compared.
const REFERENCES: (&str, &str) = (SPAWN, EXT4);

impl Report<'_> {
    /// Writes the document, the JSON file and the plots.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(super) fn write(&self, markdown: &Path) -> Result<()> {
        let write = |path: &Path, text: &str| -> Result<()> {
            fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
            println!("written: {}", path.display());
            Ok(())
        };
        if let Some(parent) = markdown.parent() {
            fs::create_dir_all(parent)?;
        }
        let stem = markdown.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let mut plots = String::new();
        for plot in plot::PLOTS {
            if let Some(svg) = plot.svg(self.entries) {
                let name = format!("{stem}-{}.svg", plot.name);
                write(&markdown.with_file_name(&name), &svg)?;
                let _ = writeln!(plots, "![{}]({name})\n", plot.title);
            }
        }
        write(markdown, &self.document(&plots))?;
        write(&markdown.with_extension("json"), &self.json()?)
    }

    /// The document without plots, for a terminal.
    pub(super) fn markdown(&self) -> String {
        self.document("")
    }

    fn document(&self, plots: &str) -> String {
        let mut out = String::from("# Benchmarks\n\nMade by `cargo xtask bench`; do not edit.\n\n");
        let _ = writeln!(out, "{}\n", self.conditions());
        out.push_str(plots);
        goals::write(&mut out, self.entries);
        for (group, count) in self.rounds {
            self.group(&mut out, *group, *count);
        }
        self.made_once(&mut out);
        self.contenders(&mut out);
        out
    }

    fn conditions(&self) -> String {
        let machine = &self.world.machine;
        let (modules, compiled) = self.modules();
        let text = |key: &str| machine[key].as_str().unwrap_or("unknown").to_owned();
        format!(
            "- The machine: {}, {} cores{}, {} of memory, Linux {}, {}; load {} before the run.\n\
             - The real environment: `{}` and what these need, {} files; the other one: 100,000 small files and one of 100 MB.\n\
             - All in one run of {:.0} s{}. In each round every contender is measured once, in an order that rotates. A cell says the \
             median of the ratios to the reference in the same round, the median, and in brackets the quartiles. The reference is \
             `{SPAWN}` for commands and `{EXT4}` for files.\n\
             - `PYTHONDONTWRITEBYTECODE` is unset for all. What is served is the same for all, byte for byte but for the prefix: {} of {} \
             modules have their .pyc, and no contender can write more.\n\
             - *File-system time* is the time of the calls that `python -c 'import numpy, pandas, sklearn'` makes, replayed without the \
             interpreter (`benches/replay`): {}. Maps are read a byte every 64 KiB.\n\
             - Tools: {}.",
            text("cpu"),
            machine["cores"],
            if machine["virtual"] == true {
                " (a virtual machine)"
            } else {
                ""
            },
            text("memory"),
            text("kernel"),
            text("file_system"),
            machine["load_before"],
            SPECS.join(" "),
            self.lines("stat"),
            self.took.as_secs_f64(),
            if self.is_quick {
                " (`--quick`: too few rounds to publish)"
            } else {
                ""
            },
            compiled,
            modules,
            self.calls(),
            self.world.tools.versions.join(", "),
        )
    }

    /// How many lines a trace has.
    fn lines(&self, trace: &str) -> usize {
        fs::read_to_string(self.world.trace(trace)).map_or(0, |text| text.lines().count())
    }

    /// How many Python modules the real environment has, and how many of them compiled.
    fn modules(&self) -> (usize, usize) {
        let text = fs::read_to_string(self.world.trace("stat")).unwrap_or_default();
        let names = || {
            text.lines()
                .filter_map(|line| line.split_once(' ').map(|(_, name)| name))
        };
        // `a/__pycache__/b.cpython-311.pyc` is of `a/b.py` (PEP 3147).
        let source = |name: &str| {
            let (directory, file) = name.strip_suffix(".pyc")?.split_once("__pycache__/")?;
            Some(format!("{directory}{}.py", file.split('.').next()?))
        };
        let compiled: HashSet<String> = names().filter_map(source).collect();
        let modules = names().filter(|name| name.ends_with(".py"));
        modules.fold((0, 0), |(all, with), name| {
            (all + 1, with + usize::from(compiled.contains(name)))
        })
    }

    /// What the recorded import is made of, most frequent first.
    fn calls(&self) -> String {
        let text = fs::read_to_string(self.world.trace("import")).unwrap_or_default();
        let mut counts = std::collections::BTreeMap::new();
        for line in text.lines() {
            *counts.entry(line.split(' ').next().unwrap_or_default()).or_insert(0) += 1;
        }
        let mut counts: Vec<(&str, i32)> = counts.into_iter().collect();
        counts.sort_by_key(|(_, count)| -count);
        counts
            .iter()
            .map(|(call, count)| format!("{count} {call}"))
            .collect::<Vec<_>>()
            .join(", ")
    }

    fn group(&self, out: &mut String, group: Group, count: usize) {
        let _ = writeln!(
            out,
            "## {}\n\n{} At most {count} rounds; `--only {}` repeats it.\n",
            group.title(),
            group.about(),
            group.name()
        );
        if !self.entries.iter().any(|entry| entry.has_any(group)) {
            out.push_str("Not measured: the time was up, or nobody could.\n\n");
        }
        row(out, "", group.rows().map(|row| row.label.to_owned()));
        row(out, "---", group.rows().map(|_| "---:".to_owned()));
        for entry in self.entries.iter().filter(|entry| entry.has_any(group)) {
            let cells = group.rows().map(|row| match entry.samples(row.key) {
                Some(samples) => cell(row.unit, samples, compared(self.entries, row, REFERENCES)),
                None => "–".to_owned(),
            });
            row(out, entry.name, cells);
        }
        out.push('\n');
        for entry in self.entries {
            if let Some(reason) = entry.failed.get(&group) {
                let _ = writeln!(out, "No figures for {}: {}\n", entry.name, first_line(reason));
            }
        }
        for row in group.rows() {
            let _ = writeln!(out, "- {}: `{}`", row.label, row.command);
        }
        out.push('\n');
    }

    fn made_once(&self, out: &mut String) {
        out.push_str(
            "## Made once\n\nWhat had to be made before the real environment could be offered for the first time; one sample each. For images, \
             the image. For a backend of envfs, the first mount of all, which may fill a cache in the store; before it, `envfs build \
             --offline pixi.lock` with the packages in the store.\n\n",
        );
        row(out, "", ["time", "bytes", "inodes"].map(str::to_owned).into_iter());
        row(out, "---", ["---:"; 3].map(str::to_owned).into_iter());
        let build = self.world.made_once.get("envfs").map(|made| ("envfs build", *made));
        let others = self
            .entries
            .iter()
            .filter_map(|entry| Some((entry.name, entry.made_once?)));
        for (name, made) in build.into_iter().chain(others) {
            #[expect(clippy::cast_precision_loss, reason = "sizes far below 2^53")]
            let cells = [
                shown(Unit::Milliseconds, made.took_ms),
                shown(Unit::Bytes, made.bytes as f64),
                shown(Unit::Count, made.inodes as f64),
            ];
            row(out, name, cells.into_iter());
        }
        out.push('\n');
    }

    fn contenders(&self, out: &mut String) {
        out.push_str(
            "## Contenders\n\n`DIR` is an empty directory; paths are relative to the root of the repository.\n",
        );
        for entry in self.entries {
            let _ = writeln!(out, "\n### {}\n\n{}\n", entry.name, entry.about);
            if let Some(reason) = &entry.absent {
                let _ = writeln!(out, "Takes no part: {}", first_line(reason));
            }
            for (what, command) in &entry.commands {
                let _ = writeln!(out, "- {what}: `{command}`");
            }
        }
    }

    /// The same and every sample.
    fn json(&self) -> Result<String> {
        let rows: Vec<Value> = ROWS
            .iter()
            .map(|row| json!({"key": row.key, "label": row.label, "group": row.group.name(), "command": row.command}))
            .collect();
        let rounds: Map<String, Value> = self
            .rounds
            .iter()
            .map(|(group, count)| (group.name().to_owned(), json!(count)))
            .collect();
        let document = json!({
            "packages": SPECS, "machine": self.world.machine, "tools": self.world.tools.versions, "quick": self.is_quick,
            "rounds": rounds, "figures": rows, "goals": goals::json(self.entries),
            "contenders": self.entries.iter().map(|entry| self.entry_json(entry)).collect::<Vec<_>>(),
        });
        Ok(format!("{}\n", serde_json::to_string_pretty(&document)?))
    }

    fn entry_json(&self, entry: &Entry) -> Value {
        let mut figures = Map::new();
        for row in &ROWS {
            if let Some(samples) = entry.samples(row.key) {
                let ratios = compared(self.entries, row, REFERENCES).and_then(|to| samples.ratios(to));
                figures.insert(
                    row.key.to_owned(),
                    json!({"value": spread_json(samples.spread()), "ratio": spread_json(ratios), "samples": samples.values()}),
                );
            }
        }
        let commands: Map<String, Value> = entry
            .commands
            .iter()
            .map(|(what, command)| ((*what).to_owned(), json!(command)))
            .collect();
        let failed: Map<String, Value> = entry
            .failed
            .iter()
            .map(|(group, reason)| (group.name().to_owned(), json!(reason)))
            .collect();
        json!({
            "name": entry.name, "about": entry.about, "absent": entry.absent, "failed": failed, "commands": commands,
            "made_once": entry.made_once, "figures": figures,
        })
    }
}

fn row(out: &mut String, label: &str, cells: impl Iterator<Item = String>) {
    let _ = write!(out, "| {label} |");
    for cell in cells {
        let _ = write!(out, " {cell} |");
    }
    out.push('\n');
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}
