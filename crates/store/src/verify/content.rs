//! What is named by its content: objects, packs, layers, trees; and the records of environments.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::{Checked, Finding, Kind, name_of};
use crate::digest::{Digest, Sha256};
use crate::environment;
use crate::error::{Error, IoContext, Result};
use crate::layer::Layer;
use crate::pack;
use crate::store::{Store, list};
use crate::tree::Tree;

/// Reads every byte of them.
pub(super) fn check(store: &Store, checked: &mut Checked) -> Result<()> {
    for shard in list(&store.path("objects"))? {
        for path in list(&shard)? {
            check_file(store, Kind::Object, &path, checked);
        }
    }
    for (directory, kind) in [
        ("packs", Kind::Pack),
        ("layers", Kind::Layer),
        ("trees", Kind::Tree),
        ("environments", Kind::Environment),
    ] {
        for path in list(&store.path(directory))? {
            check_file(store, kind, &path, checked);
        }
    }
    Ok(())
}

/// Reads every byte of one file.
pub(super) fn check_file(store: &Store, kind: Kind, path: &Path, checked: &mut Checked) {
    // Of what is written to meanwhile nothing must be noted.
    let before = path.metadata();
    let result = match kind {
        Kind::Object => object(store, path),
        Kind::Pack => match pack(path) {
            Ok(None) => Ok(()),
            Ok(Some(finding)) => {
                checked.count += 1;
                checked.findings.push(finding);
                return;
            }
            Err(error) => Err(error),
        },
        Kind::Layer => layer(path).map(drop),
        Kind::Tree => tree(store, path),
        Kind::Environment => {
            parse_name::<Digest>(path).and_then(|signature| environment::get(store, &signature).map(drop))
        }
        _ => return,
    };
    if let (Kind::Object | Kind::Tree, Ok(()), Ok(digest), Ok(before)) = (kind, &result, parse_name(path), before) {
        checked.sound.push((digest, before));
    }
    checked.note(kind, path, result);
}

/// Whether a whole object is what its name says, and where that name is looked for.
fn object(store: &Store, path: &Path) -> Result<()> {
    let digest = parse_name::<Digest>(path)?;
    if store.own_object_path(&digest) != path {
        return Err(Error::corrupt(path, "it is in the directory of other objects"));
    }
    verify_bytes(path, &digest)
}

/// Where a file would be whole that is wrong where it is; none if its content has no name that can be told.
pub(super) fn own_place(store: &Store, kind: Kind, path: &Path) -> Option<PathBuf> {
    match kind {
        Kind::Object => Some(store.own_object_path(&digest_of(path).ok()?)),
        Kind::Tree => Some(store.path(&format!("trees/{}", digest_of(path).ok()?))),
        Kind::Pack => {
            let id = pack::id_of(&mut pack::read_index(path).ok()?);
            Some(store.own_pack_path(&id))
        }
        Kind::Layer => {
            let layer = Layer::read(path, &fs::read(path).ok()?).ok()?;
            Some(store.path(&format!("layers/{}", layer.archive)))
        }
        _ => None,
    }
}

/// The damage in a pack, if there is any. An error is one of the whole pack.
fn pack(path: &Path) -> Result<Option<Finding>> {
    let damage = pack::check(path, &parse_name(path)?)?;
    let objects: BTreeSet<Digest> = damage.objects.iter().map(|entry| entry.digest).collect();
    let what = match (objects.len(), damage.what) {
        (0, None) => return Ok(None),
        (0, Some(what)) => what,
        (1, _) => format!(
            "object {} is not what its name says",
            objects.first().map_or_else(String::new, ToString::to_string)
        ),
        (count, _) => format!("{count} objects are not what their names say"),
    };
    Ok(Some(Finding {
        objects,
        is_unreadable: false,
        ..Finding::damaged(Kind::Pack, path, &Error::corrupt(path, what))
    }))
}

/// The layer in a file, if it is that of its name.
pub(super) fn layer(path: &Path) -> Result<Layer> {
    let archive = parse_name::<Sha256>(path)?;
    let layer = Layer::read(path, &fs::read(path).at("read", path)?)?;
    if layer.archive == archive {
        Ok(layer)
    } else {
        Err(Error::corrupt(path, format!("it is that of {}", layer.archive)))
    }
}

fn tree(store: &Store, path: &Path) -> Result<()> {
    verify_bytes(path, &parse_name(path)?)?;
    match Tree::open(path, |base| store.tree_path(base)) {
        Ok(tree) => tree.verify(),
        // Its base is another thing to be missed.
        Err(error) if error.is_gone() && path.exists() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Checks that a file's bytes are those that `digest` names.
pub(super) fn verify_bytes(path: &Path, digest: &Digest) -> Result<()> {
    let found = digest_of(path)?;
    if found == *digest {
        Ok(())
    } else {
        Err(Error::corrupt(path, format!("its bytes have the digest {found}")))
    }
}

fn digest_of(path: &Path) -> Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path).at("open", path)?;
    hasher.update_reader(file).at("read", path)?;
    Ok(Digest::from_bytes(*hasher.finalize().as_bytes()))
}

pub(super) fn parse_name<T: FromStr>(path: &Path) -> Result<T> {
    name_of(path)
        .parse()
        .map_err(|_| Error::corrupt(path, "nothing of the store is called so"))
}
