//! Jupyter kernels: registered by the name of an environment, started by Jupyter's own client, and moved by a cutover.

use envfs_tests::data::{RealChannel, skip};
use envfs_tests::mounted;
use envfs_tests::package::Package;
use envfs_tests::program::{Envfs, finish};
use envfs_tests::user;
use serde_json::{Value, json};

/// Starts a kernel, lets the name move, and starts another; prints what both answer.
const DRIVER: &str = r"
import subprocess, sys
from jupyter_client.manager import start_new_kernel

def ask(client, code):
    said = []
    def hook(message):
        content = message['content']
        said.append(content.get('text') or content.get('data', {}).get('text/plain') or content.get('evalue') or '')
    client.execute_interactive(code, timeout=120, output_hook=hook)
    return ''.join(said).strip()

older, old = start_new_kernel(kernel_name='lab-current', startup_timeout=200)
print(ask(old, '1+1'))
print(ask(old, 'import tqdm'))
subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
newer, new = start_new_kernel(kernel_name='lab-current', startup_timeout=200)
print(ask(new, 'import tqdm; 2+2'))
print(ask(old, 'import tqdm'))
for manager in (older, newer):
    manager.shutdown_kernel(now=False)
";

#[test]
fn a_kernel_answers_and_survives_a_cutover() {
    if !mounted::is_possible() {
        return;
    }
    let Some(channel) = RealChannel::local() else { return };
    let envfs = Envfs::new();
    // How PyPI is reached here is the tester's business.
    let settings =
        std::env::vars().filter(|(name, _)| ["PIP_", "UV_", "SSL_"].iter().any(|head| name.starts_with(head)));
    let url = channel.url();
    let arguments = [
        "-c",
        &url,
        "--python",
        "3.11",
        "--pypi",
        "ipykernel",
        "--pypi",
        "jupyter_client",
    ];
    let mut build = envfs.command();
    let built = finish(build.envs(settings).arg("build").args(arguments));
    if !built.status.success() {
        return skip(&format!(
            "kernels of Jupyter: ipykernel cannot be had from PyPI: {}",
            built.stderr
        ));
    }
    let plain = built.stdout.trim().to_owned();
    let more = envfs.build(["-c", &url, "--base", &plain, "tqdm"]).to_string();
    envfs.run(["name", "set", "lab:current", &plain]);
    envfs.run(["name", "set", "lab:qa", &more]);
    envfs.run(["kernel", "install", "lab"]);

    let driver = envfs.write("driver.py", DRIVER);
    let store = envfs.store_path();
    let program = envfs_tests::program::built_program();
    let answers = envfs.run([
        "run".as_ref(),
        plain.as_ref(),
        "--".as_ref(),
        "python".as_ref(),
        driver.as_os_str(),
        program.as_os_str(),
        "--store".as_ref(),
        store.as_os_str(),
        "promote".as_ref(),
        "lab:qa".as_ref(),
        "lab:current".as_ref(),
    ]);
    let answers: Vec<&str> = answers.lines().collect();
    let missing = "No module named 'tqdm'";
    assert_eq!(
        answers,
        ["2", missing, "4", missing],
        "the old kernel keeps what it has, the new one sees the new environment"
    );
}

