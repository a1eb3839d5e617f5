//! What somebody once asked of an environment that is installed, and what it became: enough to ask again.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use envfs_store::environment::PackageKind;
use rattler_conda_types::PrefixRecord;

use super::ImportError;
use super::prefix::Prefix;
use super::survey::Surveyed;

/// An installed environment, as it can be asked for again.
#[derive(Clone, Debug)]
pub struct Requested {
    /// MatchSpecs that were asked for, without builds; where nobody noted any, every package with its version.
    pub match_specs: Vec<String>,
    /// What pip or uv installed besides, as requirements with their versions.
    pub requirements: Vec<String>,
    /// The channels of its packages.
    pub channels: Vec<String>,
    /// What it holds: where from, name, version.
    pub installed: BTreeSet<(PackageKind, String, String)>,
    /// The archives of its conda packages, as `@EXPLICIT` lists them.
    archives: Vec<String>,
}

impl Requested {
    /// Reads the records of a conda environment, or of a venv what is installed in it.
    ///
    /// # Errors
    /// There is no environment, or its records cannot be read.
    pub fn of(prefix: &Path) -> Result<Self, ImportError> {
        let found = Surveyed::of(prefix, true)?;
        let mut requested = Self {
            match_specs: specs_of_history(&found.prefix)?,
            requirements: Vec::new(),
            channels: Vec::new(),
            installed: BTreeSet::new(),
            archives: Vec::new(),
        };
        let mut noted = Vec::new();
        for installed in &found.packages {
            let package = &installed.package;
            let (name, version) = (package.name().to_owned(), package.version());
            requested.archives.push(match package.sha256() {
                Some(sha256) => format!("{}#sha256:{}", package.redacted_url(), hex::encode(sha256)),
                None => package.redacted_url(),
            });
            if let Some(channel) = package.channel()
                && !requested.channels.iter().any(|known| known == channel)
            {
                requested.channels.push(channel.to_owned());
            }
            if requested.match_specs.is_empty() {
                noted.push(format!("{name}={version}"));
            }
            requested.installed.insert((PackageKind::Conda, name, version));
        }
        requested.match_specs.extend(noted);
        for dist in &found.dists {
            let (name, version) = (dist.wheel.name().to_owned(), dist.wheel.version().to_owned());
            requested.requirements.push(format!("{name}=={version}"));
            requested.installed.insert((PackageKind::Pypi, name, version));
        }
        Ok(requested)
    }

    /// An environment.yml that asks for the same.
    #[must_use]
    pub fn environment_yml(&self) -> String {
        let mut text = String::from("channels:\n");
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        for channel in &self.channels {
            let _ = writeln!(text, "  - {}", quoted(channel));
        }
        text += "dependencies:\n";
        for spec in &self.match_specs {
            let _ = writeln!(text, "  - {}", quoted(spec));
        }
        if !self.requirements.is_empty() {
            text += "  - pip:\n";
            for requirement in &self.requirements {
                let _ = writeln!(text, "      - {}", quoted(requirement));
            }
        }
        text
    }

    /// Its conda packages as an `@EXPLICIT` list.
    #[must_use]
    pub fn explicit(&self) -> String {
        format!("@EXPLICIT\n{}\n", self.archives.join("\n"))
    }
}

/// The last `update specs` of every package in `conda-meta/history`, or what the records say was asked for.
fn specs_of_history(prefix: &Prefix) -> Result<Vec<String>, ImportError> {
    let mut specs: Vec<(String, String)> = Vec::new();
    let text = prefix.read("conda-meta/history")?.unwrap_or_default();
    for line in String::from_utf8_lossy(&text).lines() {
        let (is_removal, list) = match (
            line.strip_prefix("# update specs: "),
            line.strip_prefix("# remove specs: "),
        ) {
            (Some(list), _) => (false, list),
            (_, Some(list)) => (true, list),
            _ => continue,
        };
        // A list as Python writes it: texts in quotes of either kind.
        for spec in list
            .split(['\'', '"'])
            .filter(|part| !part.trim_matches(['[', ']', ',', ' ']).is_empty())
        {
            let name = name_of(spec);
            specs.retain(|(known, _)| *known != name);
            if !is_removal {
                specs.push((name, without_build(spec)));
            }
        }
    }
    if specs.is_empty() {
        for (path, name) in prefix
            .children("conda-meta")
            .filter(|(_, name)| name.ends_with(".json"))
        {
            let bytes = prefix.read(&path.to_string())?.unwrap_or_default();
            let record: PrefixRecord = serde_json::from_slice(&bytes).map_err(|error| ImportError::Record {
                file: prefix.root.join("conda-meta").join(name),
                reason: error.to_string(),
            })?;
            let asked = record
                .requested_specs
                .iter()
                .map(|spec| (name_of(spec), without_build(spec)));
            specs.extend(asked);
        }
    }
    Ok(specs.into_iter().map(|(_, spec)| spec).collect())
}

fn name_of(spec: &str) -> String {
    let name = spec.rsplit("::").next().unwrap_or(spec);
    name.split([' ', '=', '<', '>', '!', '~', '['])
        .next()
        .unwrap_or(name)
        .to_owned()
}

/// A MatchSpec without the build string that a third word or a second `=` gives.
fn without_build(spec: &str) -> String {
    let words: Vec<&str> = spec.split_whitespace().collect();
    match words.as_slice() {
        [name, version, _build] => format!("{name} {version}"),
        _ => {
            let parts: Vec<&str> = spec.split('=').collect();
            match parts.as_slice() {
                [name, version, build] if !build.is_empty() && !version.is_empty() => format!("{name}={version}"),
                _ => spec.to_owned(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_are_left_out() {
        for (spec, expected) in [
            ("numpy=1.26=py312h1_0", "numpy=1.26"),
            ("numpy 1.26 py312h1_0", "numpy 1.26"),
            ("numpy==1.26", "numpy==1.26"),
            ("c::numpy >=1", "c::numpy >=1"),
            ("numpy", "numpy"),
        ] {
            assert_eq!(without_build(spec), expected);
        }
        assert_eq!(name_of("c::numpy>=1"), "numpy");
    }
}
