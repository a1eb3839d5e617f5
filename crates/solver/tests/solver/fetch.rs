//! Archives from servers that misbehave, and from disk.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::sync::Mutex;

use envfs_solver::{FetchError, FetchProgress, FetchedArchive, Lock, LockedPackage, LockedWheel, Network, NoProgress};
use sha2::{Digest, Sha256};

use crate::support::channel::archive_bytes;
use crate::support::server::{Behaviour, Server};
use crate::support::{block_on, network, options};

const NAME: &str = "thing-1.0-0.conda";
const LEN: usize = 300_000;

/// A server with one archive, and a place to download to.
struct Bench {
    dir: tempfile::TempDir,
    server: Server,
    bytes: Vec<u8>,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bytes = archive_bytes("thing", LEN);
        let folder = dir.path().join("www/linux-64");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(NAME), &bytes).unwrap();
        let server = Server::start(dir.path().join("www"));
        Self { dir, server, bytes }
    }

    fn package(&self) -> LockedPackage {
        let sha256 = hex::encode(Sha256::digest(&self.bytes));
        package(&format!(
            "{}#sha256:{sha256}",
            self.server.url(&format!("linux-64/{NAME}"))
        ))
    }

    fn spool(&self) -> std::path::PathBuf {
        self.dir.path().join("spool")
    }

    fn fetch(&self, package: &LockedPackage) -> Result<FetchedArchive, FetchError> {
        self.fetch_by(&network(self.dir.path()), package)
    }

    fn fetch_by(&self, network: &Network, package: &LockedPackage) -> Result<FetchedArchive, FetchError> {
        block_on(network.fetch_archive(package, &self.spool(), &NoProgress))
    }

    fn assert_fetched(&self, fetched: FetchedArchive) {
        assert_eq!(fetched.sha256, <[u8; 32]>::from(Sha256::digest(&self.bytes)));
        assert_eq!(fetched.size_bytes, LEN as u64);
        assert_eq!(fetched.file_name, NAME);
        assert_eq!(read(fetched.file), self.bytes);
        assert_eq!(
            fs::read_dir(self.spool()).map_or(0, Iterator::count),
            0,
            "a part file is left behind"
        );
    }
}

fn package(line: &str) -> LockedPackage {
    let lock = Lock::parse(&format!("@EXPLICIT\n{line}\n"), Path::new("explicit.txt")).unwrap();
    let subdir = lock.subdirs("default").unwrap()[0];
    lock.packages("default", subdir).unwrap().remove(0)
}

fn read(mut file: File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    bytes
}

#[derive(Default)]
struct Counter(Mutex<(u64, u32, bool)>);

impl FetchProgress for Counter {
    fn started(&self, _total_bytes: Option<u64>) {}
    fn advanced(&self, bytes: u64) {
        self.0.lock().unwrap().0 += bytes;
    }
    fn restarted(&self) {
        let mut counter = self.0.lock().unwrap();
        counter.0 = 0;
        counter.1 += 1;
    }
    fn finished(&self) {
        self.0.lock().unwrap().2 = true;
    }
}

#[test]
fn a_wheel_arrives_as_an_archive_does() {
    let bench = Bench::new();
    let name = "thing-1.0-py3-none-any.whl";
    fs::write(bench.dir.path().join("www").join(name), &bench.bytes).unwrap();
    let network = network(bench.dir.path());
    let fetch = |sha256: [u8; 32]| {
        let wheel = LockedWheel::new(&bench.server.url(name)).unwrap().with_sha256(sha256);
        block_on(network.fetch_wheel(&wheel, &bench.spool(), &NoProgress))
    };
    assert_eq!(
        read(fetch(Sha256::digest(&bench.bytes).into()).unwrap().file),
        bench.bytes
    );
    assert!(fetch([1; 32]).unwrap_err().to_string().contains(name));
}

#[test]
fn an_archive_arrives_whole_and_leaves_nothing_behind() {
    let bench = Bench::new();
    let progress = Counter::default();
    let fetched =
        block_on(network(bench.dir.path()).fetch_archive(&bench.package(), &bench.spool(), &progress)).unwrap();
    bench.assert_fetched(fetched);
    assert_eq!(*progress.0.lock().unwrap(), (LEN as u64, 0, true));
    assert_eq!(bench.server.requests(NAME).len(), 1);
}

#[test]
fn a_dropped_connection_is_resumed_where_it_broke() {
    let bench = Bench::new();
    bench.server.rule(NAME, Behaviour::DropAfter(100_000), 2);
    bench.assert_fetched(bench.fetch(&bench.package()).unwrap());
    let ranges: Vec<_> = bench
        .server
        .requests(NAME)
        .into_iter()
        .map(|request| request.range)
        .collect();
    assert_eq!(
        ranges,
        [None, Some("bytes=100000-".to_owned()), Some("bytes=200000-".to_owned())]
    );
}

