//! A web server for one folder, with the faults that real ones have.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

/// A fault, or a demand, for paths that end in a given text.
#[derive(Clone, Debug)]
pub(crate) enum Behaviour {
    /// The connection breaks after so many bytes of the body.
    DropAfter(usize),
    /// The file is announced and sent with so many bytes only, as if it were no longer.
    CutTo(usize),
    /// Neither a length nor chunks: the body ends with the connection, here after so many bytes.
    NoLengthDropAfter(usize),
    /// Ranges are ignored: always the whole file.
    IgnoreRange,
    /// Another file's bytes.
    Garble,
    /// Nothing but a status.
    Status(u16),
    /// 401 unless the header `Authorization` holds this.
    Require(String),
}

/// What a client asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorization: Option<String>,
}

struct Rule {
    suffix: String,
    behaviour: Behaviour,
    /// Requests it lets pass first.
    spared: usize,
    /// How often it still applies.
    remaining: usize,
}

struct State {
    root: PathBuf,
    rules: Mutex<Vec<Rule>>,
    requests: Mutex<Vec<Request>>,
}

/// Serves until the test ends.
pub(crate) struct Server {
    address: SocketAddr,
    state: Arc<State>,
}

impl Server {
    pub(crate) fn start(root: impl Into<PathBuf>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            root: root.into(),
            rules: Mutex::default(),
            requests: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                // A client that goes away is part of some tests.
                std::thread::spawn(move || drop(state.serve(stream)));
            }
        });
        Self { address, state }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    pub(crate) fn host(&self) -> String {
        self.address.ip().to_string()
    }

    /// Makes the next `times` requests for paths with this ending behave so.
    pub(crate) fn rule(&self, suffix: &str, behaviour: Behaviour, times: usize) {
        self.rule_after(0, suffix, behaviour, times);
    }

    /// As [`rule`](Self::rule), from a later request on.
    pub(crate) fn rule_after(&self, spared: usize, suffix: &str, behaviour: Behaviour, times: usize) {
        self.state.rules.lock().unwrap().push(Rule {
            suffix: suffix.to_owned(),
            behaviour,
            spared,
            remaining: times,
        });
    }

    pub(crate) fn requests(&self, suffix: &str) -> Vec<Request> {
        let requests = self.state.requests.lock().unwrap();
        requests
            .iter()
            .filter(|request| request.path.ends_with(suffix))
            .cloned()
            .collect()
    }
}

impl State {
    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let request = read_request(&stream)?;
        self.requests.lock().unwrap().push(request.clone());
        let behaviours = self.behaviours(&request.path);
        let mut answer = Answer {
            stream,
            is_head: request.method == "HEAD",
        };
        for behaviour in &behaviours {
            match behaviour {
                Behaviour::Status(status) => return answer.status(*status),
                Behaviour::Require(wanted) if request.authorization.as_deref() != Some(wanted) => {
                    return answer.status(401);
                }
                _ => {}
            }
        }
        let Ok(mut body) = fs::read(self.root.join(request.path.trim_start_matches('/'))) else {
            return answer.status(404);
        };
        let has = |wanted: fn(&Behaviour) -> bool| behaviours.iter().any(wanted);
        if has(|behaviour| matches!(behaviour, Behaviour::Garble)) {
            body.iter_mut().for_each(|byte| *byte ^= 0x55);
        }
        let start = request
            .range
            .as_deref()
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        let start: usize = if has(|behaviour| matches!(behaviour, Behaviour::IgnoreRange)) {
            0
        } else {
            start.unwrap_or(0)
        };
        for behaviour in &behaviours {
            match behaviour {
                Behaviour::DropAfter(bytes) => return answer.body(&body, start, Some(*bytes), true),
                Behaviour::NoLengthDropAfter(bytes) => return answer.body(&body, start, Some(*bytes), false),
                Behaviour::CutTo(bytes) => body.truncate(*bytes),
                _ => {}
            }
        }
        answer.body(&body, start, None, true)
    }

    fn behaviours(&self, path: &str) -> Vec<Behaviour> {
        let mut rules = self.rules.lock().unwrap();
        let mut active = Vec::new();
        for rule in rules.iter_mut().filter(|rule| path.ends_with(&rule.suffix)) {
            if rule.spared > 0 {
                rule.spared -= 1;
            } else if rule.remaining > 0 {
                rule.remaining -= 1;
                active.push(rule.behaviour.clone());
            }
        }
        active
    }
}

struct Answer {
    stream: TcpStream,
    is_head: bool,
}

impl Answer {
    fn status(&mut self, status: u16) -> std::io::Result<()> {
        write!(
            self.stream,
            "HTTP/1.1 {status} Status\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
    }

    fn body(&mut self, body: &[u8], start: usize, limit: Option<usize>, has_length: bool) -> std::io::Result<()> {
        if start > 0 && start >= body.len() {
            return self.status(416);
        }
        let rest = &body[start..];
        let status = if start > 0 { "206 Partial Content" } else { "200 OK" };
        write!(self.stream, "HTTP/1.1 {status}\r\nConnection: close\r\n")?;
        if start > 0 {
            write!(
                self.stream,
                "Content-Range: bytes {start}-{}/{}\r\n",
                body.len() - 1,
                body.len()
            )?;
        }
        if has_length {
            write!(self.stream, "Content-Length: {}\r\n", rest.len())?;
        }
        write!(self.stream, "\r\n")?;
        if self.is_head {
            return Ok(());
        }
        self.stream
            .write_all(&rest[..limit.unwrap_or(rest.len()).min(rest.len())])
    }
}

fn read_request(stream: &TcpStream) -> std::io::Result<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    let mut words = first.split(' ');
    let mut request = Request {
        method: words.next().unwrap_or_default().to_owned(),
        path: words.next().unwrap_or_default().to_owned(),
        range: None,
        authorization: None,
    };
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "range" => request.range = Some(value.trim().to_owned()),
            "authorization" => request.authorization = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    Ok(request)
}
