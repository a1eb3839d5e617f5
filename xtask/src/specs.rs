//! `cargo xtask specs`: every spec and lock file of well-known projects, read and locked by the built program.
//!
//! The files are optional data beside the repository. Conda packages come from an index that was put together from public lock
//! files, as local channels; channels that it has nothing of are empty. Packages from PyPI are resolved against the registry.
//! The outcome of every file becomes a row of a table. This room knows how files are laid out, and the product's command line.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

use crate::envfs;
use crate::sh;

/// What lies beside the repository.
const DATA: &str = "../shared/data";
/// Channels that are called otherwise in the harvested index.
const SAME_CHANNEL: [(&str, &str); 3] = [
    ("defaults", "main"),
    ("anaconda", "main"),
    ("robostack", "robostack-jazzy"),
];
/// Pythons that are tried, where the newest has no wheels.
const OLDER_PYTHONS: [&str; 5] = ["3.12", "3.11", "3.10", "3.9", "3.8"];
/// A reason longer than this is cut.
const MAX_REASON_CHARS: usize = 420;

/// What became of a file.
struct Row {
    kind: String,
    file: String,
    outcome: String,
    reason: String,
}

/// Reads every file and writes the table.
///
/// # Errors
/// When the program cannot be built, a file cannot be unpacked, or the program failed without a word.
pub(crate) fn run(out: &Path, program: Option<PathBuf>) -> Result<()> {
    let data = sh::root().join(DATA);
    let archive = data.join("specs.tar.zst");
    if !archive.is_file() {
        eprintln!(
            "SKIPPED: {} is not there, and without it there is nothing to read",
            archive.display()
        );
        return Ok(());
    }
    let work = tempfile::tempdir()?;
    let packed = fs::File::open(&archive).with_context(|| format!("cannot open {}", archive.display()))?;
    tar::Archive::new(zstd::Decoder::new(packed)?).unpack(work.path())?;
    let bench = Bench {
        program: program.map_or_else(envfs::build_debug, Ok)?,
        channels: work.path().join("channels"),
        work: work.path().to_owned(),
    };
    bench.make_channels(&data.join("repodata/harvested"))?;
    let mut rows = Vec::new();
    for file in files(&work.path().join("specs"))? {
        sh::say(&format!(
            "{}",
            file.strip_prefix(work.path()).unwrap_or(&file).display()
        ));
        rows.push(bench.read(&file)?);
    }
    let path = sh::root().join(out);
    fs::write(&path, table(&rows)).with_context(|| format!("cannot write {}", path.display()))?;
    let locked = rows.iter().filter(|row| row.outcome.starts_with("locks")).count();
    println!(
        "specs: {locked} of {} files lock, the others say why not: {}",
        rows.len(),
        out.display()
    );
    Ok(())
}

/// The program with what it needs.
struct Bench {
    program: PathBuf,
    channels: PathBuf,
    work: PathBuf,
}

impl Bench {
    /// Lays out the harvested index as channels on disk.
    fn make_channels(&self, harvested: &Path) -> Result<()> {
        for channel in fs::read_dir(harvested).with_context(|| format!("cannot list {}", harvested.display()))? {
            let channel = channel?;
            let name = channel.file_name().to_string_lossy().into_owned();
            self.make_channel(&name)?;
            for subdir in fs::read_dir(channel.path())? {
                let subdir = subdir?;
                let index = zstd::decode_all(fs::File::open(subdir.path().join("repodata.json.zst"))?)?;
                fs::write(
                    self.channels.join(&name).join(subdir.file_name()).join("repodata.json"),
                    index,
                )?;
            }
        }
        Ok(())
    }

    /// An empty channel.
    fn make_channel(&self, name: &str) -> Result<()> {
        for subdir in ["noarch", "linux-64"] {
            let directory = self.channels.join(name).join(subdir);
            fs::create_dir_all(&directory)?;
            let empty = format!("{{\"info\":{{\"subdir\":\"{subdir}\"}},\"packages\":{{}},\"packages.conda\":{{}}}}");
            fs::write(directory.join("repodata.json"), empty)?;
        }
        Ok(())
    }

    fn read(&self, file: &Path) -> Result<Row> {
        let kind = file
            .parent()
            .and_then(Path::file_name)
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (outcome, reason) = match kind.as_str() {
            "environment" => {
                let copy = self.with_local_channels(file)?;
                self.outcome(&self.lock(&copy, None)?, None, &copy)?
            }
            "pixi-lock" => self.outcome(&self.export(file, "pixi")?, None, file)?,
            "conda-lock" => self.outcome(&self.export(file, "conda-lock")?, None, file)?,
            _ => self.lock_with_any_python(file)?,
        };
        Ok(Row {
            kind,
            file: name.replace("__", "/"),
            outcome,
            reason,
        })
    }

