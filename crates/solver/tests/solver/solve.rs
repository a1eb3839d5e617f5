//! What the solver chooses, and how it explains that it cannot.

use std::time::{Duration, Instant, SystemTime};

use envfs_solver::{
    ChannelPriority, DEFAULT_ENVIRONMENT, ExcludeNewer, Lock, LockedContents, LockedPackage, Network, Solution,
    SolveError, SolveRequest, Spec, Subdir, VirtualPackages, solve,
};
use serde_json::json;

use crate::support::channel::{ChannelBuilder, Form};
use crate::support::{block_on, network, shared};

fn linux() -> Subdir {
    "linux-64".parse().unwrap()
}

/// What was solved, as a lock takes it.
fn contents(solution: Solution) -> LockedContents {
    LockedContents {
        subdir: solution.subdir(),
        packages: solution.into_packages(),
        wheels: Vec::new(),
        sources: Vec::new(),
    }
}

fn spec(channels: &[&str], match_specs: &[&str]) -> Spec {
    let owned = |texts: &[&str]| texts.iter().map(ToString::to_string).collect::<Vec<_>>();
    Spec::from_match_specs(&owned(match_specs), &owned(channels)).unwrap()
}

fn request(spec: &Spec) -> SolveRequest<'_> {
    SolveRequest::new(spec, linux(), VirtualPackages::baseline(linux()))
}

/// Solves for linux-64 with nothing special.
pub(crate) fn solve_for(network: &Network, channels: &[&str], match_specs: &[&str]) -> Result<Solution, SolveError> {
    let spec = spec(channels, match_specs);
    block_on(solve(network, &request(&spec)))
}

fn names(solution: &Solution) -> Vec<String> {
    solution
        .packages()
        .iter()
        .map(|package| format!("{}-{}", package.name(), package.version()))
        .collect()
}

fn find<'a>(packages: &'a [LockedPackage], name: &str) -> &'a LockedPackage {
    packages.iter().find(|package| package.name() == name).unwrap()
}

fn unsatisfiable(result: Result<Solution, SolveError>) -> (String, Vec<String>) {
    match result {
        Err(SolveError::Unsatisfiable { explanation, help }) => (explanation, help),
        other => panic!("expected no solution, got {other:?}"),
    }
}

/// Two channels: the first has an old numpy, the second a newer one and more.
struct Two {
    dir: tempfile::TempDir,
    first: String,
    second: String,
}

impl Two {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let first = ChannelBuilder::new()
            .package("python 3.11.0 0", &[])
            .package("python 3.12.0 0", &[])
            .package("numpy 1.26.0 0", &["python"])
            .write(&dir.path().join("first"), Form::Json);
        let second = ChannelBuilder::new()
            .package("numpy 2.0.0 0", &["python >=3.12"])
            .package("pandas 2.2.0 0", &["numpy >=1.26"])
            .package("scipy 1.14.0 0", &["numpy >=2"])
            .package_with("legacy 1.0 0", &["python <3.12"], &json!({}))
            .package_with("picky 1.0 0", &[], &json!({"constrains": ["numpy <1.20"]}))
            .write(&dir.path().join("second"), Form::Json);
        Self {
            first: first.display().to_string(),
            second: second.display().to_string(),
            dir,
        }
    }

    fn channels(&self) -> [&str; 2] {
        [&self.first, &self.second]
    }

    fn solve(&self, match_specs: &[&str]) -> Result<Solution, SolveError> {
        solve_for(&network(self.dir.path()), &self.channels(), match_specs)
    }
}

#[test]
fn what_takes_long_can_move_between_threads() {
    fn assert_send<T: Send>(_: &T) {}
    let dir = tempfile::tempdir().unwrap();
    let network = network(dir.path());
    let spec = spec(&[], &[]);
    assert_send(&solve(&network, &request(&spec)));
    let url = "@EXPLICIT\nhttps://h/c/noarch/a-1-0.conda\n";
    let package = Lock::parse(url, dir.path())
        .unwrap()
        .packages(DEFAULT_ENVIRONMENT, linux())
        .unwrap()
        .remove(0);
    assert_send(&network.fetch_archive(&package, dir.path(), &envfs_solver::NoProgress));
}

