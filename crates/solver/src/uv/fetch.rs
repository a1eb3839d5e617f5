//! Fetching uv when the machine has none: one version, by digest, with the pip of any Python.
//!
//! pip knows its index, proxies and certificates; we name none of them. Knows nothing of what uv is used for.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::{UvError, on_search_path};

/// The version that is fetched.
const VERSION: &str = "0.13.9";

/// SHA-256 of its wheels: glibc x86-64, arm64 (old glibc or musl, new glibc), ppc64le, musl x86-64, macOS arm64 and x86-64.
const WHEEL_DIGESTS: [&str; 7] = [
    "d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19",
    "5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe",
    "ecb6028d79dc96fbeafffe5c8af62a7099487ebc05a701e76714eebcffd06375",
    "c5dbdb7c8737cd183a9dce95b39cfd1f3d54ec2a27a1bb58f160293f9ba2c805",
    "2c45530751517d6c3bbc69a19473f6effe47cce047bede01ffd8af7ea7b36b25",
    "66c512266d633bef48384a1f53003f41f2a8e7b36fe6e7fbfd3e0fd52d96fa63",
    "c16ed11e013557536b3e60065f1b912f6407bd6518e041b961e23ef9e6b4fbf5",
];

/// Where the fetched program is, if it was.
pub(super) fn program(cache_dir: &Path) -> PathBuf {
    cache_dir.join(format!("uv-{VERSION}")).join("uv")
}

/// Fetches the program into the cache. It appears whole or not at all.
///
/// # Errors
/// There is no Python with pip, pip fails (its words are the reason), or the cache cannot be written.
pub(super) fn fetch(cache_dir: &Path, search_path: &OsStr) -> Result<(), UvError> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| UvError::Io { action, path, source }
    };
    fs::create_dir_all(cache_dir).map_err(failed("make", cache_dir))?;
    let temporary = tempfile::tempdir_in(cache_dir).map_err(failed("write in", cache_dir))?;
    let wheel = download(temporary.path(), search_path)?;
    let unpacked = temporary.path().join("uv");
    unpack(&wheel, &unpacked).map_err(failed("unpack", &wheel))?;

    let program = program(cache_dir);
    let directory = program.parent().unwrap_or(cache_dir);
    fs::create_dir_all(directory).map_err(failed("make", directory))?;
    fs::rename(&unpacked, &program).map_err(failed("write", &program))
}

fn download(directory: &Path, search_path: &OsStr) -> Result<PathBuf, UvError> {
    let missing = |reason: String| UvError::Missing { reason };
    let python = ["python3", "python"]
        .into_iter()
        .find_map(|name| on_search_path(name, search_path))
        .ok_or_else(|| missing("there is neither a uv nor a Python that could fetch it".to_owned()))?;
    let wanted = directory.join("requirements.txt");
    fs::write(&wanted, requirement()).map_err(|source| UvError::Io {
        action: "write",
        path: wanted.clone(),
        source,
    })?;
    let output = Command::new(&python)
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-input",
            "--disable-pip-version-check",
        ])
        .args([
            "--no-deps",
            "--require-hashes",
            "--only-binary",
            ":all:",
            "--requirement",
        ])
        .arg(&wanted)
        .arg("--dest")
        .arg(directory)
        .env("PATH", search_path)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| UvError::Start {
            program: python,
            source,
        })?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        return Err(missing(format!("pip could not fetch it: {}", last_line(&words))));
    }
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    files
        .map(|file| file.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .ok_or_else(|| missing("pip fetched no wheel".to_owned()))
}

/// What pip is asked for: one version, in any of the wheels that we know.
fn requirement() -> String {
    let digests = WHEEL_DIGESTS.iter().map(|digest| format!(" --hash=sha256:{digest}"));
    format!("uv=={VERSION}{}\n", digests.collect::<String>())
}

/// Takes the program out of its wheel.
fn unpack(wheel: &Path, program: &Path) -> io::Result<()> {
    let mut archive = zip::ZipArchive::new(fs::File::open(wheel)?)?;
    let name = format!("uv-{VERSION}.data/scripts/uv");
    let mut packed = archive.by_name(&name)?;
    let mut unpacked = fs::File::create(program)?;
    io::copy(&mut packed, &mut unpacked)?;
    unpacked.set_permissions(fs::Permissions::from_mode(0o755))?;
    unpacked.sync_all()
}

/// pip's errors end with the one that matters.
fn last_line(words: &str) -> String {
    let line = words
        .lines()
        .rev()
        .find(|line| line.contains("ERROR"))
        .or(words.lines().last());
    let line = line.unwrap_or("it said nothing").trim();
    line.strip_prefix("ERROR: ").unwrap_or(line).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_fetched_by_digest_with_pip() {
        let directory = tempfile::tempdir().unwrap();
        let search_path = std::env::var_os("PATH").unwrap_or_default();
        match fetch(directory.path(), &search_path) {
            Err(UvError::Missing { reason }) => eprintln!("SKIPPED: uv cannot be fetched here: {reason}"),
            fetched => {
                fetched.unwrap();
                let printed = Command::new(program(directory.path()))
                    .arg("--version")
                    .output()
                    .unwrap();
                let printed = String::from_utf8(printed.stdout).unwrap();
                assert!(printed.starts_with(&format!("uv {VERSION}")), "{printed}");
            }
        }
    }

    #[test]
    fn without_python_the_error_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let error = fetch(directory.path(), directory.path().as_os_str())
            .unwrap_err()
            .to_string();
        assert!(error.contains("Python") && error.contains("pip install uv"), "{error}");
    }

    #[test]
    fn pips_own_reason_is_found() {
        let words = "WARNING: Retrying\nERROR: Could not find a version\nERROR: No matching distribution\n";
        assert_eq!(last_line(words), "No matching distribution");
    }
}
