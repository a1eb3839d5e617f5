//! A plan of a migration: which environments there are, and how each of them comes into the store.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use envfs_store::name::Name;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::error::CliError;

/// How an environment comes into the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum How {
    /// As it is, from its directory.
    Import,
    /// From a lock.
    Replicate,
    /// Solved again, without builds.
    Resolve,
    /// Not at all: what it asks for is written down.
    Export,
}

/// One environment.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Entry {
    pub(crate) how: How,
    pub(crate) prefix: Option<PathBuf>,
    pub(crate) lock: Option<PathBuf>,
    pub(crate) spec: Option<PathBuf>,
    /// A command that must succeed in it.
    #[serde(default)]
    pub(crate) smoke: Vec<String>,
    pub(crate) tag: Option<String>,
    #[serde(default)]
    pub(crate) fetch: bool,
    #[serde(default)]
    pub(crate) keep_outside: bool,
}

/// One environment with the name that it gets.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Planned {
    pub(crate) name: String,
    /// The name with its tag, none for what is only exported.
    pub(crate) tagged: Option<Name>,
    #[serde(flatten)]
    pub(crate) entry: Entry,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Document {
    #[serde(default = "qa")]
    tag: String,
    environments: BTreeMap<Spanned<String>, Entry>,
}

fn qa() -> String {
    "qa".to_owned()
}

/// Reads a plan. Paths in it are relative to it.
pub(crate) fn read(path: &Path) -> Result<Vec<Planned>, CliError> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| CliError::new(format!("cannot read `{}`", path.display())).because(error.to_string()))?;
    let at = |start: usize| text[..start.min(text.len())].matches('\n').count() + 1;
    let wrong = |line: usize, what: &str| CliError::new(format!("{}:{line}: {what}", path.display()));
    let document: Document = toml::from_str(&text).map_err(|error| {
        wrong(error.span().map_or(1, |span| at(span.start)), error.message())
            .help("an environment reads: [environments.NAME], how = \"import\", prefix = \"/opt/envs/NAME\"")
    })?;
    let absolute = std::path::absolute(path)?;
    let directory = absolute.parent().unwrap_or(Path::new("/"));
    let mut planned = Vec::new();
    for (name, mut entry) in document.environments {
        let line = at(name.span().start);
        let name = name.into_inner();
        for place in [&mut entry.prefix, &mut entry.lock, &mut entry.spec]
            .into_iter()
            .flatten()
        {
            *place = directory.join(&*place);
        }
        if let Some(missing) = missing(&entry) {
            let what = format!("`{name}` has no {missing}, which `how = \"{}\"` needs", word(entry.how));
            return Err(wrong(line, &what).help(format!("write `{missing} = \"PATH\"` below [environments.{name}]")));
        }
        let tag = entry.tag.clone().unwrap_or_else(|| document.tag.clone());
        if tag == "current" {
            let what = format!("`{name}` would become `current`, which is what is used");
            let help = "migrate to another tag, such as `qa`, look at the report, and promote: envfs promote NAME:qa NAME:current";
            return Err(wrong(line, &what).help(help));
        }
        let tagged = format!("{name}:{tag}")
            .parse::<Name>()
            .map_err(|error| wrong(line, &error.to_string()))?;
        planned.push(Planned {
            tagged: (entry.how != How::Export).then_some(tagged),
            name,
            entry,
        });
    }
    Ok(planned)
}

/// What an entry lacks.
fn missing(entry: &Entry) -> Option<&'static str> {
    match entry.how {
        How::Import | How::Export if entry.prefix.is_none() => Some("prefix"),
        How::Replicate if entry.lock.is_none() => Some("lock"),
        How::Resolve if entry.spec.is_none() && entry.prefix.is_none() => Some("spec"),
        _ => None,
    }
}

/// As it is written.
pub(crate) fn word(how: How) -> &'static str {
    match how {
        How::Import => "import",
        How::Replicate => "replicate",
        How::Resolve => "resolve",
        How::Export => "export",
    }
}
