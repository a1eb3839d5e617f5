//! Bar charts as SVG, drawn by hand: one bar for each contender and figure, whiskers from quartile to quartile.
//!
//! Colours follow the reader's scheme, light or dark.

use std::fmt::Write;

use super::shown::shown;
use crate::bench::entries::Entry;
use crate::bench::figures::Spread;
use crate::bench::rows::Unit;

/// One chart.
pub(super) struct Plot {
    /// In its file name.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    unit: Unit,
    /// The figures, with their names in the legend.
    series: &'static [(&'static str, &'static str)],
    /// Whether each step of the axis is ten times the one before.
    is_logarithmic: bool,
}

/// All charts.
pub(super) const PLOTS: [Plot; 4] = [
    Plot {
        name: "ready",
        title: "From the command to a usable environment (logarithmic)",
        unit: Unit::Milliseconds,
        series: &[("ready_ms", "13,000 files"), ("ready_100k_ms", "100,000 files")],
        is_logarithmic: true,
    },
    Plot {
        name: "replay",
        title: "File-system time of an import (logarithmic)",
        unit: Unit::Milliseconds,
        series: &[
            ("warm_replay_ms", "warm"),
            ("fresh_replay_ms", "fresh mount"),
            ("cold_replay_ms", "cold"),
        ],
        is_logarithmic: true,
    },
    Plot {
        name: "import",
        title: "import numpy, pandas, sklearn: the whole process",
        unit: Unit::Milliseconds,
        series: &[
            ("warm_import_ms", "warm"),
            ("fresh_import_ms", "fresh mount"),
            ("cold_import_ms", "cold"),
        ],
        is_logarithmic: false,
    },
    Plot {
        name: "disk",
        title: "Bytes on disk of a hundred identical environments (logarithmic)",
        unit: Unit::Bytes,
        series: &[("bytes_100", "100 environments")],
        is_logarithmic: true,
    },
];

const WIDTH: f64 = 760.0;
/// Where bars begin, and how far the longest reaches.
const LEFT: f64 = 130.0;
const BAR_SPACE: f64 = 500.0;
const TOP: f64 = 62.0;
const BAR_HEIGHT: f64 = 13.0;
const BAR_STEP: f64 = 16.0;
const GROUP_GAP: f64 = 9.0;

const STYLE: &str = "text{font:12px system-ui,sans-serif;fill:#1f2328}.t{font-size:15px;font-weight:600}.v{font-size:11px;fill:#59636e}\
    .s0{fill:#0969da}.s1{fill:#bf8700}.s2{fill:#8250df}.w{stroke:#1f2328;stroke-width:1.2}.a{stroke:#d1d9e0}\
    @media(prefers-color-scheme:dark){text{fill:#e6edf3}.v{fill:#9198a1}.s0{fill:#4493f8}.s1{fill:#d29922}.s2{fill:#ab7df8}\
    .w{stroke:#e6edf3}.a{stroke:#3d444d}}";

impl Plot {
    /// The chart, if anything in it was measured.
    pub(super) fn svg(&self, entries: &[Entry]) -> Option<String> {
        let groups: Vec<(&str, Vec<Option<Spread>>)> = entries
            .iter()
            .map(|entry| {
                let spreads = self.series.iter().map(|(key, _)| entry.samples(key)?.spread());
                (entry.name, spreads.collect::<Vec<_>>())
            })
            .filter(|(_, spreads)| spreads.iter().any(Option::is_some))
            .collect();
        let all: Vec<Spread> = groups
            .iter()
            .flat_map(|(_, spreads)| spreads.iter().flatten())
            .copied()
            .collect();
        let highest = all.iter().map(|spread| spread.third_quartile).fold(0.0, f64::max);
        let lowest = all
            .iter()
            .map(|spread| spread.first_quartile)
            .filter(|low| *low > 0.0)
            .fold(highest, f64::min);
        if highest <= 0.0 {
            return None;
        }
        let axis = Axis {
            lowest: 10_f64.powf((lowest / 1.5).log10().floor()),
            highest,
            is_logarithmic: self.is_logarithmic,
        };
        let mut body = String::new();
        let mut y = TOP;
        for (name, spreads) in &groups {
            let start = y;
            for (index, spread) in spreads.iter().enumerate() {
                if let Some(spread) = spread {
                    self.bar(&mut body, &axis, index, *spread, y);
                    y += BAR_STEP;
                }
            }
            let middle = f64::midpoint(start, y - BAR_STEP + BAR_HEIGHT);
            let _ = writeln!(
                body,
                r#"<text x="{:.0}" y="{:.1}" text-anchor="end">{name}</text>"#,
                LEFT - 8.0,
                middle + 4.0
            );
            y += GROUP_GAP;
        }
        let _ = writeln!(
            body,
            r#"<line class="a" x1="{LEFT}" x2="{LEFT}" y1="{:.0}" y2="{y:.0}"/>"#,
            TOP - 6.0
        );
        Some(self.frame(&body, y + 6.0))
    }

