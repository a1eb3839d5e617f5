//! Writing the figures down: a markdown table for people, JSON for programs.

use std::fmt::Write;

use anyhow::Result;
use serde_json::{Map, Value, json};

use super::figures::Column;
use super::measures::Measure;
use super::world::{SPECS, World};

/// Everything that a run gave.
pub(super) struct Report<'a> {
    pub(super) rounds: usize,
    pub(super) world: &'a World,
    pub(super) columns: &'a [Column],
}

impl Report<'_> {
    /// The document.
    pub(super) fn markdown(&self) -> String {
        let mut out = String::from("# Benchmarks\n\nMade by `cargo xtask bench`; do not edit.\n\n");
        let _ = writeln!(out, "{}\n", self.conditions());
        self.table(&mut out);
        self.spreads(&mut out);
        self.contenders(&mut out);
        out
    }

    /// The same and every sample.
    ///
    /// # Errors
    /// When it cannot be written as JSON.
    pub(super) fn json(&self) -> Result<String> {
        let columns: Vec<Value> = self.columns.iter().map(column_json).collect();
        let document = json!({
            "packages": SPECS, "rounds": self.rounds, "machine": self.world.machine, "contenders": columns,
        });
        Ok(format!("{}\n", serde_json::to_string_pretty(&document)?))
    }

    fn conditions(&self) -> String {
        let machine = &self.world.machine;
        format!(
            "The environment: `{}` and what these need. Medians of {} rounds in one run; in each round every contender makes one \
             environment, in an order that rotates; caches are warm. {}, {} cores, {} of memory, Linux {}, {}. `PYTHONDONTWRITEBYTECODE` is unset \
             for all. Ratios are to the first column.",
            SPECS.join(" "),
            self.rounds,
            machine["cpu"].as_str().unwrap_or("unknown processor"),
            machine["cores"],
            machine["memory"].as_str().unwrap_or("unknown size"),
            machine["kernel"].as_str().unwrap_or("unknown"),
            machine["file_system"].as_str().unwrap_or("unknown file system"),
        )
    }

    fn table(&self, out: &mut String) {
        self.header(out);
        for measure in Measure::ALL {
            let first = self.columns.first().and_then(|column| column.spread(measure));
            let cells = self.columns.iter().enumerate().map(|(index, column)| {
                let Some(spread) = column.spread(measure) else {
                    return "–".to_owned();
                };
                let value = shown(measure, spread.median);
                match first.filter(|first| index > 0 && first.median > 0.0) {
                    Some(first) => format!("{value} ({}x)", ratio(spread.median / first.median)),
                    None => value,
                }
            });
            row(out, measure.label(), cells);
        }
        out.push('\n');
        for column in self.columns.iter().filter(|column| column.missing().is_some()) {
            let reason = column.missing().unwrap_or_default().lines().next().unwrap_or_default();
            let _ = writeln!(out, "No figures for {}: {reason}\n", column.name);
        }
    }

    fn spreads(&self, out: &mut String) {
        out.push_str("## Spread\n\nLeast, first quartile, median, third quartile, in milliseconds.\n\n");
        self.header(out);
        for measure in Measure::ALL.into_iter().filter(|measure| measure.is_time()) {
            let cells = self.columns.iter().map(|column| match column.spread(measure) {
                Some(s) => format!(
                    "{:.1}, {:.1}, {:.1}, {:.1}",
                    s.min, s.first_quartile, s.median, s.third_quartile
                ),
                None => "–".to_owned(),
            });
            row(out, measure.label(), cells);
        }
        out.push('\n');
    }

    fn contenders(&self, out: &mut String) {
        out.push_str("## Contenders\n\n`DIR` is an empty directory of the round.\n");
        for column in self.columns {
            let _ = writeln!(out, "\n### {}\n\n{}\n", column.name, column.about);
            for (measure, command) in &column.commands {
                let _ = writeln!(out, "- {}: `{command}`", measure.label().replace('*', ""));
            }
        }
    }

    fn header(&self, out: &mut String) {
        row(out, "", self.columns.iter().map(|column| column.name.clone()));
        row(out, "---", self.columns.iter().map(|_| "---:".to_owned()));
    }
}

fn row(out: &mut String, label: &str, cells: impl Iterator<Item = String>) {
    let _ = write!(out, "| {label} |");
    for cell in cells {
        let _ = write!(out, " {cell} |");
    }
    out.push('\n');
}

fn column_json(column: &Column) -> Value {
    let mut figures = Map::new();
    for measure in Measure::ALL {
        if let Some(spread) = column.spread(measure) {
            figures.insert(
                measure.key().to_owned(),
                json!({
                    "median": spread.median, "min": spread.min, "first_quartile": spread.first_quartile,
                    "third_quartile": spread.third_quartile, "samples": column.samples(measure),
                }),
            );
        }
    }
    let commands: Map<String, Value> = column
        .commands
        .iter()
        .map(|(measure, command)| (measure.key().to_owned(), json!(command)))
        .collect();
    json!({
        "name": column.name, "about": column.about, "missing": column.missing(), "figures": figures, "commands": commands,
    })
}

fn shown(measure: Measure, value: f64) -> String {
    match measure {
        Measure::Bytes => format!("{:.2} MiB", value / 1_048_576.0),
        Measure::Inodes => format!("{value:.0}"),
        _ if value < 10.0 => format!("{value:.2} ms"),
        _ if value < 1000.0 => format!("{value:.0} ms"),
        _ => format!("{:.2} s", value / 1000.0),
    }
}

fn ratio(value: f64) -> String {
    if value < 10.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.0}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_units_and_ratios_three_digits() {
        assert_eq!(shown(Measure::Ready, 1.234), "1.23 ms");
        assert_eq!(shown(Measure::Ready, 2500.0), "2.50 s");
        assert_eq!(shown(Measure::Inodes, 12.0), "12");
        assert_eq!(ratio(1.234), "1.23");
        assert_eq!(ratio(131.4), "131");
    }
}
