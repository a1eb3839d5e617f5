//! Distributions that pip, uv or the like installed: known by their `.dist-info` directories (PEP 376 and 627).
//!
//! A wheel that the store holds is recognised by its files. Of any other, what its `RECORD` lists is taken from the prefix and
//! put back into the form of a wheel's layer, from which it is linked like one. Nothing here says which archive it was: an
//! installation does not know.

use std::collections::{BTreeMap, BTreeSet};

use envfs_store::Store;
use envfs_store::digest::Sha256;
use envfs_store::environment::{self, PackageKind};
use envfs_store::ingest::Written;
use envfs_store::layer::{EntryKind, Layer};
use envfs_store::path::EnvPath;
use envfs_store::workspace::Workspace;

use super::ImportError;
use super::own::{Expected, OwnLayer};
use super::prefix::{FoundKind, Prefix, read};
use crate::bytecode::source_of;
use crate::link::Site;
use crate::pypi::LockedWheel;
use crate::wheel::{self, DATA, HEADERS, MTIME_S, SCRIPTS, SITE_PACKAGES, entry_points, record};

/// Files of `.dist-info` that an installer writes, and that are written anew when a wheel is linked.
const WRITTEN_BY_INSTALLERS: [&str; 8] = [
    "RECORD",
    "RECORD.jws",
    "RECORD.p7s",
    "INSTALLER",
    "REQUESTED",
    "direct_url.json",
    "uv_build.json",
    "uv_cache.json",
];

/// A distribution that is installed.
pub(super) struct Dist {
    /// The wheel that it is taken for.
    pub(super) wheel: LockedWheel,
    /// Its directory, as a path in the prefix.
    directory: String,
    /// What `RECORD` lists, with the digest that it gives.
    rows: BTreeMap<EnvPath, Option<Sha256>>,
    /// The names of its commands.
    commands: BTreeSet<String>,
}

/// The wheels that the store holds, by name and version.
pub(super) struct Known(BTreeMap<(String, String), Vec<LockedWheel>>);

impl Known {
    pub(super) fn in_store(store: &Store) -> Result<Self, ImportError> {
        let mut known: BTreeMap<_, Vec<LockedWheel>> = BTreeMap::new();
        // A damaged record is nobody's help, and `envfs store verify`'s to tell.
        for package in environment::list(store)?
            .into_iter()
            .flatten()
            .flat_map(|found| found.packages)
        {
            let Ok(wheel) = LockedWheel::new(&package.url) else {
                continue;
            };
            if package.kind == PackageKind::Pypi {
                let wheel = wheel
                    .with_sha256(*package.sha256.as_bytes())
                    .with_size_bytes(package.size_bytes);
                let wheels = known
                    .entry((wheel.name().to_owned(), wheel.version().to_owned()))
                    .or_default();
                if !wheels.contains(&wheel) {
                    wheels.push(wheel);
                }
            }
        }
        Ok(Self(known))
    }
}

/// The distributions in `site_packages` that are not among `owned`, which conda's packages brought.
pub(super) fn find(prefix: &Prefix, site_packages: &str, owned: &BTreeSet<&EnvPath>) -> Result<Vec<Dist>, ImportError> {
    let mut found: BTreeMap<String, Dist> = BTreeMap::new();
    for (path, name) in prefix.children(site_packages) {
        let Some(stem) = name.strip_suffix(".dist-info") else {
            continue;
        };
        let inside = |file: &str| EnvPath::parse(format!("{path}/{file}")).ok();
        if inside("METADATA").is_none_or(|metadata| owned.contains(&metadata)) {
            continue;
        }
        // Without RECORD or WHEEL nobody knows which files are its: they are taken as files of nobody.
        if let Some(dist) = Dist::read(prefix, site_packages, stem)? {
            found.insert(dist.wheel.name().to_owned(), dist);
        }
    }
    Ok(found.into_values().collect())
}

impl Dist {
    fn read(prefix: &Prefix, site_packages: &str, stem: &str) -> Result<Option<Self>, ImportError> {
        let directory = format!("{site_packages}/{stem}.dist-info");
        let text = |name: &str| -> Result<Option<String>, ImportError> {
            let bytes = prefix.read(&format!("{directory}/{name}"))?;
            Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
        };
        let (Some(record), Some(about)) = (text("RECORD")?, text("WHEEL")?) else {
            return Ok(None);
        };
        let tag = about
            .lines()
            .find_map(|line| line.strip_prefix("Tag:"))
            .unwrap_or("py3-none-any");
        let Ok(wheel) = LockedWheel::new(&format!("imported:///{stem}-{}.whl", tag.trim())) else {
            return Ok(None);
        };
        let direct_url = text("direct_url.json")?;
        let wheel = wheel
            .with_requested(prefix.has(&format!("{directory}/REQUESTED")))
            .with_direct_url(direct_url.filter(|json| editable_of(json).is_none()));
        let commands = entry_points::scripts(&text("entry_points.txt")?.unwrap_or_default()).unwrap_or_default();
        Ok(Some(Self {
            wheel,
            directory,
            rows: record::installed_rows(&record, site_packages),
            commands: commands.into_iter().map(|command| command.name).collect(),
        }))
    }