    fn bar(&self, body: &mut String, axis: &Axis, series: usize, spread: Spread, y: f64) {
        let end = axis.length(spread.median);
        let (low, high) = (axis.length(spread.first_quartile), axis.length(spread.third_quartile));
        let middle = y + BAR_HEIGHT / 2.0;
        let _ = writeln!(
            body,
            r#"<rect class="s{series}" x="{LEFT}" y="{y:.1}" width="{end:.1}" height="{BAR_HEIGHT}" rx="2"/><line class="w" x1="{:.1}" x2="{:.1}" y1="{middle:.1}" y2="{middle:.1}"/><text class="v" x="{:.1}" y="{:.1}">{}</text>"#,
            LEFT + low,
            LEFT + high,
            LEFT + high.max(end) + 6.0,
            y + BAR_HEIGHT - 2.5,
            shown(self.unit, spread.median)
        );
    }

    fn frame(&self, body: &str, height: f64) -> String {
        let mut legend = String::new();
        let mut x = LEFT;
        for (index, (_, name)) in self.series.iter().enumerate() {
            let _ = write!(
                legend,
                r#"<rect class="s{index}" x="{x:.0}" y="36" width="11" height="11" rx="2"/><text x="{:.0}" y="46">{name}</text>"#,
                x + 16.0
            );
            x += 130.0;
        }
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" height=\"{height:.0}\" role=\"img\" \
             aria-label=\"{title}\">\n<style>{STYLE}</style>\n<text class=\"t\" x=\"8\" y=\"22\">{title}</text>\n{legend}\n{body}</svg>\n",
            title = self.title
        )
    }
}

/// From values to lengths.
struct Axis {
    lowest: f64,
    highest: f64,
    is_logarithmic: bool,
}

impl Axis {
    fn length(&self, value: f64) -> f64 {
        let part = if self.is_logarithmic {
            let span = (self.highest / self.lowest).log10().max(0.1);
            (value.max(self.lowest) / self.lowest).log10() / span
        } else {
            value / self.highest
        };
        part.clamp(0.0, 1.0) * BAR_SPACE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values() {
        let linear = Axis {
            lowest: 1.0,
            highest: 200.0,
            is_logarithmic: false,
        };
        assert!((linear.length(100.0) - BAR_SPACE / 2.0).abs() < 1e-9);
        let logarithmic = Axis {
            highest: 100.0,
            is_logarithmic: true,
            ..linear
        };
        assert!((logarithmic.length(10.0) - BAR_SPACE / 2.0).abs() < 1e-9);
        assert!(logarithmic.length(0.0).abs() < 1e-9);
    }

    #[test]
    fn a_chart_has_a_bar_for_each_figure_and_none_without() {
        let mut entry = Entry::new("x", "");
        assert!(PLOTS[0].svg(&[]).is_none());
        entry.add("ready_ms", 0, 2.0);
        let svg = PLOTS[0].svg(&[entry]).unwrap();
        assert!(
            svg.contains("2.00 ms") && svg.matches(r#"rect class="s0" x="130" y="62.0""#).count() == 1,
            "{svg}"
        );
    }
}
