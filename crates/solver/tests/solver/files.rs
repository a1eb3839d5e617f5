//! Every spec and lock file of well-known projects is read, or refused with a message that a person would call right.

use std::fs;
use std::path::{Path, PathBuf};

use envfs_solver::{Lock, LockError, LockFormat, Parts, PythonLock, RequirementError, Spec, SpecError};

use crate::support::shared;

/// The real files, unpacked.
fn real_files(dir: &Path) -> Option<Vec<PathBuf>> {
    let packed = fs::File::open(shared("specs.tar.zst")?).unwrap();
    tar::Archive::new(zstd::Decoder::new(packed).unwrap())
        .unpack(dir)
        .unwrap();
    let mut files = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files.sort();
    Some(files)
}

fn in_folder<'a>(files: &'a [PathBuf], folder: &'a str) -> impl Iterator<Item = &'a PathBuf> {
    files
        .iter()
        .filter(move |path| path.parent().unwrap().ends_with(folder))
}

#[test]
fn every_real_environment_yml_is_read_or_refused_for_a_line_that_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let Some(files) = real_files(dir.path()) else { return };
    let (mut read, mut refused) = (0, 0);
    for path in in_folder(&files, "environment") {
        let text = fs::read_to_string(path).unwrap();
        assert!(!Lock::is_lock(&text), "{}", path.display());
        match Spec::read(path, &Parts::default()) {
            Ok(spec) => {
                let match_specs = spec.match_specs("linux-64".parse().unwrap());
                assert!(!match_specs.is_empty(), "{}", path.display());
                let asks = text.contains("- pip:") && !text.trim_end().ends_with("- pip:");
                assert_eq!(!spec.requirements().is_empty(), asks, "{}", path.display());
                read += 1;
            }
            // These name requirements files that lie in their own repositories.
            Err(SpecError::Requirement(error @ RequirementError::Io { .. })) => {
                assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
                refused += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    eprintln!("environment.yml: {read} read, {refused} refused for a file that is not there");
    assert!(read >= 25 && refused <= 4, "{read} {refused}");
}

#[test]
fn every_real_lock_is_read_and_holds_what_it_should() {
    let dir = tempfile::tempdir().unwrap();
    let Some(files) = real_files(dir.path()) else { return };
    let locks = in_folder(&files, "pixi-lock").chain(in_folder(&files, "conda-lock"));
    let (mut files, mut environments, mut packages, mut refused) = (0, 0, 0, 0);
    for path in locks {
        let lock = Lock::read(path).unwrap_or_else(|error| panic!("{error}"));
        let is_pixi = path.parent().unwrap().ends_with("pixi-lock");
        assert_eq!(
            matches!(lock.format(), LockFormat::Pixi(_)),
            is_pixi,
            "{}: {}",
            path.display(),
            lock.format()
        );
        files += 1;
        for environment in lock.environments() {
            assert!(!lock.channels(environment).unwrap().is_empty(), "{}", path.display());
            for subdir in lock.subdirs(environment).unwrap() {
                environments += 1;
                match lock.packages(environment, subdir) {
                    Ok(found) => {
                        assert!(
                            found
                                .iter()
                                .all(|package| package.sha256().is_some() || package.md5().is_some())
                        );
                        let count = found.len();
                        assert_eq!(
                            envfs_solver::link_order(found).unwrap().len(),
                            count,
                            "{}",
                            path.display()
                        );
                        packages += count;
                    }
                    Err(error @ LockError::Sources { .. }) => {
                        assert!(error.to_string().contains(environment), "{error}");
                        refused += 1;
                    }
                    Err(error) => panic!("{}: {error}", path.display()),
                }
            }
        }
    }
    eprintln!("locks: {files} files, {environments} environments, {packages} packages, {refused} refused");
    assert!(files >= 12 && packages >= 1000, "{files} {packages}");
}

#[test]
fn a_real_lock_means_the_same_when_it_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let Some(files) = real_files(dir.path()) else { return };
    for path in in_folder(&files, "pixi-lock") {
        let lock = Lock::read(path).unwrap();
        let rendered = lock.render().unwrap();
        let again = Lock::parse(&rendered, path).unwrap();
        assert_eq!(again.render().unwrap(), rendered, "{}", path.display());
        for environment in lock.environments() {
            for subdir in lock.subdirs(environment).unwrap() {
                let Ok(before) = lock.packages(environment, subdir) else {
                    continue;
                };
                let mut before: Vec<_> = before
                    .iter()
                    .map(|package| (package.url().to_owned(), package.sha256()))
                    .collect();
                let after = again.packages(environment, subdir).unwrap();
                let mut after: Vec<_> = after
                    .iter()
                    .map(|package| (package.url().to_owned(), package.sha256()))
                    .collect();
                before.sort();
                after.sort();
                assert_eq!(before, after, "{}", path.display());
            }
        }
    }
}

#[test]
fn locks_of_the_python_world_are_read_as_what_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let Some(files) = real_files(dir.path()) else { return };
    for (folder, format) in [("poetry-lock", "poetry.lock"), ("uv-lock", "uv.lock")] {
        for path in in_folder(&files, folder) {
            let error = Lock::read(path).unwrap_err();
            assert!(matches!(error, LockError::UnknownFormat { .. }), "{error}");
            let lock = PythonLock::read(path).unwrap();
            assert_eq!(lock.format(), format, "{}", path.display());
            assert!(
                lock.python().starts_with("python >="),
                "{}: {}",
                path.display(),
                lock.python()
            );
        }
    }
}

#[test]
fn every_real_requirements_file_is_read_unless_it_lists_conda_packages() {
    let dir = tempfile::tempdir().unwrap();
    let Some(files) = real_files(dir.path()) else { return };
    for path in in_folder(&files, "requirements") {
        match Spec::read(path, &Parts::default()) {
            Ok(spec) => assert!(!spec.requirements().is_empty(), "{}", path.display()),
            Err(error) => {
                let error = error.to_string();
                assert!(
                    error.contains("list of conda packages") && error.contains("conda__conda"),
                    "{error}"
                );
            }
        }
    }
}
