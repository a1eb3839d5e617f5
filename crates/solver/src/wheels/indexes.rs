//! Where uv looks, and who asks there: the addresses of indexes with the variables that they name, and the user and password in
//! them, which hold for the files on the same host too.
//!
//! Credentials are looked up when something is resolved, and are part of no question, lock or record.

use std::process::Command;

use url::Url;

use super::WheelsError;
use crate::requirements::Sources;
use crate::source::Distribution;
use crate::uv::Uv;

/// The variables by which uv is told of indexes; some hold several, or names in front of them.
const SETTINGS: [&str; 4] = ["UV_DEFAULT_INDEX", "UV_INDEX_URL", "UV_INDEX", "UV_EXTRA_INDEX_URL"];

/// The places where packages are looked for.
pub(super) struct Indexes {
    default: Option<String>,
    more: Vec<String>,
    links: Vec<String>,
    /// All of them that say who asks, and those of uv's own settings.
    known: Vec<Url>,
}

impl Indexes {
    /// Those that are asked for, with their variables filled in.
    ///
    /// # Errors
    /// A variable is not set.
    pub(super) fn of(sources: &Sources, uv: &Uv) -> Result<Self, WheelsError> {
        let fill = |text: &String| filled(text, uv);
        let all = |texts: &[String]| texts.iter().map(fill).collect::<Result<Vec<_>, _>>();
        let mut this = Self {
            default: sources.index_url.as_ref().map(fill).transpose()?,
            more: all(&sources.extra_index_urls)?,
            links: all(&sources.find_links)?,
            known: Vec::new(),
        };
        let set: Vec<String> = SETTINGS.iter().filter_map(|name| uv.variable(name)).collect();
        let set = set.iter().flat_map(|text| text.split_whitespace());
        let set = set.map(|text| {
            text.split_once('=')
                .filter(|(name, _)| !name.contains(':'))
                .map_or(text, |(_, url)| url)
        });
        let asked = this.default.iter().chain(&this.more).chain(&this.links);
        let urls = asked
            .map(String::as_str)
            .chain(set)
            .filter_map(|text| text.parse::<Url>().ok());
        this.known = urls.filter(|url| !url.username().is_empty()).collect();
        Ok(this)
    }

    /// Tells uv.
    pub(super) fn add_to(&self, command: &mut Command) {
        if let Some(url) = &self.default {
            command.args(["--default-index", url]);
        }
        for url in &self.more {
            command.args(["--index", url]);
        }
        for place in &self.links {
            command.args(["--find-links", place]);
        }
    }

    /// What was found, to be fetched by who asked.
    pub(super) fn authorized(&self, found: Distribution) -> Distribution {
        let user_of = |url: &Url| {
            let is_same = |known: &&Url| known.origin() == url.origin();
            self.known.iter().find(is_same).filter(|_| url.username().is_empty())
        };
        match found {
            Distribution::Wheel(wheel) => match user_of(wheel.parsed_url()) {
                Some(known) => Distribution::Wheel(wheel.with_user_of(known)),
                None => Distribution::Wheel(wheel),
            },
            Distribution::Source(source) => Distribution::Source(source.with_user(user_of)),
        }
    }
}

/// The text with `${NAME}` replaced by the variable's value, as pip does it.
fn filled(text: &str, uv: &Uv) -> Result<String, WheelsError> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("${") {
        let (name, after) = match behind.split_once('}') {
            Some((name, after)) if is_name(name) => (name, after),
            _ => break,
        };
        let value = uv
            .variable(name)
            .ok_or_else(|| WheelsError::Unset { name: name.to_owned() })?;
        filled.push_str(before);
        filled.push_str(&value);
        rest = after;
    }
    Ok(filled + rest)
}

/// Whether pip takes it for the name of a variable.
fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}
