//! One archive over HTTP: ask, receive, go on after an interruption, give up in the end.
//!
//! Decides what each answer of a server means. Knows nothing of locks or digests beyond what a part file tells.

use std::path::Path;
use std::time::Duration;

use rattler_networking::OfflineError;
use reqwest::header::{ACCEPT_ENCODING, CONTENT_RANGE, RANGE};
use reqwest::{Response, StatusCode};
use url::Url;

use super::spool::{Spool, Wanted};
use super::{FetchError, FetchProgress, FetchedArchive};
use crate::network::{Network, redact};
use crate::retry::{is_transient, retry_after};

/// Connections for one archive, however many of them brought something: a bound, not a goal.
const MAX_CONNECTIONS: u32 = 100;

pub(super) async fn download(
    network: &Network,
    wanted: &Wanted,
    spool_dir: &Path,
    progress: &dyn FetchProgress,
) -> Result<FetchedArchive, FetchError> {
    let mut spool = Spool::open(spool_dir, wanted).await?;
    // A closed semaphore would mean no bound, which is no reason not to download.
    let _permit = network.downloads().acquire().await.ok();
    let mut transfer = Transfer {
        network,
        url: &wanted.url,
        wanted,
        is_patchwork: spool.received_bytes() > 0,
        spool: &mut spool,
        progress,
    };
    let sha256 = match transfer.run().await {
        Ok(sha256) => sha256,
        Err(error) => {
            spool.abandon();
            return Err(error);
        }
    };
    let (file, size_bytes) = spool.finish()?;
    progress.finished();
    Ok(FetchedArchive {
        file,
        sha256,
        size_bytes,
        file_name: wanted.file_name.clone(),
    })
}

struct Transfer<'a> {
    network: &'a Network,
    url: &'a Url,
    wanted: &'a Wanted,
    /// Whether what is here came in several pieces, which need not be of one file: the server may have changed it.
    is_patchwork: bool,
    spool: &'a mut Spool,
    progress: &'a dyn FetchProgress,
}

/// How one request ended.
enum Ending {
    /// The server has sent all that it has.
    Whole,
    /// Worth another request.
    Again { reason: String, wish: Option<Duration> },
}

