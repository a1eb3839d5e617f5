//! An error with its causes in one line, for a log or another process.

use std::error::Error;

/// `error` and what caused it, separated by colons.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_is_named() {
        let error = envfs_store::Error::Io {
            action: "open",
            path: "objects/ab".into(),
            source: nix::errno::Errno::ESTALE.into(),
        };
        assert_eq!(
            with_causes(&error),
            "cannot open `objects/ab`: Stale file handle (os error 116)"
        );
    }
}
