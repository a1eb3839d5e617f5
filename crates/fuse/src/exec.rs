//! Becoming a program: how it is found, and what it is given. Knows nothing of environments.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::errno::Errno;

/// What is to be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Command {
    /// A path, or a name that is searched for in `PATH` of `environment`.
    pub program: OsString,
    /// What follows the program's name.
    pub arguments: Vec<OsString>,
    /// All environment variables.
    pub environment: Vec<(OsString, OsString)>,
    /// Where it starts, if not where this process is.
    pub directory: Option<PathBuf>,
}

/// Becomes `command`, found as execvp(3) would: the first program on `PATH` that can be executed, and a file
/// without a format is a script for the shell. Returns why it cannot.
pub(crate) fn exec(command: &Command) -> Errno {
    if let Some(directory) = &command.directory
        && let Err(errno) = nix::unistd::chdir(directory)
    {
        return errno;
    }
    let program = command.program.as_bytes();
    let mut reason = Errno::ENOENT;
    for path in candidates(program, &command.environment) {
        match exec_path(&path, command) {
            Errno::ENOENT | Errno::ENOTDIR => {}
            // There may be another one further on.
            Errno::EACCES => reason = Errno::EACCES,
            errno => return errno,
        }
    }
    reason
}

fn candidates(program: &[u8], environment: &[(OsString, OsString)]) -> Vec<Vec<u8>> {
    if program.contains(&b'/') {
        return vec![program.to_owned()];
    }
    if program.is_empty() {
        return Vec::new();
    }
    let path = environment
        .iter()
        .find(|(name, _)| name == "PATH")
        .map_or(OsStr::new("/bin:/usr/bin"), |(_, path)| path);
    path.as_bytes()
        .split(|&byte| byte == b':')
        .map(|directory| match directory {
            // An empty entry is the working directory (environ(7)).
            b"" => program.to_owned(),
            directory => [directory, b"/", program].concat(),
        })
        .collect()
}

fn exec_path(path: &[u8], command: &Command) -> Errno {
    let variables = command
        .environment
        .iter()
        .map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
    let arguments = std::iter::once(command.program.as_bytes())
        .chain(command.arguments.iter().map(|argument| argument.as_bytes()))
        .map(ToOwned::to_owned);
    let (Ok(path), Ok(arguments), Ok(variables)) = (CString::new(path), c_strings(arguments), c_strings(variables))
    else {
        return Errno::EINVAL;
    };
    let Err(errno) = nix::unistd::execve(&path, &arguments, &variables);
    if errno != Errno::ENOEXEC {
        return errno;
    }
    let script: Vec<_> = [c"sh".to_owned(), path]
        .into_iter()
        .chain(arguments.into_iter().skip(1))
        .collect();
    let Err(errno) = nix::unistd::execve(c"/bin/sh", &script, &variables);
    errno
}

fn c_strings(texts: impl Iterator<Item = Vec<u8>>) -> Result<Vec<CString>, std::ffi::NulError> {
    texts.map(CString::new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_searched_on_the_path_of_the_command() {
        let environment = [("PATH".into(), "/envs/x/bin::/bin".into())];
        let paths = candidates(b"python", &environment);
        assert_eq!(
            paths,
            [
                b"/envs/x/bin/python".to_vec(),
                b"python".to_vec(),
                b"/bin/python".to_vec()
            ]
        );
        assert_eq!(candidates(b"./python", &environment), [b"./python".to_vec()]);
        assert_eq!(candidates(b"", &environment), Vec::<Vec<u8>>::new());
        assert_eq!(candidates(b"sh", &[]).len(), 2);
    }
}