#[test]
fn kernels_are_registered_listed_and_removed() {
    let envfs = Envfs::new();
    let archive = |package: Package| {
        let path = package.write(envfs.path(), envfs_tests::package::Format::Conda);
        let lock = envfs.write("lock.txt", &format!("@EXPLICIT\nfile://{}\n", path.display()));
        envfs.build([lock.to_str().unwrap()]).to_string()
    };
    let with = archive(Package::new("ipykernel 6.0 h0_0").file("share/x", "x"));
    let without = archive(Package::new("other 1.0 h0_0").file("share/x", "x"));
    envfs.run(["name", "set", "team/lab:qa", &with]);

    let installed = envfs.json(["kernel", "install", "team/lab:qa", "--display-name", "Lab"]);
    let directory = envfs.path().join("home/.local/share/jupyter/kernels/team-lab-qa");
    assert_eq!(installed["path"], directory.to_str().unwrap());
    let text = std::fs::read_to_string(directory.join("kernel.json")).unwrap();
    let specification: Value = serde_json::from_str(&text).unwrap();
    let argv: Vec<&str> = specification["argv"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let run = [
        "run",
        "team/lab:qa",
        "--",
        "python",
        "-m",
        "ipykernel_launcher",
        "-f",
        "{connection_file}",
    ];
    assert_eq!(argv[argv.len() - run.len()..], run);

    let prefix = envfs.path().join("jupyter");
    envfs.run([
        "kernel",
        "install",
        &with,
        "--name",
        "exact",
        "--prefix",
        prefix.to_str().unwrap(),
    ]);
    assert!(prefix.join("share/jupyter/kernels/exact/kernel.json").is_file());
    let names = |arguments: &[&str]| -> Vec<Value> {
        let listed = envfs.json(arguments);
        listed
            .as_array()
            .unwrap()
            .iter()
            .map(|kernel| kernel["name"].clone())
            .collect()
    };
    assert_eq!(
        names(&["kernel", "ls", "--prefix", prefix.to_str().unwrap()]),
        [json!("exact")]
    );

    envfs
        .try_run(["kernel", "install", &without])
        .refused(1, &["does not hold ipykernel", "envfs build --base"]);
    envfs
        .try_run(["kernel", "install", "lock.txt"])
        .refused(2, &["is a file", "envfs name set"]);
    envfs
        .try_run(["kernel", "install", &with, "--name", "../x"])
        .refused(2, &["cannot be the name of a kernel"]);
    envfs
        .try_run(["kernel", "install", &with, "--sys-prefix"])
        .refused(2, &["no environment is active"]);
    let others = directory.with_file_name("others");
    std::fs::create_dir(&others).unwrap();
    envfs
        .try_run(["kernel", "install", &with, "--name", "others"])
        .refused(1, &["somebody else"]);
    envfs
        .try_run(["kernel", "rm", "others"])
        .refused(1, &["no kernel `others` of ours"]);
    assert_eq!(envfs.json(["kernel", "rm", "team-lab-qa"])["name"], "team-lab-qa");
    assert!(!directory.exists() && others.exists());
    envfs.run(["name", "set", "science", &with]);
    envfs.run(["kernel", "install", "science"]);
    assert_eq!(envfs.json(["kernel", "rm", "science"])["name"], "science-current");
}

#[test]
fn a_kernel_for_everybody_works_in_the_store_of_who_starts_it() {
    let envfs = Envfs::new();
    user::open_to_all(envfs.path());
    let archive = Package::new("ipykernel 6.0 h0_0")
        .executable("bin/python", "#!/bin/sh\necho $CONDA_PREFIX \"$@\"\n")
        .write(envfs.path(), envfs_tests::package::Format::Conda);
    let lock = envfs.write("lock.txt", &format!("@EXPLICIT\nfile://{}\n", archive.display()));
    let signature = envfs.build([lock.to_str().unwrap()]).to_string();
    envfs.run(["name", "set", "lab", &signature]);
    let own = envfs.path().join("own");
    std::fs::create_dir(&own).unwrap();
    user::give_to_ordinary_user(&own);
    let prefix = envfs.path().join("jupyter");
    let installed = |is_user: bool, arguments: &[&str]| -> Vec<String> {
        let mut command = envfs.command();
        if is_user {
            command
                .env("ENVFS_SYSTEM_STORE", envfs.store_path())
                .env("ENVFS_STORE", own.join("store"))
                .env("JUPYTER_DATA_DIR", own.join("jupyter"));
            user::as_ordinary_user(&mut command);
        }
        command.args(["--json", "kernel", "install", "lab"]).args(arguments);
        let installed: Value = serde_json::from_str(&finish(&mut command).success()).unwrap();
        let text = std::fs::read(installed["path"].as_str().unwrap().to_owned() + "/kernel.json").unwrap();
        let specification: Value = serde_json::from_slice(&text).unwrap();
        let words = specification["argv"].as_array().unwrap().iter();
        words.map(|word| word.as_str().unwrap().to_owned()).collect()
    };
    let (system, private) = (envfs.store_path(), own.join("store"));
    let [system, private] = [&system, &private].map(|path| path.to_str().unwrap());
    // A user's own kernel says everything that the user's variables say now.
    let words = installed(true, &[]);
    assert_eq!(words[1..5], ["--store", private, "--system-store", system]);
    let open = own.join("jupyter-of-all");
    assert_eq!(
        installed(true, &["--prefix", open.to_str().unwrap()])[1..4],
        ["--system-store", system, "--quiet"]
    );
    if !user::is_root() {
        return skip("a kernel by an administrator: the tester is not root");
    }
    let words = installed(false, &["--prefix", prefix.to_str().unwrap()]);
    assert_eq!(words[1..4], ["--system-store", system, "--quiet"]);
    if !mounted::is_possible() {
        return;
    }
    // Whoever starts it needs to write nowhere but below their home.
    let mut kernel = std::process::Command::new(&words[0]);
    kernel.args(&words[1..]).env_clear().env("HOME", &own);
    let told = finish(user::as_ordinary_user(&mut kernel)).success();
    let place = own.join(".local/share/envfs/store/mnt").join(&signature[..16]);
    assert_eq!(
        told.trim(),
        format!("{} -m ipykernel_launcher -f {{connection_file}}", place.display())
    );
}
