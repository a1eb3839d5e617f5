//! A plain installer for the channel's check: every archive into one prefix, as the format's rules say.
//!
//! It is written without the product's code and without its speed, so that the two can disagree. It knows only what
//! `cargo xtask channel` makes: one encoding (UTF-8), prefixes without spaces.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};
use md5::Md5;
use memchr::memmem;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// What was installed.
#[derive(Default)]
pub(super) struct Installed {
    /// Files whose placeholder was replaced, relative to the prefix.
    pub(super) patched_texts: Vec<String>,
    pub(super) patched_binaries: Vec<String>,
    /// Directories and files of noarch packages, which ship no `.pyc`, relative to the prefix.
    pub(super) uncompiled: Vec<String>,
    pub(super) packages: usize,
    pub(super) files: usize,
}

#[derive(Deserialize)]
struct PathsJson {
    paths: Vec<PathsEntry>,
}

#[derive(Deserialize)]
struct PathsEntry {
    #[serde(rename = "_path")]
    path: String,
    path_type: String,
    sha256: String,
    size_in_bytes: u64,
    prefix_placeholder: Option<String>,
    file_mode: Option<String>,
}

/// One member of a payload.
struct Member {
    kind: tar::EntryType,
    mode: u32,
    mtime_s: u64,
    link: String,
    content: Vec<u8>,
}

type Members = BTreeMap<String, Member>;

/// Installs every package of a channel.
///
/// # Errors
/// When an archive differs from its record, or a file from its entry in paths.json.
pub(super) fn all(channel: &Path, prefix: &Path) -> Result<Installed> {
    let mut installed = Installed::default();
    for subdir in ["linux-64", "noarch"] {
        let directory = channel.join(subdir);
        let repodata: Value = serde_json::from_slice(&fs::read(directory.join("repodata.json"))?)?;
        for section in ["packages", "packages.conda"] {
            let records = repodata[section]
                .as_object()
                .with_context(|| format!("{subdir} has no {section}"))?;
            for (file_name, record) in records {
                package(&directory.join(file_name), record, prefix, &mut installed)
                    .with_context(|| format!("installing {subdir}/{file_name}"))?;
            }
        }
    }
    Ok(installed)
}

fn package(archive: &Path, record: &Value, prefix: &Path, installed: &mut Installed) -> Result<()> {
    let bytes = fs::read(archive)?;
    let digests = [
        ("md5", hex::encode(Md5::digest(&bytes))),
        ("sha256", hex::encode(Sha256::digest(&bytes))),
    ];
    for (key, actual) in digests {
        if record[key].as_str() != Some(&actual) {
            bail!("its {key} is {actual}, repodata.json says {}", record[key]);
        }
    }
    let members = if archive.extension().is_some_and(|extension| extension == "bz2") {
        read_tar(bzip2::read::BzDecoder::new(&bytes[..]))?
    } else {
        read_conda(&bytes)?
    };
    let document = |name: &str| members.get(name).map(|member| member.content.as_slice());
    let paths: PathsJson = serde_json::from_slice(document("info/paths.json").context("no info/paths.json")?)?;
    let index: Value = serde_json::from_slice(document("info/index.json").context("no info/index.json")?)?;
    let noarch_python = index["noarch"].as_str() == Some("python");
    for entry in &paths.paths {
        let target = if noarch_python {
            mapped(&entry.path)
        } else {
            entry.path.clone()
        };
        file(entry, &members, &target, prefix, installed).with_context(|| entry.path.clone())?;
        if noarch_python && target.ends_with(".py") {
            installed.uncompiled.push(target);
        }
    }
    if let Some(link) = document("info/link.json") {
        let link: Value = serde_json::from_slice(link)?;
        for point in link["noarch"]["entry_points"].as_array().unwrap_or(&Vec::new()) {
            entry_point(point.as_str().unwrap_or_default(), prefix)?;
        }
    }
    installed.packages += 1;
    Ok(())
}

fn file(entry: &PathsEntry, members: &Members, target: &str, prefix: &Path, installed: &mut Installed) -> Result<()> {
    let mut member = members
        .get(&entry.path)
        .context("paths.json lists it, the archive does not have it")?;
    let destination = prefix.join(target);
    if let Some(parent) = destination.parent() {
        fs::create_dir_all(parent)?;
    }
    installed.files += 1;
    if entry.path_type == "softlink" {
        return symlink(&member.link, &destination).context("cannot make the symbolic link");
    }
    let mode = member.mode;
    if member.kind == tar::EntryType::Link {
        member = members.get(&member.link).context("a hard link to nothing")?;
    }
    let sha256 = hex::encode(Sha256::digest(&member.content));
    if sha256 != entry.sha256 || member.content.len() as u64 != entry.size_in_bytes {
        bail!("its content is not what paths.json says");
    }
    let mut content = member.content.clone();
    let mut mtime_s = member.mtime_s;
    if let Some(placeholder) = &entry.prefix_placeholder {
        let prefix = prefix.to_str().context("the prefix is not UTF-8")?;
        content = match entry.file_mode.as_deref() {
            Some("text") => replaced_text(&content, placeholder, prefix),
            Some("binary") => replaced_binary(&content, placeholder, prefix)?,
            other => bail!("file_mode {other:?}"),
        };
        // A changed source must not pass for the one that its shipped .pyc was made of.
        mtime_s += 1;
        let list = if entry.file_mode.as_deref() == Some("text") {
            &mut installed.patched_texts
        } else {
            &mut installed.patched_binaries
        };
        list.push(target.to_owned());
    }
    fs::write(&destination, content)?;
    fs::set_permissions(&destination, fs::Permissions::from_mode(mode))?;
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(mtime_s);
    File::open(&destination)?
        .set_modified(time)
        .context("cannot set its time")
}