    /// Projects of the Python world say little of Python: where the newest has no wheels, an older one may.
    fn lock_with_any_python(&self, file: &Path) -> Result<(String, String)> {
        // Tools know their files by name.
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let plain = name.rsplit("__").next().unwrap_or(&name);
        let directory = tempfile::tempdir_in(&self.work)?;
        let copy = directory.path().join(plain);
        fs::copy(file, &copy)?;
        let newest = self.lock(&copy, None)?;
        if !newest.status.success() && is_about_wheels(&newest) {
            for python in OLDER_PYTHONS {
                let older = self.lock(&copy, Some(python))?;
                if older.status.success() {
                    return self.outcome(&older, Some(python), &copy);
                }
            }
        }
        self.outcome(&newest, None, &copy)
    }

    fn lock(&self, file: &Path, python: Option<&str>) -> Result<Output> {
        let mut command = self.command("lock");
        command.args(["--platform", "linux-64", "--json", "--output"]);
        command
            .arg(self.work.join("out.lock"))
            .arg("--upgrade")
            .arg("--file")
            .arg(file);
        if file
            .extension()
            .is_none_or(|extension| extension != "yml" && extension != "yaml")
        {
            command.args(["--channel", "conda-forge"]);
        }
        if let Some(python) = python {
            command.args(["--python", python]);
        }
        command.output().with_context(|| sh::shown(&command))
    }

    /// A lock of the conda world is read and written anew, in its own format.
    fn export(&self, file: &Path, format: &str) -> Result<Output> {
        let run = |environment: Option<&str>| {
            let mut command = self.command("export");
            command.arg(file).args(["--format", format, "--platform", "linux-64"]);
            if let Some(environment) = environment {
                command.args(["--environment", environment]);
            }
            command.output().with_context(|| sh::shown(&command))
        };
        let output = run(None)?;
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        // Some projects have no default environment: then the first that they have.
        match words.split_once("has no environment 'default'; it has: ") {
            Some((_, names)) => run(names.split([',', '\n']).next().map(str::trim)),
            None => Ok(output),
        }
    }

    fn command(&self, command: &str) -> Command {
        let mut started = sh::command(&self.program);
        started
            .env("CONDA_CHANNEL_ALIAS", format!("file://{}", self.channels.display()))
            .env("XDG_CACHE_HOME", self.work.join("cache"))
            .arg("--store")
            .arg(sh::target_dir().join("specs-store"))
            .arg(command);
        started
    }

    /// A copy of an environment.yml whose channels are those that are here. Everything else stays as it is.
    fn with_local_channels(&self, file: &Path) -> Result<PathBuf> {
        let text = fs::read_to_string(file)?;
        let mut copied = String::new();
        let mut is_channel = false;
        for line in text.lines() {
            if !line.starts_with([' ', '-', '#']) {
                is_channel = line.starts_with("channels:");
            }
            match line.trim_start().strip_prefix("- ").filter(|_| is_channel) {
                Some(channel) => {
                    let name = self.local_channel(channel)?;
                    writeln!(copied, "  - {name}")?;
                }
                None => writeln!(copied, "{line}")?,
            }
        }
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let directory = file.with_file_name(format!("copy-of-{name}"));
        fs::create_dir_all(&directory)?;
        let copy = directory.join("environment.yml");
        fs::write(&copy, copied)?;
        Ok(copy)
    }

    fn local_channel(&self, written: &str) -> Result<String> {
        let written = written
            .split(" #")
            .next()
            .unwrap_or(written)
            .trim()
            .trim_matches(['"', '\'']);
        if written == "nodefaults" {
            return Ok(written.to_owned());
        }
        let place = written.split("://").last().unwrap_or(written).trim_matches('/');
        let name = place.rsplit('/').next().unwrap_or(place);
        let same = SAME_CHANNEL.iter().find(|(other, _)| *other == name);
        let name = same.map_or(name, |(_, name)| *name);
        if !self.channels.join(name).is_dir() {
            self.make_channel(name)?;
        }
        Ok(name.to_owned())
    }

    /// What a person would be told, in one line.
    fn outcome(&self, output: &Output, python: Option<&str>, file: &Path) -> Result<(String, String)> {
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() {
            let count = count(&String::from_utf8_lossy(&output.stdout));
            let python = python.map_or_else(String::new, |python| format!(", with `--python {python}`"));
            return Ok((format!("locks: {count}{python}"), String::new()));
        }
        let Some(message) = words.strip_prefix("error: ") else {
            bail!("it ended with {} and said: {words}", output.status);
        };
        Ok(("refused".to_owned(), self.shortened(message, file)))
    }

