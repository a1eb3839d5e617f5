//! The scripts that `info/link.json` of a noarch Python package asks for.

use envfs_store::path::{EnvPath, InvalidPath};
use envfs_store::placeholder::{Occurrences, Placeholder};
use rattler::install::{PythonInfo, python_entry_point_template};
use rattler_conda_types::package::EntryPoint;

/// Stands for the prefix in the script's first line, which is the only place where it occurs. Short and without spaces, so
/// that the template takes the plain form; the rules for other prefixes are applied when the script is read.
const PREFIX: &str = "/envfs/prefix";

/// Where the script of an entry point goes, and what is in it.
pub(super) fn script(
    entry_point: &EntryPoint,
    python: &PythonInfo,
) -> Result<(EnvPath, Vec<u8>, Placeholder), InvalidPath> {
    let path = EnvPath::parse(format!("{}/{}", python.bin_dir.display(), entry_point.command))?;
    let content = python_entry_point_template(PREFIX, false, entry_point, python).into_bytes();
    let shebang_bytes = content
        .iter()
        .position(|&byte| byte == b'\n')
        .map_or(content.len(), |newline| newline + 1);
    let placeholder = Placeholder {
        prefix: PREFIX.to_owned(),
        occurrences: Occurrences::Text {
            shebang: content[..shebang_bytes].to_owned(),
            occurrences: Vec::new(),
        },
    };
    Ok((path, content, placeholder))
}

#[cfg(test)]
mod tests {
    use super::*;
    use envfs_store::patch::Plan;
    use rattler_conda_types::{Subdir, Version};

    #[test]
    fn scripts_are_those_of_the_installer_at_every_prefix() {
        let version: Version = "3.12.8".parse().unwrap();
        let python = PythonInfo::from_version(&version, None, Subdir::Linux64).unwrap();
        let entry_point: EntryPoint = "tqdm = tqdm.cli:main".parse().unwrap();
        let (path, stored, placeholder) = script(&entry_point, &python).unwrap();
        assert_eq!(path.to_string(), "bin/tqdm");
        let long = format!("/{}", "x".repeat(200));
        let borderline: Vec<String> = (100..130).map(|len| format!("/{}", "x".repeat(len))).collect();
        for prefix in ["/envs/x", "/home/a b/env", &long]
            .into_iter()
            .chain(borderline.iter().map(String::as_str))
        {
            let plan = Plan::new(&placeholder, stored.len() as u64, prefix).unwrap();
            let mut seen = vec![0; usize::try_from(plan.size_bytes()).unwrap()];
            plan.read(0, &mut seen, |offset, into| {
                let start = usize::try_from(offset).unwrap();
                into.copy_from_slice(&stored[start..start + into.len()]);
                Ok::<_, std::convert::Infallible>(())
            })
            .unwrap();
            let expected = python_entry_point_template(prefix, false, &entry_point, &python);
            assert_eq!(String::from_utf8(seen).unwrap(), expected, "at {prefix}");
        }
    }
}
