//! Modules are compiled once, for all environments, and never again.

use std::path::Path;

use envfs_tests::data::RealChannel;
use envfs_tests::mounted::{Mounted, Who, is_possible};
use envfs_tests::program::{Envfs, finish};

const IMPORTS: &str = "import conda.cli, requests, tqdm, setuptools, platformdirs, ruamel.yaml, ssl, sqlite3, asyncio";

#[test]
fn importing_compiles_nothing_and_writes_nothing() {
    let Some(miniforge) = RealChannel::miniforge() else {
        return;
    };
    if !is_possible() {
        return;
    }
    let envfs = Envfs::new();
    let mut build = envfs.command();
    build
        .env_remove("ENVFS_NO_PYC")
        .arg("build")
        .args(miniforge.build_arguments(&[]));
    let signature = finish(&mut build).success().trim().parse().unwrap();
    let plain = envfs.build(miniforge.build_arguments(&[]));
    assert_ne!(signature, plain, "the two hold different files");
    // The bytecode is that of the package and not of the path: it serves wherever the environment is seen.
    for place in ["environment", "a home/environment"] {
        let mounted = Mounted::at(&envfs, &signature, &envfs.path().join(place), Who::Tester);
        let mut python = mounted.command("bin/python");
        let run = finish(python.args(["-v", "-c", IMPORTS]));
        assert!(run.status.success(), "{run}");
        let compiled: Vec<_> = run
            .stderr
            .lines()
            .filter_map(|line| line.strip_prefix("# code object from "))
            .filter(|source| source.ends_with(".py"))
            // What names the prefix is another text at each place, and has no bytecode.
            .filter(|source| !names_the_prefix(Path::new(source), mounted.path()))
            .collect();
        assert_eq!(compiled, [""; 0], "compiled at {place}");
        assert!(!run.stderr.contains("# wrote "), "something was written at {place}");
        let mut python = mounted.command("bin/python");
        let traceback = finish(python.args(["-c", "import json; json.loads('{')"]));
        let expected = mounted.path().join("lib/python3.12/json/__init__.py");
        assert!(traceback.stderr.contains(expected.to_str().unwrap()), "{traceback}");
        mounted.unmount();
    }
}

fn names_the_prefix(source: &Path, prefix: &Path) -> bool {
    std::fs::read_to_string(source).is_ok_and(|text| text.contains(prefix.to_str().unwrap()))
}