    /// The place outside of the prefix that an editable installation is imported from.
    pub(super) fn editable(&self, prefix: &Prefix) -> Result<Option<String>, ImportError> {
        let json = prefix
            .read(&format!("{}/direct_url.json", self.directory))?
            .unwrap_or_default();
        let target = editable_of(&String::from_utf8_lossy(&json));
        Ok(target.filter(|url| !url.starts_with(&format!("file://{}/", prefix.text))))
    }

    pub(super) fn direct_url_file(&self) -> String {
        format!("{}/direct_url.json", self.directory)
    }

    /// The wheel of the store that it was installed from, and its layer.
    pub(super) fn recognise(
        &self,
        known: &Known,
        store: &Store,
        site: &Site,
    ) -> Result<Option<(LockedWheel, Layer)>, ImportError> {
        let key = (self.wheel.name().to_owned(), self.wheel.version().to_owned());
        for wheel in known.0.get(&key).into_iter().flatten() {
            let sha256 = wheel.sha256().map(Sha256::from_bytes);
            let layer = sha256.map(|sha256| store.layer(&sha256)).transpose()?.flatten();
            if let Some(layer) = layer.filter(|layer| self.is_of(layer, site)) {
                let wheel = wheel
                    .clone()
                    .with_requested(self.wheel.is_requested())
                    .with_direct_url(self.wheel.direct_url().map(str::to_owned));
                return Ok(Some((wheel, layer)));
            }
        }
        Ok(None)
    }

    /// Whether `RECORD` lists what a wheel's layer holds. Scripts are other files once they are installed.
    fn is_of(&self, layer: &Layer, site: &Site) -> bool {
        layer.entries.iter().all(|entry| {
            let EntryKind::File(file) = &entry.kind else {
                return true;
            };
            let Ok(path) = site.target(&entry.path, self.wheel.name()) else {
                return false;
            };
            let is_script = entry.path.as_bytes().starts_with(SCRIPTS.as_bytes());
            match self.rows.get(&path) {
                Some(Some(sha256)) => is_script || file.sha256.as_ref() == Some(sha256),
                Some(None) => true,
                None => false,
            }
        })
    }

    /// Its files as the layer of a wheel. Those that are not what `RECORD` says go into `altered`.
    pub(super) fn take(
        &self,
        prefix: &Prefix,
        site: &Site,
        (store, workspace): (&Store, &Workspace),
        altered: &mut BTreeSet<EnvPath>,
    ) -> Result<(Layer, Written), ImportError> {
        let mut layer = OwnLayer::new(prefix, store, workspace)?;
        for (path, sha256) in &self.rows {
            if source_of(path).is_some() || self.is_made_anew(path, site) {
                continue;
            }
            let Some(found) = prefix.get(path) else {
                altered.insert(path.clone());
                continue;
            };
            let Some(target) = self.place(path, site) else {
                continue;
            };
            if let FoundKind::File { executable, .. } = found.kind
                && target.as_bytes().starts_with(SCRIPTS.as_bytes())
            {
                let content = read(&prefix.place(path))?;
                if let Some(script) = as_in_wheel(&content, &prefix.text) {
                    layer.add_file(target, MTIME_S, &script, executable)?;
                    continue;
                }
            }
            let expected = Expected {
                sha256: *sha256,
                is_made: true,
                ..Expected::default()
            };
            // The time of an installation is a property of the prefix, and not of the wheel.
            let found = super::prefix::Found {
                mtime_s: MTIME_S,
                kind: found.kind.clone(),
            };
            if !layer.take(path, &found, target, expected)? {
                altered.insert(path.clone());
            }
        }
        layer.publish(self.info(prefix)?)
    }

    /// The paths that another installer writes in another way, and that mean the same, as long as they are what their
    /// `RECORD` says.
    pub(super) fn equivalent(&self, prefix: &Prefix, site: &Site) -> Result<BTreeSet<EnvPath>, ImportError> {
        let mut equivalent = BTreeSet::new();
        for name in WRITTEN_BY_INSTALLERS {
            equivalent.extend(EnvPath::parse(format!("{}/{name}", self.directory)));
        }
        for (path, sha256) in &self.rows {
            let is_script = self.script_name(path, site).is_some();
            if !is_script || source_of(path).is_some() {
                continue;
            }
            let is_unchanged = match (sha256, read(&prefix.place(path))) {
                (Some(sha256), Ok(content)) => *sha256 == super::own::digest(&content),
                (None, Ok(_)) => true,
                (_, Err(_)) => false,
            };
            if is_unchanged {
                equivalent.insert(path.clone());
            }
        }
        Ok(equivalent)
    }

