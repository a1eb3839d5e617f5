//! What is noted of environments beside what they are. Nothing fails for it.

use std::path::Path;

use envfs_store::Store;
use envfs_store::environment::{self, Environment};
use envfs_store::index::{self, Index, IndexError};

use crate::context::Context;

/// The index of `store`, if there can be one; says so if it had to be made anew.
pub(crate) fn open(context: &Context, store: &Store) -> Option<Index> {
    match Index::open(store) {
        Ok(mut index) => {
            if let Some(reason) = index.take_warning() {
                context.note(&format!(
                    "warning: the index was put aside and made anew, because {reason}; how often environments were used is forgotten"
                ));
            }
            Some(index)
        }
        Err(error) => {
            tracing::debug!("no index: {error}");
            None
        }
    }
}

/// Notes that an environment is used from now on. Who claimed it has touched it.
pub(crate) fn used(store: &Store, environment: &Environment) {
    forgive(index::used(store, &environment.signature).map_err(IndexError::from));
}

/// Notes that an environment was made or found, and for which file.
pub(crate) fn ensured(context: &Context, store: &Store, environment: &Environment, spec: Option<&Path>) {
    environment::touch(store, &environment.signature);
    let Some(index) = open(context, store) else { return };
    let known = index.of(&environment.signature).ok().flatten();
    let bytes = match known.and_then(|known| known.file_bytes) {
        // It never changes.
        Some(_) => None,
        None => index::content_bytes(store, environment),
    };
    forgive(index.record(environment, bytes, spec));
}

/// Notes that environments are gone.
pub(crate) fn collected(context: &Context, store: &Store) {
    if let Some(mut index) = open(context, store) {
        forgive(index.rebuild(store).map(drop));
    }
}

fn forgive(result: Result<(), IndexError>) {
    if let Err(error) = result {
        tracing::debug!(
            "{error}: {}",
            std::error::Error::source(&error).map_or_else(String::new, ToString::to_string)
        );
    }
}
