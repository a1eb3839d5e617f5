//! Debian's CPython as conda has it: works from any prefix and looks nowhere else.
//!
//! Debian's own changes (dist-packages, /usr/local, its install schemes) are undone by exact edits, each of which must
//! find its place: a Debian update that changes one of them stops the making with a message, and never gives a Python
//! that half works.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context, Result, bail};
use memchr::memmem;

/// What of Debian's Python stays behind: its marks, and modules whose libraries are not in the channel.
const LEFT_BEHIND: [&str; 9] = [
    "lib/python3.11/EXTERNALLY-MANAGED",
    "lib/python3.11/sitecustomize.py",
    "lib/python3.11/_distutils_system_mod.py",
    "lib/python3.11/distutils",
    "lib/python3.11/test",
    "lib/python3.11/lib-dynload/_dbm.cpython-311-x86_64-linux-gnu.so",
    "lib/python3.11/lib-dynload/nis.cpython-311-x86_64-linux-gnu.so",
    "bin/pdb3.11",
    "bin/pygettext3.11",
];

/// Changes the staged files of Debian's Python into those of a relocatable one.
///
/// # Errors
/// When a file is missing or an edit does not find its place.
pub(super) fn adapt(payload: &Path, placeholder: &str) -> Result<()> {
    for path in LEFT_BEHIND {
        let path = payload.join(path);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path)?,
            Ok(_) => fs::remove_file(&path)?,
            Err(_) => {}
        }
    }
    let library = payload.join("lib/python3.11");
    fs::create_dir_all(library.join("site-packages"))?;
    fs::write(
        library.join("site-packages/README.txt"),
        "Modules that packages install go here.\n",
    )?;
    edit(&library.join("site.py"), |text| {
        replace(text, "dist-packages", "site-packages")
    })?;
    edit(&library.join("sysconfig.py"), undo_install_schemes)?;
    edit(&library.join("ssl.py"), use_own_certificates)?;
    edit(&library.join("_sysconfigdata__x86_64-linux-gnu.py"), |text| {
        Ok(relocate(text, placeholder))
    })?;
    for binary in ["bin/python3.11", "lib/libpython3.11.so.1.0"] {
        unfreeze_dist_packages(&payload.join(binary))?;
    }
    edit(&payload.join("bin/pydoc3.11"), |text| {
        let (_, body) = text.split_once('\n').context("no first line")?;
        Ok(format!("#!{placeholder}/bin/python3.11\n{body}"))
    })?;
    for (link, target) in [
        ("python", "python3.11"),
        ("python3", "python3.11"),
        ("pydoc3", "pydoc3.11"),
        ("pydoc", "pydoc3.11"),
    ] {
        symlink(target, payload.join("bin").join(link))?;
    }
    relink_library(payload)
}

/// The development link to the shared library, which Debian keeps in a directory that is not ours.
fn relink_library(payload: &Path) -> Result<()> {
    let config = payload.join("lib/python3.11/config-3.11-x86_64-linux-gnu");
    fs::create_dir_all(&config)?;
    let link = config.join("libpython3.11.so");
    if fs::symlink_metadata(&link).is_ok() {
        fs::remove_file(&link)?;
    }
    symlink("../../libpython3.11.so.1.0", link)?;
    symlink("libpython3.11.so.1.0", payload.join("lib/libpython3.11.so"))?;
    Ok(())
}

