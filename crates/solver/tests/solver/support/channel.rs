//! Channels built in code: an index in any of its forms, and archives of arbitrary bytes behind it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rattler_conda_types::{Shard, ShardedRepodata};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The forms an index can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Json,
    Zst,
    Shards,
}

/// A channel that is being written.
#[derive(Default)]
pub(crate) struct ChannelBuilder {
    subdirs: BTreeMap<String, BTreeMap<String, (Value, Vec<u8>)>>,
}

impl ChannelBuilder {
    /// An empty channel for linux-64 and noarch.
    pub(crate) fn new() -> Self {
        let mut channel = Self::default();
        channel.subdirs.insert("linux-64".to_owned(), BTreeMap::new());
        channel.subdirs.insert("noarch".to_owned(), BTreeMap::new());
        channel
    }

    /// A channel that lacks what every channel must have.
    pub(crate) fn without_noarch(mut self) -> Self {
        self.subdirs.remove("noarch");
        self
    }

    /// Adds a package for linux-64, such as `("numpy 1.26.0 py312_0", &["python >=3.12"])`.
    pub(crate) fn package(self, words: &str, depends: &[&str]) -> Self {
        self.package_with(words, depends, &json!({}))
    }

    /// Adds a package with further fields of its record; `subdir` may be one of them.
    pub(crate) fn package_with(mut self, words: &str, depends: &[&str], fields: &Value) -> Self {
        let mut words = words.split(' ');
        let (name, version, build) = (
            words.next().unwrap(),
            words.next().unwrap(),
            words.next().unwrap_or("0"),
        );
        let file_name = format!("{name}-{version}-{build}.conda");
        let archive = archive_bytes(&file_name, 200_000);
        let mut record = json!({
            "name": name, "version": version, "build": build, "build_number": 0, "depends": depends,
            "subdir": "linux-64", "timestamp": 1_700_000_000_000_u64, "size": archive.len(),
            "sha256": hex::encode(Sha256::digest(&archive)),
        });
        for (key, value) in fields.as_object().unwrap() {
            record[key] = value.clone();
        }
        let subdir = record["subdir"].as_str().unwrap().to_owned();
        self.subdirs
            .entry(subdir)
            .or_default()
            .insert(file_name, (record, archive));
        self
    }

    /// Writes the channel into a folder, with an index in one form only.
    pub(crate) fn write(self, folder: &Path, form: Form) -> PathBuf {
        for (subdir, packages) in self.subdirs {
            let dir = folder.join(&subdir);
            fs::create_dir_all(&dir).unwrap();
            let records: BTreeMap<_, _> = packages
                .iter()
                .map(|(name, (record, _))| (name.clone(), record.clone()))
                .collect();
            let index =
                json!({"info": {"subdir": subdir}, "packages": {}, "packages.conda": records, "repodata_version": 1});
            let text = serde_json::to_vec(&index).unwrap();
            match form {
                Form::Json => fs::write(dir.join("repodata.json"), text).unwrap(),
                Form::Zst => fs::write(
                    dir.join("repodata.json.zst"),
                    zstd::encode_all(text.as_slice(), 3).unwrap(),
                )
                .unwrap(),
                Form::Shards => write_shards(&dir, &subdir, &records),
            }
            for (name, (_, archive)) in packages {
                fs::write(dir.join(name), archive).unwrap();
            }
        }
        folder.to_owned()
    }
}

/// Bytes that differ from file to file and do not repeat.
pub(crate) fn archive_bytes(seed: &str, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 32);
    let mut block = Sha256::digest(seed.as_bytes());
    while bytes.len() < len {
        bytes.extend_from_slice(&block);
        block = Sha256::digest(block);
    }
    bytes.truncate(len);
    bytes
}

fn write_shards(dir: &Path, subdir: &str, records: &BTreeMap<String, Value>) {
    let mut by_name: BTreeMap<String, Shard> = BTreeMap::new();
    for (file_name, record) in records {
        let name = record["name"].as_str().unwrap().to_owned();
        let shard = by_name.entry(name).or_default();
        let record = serde_json::from_value(record.clone()).unwrap();
        shard.conda_packages.insert(file_name.parse().unwrap(), record);
    }
    let mut index: ShardedRepodata = serde_json::from_value(json!({
        "info": {"subdir": subdir, "base_url": "./", "shards_base_url": "./shards/"}, "shards": {},
    }))
    .unwrap();
    fs::create_dir_all(dir.join("shards")).unwrap();
    for (name, shard) in by_name {
        let packed = zstd::encode_all(rmp_serde::to_vec_named(&shard).unwrap().as_slice(), 3).unwrap();
        let digest = Sha256::digest(&packed);
        fs::write(dir.join(format!("shards/{}.msgpack.zst", hex::encode(digest))), packed).unwrap();
        index.shards.insert(name, digest);
    }
    let packed = zstd::encode_all(rmp_serde::to_vec_named(&index).unwrap().as_slice(), 3).unwrap();
    fs::write(dir.join("repodata_shards.msgpack.zst"), packed).unwrap();
}