    /// The name of a script, if the path is one's.
    fn script_name<'a>(&self, path: &'a EnvPath, site: &Site) -> Option<&'a str> {
        let name = std::str::from_utf8(path.as_bytes()).ok()?;
        name.strip_prefix(site.scripts())?.strip_prefix('/')
    }

    fn is_made_anew(&self, path: &EnvPath, site: &Site) -> bool {
        let text = path.to_string();
        let metadata = text
            .strip_prefix(&self.directory)
            .and_then(|rest| rest.strip_prefix('/'));
        metadata.is_some_and(|name| WRITTEN_BY_INSTALLERS.contains(&name))
            || self.script_name(path, site).is_some_and(|name| {
                self.commands.contains(name) || (self.wheel.name() == "pip" && name.starts_with("pip"))
            })
    }

    /// Where a file lies in the layer of a wheel.
    fn place(&self, path: &EnvPath, site: &Site) -> Option<EnvPath> {
        let headers = format!("{}/{}", site.headers(), self.wheel.name());
        let places = [
            (site.site_packages.as_str(), SITE_PACKAGES),
            (site.scripts(), SCRIPTS),
            (headers.as_str(), HEADERS),
        ];
        let inside = places.into_iter().find_map(|(from, to)| {
            let rest = path.as_bytes().strip_prefix(from.as_bytes())?.strip_prefix(b"/")?;
            Some([to.as_bytes(), rest].concat())
        });
        EnvPath::parse(inside.unwrap_or_else(|| [DATA.as_bytes(), path.as_bytes()].concat())).ok()
    }

    fn info(&self, prefix: &Prefix) -> Result<BTreeMap<String, Vec<u8>>, ImportError> {
        let name = self.directory.rsplit('/').next().unwrap_or_default();
        let mut info = BTreeMap::from([(wheel::info::DIST_INFO.to_owned(), name.as_bytes().to_owned())]);
        for name in [wheel::info::METADATA, wheel::info::WHEEL, wheel::info::ENTRY_POINTS] {
            if let Some(mut bytes) = prefix.read(&format!("{}/{name}", self.directory))? {
                if name == wheel::info::METADATA {
                    bytes = wheel::fields_only(&bytes).to_owned();
                }
                info.insert(name.to_owned(), bytes);
            }
        }
        Ok(info)
    }
}

/// Where an editable installation lies, by its `direct_url.json` (PEP 610 and 660).
fn editable_of(json: &str) -> Option<String> {
    let parsed: serde_json::Value = serde_json::from_str(json).ok()?;
    let is_editable = parsed["dir_info"]["editable"].as_bool().unwrap_or_default();
    is_editable.then(|| parsed["url"].as_str().unwrap_or_default().to_owned())
}

/// A script with the first line that it had in its wheel (PEP 427, `#!python`); nothing if no installer has put one of the
/// prefix there.
fn as_in_wheel(content: &[u8], prefix: &str) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(content).ok()?;
    let (first, rest) = text.split_once('\n')?;
    let python = format!("{prefix}/bin/python");
    if let Some(command) = first.strip_prefix("#!")
        && command.trim_start().starts_with(&python)
    {
        let argument = command.trim().split_once(' ').map_or("", |(_, argument)| argument);
        return Some(format!("{}\n{rest}", format!("#!python {argument}").trim_end()).into_bytes());
    }
    // What takes the place of a line that the kernel could not read.
    let (second, rest) = rest.split_once('\n')?;
    let (third, rest) = rest.split_once('\n')?;
    let is_launcher = first == "#!/bin/sh" && second.starts_with("'''exec' ") && third.trim_end() == "' '''";
    (is_launcher && second.contains(&python)).then(|| format!("#!python\n{rest}").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_want_any_python_again() {
        let restored = |text: &str| as_in_wheel(text.as_bytes(), "/e").map(|bytes| String::from_utf8(bytes).unwrap());
        assert_eq!(restored("#!/e/bin/python3.12\nx\n").as_deref(), Some("#!python\nx\n"));
        assert_eq!(restored("#!/e/bin/python -E\nx\n").as_deref(), Some("#!python -E\nx\n"));
        assert_eq!(
            restored("#!/bin/sh\n'''exec' \"/e/bin/python\" \"$0\" \"$@\"\n' '''\nx\n").as_deref(),
            Some("#!python\nx\n")
        );
        assert_eq!(restored("#!/usr/bin/python\nx\n"), None);
        assert_eq!(restored("#!/bin/sh\nx\ny\n"), None);
    }

    #[test]
    fn only_editable_installations_are_editable() {
        let json = r#"{"url":"file:///src/x","dir_info":{"editable":true}}"#;
        assert_eq!(editable_of(json).as_deref(), Some("file:///src/x"));
        assert_eq!(editable_of(r#"{"url":"file:///src/x","dir_info":{}}"#), None);
        assert_eq!(editable_of("no json"), None);
    }
}
