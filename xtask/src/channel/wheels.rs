//! Making conda packages of PyPI's wheels: pure ones as `noarch: python`, binary ones for linux-64 and this Python.
//!
//! Which wheels stands in `requirements.txt`, by sha256. What a wheel says about itself is read by pip's own parser,
//! run by the channel's own Python. This room knows wheels; it does not know Debian.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::package::{Format, Kind, Package, files_below, placeholder};
use super::recipe::{OLD_FORMAT_WHEELS, PYTHON_VERSION, RENAMED_WHEELS};
use crate::sh;

/// The wheels, with their digests.
pub(super) const REQUIREMENTS: &str = include_str!("../../channel/requirements.txt");
/// The script that reads metadata.
pub(super) const METADATA_SCRIPT: &str = include_str!("../../channel/wheel_metadata.py");

/// The platforms whose wheels run here, as pip spells them.
const PLATFORMS: [&str; 5] = [
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "linux_x86_64",
];

/// What `wheel_metadata.py` prints of one wheel.
#[derive(Deserialize)]
struct Wheel {
    file: PathBuf,
    dist_info: String,
    name: String,
    version: String,
    summary: String,
    license: String,
    home: String,
    requires_python: String,
    /// Name and PEP 440 specifier.
    depends: Vec<(String, String)>,
    entry_points: Vec<String>,
    pure: bool,
    tags: Vec<String>,
}

/// Fetches the wheels that are not in `cache` yet, with the pip that Debian ships as a wheel.
///
/// # Errors
/// When pip cannot fetch one, or when it is not the expected file.
pub(super) fn fetch(mut python: Command, pip_wheel: &Path, cache: &Path) -> Result<Vec<PathBuf>> {
    fs::create_dir_all(cache)?;
    let wanted: Vec<(String, String)> = pinned();
    let found = digests(cache)?;
    let missing: Vec<&str> = wanted
        .iter()
        .filter(|(_, sha256)| !found.contains_key(sha256))
        .map(|(name, _)| name.as_str())
        .collect();
    if !missing.is_empty() {
        sh::say(&format!(
            "downloading {} wheels to {}: {}",
            missing.len(),
            cache.display(),
            missing.join(" ")
        ));
        let requirements = cache.join("requirements.txt");
        fs::write(&requirements, REQUIREMENTS)?;
        python
            .arg(pip_wheel.join("pip"))
            .args(["download", "--quiet", "--disable-pip-version-check"]);
        python.args([
            "--require-hashes",
            "--no-deps",
            "--only-binary=:all:",
            "--implementation=cp",
            "--python-version=3.11",
        ]);
        for platform in PLATFORMS {
            python.args(["--platform", platform]);
        }
        python.arg("--dest").arg(cache).arg("--requirement").arg(requirements);
        sh::run_quiet(&mut python)?;
    }
    let found = digests(cache)?;
    let file = |(name, sha256): &(String, String)| {
        found
            .get(sha256)
            .cloned()
            .with_context(|| format!("pip did not bring the expected wheel of {name}"))
    };
    wanted.iter().map(file).collect()
}

/// Stages every wheel below `work`.
///
/// # Errors
/// When a wheel is not as PEP 427 says.
pub(super) fn stage_all(mut python: Command, wheels: &[PathBuf], work: &Path) -> Result<Vec<Package>> {
    let script = work.join("wheel_metadata.py");
    fs::write(&script, METADATA_SCRIPT)?;
    let is_pip = |path: &&PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("pip-"))
    };
    let pip_wheel = wheels
        .iter()
        .find(is_pip)
        .context("there is no wheel of pip among the wheels")?;
    let printed = sh::capture(python.arg(script).arg(pip_wheel).args(wheels))?;
    let described: Vec<Wheel> = serde_json::from_str(&printed).context("reading what wheel_metadata.py printed")?;
    described
        .iter()
        .map(|wheel| stage(wheel, work).with_context(|| format!("making {}", wheel.name)))
        .collect()
}

