//! Which wheels a Python can use, and which of them fits best ([PEP 425](https://peps.python.org/pep-0425/), with the
//! platforms of [PEP 600](https://peps.python.org/pep-0600/)).
//!
//! The order is that of the `packaging` library: the interpreter's own ABI before the stable one before none, a wheel for the
//! platform before one for any, and among platforms the newest that fits. Knows nothing of where wheels come from.

use super::{PythonTarget, System, machine};
use crate::pypi::WheelFileName;

/// How well a wheel fits, compared field by field; the lower, the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    is_for_any_platform: bool,
    interpreter: u64,
    platform: u64,
    /// Of two wheels with the same tags the one with the higher build number wins (PEP 427).
    build: std::cmp::Reverse<u64>,
}

/// Below this come tags of the interpreter itself, from here on those of the language.
const GENERIC: u64 = 1000;
/// Further than any version of a C library or system.
const LAST_PLATFORM: u64 = 1_000_000;

pub(super) fn rank(target: &PythonTarget, wheel: &WheelFileName) -> Option<Rank> {
    let mut best = None;
    for platform in wheel.platforms() {
        let Some(platform_rank) = platform_rank(target, platform) else {
            continue;
        };
        for python in wheel.pythons() {
            for abi in wheel.abis() {
                let Some(interpreter) = interpreter_rank(target, python, abi) else {
                    continue;
                };
                let rank = Rank {
                    is_for_any_platform: platform == "any",
                    interpreter,
                    platform: platform_rank,
                    build: std::cmp::Reverse(build_number(wheel)),
                };
                best = best.into_iter().chain([rank]).min();
            }
        }
    }
    best
}

fn interpreter_rank(target: &PythonTarget, python: &str, abi: &str) -> Option<u64> {
    let release = target.version.release();
    let (major, minor) = (*release.first()?, release.get(1).copied().unwrap_or(0));
    let threads = if target.is_free_threaded { "t" } else { "" };
    if let Some(version) = python.strip_prefix("cp") {
        let (wheel_major, wheel_minor) = split_version(version)?;
        if wheel_major != major || wheel_minor.is_some_and(|wheel_minor| wheel_minor > minor) {
            return None;
        }
        let distance = minor - wheel_minor.unwrap_or(minor);
        // Until 3.7 the ABI's name said `m`.
        let own_abi = [format!("cp{major}{minor}{threads}"), format!("cp{major}{minor}m")];
        return match abi {
            _ if distance == 0 && own_abi[..if minor <= 7 { 2 } else { 1 }].iter().any(|own| own == abi) => Some(0),
            "abi3" if !target.is_free_threaded => Some(1 + 2 * distance),
            "none" if distance == 0 => Some(2),
            _ => None,
        };
    }
    let (wheel_major, wheel_minor) = split_version(python.strip_prefix("py")?)?;
    if abi != "none" || wheel_major != major {
        return None;
    }
    match wheel_minor {
        None => Some(GENERIC + 1),
        Some(wheel_minor) if wheel_minor == minor => Some(GENERIC),
        Some(wheel_minor) if wheel_minor < minor => Some(GENERIC + 1 + minor - wheel_minor),
        Some(_) => None,
    }
}

/// `312` is 3 and 12, `3` is 3 and any.
fn split_version(digits: &str) -> Option<(u64, Option<u64>)> {
    let major = digits.get(..1)?.parse().ok()?;
    let minor = match digits.get(1..)? {
        "" => None,
        minor => Some(minor.trim_start_matches('_').parse().ok()?),
    };
    Some((major, minor))
}

fn platform_rank(target: &PythonTarget, platform: &str) -> Option<u64> {
    if platform == "any" {
        return Some(LAST_PLATFORM);
    }
    match target.system {
        System::Glibc(major, minor) => linux_rank(platform, machine(target.subdir), major, minor),
        System::MacOs(major, minor) => macos_rank(platform, machine(target.subdir), major, minor),
        System::Windows => {
            let own = match machine(target.subdir) {
                "AMD64" => "win_amd64",
                "ARM64" => "win_arm64",
                _ => "win32",
            };
            (platform == own).then_some(0)
        }
    }
}

fn linux_rank(platform: &str, machine: &str, major: u64, minor: u64) -> Option<u64> {
    let rest = platform.strip_suffix(machine)?.strip_suffix('_')?;
    if rest == "linux" {
        return Some(LAST_PLATFORM - 1);
    }
    let (wheel_major, wheel_minor) = match rest {
        "manylinux2014" => (2, 17),
        "manylinux2010" => (2, 12),
        "manylinux1" => (2, 5),
        _ => two_underscored(rest.strip_prefix("manylinux_")?)?,
    };
    (wheel_major == major && wheel_minor <= minor).then(|| minor - wheel_minor)
}

