//! Packages too large to be made in memory: written as they are made up.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use serde_json::json;
use sha2::{Digest, Sha256};

use crate::package::{Format, Package, Raw, tar_of};

/// The window of the strongest compression that conda packages are made with: whoever unpacks them needs 2^27 bytes.
const WINDOW_LOG: u32 = 27;

/// Bytes that do not repeat, the same for the same seed.
pub struct Noise {
    reader: blake3::OutputReader,
    left_bytes: u64,
}

impl Noise {
    /// So many bytes.
    #[must_use]
    pub fn new(seed: &str, size_bytes: u64) -> Self {
        Self {
            reader: blake3::Hasher::new().update(seed.as_bytes()).finalize_xof(),
            left_bytes: size_bytes,
        }
    }
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = buffer.len().min(usize::try_from(self.left_bytes).unwrap_or(usize::MAX));
        self.reader.fill(&mut buffer[..len]);
        self.left_bytes -= len as u64;
        Ok(len)
    }
}

/// Writes a `.conda` that holds, besides what `package` has, one file of noise, and returns where it is.
/// Needs no more memory than a decompressor will.
///
/// # Panics
/// When it cannot be written.
pub fn write_with_noise(package: Package, path: &str, size_bytes: u64, directory: &Path) -> PathBuf {
    let name = package.file_name(Format::Conda);
    let archive = directory.join(&name);
    let stem = name.trim_end_matches(".conda");
    let mut zip = zip::ZipWriter::new(File::create(&archive).unwrap());
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .large_file(true);
    zip.start_file("metadata.json", options).unwrap();
    zip.write_all(br#"{"conda_pkg_format_version": 2}"#).unwrap();
    zip.start_file(format!("pkg-{stem}.tar.zst"), options).unwrap();
    let mut encoder = zstd::stream::write::Encoder::new(&mut zip, 1).unwrap();
    encoder.window_log(WINDOW_LOG).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_path(path).unwrap();
    header.set_size(size_bytes);
    header.set_mode(0o644);
    header.set_mtime(1_700_000_000);
    header.set_cksum();
    let mut content = Hashed {
        inner: Noise::new(path, size_bytes),
        hasher: Sha256::new(),
    };
    let mut tar = tar::Builder::new(&mut encoder);
    for entry in package.payload() {
        entry.append(&mut tar);
    }
    tar.append(&header, &mut content).unwrap();
    let sha256 = hex::encode(content.hasher.finalize());
    tar.finish().unwrap();
    drop(tar);
    encoder.finish().unwrap();
    // The content is listed after it was written: only its line is wanted.
    let listed = package.listed(
        Raw::file(path, ""),
        &json!({"sha256": sha256, "size_in_bytes": size_bytes}),
    );
    zip.start_file(format!("info-{stem}.tar.zst"), options).unwrap();
    zip.write_all(&zstd::encode_all(tar_of(&listed.info()).as_slice(), 1).unwrap())
        .unwrap();
    zip.finish().unwrap();
    archive
}

struct Hashed<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..len]);
        Ok(len)
    }
}