fn stage(wheel: &Wheel, work: &Path) -> Result<Package> {
    let name = conda_name(&wheel.name).to_owned();
    let payload = work.join("staging").join(&name);
    unpack(wheel, &name, &payload)?;
    if !wheel.pure {
        write_entry_points(wheel, &name, &payload)?;
    }
    complete_record(wheel, &payload)?;
    let sha256 = hex::encode(Sha256::digest(fs::read(&wheel.file)?));
    let (kind, build) = if wheel.pure {
        (Kind::NoarchPython, format!("pyh{}_0", &sha256[..7]))
    } else {
        (Kind::Arch, format!("py311h{}_0", &sha256[..7]))
    };
    let old_format = OLD_FORMAT_WHEELS.contains(&wheel.name.as_str());
    Ok(Package {
        name,
        version: wheel.version.clone(),
        build,
        kind,
        format: if old_format { Format::TarBz2 } else { Format::Conda },
        depends: depends(wheel),
        constrains: Vec::new(),
        license: wheel.license.clone(),
        summary: wheel.summary.clone(),
        home: wheel.home.clone(),
        entry_points: if wheel.pure {
            wheel.entry_points.clone()
        } else {
            Vec::new()
        },
        python_site_packages_path: None,
        payload,
        licenses: BTreeMap::new(),
    })
}

/// Unpacks a wheel to conda's places (the binary distribution format's "spread" step).
fn unpack(wheel: &Wheel, name: &str, payload: &Path) -> Result<()> {
    let mut archive = zip::ZipArchive::new(File::open(&wheel.file)?)?;
    let data = format!("{}.data/", wheel.dist_info.trim_end_matches(".dist-info"));
    for index in 0..archive.len() {
        let mut member = archive.by_index(index)?;
        if member.is_dir() {
            continue;
        }
        let path = member
            .enclosed_name()
            .with_context(|| format!("unsafe path {:?} in the wheel", member.name()))?;
        let path = path.to_str().context("a path in the wheel is not UTF-8")?;
        let destination = match path.strip_prefix(&data) {
            Some(rest) => spread(wheel, rest)?,
            None => format!("{}/{path}", site_packages(wheel)),
        };
        let mut content = Vec::new();
        member.read_to_end(&mut content)?;
        let is_script = path.starts_with(&format!("{data}scripts/"));
        if is_script && content.starts_with(b"#!python") {
            let shebang = format!("#!{}/bin/python{PYTHON_VERSION}", placeholder(name));
            content.splice(..b"#!python".len(), shebang.into_bytes());
        }
        let executable = is_script || member.unix_mode().is_some_and(|mode| mode & 0o111 != 0);
        write_file(&payload.join(destination), &content, executable)?;
    }
    Ok(())
}

/// Where a file of `*.data/` goes.
fn spread(wheel: &Wheel, path: &str) -> Result<String> {
    let (key, rest) = path.split_once('/').context("a file directly in .data")?;
    Ok(match key {
        "purelib" | "platlib" => format!("{}/{rest}", site_packages(wheel)),
        "scripts" => format!("{}/{rest}", scripts(wheel)),
        "data" => rest.to_owned(),
        "headers" => format!("include/python{PYTHON_VERSION}/{}/{rest}", wheel.name),
        other => bail!("unknown data scheme {other}"),
    })
}

/// Writes the commands of a binary package, as conda-build does; noarch packages get theirs from the installer.
fn write_entry_points(wheel: &Wheel, name: &str, payload: &Path) -> Result<()> {
    for point in &wheel.entry_points {
        let (command, target) = point.split_once(" = ").context("an entry point without `=`")?;
        let (module, function) = target.split_once(':').context("an entry point without `:`")?;
        let imported = function.split('.').next().unwrap_or(function);
        let text = format!(
            "#!{}/bin/python{PYTHON_VERSION}\nimport sys\n\nfrom {module} import {imported}\n\nif __name__ == '__main__':\n    sys.exit({function}())\n",
            placeholder(name)
        );
        write_file(&payload.join("bin").join(command), text.as_bytes(), true)?;
    }
    Ok(())
}