/// `site` is frozen into the interpreter: its constant is replaced by one of the same length.
fn unfreeze_dist_packages(binary: &Path) -> Result<()> {
    let mut content = fs::read(binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let needle = b"dist-packages\0";
    let places: Vec<usize> = memmem::find_iter(&content, needle).collect();
    if places.is_empty() {
        bail!(
            "{} has no frozen `dist-packages`: Debian's Python is no longer as this recipe expects it",
            binary.display()
        );
    }
    for place in places {
        content[place..place + 4].copy_from_slice(b"site");
    }
    fs::write(binary, content).with_context(|| format!("cannot write {}", binary.display()))
}

/// Removes the schemes `deb_system` and `posix_local`, and what chooses them.
fn undo_install_schemes(text: &str) -> Result<String> {
    let text = cut(text, "    'deb_system': {\n", "    'posix_home': {\n")?;
    let text = replace(
        &text,
        "('posix_prefix', 'posix_home', 'posix_local', 'deb_system')",
        "('posix_prefix', 'posix_home')",
    )?;
    let text = cut(
        &text,
        "    if sys.base_prefix != sys.prefix or hasattr(sys, \"real_prefix\"):\n",
        "    return {\n        'prefix': prefix_scheme",
    )?;
    replace(&text, "'prefix': prefix_scheme,", "'prefix': 'posix_prefix',")
}

/// OpenSSL has Debian's certificate directory compiled in; this makes `ssl` use the environment's instead.
fn use_own_certificates(text: &str) -> Result<String> {
    let text = replace(
        text,
        "    parts = _ssl.get_default_verify_paths()\n",
        "    parts = list(_ssl.get_default_verify_paths())\n    \
             parts[1] = os.path.join(sys.base_prefix, 'ssl', 'cert.pem')\n    \
             parts[3] = os.path.join(sys.base_prefix, 'ssl', 'certs')\n",
    )?;
    replace(
        &text,
        "    def load_default_certs(self, ",
        "    def set_default_verify_paths(self):\n        \
                 \"\"\"Load this environment's certificates, unless the variables name others.\"\"\"\n        \
                 paths = get_default_verify_paths()\n        \
                 if 'SSL_CERT_FILE' in os.environ or 'SSL_CERT_DIR' in os.environ or not paths.cafile:\n            \
                     super().set_default_verify_paths()\n        \
                 else:\n            \
                     self.load_verify_locations(paths.cafile)\n\n    \
             def load_default_certs(self, ",
    )
}

/// Puts the placeholder where the build recorded /usr, except for the tools of the machine that built it.
fn relocate(text: &str, placeholder: &str) -> String {
    let text = text
        .replace(
            "/usr/share/zoneinfo:/usr/lib/zoneinfo:/usr/share/lib/zoneinfo:/etc/zoneinfo",
            "/usr/share/zoneinfo",
        )
        .replace("/usr/lib/x86_64-linux-gnu", "/usr/lib");
    let mut out = String::with_capacity(text.len());
    let mut rest = text.as_str();
    while let Some(at) = rest.find("/usr") {
        let after = &rest[at + 4..];
        let whole_word = after.starts_with(['/', '\'', ' ']) && !rest[..at].ends_with('.');
        let tool = ["/bin/install", "/bin/dtrace"]
            .iter()
            .any(|tool| after.starts_with(tool));
        out.push_str(&rest[..at]);
        out.push_str(if whole_word && !tool { placeholder } else { "/usr" });
        rest = after;
    }
    out.push_str(rest);
    out
}

fn edit(path: &Path, change: impl FnOnce(&str) -> Result<String>) -> Result<()> {
    let place = || format!("adapting {}", path.display());
    let text = fs::read_to_string(path).with_context(place)?;
    fs::write(path, change(&text).with_context(place)?).with_context(place)
}

/// Replaces every occurrence, of which there must be one.
fn replace(text: &str, from: &str, to: &str) -> Result<String> {
    if !text.contains(from) {
        bail!(
            "`{}` is not there: Debian's Python is no longer as this recipe expects it",
            from.trim()
        );
    }
    Ok(text.replace(from, to))
}

/// Removes what stands from one mark up to (not including) the next other one.
fn cut(text: &str, from: &str, to: &str) -> Result<String> {
    let found = text
        .find(from)
        .and_then(|start| Some((start, start + text[start..].find(to)?)));
    let Some((start, end)) = found else {
        bail!(
            "`{}` is not there: Debian's Python is no longer as this recipe expects it",
            from.trim()
        );
    };
    Ok(format!("{}{}", &text[..start], &text[end..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_paths_move_and_tools_stay() {
        let data = "'prefix': '/usr', 'I': '-I/usr/include', 'L': '/usr/lib/x86_64-linux-gnu', 'X': '/usr/bin/install -c', 'W': './usr/lib'";
        let moved = relocate(data, "/P");
        assert_eq!(
            moved,
            "'prefix': '/P', 'I': '-I/P/include', 'L': '/P/lib', 'X': '/usr/bin/install -c', 'W': './usr/lib'"
        );
    }

    #[test]
    fn an_edit_that_finds_nothing_fails() {
        assert!(replace("abc", "x", "y").is_err());
        assert!(cut("abc", "b", "x").is_err());
        assert_eq!(cut("abcd", "b", "d").unwrap(), "ad");
    }
}