#[test]
fn the_newest_that_fits_is_chosen_with_all_it_needs() {
    let two = Two::new();
    assert_eq!(
        names(&two.solve(&["numpy", "python <3.12"]).unwrap()),
        ["numpy-1.26.0", "python-3.11.0"]
    );
    let solution = two.solve(&["pandas"]).unwrap();
    assert_eq!(names(&solution), ["numpy-1.26.0", "pandas-2.2.0", "python-3.12.0"]);
    let numpy = find(solution.packages(), "numpy");
    assert!(numpy.is_complete() && numpy.sha256().is_some() && numpy.size_bytes() == Some(200_000));
    assert!(numpy.url().starts_with("file://") && numpy.url().ends_with("first/linux-64/numpy-1.26.0-0.conda"));
    assert!(solution.channels()[0].starts_with("file://") && solution.channels()[0].ends_with("/first/"));
}

#[test]
fn priority_is_strict_unless_switched_off() {
    let two = Two::new();
    let (explanation, help) = unsatisfiable(two.solve(&["scipy"]));
    assert!(explanation.contains("strict channel priority"), "{explanation}");
    assert!(help.iter().any(|line| line.contains("order of channels")), "{help:?}");

    let spec = spec(&two.channels(), &["scipy"]);
    let any = SolveRequest {
        channel_priority: ChannelPriority::Disabled,
        ..request(&spec)
    };
    let solution = block_on(solve(&network(two.dir.path()), &any)).unwrap();
    assert_eq!(names(&solution), ["numpy-2.0.0", "python-3.12.0", "scipy-1.14.0"]);
}

#[test]
fn a_package_can_be_asked_for_from_one_channel() {
    let two = Two::new();
    // `./second` is not among the channels: asking for it adds it, below the others.
    let solution = solve_for(&network(two.dir.path()), &[&two.first], &["./second::numpy", "python"]).unwrap();
    assert_eq!(names(&solution), ["numpy-2.0.0", "python-3.12.0"]);
    assert_eq!(solution.channels().len(), 2);
}

#[test]
fn a_request_that_cannot_be_met_is_explained() {
    let two = Two::new();
    let (explanation, _) = unsatisfiable(two.solve(&["legacy", "python >=3.12"]));
    assert!(
        explanation.contains("legacy") && explanation.contains("python <3.12"),
        "{explanation}"
    );
    let (explanation, _) = unsatisfiable(two.solve(&["no-such-package"]));
    assert!(explanation.contains("no-such-package"), "{explanation}");
}

#[test]
fn a_base_stays_as_it_is_and_only_what_is_missing_comes() {
    let two = Two::new();
    let base = two.solve(&["numpy", "python 3.11.*"]).unwrap().into_packages();
    let network = network(two.dir.path());
    let thin = spec(&two.channels(), &["pandas"]);
    let solution = block_on(solve(
        &network,
        &SolveRequest {
            pinned: &base,
            ..request(&thin)
        },
    ))
    .unwrap();
    assert_eq!(names(&solution), ["numpy-1.26.0", "pandas-2.2.0", "python-3.11.0"]);
    for package in &base {
        assert_eq!(find(solution.packages(), package.name()), package);
    }
    // Nothing asked for: the base itself.
    let nothing = spec(&two.channels(), &[]);
    let solution = block_on(solve(
        &network,
        &SolveRequest {
            pinned: &base,
            ..request(&nothing)
        },
    ))
    .unwrap();
    assert_eq!(solution.packages(), base);
}