/// Says who installs this (PEP 376's INSTALLER), and lists in RECORD what is there beyond the wheel's own list.
fn complete_record(wheel: &Wheel, payload: &Path) -> Result<()> {
    let site_packages = payload.join(site_packages(wheel));
    let dist_info = site_packages.join(&wheel.dist_info);
    fs::write(dist_info.join("INSTALLER"), "conda\n")?;
    let record = dist_info.join("RECORD");
    let data = format!("{}.data/", wheel.dist_info.trim_end_matches(".dist-info"));
    let mut lines: Vec<String> = fs::read_to_string(&record)?
        .lines()
        .filter(|line| !line.starts_with(&data))
        .map(str::to_owned)
        .collect();
    lines.push(format!("{}/INSTALLER,,", wheel.dist_info));
    for path in files_below(payload)? {
        if !path.starts_with(&site_packages) {
            let relative = path
                .strip_prefix(payload)?
                .to_string_lossy()
                .replace("python-scripts/", "bin/");
            lines.push(format!("../../../{relative},,"));
        }
    }
    if wheel.pure {
        let command = |point: &String| {
            point
                .split(" = ")
                .next()
                .map(|command| format!("../../../bin/{command},,"))
        };
        lines.extend(wheel.entry_points.iter().filter_map(command));
    }
    lines.push(String::new());
    fs::write(record, lines.join("\n"))?;
    Ok(())
}

fn depends(wheel: &Wheel) -> Vec<String> {
    let mut depends: Vec<String> = wheel
        .depends
        .iter()
        .map(|(name, specifier)| format!("{} {specifier}", conda_name(name)).trim_end().to_owned())
        .collect();
    if wheel.pure {
        depends.push(
            format!("python {}", wheel.requires_python.replace(' ', ""))
                .trim_end()
                .to_owned(),
        );
    } else {
        depends.extend(
            [
                "libgcc >=12",
                "libstdcxx >=12",
                "python >=3.11,<3.12.0a0",
                "python_abi 3.11.* *_cp311",
            ]
            .map(str::to_owned),
        );
        if let Some(glibc) = oldest_glibc(&wheel.tags) {
            depends.push(format!("__glibc >={glibc},<3.0.a0"));
        }
    }
    depends.sort();
    depends
}

/// The C library that a wheel needs: of its tags the one that asks for least (PEP 600).
fn oldest_glibc(tags: &[String]) -> Option<String> {
    let minor = |tag: &String| tag.split("manylinux_2_").nth(1)?.split('_').next()?.parse::<u32>().ok();
    tags.iter().filter_map(minor).min().map(|minor| format!("2.{minor}"))
}

fn conda_name(pypi: &str) -> &str {
    RENAMED_WHEELS
        .iter()
        .find(|(name, _)| *name == pypi)
        .map_or(pypi, |(_, conda)| conda)
}

fn site_packages(wheel: &Wheel) -> &'static str {
    if wheel.pure {
        "site-packages"
    } else {
        "lib/python3.11/site-packages"
    }
}

fn scripts(wheel: &Wheel) -> &'static str {
    if wheel.pure { "python-scripts" } else { "bin" }
}

fn write_file(path: &Path, content: &[u8], executable: bool) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))?;
    let mode = if executable { 0o755 } else { 0o644 };
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

/// The names and digests in requirements.txt.
fn pinned() -> Vec<(String, String)> {
    let pin = |line: &str| {
        let (requirement, sha256) = line.split_once(" --hash=sha256:")?;
        Some((requirement.to_owned(), sha256.trim().to_owned()))
    };
    REQUIREMENTS.lines().filter_map(pin).collect()
}

/// The wheels of a directory by sha256.
fn digests(cache: &Path) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for path in files_below(cache)? {
        if path.extension().is_some_and(|extension| extension == "whl") {
            found.insert(hex::encode(Sha256::digest(fs::read(&path)?)), path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wheel_is_pinned_by_one_digest() {
        let pinned = pinned();
        assert!(
            pinned
                .iter()
                .all(|(name, sha256)| name.contains("==") && sha256.len() == 64)
        );
        let lines = REQUIREMENTS
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .count();
        assert_eq!(pinned.len(), lines);
    }

    #[test]
    fn the_tag_that_asks_for_least_decides() {
        let tags = ["cp311-cp311-manylinux_2_27_x86_64", "cp311-cp311-manylinux_2_28_x86_64"].map(str::to_owned);
        assert_eq!(oldest_glibc(&tags).as_deref(), Some("2.27"));
        assert_eq!(oldest_glibc(&["py3-none-any".to_owned()]), None);
    }
}
