//! `entry_points.txt`: which commands a distribution brings, as the packaging specifications describe the file.

use std::collections::BTreeMap;

use super::places::is_reserved_script;

/// A command and the function that it calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Script {
    /// The name of the command: one component of a path, and not an interpreter's.
    pub(crate) name: String,
    /// The module, dotted.
    pub(crate) module: String,
    /// The function in it, dotted.
    pub(crate) function: String,
}

/// The commands of both kinds (`console_scripts` and `gui_scripts`, which differ on other platforms only), by name. Those
/// that want an extra are commands too, as every installer has it.
///
/// # Errors
/// Says what is wrong with which line.
pub(crate) fn scripts(text: &str) -> Result<Vec<Script>, String> {
    let mut scripts = BTreeMap::new();
    let mut is_wanted = false;
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(section) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            is_wanted = matches!(section.trim(), "console_scripts" | "gui_scripts");
        } else if is_wanted {
            let script = script(line).map_err(|what| format!("line {} of its entry_points.txt: {what}", index + 1))?;
            scripts.insert(script.name.clone(), script);
        }
    }
    Ok(scripts.into_values().collect())
}

fn script(line: &str) -> Result<Script, String> {
    let (name, target) = line
        .split_once('=')
        .ok_or_else(|| format!("`{line}` names no function"))?;
    let (name, target) = (name.trim(), target.split('[').next().unwrap_or_default().trim());
    if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']) || name.contains(char::is_control) {
        return Err(format!("`{name}` cannot be the name of a command"));
    }
    if is_reserved_script(name) {
        return Err(format!(
            "the command `{name}` would take the place of the Python interpreter"
        ));
    }
    let is_dotted = |text: &str| {
        !text.is_empty()
            && text
                .split('.')
                .all(|part| !part.is_empty() && part.chars().all(is_word))
    };
    match target
        .split_once(':')
        .map(|(module, function)| (module.trim(), function.trim()))
    {
        Some((module, function)) if is_dotted(module) && is_dotted(function) => Ok(Script {
            name: name.to_owned(),
            module: module.to_owned(),
            function: function.to_owned(),
        }),
        _ => Err(format!("`{target}` is not a function as module:function")),
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_both_kinds_are_found() {
        let text = "# c\n[console_scripts]\nb = x.y : main [extra]\na=x:C.run\n\n[other]\nz = not a script\n[ gui_scripts ]\nw = x:gui\n";
        let found: Vec<_> = scripts(text)
            .unwrap()
            .into_iter()
            .map(|script| format!("{}={}:{}", script.name, script.module, script.function))
            .collect();
        assert_eq!(found, ["a=x:C.run", "b=x.y:main", "w=x:gui"]);
    }

    #[test]
    fn commands_that_could_do_harm_are_refused() {
        for (line, expected) in [
            ("../../evil = x:main", "cannot be the name of a command"),
            ("a/b = x:main", "cannot be the name"),
            ("python3.12 = x:main", "the Python interpreter"),
            ("a = x", "is not a function"),
            ("a = x:main; import os", "is not a function"),
            ("a = x..y:main", "is not a function"),
            ("a", "names no function"),
        ] {
            let message = scripts(&format!("[console_scripts]\n{line}\n")).unwrap_err();
            assert!(message.contains(expected) && message.contains("line 2"), "{message}");
        }
    }
}
