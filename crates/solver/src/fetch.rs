//! Archives: brought here, checked against the lock, and handed over as an open file.
//!
//! Nothing that has not the digest of the lock leaves this room. Knows packages and the way out; nothing of what is
//! inside an archive or where it goes.

mod download;
mod spool;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use crate::limits::Exceeded;
use crate::network::{Network, redact};
use crate::package::LockedPackage;
use crate::pypi::LockedWheel;
use spool::{Digests, Wanted};

/// An archive whose bytes are those of the lock.
#[derive(Debug)]
pub struct FetchedArchive {
    /// The archive, open for reading, at its first byte. Of a download nothing else is left: the file has no name.
    pub file: File,
    /// Digest of all its bytes.
    pub sha256: [u8; 32],
    /// Its length.
    pub size_bytes: u64,
    /// Its name in the channel or index, such as `zlib-1.3.1-h0_0.conda`.
    pub file_name: String,
}

/// Told how a fetch goes on. Called from the thread that downloads, often: it must return at once.
pub trait FetchProgress: Send + Sync {
    /// The fetch begins; the size is known when the lock or the server tells it.
    fn started(&self, total_bytes: Option<u64>);
    /// So many bytes more are here, be it from the server or from an earlier, interrupted download.
    fn advanced(&self, bytes: u64);
    /// What was here is of no use: counting begins at zero again.
    fn restarted(&self);
    /// The archive is here and has the right digest.
    fn finished(&self);
}

/// For those who need not know.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl FetchProgress for NoProgress {
    fn started(&self, _total_bytes: Option<u64>) {}
    fn advanced(&self, _bytes: u64) {}
    fn restarted(&self) {}
    fn finished(&self) {}
}

impl Network {
    /// Brings the archive of a package and checks it.
    ///
    /// A `file://` archive is opened where it lies. Any other is downloaded into a part file in `spool_dir` (made if
    /// missing), which a dropped connection or an interrupted run leaves behind and the next one goes on with. Several
    /// processes may fetch the same archive into the same directory: one downloads, the others wait and share.
    ///
    /// When the lock holds a SHA-256, that is checked; else the MD5, if there is one.
    ///
    /// # Errors
    /// One variant of [`FetchError`] for each thing that a person would act upon differently.
    pub async fn fetch_archive(
        &self,
        package: &LockedPackage,
        spool_dir: &Path,
        progress: &dyn FetchProgress,
    ) -> Result<FetchedArchive, FetchError> {
        self.fetch(&Wanted::of_package(package), spool_dir, progress).await
    }

    /// Brings a wheel and checks it, as [`fetch_archive`](Self::fetch_archive) does with the archive of a package.
    ///
    /// # Errors
    /// As there.
    pub async fn fetch_wheel(
        &self,
        wheel: &LockedWheel,
        spool_dir: &Path,
        progress: &dyn FetchProgress,
    ) -> Result<FetchedArchive, FetchError> {
        self.fetch(&Wanted::of_wheel(wheel), spool_dir, progress).await
    }

    async fn fetch(
        &self,
        wanted: &Wanted,
        spool_dir: &Path,
        progress: &dyn FetchProgress,
    ) -> Result<FetchedArchive, FetchError> {
        let url = &wanted.url;
        match url.scheme() {
            "file" => open_in_place(wanted, progress).await,
            "http" | "https" | "oci" => {
                if self.is_offline() {
                    return Err(FetchError::Offline { url: redact(url) });
                }
                download::download(self, wanted, spool_dir, progress).await
            }
            scheme => Err(FetchError::UnsupportedScheme {
                scheme: scheme.to_owned(),
                url: redact(url),
            }),
        }
    }
}

