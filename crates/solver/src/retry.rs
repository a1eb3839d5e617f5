//! When a request is worth repeating, and how long to wait before.
//!
//! Knows HTTP answers and the clock; nothing of what is being fetched.

use std::time::Duration;

use http::Extensions;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Method, Request, Response, StatusCode};
use reqwest_middleware::{Middleware, Next};

/// Requests in a row that may fail before giving up.
const MAX_FAILURES: u32 = 5;
/// The longest pause, also when a server asks for more.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// How often and how patiently a failed request is repeated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetryRule {
    first_pause: Duration,
}

impl RetryRule {
    pub(crate) fn new(first_pause: Duration) -> Self {
        Self { first_pause }
    }

    /// The pause after the `failures`-th failure in a row (from 1), or none when it is time to give up.
    ///
    /// A server's own wish (`Retry-After`) is honoured up to half a minute.
    pub(crate) fn pause(&self, failures: u32, wish: Option<Duration>) -> Option<Duration> {
        if failures >= MAX_FAILURES {
            return None;
        }
        let doubled = self
            .first_pause
            .saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
        Some(wish.unwrap_or(doubled).min(LONGEST_PAUSE))
    }
}

/// Whether the same request may well succeed in a moment.
pub(crate) fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429 | 500 | 502 | 503 | 504)
}

/// The pause a server asks for, when it names one in seconds (RFC 9110, 10.2.3).
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Repeats requests for an index that fail for a passing reason.
pub(crate) struct RetryMiddleware {
    rule: RetryRule,
}

impl RetryMiddleware {
    pub(crate) fn new(rule: RetryRule) -> Self {
        Self { rule }
    }
}

#[async_trait::async_trait]
impl Middleware for RetryMiddleware {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        let is_repeatable = matches!(*request.method(), Method::GET | Method::HEAD);
        let mut failures = 0;
        loop {
            let copy = request.try_clone().filter(|_| is_repeatable);
            let Some(copy) = copy else {
                return next.run(request, extensions).await;
            };
            let answer = next.clone().run(copy, extensions).await;
            let wish = match &answer {
                Ok(response) if is_transient(response.status()) => retry_after(response.headers()),
                Err(reqwest_middleware::Error::Reqwest(error)) if !error.is_builder() => None,
                _ => return answer,
            };
            failures += 1;
            let Some(pause) = self.rule.pause(failures, wish) else {
                return answer;
            };
            tracing::debug!(failures, ?pause, "an index request failed and is repeated");
            tokio::time::sleep(pause).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_and_end() {
        let rule = RetryRule::new(Duration::from_millis(100));
        let pauses: Vec<_> = (1..=MAX_FAILURES).map(|failures| rule.pause(failures, None)).collect();
        let wanted = [100, 200, 400, 800].map(|ms| Some(Duration::from_millis(ms)));
        assert_eq!(pauses[..4], wanted);
        assert_eq!(pauses[4], None);
    }

    #[test]
    fn a_servers_wish_is_honoured_within_reason() {
        let rule = RetryRule::new(Duration::from_millis(100));
        let wish = |seconds| rule.pause(1, Some(Duration::from_secs(seconds))).unwrap();
        assert_eq!(wish(3), Duration::from_secs(3));
        assert_eq!(wish(86_400), LONGEST_PAUSE);
    }

    #[test]
    fn retry_after_understands_seconds_only() {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, "7".parse().unwrap());
        assert_eq!(retry_after(&headers), Some(Duration::from_secs(7)));
        headers.insert(RETRY_AFTER, "Wed, 21 Oct 2026 07:28:00 GMT".parse().unwrap());
        assert_eq!(retry_after(&headers), None);
    }
}