    /// Without places of this machine, hosts, and more detail than a table bears.
    fn shortened(&self, message: &str, file: &Path) -> String {
        let beside = format!("{}/", file.parent().unwrap_or(file).display());
        let mut text = message.replace(&beside, "");
        for directory in [self.channels.as_path(), self.work.as_path()] {
            text = text
                .replace(&format!("file://{}", directory.display()), "")
                .replace(&directory.display().to_string(), "");
        }
        let words = text.split_whitespace().map(without_host).map(without_chance);
        let text = words.collect::<Vec<_>>().join(" ").replace('|', "\\|");
        if text.chars().count() <= MAX_REASON_CHARS {
            return text;
        }
        let cut: String = text.chars().take(MAX_REASON_CHARS).collect();
        let end = cut.rfind(' ').unwrap_or(cut.len());
        match text.rfind("help: ") {
            Some(help) if help > end => format!("{} … {}", &cut[..end], &text[help..]),
            _ => format!("{} …", &cut[..end]),
        }
    }
}

/// Every file below a directory, by name.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).with_context(|| format!("cannot list {}", directory.display()))? {
            let path = entry?.path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

fn is_about_wheels(output: &Output) -> bool {
    let words = String::from_utf8_lossy(&output.stderr);
    ["wheel", "requires-python", "does not satisfy Python"]
        .iter()
        .any(|word| words.contains(word))
}

/// How many packages of each world a lock holds, in any of the formats that the program prints.
fn count(printed: &str) -> String {
    let of = |marks: [&str; 3]| {
        let is_one = |line: &&str| marks.iter().any(|mark| line.trim_start().starts_with(mark));
        let in_packages = printed
            .split_once("\npackages:\n")
            .map_or(printed, |(_, packages)| packages);
        in_packages.lines().filter(is_one).count()
    };
    let conda = of(["\"kind\": \"conda\"", "- conda: ", "manager: conda"]);
    let pypi = of(["\"kind\": \"pypi\"", "- pypi: ", "manager: pip"]);
    match pypi {
        0 => format!("{conda} conda packages"),
        pypi => format!("{conda} conda packages, {pypi} wheels"),
    }
}

/// Which of many archives is missed first, and how long something took, is another each time.
fn without_chance(word: String) -> String {
    if let Some((directory, _)) = word
        .rsplit_once('/')
        .filter(|_| word.starts_with('/') && word.ends_with(".conda"))
    {
        return format!("{directory}/….conda");
    }
    let is_time = word
        .strip_suffix('s')
        .is_some_and(|seconds| seconds.parse::<f64>().is_ok());
    if is_time { "…s".to_owned() } else { word }
}

fn without_host(word: &str) -> String {
    let Some((before, rest)) = word.split_once("://") else {
        return word.to_owned();
    };
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or(path);
    format!("{before}://…/{last}")
}

fn table(rows: &[Row]) -> String {
    let mut counts: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    for row in rows {
        let (locked, all) = counts.entry(&row.kind).or_default();
        *locked += usize::from(row.outcome.starts_with("locks"));
        *all += 1;
    }
    let mut text = "# Real specifications and locks\n\n\
        Written by `cargo xtask specs`. Every file is of a public project. Conda packages come from an index that was put together\n\
        from public lock files and therefore has gaps, above all where a file pins what is old; channels that it has nothing of are\n\
        empty. Packages from PyPI are resolved against the registry, for linux-64. Locks of the conda world are read and written\n\
        anew in their own format. A file that is refused names files or sources that lie in its own repository, or asks for what is not\n\
        there.\n\n| kind | lock | of |\n| --- | --- | --- |\n"
        .to_owned();
    for (kind, (locked, all)) in counts {
        let _ = writeln!(text, "| {kind} | {locked} | {all} |");
    }
    text.push_str("\n| file | outcome | reason |\n| --- | --- | --- |\n");
    for row in rows {
        let _ = writeln!(
            text,
            "| {}: {} | {} | {} |",
            row.kind, row.file, row.outcome, row.reason
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_names_no_hosts() {
        assert_eq!(without_host("https://host/a/b.whl"), "https://…/b.whl");
        assert_eq!(without_host("file:///x/conda-forge/"), "file://…/conda-forge");
        assert_eq!(without_host("plain"), "plain");
    }

    #[test]
    fn both_formats_are_counted() {
        assert_eq!(count("- conda: x\n- conda: y\n"), "2 conda packages");
        assert_eq!(
            count("  \"kind\": \"conda\",\n \"kind\": \"pypi\",\n"),
            "1 conda packages, 1 wheels"
        );
    }
}
