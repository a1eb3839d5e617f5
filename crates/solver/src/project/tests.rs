//! The three spellings of a project, and mistakes in them.

use super::*;

fn project(name: &str, text: &str) -> Result<Project, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    Project::read(&path).map_err(|error| error.to_string())
}

fn asked(project: &Project) -> Vec<(String, Vec<String>, Vec<String>)> {
    let variants = project.variants.iter();
    variants
        .map(|variant| {
            (
                variant.name.clone(),
                variant.match_specs.clone(),
                variant.requirements.clone(),
            )
        })
        .collect()
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[test]
fn our_own_form() {
    let text = "channels = ['c']\nplatforms = ['linux-64']\ndependencies = ['python=3.12', 'numpy']\npypi = ['httpx']\n\
                [variants.ml]\ndependencies = ['scipy', 'numpy']\n[variants.dev]\npypi = ['pytest>=8']\n";
    let project = project("envfs.toml", text).unwrap();
    let base = texts(&["python=3.12", "numpy"]);
    let expected = [
        ("default".to_owned(), base.clone(), texts(&["httpx"])),
        ("dev".to_owned(), base.clone(), texts(&["httpx", "pytest>=8"])),
        (
            "ml".to_owned(),
            texts(&["python=3.12", "numpy", "scipy"]),
            texts(&["httpx"]),
        ),
    ];
    assert_eq!(asked(&project), expected);
    assert_eq!(project.platforms.len(), 1);
    assert_eq!(project.union().match_specs, texts(&["python=3.12", "numpy", "scipy"]));
}

#[test]
fn extras_and_groups_of_any_kind_are_variants() {
    let text = "[project]\nname = 'x'\n[project.optional-dependencies]\ngui = ['a']\n[dependency-groups]\ndev = ['b']\n\
                [tool.poetry.group.docs.dependencies]\nsphinx = '*'\n";
    let found = project("pyproject.toml", text).unwrap();
    let parts: Vec<_> = found
        .variants
        .iter()
        .map(|variant| {
            (
                variant.name.as_str(),
                variant.extras.join(","),
                variant.groups.join(","),
            )
        })
        .collect();
    let expected = [
        ("default", "", ""),
        ("dev", "", "dev"),
        ("docs", "", "docs"),
        ("gui", "gui", ""),
    ];
    assert_eq!(
        parts,
        expected.map(|(name, extras, groups)| (name, extras.to_owned(), groups.to_owned()))
    );

    let text = format!("{text}[tool.envfs.variants.all]\nextras = ['gui']\ngroups = ['dev']\n");
    let found = project("pyproject.toml", &text).unwrap();
    let names: Vec<_> = found.variants.iter().map(|variant| variant.name.as_str()).collect();
    assert_eq!(names, ["default", "all"], "what is written counts");
}

#[test]
fn features_and_environments_of_pixi() {
    let text = "[workspace]\nname = 'x'\nchannels = ['c']\nplatforms = ['linux-64']\n[dependencies]\npython = '3.12.*'\n\
                zlib = { version = '*', build = 'h*' }\n[feature.test.dependencies]\npytest = '*'\n\
                [feature.test.pypi-dependencies]\nhttpx = { version = '>=0.27', extras = ['http2'] }\n\
                [environments]\ntest = ['test']\nlint = { features = ['test'], no-default-feature = true }\n";
    let found = project("pixi.toml", text).unwrap();
    let base = texts(&["python 3.12.*", "zlib * h*"]);
    let requirements = texts(&["httpx[http2]>=0.27"]);
    let expected = [
        ("default".to_owned(), base.clone(), Vec::new()),
        ("lint".to_owned(), texts(&["pytest"]), requirements.clone()),
        ("test".to_owned(), [base, texts(&["pytest"])].concat(), requirements),
    ];
    assert_eq!(asked(&found), expected);
    assert!(found.variants.iter().all(|variant| variant.channels == ["c"]));
}

#[test]
fn mistakes_are_found_where_they_are() {
    for (name, text, expected) in [
        (
            "envfs.toml",
            "channels = ['c']\ndependancies = []\n",
            "line 2: unknown field `dependancies`",
        ),
        ("envfs.toml", "platforms = ['linux-65']\n", "linux-65"),
        ("envfs.toml", "a = [\n", "line "),
        (
            "envfs.toml",
            "dependencies = ['a']\n[variants.x]\ndependencies = [\n  'b',\n  'c => 2',\n]\n",
            "line 5: 'c => 2' is not a MatchSpec: write '>=' instead of '=>'",
        ),
        (
            "pixi.toml",
            "[dependencies]\na = '=> 2'\n",
            "the dependency `a`: 'a => 2'",
        ),
        (
            "pixi.toml",
            "[workspace]\nname = 'x'\n[dependecies]\na = '*'\n",
            "line 3: unknown key `dependecies`; did you mean `dependencies`?",
        ),
        (
            "pixi.toml",
            "[feature.x]\nplatforms = []\n[feature.x.pypi-dependecies]\n",
            "line 3: unknown key `pypi-dependecies`; did you mean `pypi-dependencies`?",
        ),
        (
            "pixi.toml",
            "[environments]\na = ['b']\n",
            "the feature `b`, which is none of",
        ),
        (
            "pixi.toml",
            "[pypi-dependencies]\na = { git = 'x' }\n",
            "nothing is built from source",
        ),
    ] {
        let message = project(name, text).unwrap_err();
        assert!(message.contains(expected) && message.contains(name), "{message}");
    }
}
