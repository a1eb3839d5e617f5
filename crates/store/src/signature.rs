//! What an environment is called: a digest of what determines its content, and of nothing else.
//!
//! The signature is the BLAKE3 digest of a text that anyone can write down, so that it can be checked with `b3sum`:
//!
//! ```text
//! envfs signature 1
//! subdir linux-64
//! option <name> <value>        (sorted by name; only those that are not the default)
//! variable <NAME> <value>      (sorted by name; the value is a JSON string)
//! environment <64 hex>          (only on one with a captured layer: then the lines below are what it adds)
//! archive sha256:<64 hex>      (one for each conda package, in link order)
//! wheel sha256:<64 hex>        (one for each wheel, in link order)
//! ```
//!
//! Every line ends with a newline. The spelling of the specification, its order, its name, channels and mirrors,
//! the machine, the mount path and the inherited base do not enter. Link order enters, because it decides who wins
//! where two packages bring the same path.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::digest::{Digest, Sha256};

/// What determines the content of an environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// The platform, as channels call it.
    pub subdir: String,
    /// Build options that are not the default.
    pub options: BTreeMap<String, String>,
    /// Environment variables that activation sets.
    pub variables: BTreeMap<String, String>,
    /// The environment that all this is added to, where its own packages do not say what is in it: it was changed by hand.
    pub environment: Option<Digest>,
    /// The archives of conda packages in link order: a package after those it depends on.
    pub archives: Vec<Sha256>,
    /// The wheels in link order: by name.
    pub wheels: Vec<Sha256>,
}

/// The signature of an environment that is another one with a layer of changes on it:
///
/// ```text
/// envfs signature 1
/// subdir linux-64
/// environment <64 hex>
/// layer sha256:<64 hex>
/// ```
#[must_use]
pub fn of_change(subdir: &str, environment: &Digest, layer: &Sha256) -> Digest {
    let text = format!("envfs signature 1\nsubdir {subdir}\nenvironment {environment}\nlayer sha256:{layer}\n");
    Digest::of(text.as_bytes())
}

impl Identity {
    /// The text that is hashed.
    #[must_use]
    pub fn canonical_text(&self) -> String {
        let mut text = format!("envfs signature 1\nsubdir {}\n", self.subdir);
        let mut line = |line: std::fmt::Arguments<'_>| {
            text.write_fmt(line).expect("a string takes any text");
            text.push('\n');
        };
        for (name, value) in &self.options {
            line(format_args!("option {name} {value}"));
        }
        for (name, value) in &self.variables {
            line(format_args!(
                "variable {name} {}",
                serde_json::Value::from(value.as_str())
            ));
        }
        if let Some(environment) = &self.environment {
            line(format_args!("environment {environment}"));
        }
        for archive in &self.archives {
            line(format_args!("archive sha256:{archive}"));
        }
        for wheel in &self.wheels {
            line(format_args!("wheel sha256:{wheel}"));
        }
        text
    }

    /// The signature.
    #[must_use]
    pub fn signature(&self) -> Digest {
        Digest::of(self.canonical_text().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The vectors of `docs/format.md`, "signature": checked with `b3sum`, never to be changed.
    #[test]
    fn vectors() {
        let empty = Identity {
            subdir: "linux-64".into(),
            ..Identity::default()
        };
        assert_eq!(
            empty.signature().to_string(),
            "1b335073a52ec580a65b6000b80cbad0eb7c86bc6b0a599ec780db43f4763700"
        );
        let full = Identity {
            subdir: "linux-64".into(),
            options: BTreeMap::from([("link-scripts".into(), "off".into())]),
            variables: BTreeMap::from([("GREETING".into(), "say \"hi\"".into())]),
            environment: None,
            archives: vec![Sha256::from_bytes([0x11; 32]), Sha256::from_bytes([0x22; 32])],
            wheels: Vec::new(),
        };
        assert_eq!(
            full.signature().to_string(),
            "17bd6b2b2c587740ca2da8dfdcd7f79952aaca0569327203eb73a6c5bac6ce9b"
        );
        let on_changed = Identity {
            environment: Some(empty.signature()),
            wheels: vec![Sha256::from_bytes([0x33; 32])],
            ..empty.clone()
        };
        assert_eq!(
            on_changed.signature().to_string(),
            "131b6ffab2f9aa6705ed760b9a97d27c726094ab84f65ad59e83f2f79109bae6"
        );
        let with_wheels = Identity {
            archives: vec![Sha256::from_bytes([0x11; 32])],
            wheels: vec![Sha256::from_bytes([0x33; 32]), Sha256::from_bytes([0x22; 32])],
            ..empty
        };
        assert_eq!(
            with_wheels.signature().to_string(),
            "ce0c03a38f3b298b1168c93b78b5a5e4911a08fe5c1443b3e6d4c4e2b58f1265"
        );
    }
}
