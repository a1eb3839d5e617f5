//! `[tool.uv.sources]` of a pyproject.toml: requirements that are taken from elsewhere than an index.
//!
//! Source: uv's documentation of [dependency sources](https://docs.astral.sh/uv/concepts/projects/dependencies/). Every
//! requirement becomes the lines that a requirements file would have for it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Pep508;
use super::poetry::git_url;
use crate::pypi::normalized_name;
use crate::source::normal;

/// The lines for a requirement; none if it is taken from an index as it is.
///
/// # Errors
/// The source makes no sense, or a member of the workspace is not found; the text says which.
pub(super) fn lines(
    requirement: &Pep508,
    source: &toml::Value,
    directory: &Path,
) -> Result<Option<Vec<String>>, String> {
    let sources = match source {
        toml::Value::Array(sources) => sources.as_slice(),
        source => std::slice::from_ref(source),
    };
    let lines = sources.iter().map(|source| line(requirement, source, directory));
    lines.collect()
}

fn line(requirement: &Pep508, source: &toml::Value, directory: &Path) -> Result<Option<String>, String> {
    let name = requirement.name.to_string();
    let field = |key: &str| source.get(key).and_then(toml::Value::as_str);
    let subdirectory = field("subdirectory").map_or_else(String::new, |inside| format!("#subdirectory={inside}"));
    let (is_editable, place) = if let Some(git) = field("git") {
        let revision = ["rev", "tag", "branch"].into_iter().find_map(field);
        let revision = revision.map_or_else(String::new, |revision| format!("@{revision}"));
        let scheme = if git.starts_with("git+") { "" } else { "git+" };
        (false, format!("{scheme}{}{revision}{subdirectory}", git_url(git)))
    } else if let Some(url) = field("url") {
        (false, format!("{url}{subdirectory}"))
    } else if let Some(path) = field("path") {
        let is_editable = source.get("editable").and_then(toml::Value::as_bool);
        (is_editable.unwrap_or(false), directory.join(path).display().to_string())
    } else if source.get("workspace").and_then(toml::Value::as_bool) == Some(true) {
        let member = workspace_member(directory, &name)
            .ok_or_else(|| format!("the workspace has no member '{name}', which [tool.uv.sources] takes from it"))?;
        (true, member.display().to_string())
    } else {
        return Ok(None);
    };
    // The requirement without its version: a source has only one.
    let bare = Pep508 {
        version_or_url: None,
        ..requirement.clone()
    };
    let bare = bare.to_string();
    let (named, marker) = bare
        .split_once(" ;")
        .map_or((bare.as_str(), ""), |(named, marker)| (named, marker.trim()));
    let markers = [marker, field("marker").unwrap_or_default()];
    let markers: Vec<_> = markers
        .iter()
        .filter(|marker| !marker.is_empty())
        .map(|marker| format!("({marker})"))
        .collect();
    let marker = match markers.is_empty() {
        true => String::new(),
        false => format!(" ; {}", markers.join(" and ")),
    };
    Ok(Some(if is_editable {
        format!(
            "-e {place}{}{marker}",
            named.trim().strip_prefix(&name).unwrap_or_default()
        )
    } else {
        format!("{} @ {place}{marker}", named.trim())
    }))
}

