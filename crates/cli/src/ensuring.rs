//! What `envfs mount --ensure` finds where an environment is to be seen: whether it may stay, and how it makes way.

use std::path::Path;

use envfs_fuse::backend::{Backend, Choice};
use envfs_fuse::status::{self, State, Status};
use envfs_fuse::unmount::{self, UnmountError};
use envfs_fuse::writable::State as WritableState;
use envfs_store::lock::FileLock;
use envfs_store::{Digest, Store};

use crate::context::Context;
use crate::error::CliError;
use crate::stable;

/// Keeps others who ensure the same place out, until what is returned is dropped: they find what the first has made. Where nothing may
/// be written, nobody is kept out.
pub(crate) fn alone_at(store: &Store, path: &Path) -> Result<Option<FileLock>, CliError> {
    const DIGITS: usize = 16;
    let place = stable::absolute(path).or_else(|_| std::path::absolute(path))?;
    let digest = Digest::of(place.as_os_str().as_encoded_bytes()).to_string();
    match store.reserve(&format!("mount-{}", &digest[..DIGITS])) {
        Err(error) if error.is_read_only() => Ok(None),
        lock => Ok(Some(lock?)),
    }
}

/// An environment that is mounted or linked there.
pub(crate) struct Present(Status);

impl Present {
    /// What is at `path`, if it is one of ours.
    ///
    /// # Errors
    /// When it is written to: to whom it belongs must say what becomes of that.
    pub(crate) fn find(store: &Store, path: &Path) -> Result<Option<Self>, CliError> {
        let Some(status) = status::at(store, path)? else {
            return Ok(None);
        };
        if WritableState::of_mount(&status.mount_point).is_ok() {
            let place = status.mount_point.display();
            return Err(
                CliError::new(format!("`{place}` is mounted so that it is written to")).help(format!(
                    "`envfs umount {place}` first, which keeps what was written for the next `envfs mount --writable`"
                )),
            );
        }
        Ok(Some(Self(status)))
    }

    /// Where it is, without symlinks.
    pub(crate) fn mount_point(&self) -> &Path {
        &self.0.mount_point
    }

    /// By what the environment `signature` is served there, if it may stay. Else it is taken away: what is dead also from whoever
    /// still has it open, and what serves only if nobody uses it.
    pub(crate) fn stay_or_go(
        &self,
        context: &Context,
        (store, signature): (&Store, &Digest),
        choice: Choice,
    ) -> Result<Option<Backend>, CliError> {
        let Status {
            mount_point,
            state,
            backend,
            signature_digits,
            ..
        } = &self.0;
        let is_it = match &self.0.signature {
            Some(shown) => shown == signature,
            None => signature.to_string().starts_with(signature_digits),
        };
        let backend = backend.filter(|backend| is_it && choice.is_none_or(|only| only == *backend));
        let place = mount_point.display();
        let fault = match state {
            State::Serving | State::Restarting if backend.is_some() => return Ok(backend),
            State::Serving | State::Restarting => "was there instead",
            State::Unguarded => "nobody would have restarted",
            State::Dead => "was dead",
        };
        // Of links of an earlier boot nobody knows yet whether somebody has written among them.
        let is_lost = *state == State::Dead && self.0.backend != Some(Backend::Link);
        match unmount::unmount(store, mount_point, is_lost) {
            // Somebody else may have been first.
            Ok(()) | Err(UnmountError::NotMounted(_)) => {
                context.note(&format!("took {signature_digits} away at {place}, which {fault}"));
                Ok(None)
            }
            Err(UnmountError::Busy { .. }) if backend.is_some() => {
                context.note(&format!(
                    "note: {place} is in use and stays; nobody would restart its server"
                ));
                Ok(backend)
            }
            Err(error @ UnmountError::Busy { .. }) => Err(CliError::from(error).help(format!(
                "`envfs umount --lazy {place}` leaves it to those who use it, and to nobody else"
            ))),
            Err(error) => Err(error.into()),
        }
    }
}
