//! Where a wheel's file lies in its layer.

use envfs_store::path::EnvPath;

/// Files of the `purelib` and `platlib` schemes: on the platforms that there are, both are one directory.
pub(crate) const SITE_PACKAGES: &str = "site-packages/";
/// Files of the `scripts` scheme.
pub(crate) const SCRIPTS: &str = "python-scripts/";
/// Files of the `headers` scheme.
pub(crate) const HEADERS: &str = "headers/";
/// Files of the `data` scheme, which go to the root of an environment.
pub(crate) const DATA: &str = "data/";

/// Files of a `.dist-info` directory that the installer writes: what a wheel brings of them is left out.
const INSTALLERS: [&str; 6] = [
    "RECORD",
    "RECORD.jws",
    "RECORD.p7s",
    "INSTALLER",
    "REQUESTED",
    "direct_url.json",
];

/// Where a file goes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Into the layer, at this path.
    At(EnvPath),
    /// Nowhere: the installer writes its own.
    LeftOut,
}

/// Where the file at `path` of the wheel goes. The error says why it may not be.
pub(super) fn place(path: &EnvPath, dist_info: &str) -> Result<Place, String> {
    let text = std::str::from_utf8(path.as_bytes()).map_err(|_| "is not UTF-8")?;
    let data = format!("{}.data/", dist_info.trim_end_matches(".dist-info"));
    let placed = match text.strip_prefix(&data) {
        None => {
            let installer = text.strip_prefix(dist_info).and_then(|rest| rest.strip_prefix('/'));
            if installer.is_some_and(|name| INSTALLERS.contains(&name)) {
                return Ok(Place::LeftOut);
            }
            format!("{SITE_PACKAGES}{text}")
        }
        Some(inner) => {
            let (scheme, rest) = inner
                .split_once('/')
                .ok_or("lies in no scheme of the .data directory")?;
            let target = match scheme {
                "purelib" | "platlib" => SITE_PACKAGES,
                "scripts" => SCRIPTS,
                "headers" => HEADERS,
                "data" => DATA,
                _ => return Err(format!("lies in the scheme `{scheme}`, which no Python knows")),
            };
            format!("{target}{rest}")
        }
    };
    check(&placed, dist_info)?;
    EnvPath::parse(placed)
        .map(Place::At)
        .map_err(|error| error.reason.to_owned())
}

/// Whether a script of this name would take the interpreter's place.
pub(crate) fn is_reserved_script(name: &str) -> bool {
    let is_version = |rest: &str| rest.chars().all(|c| c.is_ascii_digit() || c == '.' || c == 't');
    ["pythonw", "python", "pypy"]
        .iter()
        .any(|reserved| name.strip_prefix(reserved).is_some_and(is_version))
}

fn check(placed: &str, dist_info: &str) -> Result<(), String> {
    if let Some(installed) = placed.strip_prefix(SITE_PACKAGES) {
        let other = installed.split_once('/').filter(|(top, _)| top.ends_with(".dist-info"));
        return match other {
            Some((top, _)) if top != dist_info => Err(format!(
                "is of a second distribution beside `{dist_info}`; a wheel holds one"
            )),
            Some((_, name)) if INSTALLERS.contains(&name) => Err("is written by the installer".to_owned()),
            _ => Ok(()),
        };
    }
    let script = placed
        .strip_prefix(SCRIPTS)
        .or_else(|| placed.strip_prefix("data/bin/"));
    if script.is_some_and(is_reserved_script) {
        return Err("would take the place of the Python interpreter".to_owned());
    }
    if placed == "data/conda-meta" || placed.starts_with("data/conda-meta/") {
        return Err("belongs to the installer".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str) -> Result<Place, String> {
        place(&EnvPath::parse(path).unwrap(), "x-1.dist-info")
    }

    #[test]
    fn schemes_are_mapped() {
        for (path, expected) in [
            ("x/a.py", "site-packages/x/a.py"),
            ("x-1.dist-info/METADATA", "site-packages/x-1.dist-info/METADATA"),
            (
                "x/_vendor/y-2.dist-info/METADATA",
                "site-packages/x/_vendor/y-2.dist-info/METADATA",
            ),
            ("y-1.data/scripts/a", "site-packages/y-1.data/scripts/a"),
            ("x-1.data/purelib/a.py", "site-packages/a.py"),
            ("x-1.data/platlib/a.so", "site-packages/a.so"),
            ("x-1.data/scripts/a", "python-scripts/a"),
            ("x-1.data/headers/a.h", "headers/a.h"),
            ("x-1.data/data/etc/a", "data/etc/a"),
        ] {
            assert_eq!(at(path), Ok(Place::At(EnvPath::parse(expected).unwrap())));
        }
        for left_out in ["RECORD", "RECORD.jws", "INSTALLER", "direct_url.json"] {
            assert_eq!(at(&format!("x-1.dist-info/{left_out}")), Ok(Place::LeftOut));
        }
    }

    #[test]
    fn what_is_not_a_wheels_to_bring_is_refused() {
        for (path, expected) in [
            ("y-2.dist-info/METADATA", "second distribution"),
            ("x-1.data/purelib/y-2.dist-info/METADATA", "second distribution"),
            ("x-1.data/purelib/x-1.dist-info/RECORD", "written by the installer"),
            ("x-1.data/stdlib/os.py", "the scheme `stdlib`"),
            ("x-1.data/a", "no scheme"),
            ("x-1.data/scripts/python3.12", "the Python interpreter"),
            ("x-1.data/data/bin/python", "the Python interpreter"),
            ("x-1.data/data/conda-meta/history", "belongs to the installer"),
        ] {
            let message = at(path).unwrap_err();
            assert!(message.contains(expected), "{path}: {message}");
        }
        assert!(!is_reserved_script("python-config") && !is_reserved_script("pythonista"));
    }
}
