//! Numbers as people read them.

use serde_json::{Value, json};

use crate::bench::figures::{Samples, Spread};
use crate::bench::rows::Unit;

/// A cell of a table: the ratio first, then the value and its quartiles.
pub(super) fn cell(unit: Unit, samples: &Samples, compared: Option<&Samples>) -> String {
    let Some(spread) = samples.spread() else {
        return "–".to_owned();
    };
    let value = shown(unit, spread.median);
    let value = match unit {
        Unit::Milliseconds => {
            let scale = scale(spread.third_quartile);
            format!(
                "{value} ({}–{})",
                scale.number(spread.first_quartile),
                scale.number(spread.third_quartile)
            )
        }
        Unit::Bytes | Unit::Count => value,
    };
    match compared
        .filter(|compared| *compared != samples)
        .and_then(|to| samples.ratios(to))
    {
        Some(ratios) => format!("**{}x** {value}", ratio(ratios.median)),
        None => value,
    }
}

/// A value with its unit.
pub(super) fn shown(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Milliseconds => {
            let scale = scale(value);
            format!("{} {}", scale.number(value), scale.unit)
        }
        Unit::Bytes if value < 1024.0 => format!("{value:.0} B"),
        Unit::Bytes if value < 1_048_576.0 => format!("{:.0} KiB", value / 1024.0),
        Unit::Bytes => format!("{:.1} MiB", value / 1_048_576.0),
        Unit::Count => format!("{value:.0}"),
    }
}

/// A ratio with as many digits as it deserves.
pub(super) fn ratio(value: f64) -> String {
    if value < 10.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.0}")
    }
}

/// A distribution for programs.
pub(super) fn spread_json(spread: Option<Spread>) -> Value {
    spread.map_or(Value::Null, |spread| {
        json!({
            "median": spread.median, "min": spread.min, "first_quartile": spread.first_quartile,
            "third_quartile": spread.third_quartile,
        })
    })
}

/// Milliseconds or seconds, with so many digits behind the point.
struct Scale {
    divisor: f64,
    digits: usize,
    unit: &'static str,
}

impl Scale {
    fn number(&self, value_ms: f64) -> String {
        format!("{:.*}", self.digits, value_ms / self.divisor)
    }
}

fn scale(value_ms: f64) -> Scale {
    let (divisor, digits, unit) = match value_ms.abs() {
        value if value < 10.0 => (1.0, 2, "ms"),
        value if value < 100.0 => (1.0, 1, "ms"),
        value if value < 10_000.0 => (1.0, 0, "ms"),
        _ => (1000.0, 1, "s"),
    };
    Scale { divisor, digits, unit }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_units_and_ratios_three_digits() {
        assert_eq!(shown(Unit::Milliseconds, 1.234), "1.23 ms");
        assert_eq!(shown(Unit::Milliseconds, 25_000.0), "25.0 s");
        assert_eq!(shown(Unit::Bytes, 2048.0), "2 KiB");
        assert_eq!(ratio(1.234), "1.23");
        assert_eq!(ratio(131.4), "131");
    }

    #[test]
    fn a_cell_says_the_ratio_first() {
        let (mut mine, mut theirs) = (Samples::default(), Samples::default());
        for round in 0..3 {
            mine.add(round, 3.0);
            theirs.add(round, 2.0);
        }
        assert_eq!(
            cell(Unit::Milliseconds, &mine, Some(&theirs)),
            "**1.50x** 3.00 ms (3.00–3.00)"
        );
        assert_eq!(cell(Unit::Milliseconds, &theirs, Some(&theirs)), "2.00 ms (2.00–2.00)");
    }
}
