//! Checks that everything in a store is what its name says.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::digest::Digest;
use crate::error::{Error, IoContext, Result};
use crate::layer::Layer;
use crate::pack;
use crate::store::{Store, list};
use crate::tree::{NodeId, NodeKind, Tree};

impl Store {
    /// Checks every object, pack, layer, tree and environment against its name, and calls `report` with what is
    /// wrong. Returns how many things were checked.
    ///
    /// # Errors
    /// When a directory cannot be read.
    pub fn verify(&self, report: &mut dyn FnMut(&Error)) -> Result<u64> {
        let mut checked = 0;
        let mut check = |path: &Path, result: Result<()>| {
            match result {
                // Collected since it was listed.
                Err(_) if !path.exists() => return,
                Err(error) => report(&error),
                Ok(()) => {}
            }
            checked += 1;
        };
        for shard in list(&self.path("objects"))? {
            for path in list(&shard)? {
                check(&path, verify_named(&path));
            }
        }
        for path in list(&self.path("packs"))? {
            check(&path, verify_pack(&path));
        }
        for path in list(&self.path("layers"))? {
            check(
                &path,
                fs::read(&path)
                    .at("read", &path)
                    .and_then(|bytes| Layer::read(&path, &bytes))
                    .map(drop),
            );
        }
        for path in list(&self.path("trees"))? {
            check(
                &path,
                verify_named(&path).and_then(|()| Tree::open(&path, |base| self.tree_path(base))?.verify()),
            );
        }
        for signature in crate::environment::signatures(self)? {
            let verified = crate::environment::load(self, &signature)
                .and_then(|environment| self.verify_reachable(&self.tree(&environment.tree)?));
            check(&crate::environment::path(self, &signature), verified);
        }
        Ok(checked)
    }

    /// Checks that every file of `tree` has its object.
    fn verify_reachable(&self, tree: &Tree) -> Result<()> {
        for id in 0..tree.node_count() {
            let node = tree.node(NodeId(id))?;
            if node.kind()? == NodeKind::File {
                self.require(&node.digest())?;
            }
        }
        Ok(())
    }
}

/// Checks that a file's bytes are those its name says.
fn verify_named(path: &Path) -> Result<()> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).at("open", path)?;
    hasher.update_reader(file).at("read", path)?;
    let digest = Digest::from_bytes(*hasher.finalize().as_bytes());
    let name = path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    if name == digest.to_string() {
        Ok(())
    } else {
        Err(Error::corrupt(path, format!("its bytes have the digest {digest}")))
    }
}

fn verify_pack(path: &Path) -> Result<()> {
    let file = File::open(path).at("open", path)?;
    for entry in pack::read_index(path)? {
        let mut bytes = vec![0; entry.size_bytes as usize];
        file.read_exact_at(&mut bytes, entry.offset_bytes).at("read", path)?;
        if Digest::of(&bytes) != entry.digest {
            return Err(Error::corrupt(
                path,
                format!("object {} is not what its name says", entry.digest),
            ));
        }
    }
    Ok(())
}