impl Transfer<'_> {
    async fn run(&mut self) -> Result<[u8; 32], FetchError> {
        self.check_limit(self.wanted.size_bytes.unwrap_or_default())?;
        self.progress.started(self.wanted.size_bytes);
        self.progress.advanced(self.spool.received_bytes());
        if self.spool.is_known_whole() {
            return self.spool.check();
        }
        let rule = self.network.retry_rule();
        let mut most_bytes = self.spool.received_bytes();
        let mut failures = 0;
        for attempts in 1..=MAX_CONNECTIONS {
            let (reason, wish) = match self.request().await? {
                Ending::Again { reason, wish } => (reason, wish),
                Ending::Whole => match self.spool.check() {
                    Ok(sha256) => return Ok(sha256),
                    Err(error) => {
                        self.restart()?;
                        if !std::mem::take(&mut self.is_patchwork) {
                            return Err(error);
                        }
                        continue;
                    }
                },
            };
            let has_progressed = self.spool.received_bytes() > most_bytes;
            most_bytes = most_bytes.max(self.spool.received_bytes());
            failures = if has_progressed { 1 } else { failures + 1 };
            let Some(pause) = rule.pause(failures, wish) else {
                return Err(self.unreachable(attempts, reason));
            };
            tracing::debug!(url = %redact(self.url), %reason, ?pause, "the download goes on after a pause");
            tokio::time::sleep(pause).await;
        }
        Err(self.unreachable(MAX_CONNECTIONS, "the connection breaks again and again".to_owned()))
    }

    /// One request for what is missing.
    async fn request(&mut self) -> Result<Ending, FetchError> {
        let have_bytes = self.spool.received_bytes();
        // A compressed answer would make a byte range mean something else.
        let mut request = self
            .network
            .archive_client()
            .get(self.url.clone())
            .header(ACCEPT_ENCODING, "identity");
        if have_bytes > 0 {
            request = request.header(RANGE, format!("bytes={have_bytes}-"));
        }
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return self.failed_request(&error),
        };
        let status = response.status();
        match status {
            StatusCode::PARTIAL_CONTENT if range_start(&response) == Some(have_bytes) => {
                self.is_patchwork = true;
                self.receive(response).await
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                // Nothing follows what is here: it is whole, or it is something else.
                if self.spool.check().is_ok() {
                    return Ok(Ending::Whole);
                }
                self.restart()?;
                Ok(again("the file here does not fit the server's"))
            }
            // Also the answer of a server that does not know ranges, and sends the file from its beginning.
            StatusCode::OK => {
                if have_bytes > 0 {
                    self.restart()?;
                }
                self.receive(response).await
            }
            StatusCode::PARTIAL_CONTENT => {
                self.restart()?;
                Ok(again("the server sent another range than was asked for"))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                Err(FetchError::Refused {
                    url: redact(self.url),
                    status: status.as_u16(),
                })
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => Err(FetchError::NotFound { url: redact(self.url) }),
            _ if is_transient(status) => Ok(Ending::Again {
                reason: format!("HTTP status {}", status.as_u16()),
                wish: retry_after(response.headers()),
            }),
            _ => Err(FetchError::Status {
                url: redact(self.url),
                status: status.as_u16(),
            }),
        }
    }

    async fn receive(&mut self, mut response: Response) -> Result<Ending, FetchError> {
        let is_length_known = response.content_length().is_some();
        loop {
            match response.chunk().await {
                Ok(Some(bytes)) => {
                    self.spool.append(&bytes)?;
                    self.progress.advanced(bytes.len() as u64);
                    self.check_limit(self.spool.received_bytes())?;
                    if (self.wanted.size_bytes).is_some_and(|expected| self.spool.received_bytes() > expected) {
                        break; // what comes too much may have no end
                    }
                }
                Ok(None) => break,
                Err(error) => return Ok(again(&innermost(&error))),
            }
        }
        // Without a length the end of a body looks like a broken connection.
        match self.wanted.size_bytes {
            Some(expected) if !is_length_known && self.spool.received_bytes() < expected => Ok(again(&format!(
                "the connection ended after {} of {expected} bytes",
                self.spool.received_bytes()
            ))),
            _ => Ok(Ending::Whole),
        }
    }

    fn failed_request(&self, error: &reqwest_middleware::Error) -> Result<Ending, FetchError> {
        match error {
            reqwest_middleware::Error::Middleware(inner) if inner.is::<OfflineError>() => {
                Err(FetchError::Offline { url: redact(self.url) })
            }
            reqwest_middleware::Error::Reqwest(inner) if !inner.is_builder() && !inner.is_redirect() => {
                Ok(again(&innermost(inner)))
            }
            _ => Err(self.unreachable(1, innermost(error))),
        }
    }

    /// Nothing stays of what is too large.
    fn check_limit(&mut self, bytes: u64) -> Result<(), FetchError> {
        let Err(limit) = self.network.limits().check_archive(bytes) else {
            return Ok(());
        };
        self.restart()?;
        Err(FetchError::Limit {
            url: redact(self.url),
            limit,
        })
    }

    fn restart(&mut self) -> Result<(), FetchError> {
        self.spool.restart()?;
        self.progress.restarted();
        Ok(())
    }

    fn unreachable(&self, attempts: u32, reason: String) -> FetchError {
        FetchError::Unreachable {
            url: redact(self.url),
            attempts,
            reason,
        }
    }
}

fn again(reason: &str) -> Ending {
    Ending::Again {
        reason: reason.to_owned(),
        wish: None,
    }
}

/// The first byte of a partial answer, from `Content-Range: bytes 5-9/10`.
fn range_start(response: &Response) -> Option<u64> {
    let text = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split('-').next()?.trim().parse().ok()
}

/// The deepest cause: "connection refused" says more than "error sending request". Holds no URL, hence no secret.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