#[test]
fn a_body_without_length_is_not_taken_for_whole_when_it_is_short() {
    let bench = Bench::new();
    let package = with_size(&bench);
    bench.server.rule(NAME, Behaviour::NoLengthDropAfter(100_000), 1);
    bench.assert_fetched(bench.fetch(&package).unwrap());
    assert_eq!(bench.server.requests(NAME)[1].range.as_deref(), Some("bytes=100000-"));
}

#[test]
fn a_server_that_ignores_ranges_is_asked_from_the_beginning() {
    let bench = Bench::new();
    bench.server.rule(NAME, Behaviour::DropAfter(100_000), 1);
    bench.server.rule(NAME, Behaviour::IgnoreRange, 9);
    let progress = Counter::default();
    let fetched =
        block_on(network(bench.dir.path()).fetch_archive(&bench.package(), &bench.spool(), &progress)).unwrap();
    bench.assert_fetched(fetched);
    assert_eq!(*progress.0.lock().unwrap(), (LEN as u64, 1, true));
}

#[test]
fn passing_failures_are_retried_and_lasting_ones_are_not_forever() {
    let bench = Bench::new();
    bench.server.rule(NAME, Behaviour::Status(503), 3);
    bench.assert_fetched(bench.fetch(&bench.package()).unwrap());
    assert_eq!(bench.server.requests(NAME).len(), 4);

    bench.server.rule(NAME, Behaviour::Status(500), 1000);
    let error = bench.fetch(&bench.package()).unwrap_err();
    assert!(
        matches!(&error, FetchError::Unreachable { reason, .. } if reason.contains("500")),
        "{error}"
    );
    assert!(bench.server.requests(NAME).len() < 20);
}

#[test]
fn the_part_file_of_an_earlier_run_is_gone_on_with() {
    let bench = Bench::new();
    bench.server.rule(NAME, Behaviour::DropAfter(150_000), 1);
    bench.server.rule_after(1, NAME, Behaviour::Status(500), 4);
    bench.fetch(&bench.package()).unwrap_err();
    assert_eq!(fs::read_dir(bench.spool()).unwrap().count(), 1);

    bench.assert_fetched(bench.fetch(&bench.package()).unwrap());
    assert_eq!(
        bench.server.requests(NAME).last().unwrap().range.as_deref(),
        Some("bytes=150000-")
    );
}

#[test]
fn a_part_file_of_something_else_costs_one_more_download() {
    let bench = Bench::new();
    let part = bench
        .spool()
        .join(format!("{}.part", hex::encode(Sha256::digest(&bench.bytes))));
    for leftover in [
        archive_bytes("other", 1000),
        archive_bytes("other", LEN),
        archive_bytes("other", LEN + 5),
    ] {
        fs::create_dir_all(bench.spool()).unwrap();
        fs::write(&part, leftover).unwrap();
        bench.assert_fetched(bench.fetch(&bench.package()).unwrap());
    }
}

#[test]
fn a_file_that_changes_between_two_connections_is_fetched_anew() {
    let bench = Bench::new();
    bench.server.rule(NAME, Behaviour::Garble, 1);
    bench.server.rule(NAME, Behaviour::DropAfter(100_000), 1);
    bench.assert_fetched(bench.fetch(&bench.package()).unwrap());
    let ranges: Vec<_> = bench
        .server
        .requests(NAME)
        .into_iter()
        .map(|request| request.range)
        .collect();
    assert_eq!(ranges, [None, Some("bytes=100000-".to_owned()), None]);
}

#[test]
fn a_part_file_that_is_already_whole_needs_no_server() {
    let bench = Bench::new();
    let part = bench
        .spool()
        .join(format!("{}.part", hex::encode(Sha256::digest(&bench.bytes))));
    fs::create_dir_all(bench.spool()).unwrap();
    fs::write(part, &bench.bytes).unwrap();
    bench.assert_fetched(bench.fetch(&bench.package()).unwrap());
    assert_eq!(bench.server.requests(NAME), []);
}

