//! The socket as its clients meet it, well-behaved or not.

use super::*;
use std::os::unix::fs::PermissionsExt as _;

use monitor_core::baseline::document::Figures;
use monitor_core::engine::{Command, Selection};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

struct Running {
    dir: tempfile::TempDir,
    shutdown: CancellationToken,
    served: tokio::task::JoinHandle<Result<(), ServeError>>,
    requests: mpsc::Receiver<Request>,
    feed: Feed,
}

impl Running {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&config(&dir)).unwrap();
        let (sender, requests) = mpsc::channel(4);
        let (shutdown, feed) = (CancellationToken::new(), Feed::new());
        let served = tokio::spawn(serve(listener, sender, feed.clone(), shutdown.clone()));
        Self { dir, shutdown, served, requests, feed }
    }

    fn connect(&self) -> impl Future<Output = UnixStream> + use<> {
        let socket = config(&self.dir).socket;
        async move { UnixStream::connect(socket).await.unwrap() }
    }

    /// Sends `text` and returns all that comes back until the agent closes.
    fn exchange(&self, text: String) -> impl Future<Output = String> + use<> {
        let connected = self.connect();
        async move {
            let mut stream = connected.await;
            stream.write_all(text.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }
    }

    /// Sends a request and answers its query as `answer` says.
    async fn ask(&mut self, request: &str, answer: impl FnOnce(Query) -> Answer) -> String {
        let (head, body) = request.split_once("\n").unwrap_or((request, ""));
        let length = body.len();
        let text = format!(
            "{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        let exchange = tokio::spawn(self.exchange(text));
        tokio::select! {
            Some(request) = self.requests.recv() => {
                assert_eq!(request.actor.uid, rustix::process::geteuid().as_raw());
                assert_eq!(request.actor.pid, std::process::id());
                assert!(request.actor.executable.clone().unwrap().contains("monitor"));
                let query = request.query.clone();
                request.answer(answer(query));
            }
            () = tokio::time::sleep(Duration::from_secs(5)) => panic!("nothing was asked"),
        }
        exchange.await.unwrap()
    }
}

fn config(dir: &tempfile::TempDir) -> Config {
    Config { socket: dir.path().join("run/edgewatch.sock") }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
}

#[tokio::test]
async fn the_socket_is_its_owners_alone_and_goes_with_the_agent() {
    let running = Running::start();
    let socket = config(&running.dir).socket;
    let mode = |path: &std::path::Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&socket), 0o600);
    assert_eq!(mode(socket.parent().unwrap()), 0o700);
    running.shutdown.cancel();
    running.served.await.unwrap().unwrap();
    assert!(!socket.exists());
}

#[tokio::test]
async fn a_second_agent_is_told_who_holds_the_socket() {
    let dir = tempfile::tempdir().unwrap();
    let first = Listener::bind(&config(&dir)).unwrap();
    let socket = config(&dir).socket;
    assert_eq!(
        Listener::bind(&config(&dir)).unwrap_err().to_string(),
        format!(
            "another agent (pid {}) holds {}: stop it, or use `edgewatch status` to talk to it",
            std::process::id(),
            socket.display()
        )
    );
    assert!(socket.exists(), "the first agent's socket is still there");
    drop(first);
    // What a killed agent leaves behind.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    drop(Listener::bind(&config(&dir)).unwrap());
    std::fs::write(&socket, "precious").unwrap();
    let error = Listener::bind(&config(&dir)).unwrap_err().to_string();
    assert!(error.contains("is no socket"), "{error}");
    assert_eq!(std::fs::read(&socket).unwrap(), b"precious");
}

#[tokio::test]
async fn each_endpoint_asks_its_question() {
    let mut running = Running::start();
    let document = "POST /api/v1/baseline/difference\n{\"format\":\"edgewatch-baseline/1\"}";
    let guard = "POST /api/v1/commands\n{\"do\":\"guard\",\"services\":\"all\"}";
    let all = Selection::All;
    let one = Selection::Matching(vec!["k8s:a/*".parse().unwrap()]);
    let empty = serde_json::from_value(json!({"format": "edgewatch-baseline/1"})).unwrap();
    let cases = [
        ("GET /readyz", Query::Ready),
        ("GET /api/v1/status", Query::Status),
        ("GET /api/v1/map", Query::Map),
        ("GET /api/v1/services", Query::Services),
        ("GET /api/v1/alerts", Query::Alerts),
        ("GET /api/v1/alerts/01J", Query::Alert("01J".to_owned())),
        ("GET /api/v1/mutes", Query::Mutes),
        ("POST /api/v1/notify/test\n{}", Query::Test { receiver: None }),
        (
            "POST /api/v1/notify/test\n{\"receiver\":\"ops\"}",
            Query::Test { receiver: Some("ops".to_owned()) },
        ),
        ("GET /api/v1/baseline", Query::Baseline),
        ("GET /api/v1/baseline/undecided", Query::Undecided),
        (
            "GET /api/v1/baseline/document",
            Query::Document { selection: all.clone(), figures: Figures::Left },
        ),
        (
            "GET /api/v1/baseline/document?service=k8s%3Aa/*&evidence=true",
            Query::Document { selection: one, figures: Figures::Kept },
        ),
        (document, Query::DifferenceTo(empty)),
        (guard, Query::Command(Command::Guard { services: all })),
        ("GET /api/v1/audit?limit=7", Query::Audit { limit: 7 }),
    ];
    for (request, expected) in cases {
        let answer = running.ask(request, |query| {
            assert_eq!(query, expected);
            Ok(json!({"asked": request}))
        });
        let answer = answer.await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{request}: {answer}");
        assert!(answer.ends_with(&json!({"asked": request}).to_string()), "{request}: {answer}");
    }
}

