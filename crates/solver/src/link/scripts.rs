//! Commands of wheels, in a form that finds its Python beside itself: the same bytes at every prefix.
//!
//! A shell starts the file, and starts the interpreter that lies in the same directory; to Python the same two lines are a
//! string. It is the form that uv writes for relocatable environments, so that digests in `RECORD` hold wherever an
//! environment is seen.

use crate::wheel::entry_points::Script;

/// How the first line of a script that wants the environment's Python begins (PEP 427). What follows without a space, as in
/// `#!pythonw`, does not matter.
const WANTS_PYTHON: &[u8] = b"#!python";

/// The script that calls the function of an entry point. `interpreter` is a file name, such as `python3.12`.
pub(super) fn of_entry_point(script: &Script, interpreter: &str) -> Vec<u8> {
    let Script { module, function, .. } = script;
    // The name that is imported; what is called may be an attribute of it.
    let imported = function.split('.').next().unwrap_or(function);
    format!(
        r#"{}# -*- coding: utf-8 -*-
import sys
from {module} import {imported}
if __name__ == "__main__":
    if sys.argv[0].endswith("-script.pyw"):
        sys.argv[0] = sys.argv[0][:-11]
    elif sys.argv[0].endswith(".exe"):
        sys.argv[0] = sys.argv[0][:-4]
    sys.exit({function}())
"#,
        start(interpreter, "")
    )
    .into_bytes()
}

/// A script of a wheel as it is in an environment; nothing if it is not one that wants the environment's Python.
pub(super) fn rewritten(content: &[u8], interpreter: &str) -> Option<Vec<u8>> {
    let rest = content.strip_prefix(WANTS_PYTHON)?;
    let end = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
    let line = String::from_utf8_lossy(&rest[..end]);
    let arguments = line
        .split_once(char::is_whitespace)
        .map_or("", |(_, arguments)| arguments);
    let body = rest.get(end + 1..).unwrap_or_default();
    Some([start(interpreter, arguments.trim()).as_bytes(), body].concat())
}

/// The first lines. The kernel hands everything behind the interpreter over as one argument, and so does this.
fn start(interpreter: &str, argument: &str) -> String {
    let argument = match argument {
        "" => String::new(),
        argument => format!("{} ", quoted(argument)),
    };
    let interpreter = quoted(interpreter);
    format!(
        "#!/bin/sh\n'''exec' \"$(dirname -- \"$(realpath -- \"$0\")\")\"/{interpreter} {argument}\"$0\" \"$@\"\n' '''\n"
    )
}

/// For a shell, and without three quotes in a row, which would end Python's string.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\"'\"'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_wants_the_environments_python_is_rewritten() {
        let rewritten =
            |text: &str| rewritten(text.as_bytes(), "python3.12").map(|bytes| String::from_utf8(bytes).unwrap());
        let plain = "#!/bin/sh\n'''exec' \"$(dirname -- \"$(realpath -- \"$0\")\")\"/'python3.12' \"$0\" \"$@\"\n' '''\nimport x\n";
        for text in [
            "#!python\nimport x\n",
            "#!pythonw\nimport x\n",
            "#!python \r\nimport x\n",
            "#!python3\nimport x\n",
        ] {
            assert_eq!(rewritten(text).as_deref(), Some(plain), "{text:?}");
        }
        assert!(
            rewritten("#!python -u\nx")
                .unwrap()
                .contains("'python3.12' '-u' \"$0\"")
        );
        assert!(rewritten("#!python").unwrap().ends_with("' '''\n"));
        for text in ["#!/usr/bin/env python\n", "\u{7f}ELF", ""] {
            assert_eq!(rewritten(text), None, "{text:?}");
        }
    }

    #[test]
    fn scripts_run_the_python_beside_them_wherever_they_lie() {
        let script = Script {
            name: "a b".into(),
            module: "x.y".into(),
            function: "C.run".into(),
        };
        let text = of_entry_point(&script, "python3.12");
        let directory = tempfile::Builder::new().prefix("it's ").tempdir().unwrap();
        let put = |name: &str, content: &[u8]| {
            use std::os::unix::fs::PermissionsExt;
            let path = directory.path().join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        put("python3.12", b"#!/bin/sh\nprintf '%s|' \"$@\"\n");
        let path = put("a b", &text);
        let run = || std::process::Command::new(&path).args(["1", "2 3"]).output();
        // A file that was written a moment ago is busy while another test starts a process.
        let output = (0..50)
            .find_map(|_| match run() {
                Ok(output) if output.status.success() => Some(output),
                _ => {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                    None
                }
            })
            .unwrap_or_else(|| run().unwrap());
        let expected = format!("{}|1|2 3|", path.display());
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{output:?}");
    }
}