fn macos_rank(platform: &str, machine: &str, major: u64, minor: u64) -> Option<u64> {
    let rest = platform.strip_prefix("macosx_")?;
    let (version, wheel_machine) = {
        let mut parts = rest.splitn(3, '_');
        let version = (parts.next()?.parse::<u64>().ok()?, parts.next()?.parse::<u64>().ok()?);
        (version, parts.next()?)
    };
    let fat: &[&str] = if machine == "arm64" {
        &["universal2"]
    } else {
        &["universal2", "intel", "fat64", "fat3", "universal"]
    };
    let is_fat = fat.contains(&wheel_machine);
    if version > (major, minor) || !(is_fat || wheel_machine == machine) {
        return None;
    }
    // No minor version has three digits.
    let age = (major * 100 + minor).saturating_sub(version.0 * 100 + version.1);
    Some(2 * age + u64::from(is_fat))
}

fn two_underscored(text: &str) -> Option<(u64, u64)> {
    let (major, minor) = text.split_once('_')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn build_number(wheel: &WheelFileName) -> u64 {
    let digits = wheel.build().map(|build| {
        let end = build.find(|c: char| !c.is_ascii_digit()).unwrap_or(build.len());
        &build[..end]
    });
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::target;
    use super::*;

    /// The wheels that fit, the best first.
    fn fitting<'a>(version: &str, subdir: &str, tags: &[&'a str]) -> Vec<&'a str> {
        let target = target(version, subdir);
        let mut ranked: Vec<_> = tags
            .iter()
            .filter_map(|tag| {
                let name = WheelFileName::parse(&format!("x-1-{tag}.whl")).unwrap();
                Some((rank(&target, &name)?, *tag))
            })
            .collect();
        ranked.sort();
        ranked.into_iter().map(|(_, tag)| tag).collect()
    }

    #[test]
    fn the_most_specific_wheel_is_the_best() {
        let tags = [
            "py3-none-any",
            "cp37-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64",
            "cp312-abi3-manylinux_2_17_x86_64",
            "cp312-cp312-manylinux_2_17_x86_64",
            "cp312-cp312-manylinux_2_28_x86_64",
            "py312-none-any",
            "py3-none-manylinux1_x86_64",
            "cp312-none-manylinux_2_5_x86_64",
            "cp312-cp312-linux_x86_64",
        ];
        assert_eq!(
            fitting("3.12.8", "linux-64", &tags),
            [
                "cp312-cp312-manylinux_2_28_x86_64",
                "cp312-cp312-manylinux_2_17_x86_64",
                "cp312-cp312-linux_x86_64",
                "cp312-abi3-manylinux_2_17_x86_64",
                "cp312-none-manylinux_2_5_x86_64",
                "cp37-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64",
                "py3-none-manylinux1_x86_64",
                "py312-none-any",
                "py3-none-any",
            ]
        );
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let tags = [
            "cp313-cp313-manylinux_2_17_x86_64",
            "cp313-abi3-manylinux_2_17_x86_64",
            "cp312-cp312-manylinux_2_34_x86_64",
            "cp312-cp312-manylinux_2_17_aarch64",
            "cp312-cp312-musllinux_1_2_x86_64",
            "cp312-cp312-win_amd64",
            "cp312-cp312t-manylinux_2_17_x86_64",
            "cp311-cp311-manylinux_2_17_x86_64",
            "cp311-none-any",
            "py2-none-any",
            "py313-none-any",
            "pp310-pypy310_pp73-manylinux_2_17_x86_64",
        ];
        assert_eq!(fitting("3.12.8", "linux-64", &tags), [] as [&str; 0]);
    }

    #[test]
    fn old_pythons_have_an_abi_with_a_letter() {
        assert_eq!(
            fitting("3.7.12", "linux-64", &["cp37-cp37m-manylinux1_x86_64"]).len(),
            1
        );
        assert_eq!(fitting("3.8.1", "linux-64", &["cp38-cp38m-manylinux1_x86_64"]).len(), 0);
    }

    #[test]
    fn a_mac_takes_its_own_and_universal_wheels() {
        let tags = [
            "cp312-cp312-macosx_10_13_universal2",
            "cp312-cp312-macosx_11_0_arm64",
            "cp312-cp312-macosx_11_0_universal2",
            "cp312-cp312-macosx_26_0_arm64",
            "cp312-cp312-macosx_10_9_x86_64",
        ];
        assert_eq!(
            fitting("3.12.8", "osx-arm64", &tags),
            [
                "cp312-cp312-macosx_11_0_arm64",
                "cp312-cp312-macosx_11_0_universal2",
                "cp312-cp312-macosx_10_13_universal2",
            ]
        );
        assert_eq!(
            fitting("3.12.8", "osx-64", &tags).last(),
            Some(&"cp312-cp312-macosx_10_9_x86_64")
        );
    }

    #[test]
    fn a_higher_build_number_wins() {
        let target = target("3.12.8", "linux-64");
        let rank_of = |name: &str| rank(&target, &WheelFileName::parse(name).unwrap()).unwrap();
        assert!(rank_of("x-1-2-py3-none-any.whl") < rank_of("x-1-py3-none-any.whl"));
        assert!(rank_of("x-1-10-py3-none-any.whl") < rank_of("x-1-2-py3-none-any.whl"));
    }
}
