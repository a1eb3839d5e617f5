//! The packages that people use, from PyPI: a data-science and web environment of more than a hundred of them works whole, and
//! one more costs that one and a thin tree.

use std::fs;
use std::process::Command;

use envfs_tests::data::skip;
use envfs_tests::program::{Envfs, finish};
use envfs_tests::{pypi, user};

/// What is asked for.
const ASKED: [&str; 10] = [
    "numpy",
    "pandas",
    "scikit-learn",
    "matplotlib",
    "fastapi",
    "uvicorn",
    "lightgbm",
    "requests",
    "sqlalchemy",
    "jupyterlab",
];

/// What a program that uses them imports, and does with them.
const USE: &str = r"
import numpy, pandas, sklearn, matplotlib, fastapi, uvicorn, lightgbm, requests, sqlalchemy, jupyterlab
from sklearn.linear_model import LinearRegression
matplotlib.use('agg')
import matplotlib.pyplot as plt
frame = pandas.DataFrame({'x': [0.0, 1.0, 2.0], 'y': [1.0, 3.0, 5.0]})
model = LinearRegression().fit(frame[['x']].to_numpy(), frame['y'])
figure = plt.figure()
figure.add_subplot().plot(frame['x'], frame['y'])
figure.canvas.draw()
with sqlalchemy.create_engine('sqlite://').connect() as connection:
    one = connection.execute(sqlalchemy.text('select 1')).scalar()
application = fastapi.FastAPI()
print(round(float(model.coef_[0]), 6), one, len(application.routes) > 0)
";

/// The arguments of a build, with packages more.
fn arguments(channel: &str, more: &[&str]) -> Vec<String> {
    let mut arguments = vec![
        "-c".to_owned(),
        channel.to_owned(),
        "--python".to_owned(),
        "3".to_owned(),
    ];
    for name in ASKED.iter().chain(more) {
        arguments.extend(["--pypi".to_owned(), (*name).to_owned()]);
    }
    arguments
}

#[test]
fn the_packages_that_people_use_work_together() {
    let Some((mut envfs, channel)) = pypi::room() else {
        return;
    };
    pypi::reach_the_registry(&mut envfs);
    let channel = channel.url();
    let built = envfs.try_run([vec!["build".to_owned()], arguments(&channel, &["pip"])].concat());
    if pypi::is_unreachable(&built) {
        return;
    }
    let environment = built.success().trim().to_owned();
    let shown = envfs.json(["show", &environment]);
    let wheels = shown["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|package| package["kind"] == "pypi");
    assert!(wheels.count() >= 90, "{shown}");
    let used = envfs.run(["run", &environment, "--", "python", "-c", USE]);
    assert_eq!(used.trim(), "2.0 1 True");
    envfs.run(["run", &environment, "--", "pip", "check"]);
    envfs.run(["run", &environment, "--", "jupyter", "--version"]);
    mounted(&envfs, &environment);

    let mut more = vec![
        "build".to_owned(),
        "--json".to_owned(),
        "--base".to_owned(),
        environment.clone(),
    ];
    more.extend(arguments(&channel, &["pip", "iniconfig"]));
    let more = envfs.try_run(more);
    if pypi::is_unreachable(&more) {
        return;
    }
    let more: serde_json::Value = serde_json::from_str(&more.success()).unwrap();
    assert_eq!(
        (&more["new_packages"], &more["base"]),
        (&1.into(), &environment.as_str().into()),
        "{more}"
    );
    assert!(more["new_bytes"].as_u64().unwrap() < 256 << 10, "{more}");
    assert!(more["new_inodes"].as_u64().unwrap() <= 6, "{more}");
    let signature = more["signature"].as_str().unwrap();
    envfs.run(["run", signature, "--", "python", "-c", "import iniconfig, pandas"]);
    envfs.assert_sound();
}

/// The same where everybody sees it.
fn mounted(envfs: &Envfs, environment: &str) {
    if !user::is_root() {
        skip("mounts that everybody sees: only root makes them everywhere");
        return;
    }
    let place = envfs.path().join("place");
    fs::create_dir(&place).unwrap();
    envfs.run(["mount", environment, place.to_str().unwrap()]);
    let mut python = Command::new(place.join("bin/python"));
    let checked = finish(python.args(["-m", "pip", "check"]));
    envfs.run(["umount", place.to_str().unwrap()]);
    checked.success();
}
