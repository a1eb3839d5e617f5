//! `cargo xtask channel --check`: is the channel what it claims to be?
//!
//! Everything is installed into one throw-away prefix by an installer of our own and used there: imports, TLS
//! certificates, `pip check`. Nothing outside the prefix may be on `sys.path`, and nothing that a package ships compiled may be
//! compiled again.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::install::{self, Installed};
use crate::sh;

/// Imports everything that the channel is about, and says where it all came from.
const PROBE: &str = "
import bz2, ctypes, curses, hashlib, lzma, os, readline, sqlite3, ssl, sys, uuid, zlib, zoneinfo, xml.parsers.expat
import numpy, pandas, requests, scipy.linalg, sklearn.linear_model, tqdm, rich.table, setuptools
outside = [p for p in sys.path if not (p.startswith(sys.prefix + '/') or p == '')]
assert not outside, outside
assert sys.prefix == os.environ['EXPECTED_PREFIX'], sys.prefix
paths = ssl.get_default_verify_paths()
assert paths.cafile == sys.prefix + '/ssl/cert.pem', paths
authorities = len(ssl.create_default_context().get_ca_certs())
assert authorities > 100, authorities
assert sqlite3.connect(':memory:').execute('select 6 * 7').fetchone() == (42,)
assert lzma.decompress(lzma.compress(b'x')) == bz2.decompress(bz2.compress(b'x')) == b'x'
maps = {line.split()[-1] for line in open('/proc/self/maps') if '.so' in line}
c_library = ('libc.so.6', 'libm.so.6', 'libdl.so.2', 'libpthread.so.0', 'librt.so.1', 'ld-linux-x86-64.so.2', 'libutil.so.1')
foreign = [m for m in maps if not m.startswith(sys.prefix + '/') and os.path.basename(m) not in c_library]
assert not foreign, foreign
x = numpy.arange(12.0).reshape(6, 2)
model = sklearn.linear_model.LinearRegression().fit(x, x.sum(axis=1))
assert abs(model.predict([[1.0, 2.0]])[0] - 3.0) < 1e-9
assert pandas.DataFrame({'a': [1, 2]}).a.sum() == 3
import sysconfig
assert sysconfig.get_path('purelib') == sys.prefix + '/lib/python3.11/site-packages', sysconfig.get_paths()
assert sysconfig.get_config_var('LIBDIR') == sys.prefix + '/lib'
print('python', sys.version.split()[0], 'numpy', numpy.__version__, 'pandas', pandas.__version__, 'authorities', authorities)
";

/// Installs and uses the whole channel.
///
/// # Errors
/// With what is wrong.
pub(super) fn run(channel: &Path) -> Result<()> {
    let scratch = tempfile::tempdir_in(sh::target_dir())?;
    let prefix = scratch.path().join("env");
    let installed = install::all(channel, &prefix)?;
    println!(
        "installed {} packages, {} files; placeholders replaced in {} texts and {} binaries ({})",
        installed.packages,
        installed.files,
        installed.patched_texts.len(),
        installed.patched_binaries.len(),
        installed.patched_binaries.join(" ")
    );
    if installed.patched_binaries.is_empty() || installed.patched_texts.is_empty() {
        bail!("the channel must have placeholders in texts and in binaries");
    }
    compile_noarch(&prefix, &installed)?;
    let python = || python(&prefix);
    println!("{}", sh::capture(python().args(["-c", PROBE]))?);
    nothing_is_compiled(&prefix, &installed)?;
    println!("{}", sh::capture(python().args(["-m", "pip", "check"]))?);
    for words in [
        ["tqdm", "--version"],
        ["f2py", "-v"],
        ["openssl", "version"],
        ["pip", "--version"],
        ["sqlite3", "--version"],
    ] {
        let program = prefix.join("bin").join(words[0]);
        println!("{}: {}", words[0], sh::capture(sh::command(program).arg(words[1]))?);
    }
    Ok(())
}

fn python(prefix: &Path) -> Command {
    let mut command = sh::command(prefix.join("bin/python"));
    for variable in [
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONPATH",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "LD_LIBRARY_PATH",
    ] {
        command.env_remove(variable);
    }
    command
        .env("PYTHONNOUSERSITE", "1")
        .env("EXPECTED_PREFIX", prefix)
        .current_dir(prefix);
    command
}

/// What an installer does for noarch packages, which cannot ship `.pyc`.
fn compile_noarch(prefix: &Path, installed: &Installed) -> Result<()> {
    let mut compileall = python(prefix);
    compileall.args(["-m", "compileall", "-q", "-j", "0", "-i", "-"]);
    let mut child = compileall
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .context("cannot start the installed Python")?;
    let mut list = child.stdin.take().context("no pipe")?;
    for path in &installed.uncompiled {
        writeln!(list, "{}", prefix.join(path).display())?;
    }
    drop(list);
    child.wait()?;
    Ok(())
}

/// Runs the probe verbosely, and looks for modules that were compiled from source.
fn nothing_is_compiled(prefix: &Path, installed: &Installed) -> Result<()> {
    // The first probe has written the .pyc of patched sources, which none can ship: only those may be new.
    let output = sh::output(python(prefix).args(["-v", "-c", PROBE]))?;
    let log = String::from_utf8_lossy(&output.stderr);
    let wrote: Vec<&str> = log
        .lines()
        .filter(|line| line.starts_with("# wrote") || line.contains("bytecode is stale"))
        .collect();
    if !wrote.is_empty() {
        bail!("importing compiles again what is there:\n{}", wrote.join("\n"));
    }
    let mut unexpected = Vec::new();
    for path in super::files_below(prefix)? {
        let newer = fs::symlink_metadata(&path)?.is_file()
            && fs::metadata(&path)?
                .modified()?
                .elapsed()
                .is_ok_and(|age| age.as_secs() < 3600);
        let relative = path.strip_prefix(prefix)?.to_string_lossy().into_owned();
        let patched = relative.contains("/_sysconfigdata_");
        let noarch = || {
            let source = relative.replace("__pycache__/", "").replace(".cpython-311.pyc", ".py");
            installed.uncompiled.contains(&source)
        };
        if newer && relative.ends_with(".pyc") && !patched && !noarch() {
            unexpected.push(relative);
        }
    }
    if !unexpected.is_empty() {
        bail!(
            "importing compiled what the packages should have shipped: {}",
            unexpected.join(" ")
        );
    }
    println!(
        "importing compiled nothing that a package ships ({} modules were loaded from .pyc)",
        log.matches("# code object from").count()
    );
    Ok(())
}
