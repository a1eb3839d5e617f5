//! The world of PyPI made by hand: wheels, projects that build themselves, an index that serves them; and uv, if it can be had.

use std::cell::Cell;
use std::fs;
use std::io::{BufRead, BufReader, Read as _, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use envfs_solver::{Uv, UvOptions};
use sha2::{Digest, Sha256};

use crate::data::{RealChannel, skip};
use crate::program::{Envfs, Finished};

/// uv: the one on this machine, or one that is fetched once for all tests of this user; or nothing, said loudly.
#[must_use]
pub fn uv() -> Option<PathBuf> {
    let options = UvOptions {
        program: std::env::var_os("ENVFS_UV").map(PathBuf::from),
        search_path: std::env::var_os("PATH").unwrap_or_default(),
        cache_dir: std::env::temp_dir().join("envfs-test-uv"),
        is_offline: false,
        variable: |_| None,
    };
    match Uv::find(&options) {
        Ok(uv) => Some(uv.program().to_owned()),
        Err(error) => {
            skip(&error.to_string());
            None
        }
    }
}

/// Gives what the machine needs to reach its registry.
pub fn reach_the_registry(envfs: &mut Envfs) {
    for name in [
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "HTTPS_PROXY",
        "UV_INDEX_URL",
        "UV_DEFAULT_INDEX",
    ] {
        if let Some(value) = std::env::var_os(name) {
            envfs.set(name, value);
        }
    }
}

/// Says loudly that the registry cannot be reached, if that is what failed.
#[must_use]
pub fn is_unreachable(finished: &Finished) -> bool {
    let is_down = !finished.status.success() && finished.stderr.contains("cannot be reached");
    if is_down {
        skip(&finished.stderr);
    }
    is_down
}

/// A wheel with one module and one command, `greet`, that says where the module is.
#[must_use]
pub fn greeting(directory: &Path) -> PathBuf {
    let files = [
        ("greeting.py", "def main():\n    print('hello from', __file__)\n"),
        (
            "greeting-1.0.dist-info/entry_points.txt",
            "[console_scripts]\ngreet = greeting:main\n",
        ),
    ];
    wheel(directory, "greeting", "1.0", &files)
}

/// A pure wheel in `directory`; a `METADATA` among its files takes the place of one that says its name.
///
/// # Panics
/// When it cannot be written.
pub fn wheel(directory: &Path, name: &str, version: &str, files: &[(&str, &str)]) -> PathBuf {
    let path = directory.join(format!("{name}-{version}-py3-none-any.whl"));
    let info = format!("{name}-{version}.dist-info");
    let metadata = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n");
    let mut members: Vec<(String, &str)> = files.iter().map(|(name, text)| ((*name).to_owned(), *text)).collect();
    if !files.iter().any(|(name, _)| name.ends_with("/METADATA")) {
        members.push((format!("{info}/METADATA"), &metadata));
    }
    members.push((
        format!("{info}/WHEEL"),
        "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    ));
    let mut record = format!("{info}/RECORD,,\n");
    for (name, text) in &members {
        let digest = base64url(&Sha256::digest(text));
        record += &format!("{name},sha256={digest},{}\n", text.len());
    }
    members.push((format!("{info}/RECORD"), &record));
    write_zip(&path, &members);
    path
}

/// A wheel as [`wheel`] makes it, in which one file was changed afterwards, and its `RECORD` was not.
///
/// # Panics
/// When it cannot be written.
#[must_use]
pub fn lying_wheel(directory: &Path, name: &str, version: &str, changed: (&str, &str)) -> PathBuf {
    let path = wheel(directory, name, version, &[(changed.0, "")]);
    let mut honest = zip::ZipArchive::new(fs::File::open(&path).unwrap()).unwrap();
    let mut members = Vec::new();
    for at in 0..honest.len() {
        let mut member = honest.by_index(at).unwrap();
        let mut text = String::new();
        member.read_to_string(&mut text).unwrap();
        members.push((member.name().unwrap().into_owned(), text));
    }
    let lying: Vec<(String, &str)> = members
        .iter()
        .map(|(name, text)| (name.clone(), if name == changed.0 { changed.1 } else { text }))
        .collect();
    write_zip(&path, &lying);
    path
}

/// Base 64 with the alphabet of URLs, without padding (RFC 4648, 5), as `RECORD` wants it.
pub(crate) fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits: Vec<bool> = bytes
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1))
        .collect();
    let digits = bits.chunks(6).map(|chunk| {
        let value = (0..6).fold(0, |value, bit| {
            value << 1 | usize::from(*chunk.get(bit).unwrap_or(&false))
        });
        char::from(ALPHABET[value])
    });
    digits.collect()
}

