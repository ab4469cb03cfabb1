//! A webhook's other end: a real HTTP server that records what it is sent, answers as it is told,
//! and can be away. Signatures are checked by its own arithmetic.

use std::io::{BufRead, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::waiting::eventually;

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    pub at: Instant,
    pub method: String,
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The status it was answered with.
    pub answered: u16,
}

/// How to answer a request.
#[derive(Debug, Clone, Copy)]
pub struct Answer {
    pub status: u16,
    pub retry_after_s: Option<u32>,
}

/// As whom it answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Role {
    /// With 204, and without a word.
    #[default]
    Program,
    /// With 200, and in words.
    Slack,
}

/// What a receiver does instead of answering properly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Reads the request and says nothing, until it leaves.
    Holds,
    /// Accepts it, so much later.
    Slow(Duration),
    /// Hangs up properly, without an answer.
    Closes,
    /// Hangs up with a reset.
    Resets,
    /// Accepts it, with a body that never ends.
    Endless,
    /// Sends it elsewhere.
    Redirects,
}

/// The server. Its address is its own, so that it can leave and come back.
#[derive(Debug)]
pub struct Receiver {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct State {
    requests: Vec<Request>,
    /// What to do with the next ones instead of answering.
    manners: Vec<Manner>,
    /// How to answer the next ones; then with 204.
    answers: Vec<Answer>,
    role: Role,
    /// Away from the next connection on.
    leaving: bool,
}

static NUMBER: AtomicU16 = AtomicU16::new(1);

impl Receiver {
    /// What deliveries are signed with.
    pub const SECRET: &str =
        "a key for tests, of more than sixty-four bytes, so that it is hashed first";

    /// Starts to listen at a loopback address that no other process uses.
    #[track_caller]
    #[must_use]
    pub fn start() -> Self {
        let [high, low] = NUMBER.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let process = (std::process::id() % 199).to_le_bytes()[0] + 1;
        let address = SocketAddr::from((Ipv4Addr::new(127, process, high, low), 8099));
        let mut receiver = Self { address, state: Arc::default(), thread: None };
        receiver.come_back();
        receiver
    }

    /// Starts one that answers as Slack does.
    #[track_caller]
    #[must_use]
    pub fn slack() -> Self {
        let receiver = Self::start();
        receiver.state().role = Role::Slack;
        receiver
    }

    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// Writes the key where the configuration can name it.
    #[track_caller]
    pub fn write_secret(path: &Path) {
        std::fs::write(path, format!("{}\n", Self::SECRET)).expect("the place is ours");
    }

    /// Stops listening: who dials now is refused.
    pub fn leave(&mut self) {
        self.state().leaving = true;
        // The knock that ends the wait for a connection.
        drop(TcpStream::connect(self.address));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }

    /// Listens again.
    #[track_caller]
    pub fn come_back(&mut self) {
        self.state().leaving = false;
        let listener = match TcpListener::bind(self.address) {
            Ok(listener) => listener,
            Err(error) => panic!("listen at {}: {error}", self.address),
        };
        let state = Arc::clone(&self.state);
        self.thread = Some(thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if lock(&state).leaving {
                    return;
                }
                let state = Arc::clone(&state);
                // Who hangs up half-way has sent nothing.
                thread::spawn(move || drop(serve(stream, &state)));
            }
        }));
    }

    /// Answers the next requests like this, one each.
    pub fn answers(&self, answers: &[Answer]) {
        self.state().answers.extend(answers.iter().rev());
    }

    /// Treats the next requests like this, one each, before it answers again.
    pub fn behaves(&self, manners: &[Manner]) {
        self.state().manners.extend(manners.iter().rev());
    }

    /// Everything that came, also what was turned away.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.state().requests.clone()
    }

    /// What was accepted, as alerts, in order.
    #[must_use]
    pub fn alerts(&self) -> Vec<Value> {
        let accepted = self.requests().into_iter().filter(|it| it.answered < 300);
        accepted.map(|it| it.alert()).collect()
    }

    /// Waits for a request that was accepted and holds an alert that `fits`.
    #[track_caller]
    pub fn request(
        &self,
        patience: Duration,
        what: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Request {
        eventually(patience, what, || {
            let requests = self.requests();
            let found = requests.iter().find(|it| it.answered < 300 && fits(&it.alert()));
            found.cloned().ok_or_else(|| told(&requests))
        })
    }

    /// Waits for an alert that `fits`.
    #[track_caller]
    pub fn alert(&self, patience: Duration, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.request(patience, what, fits).alert()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Request {
    /// In place of a status where there was none.
    pub const UNANSWERED: u16 = 999;

    /// Names the message: the same for every try.
    #[track_caller]
    #[must_use]
    pub fn key(&self) -> &str {
        self.header("idempotency-key").expect("every delivery has a key")
    }

    /// The header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let named = self.headers.iter().find(|(given, _)| given == name);
        named.map(|(_, value)| value.as_str())
    }

    /// The body as an alert.
    #[track_caller]
    #[must_use]
    pub fn alert(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(alert) => alert,
            Err(error) => panic!("no JSON: {error}: {}", String::from_utf8_lossy(&self.body)),
        }
    }

    /// Checks what every delivery owes: method, type, key and signature.
    #[track_caller]
    pub fn is_proper(&self) {
        let alert = self.alert();
        assert_eq!((self.method.as_str(), self.path.as_str()), ("POST", "/hook"));
        assert_eq!(self.header("content-type"), Some("application/json"));
        let id = alert["id"].as_str().unwrap_or_default();
        let key = format!("{id}/{}", alert["revision"]);
        assert_eq!(self.header("idempotency-key"), Some(key.as_str()), "{alert}");
        let signature = format!("sha256={}", hmac(Receiver::SECRET.as_bytes(), &self.body));
        assert_eq!(self.header("x-edgewatch-signature"), Some(signature.as_str()));
    }
}

