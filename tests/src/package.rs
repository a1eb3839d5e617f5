//! Conda packages made by hand, member by member, so that broken and hostile ones can be made too.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The placeholder of made packages, 255 bytes long as those of real ones.
pub const PLACEHOLDER: &str = concat!(
    "/home/builder/placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_",
    "placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_placehold_",
    "placehold_placehold_placehold_placehold_placehol_pl",
);

/// The blocks of zeros that end a tar.
const END_BYTES: usize = 1024;

/// Which of the two archive formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A zip of zstd tars.
    Conda,
    /// One bzip2 tar.
    TarBz2,
}

/// An entry of a tar, written without the checks of a friendly writer.
#[derive(Clone)]
pub struct Raw {
    path: Vec<u8>,
    kind: tar::EntryType,
    content: Vec<u8>,
    link: String,
    mode: u32,
    mtime_s: u64,
}

/// A package that is being made.
#[derive(Clone)]
pub struct Package {
    name: String,
    version: String,
    build: String,
    subdir: String,
    noarch: Option<&'static str>,
    depends: Vec<String>,
    entry_points: Vec<String>,
    payload: Vec<Raw>,
    paths: Vec<Value>,
    extra_info: Vec<Raw>,
}

impl Raw {
    /// A regular file.
    #[must_use]
    pub fn file(path: &str, content: impl AsRef<[u8]>) -> Self {
        Self {
            path: path.into(),
            kind: tar::EntryType::Regular,
            content: content.as_ref().to_vec(),
            link: String::new(),
            mode: 0o644,
            mtime_s: 1_700_000_000,
        }
    }

    /// An entry of another type; `link` is empty where it has none.
    #[must_use]
    pub fn special(path: &str, kind: tar::EntryType, link: &str) -> Self {
        Self {
            kind,
            link: link.to_owned(),
            ..Self::file(path, "")
        }
    }

    /// The same with content.
    #[must_use]
    pub fn content(self, content: impl AsRef<[u8]>) -> Self {
        Self {
            content: content.as_ref().to_vec(),
            ..self
        }
    }

    /// The same with other permission bits.
    #[must_use]
    pub fn mode(self, mode: u32) -> Self {
        Self { mode, ..self }
    }

    /// Appends the entry as it is.
    ///
    /// # Panics
    /// When a path does not fit into the header, or the tar cannot be written.
    pub fn append(&self, tar: &mut tar::Builder<impl Write>) {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..self.path.len()].copy_from_slice(&self.path);
        header.as_old_mut().linkname[..self.link.len()].copy_from_slice(self.link.as_bytes());
        header.set_entry_type(self.kind);
        header.set_size(self.content.len() as u64);
        header.set_mode(self.mode);
        header.set_mtime(self.mtime_s);
        header.set_cksum();
        tar.append(&header, self.content.as_slice()).unwrap();
    }
}

impl Package {
    /// An empty package for linux-64, called such as `tool 1.0 h0_0`.
    ///
    /// # Panics
    /// When `words` are not three.
    #[must_use]
    pub fn new(words: &str) -> Self {
        let words: Vec<&str> = words.split(' ').collect();
        let [name, version, build] = words.as_slice() else {
            panic!("name, version and build: {words:?}")
        };
        Self {
            name: (*name).to_owned(),
            version: (*version).to_owned(),
            build: (*build).to_owned(),
            subdir: "linux-64".to_owned(),
            noarch: None,
            depends: Vec::new(),
            entry_points: Vec::new(),
            payload: Vec::new(),
            paths: Vec::new(),
            extra_info: Vec::new(),
        }
    }

    /// A Python for noarch packages to be mapped to, of a version such as `3.12.1`, that holds one file.
    #[must_use]
    pub fn python(version: &str) -> Self {
        let minor: Vec<&str> = version.split('.').take(2).collect();
        let interpreter = format!("bin/python{}", minor.join("."));
        Self::new(&format!("python {version} h0_0_cpython")).executable(&interpreter, "not really\n")
    }

    /// The same for another platform.
    #[must_use]
    pub fn on(mut self, subdir: &str) -> Self {
        subdir.clone_into(&mut self.subdir);
        self
    }

    /// The same as `noarch: python`.
    #[must_use]
    pub fn noarch_python(mut self) -> Self {
        self.noarch = Some("python");
        "noarch".clone_into(&mut self.subdir);
        self
    }

    /// The same, for `info/index.json`'s `depends`.
    #[must_use]
    pub fn depends(mut self, spec: &str) -> Self {
        self.depends.push(spec.to_owned());
        self
    }

    /// The same with an entry point, such as `tool = tool.cli:main`.
    #[must_use]
    pub fn entry_point(mut self, entry_point: &str) -> Self {
        self.entry_points.push(entry_point.to_owned());
        self
    }

