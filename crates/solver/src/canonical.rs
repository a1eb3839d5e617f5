//! What an answer depends on, written so that two spellings of one question are the same text.
//!
//! The order and spelling of what is asked for, comments and names of files do not enter. What the channels hold at the time
//! does not either: whoever keeps an answer decides how long it may be old. Knows nothing of where answers are kept.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};

use crate::network::Network;
use crate::options::BuildOptions;
use crate::requirements::{Kind, Parts, Requirement};
use crate::solve::{self, ChannelPriority, ExcludeNewer, SolveError, SolveRequest};
use crate::subdir::Subdir;

/// The first line. Raise the number when the lines below mean something else, or another answer would be given.
const HEADING: &str = "envfs question 1";

/// What else decides what becomes of a spec.
#[derive(Clone, Copy, Debug)]
pub struct QuestionContext<'a> {
    /// The signature of the base.
    pub base: Option<&'a str>,
    /// The date or age after which packages are left out, as it was given: an age moves with the clock.
    pub exclude_newer: Option<&'a str>,
    /// The parts of a project that are asked for.
    pub parts: &'a Parts,
    /// The bytes of the lock of the Python world that the spec stands for.
    pub python_lock: Option<&'a [u8]>,
    /// Settings of uv, by name.
    pub settings: &'a BTreeMap<String, String>,
    /// What is left out.
    pub options: BuildOptions,
}

/// A question that may have been asked before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    text: String,
}

impl Question {
    /// The question of a spec; none where the answer depends on files whose content is not in it, such as a directory that is
    /// to be built.
    ///
    /// # Errors
    /// A channel or a MatchSpec makes no sense.
    pub fn of_spec(
        network: &Network,
        request: &SolveRequest<'_>,
        context: &QuestionContext<'_>,
    ) -> Result<Option<Self>, SolveError> {
        let requirements = request.spec.requirements();
        let all = requirements.wanted.iter().chain(&requirements.constraints);
        let is_local_place = |place: &String| !place.contains("://") || place.starts_with("file:");
        if all.into_iter().any(is_local) || requirements.sources.find_links.iter().any(is_local_place) {
            return Ok(None);
        }
        let mut this = Self::new(request.subdir);
        // The base is asked for by its name below; its packages would only repeat that.
        let request = SolveRequest {
            pinned: &[],
            ..request.clone()
        };
        let (channels, match_specs) = solve::resolved(&request, network)?;
        channels.iter().for_each(|channel| this.line("channel", channel));
        if request.channel_priority == ChannelPriority::Disabled {
            this.line("channel-priority", "disabled");
        }
        if let Some(given) = context.exclude_newer {
            this.line("exclude-newer", &canonical_date(given));
        }
        this.sorted("virtual-package", request.virtual_packages.to_strings());
        this.sorted("match-spec", match_specs);
        this.sorted("requirement", requirements.wanted.iter().map(with_digests).collect());
        this.sorted(
            "constraint",
            requirements.constraints.iter().map(with_digests).collect(),
        );
        if !requirements.is_empty() || context.python_lock.is_some() {
            this.line("sources", &format!("{:?}", requirements.sources));
            this.line("requires-python", &requirements.requires_python().unwrap_or_default());
            for (name, value) in context.settings {
                this.line("setting", &format!("{name} {}", quoted(value)));
            }
        }
        this.sorted("extra", context.parts.extras.clone());
        this.sorted("group", context.parts.groups.clone());
        if let Some(bytes) = context.python_lock {
            this.line("python-lock", &hex::encode(Sha256::digest(bytes)));
        }
        this.result(context, request.spec.variables());
        Ok(Some(this))
    }

    /// The question of a lock file, which has one answer for ever.
    #[must_use]
    pub fn of_lock(bytes: &[u8], environment: &str, subdir: Subdir, base: Option<&str>, options: BuildOptions) -> Self {
        let mut this = Self::new(subdir);
        this.line("lock", &hex::encode(Sha256::digest(bytes)));
        this.line("environment", &quoted(environment));
        let context = QuestionContext {
            base,
            exclude_newer: None,
            parts: &Parts::default(),
            python_lock: None,
            settings: &BTreeMap::new(),
            options,
        };
        this.result(&context, &BTreeMap::new());
        this
    }

    /// The canonical text. It may hold credentials of indexes: keep only a digest of it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    fn new(subdir: Subdir) -> Self {
        let mut this = Self {
            text: format!("{HEADING}\n"),
        };
        this.line("subdir", subdir.as_str());
        this
    }

    /// What does not change the packages and yet the environment.
    fn result(&mut self, context: &QuestionContext<'_>, variables: &BTreeMap<String, String>) {
        if let Some(base) = context.base {
            self.line("base", base);
        }
        for name in context.options.off() {
            self.line("option", &format!("{name} off"));
        }
        for (name, value) in variables {
            self.line("variable", &format!("{name} {}", quoted(value)));
        }
    }

    fn sorted(&mut self, word: &str, mut texts: Vec<String>) {
        texts.sort();
        texts.dedup();
        texts.iter().for_each(|text| self.line(word, text));
    }

    /// Adds a line. A text with a line break in it must not look like two lines.
    fn line(&mut self, word: &str, text: &str) {
        let text = if text.contains('\n') { &quoted(text) } else { text };
        let _ = writeln!(self.text, "{word} {text}");
    }
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Whether what a requirement brings is a file or directory of this machine, which may change behind its name.
fn is_local(requirement: &Requirement) -> bool {
    match &requirement.kind {
        Kind::Source(_) => true,
        Kind::Wheel(url) => url.scheme() == "file",
        Kind::Pep508(requirement) => matches!(
            &requirement.version_or_url,
            Some(pep508_rs::VersionOrUrl::Url(url)) if url.scheme() == "file"
        ),
    }
}

