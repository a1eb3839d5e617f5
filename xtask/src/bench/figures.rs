//! The figures of one contender: samples, medians, spread. It knows no contender.

use std::collections::BTreeMap;
use std::time::Duration;

use super::measures::Measure;

/// What one contender gave.
pub(super) struct Column {
    pub(super) name: String,
    /// One line on what it does.
    pub(super) about: &'static str,
    /// Where in the table it stands.
    pub(super) position: usize,
    /// How a person repeats it: what, and the command.
    pub(super) commands: Vec<(Measure, String)>,
    /// Why it is missing, if it is.
    missing: Option<String>,
    /// Milliseconds, or counts.
    samples: BTreeMap<Measure, Vec<f64>>,
}

/// The distribution of one measure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) first_quartile: f64,
    pub(super) third_quartile: f64,
}

impl Column {
    pub(super) fn new(name: &str, about: &'static str, position: usize) -> Self {
        Self {
            name: name.to_owned(),
            about,
            position,
            commands: Vec::new(),
            missing: None,
            samples: BTreeMap::new(),
        }
    }

    pub(super) fn add_time(&mut self, measure: Measure, took: Duration) {
        self.samples.entry(measure).or_default().push(took.as_secs_f64() * 1e3);
    }

    #[expect(clippy::cast_precision_loss, reason = "sizes far below 2^53")]
    pub(super) fn add(&mut self, measure: Measure, count: u64) {
        self.samples.entry(measure).or_default().push(count as f64);
    }

    /// Takes it out of the table: half a series is none.
    pub(super) fn fail(&mut self, reason: &str) {
        self.samples.clear();
        self.missing = Some(reason.to_owned());
    }

    pub(super) fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }

    /// Its name and why it is missing, on one line.
    pub(super) fn reason(&self) -> String {
        format!("{}: {}", self.name, self.missing.as_deref().unwrap_or("takes part"))
    }

    pub(super) fn samples(&self, measure: Measure) -> &[f64] {
        self.samples.get(&measure).map_or(&[], Vec::as_slice)
    }

    pub(super) fn spread(&self, measure: Measure) -> Option<Spread> {
        spread(self.samples(measure))
    }
}

/// Median, least, and quartiles (by linear interpolation between samples).
fn spread(samples: &[f64]) -> Option<Spread> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let min = *sorted.first()?;
    Some(Spread {
        median: quantile(&sorted, 2),
        min,
        first_quartile: quantile(&sorted, 1),
        third_quartile: quantile(&sorted, 3),
    })
}

/// The given quarter of sorted samples.
#[expect(clippy::cast_precision_loss, reason = "a handful of samples")]
fn quantile(sorted: &[f64], quarters: usize) -> f64 {
    let steps = (sorted.len() - 1) * quarters;
    let (index, part) = (steps / 4, (steps % 4) as f64 / 4.0);
    let next = sorted.get(index + 1).unwrap_or(&sorted[index]);
    sorted[index] + (next - sorted[index]) * part
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_of_known_samples() {
        let expected = Spread {
            median: 3.0,
            min: 1.0,
            first_quartile: 2.0,
            third_quartile: 4.0,
        };
        assert_eq!(spread(&[5.0, 1.0, 4.0, 2.0, 3.0]), Some(expected));
        assert_eq!(spread(&[1.0, 2.0]).map(|spread| spread.median), Some(1.5));
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn a_failed_contender_has_no_figures() {
        let mut column = Column::new("x", "", 0);
        column.add(Measure::Inodes, 3);
        column.fail("broke");
        assert_eq!(column.spread(Measure::Inodes), None);
        assert_eq!(column.reason(), "x: broke");
    }
}
