//! Spans of time and sizes as people type them.

use std::time::Duration;

/// A span of time: a number and a unit, as in `10m`, `36h`, `30d`, `2w`. Without a unit it is seconds.
pub(crate) fn span(text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let seconds = match unit {
        "" | "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86400,
        "w" => 7 * 86400,
        _ => 0,
    };
    scaled(number, seconds)
        .map(Duration::from_secs)
        .ok_or_else(|| format!("`{text}` is no span of time, such as 90s, 10m, 36h, 30d or 2w"))
}

/// A number of bytes: a number and a unit, as in `512MB` or `40GiB`. Units with an i are powers of 1024, those without of
/// 1000, as on a disk's label.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text);
    let bytes = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => 0,
    };
    scaled(number, bytes).ok_or_else(|| format!("`{text}` is no size, such as 512MB, 40GB or 40GiB"))
}

fn split(text: &str) -> (&str, &str) {
    let end = text
        .find(|character: char| !character.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// Nothing if there is no number, no unit, or too much of it.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let number: u64 = number.parse().ok()?;
    number.checked_mul(unit).filter(|_| unit > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_have_units() {
        assert_eq!(span("90").unwrap(), Duration::from_secs(90));
        assert_eq!(span("10m").unwrap(), Duration::from_secs(600));
        assert_eq!(span("30d").unwrap(), Duration::from_secs(30 * 86400));
        assert_eq!(size("40GB").unwrap(), 40_000_000_000);
        assert_eq!(size("2GiB").unwrap(), 2 << 30);
        assert_eq!(size("0").unwrap(), 0);
        for text in [
            "",
            "d",
            "1y",
            "-1d",
            "1.5h",
            "99999999999999999999w",
            "9999999999999999999w",
        ] {
            assert!(span(text).is_err(), "{text}");
        }
        for text in ["", "GB", "1XB", "18446744073709551615k"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
