//! Making the native packages: Debian's files in conda's places, libraries found relative to themselves or by the
//! placeholder, pkg-config files, certificates.
//!
//! This room does not know Python's library: what is done to it stands in `python.rs`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

use super::debian::{Debs, lay_out};
use super::package::{Kind, Package, files_below, placeholder};
use super::python;
use super::recipe::{NATIVES, Native, PYTHON_VERSION};
use crate::sh;

/// Stages every native package below `staging`.
///
/// # Errors
/// When a Debian package is not as the recipe expects it.
pub(super) fn stage_all(debs: &Debs, patchelf: &Path, work: &Path) -> Result<Vec<Package>> {
    NATIVES
        .iter()
        .map(|native| stage(native, debs, patchelf, work).with_context(|| format!("making {}", native.name)))
        .collect()
}

fn stage(native: &Native, debs: &Debs, patchelf: &Path, work: &Path) -> Result<Package> {
    let payload = work.join("staging").join(native.name);
    fs::create_dir_all(&payload)?;
    let mut licenses = BTreeMap::new();
    let mut inputs = Sha256::new();
    for deb in native.debs {
        let unpacked = work.join("unpacked").join(deb);
        debs.unpack(deb, &unpacked)?;
        licenses.append(&mut lay_out(&unpacked, &payload)?);
        inputs.update(fs::read(debs.file(deb)?)?);
    }
    let mut version = native
        .debs
        .first()
        .map_or_else(|| Ok(PYTHON_VERSION.to_owned()), |deb| debs.upstream_version(deb))?;
    let mut build = format!("h{}_0", &hex::encode(inputs.finalize())[..7]);
    let mut constrains = Vec::new();
    let mut python_site_packages_path = None;
    match native.name {
        "python" => {
            python::adapt(&payload, &placeholder(native.name))?;
            build.push_str("_cpython");
            constrains.push("python_abi 3.11.* *_cp311".to_owned());
            python_site_packages_path = Some("lib/python3.11/site-packages".to_owned());
        }
        "python_abi" => {
            "8_cp311".clone_into(&mut build);
            constrains.push("python 3.11.* *_cpython".to_owned());
        }
        "ca-certificates" => {
            bundle_certificates(&payload)?;
            version = dated(&version);
        }
        _ => {}
    }
    write_pkg_config(native, &payload, &version)?;
    set_library_paths(native, &payload, patchelf)?;
    Ok(Package {
        name: native.name.to_owned(),
        version,
        build,
        kind: native.kind,
        format: native.format,
        depends: native.depends.iter().map(ToString::to_string).collect(),
        constrains,
        license: native.license.to_owned(),
        summary: native.summary.to_owned(),
        home: native.home.to_owned(),
        entry_points: Vec::new(),
        python_site_packages_path,
        payload,
        licenses,
    })
}

/// Makes each binary find its libraries in the environment, wherever that is.
fn set_library_paths(native: &Native, payload: &Path, patchelf: &Path) -> Result<()> {
    if native.kind != Kind::Arch {
        return Ok(());
    }
    for path in files_below(payload)? {
        if fs::symlink_metadata(&path)?.is_symlink() || !is_dynamic_elf(&path)? {
            continue;
        }
        let relative = path.strip_prefix(payload)?.to_string_lossy().into_owned();
        let rpath = if native.with_placeholder_rpath.contains(&relative.as_str()) {
            format!("{}/lib", placeholder(native.name))
        } else {
            origin_rpath(&relative)
        };
        // DT_RPATH rather than DT_RUNPATH: it also serves the extension modules that the interpreter loads, as conda's does.
        sh::run_quiet(
            sh::command(patchelf)
                .args(["--force-rpath", "--set-rpath", &rpath])
                .arg(&path),
        )?;
    }
    Ok(())
}

/// `$ORIGIN/..` as often as it takes to reach the prefix's lib.
fn origin_rpath(relative: &str) -> String {
    match relative.strip_prefix("lib/") {
        Some(below_lib) => {
            let ups = "/..".repeat(below_lib.matches('/').count());
            format!("$ORIGIN{ups}")
        }
        None => format!("$ORIGIN{}/lib", "/..".repeat(relative.matches('/').count())),
    }
}

/// Whether patchelf can work on a file: an ELF executable or shared object.
fn is_dynamic_elf(path: &Path) -> Result<bool> {
    let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    // e_type, a little-endian u16 at offset 16: 2 is ET_EXEC, 3 is ET_DYN (System V ABI, "ELF Header").
    Ok(content.starts_with(b"\x7fELF") && matches!(content.get(16), Some(2 | 3)))
}

fn write_pkg_config(native: &Native, payload: &Path, version: &str) -> Result<()> {
    let directory = payload.join("lib/pkgconfig");
    let prefix = placeholder(native.name);
    for library in native.pkg_config {
        fs::create_dir_all(&directory)?;
        let flag = library.strip_prefix("lib").unwrap_or(library);
        let text = format!(
            "prefix={prefix}\nexec_prefix=${{prefix}}\nlibdir={prefix}/lib\nincludedir=${{prefix}}/include\n\n\
             Name: {library}\nDescription: {}\nVersion: {version}\nLibs: -L${{libdir}} -l{flag}\nCflags: -I${{includedir}}\n",
            native.summary
        );
        fs::write(directory.join(format!("{library}.pc")), text)?;
    }
    Ok(())
}

/// One file of all certificates, as OpenSSL reads it, under the names that conda-forge uses.
fn bundle_certificates(payload: &Path) -> Result<()> {
    let sources: Vec<PathBuf> = files_below(&payload.join("share/ca-certificates"))?;
    let mut bundle = Vec::new();
    for source in &sources {
        bundle.extend(fs::read(source)?);
    }
    fs::remove_dir_all(payload.join("share"))?;
    fs::create_dir_all(payload.join("ssl"))?;
    fs::write(payload.join("ssl/cacert.pem"), bundle)?;
    std::os::unix::fs::symlink("cacert.pem", payload.join("ssl/cert.pem"))?;
    Ok(())
}

/// `20230311` is 2023.03.11.
fn dated(version: &str) -> String {
    match (version.get(..4), version.get(4..6), version.get(6..8)) {
        (Some(year), Some(month), Some(day)) => format!("{year}.{month}.{day}"),
        _ => version.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn library_paths_lead_to_the_lib_of_the_prefix() {
        assert_eq!(origin_rpath("lib/libssl.so.3"), "$ORIGIN");
        assert_eq!(origin_rpath("lib/python3.11/lib-dynload/_ssl.so"), "$ORIGIN/../..");
        assert_eq!(origin_rpath("bin/xz"), "$ORIGIN/../lib");
    }

    #[test]
    fn a_date_becomes_a_version() {
        assert_eq!(dated("20230311"), "2023.03.11");
    }
}
