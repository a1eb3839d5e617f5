//! The files that look different at each prefix: written out for the prefix that all runs have, an image in memory for any other.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use envfs_store::cache::Cache;
use envfs_store::lease::LeaseKind;
use envfs_store::tree::NodeId;
use envfs_store::workspace::Workspace;
use envfs_store::{Checks, Digest};

use super::erofs::content::{self, Written};
use super::template::{self, Template};
use super::{KernelError, Prepared, detached, tell};
use crate::causes::with_causes;
use crate::service::Service;

/// Part of the name of what is kept for all prefixes of one length.
const TEMPLATE_SALT: &[u8] = b"template 1";

/// Where the files are as they look at one prefix.
pub(super) enum Patched {
    Directory(PathBuf),
    Image(OwnedFd),
}

/// What looks different at this prefix. At the one that all runs of an environment have it is written to files, whose pages
/// stay in memory from run to run; any other mount point may be used once, and costs no disk.
pub(super) fn layer(service: &Service, prepared: &Prepared) -> Result<Option<Patched>, KernelError> {
    let Prepared { cache, patched, .. } = prepared;
    if patched.is_empty() {
        return Ok(None);
    }
    let directory = cache.patched_directory(&service.view);
    if cache.has_patched(&service.view, patched)? {
        return Ok(Some(Patched::Directory(directory)));
    }
    if service.kind == LeaseKind::Mount {
        match image(service, prepared) {
            Ok(image) => return Ok(Some(Patched::Image(image))),
            Err(KernelError::Refused(error)) => {
                tracing::info!("files for this prefix are written out: {}", with_causes(&error));
            }
            Err(error) => return Err(error),
        }
    }
    write(cache, service, patched)?;
    Ok(Some(Patched::Directory(directory)))
}

/// What looks different at this prefix, as an image in memory.
fn image(service: &Service, prepared: &Prepared) -> Result<OwnedFd, KernelError> {
    let prefix = service.view.prefix();
    // Whoever wants all that is read to be checked gets no copy of what was checked before.
    let is_kept = template::is_plain(prefix) && service.store.checks() != Checks::Always;
    let kept = prepared
        .cache
        .image_path(&service.tree, &[TEMPLATE_SALT, &prefix.len().to_le_bytes()].concat());
    if is_kept && let Some(image) = filled(service, &kept) {
        return Ok(image);
    }
    let written = content::write(&service.view, &prepared.patched)?;
    for error in &written.lost {
        tracing::warn!("{error}: reading the file will be an error");
    }
    if is_kept
        && written.lost.is_empty()
        && !kept.exists()
        && let Err(error) = keep_template(service, prepared, &written, &kept)
    {
        tracing::info!("no image is kept for prefixes of this length: {}", with_causes(&error));
    }
    let write = |into: &mut File| into.write_all(&written.bytes);
    Ok(detached::image_in_memory(write, &paths(service, &written.devices))?)
}

/// The image from the template at `path`; none if there is none, or anything is wrong with it.
fn filled(service: &Service, path: &Path) -> Option<OwnedFd> {
    let mut file = File::open(path).ok()?;
    let template = Template::read(&mut file).ok()??;
    let fill = |into: &mut File| template.fill(&mut file, service.view.prefix(), into);
    let image = detached::image_in_memory(fill, &paths(service, &template.objects));
    image
        .inspect_err(|error| tracing::info!("the kept image is not used: {}", with_causes(error)))
        .ok()
}

fn paths(service: &Service, objects: &[Digest]) -> Vec<PathBuf> {
    objects.iter().map(|digest| service.store.object_path(digest)).collect()
}

/// Keeps the image, as `written` for this prefix, for all others of the same length.
fn keep_template(service: &Service, prepared: &Prepared, written: &Written, path: &Path) -> Result<(), KernelError> {
    let prefix = service.view.prefix();
    let Ok(elsewhere) = service.view.at(Path::new(&template::counterpart(prefix))) else {
        return Ok(());
    };
    let other = content::write(&elsewhere, &prepared.patched)?;
    let file = template::write(prefix, &written.bytes, &other.bytes, &written.devices);
    let workspace = Workspace::create(&service.store)?;
    Ok(prepared.cache.put_image(&workspace, path, &file)?)
}

/// Writes them out for this prefix, unless that was done before in this boot.
pub(super) fn write(cache: &Cache, service: &Service, patched: &[NodeId]) -> Result<(), KernelError> {
    if !cache.has_patched(&service.view, patched)? {
        let started = Instant::now();
        let workspace = Workspace::create(&service.store)?;
        tell(&cache.fill_patched(&workspace, &service.view, patched)?, started);
    }
    Ok(())
}