/// The directories that a project in `directory` takes requirements from.
pub(super) fn directories(directory: &Path) -> Vec<PathBuf> {
    let Some(document) = Document::read(directory) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (name, source) in &document.tool.uv.sources {
        let sources = match source {
            toml::Value::Array(sources) => sources.as_slice(),
            source => std::slice::from_ref(source),
        };
        for source in sources {
            if let Some(path) = source.get("path").and_then(toml::Value::as_str) {
                found.push(normal(&directory.join(path)));
            } else if source.get("workspace").and_then(toml::Value::as_bool) == Some(true) {
                found.extend(workspace_member(directory, name));
            }
        }
    }
    found
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Document {
    project: Named,
    tool: Tool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Named {
    name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Tool {
    uv: Uv,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Uv {
    workspace: Option<Workspace>,
    sources: BTreeMap<String, toml::Value>,
}

impl Document {
    fn read(directory: &Path) -> Option<Self> {
        let text = fs::read_to_string(directory.join("pyproject.toml")).ok()?;
        toml::from_str(&text).ok()
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Workspace {
    members: Vec<String>,
}

/// The directory of a member of the workspace that `directory` is in.
fn workspace_member(directory: &Path, name: &str) -> Option<PathBuf> {
    let is_named = |directory: &Path| {
        let found = Document::read(directory).and_then(|document| document.project.name);
        found.is_some_and(|found| normalized_name(&found) == normalized_name(name))
    };
    let root = directory
        .ancestors()
        .find(|ancestor| Document::read(ancestor).is_some_and(|document| document.tool.uv.workspace.is_some()))?;
    let members = Document::read(root)?.tool.uv.workspace?.members;
    let mut candidates: Vec<PathBuf> = members.iter().flat_map(|pattern| expand(root, pattern)).collect();
    candidates.push(root.to_owned());
    candidates.into_iter().find(|candidate| is_named(candidate))
}

/// The directories that a pattern names, in which `*` stands for any part of one name.
fn expand(root: &Path, pattern: &str) -> Vec<PathBuf> {
    let mut found = vec![root.to_owned()];
    for part in pattern.split('/').filter(|part| !part.is_empty() && *part != ".") {
        let Some((before, after)) = part.split_once('*') else {
            found.iter_mut().for_each(|path| path.push(part));
            continue;
        };
        let after = after.trim_start_matches('*');
        found = found
            .iter()
            .flat_map(|path| fs::read_dir(path).into_iter().flatten().flatten())
            .filter(|entry| {
                let name = entry.file_name();
                let name = name.to_string_lossy();
                name.starts_with(before) && name.ends_with(after)
            })
            .map(|entry| entry.path())
            .collect();
        found.sort();
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(requirement: &str, source: &str, directory: &Path) -> Result<Option<Vec<String>>, String> {
        let table: toml::Table = toml::from_str(&format!("source = {source}")).unwrap();
        lines(&requirement.parse().unwrap(), &table["source"], directory)
    }

    #[test]
    fn a_source_takes_the_place_of_the_version() {
        let case = |requirement, source| of(requirement, source, Path::new("/p")).unwrap().unwrap().join("\n");
        assert_eq!(
            case("x[a]>=2", r#"{ git = "https://h/x", tag = "v1", subdirectory = "in" }"#),
            "x[a] @ git+https://h/x@v1#subdirectory=in"
        );
        assert_eq!(case("x[a]", r#"{ path = "../x", editable = true }"#), "-e /p/../x[a]");
        assert_eq!(
            case("x", r#"{ path = "x-1-py3-none-any.whl" }"#),
            "x @ /p/x-1-py3-none-any.whl"
        );
        let two =
            r#"[{ url = "https://h/a.zip", marker = "os_name == 'nt'" }, { path = "y", marker = "os_name != 'nt'" }]"#;
        let expected = "x @ https://h/a.zip ; (os_name == 'nt')\nx @ /p/y ; (os_name != 'nt')";
        assert_eq!(case("x", two), expected);
        assert_eq!(of("x", r#"{ index = "private" }"#, Path::new("/p")), Ok(None));
    }

    #[test]
    fn projects_beside_a_project_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let text = "[tool.uv.sources]\na = { path = '../a' }\nb = [{ path = 'b/', marker = \"os_name == 'nt'\" }]\n\
                    c = { git = 'https://h/c' }\n";
        fs::write(directory.path().join("pyproject.toml"), text).unwrap();
        let beside = directory.path().parent().unwrap().join("a");
        assert_eq!(directories(directory.path()), [beside, directory.path().join("b")]);
        assert!(directories(&directory.path().join("b")).is_empty());
    }

    #[test]
    fn members_of_a_workspace_are_found_by_their_names() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name).join("pyproject.toml");
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("", "[tool.uv.workspace]\nmembers = ['packages/*', 'app']\n");
        write("packages/first", "[project]\nname = 'one'\n");
        write("packages/second", "[project]\nname = 'Two_b'\n");
        write("app", "[project]\nname = 'app'\n");
        let app = directory.path().join("app");
        let found = of("two-b", "{ workspace = true }", &app).unwrap().unwrap();
        assert_eq!(
            found,
            [format!("-e {}", directory.path().join("packages/second").display())]
        );
        let error = of("three", "{ workspace = true }", &app).unwrap_err();
        assert!(error.contains("no member 'three'"), "{error}");
    }
}
