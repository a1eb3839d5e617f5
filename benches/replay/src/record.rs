//! From a log of `strace -y` to a trace. It makes no calls and replays nothing.
//!
//! Kept are calls that read, below the prefix, with success or without; with `-y` strace says the path of every
//! descriptor, so what other files the program read is told apart. Calls that would write are left out.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::trace::MAP_STRIDE_BYTES;

/// The trace of a log, with paths relative to the prefix.
pub(crate) fn trace(log: &str, prefix: &str) -> String {
    let mut recorder = Recorder {
        prefix: prefix.trim_end_matches('/'),
        open: BTreeSet::new(),
        out: String::new(),
    };
    for line in log.lines() {
        // With -f, the number of the thread comes first.
        let call = line.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
        if let Some((name, rest)) = call.split_once('(')
            && let Some((arguments, result)) = rest.rsplit_once(" = ")
        {
            recorder.add(name, arguments.trim_end(), result);
        }
    }
    recorder.out
}

struct Recorder<'a> {
    prefix: &'a str,
    /// Descriptors of files below the prefix.
    open: BTreeSet<u32>,
    out: String,
}

impl Recorder<'_> {
    fn add(&mut self, name: &str, arguments: &str, result: &str) {
        match name {
            "openat" | "open" => self.add_open(arguments, result),
            "newfstatat" | "stat" | "lstat" | "statx" => self.add_stat(name, arguments),
            "access" | "faccessat" | "faccessat2" => self.add_path("stat", arguments),
            "readlink" | "readlinkat" => self.add_path("readlink", arguments),
            "execve" => self.add_path("stat", arguments),
            "mmap" => self.add_map(arguments),
            "fstat" | "close" | "getdents64" | "read" | "pread64" | "lseek" | "ioctl" => {
                self.add_on_descriptor(name, arguments);
            }
            _ => {}
        }
    }

    fn add_open(&mut self, arguments: &str, result: &str) {
        let writes = ["O_WRONLY", "O_RDWR", "O_CREAT"]
            .iter()
            .any(|flag| arguments.contains(flag));
        let Some(path) = self.path(arguments).filter(|_| !writes) else {
            return;
        };
        let call = if arguments.contains("O_DIRECTORY") {
            "list"
        } else {
            "open"
        };
        let slot = leading_number(result);
        let _ = match slot {
            Some(slot) => {
                self.open.insert(slot);
                writeln!(self.out, "{call} {slot} {path}")
            }
            None => writeln!(self.out, "{call} - {path}"),
        };
    }

    fn add_stat(&mut self, name: &str, arguments: &str) {
        if arguments.contains("AT_EMPTY_PATH") || name == "fstat" {
            self.add_on_descriptor("fstat", arguments);
        } else if name == "lstat" || arguments.contains("AT_SYMLINK_NOFOLLOW") {
            self.add_path("lstat", arguments);
        } else {
            self.add_path("stat", arguments);
        }
    }

    fn add_path(&mut self, call: &str, arguments: &str) {
        if let Some(path) = self.path(arguments) {
            let _ = writeln!(self.out, "{call} {path}");
        }
    }

    fn add_map(&mut self, arguments: &str) {
        let words: Vec<&str> = arguments.trim_end_matches(')').split(", ").collect();
        if let [_, bytes, _, _, descriptor, offset] = words[..]
            && let Some(slot) = leading_number(descriptor).filter(|slot| self.open.contains(slot))
            && let Some(offset) = number(offset)
        {
            let _ = writeln!(self.out, "map {slot} {bytes} {offset} {MAP_STRIDE_BYTES}");
        }
    }

    fn add_on_descriptor(&mut self, name: &str, arguments: &str) {
        let Some(slot) = leading_number(arguments).filter(|slot| self.open.contains(slot)) else {
            return;
        };
        let words: Vec<&str> = arguments.trim_end_matches(')').rsplit(", ").collect();
        let _ = match (name, words.as_slice()) {
            ("fstat", _) => writeln!(self.out, "fstat {slot}"),
            ("ioctl", _) if arguments.contains("TCGETS") => writeln!(self.out, "tty {slot}"),
            ("getdents64", _) => writeln!(self.out, "getdents {slot}"),
            ("read", [bytes, ..]) => writeln!(self.out, "read {slot} {bytes}"),
            ("pread64", [offset, bytes, ..]) => writeln!(self.out, "pread {slot} {bytes} {offset}"),
            ("lseek", [whence, offset, ..]) => match *whence {
                "SEEK_SET" => writeln!(self.out, "seek {slot} {offset} set"),
                "SEEK_CUR" => writeln!(self.out, "seek {slot} {offset} cur"),
                "SEEK_END" => writeln!(self.out, "seek {slot} {offset} end"),
                _ => Ok(()),
            },
            ("close", _) => {
                self.open.remove(&slot);
                writeln!(self.out, "close {slot}")
            }
            _ => Ok(()),
        };
    }

    /// The first quoted argument, relative to the prefix; none if it lies elsewhere.
    fn path<'b>(&self, arguments: &'b str) -> Option<&'b str> {
        let quoted = arguments.split('"').nth(1)?;
        let below = quoted.strip_prefix(self.prefix)?;
        if below.is_empty() {
            return Some(".");
        }
        Some(below.strip_prefix('/')?.trim_start_matches('/')).map(|path| if path.is_empty() { "." } else { path })
    }
}