#[test]
fn other_bytes_are_never_handed_over() {
    let bench = Bench::new();
    bench.server.rule(NAME, Behaviour::Garble, 1000);
    let error = bench.fetch(&bench.package()).unwrap_err();
    assert!(
        matches!(
            &error,
            FetchError::WrongDigest {
                algorithm: "sha256",
                ..
            }
        ),
        "{error}"
    );
    assert!(error.to_string().contains(NAME));

    let md5 = package(&format!(
        "{}#{}",
        bench.server.url(&format!("linux-64/{NAME}")),
        "0".repeat(32)
    ));
    let error = bench.fetch(&md5).unwrap_err();
    assert!(
        matches!(&error, FetchError::WrongDigest { algorithm: "md5", .. }),
        "{error}"
    );
}

#[test]
fn an_md5_is_enough_when_there_is_no_more() {
    let bench = Bench::new();
    let md5 = hex::encode(<[u8; 16]>::from(rattler_digest::compute_bytes_digest::<
        rattler_digest::Md5,
    >(&bench.bytes)));
    let url = bench.server.url(&format!("linux-64/{NAME}"));
    bench.assert_fetched(bench.fetch(&package(&format!("{url}#{md5}"))).unwrap());
    bench.assert_fetched(bench.fetch(&package(&url)).unwrap());
}

#[test]
fn a_file_that_is_shorter_than_the_lock_says_is_called_cut_off() {
    let bench = Bench::new();
    let package = with_size(&bench);
    bench.server.rule(NAME, Behaviour::CutTo(1000), 1000);
    let error = bench.fetch(&package).unwrap_err();
    assert!(
        matches!(error, FetchError::Truncated { expected_bytes, found_bytes: 1000, .. } if expected_bytes == LEN as u64),
        "{error}"
    );
}

#[test]
fn each_refusal_is_an_error_of_its_own() {
    let bench = Bench::new();
    let missing = package(&bench.server.url("linux-64/none-1.0-0.conda"));
    assert!(matches!(
        bench.fetch(&missing).unwrap_err(),
        FetchError::NotFound { .. }
    ));

    bench.server.rule(NAME, Behaviour::Status(403), 1);
    assert!(matches!(
        bench.fetch(&bench.package()).unwrap_err(),
        FetchError::Refused { status: 403, .. }
    ));

    bench.server.rule(NAME, Behaviour::Status(418), 1);
    assert!(matches!(
        bench.fetch(&bench.package()).unwrap_err(),
        FetchError::Status { status: 418, .. }
    ));

    let mut offline = options(bench.dir.path());
    offline.is_offline = true;
    let error = bench
        .fetch_by(&Network::new(offline).unwrap(), &bench.package())
        .unwrap_err();
    assert!(matches!(error, FetchError::Offline { .. }), "{error}");

    let closed = package(&format!("http://127.0.0.1:1/linux-64/{NAME}"));
    let error = bench.fetch(&closed).unwrap_err();
    assert!(
        matches!(&error, FetchError::Unreachable { attempts: 5, reason, .. } if reason.contains("refused")),
        "{error}"
    );

    let strange = package(&format!("s3://bucket/linux-64/{NAME}"));
    assert!(matches!(
        bench.fetch(&strange).unwrap_err(),
        FetchError::UnsupportedScheme { .. }
    ));
}

