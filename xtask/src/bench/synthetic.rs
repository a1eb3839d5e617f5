//! A channel with two packages that no real one has: 100,000 small files, and one large file.
//!
//! Their bytes are a function of their names, and about half compressible, as programs are. It knows nothing of who
//! reads them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::Path;

use anyhow::Result;
use md5::Md5;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What the packages are called.
pub(super) const SPECS: [&str; 2] = ["many-files", "large-file"];

/// The large file, and its size.
pub(super) const LARGE_FILE: &str = "data/large.bin";
pub(super) const LARGE_FILE_BYTES: usize = 100 * 1000 * 1000;

/// A thousand directories with a hundred files each.
const DIRECTORIES: usize = 1000;
const FILES_IN_EACH: usize = 100;

/// Said by whoever keeps what is made here: another number, and it is made again.
pub(super) const VERSION: u32 = 2;

const PACKAGE_VERSION: &str = "1.0";
const PACKAGE_BUILD: &str = "0";
const TIME_S: u64 = 1_700_000_000;

/// Writes the channel.
///
/// # Errors
/// When the disk cannot be written.
pub(super) fn write(channel: &Path) -> Result<()> {
    let mut records = BTreeMap::new();
    let many = (0..DIRECTORIES).flat_map(|directory| {
        (0..FILES_IN_EACH).map(move |file| {
            let number = directory * FILES_IN_EACH + file;
            (
                format!("share/many/{directory:03}/{file:02}.txt"),
                bytes(number, 200 + number % 1000),
            )
        })
    });
    fs::create_dir_all(channel.join("noarch"))?;
    add(channel, SPECS[0], many, &mut records)?;
    let large = std::iter::once((LARGE_FILE.to_owned(), bytes(usize::MAX, LARGE_FILE_BYTES)));
    add(channel, SPECS[1], large, &mut records)?;
    for (subdir, records) in [("noarch", records), ("linux-64", BTreeMap::new())] {
        let repodata = json!({
            "info": {"subdir": subdir}, "packages": {}, "packages.conda": records, "removed": [], "repodata_version": 1,
        });
        fs::create_dir_all(channel.join(subdir))?;
        fs::write(
            channel.join(subdir).join("repodata.json"),
            serde_json::to_vec(&repodata)?,
        )?;
    }
    Ok(())
}

/// Packs files as a `.conda` (CEP 34) and records it.
fn add(
    channel: &Path,
    name: &str,
    files: impl Iterator<Item = (String, Vec<u8>)>,
    records: &mut BTreeMap<String, Value>,
) -> Result<()> {
    let stem = format!("{name}-{PACKAGE_VERSION}-{PACKAGE_BUILD}");
    let mut paths = Vec::new();
    let mut payload = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1)?);
    for (path, content) in files {
        paths.push(json!({
            "_path": path, "path_type": "hardlink", "sha256": hex::encode(Sha256::digest(&content)), "size_in_bytes": content.len(),
        }));
        append(&mut payload, &path, &content)?;
    }
    let mut index = json!({
        "name": name, "version": PACKAGE_VERSION, "build": PACKAGE_BUILD, "build_number": 0, "depends": [], "noarch": "generic",
        "subdir": "noarch", "license": "MIT", "timestamp": TIME_S * 1000,
    });
    let documents = [
        ("info/index.json", &index),
        ("info/paths.json", &json!({"paths": paths, "paths_version": 1})),
        ("info/about.json", &json!({"summary": "for measuring"})),
        (
            "info/link.json",
            &json!({"noarch": {"type": "generic"}, "package_metadata_version": 1}),
        ),
    ];
    let mut info = tar::Builder::new(zstd::Encoder::new(Vec::new(), 1)?);
    for (path, document) in documents {
        append(&mut info, path, &serde_json::to_vec(document)?)?;
    }
    let members = [
        (
            "metadata.json".to_owned(),
            br#"{"conda_pkg_format_version": 2}"#.to_vec(),
        ),
        (format!("pkg-{stem}.tar.zst"), payload.into_inner()?.finish()?),
        (format!("info-{stem}.tar.zst"), info.into_inner()?.finish()?),
    ];
    let path = channel.join("noarch").join(format!("{stem}.conda"));
    let mut zip = zip::ZipWriter::new(File::create(&path)?);
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (member, content) in members {
        zip.start_file(member, stored)?;
        zip.write_all(&content)?;
    }
    let size_bytes = zip.finish()?.stream_position()?;
    let archive = fs::read(&path)?;
    index["md5"] = json!(hex::encode(Md5::digest(&archive)));
    index["sha256"] = json!(hex::encode(Sha256::digest(&archive)));
    index["size"] = json!(size_bytes);
    records.insert(format!("{stem}.conda"), index);
    Ok(())
}

fn append<W: Write>(tar: &mut tar::Builder<W>, path: &str, content: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_mtime(TIME_S);
    header.set_size(content.len() as u64);
    Ok(tar.append_data(&mut header, path, content)?)
}

/// Bytes that only this seed gives: in each 64, 32 that nobody can guess (xorshift64), and 32 zeros.
fn bytes(seed: usize, size_bytes: usize) -> Vec<u8> {
    let mut state = (seed as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut content = Vec::with_capacity(size_bytes + 64);
    while content.len() < size_bytes {
        for _ in 0..4 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            content.extend(state.to_le_bytes());
        }
        content.extend([0; 32]);
    }
    content.truncate(size_bytes);
    content
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_differ_between_files_and_not_between_runs() {
        assert_eq!(bytes(7, 100), bytes(7, 100));
        assert_ne!(bytes(7, 100), bytes(8, 100));
        assert_eq!(bytes(7, 100).len(), 100);
    }
}