/// A channel may build a package anew under its old name: the base has the old one, also when the solution is remembered.
#[test]
fn a_base_whose_packages_were_built_anew_stays_as_it_is() {
    let two = Two::new();
    let base = two.solve(&["numpy", "python 3.11.*"]).unwrap().into_packages();
    let base: Vec<_> = base.into_iter().map(|package| package.with_sha256([7; 32])).collect();
    let network = network(two.dir.path());
    let thin = spec(&two.channels(), &["pandas"]);
    for _ in ["searched", "remembered"] {
        let request = SolveRequest {
            pinned: &base,
            ..request(&thin)
        };
        let solution = block_on(solve(&network, &request)).unwrap();
        for package in &base {
            assert_eq!(find(solution.packages(), package.name()), package);
        }
    }
}

#[test]
fn a_base_that_does_not_allow_it_is_part_of_the_explanation() {
    let two = Two::new();
    let base = two.solve(&["numpy", "python 3.11.*"]).unwrap().into_packages();
    let network = network(two.dir.path());
    // Against a pinned package itself, and against a constraint of a new one on a package that nobody asks for.
    for (wanted, named) in [("python >=3.12", "python"), ("picky", "numpy")] {
        let spec = spec(&two.channels(), &[wanted]);
        let (explanation, help) = unsatisfiable(block_on(solve(
            &network,
            &SolveRequest {
                pinned: &base,
                ..request(&spec)
            },
        )));
        assert!(explanation.contains(named), "{explanation}");
        assert!(help.iter().any(|line| line.contains("2 packages")), "{help:?}");
    }
}

#[test]
fn a_base_whose_packages_left_the_channel_still_serves() {
    let two = Two::new();
    let base = two.solve(&["numpy", "python 3.11.*"]).unwrap().into_packages();
    let spec = spec(&[&two.second], &["pandas"]);
    let request = SolveRequest {
        pinned: &base,
        channel_priority: ChannelPriority::Disabled,
        ..request(&spec)
    };
    let solution = block_on(solve(&network(two.dir.path()), &request)).unwrap();
    assert_eq!(names(&solution), ["numpy-1.26.0", "pandas-2.2.0", "python-3.11.0"]);
}

#[test]
fn an_older_lock_is_kept_to_where_it_can_be() {
    let two = Two::new();
    let older = two.solve(&["numpy", "python 3.11.*"]).unwrap().into_packages();
    let network = network(two.dir.path());
    let preferring = |match_specs: &[&str], channels: &[&str]| {
        let spec = spec(channels, match_specs);
        names(
            &block_on(solve(
                &network,
                &SolveRequest {
                    preferred: &older,
                    ..request(&spec)
                },
            ))
            .unwrap(),
        )
    };
    assert_eq!(
        preferring(&["numpy"], &two.channels()),
        ["numpy-1.26.0", "python-3.11.0"]
    );
    assert_eq!(
        preferring(&["numpy", "python >=3.12"], &two.channels()),
        ["numpy-1.26.0", "python-3.12.0"]
    );
}

#[test]
fn packages_that_came_later_can_be_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let day = |day: u64| json!({"timestamp": (1_700_000_000 + day * 86_400) * 1000});
    let channel = ChannelBuilder::new()
        .package_with("a 1.0 0", &[], &day(0))
        .package_with("a 2.0 0", &[], &day(10))
        .write(&dir.path().join("chan"), Form::Json);
    let spec = spec(&[channel.to_str().unwrap()], &["a"]);
    let at = |days: u64| {
        let moment = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + days * 86_400 + 86_400);
        let cutoff = ExcludeNewer::parse("1d", moment).unwrap();
        block_on(solve(
            &network(dir.path()),
            &SolveRequest {
                exclude_newer: Some(cutoff),
                ..request(&spec)
            },
        ))
    };
    assert_eq!(names(&at(20).unwrap()), ["a-2.0"]);
    assert_eq!(names(&at(5).unwrap()), ["a-1.0"]);
    let cutoff = ExcludeNewer::parse("2001-01-01", SystemTime::now()).unwrap();
    let result = block_on(solve(
        &network(dir.path()),
        &SolveRequest {
            exclude_newer: Some(cutoff),
            ..request(&spec)
        },
    ));
    assert!(unsatisfiable(result).1.iter().any(|line| line.contains("newer")));
}