fn with_digests(requirement: &Requirement) -> String {
    let mut digests: Vec<String> = requirement.sha256.iter().map(hex::encode).collect();
    digests.sort();
    format!("{} {}", requirement.line(), digests.join(" "))
}

/// A date in one spelling; an age as it is, because the moment that it means moves.
fn canonical_date(given: &str) -> String {
    let at = |seconds| ExcludeNewer::parse(given, SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).ok();
    match (at(1_000_000_000), at(2_000_000_000)) {
        (Some(early), Some(late)) if early == late => early.to_rfc3339(),
        _ => given.trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::NetworkOptions;
    use crate::solve::VirtualPackages;
    use crate::spec::Spec;

    const SPEC: &str = "channels: [conda-forge]\ndependencies:\n  - numpy >=1.26\n  - python=3.12\n";

    fn ask(yml: &str, change: impl FnOnce(&mut QuestionContext<'_>)) -> Option<Question> {
        let directory = tempfile::tempdir().unwrap();
        let network = Network::new(NetworkOptions::new(directory.path(), "/")).unwrap();
        let spec = Spec::parse_environment_yml(yml, &directory.path().join("environment.yml")).unwrap();
        let subdir = "linux-64".parse().unwrap();
        let request = SolveRequest::new(&spec, subdir, VirtualPackages::baseline(subdir));
        let (parts, settings) = (Parts::default(), BTreeMap::new());
        let mut context = QuestionContext {
            base: None,
            exclude_newer: None,
            parts: &parts,
            python_lock: None,
            settings: &settings,
            options: BuildOptions::default(),
        };
        change(&mut context);
        Question::of_spec(&network, &request, &context).unwrap()
    }

    fn asked(yml: &str) -> Question {
        ask(yml, |_| {}).unwrap()
    }

    #[test]
    fn spelling_order_and_comments_do_not_matter() {
        let other = "# mine\nname: other\nchannels:\n  - https://conda.anaconda.org/conda-forge/\n\
                     dependencies:\n  - python 3.12.*   # the one\n  - numpy>=1.26\n  - numpy >=1.26\n";
        assert_eq!(asked(SPEC), asked(other));
        let pip = |lines: &str| asked(&format!("{SPEC}  - pip:\n{lines}"));
        assert_eq!(
            pip("    - httpx >= 0.27\n    - rich\n"),
            pip("    - rich\n    - httpx>=0.27\n")
        );
    }

    #[test]
    fn what_changes_the_answer_changes_the_question() {
        let plain = asked(SPEC);
        let mut seen = vec![plain];
        for yml in [
            SPEC.replace("1.26", "1.27"),
            SPEC.replace("conda-forge", "bioconda"),
            SPEC.replace("[conda-forge]", "[conda-forge, bioconda]"),
            SPEC.replace("[conda-forge]", "[bioconda, conda-forge]"),
            format!("{SPEC}  - pip:\n    - rich\n"),
            format!("{SPEC}  - pip:\n    - --pre\n    - rich\n"),
            format!("{SPEC}variables:\n  A: b\n"),
        ] {
            seen.push(asked(&yml));
        }
        seen.extend(ask(SPEC, |context| context.base = Some("3fb1c2d4")));
        seen.extend(ask(SPEC, |context| context.options.bytecode = false));
        seen.extend(ask(SPEC, |context| context.options.link_scripts = false));
        seen.extend(ask(SPEC, |context| context.exclude_newer = Some("2026-01-31")));
        seen.extend(ask(SPEC, |context| context.exclude_newer = Some("7d")));
        seen.extend(ask(SPEC, |context| context.python_lock = Some(b"x")));
        assert_eq!(seen.len(), 14);
        for (index, question) in seen.iter().enumerate() {
            assert!(!seen[..index].contains(question), "{}", question.text());
        }
    }

    #[test]
    fn a_date_has_one_spelling_and_an_age_stays_one() {
        assert_eq!(canonical_date("2026-01-31"), canonical_date("2026-01-31T00:00:00Z"));
        assert_eq!(canonical_date("7d"), "7d");
    }

    #[test]
    fn what_lies_in_a_file_is_no_question() {
        let yml = format!("{SPEC}  - pip:\n    - file:///wheels/a-1-py3-none-any.whl\n");
        assert_eq!(ask(&yml, |_| {}), None);
    }

    #[test]
    fn of_a_lock_the_bytes_count() {
        let subdir = "linux-64".parse().unwrap();
        let lock = |bytes: &[u8], base| Question::of_lock(bytes, "default", subdir, base, BuildOptions::default());
        assert_eq!(lock(b"a", None), lock(b"a", None));
        assert_ne!(lock(b"a", None), lock(b"b", None));
        assert_ne!(lock(b"a", None), lock(b"a", Some("3fb1c2d4")));
    }
}
