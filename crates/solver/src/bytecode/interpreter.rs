//! A Python that compiles: started once, asked for one module after the other.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use envfs_store::path::EnvPath;

use super::runtime::Runtime;

/// What the interpreter runs.
const DRIVER: &str = include_str!("driver.py");

/// A compiler may die of a module, deep nesting being the usual way. So many may do so before the Python is held to be broken.
const MAX_DEATHS: u32 = 16;

/// No bytecode is larger: it comes from at most 16 MiB of source.
const MAX_ANSWER_BYTES: u32 = 512 * 1024 * 1024;

/// A program that was written a moment ago is busy while another thread starts a process, which has all open files for an instant.
const BUSY_TRIES: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// A running interpreter.
pub(super) struct Interpreter<'a> {
    runtime: &'a Runtime,
    process: Process,
    cache_tag: String,
    deaths: u32,
}

struct Process {
    child: Child,
    requests: ChildStdin,
    answers: ChildStdout,
    /// A file, because nobody empties a pipe while it compiles.
    errors: File,
}

impl<'a> Interpreter<'a> {
    /// Starts one. The error says why it does not run.
    pub(super) fn start(runtime: &'a Runtime) -> Result<Self, String> {
        let (process, cache_tag) = Process::start(runtime)?;
        Ok(Self {
            runtime,
            process,
            cache_tag,
            deaths: 0,
        })
    }

    /// What its bytecode is marked with (PEP 3147), such as `cpython-312`.
    pub(super) fn cache_tag(&self) -> &str {
        &self.cache_tag
    }

    /// The bytecode of a module; nothing where it does not compile.
    pub(super) fn compile(&mut self, path: &EnvPath, mtime_s: i64, source: &[u8]) -> Result<Option<Vec<u8>>, String> {
        match self.process.ask(path.as_bytes(), mtime_s, source) {
            Ok(bytecode) => Ok(Some(bytecode).filter(|bytecode| !bytecode.is_empty())),
            Err(error) => {
                self.deaths += 1;
                if self.deaths > MAX_DEATHS {
                    return Err(format!("it stops again and again, the last time at `{path}`: {error}"));
                }
                (self.process, _) = Process::start(self.runtime)?;
                Ok(None)
            }
        }
    }
}

impl Process {
    fn start(runtime: &Runtime) -> Result<(Self, String), String> {
        let errors = tempfile::tempfile_in(runtime.directory()).map_err(|error| error.to_string())?;
        let mut child = Self::spawn(runtime, &errors).map_err(|error| error.to_string())?;
        let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("it has no pipes".to_owned());
        };
        let mut process = Self {
            child,
            requests,
            answers,
            errors,
        };
        match process.answer().map(String::from_utf8) {
            Ok(Ok(cache_tag)) if !cache_tag.is_empty() && !cache_tag.contains('/') => Ok((process, cache_tag)),
            _ => Err(process.last_words()),
        }
    }

    fn spawn(runtime: &Runtime, errors: &File) -> io::Result<Child> {
        let mut command = Command::new(runtime.program());
        command
            // Isolated, without site-packages, writing nothing, silent about the modules.
            .args(["-I", "-S", "-B", "-W", "ignore", "-c", DRIVER])
            .env_clear()
            .current_dir(runtime.directory())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors.try_clone()?);
        for _ in 0..BUSY_TRIES {
            match command.spawn() {
                Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => std::thread::sleep(BUSY_PAUSE),
                spawned => return spawned,
            }
        }
        command.spawn()
    }

    fn ask(&mut self, path: &[u8], mtime_s: i64, source: &[u8]) -> io::Result<Vec<u8>> {
        let too_large = |_| io::Error::from(io::ErrorKind::FileTooLarge);
        let mut request = Vec::with_capacity(12 + path.len() + source.len());
        request.extend(u32::try_from(path.len()).map_err(too_large)?.to_le_bytes());
        // As Python does: the lower 32 bits.
        request.extend(&mtime_s.to_le_bytes()[..4]);
        request.extend(u32::try_from(source.len()).map_err(too_large)?.to_le_bytes());
        request.extend(path);
        request.extend(source);
        self.requests.write_all(&request)?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<Vec<u8>> {
        let mut size_bytes = [0; 4];
        self.answers.read_exact(&mut size_bytes)?;
        let size_bytes = u32::from_le_bytes(size_bytes);
        if size_bytes > MAX_ANSWER_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut answer = vec![0; size_bytes as usize];
        self.answers.read_exact(&mut answer)?;
        Ok(answer)
    }

    /// What it wrote to its standard error, or how it ended.
    fn last_words(&mut self) -> String {
        // One that has ended already cannot be killed, which is no error here.
        let _ = self.child.kill();
        let mut words = String::new();
        let ending = self
            .child
            .wait()
            .map_or_else(|error| error.to_string(), |status| status.to_string());
        let read = self
            .errors
            .rewind()
            .and_then(|()| self.errors.read_to_string(&mut words));
        match words.trim().lines().last() {
            Some(line) if read.is_ok() => format!("{ending}: {line}"),
            _ => ending,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It ends by itself when nothing can be asked any more; this is for one that hangs. Nobody is there to be told.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn runtime(script: &str) -> Runtime {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("python");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Runtime::with_program(directory, program)
    }

    #[test]
    fn a_compiler_that_dies_of_a_module_is_started_again_and_not_for_ever() {
        let runtime = runtime("printf '\\005\\000\\000\\000cpy-1'; PATH=/usr/bin:/bin; head -c 12 > /dev/null; exit 3");
        let mut interpreter = Interpreter::start(&runtime).unwrap();
        assert_eq!(interpreter.cache_tag(), "cpy-1");
        let path = EnvPath::parse("a.py").unwrap();
        for _ in 0..MAX_DEATHS {
            assert_eq!(interpreter.compile(&path, 0, b"x"), Ok(None));
        }
        let message = interpreter.compile(&path, 0, b"x").unwrap_err();
        assert!(
            message.contains("again and again") && message.contains("`a.py`"),
            "{message}"
        );
    }

    #[test]
    fn one_that_does_not_start_is_heard() {
        let message = Interpreter::start(&runtime("echo no encodings >&2; exit 1"))
            .err()
            .unwrap();
        assert!(message.contains("no encodings"), "{message}");
        let message = Interpreter::start(&runtime("printf '\\377\\377\\377\\377'"))
            .err()
            .unwrap();
        assert!(!message.is_empty());
    }
}