#[test]
fn a_virtual_package_decides_what_can_run() {
    let dir = tempfile::tempdir().unwrap();
    let channel = ChannelBuilder::new()
        .package("tool 1.0 0", &["__glibc >=2.17"])
        .package("tool 2.0 0", &["__glibc >=99"])
        .package("gpu 1.0 0", &["__cuda"])
        .write(&dir.path().join("chan"), Form::Json);
    let channels = [channel.to_str().unwrap()];
    assert_eq!(
        names(&solve_for(&network(dir.path()), &channels, &["tool"]).unwrap()),
        ["tool-1.0"]
    );
    let (explanation, help) = unsatisfiable(solve_for(&network(dir.path()), &channels, &["gpu"]));
    assert!(explanation.contains("__cuda"), "{explanation}");
    assert!(
        help.iter().any(|line| line.contains("set CONDA_OVERRIDE_CUDA")),
        "{help:?}"
    );
    assert!(!help.iter().any(|line| line.contains("looked for it in")), "{help:?}");

    let spec = spec(&channels, &["gpu"]);
    let with_gpu = VirtualPackages::for_subdir(linux(), None, &|name| {
        (name == "CONDA_OVERRIDE_CUDA").then(|| "12.4".to_owned())
    });
    let request = SolveRequest {
        virtual_packages: with_gpu.unwrap(),
        ..request(&spec)
    };
    assert_eq!(
        names(&block_on(solve(&network(dir.path()), &request)).unwrap()),
        ["gpu-1.0"]
    );
}

#[test]
fn the_real_channel_gives_a_whole_conda() {
    let Some(channel) = shared("channels/conda-forge-py312") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let wanted = ["python=3.12", "conda", "mamba", "pip", "tqdm", "requests"];
    let solution = solve_for(&network(dir.path()), &[channel.to_str().unwrap()], &wanted).unwrap();
    for name in [
        "python", "conda", "mamba", "pip", "tqdm", "requests", "openssl", "libmamba",
    ] {
        find(solution.packages(), name);
    }
    assert!(solution.packages().len() > 60, "{}", solution.packages().len());
    let ordered = envfs_solver::link_order(solution.into_packages()).unwrap();
    let position = |name: &str| ordered.iter().position(|package| package.name() == name).unwrap();
    assert!(position("python") < position("requests") && position("libgcc") < position("python"));
}

#[test]
fn a_thin_environment_on_the_real_channel_adds_what_is_missing() {
    let Some(channel) = shared("channels/conda-forge-py312") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let network = network(dir.path());
    let channels = [channel.to_str().unwrap()];
    let base = solve_for(&network, &channels, &["python=3.12", "pip"])
        .unwrap()
        .into_packages();
    let spec = spec(&channels, &["tqdm"]);
    let solution = block_on(solve(
        &network,
        &SolveRequest {
            pinned: &base,
            ..request(&spec)
        },
    ))
    .unwrap();
    let new: Vec<_> = solution
        .packages()
        .iter()
        .filter(|package| !base.contains(package))
        .map(LockedPackage::name)
        .collect();
    assert_eq!(new, ["colorama", "tqdm"]);
}