#[test]
fn credentials_come_from_the_ecosystems_files_and_never_show_up_in_messages() {
    let bench = Bench::new();
    let bearer = Behaviour::Require("Bearer secret-token".to_owned());
    bench.server.rule(NAME, bearer, 1000);
    let error = bench.fetch(&bench.package()).unwrap_err();
    assert!(matches!(error, FetchError::Refused { status: 401, .. }), "{error}");

    let file = bench.dir.path().join("credentials.json");
    fs::write(
        &file,
        format!(r#"{{"{}": {{"BearerToken": "secret-token"}}}}"#, bench.server.host()),
    )
    .unwrap();
    let mut with_file = options(bench.dir.path());
    with_file.credential_files = vec![bench.dir.path().join("missing.json"), file];
    bench.assert_fetched(
        bench
            .fetch_by(&Network::new(with_file).unwrap(), &bench.package())
            .unwrap(),
    );

    let url = bench
        .server
        .url("linux-64/none-1.0-0.conda")
        .replace("http://", "http://user:secret@");
    let error = bench.fetch(&package(&url)).unwrap_err();
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[test]
fn a_netrc_is_asked_too() {
    let bench = Bench::new();
    bench
        .server
        .rule(NAME, Behaviour::Require("Basic bWU6cGFzcw==".to_owned()), 1000);
    let netrc = bench.dir.path().join("netrc");
    fs::write(
        &netrc,
        format!("machine {} login me password pass\n", bench.server.host()),
    )
    .unwrap();
    let mut with_netrc = options(bench.dir.path());
    with_netrc.netrc = Some(netrc);
    bench.assert_fetched(
        bench
            .fetch_by(&Network::new(with_netrc).unwrap(), &bench.package())
            .unwrap(),
    );
}

#[test]
fn a_mirror_of_the_configuration_is_used() {
    let bench = Bench::new();
    let config = bench.dir.path().join("config.toml");
    fs::write(
        &config,
        format!(
            "[mirrors]\n\"http://channel.invalid/\" = [\"{}\"]\n",
            bench.server.url("")
        ),
    )
    .unwrap();
    let mut with_mirror = options(bench.dir.path());
    with_mirror.config_files = vec![config];
    let elsewhere = package(&format!(
        "http://channel.invalid/linux-64/{NAME}#sha256:{}",
        hex::encode(Sha256::digest(&bench.bytes))
    ));
    bench.assert_fetched(bench.fetch_by(&Network::new(with_mirror).unwrap(), &elsewhere).unwrap());
}

#[test]
fn a_file_url_is_opened_where_it_lies() {
    let bench = Bench::new();
    let path = bench.dir.path().join("www/linux-64").join(NAME);
    let url = format!("file://{}", path.display());
    let mut offline = options(bench.dir.path());
    offline.is_offline = true;
    let offline = Network::new(offline).unwrap();
    bench.assert_fetched(bench.fetch_by(&offline, &package(&url)).unwrap());
    assert!(path.exists());

    let wrong = package(&format!("{url}#{}", "0".repeat(64)));
    assert!(matches!(
        bench.fetch_by(&offline, &wrong).unwrap_err(),
        FetchError::WrongDigest { .. }
    ));
    fs::remove_file(&path).unwrap();
    assert!(matches!(
        bench.fetch_by(&offline, &package(&url)).unwrap_err(),
        FetchError::NotFound { .. }
    ));
}

#[test]
fn twenty_fetches_of_one_archive_at_once_share_it() {
    let bench = Bench::new();
    bench.server.rule(NAME, Behaviour::DropAfter(10_000), 5);
    let (package, spool) = (bench.package(), bench.spool());
    // Two clients stand for two processes: a lock belongs to an open file, not to a process.
    let networks = [network(bench.dir.path()), network(bench.dir.path())];
    let all = block_on(async {
        let mut all = Vec::new();
        for i in 0..20 {
            all.push(networks[i % 2].fetch_archive(&package, &spool, &NoProgress));
        }
        join_all(all).await
    });
    for fetched in all {
        assert_eq!(read(fetched.unwrap().file), bench.bytes);
    }
    assert_eq!(fs::read_dir(bench.spool()).unwrap().count(), 0);
}

#[test]
fn an_interrupted_fetch_lets_go_of_the_part_file() {
    let bench = Bench::new();
    bench.server.rule(NAME, Behaviour::DropAfter(100_000), 1);
    let mut slow = options(bench.dir.path());
    slow.first_retry_pause = std::time::Duration::from_secs(600);
    let slow = Network::new(slow).unwrap();
    block_on(async {
        let (package, spool) = (bench.package(), bench.spool());
        let fetch = slow.fetch_archive(&package, &spool, &NoProgress);
        tokio::time::timeout(std::time::Duration::from_millis(300), fetch)
            .await
            .unwrap_err();
    });
    bench.assert_fetched(bench.fetch(&bench.package()).unwrap());
    assert!(bench.server.requests(NAME).last().unwrap().range.is_some());
}

/// Polls all at once, as a build does.
async fn join_all<F: Future>(futures: Vec<F>) -> Vec<F::Output> {
    let mut running: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        let mut is_pending = false;
        for (future, output) in &mut running {
            if output.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *output = Some(value),
                    std::task::Poll::Pending => is_pending = true,
                }
            }
        }
        if is_pending {
            std::task::Poll::Pending
        } else {
            std::task::Poll::Ready(())
        }
    })
    .await;
    running.into_iter().filter_map(|(_, output)| output).collect()
}

/// The package with its size, as a channel's index gives it.
fn with_size(bench: &Bench) -> LockedPackage {
    let json = serde_json::json!({
        "name": "thing", "version": "1.0", "build": "0", "build_number": 0, "depends": [], "subdir": "linux-64",
        "fn": NAME, "url": bench.server.url(&format!("linux-64/{NAME}")), "channel": bench.server.url(""),
        "sha256": hex::encode(Sha256::digest(&bench.bytes)), "size": LEN, "files": [], "paths_data": {"paths": [], "paths_version": 1},
    });
    let package = LockedPackage::from_prefix_record_json(&serde_json::to_vec(&json).unwrap()).unwrap();
    assert_eq!(package.subdir(), "linux-64");
    package
}