/// The directory of a project called `name` whose build backend is part of it (PEP 517, `backend-path`), so that building
/// needs no network. The wheel has a module of its name that says `VALUE`, `PYTHON` (which one built it) and `HERE` (where it
/// is); an editable one has the path of the sources. Every build rings at the [`Bell`] that the variable `BUILD_BELL` names: it can
/// write nowhere.
///
/// # Panics
/// When it cannot be written.
pub fn project(directory: &Path, name: &str, value: &str) -> PathBuf {
    let root = directory.join(name);
    fs::create_dir_all(root.join("src")).unwrap();
    let pyproject = format!(
        "[build-system]\nrequires = []\nbuild-backend = \"backend\"\nbackend-path = [\".\"]\n\n\
         [project]\nname = \"{name}\"\nversion = \"1.0\"\n"
    );
    fs::write(root.join("pyproject.toml"), pyproject).unwrap();
    fs::write(root.join("backend.py"), BACKEND).unwrap();
    let module = format!("VALUE = {value:?}\nHERE = __file__\n");
    fs::write(root.join("src").join(format!("{name}.py")), module).unwrap();
    root
}

/// The source distribution of a [`project`], as a zip.
///
/// # Panics
/// When it cannot be written.
pub fn sdist(directory: &Path, name: &str, value: &str) -> PathBuf {
    let sources = tempfile::tempdir().unwrap();
    let root = project(sources.path(), name, value);
    let stem = format!("{name}-1.0");
    let path = directory.join(format!("{stem}.zip"));
    let texts = [
        "pyproject.toml".to_owned(),
        "backend.py".to_owned(),
        format!("src/{name}.py"),
    ]
    .map(|file| (format!("{stem}/{file}"), fs::read_to_string(root.join(&file)).unwrap()));
    let metadata = format!("Metadata-Version: 2.2\nName: {name}\nVersion: 1.0\n");
    let mut members: Vec<(String, &str)> = texts.iter().map(|(name, text)| (name.clone(), text.as_str())).collect();
    members.push((format!("{stem}/PKG-INFO"), &metadata));
    write_zip(&path, &members);
    path
}

const BACKEND: &str = r#"import base64, hashlib, os, socket, sys, zipfile

NAME = next(n for n in os.listdir("src") if n.endswith(".py"))[:-3]


def _wheel(directory, editable):
    if "BUILD_BELL" in os.environ:
        with socket.socket(socket.AF_UNIX) as bell:
            bell.connect(os.environ["BUILD_BELL"])
    if os.path.exists("fail"):
        raise SystemExit("the compiler of " + NAME + " is on strike")
    name = NAME + "-1.0-py3-none-any.whl"
    info = NAME + "-1.0.dist-info/"
    with zipfile.ZipFile(os.path.join(directory, name), "w") as wheel:
        rows = [info + "RECORD,,"]

        def put(name, text):
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
            rows.append("%s,sha256=%s,%d" % (name, digest, len(text.encode())))
            wheel.writestr(zipfile.ZipInfo(name), text)

        if editable:
            put(NAME + ".pth", os.path.abspath("src") + "\n")
        else:
            put(NAME + ".py", open("src/" + NAME + ".py").read() + "PYTHON = %r\n" % sys.version)
        put(info + "METADATA", "Metadata-Version: 2.1\nName: " + NAME + "\nVersion: 1.0\n")
        put(info + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        put(info + "entry_points.txt", "[console_scripts]\n%s = %s:HERE.upper\n" % (NAME, NAME))
        wheel.writestr(zipfile.ZipInfo(info + "RECORD"), "\n".join(rows) + "\n")
    return name


def build_wheel(directory, config_settings=None, metadata_directory=None):
    return _wheel(directory, False)


def build_editable(directory, config_settings=None, metadata_directory=None):
    return _wheel(directory, True)
"#;

fn write_zip(path: &Path, members: &[(String, &str)]) {
    let mut zip = zip::ZipWriter::new(fs::File::create(path).unwrap());
    for (name, content) in members {
        zip.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        zip.write_all(content.as_bytes()).unwrap();
    }
    zip.finish().unwrap();
}

/// Where builds ring.
pub struct Bell {
    socket: UnixListener,
    rung: Cell<usize>,
}

impl Bell {
    /// Hangs it at a path.
    ///
    /// # Panics
    /// When it cannot be there.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        let socket = UnixListener::bind(path).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self {
            socket,
            rung: Cell::new(0),
        }
    }

    /// How often it was rung.
    #[must_use]
    pub fn rung(&self) -> usize {
        while self.socket.accept().is_ok() {
            self.rung.set(self.rung.get() + 1);
        }
        self.rung.get()
    }
}

