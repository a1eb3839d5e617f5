//! Writing archives: `.conda` (a zip of two zstd tars) and `.tar.bz2`, and the channel's index of them.
//!
//! The same payload always gives the same bytes: entries are sorted, owners and times are fixed. This room does not
//! know what is in a package.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Cursor, Write};
use std::path::Path;

use anyhow::{Context, Result};
use md5::Md5;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::package::{Entry, EntryKind, Format, MTIME_S, Package, entries};

/// zstd's level for the payloads: near the best ratio before the slow levels begin.
const ZSTD_LEVEL: i32 = 10;

/// The index of a channel in the making: subdir, then file name, then record.
#[derive(Default)]
pub(super) struct Index {
    subdirs: BTreeMap<&'static str, BTreeMap<String, Value>>,
}

impl Index {
    /// Packs a package into the channel and records it.
    ///
    /// # Errors
    /// When the payload cannot be read or the archive not be written.
    pub(super) fn add(&mut self, package: &Package, channel: &Path) -> Result<()> {
        let entries = entries(&package.payload)?;
        let info = package.info_files(&entries)?;
        let (bytes, extension) = match package.format {
            Format::Conda => (conda(package, &entries, &info)?, "conda"),
            Format::TarBz2 => (tar_bz2(package, &entries, &info)?, "tar.bz2"),
        };
        let file_name = format!("{}.{extension}", package.stem());
        let directory = channel.join(package.subdir());
        fs::create_dir_all(&directory)?;
        let path = directory.join(&file_name);
        fs::write(&path, &bytes).with_context(|| format!("cannot write {}", path.display()))?;
        let mut record = package.index();
        record["md5"] = json!(hex::encode(Md5::digest(&bytes)));
        record["sha256"] = json!(hex::encode(Sha256::digest(&bytes)));
        record["size"] = json!(bytes.len());
        self.subdirs
            .entry(package.subdir())
            .or_default()
            .insert(file_name, record);
        Ok(())
    }

    /// Writes `repodata.json` and `repodata.json.zst` of each subdir.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(super) fn write(&self, channel: &Path) -> Result<()> {
        for (subdir, records) in &self.subdirs {
            let (old, new): (BTreeMap<_, _>, BTreeMap<_, _>) = records
                .iter()
                .partition(|(file_name, _)| file_name.ends_with(".tar.bz2"));
            let repodata = json!({
                "info": {"subdir": subdir}, "packages": old, "packages.conda": new, "removed": [], "repodata_version": 1,
            });
            let text = serde_json::to_vec_pretty(&repodata)?;
            let directory = channel.join(subdir);
            fs::write(directory.join("repodata.json"), &text)?;
            fs::write(
                directory.join("repodata.json.zst"),
                zstd::encode_all(&text[..], ZSTD_LEVEL)?,
            )?;
        }
        Ok(())
    }

    /// How many packages there are.
    pub(super) fn len(&self) -> usize {
        self.subdirs.values().map(BTreeMap::len).sum()
    }
}

/// A `.conda`: members are stored, in the order metadata.json, payload, info.
fn conda(package: &Package, entries: &[Entry], info: &BTreeMap<String, Vec<u8>>) -> Result<Vec<u8>> {
    let stem = package.stem();
    let mut payload = tar::Builder::new(Vec::new());
    append_payload(&mut payload, &package.payload, entries)?;
    let mut documents = tar::Builder::new(Vec::new());
    append_info(&mut documents, info)?;
    let members = [
        (
            "metadata.json".to_owned(),
            br#"{"conda_pkg_format_version": 2}"#.to_vec(),
        ),
        (
            format!("pkg-{stem}.tar.zst"),
            zstd::encode_all(&payload.into_inner()?[..], ZSTD_LEVEL)?,
        ),
        (
            format!("info-{stem}.tar.zst"),
            zstd::encode_all(&documents.into_inner()?[..], ZSTD_LEVEL)?,
        ),
    ];
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default());
    for (name, bytes) in members {
        zip.start_file(name, options)?;
        zip.write_all(&bytes)?;
    }
    Ok(zip.finish()?.into_inner())
}

/// A `.tar.bz2`: info first, then the payload.
fn tar_bz2(package: &Package, entries: &[Entry], info: &BTreeMap<String, Vec<u8>>) -> Result<Vec<u8>> {
    let encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
    let mut tar = tar::Builder::new(encoder);
    append_info(&mut tar, info)?;
    append_payload(&mut tar, &package.payload, entries)?;
    Ok(tar.into_inner()?.finish()?)
}

fn append_info<W: Write>(tar: &mut tar::Builder<W>, info: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    for (path, content) in info {
        let mut header = header(tar::EntryType::Regular, false);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, &content[..])?;
    }
    Ok(())
}

fn append_payload<W: Write>(tar: &mut tar::Builder<W>, payload: &Path, entries: &[Entry]) -> Result<()> {
    for entry in entries {
        let source = payload.join(&entry.path);
        match &entry.kind {
            EntryKind::Link(target) => {
                let mut header = header(tar::EntryType::Symlink, true);
                tar.append_link(&mut header, &entry.path, target)?;
            }
            EntryKind::File {
                executable,
                first_link: Some(first),
            } => {
                let mut header = header(tar::EntryType::Link, *executable);
                tar.append_link(&mut header, &entry.path, first)?;
            }
            EntryKind::File {
                executable,
                first_link: None,
            } => {
                let mut header = header(tar::EntryType::Regular, *executable);
                let file = File::open(&source).with_context(|| format!("cannot read {}", source.display()))?;
                header.set_size(file.metadata()?.len());
                tar.append_data(&mut header, &entry.path, file)?;
            }
        }
    }
    Ok(())
}

fn header(kind: tar::EntryType, executable: bool) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(if executable { 0o755 } else { 0o644 });
    header.set_mtime(MTIME_S);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header
}