fn leading_number(text: &str) -> Option<u32> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok()
}

/// A number as strace prints it, decimal or hexadecimal.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = r#"execve("/p/bin/python", ["/p/bin/python"], 0x7f /* 3 vars */) = 0
openat(AT_FDCWD</x>, "/p/lib/a.so", O_RDONLY|O_CLOEXEC) = 3</p/lib/a.so>
read(3</p/lib/a.so>, "\177ELF, = \"..., 832) = 832
newfstatat(3</p/lib/a.so>, "", {st_mode=S_IFREG|0644, ...}, AT_EMPTY_PATH) = 0
mmap(NULL, 913680, PROT_READ, MAP_PRIVATE|MAP_DENYWRITE, 3</p/lib/a.so>, 0x1000) = 0x7f39a8e70000
lseek(3</p/lib/a.so>, 0, SEEK_CUR)       = 0
ioctl(3</p/lib/a.so>, TCGETS, 0x7ffc)   = -1 ENOTTY (Inappropriate ioctl for device)
close(3</p/lib/a.so>)        = 0
openat(AT_FDCWD</x>, "/etc/ld.so.cache", O_RDONLY|O_CLOEXEC) = 3</etc/ld.so.cache>
read(3</etc/ld.so.cache>, "", 832) = 0
newfstatat(AT_FDCWD</x>, "/p/lib/no", 0x7ffc, 0) = -1 ENOENT (No such file or directory)
mkdir("/p/lib/__pycache__", 0777) = -1 EROFS (Read-only file system)
openat(AT_FDCWD</x>, "/p/lib/", O_RDONLY|O_NONBLOCK|O_CLOEXEC|O_DIRECTORY) = 4</p/lib>
getdents64(4</p/lib>, 0x55 /* 31 entries */, 32768) = 1048
openat(AT_FDCWD</x>, "/pother", O_RDONLY) = 5</pother>
"#;

    #[test]
    fn calls_below_the_prefix_are_kept_and_no_others() {
        let expected = "stat bin/python\nopen 3 lib/a.so\nread 3 832\nfstat 3\nmap 3 913680 4096 65536\nseek 3 0 cur\ntty 3\n\
                        close 3\nstat lib/no\nlist 4 lib/\ngetdents 4\n";
        assert_eq!(trace(LOG, "/p"), expected);
    }
}