/// A package index on this machine (PEP 503) that serves the files of a directory, and counts the questions.
pub struct Index {
    url: String,
    questions: Arc<AtomicUsize>,
}

impl Index {
    /// Serves `directory` until the test has ended.
    ///
    /// # Panics
    /// When there is no port to listen at.
    #[must_use]
    pub fn serve(directory: &Path) -> Self {
        Self::serve_to(directory, None)
    }

    /// Serves it to whoever says this (`Basic dXNlcjpwYXNzd29yZA==`, RFC 7617), and to nobody else.
    ///
    /// # Panics
    /// When there is no port to listen at.
    #[must_use]
    pub fn serve_to(directory: &Path, authorization: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/simple", listener.local_addr().unwrap());
        let questions = Arc::new(AtomicUsize::new(0));
        let (directory, counter) = (directory.to_owned(), Arc::clone(&questions));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (directory, counter) = (directory.clone(), Arc::clone(&counter));
                // A client that goes away in between is none to be told.
                std::thread::spawn(move || answer(stream, &directory, authorization, &counter).ok());
            }
        });
        Self { url, questions }
    }

    /// Its address, for `--index-url`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// How often it was asked for anything.
    #[must_use]
    pub fn questions(&self) -> usize {
        self.questions.load(Ordering::SeqCst)
    }
}

fn answer(
    mut stream: TcpStream,
    directory: &Path,
    authorization: Option<&str>,
    questions: &AtomicUsize,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    let mut is_welcome = authorization.is_none();
    for line in lines {
        let line = line?;
        if line.is_empty() {
            break;
        }
        is_welcome |= line
            .split_once(": ")
            .is_some_and(|(name, value)| name.eq_ignore_ascii_case("authorization") && Some(value) == authorization);
    }
    if !is_welcome {
        let refused = "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        return stream.write_all(refused.as_bytes());
    }
    questions.fetch_add(1, Ordering::SeqCst);
    let path = request.split(' ').nth(1).unwrap_or_default();
    let name = path.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    let (kind, body) = if path.starts_with("/simple/") {
        ("text/html", links(directory, name).into_bytes())
    } else {
        (
            "application/octet-stream",
            fs::read(directory.join(name)).unwrap_or_default(),
        )
    };
    let status = if body.is_empty() { "404 Not Found" } else { "200 OK" };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )?;
    if !request.starts_with("HEAD") {
        stream.write_all(&body)?;
    }
    Ok(())
}

/// The files of a project, with their digests; nothing if there are none.
fn links(directory: &Path, project: &str) -> String {
    let mut page = String::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_file() && name.split('-').next() == Some(project) {
            let digest = hex::encode(Sha256::digest(fs::read(entry.path()).unwrap()));
            page += &format!("<a href=\"/files/{name}#sha256={digest}\">{name}</a>\n");
        }
    }
    page
}

/// A store with the Python of [`RealChannel::local`] and a uv with a cache of its own; or nothing, said loudly.
#[must_use]
pub fn room() -> Option<(Envfs, RealChannel)> {
    let channel = RealChannel::local()?;
    let mut envfs = Envfs::new();
    envfs.set("ENVFS_UV", uv()?);
    envfs.set("UV_CACHE_DIR", envfs.path().join("uv-cache"));
    Some((envfs, channel))
}