#[tokio::test]
async fn refusals_have_a_status_and_words() {
    let mut running = Running::start();
    for (refusal, status) in [
        (Refusal::Invalid("why".to_owned()), 400),
        (Refusal::Missing("why".to_owned()), 404),
        (Refusal::Conflict("why".to_owned()), 409),
        (Refusal::Unavailable("why".to_owned()), 503),
        (Refusal::Failed("why".to_owned()), 500),
    ] {
        let answer = running.ask("GET /api/v1/status", |_| Err(refusal)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.ends_with("{\"error\":\"why\"}"), "{answer}");
    }
}

#[tokio::test]
async fn what_cannot_be_meant_never_reaches_the_engine() {
    let mut running = Running::start();
    let post = |body: &str| {
        let length = body.len();
        format!(
            "POST /api/v1/commands HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    let cases = [
        ("\u{1}\u{2}\u{3}\r\n\r\n".to_owned(), "400"),
        ("GET / HTTP/9.9\r\n\r\n".to_owned(), "400"),
        (get("/api/v1/nothing"), "404"),
        (get("/api/v1/commands"), "405"),
        (get("/api/v1/audit?limit=x"), "400"),
        (get("/api/v1/baseline/document?servise=x"), "400"),
        (post("not json"), "400"),
        (post("{\"do\":\"explode\"}"), "400"),
        (post("{\"do\":\"approve\",\"edge\":\"a b c\"}"), "400"),
        (
            "POST /api/v1/commands HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99999999999\r\n\r\n".to_owned(),
            "413",
        ),
    ];
    for (request, status) in cases {
        let answer = running.exchange(request.clone()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer}");
    }
    assert!(running.requests.try_recv().is_err());
    let answer = running.exchange(get("/healthz")).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_is_let_go() {
    let running = Running::start();
    let mut silent = running.connect().await;
    let mut answer = String::new();
    silent.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "");
}

#[tokio::test]
async fn too_many_clients_wait_for_their_turn() {
    let running = Running::start();
    let mut idle = Vec::new();
    for _ in 0..CONNECTIONS {
        idle.push(running.connect().await);
    }
    let mut late = tokio::spawn(running.exchange(get("/healthz")));
    let waited = tokio::time::timeout(Duration::from_millis(50), &mut late).await;
    assert!(waited.is_err(), "it was served beyond the limit");
    idle.pop();
    assert!(late.await.unwrap().starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn an_ending_agent_says_so() {
    let mut running = Running::start();
    running.requests.close();
    let answer = running.exchange(get("/readyz")).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
}

#[tokio::test]
async fn followers_hear_what_comes_and_what_they_missed_until_the_agent_ends() {
    let running = Running::start();
    running.feed.tell(&json!({"id": "before anybody listened"}));
    let mut stream = running.connect().await;
    stream.write_all(get("/api/v1/alerts/follow").as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    while !heard.ends_with(b"\r\n\r\n") {
        assert_ne!(stream.read_buf(&mut heard).await.unwrap(), 0);
    }
    running.feed.tell(&json!({"id": "first"}));
    while !String::from_utf8_lossy(&heard).contains("{\"id\":\"first\"}\n") {
        assert_ne!(stream.read_buf(&mut heard).await.unwrap(), 0);
    }
    // More at once than fits on its way to somebody who does not read.
    for index in 0..50_000 {
        running.feed.tell(&json!({"id": index}));
    }
    running.feed.tell(&json!({"id": "last"}));
    while !String::from_utf8_lossy(&heard).contains("{\"id\":\"last\"}\n") {
        assert_ne!(stream.read_buf(&mut heard).await.unwrap(), 0);
    }
    let text = String::from_utf8(heard).unwrap();
    assert!(text.contains("{\"missed\":") && !text.contains("before anybody"), "{}", text.len());
    running.shutdown.cancel();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    running.served.await.unwrap().unwrap();
}