#[test]
fn large_indexes_are_solved() {
    let dir = tempfile::tempdir().unwrap();
    let conda_forge = shared("repodata/harvested/conda-forge");
    // These files lie beside each other; a channel has a folder for each.
    let main = shared("repodata/main-current-2020-12").map(|folder| {
        let channel = dir.path().join("main");
        for (file, subdir) in [
            ("linux-64.current_repodata.json.zst", "linux-64"),
            ("noarch.repodata.json.zst", "noarch"),
        ] {
            std::fs::create_dir_all(channel.join(subdir)).unwrap();
            std::fs::copy(folder.join(file), channel.join(subdir).join("repodata.json.zst")).unwrap();
        }
        channel
    });
    let wanted: [(_, &[&str], usize); 2] = [
        (
            conda_forge,
            &["python=3.12", "pytorch", "scikit-learn", "geopandas", "jupyterlab"],
            250,
        ),
        (main, &["anaconda"], 300),
    ];
    for (channel, match_specs, at_least) in wanted {
        let Some(channel) = channel else { continue };
        let started = Instant::now();
        let solution = solve_for(&network(dir.path()), &[channel.to_str().unwrap()], match_specs).unwrap();
        eprintln!(
            "{match_specs:?}: {} packages in {:.1} s",
            solution.packages().len(),
            started.elapsed().as_secs_f32()
        );
        assert!(solution.packages().len() >= at_least, "{}", solution.packages().len());
    }
}

#[test]
fn a_solution_comes_back_from_its_lock_as_it_was() {
    let conda_forge = shared("repodata/harvested/conda-forge");
    let whole_channel = shared("channels/conda-forge-py312");
    let wanted: [(_, &[&str]); 2] = [
        (conda_forge, &["python=3.12", "jupyterlab", "pytorch"]),
        (whole_channel, &["conda", "mamba"]),
    ];
    for (channel, match_specs) in wanted {
        let Some(channel) = channel else { continue };
        let dir = tempfile::tempdir().unwrap();
        let solution = solve_for(&network(dir.path()), &[channel.to_str().unwrap()], match_specs).unwrap();
        let path = dir.path().join("pixi.lock");
        let channels = solution.channels().to_vec();
        let lock = Lock::from_solutions(DEFAULT_ENVIRONMENT, &channels, &[contents(solution)]).unwrap();
        lock.write(&path).unwrap();
        let again = Lock::read(&path).unwrap();
        assert_eq!(again.channels(DEFAULT_ENVIRONMENT).unwrap(), channels);
        let packages = |lock: &Lock| lock.packages(DEFAULT_ENVIRONMENT, linux()).unwrap();
        assert_eq!(packages(&again), packages(&lock));
    }
}

#[test]
fn the_same_question_is_not_solved_twice_and_a_changed_index_is() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("channel");
    let channel = || ChannelBuilder::new().package("a 1.0 0", &["b"]).package("b 1.0 0", &[]);
    channel().write(&folder, Form::Json);
    let place = folder.to_str().unwrap().to_owned();
    let solved = || names(&solve_for(&network(dir.path()), &[&place], &["a"]).unwrap());
    let kept = || {
        let mut kept: Vec<_> = walk(dir.path()).into_iter().filter(|path| is_solution(path)).collect();
        kept.sort();
        kept
    };
    assert_eq!(solved(), ["a-1.0", "b-1.0"]);
    let answers = kept();
    assert_eq!(
        answers.len(),
        2,
        "with and without the solution as a preference: {answers:?}"
    );
    // An answer that only the cache can give.
    for answer in &answers {
        let text = std::fs::read_to_string(answer).unwrap();
        let only_b: Vec<String> = serde_json::from_str::<Vec<String>>(&text).unwrap();
        let only_b: Vec<_> = only_b.into_iter().filter(|url| url.contains("b-1.0")).collect();
        std::fs::write(answer, serde_json::to_vec(&only_b).unwrap()).unwrap();
    }
    assert_eq!(solved(), ["b-1.0"]);
    channel().package("b 2.0 0", &[]).write(&folder, Form::Json);
    assert_eq!(solved(), ["a-1.0", "b-2.0"]);
}

fn is_solution(path: &std::path::Path) -> bool {
    path.parent().is_some_and(|parent| parent.ends_with("solutions"))
}

/// Every file below a folder.
fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries
        .flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] })
        .collect()
}
