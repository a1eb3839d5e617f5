//! `cargo xtask demo`: the main job on real packages, where one can see it.
//!
//! Two environments, the second inheriting the first, mounted at two paths and used, with what each took in time, bytes
//! and inodes. Afterwards nothing is mounted; the store stays below `target/demo`, so that a second demo is quick.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::envfs::{self, Built, DiskUse, Envfs, Mount};
use crate::{channel, sh, system};

/// The channel that most people use, and the seconds to wait for its answer.
const PUBLIC_CHANNEL: &str = "conda-forge";
const PUBLIC_CHANNEL_PROBE: &str = "https://conda.anaconda.org/conda-forge/noarch/repodata.json.zst";
const PROBE_TIMEOUT_S: &str = "3";

/// The first environment.
const FIRST: [&str; 5] = ["python=3.11", "numpy", "pandas", "scikit-learn", "requests"];
/// What the second adds to it.
const SECOND: [&str; 2] = ["tqdm", "rich"];

/// What is imported in each.
const FIRST_IMPORTS: &str = "import numpy, pandas, sklearn, requests";
const SECOND_IMPORTS: &str = "import numpy, pandas, sklearn, requests, tqdm, rich";

/// The program that shows what was imported, and from where.
const SHOW: &str = "
import sys
from importlib.metadata import version
names = [n for n in ('numpy', 'pandas', 'scikit-learn', 'requests', 'tqdm', 'rich') if n.replace('scikit-learn', 'sklearn') in sys.modules]
print('    Python', sys.version.split()[0], ' '.join(f'{n} {version(n)}' for n in names))
print('    sys.prefix =', sys.prefix)
";

/// What one environment took.
struct Account {
    built: Built,
    build_took: Duration,
    store_growth: DiskUse,
    mount_took: Duration,
    first_import: Duration,
    second_import: Duration,
    umount_took: Duration,
}

/// The command.
///
/// # Errors
/// When a step fails; what was mounted is unmounted then too.
pub(crate) fn run(local_channel: bool) -> Result<()> {
    system::ensure_programs(&[("fusermount3", "fuse3")])?;
    system::require_fuse_device()?;
    sh::say("building envfs (release; the first time takes minutes)");
    let binary = envfs::build_release()?;
    let channel = if !local_channel && public_channel_answers() {
        sh::say(&format!("packages come from the public channel {PUBLIC_CHANNEL}"));
        PUBLIC_CHANNEL.to_owned()
    } else {
        sh::say("packages come from a local channel, made of Debian's Python and PyPI's wheels");
        channel::ensure(&channel::default_dir())?;
        format!("file://{}", channel::default_dir().display())
    };
    let envfs = Envfs::new(binary, sh::target_dir().join("demo/store"));
    let scratch = tempfile::Builder::new().prefix("envfs-demo-").tempdir()?;
    let accounts = show_main_job(&envfs, &channel, scratch.path())?;
    print_accounts(&accounts);
    if accounts[0].built.new_packages == 0 {
        println!("\nThe store had all of it already; `rm -r target/demo` makes it forget.");
    }
    println!(
        "\nNothing is mounted any more. The store stays in {}.",
        envfs.store().display()
    );
    Ok(())
}

/// Builds, mounts and uses both environments.
fn show_main_job(envfs: &Envfs, channel: &str, scratch: &Path) -> Result<[Account; 2]> {
    let from_channel = ["-c", channel];

    heading("1. The first environment");
    let mut build = envfs.command(["build"]);
    build.args(FIRST).args(from_channel);
    shown(&build);
    let (first, first_growth, first_took) = measured_build(envfs, FIRST.iter().chain(&from_channel))?;
    println!("    {} packages -> {}", first.packages, first.signature);

    heading("2. The second inherits the first, and adds to it");
    let base = ["--base", first.signature.as_str()];
    let mut build = envfs.command(["build"]);
    build
        .args(SECOND)
        .args(["--base", &first.signature[..12]])
        .args(from_channel);
    shown(&build);
    let (second, second_growth, second_took) = measured_build(envfs, SECOND.iter().chain(&base).chain(&from_channel))?;
    println!(
        "    {} packages, {} of them new -> {}",
        second.packages, second.new_packages, second.signature
    );

    heading("3. Mounted at two paths, and used");
    let (first_mount, first_import, first_again) =
        use_environment(envfs, &first.signature, &scratch.join("first"), FIRST_IMPORTS)?;
    let place = scratch.join("a place with spaces").join("second");
    let (second_mount, second_import, second_again) =
        use_environment(envfs, &second.signature, &place, SECOND_IMPORTS)?;

    heading("4. What there is");
    for listing in ["ls", "ps"] {
        let mut command = envfs.command([listing]);
        shown(&command);
        sh::run(&mut command)?;
    }

    heading("5. Unmounted");
    let (first_mount_took, second_mount_took) = (first_mount.took, second_mount.took);
    for mount in [&first_mount, &second_mount] {
        shown(envfs.command(["umount"]).arg(mount.path()));
    }
    let first_umount = first_mount.unmount()?;
    let second_umount = second_mount.unmount()?;
    Ok([
        Account {
            built: first,
            build_took: first_took,
            store_growth: first_growth,
            mount_took: first_mount_took,
            first_import,
            second_import: first_again,
            umount_took: first_umount,
        },
        Account {
            built: second,
            build_took: second_took,
            store_growth: second_growth,
            mount_took: second_mount_took,
            first_import: second_import,
            second_import: second_again,
            umount_took: second_umount,
        },
    ])
}

