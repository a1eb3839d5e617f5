//! The arithmetic: samples by round, medians, quartiles, ratios of what was measured in the same round. It knows no
//! contender and no measure.

use std::collections::BTreeMap;

/// The samples of one figure, by the round that gave them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Samples(BTreeMap<usize, f64>);

/// The distribution of samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) first_quartile: f64,
    pub(super) third_quartile: f64,
}

impl Samples {
    pub(super) fn add(&mut self, round: usize, value: f64) {
        self.0.insert(round, value);
    }

    pub(super) fn values(&self) -> Vec<f64> {
        self.0.values().copied().collect()
    }

    /// None without samples.
    pub(super) fn spread(&self) -> Option<Spread> {
        spread(&self.values())
    }

    /// The distribution of the ratios to what another gave in the same rounds; a slow minute of the machine falls on both.
    pub(super) fn ratios(&self, to: &Self) -> Option<Spread> {
        self.paired(to, |mine, theirs| (theirs > 0.0).then_some(mine / theirs))
    }

    /// The distribution of the differences to what another gave in the same rounds.
    pub(super) fn differences(&self, to: &Self) -> Option<Spread> {
        self.paired(to, |mine, theirs| Some(mine - theirs))
    }

    fn paired(&self, to: &Self, of: fn(f64, f64) -> Option<f64>) -> Option<Spread> {
        let pairs = self.0.iter().filter_map(|(round, mine)| Some((mine, to.0.get(round)?)));
        spread(
            &pairs
                .filter_map(|(mine, theirs)| of(*mine, *theirs))
                .collect::<Vec<_>>(),
        )
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

    fn samples(values: &[(usize, f64)]) -> Samples {
        Samples(values.iter().copied().collect())
    }

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
    fn ratios_and_differences_pair_the_rounds() {
        // The machine was ten times slower in the second round: the ratio does not see it.
        let (mine, theirs) = (
            samples(&[(0, 2.0), (1, 20.0), (7, 9.0)]),
            samples(&[(0, 1.0), (1, 10.0), (2, 1.0)]),
        );
        let ratios = mine.ratios(&theirs).unwrap();
        assert_eq!((ratios.min, ratios.median, ratios.third_quartile), (2.0, 2.0, 2.0));
        assert_eq!(mine.differences(&theirs).unwrap().median, 5.5);
        assert_eq!(mine.ratios(&samples(&[(0, 0.0)])), None);
    }
}