    /// The same with a file.
    #[must_use]
    pub fn file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.listed(Raw::file(path, content), &json!({}))
    }

    /// The same with a file that may be executed.
    #[must_use]
    pub fn executable(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        self.listed(Raw::file(path, content).mode(0o755), &json!({}))
    }

    /// The same with a file that holds [`PLACEHOLDER`]; `file_mode` is `text` or `binary`.
    #[must_use]
    pub fn prefixed(self, path: &str, content: impl AsRef<[u8]>, file_mode: &str) -> Self {
        let fields = json!({"file_mode": file_mode, "prefix_placeholder": PLACEHOLDER});
        self.listed(Raw::file(path, content).mode(0o755), &fields)
    }

    /// The same with a symlink.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        let fields = json!({"path_type": "softlink"});
        self.listed(Raw::special(path, tar::EntryType::Symlink, target), &fields)
    }

    /// The same with an entry, and its line in `info/paths.json`, where `fields` replace what would be right.
    #[must_use]
    pub fn listed(mut self, entry: Raw, fields: &Value) -> Self {
        let mut line = json!({
            "_path": String::from_utf8_lossy(&entry.path),
            "path_type": "hardlink",
            "sha256": hex::encode(Sha256::digest(&entry.content)),
            "size_in_bytes": entry.content.len(),
        });
        for (key, value) in fields.as_object().unwrap() {
            line[key] = value.clone();
        }
        self.paths.push(line);
        self.payload.push(entry);
        self
    }

    /// The same with an entry that `info/paths.json` does not know.
    #[must_use]
    pub fn unlisted(mut self, entry: Raw) -> Self {
        self.payload.push(entry);
        self
    }

    /// The same with a file below `info/`, which takes the place of the one that would be right.
    #[must_use]
    pub fn info_file(mut self, entry: Raw) -> Self {
        self.extra_info.push(entry);
        self
    }

    /// The name of the archive.
    #[must_use]
    pub fn file_name(&self, format: Format) -> String {
        let extension = match format {
            Format::Conda => "conda",
            Format::TarBz2 => "tar.bz2",
        };
        format!("{}-{}-{}.{extension}", self.name, self.version, self.build)
    }

    /// The subdir of the channel that it belongs to.
    #[must_use]
    pub fn subdir(&self) -> &str {
        &self.subdir
    }

    /// `info/index.json`.
    #[must_use]
    pub fn index(&self) -> Value {
        let mut index = json!({
            "name": self.name, "version": self.version, "build": self.build, "build_number": 0,
            "depends": self.depends, "subdir": self.subdir, "timestamp": 1_700_000_000_000_u64,
        });
        if let Some(noarch) = self.noarch {
            index["noarch"] = noarch.into();
        }
        index
    }

    /// The archive.
    ///
    /// # Panics
    /// When a member cannot be written.
    #[must_use]
    pub fn archive(&self, format: Format) -> Vec<u8> {
        self.archive_of(format, &tar_of(&self.payload))
    }

    /// The archive with a payload that was made elsewhere.
    ///
    /// # Panics
    /// When a member cannot be written.
    #[must_use]
    pub fn archive_of(&self, format: Format, payload: &[u8]) -> Vec<u8> {
        let info = tar_of(&self.info());
        match format {
            Format::Conda => conda(&self.dist_name(), payload, &info),
            Format::TarBz2 => {
                let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
                encoder.write_all(&info[..info.len() - END_BYTES]).unwrap();
                encoder.write_all(payload).unwrap();
                encoder.finish().unwrap()
            }
        }
    }

    /// Writes the archive into a directory.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, directory: &Path, format: Format) -> PathBuf {
        let path = directory.join(self.file_name(format));
        std::fs::write(&path, self.archive(format)).unwrap();
        path
    }

    /// The entries that are not below `info/`.
    #[must_use]
    pub fn payload(&self) -> &[Raw] {
        &self.payload
    }

    /// The entries below `info/`, for payloads that are written elsewhere.
    #[must_use]
    pub fn info(&self) -> Vec<Raw> {
        let paths = json!({"paths": self.paths, "paths_version": 1});
        let mut info = vec![
            Raw::file("info/index.json", self.index().to_string()),
            Raw::file("info/paths.json", paths.to_string()),
            Raw::file("info/about.json", "{}"),
        ];
        if self.noarch == Some("python") {
            let link = json!({
                "noarch": {"type": "python", "entry_points": self.entry_points}, "package_metadata_version": 1,
            });
            info.push(Raw::file("info/link.json", link.to_string()));
        }
        info.retain(|entry| self.extra_info.iter().all(|extra| extra.path != entry.path));
        info.extend(self.extra_info.clone());
        info
    }

    fn dist_name(&self) -> String {
        format!("{}-{}-{}", self.name, self.version, self.build)
    }
}

/// A tar of entries as they are.
///
/// # Panics
/// When a path does not fit into its header.
#[must_use]
pub fn tar_of(entries: &[Raw]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        entry.append(&mut tar);
    }
    tar.into_inner().unwrap()
}

fn conda(dist_name: &str, payload: &[u8], info: &[u8]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    zip.start_file("metadata.json", options).unwrap();
    zip.write_all(br#"{"conda_pkg_format_version": 2}"#).unwrap();
    for (part, tar) in [("pkg", payload), ("info", info)] {
        zip.start_file(format!("{part}-{dist_name}.tar.zst"), options).unwrap();
        zip.write_all(&zstd::encode_all(tar, 1).unwrap()).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_placeholder_is_as_long_as_real_ones() {
        assert_eq!(PLACEHOLDER.len(), 255);
    }
}
