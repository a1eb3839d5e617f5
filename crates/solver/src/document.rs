//! Files that a person has named to be written: locks, exports, reports.
//!
//! What is there is replaced as a whole, or stays. A link stays a link, and what is no file (a pipe, a terminal, `/dev/null`) is written
//! to and never replaced. This room does not know what it writes.

use std::fs::{self, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Of a new file, before the umask.
const NEW_MODE: u32 = 0o666;

/// Writes a file that is, at any time, the old one or the new one. It keeps its permission bits, and a link leads to the new one.
///
/// # Errors
/// When it cannot be written; what was there is there.
pub fn write_document(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let (path, permissions) = match fs::metadata(path) {
        Ok(there) if there.is_file() => (path.canonicalize()?, Some(there.permissions())),
        // A link that leads to nothing is made to lead to something.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => (path.to_owned(), None),
        _ => {
            let mut file = File::options().write(true).create(true).truncate(false).open(path)?;
            return file.write_all(bytes);
        }
    };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut draft = tempfile::Builder::new()
        .prefix(".envfs-draft-")
        .permissions(Permissions::from_mode(NEW_MODE))
        .tempfile_in(directory)?;
    draft.write_all(bytes)?;
    if let Some(permissions) = permissions {
        draft.as_file().set_permissions(permissions)?;
    }
    draft.as_file().sync_all()?;
    draft.persist(&path).map_err(|error| error.error)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileTypeExt as _, symlink};

    use super::*;

    #[test]
    fn what_is_there_is_replaced_where_it_lies() {
        let directory = tempfile::tempdir().unwrap();
        let [link, file, fresh] = ["link", "file", "fresh"].map(|name| directory.path().join(name));
        symlink("file", &link).unwrap();
        write_document(&link, b"first, through a link to nothing").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        write_document(&link, b"second").unwrap();
        assert!(link.is_symlink());
        assert_eq!(fs::read(&file).unwrap(), b"second");
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        write_document(&fresh, b"third").unwrap();
        let modes = [&fresh, &directory.path().join("as-always")].map(|path| {
            File::options().append(true).create(true).open(path).unwrap();
            path.metadata().unwrap().permissions().mode()
        });
        assert_eq!(modes[0], modes[1]);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 4, "no draft is left");
    }

    #[test]
    fn what_is_no_file_is_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        write_document(&pipe, b"lock").unwrap();
        assert_eq!(reader.join().unwrap(), b"lock");
        assert!(pipe.metadata().unwrap().file_type().is_fifo());
        assert!(write_document(directory.path(), b"lock").is_err());
    }
}