/// Why an archive is not here. URLs hold no credentials.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Connecting is forbidden.
    #[error("{url} is not in the store and --offline forbids to fetch it; run once without --offline")]
    Offline {
        /// The archive.
        url: String,
    },
    /// The server, or the disk, has no such file.
    #[error("{url} does not exist; if its channel or index has dropped it, lock again")]
    NotFound {
        /// The archive.
        url: String,
    },
    /// The server wants to know who asks, or forbids it to the one who does.
    #[error(
        "{url} is refused with HTTP status {status}; the channel or index needs credentials: store a token for its host with \
         `pixi auth login` or `rattler auth login`, or put it into ~/.netrc"
    )]
    Refused {
        /// The archive.
        url: String,
        /// 401, 403 or 407.
        status: u16,
    },
    /// The server answers with something that no retry will mend.
    #[error("{url} is answered with HTTP status {status}; look at the address of the channel or index")]
    Status {
        /// The archive.
        url: String,
        /// What it answered.
        status: u16,
    },
    /// Connections fail or break, again and again.
    #[error(
        "{url} could not be fetched after {attempts} attempts: {reason}; look at the network and run again, it goes on where it stopped"
    )]
    Unreachable {
        /// The archive.
        url: String,
        /// Requests that were made.
        attempts: u32,
        /// What happened to the last one.
        reason: String,
    },
    /// Fewer bytes than the lock says, and the server has no more.
    #[error(
        "{url} is cut off: {found_bytes} bytes instead of {expected_bytes}; the server's copy is incomplete, try again later or another mirror"
    )]
    Truncated {
        /// The archive.
        url: String,
        /// The size in the lock.
        expected_bytes: u64,
        /// The size of what is there.
        found_bytes: u64,
    },
    /// Other bytes than the lock says.
    #[error(
        "{url} has {algorithm} {found} but the lock says {expected}; the file was changed or damaged: do not use it, lock again if it was replaced on purpose"
    )]
    WrongDigest {
        /// The archive.
        url: String,
        /// `sha256` or `md5`.
        algorithm: &'static str,
        /// The digest in the lock, in hexadecimal.
        expected: String,
        /// The digest of what is there, in hexadecimal.
        found: String,
    },
    /// It is larger than an archive may be.
    #[error("{url} is refused: {limit}")]
    Limit {
        /// The archive.
        url: String,
        /// What it passes.
        limit: Exceeded,
    },
    /// The URL is of a kind that cannot be fetched.
    #[error("{url} cannot be fetched: {scheme}:// is not supported; use https://, http://, oci:// or file://")]
    UnsupportedScheme {
        /// The part before `://`.
        scheme: String,
        /// The archive.
        url: String,
    },
    /// A file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// `read`, `write`, ...
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

async fn open_in_place(wanted: &Wanted, progress: &dyn FetchProgress) -> Result<FetchedArchive, FetchError> {
    let url = &wanted.url;
    let path = url
        .to_file_path()
        .map_err(|()| FetchError::NotFound { url: redact(url) })?;
    progress.started(wanted.size_bytes);
    let opened = tokio::task::spawn_blocking({
        let (path, wanted) = (path.clone(), wanted.clone());
        move || -> io::Result<(File, Digests)> {
            // A pipe would be waited for, and a device may have no end.
            if !std::fs::metadata(&path)?.is_file() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
            }
            let mut file = File::open(path)?;
            let digests = Digests::of_whole(&mut file, &wanted)?;
            Ok((file, digests))
        }
    });
    let (file, digests) = match opened.await {
        Ok(Ok(opened)) => opened,
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Err(FetchError::NotFound { url: redact(url) });
        }
        Ok(Err(source)) => {
            return Err(FetchError::Io {
                action: "read",
                path,
                source,
            });
        }
        Err(error) => {
            return Err(FetchError::Io {
                action: "read",
                path,
                source: io::Error::other(error),
            });
        }
    };
    progress.advanced(digests.size_bytes());
    let size_bytes = digests.size_bytes();
    let sha256 = digests.check(wanted)?;
    progress.finished();
    Ok(FetchedArchive {
        file,
        sha256,
        size_bytes,
        file_name: wanted.file_name.clone(),
    })
}