/// The requests, one a line, for a failed test.
fn told(requests: &[Request]) -> String {
    let line = |request: &Request| {
        let alert = request.alert();
        let key = request.header("idempotency-key").unwrap_or("no key");
        let edges: Vec<String> = findings(&alert).map(finding_text).collect();
        format!(
            "  {} {key} {} {}: {}",
            request.answered,
            alert["state"],
            alert["title"],
            edges.join("; ")
        )
    };
    let lines: Vec<String> = requests.iter().map(line).collect();
    format!("{} requests\n{}", lines.len(), lines.join("\n"))
}

/// An alert's findings.
pub fn findings(alert: &Value) -> impl Iterator<Item = &Value> {
    alert["findings"].as_array().into_iter().flatten()
}

/// A finding's edge as it is written everywhere.
#[must_use]
pub fn edge_of(finding: &Value) -> String {
    let edge = &finding["edge"];
    let text = |key: &str| edge[key].as_str().unwrap_or("?").to_owned();
    format!("{} -> {} {}/{}", text("client"), text("server"), edge["port"], text("protocol"))
}

fn finding_text(finding: &Value) -> String {
    format!("{} {} {}", finding["kind"], edge_of(finding), finding["outcome"])
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One request a connection.
fn serve(stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let line = whole_line(&mut reader)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = Vec::new();
    loop {
        let line = whole_line(&mut reader)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = headers.iter().find(|(name, _)| name == "content-length");
    let length = length.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (role, manner, answer) = {
        let mut state = lock(state);
        let role = state.role;
        let accepted = if role == Role::Slack { 200 } else { 204 };
        let manner = state.manners.pop();
        let answer = match manner {
            None => state.answers.pop(),
            Some(Manner::Slow(_)) => None,
            Some(Manner::Endless) => Some(Answer { status: 200, retry_after_s: None }),
            Some(Manner::Redirects) => Some(Answer { status: 307, retry_after_s: None }),
            Some(Manner::Holds | Manner::Closes | Manner::Resets) => {
                Some(Answer { status: Request::UNANSWERED, retry_after_s: None })
            }
        };
        let answer = answer.unwrap_or(Answer { status: accepted, retry_after_s: None });
        let at = Instant::now();
        let request = Request { at, method, path, headers, body, answered: answer.status };
        state.requests.push(request);
        (role, manner, answer)
    };
    if let Some(manner) = manner
        && misbehave(manner, &stream, state)?
    {
        return Ok(());
    }
    let wait = answer.retry_after_s.map(|it| format!("Retry-After: {it}\r\n")).unwrap_or_default();
    let words = said(role, answer.status);
    // In one piece: a reader may look at the first that comes.
    let response = format!(
        "HTTP/1.1 {} Told\r\n{wait}Content-Length: {}\r\nConnection: close\r\n\r\n{words}",
        answer.status,
        words.len()
    );
    (&stream).write_all(response.as_bytes())
}

/// The next line. Who is killed half-way through one has not said it: an end in the middle of the
/// headers must not pass for the empty line after them.
fn whole_line(reader: &mut impl BufRead) -> std::io::Result<String> {
    let mut line = String::new();
    reader.read_line(&mut line)?;
    if line.ends_with('\n') { Ok(line) } else { Err(ErrorKind::UnexpectedEof.into()) }
}

/// Slack's word for each status.
const fn said(role: Role, status: u16) -> &'static str {
    match (role, status) {
        (Role::Program, _) => "",
        (Role::Slack, 200) => "ok",
        (Role::Slack, 410) => "channel_is_archived",
        (Role::Slack, 429) => "rate_limited",
        (Role::Slack, _) => "rollup_error",
    }
}

/// Whether that was all of it.
fn misbehave(manner: Manner, stream: &TcpStream, state: &Mutex<State>) -> std::io::Result<bool> {
    let mut stream = stream;
    match manner {
        Manner::Slow(pause) => {
            thread::sleep(pause);
            return Ok(false);
        }
        Manner::Holds => {
            // Until the other side hangs up, or this one leaves.
            stream.set_read_timeout(Some(Duration::from_millis(100)))?;
            while !lock(state).leaving && !matches!(stream.read(&mut [0; 64]), Ok(0)) {}
        }
        Manner::Closes => {}
        Manner::Resets => {
            rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO))?;
        }
        Manner::Endless => {
            stream.write_all(b"HTTP/1.1 200 Told\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            // Until nobody reads any more.
            while stream.write_all(b"8\r\nfor ever\r\n").is_ok() {}
        }
        Manner::Redirects => {
            let elsewhere = stream.local_addr()?;
            let response = format!(
                "HTTP/1.1 307 Told\r\nLocation: http://{elsewhere}/elsewhere\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(response.as_bytes())?;
        }
    }
    Ok(true)
}

/// HMAC-SHA256 (RFC 2104) in hexadecimal.
fn hmac(key: &[u8], message: &[u8]) -> String {
    const BLOCK: usize = 64;
    let mut padded = [0; BLOCK];
    if key.len() > BLOCK {
        padded[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        padded[..key.len()].copy_from_slice(key);
    }
    let pad = |with: u8| padded.map(|byte| byte ^ with);
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    let outer = Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize();
    outer.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_breaks_off_was_not_made() {
        let whole = b"POST /hook HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}";
        for cut in (0..whole.len()).chain([whole.len()]) {
            let receiver = Receiver::start();
            let mut stream = TcpStream::connect(receiver.address).expect("it listens");
            stream.write_all(&whole[..cut]).expect("it reads");
            stream.shutdown(std::net::Shutdown::Write).expect("it is ours");
            // It answers, or hangs up: then it has made up its mind.
            drop(stream.read_to_end(&mut Vec::new()));
            assert_eq!(receiver.requests().len(), usize::from(cut == whole.len()), "{cut}");
        }
    }

    #[test]
    fn the_arithmetic_is_that_of_the_standard() {
        // RFC 4231, test cases 2 and 6.
        assert_eq!(
            hmac(b"Jefe", b"what do ya want for nothing?"),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(
            hmac(&[0xaa; 131], b"Test Using Larger Than Block-Size Key - Hash Key First"),
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"
        );
    }

    #[test]
    fn it_misbehaves_as_told() {
        let receiver = Receiver::start();
        let slow = Duration::from_millis(300);
        let manners = [
            Manner::Slow(slow),
            Manner::Closes,
            Manner::Resets,
            Manner::Redirects,
            Manner::Endless,
            Manner::Holds,
        ];
        receiver.behaves(&manners);
        let mut said = Vec::new();
        for manner in manners {
            let mut stream = TcpStream::connect(receiver.address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            write!(stream, "POST /hook HTTP/1.1\r\nContent-Length: 2\r\n\r\n{{}}").unwrap();
            let started = Instant::now();
            let mut answer = vec![0; 4 << 10];
            let read = stream.read(&mut answer).map_err(|error| error.kind());
            assert!(manner != Manner::Slow(slow) || started.elapsed() >= slow);
            if manner == Manner::Endless {
                stream.read_exact(&mut vec![0; 1 << 20]).unwrap();
            }
            let status =
                read.map(|count| String::from_utf8_lossy(&answer[..count.min(12)]).into_owned());
            said.push(status);
        }
        let status = |status: &str| Ok(format!("HTTP/1.1 {status}"));
        let reset = Err(ErrorKind::ConnectionReset);
        let silence = Err(ErrorKind::WouldBlock);
        let expected =
            [status("204"), Ok(String::new()), reset, status("307"), status("200"), silence];
        assert_eq!(said, expected);
        assert_eq!(receiver.alerts().len(), 2, "slow, and without an end");
    }

    #[test]
    fn it_answers_as_told_and_can_be_away() {
        let mut receiver = Receiver::start();
        receiver.answers(&[Answer { status: 429, retry_after_s: Some(7) }]);
        let post = |receiver: &Receiver| -> std::io::Result<String> {
            let mut stream = TcpStream::connect(receiver.address)?;
            write!(stream, "POST /hook HTTP/1.1\r\nX-A: b\r\nContent-Length: 2\r\n\r\n{{}}")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).map(|_| answer)
        };
        let first = post(&receiver).unwrap();
        assert!(first.starts_with("HTTP/1.1 429 ") && first.contains("Retry-After: 7"), "{first}");
        receiver.leave();
        assert!(post(&receiver).is_err());
        receiver.come_back();
        assert!(post(&receiver).unwrap().starts_with("HTTP/1.1 204 "));
        assert_eq!(receiver.requests().len(), 2);
        assert_eq!(receiver.requests()[0].header("x-a"), Some("b"));
        assert_eq!(receiver.alerts(), [serde_json::json!({})]);
    }
}