fn read_conda(bytes: &[u8]) -> Result<Members> {
    let mut zip = zip::ZipArchive::new(std::io::Cursor::new(bytes))?;
    let mut members = Members::new();
    for index in 0..zip.len() {
        let member = zip.by_index(index)?;
        if member.compression() != zip::CompressionMethod::Stored {
            bail!("{} is compressed by the zip itself", member.name()?);
        }
        if member.name()?.ends_with(".tar.zst") {
            members.append(&mut read_tar(zstd::Decoder::new(member)?)?);
        }
    }
    Ok(members)
}

fn read_tar(reader: impl Read) -> Result<Members> {
    let mut members = Members::new();
    for entry in tar::Archive::new(reader).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.to_string_lossy().into_owned();
        let link = entry
            .link_name()?
            .map(|link| link.to_string_lossy().into_owned())
            .unwrap_or_default();
        let header = entry.header();
        let (kind, mode, mtime_s) = (header.entry_type(), header.mode()?, header.mtime()?);
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        members.insert(
            path,
            Member {
                kind,
                mode,
                mtime_s,
                link,
                content,
            },
        );
    }
    Ok(members)
}

/// Where a file of a noarch Python package goes.
fn mapped(path: &str) -> String {
    if let Some(rest) = path.strip_prefix("site-packages/") {
        return format!("lib/python3.11/site-packages/{rest}");
    }
    path.strip_prefix("python-scripts/")
        .map_or_else(|| path.to_owned(), |rest| format!("bin/{rest}"))
}

fn replaced_text(content: &[u8], placeholder: &str, prefix: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len());
    let mut rest = content;
    while let Some(at) = memmem::find(rest, placeholder.as_bytes()) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(prefix.as_bytes());
        rest = &rest[at + placeholder.len()..];
    }
    out.extend_from_slice(rest);
    out
}

/// Replaces within C strings: the string's tail moves left and zeros fill it up, so that nothing else moves.
fn replaced_binary(content: &[u8], placeholder: &str, prefix: &str) -> Result<Vec<u8>> {
    if prefix.len() > placeholder.len() {
        bail!("the prefix is longer than the placeholder");
    }
    let mut out = content.to_vec();
    let mut from = 0;
    while let Some(start) = memmem::find(&out[from..], placeholder.as_bytes()).map(|at| from + at) {
        let end = out[start..]
            .iter()
            .position(|byte| *byte == 0)
            .map_or(out.len(), |at| start + at);
        let mut string = replaced_text(&out[start..end], placeholder, prefix);
        string.resize(end - start, 0);
        out[start..end].copy_from_slice(&string);
        from = end;
    }
    Ok(out)
}

fn entry_point(point: &str, prefix: &Path) -> Result<()> {
    let (command, target) = point.split_once(" = ").context("an entry point without `=`")?;
    let (module, function) = target.split_once(':').context("an entry point without `:`")?;
    let imported = function.split('.').next().unwrap_or(function);
    let text = format!(
        "#!{}/bin/python3.11\nimport sys\n\nfrom {module} import {imported}\n\nif __name__ == '__main__':\n    sys.exit({function}())\n",
        prefix.display()
    );
    let path = prefix.join("bin").join(command);
    fs::write(&path, text)?;
    Ok(fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_binary_keeps_its_length_and_what_follows_the_string() {
        let out = replaced_binary(b"ab/PLACE/lib:/PLACE/x\0tail", "/PLACE", "/p").unwrap();
        assert_eq!(out, b"ab/p/lib:/p/x\0\0\0\0\0\0\0\0\0tail");
        assert!(replaced_binary(b"/PLACE\0", "/PLACE", "/longer/than/it").is_err());
    }

    #[test]
    fn a_text_grows_or_shrinks() {
        assert_eq!(
            replaced_text(b"#!/PLACE/bin/x\n/PLACE\n", "/PLACE", "/p"),
            b"#!/p/bin/x\n/p\n"
        );
    }
}
