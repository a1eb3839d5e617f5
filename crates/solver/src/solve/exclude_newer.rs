//! A moment in time after which packages do not count.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;

/// Packages that entered their channel later than this are left out of a solve.
///
/// The time a channel indexed a package counts (CEP 47); where the index does not tell it, the time it was built. A package
/// without either is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExcludeNewer(Timestamp);

impl ExcludeNewer {
    /// Reads a date (`2026-03-01`, from which midnight UTC on packages are newer), a moment (`2026-03-01T12:00:00Z`) or an
    /// age before `now` (`7d`, `36h`, `2w`).
    ///
    /// # Errors
    /// The text is none of these.
    pub fn parse(text: &str, now: SystemTime) -> Result<Self, ParseExcludeNewerError> {
        let unreadable = || ParseExcludeNewerError { given: text.to_owned() };
        if let Some(age) = parse_age(text) {
            let moment = now.checked_sub(age).ok_or_else(unreadable)?;
            return Timestamp::try_from(moment).map(Self).map_err(|_| unreadable());
        }
        if let Ok(moment) = text.parse::<Timestamp>() {
            return Ok(Self(moment));
        }
        let date: jiff::civil::Date = text.parse().map_err(|_| unreadable())?;
        let midnight = date.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| unreadable())?;
        Ok(Self(midnight.timestamp()))
    }

    /// The moment as RFC 3339 writes it.
    pub(crate) fn to_rfc3339(self) -> String {
        self.0.to_string()
    }

    pub(super) fn to_conda(self) -> rattler_solve::ExcludeNewer {
        rattler_solve::ExcludeNewer::from_datetime(self.0)
    }
}

/// The text is no moment in time.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{given}' is neither a date such as 2026-03-01, a time such as 2026-03-01T12:00:00Z nor an age such as 7d")]
pub struct ParseExcludeNewerError {
    /// What was given.
    pub given: String,
}

fn parse_age(text: &str) -> Option<Duration> {
    let unit_seconds = match text.chars().last()? {
        'h' => 3600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        _ => return None,
    };
    let count: u64 = text[..text.len() - 1].parse().ok()?;
    Some(Duration::from_secs(count.checked_mul(unit_seconds)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<String> {
        // 2026-03-08T00:00:00Z
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_772_928_000);
        ExcludeNewer::parse(text, now).ok().map(|cutoff| cutoff.0.to_string())
    }

    #[test]
    fn dates_moments_and_ages_are_understood() {
        assert_eq!(parse("2026-03-01").unwrap(), "2026-03-01T00:00:00Z");
        assert_eq!(parse("2026-03-01T12:00:00+02:00").unwrap(), "2026-03-01T10:00:00Z");
        assert_eq!(parse("7d").unwrap(), "2026-03-01T00:00:00Z");
        assert_eq!(parse("1w").unwrap(), "2026-03-01T00:00:00Z");
        assert_eq!(parse("24h").unwrap(), "2026-03-07T00:00:00Z");
    }

    #[test]
    fn anything_else_is_refused() {
        for text in ["", "d", "yesterday", "7", "-7d", "999999999999999999d", "2026-13-01"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