/// Builds, and measures the store before and after.
fn measured_build<'a>(
    envfs: &Envfs,
    arguments: impl IntoIterator<Item = &'a &'a str>,
) -> Result<(Built, DiskUse, Duration)> {
    let before = envfs::disk_use(&[envfs.store().to_path_buf()])?;
    let start = Instant::now();
    let built = envfs.build(arguments)?;
    let took = start.elapsed();
    Ok((
        built,
        envfs::disk_use(&[envfs.store().to_path_buf()])?.since(before),
        took,
    ))
}

/// Mounts an environment and imports from it twice.
fn use_environment(envfs: &Envfs, signature: &str, path: &Path, imports: &str) -> Result<(Mount, Duration, Duration)> {
    fs::create_dir_all(path)?;
    shown(envfs.command(["mount", &signature[..12]]).arg(path));
    let mount = envfs.mount(signature, path)?;
    let python = || {
        let mut python = Command::new(path.join("bin/python"));
        for variable in ["PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONHOME"] {
            python.env_remove(variable);
        }
        python.current_dir(path);
        python
    };
    let first = sh::timed(python().args(["-c", imports]))?;
    let second = sh::timed(python().args(["-c", imports]))?;
    let printed = sh::capture(python().args(["-c", &format!("{imports}{SHOW}")]))?;
    println!(
        "  $ {} -c '{imports}'",
        sh::quoted(&path.join("bin/python").to_string_lossy())
    );
    println!("{printed}");
    Ok((mount, first, second))
}

fn public_channel_answers() -> bool {
    if sh::find_program("curl").is_none() {
        sh::say("curl is not here, so no public channel is tried");
        return false;
    }
    let mut probe = sh::command("curl");
    probe.args(["--silent", "--fail", "--head", "--location", "--output", "/dev/null"]);
    sh::run_quiet(probe.args(["--max-time", PROBE_TIMEOUT_S, PUBLIC_CHANNEL_PROBE])).is_ok()
}

fn heading(text: &str) {
    println!("\n{text}");
}

/// Shows a command as typed, without the path of the binary and the choice of the store.
fn shown(command: &Command) {
    let words: Vec<String> = command
        .get_args()
        .skip(2)
        .map(|word| sh::quoted(&word.to_string_lossy()))
        .collect();
    println!("  $ envfs {}", words.join(" "));
}

fn print_accounts(accounts: &[Account; 2]) {
    heading("What it took");
    println!("    {:<34}{:>16}{:>16}", "", "first", "second");
    println!("    {}", "-".repeat(66));
    let row = |label: &str, value: &dyn Fn(&Account) -> String| {
        println!("    {label:<34}{:>16}{:>16}", value(&accounts[0]), value(&accounts[1]));
    };
    row("packages", &|account| account.built.packages.to_string());
    row("  of them new in the store", &|account| {
        account.built.new_packages.to_string()
    });
    row("build: solve, fetch, store", &|account| seconds(account.build_took));
    row("  of that, envfs's own count", &|account| {
        seconds(Duration::from_secs_f64(account.built.seconds.max(0.0)))
    });
    row("new bytes (envfs build --json)", &|account| {
        bytes(account.built.new_bytes)
    });
    row("new inodes (envfs build --json)", &|account| {
        account.built.new_inodes.to_string()
    });
    row("store grew by, on disk", &|account| bytes(account.store_growth.bytes));
    row("store grew by, inodes", &|account| {
        account.store_growth.inodes.to_string()
    });
    row("mount", &|account| seconds(account.mount_took));
    row("first import of everything", &|account| seconds(account.first_import));
    row("second import of everything", &|account| seconds(account.second_import));
    row("umount", &|account| seconds(account.umount_took));
}

/// A time in a unit that suits it.
fn seconds(time: Duration) -> String {
    let milliseconds = time.as_secs_f64() * 1e3;
    if milliseconds < 1000.0 {
        format!("{milliseconds:.1} ms")
    } else {
        format!("{:.2} s", milliseconds / 1e3)
    }
}

/// A size in a unit that suits it.
#[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["B", "KiB", "MiB", "GiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{count} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_units_that_suit_them() {
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(64 * 1024), "64.0 KiB");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
        assert_eq!(seconds(Duration::from_micros(12_345)), "12.3 ms");
        assert_eq!(seconds(Duration::from_millis(2_500)), "2.50 s");
    }
}
