//! Deliveries to receivers that behave and that do not, over real sockets on loopback.

use std::io::{Read as _, Write as _};

use axum::body::Bytes;
use axum::http::{HeaderMap, Method, Uri};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;

use super::*;

/// What [`delivery`] is as JSON.
const BODY: &str = r#"{"schema":"edgewatch-test/1","id":"01J0ABC","revision":2,"severity":"low","title":"é","node":"n1","at":"1970-01-01T00:00:00Z"}"#;

fn delivery() -> Delivery {
    Delivery { sink: "ops".to_owned(), message: Message::Test(serde_json::from_str(BODY).unwrap()) }
}

fn sink(more: &str) -> SinkConfig {
    toml::from_str(&format!("name = 'ops'\n{more}")).unwrap()
}

fn webhook(url: &str, more: &str) -> SinkConfig {
    sink(&format!("kind = 'webhook'\nurl = '{url}'\n{more}"))
}

fn build(sink: SinkConfig) -> Result<Notifier, String> {
    let environment = |name: &str| match name {
        "URL" => Some("https://hooks.example/services/T0/s3cret".into()),
        "PLAIN" => Some("http://hooks.example/services/T0/s3cret".into()),
        "JUNK" => Some("s3cret".into()),
        _ => None,
    };
    Notifier::build_with(&[sink], Box::new(std::io::sink()), &environment)
        .map_err(|error| error.to_string())
}

async fn deliver(sink: SinkConfig) -> Outcome {
    build(sink).unwrap().deliver(&delivery()).await
}

/// The reason for which the delivery is to be tried again.
#[track_caller]
fn why(outcome: Outcome) -> String {
    match outcome {
        Outcome::Retry { why, .. } => why,
        Outcome::Accepted | Outcome::NoSuchSink => panic!("{outcome:?}"),
    }
}

struct Request {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
}

impl Request {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A well-behaved receiver that answers all with `status` and `headers`.
async fn receiver(
    status: u16,
    headers: &[(&str, &str)],
) -> (String, mpsc::UnboundedReceiver<Request>) {
    wordy_receiver(status, headers, "").await
}

/// One that also has something to say.
async fn wordy_receiver(
    status: u16,
    headers: &[(&str, &str)],
    words: &'static str,
) -> (String, mpsc::UnboundedReceiver<Request>) {
    let status = axum::http::StatusCode::from_u16(status).unwrap();
    let mut answer = HeaderMap::new();
    for (name, value) in headers {
        let name: axum::http::HeaderName = name.parse().unwrap();
        answer.insert(name, value.parse().unwrap());
    }
    let (seen, requests) = mpsc::unbounded_channel();
    let app = axum::Router::new().fallback(
        async move |method: Method, uri: Uri, headers: HeaderMap, body: Bytes| {
            let request = Request { method, uri, headers, body };
            seen.send(request).ok().unwrap();
            (status, answer, words)
        },
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (format!("http://{address}/hook/s3cret?key=s3cret"), requests)
}

/// A receiver that reads the request whole, then does as it likes with the connection.
async fn rude<F>(then: impl FnOnce(TcpStream) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _client) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(BODY.as_bytes()) {
            assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
        }
        then(stream).await;
    });
    format!("http://{address}/hook/s3cret?key=s3cret")
}

#[tokio::test]
async fn any_2xx_accepts() {
    for status in [200, 201, 202, 204] {
        let (url, mut requests) = receiver(status, &[]).await;
        assert_eq!(deliver(webhook(&url, "")).await, Outcome::Accepted);
        let request = requests.recv().await.unwrap();
        assert_eq!(request.method, Method::POST);
        assert_eq!(request.uri, "/hook/s3cret?key=s3cret");
        assert_eq!(request.body, BODY);
        assert_eq!(request.header("content-type"), "application/json");
        assert_eq!(request.header("idempotency-key"), "01J0ABC/2");
        assert_eq!(request.header("x-edgewatch-signature"), "");
        let agent = format!("edgewatch/{}", env!("CARGO_PKG_VERSION"));
        assert_eq!(request.header("user-agent"), agent);
    }
}

#[tokio::test]
async fn a_secret_signs_the_raw_body() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("secret");
    std::fs::write(&path, "key\n").unwrap();
    let (url, mut requests) = receiver(200, &[]).await;
    let sink = webhook(&url, &format!("secret_file = '{}'", path.display()));
    assert_eq!(deliver(sink).await, Outcome::Accepted);
    let request = requests.recv().await.unwrap();
    // printf '%s' BODY | openssl dgst -sha256 -hmac key
    assert_eq!(
        request.header("x-edgewatch-signature"),
        "sha256=684e7c739beba821dee3ac05a175a9a7c646f921747160db17c97e933f04ed8b"
    );
}

#[tokio::test]
async fn localhost_is_this_machine() {
    let (url, _requests) = receiver(200, &[]).await;
    let url = url.replace("127.0.0.1", "localhost");
    assert_eq!(deliver(webhook(&url, "")).await, Outcome::Accepted);
}

#[tokio::test]
async fn a_key_cannot_add_headers() {
    let (url, mut requests) = receiver(200, &[]).await;
    let notifier = build(webhook(&url, "")).unwrap();
    let mut delivery = delivery();
    if let Message::Test(test) = &mut delivery.message {
        test.id = "a\r\nX-Evil: 1".to_owned();
    }
    assert_eq!(notifier.deliver(&delivery).await, Outcome::Accepted);
    let request = requests.recv().await.unwrap();
    assert_eq!(request.header("idempotency-key"), "a%0D%0AX-Evil:%201/2");
    assert_eq!(request.header("x-evil"), "");
}

#[tokio::test]
async fn a_refusal_is_told_by_its_status() {
    for (status, said) in [
        (400, "400 Bad Request"),
        (404, "404 Not Found; is the URL still the receiver's?"),
        (410, "410 Gone"),
        (500, "500 Internal Server Error"),
        (503, "503 Service Unavailable"),
    ] {
        let (url, _requests) = receiver(status, &[]).await;
        let why = why(deliver(webhook(&url, "")).await);
        assert!(why.contains(said), "{why}");
        assert!(!why.contains("s3cret"), "{why}");
        assert!(why.starts_with("http://127.0.0.1:"), "{why}");
    }
}

#[tokio::test]
async fn a_receiver_may_ask_to_be_left_alone() {
    for (status, value, least, most) in [
        (429, "7", 7, 7),
        (503, "86400", 3600, 3600),
        (429, "Fri, 31 Dec 2199 23:59:59 GMT", 3600, 3600),
    ] {
        let (url, _requests) = receiver(status, &[("Retry-After", value)]).await;
        let Outcome::Retry { after, why } = deliver(webhook(&url, "")).await else {
            panic!("{value}");
        };
        let after = after.unwrap().as_secs();
        assert!((least..=most).contains(&after), "{value}: {after}");
        assert!(why.contains(&status.to_string()), "{why}");
    }
}

fn slack(url: &str) -> SinkConfig {
    sink(&format!("kind = 'slack'\nurl = '{url}'"))
}

#[tokio::test]
async fn slack_accepts_with_the_word_ok() {
    let (url, mut requests) = wordy_receiver(200, &[], "ok").await;
    assert_eq!(deliver(slack(&url)).await, Outcome::Accepted);
    let request = requests.recv().await.unwrap();
    assert_eq!(
        (&request.method, request.header("content-type")),
        (&Method::POST, "application/json")
    );
    let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
    assert_eq!(body["blocks"][0]["type"], "header");
    for (status, words) in [(200, "<html>Please log in</html>"), (200, ""), (204, "ok")] {
        let (url, _requests) = wordy_receiver(status, &[], words).await;
        let why = why(deliver(slack(&url)).await);
        assert!(why.starts_with(&format!("http://127.0.0.1:{}", &url[17..20])), "{why}");
    }
}

#[tokio::test]
async fn slacks_refusals_are_told_with_their_mend() {
    for (status, words, said) in [
        (400, "invalid_payload", "400 Bad Request (invalid_payload: Slack cannot read"),
        (403, "action_prohibited", "(action_prohibited: an administrator"),
        (404, "no_service", "(no_service: the webhook was removed"),
        (404, "channel_not_found", "(channel_not_found: the channel is gone"),
        (410, "channel_is_archived", "410 Gone (channel_is_archived: the channel is archived"),
        (500, "rollup_error", "(rollup_error: trouble at Slack"),
        (400, "what is\nthat\u{1b}", "(what is?that?)"),
        (503, "", "503 Service Unavailable"),
    ] {
        let (url, _requests) = wordy_receiver(status, &[], words).await;
        let why = why(deliver(slack(&url)).await);
        assert!(why.contains(said), "{why}");
        assert!(!why.contains("s3cret"), "{why}");
    }
    let (url, _requests) = wordy_receiver(429, &[("Retry-After", "30")], "rate_limited").await;
    let Outcome::Retry { after, why } = deliver(slack(&url)).await else { panic!() };
    assert_eq!(after, Some(Duration::from_secs(30)));
    assert!(why.contains("lower rate"), "{why}");
}

#[tokio::test]
async fn slacks_endless_words_are_not_read() {
    let (stopped, mut end) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook/s3cret", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _client) = listener.accept().await.unwrap();
        let head = b"HTTP/1.1 500 No\r\nContent-Length: 1000000000000\r\n\r\n";
        stream.write_all(head).await.unwrap();
        while stream.write_all(&[b'x'; 65536]).await.is_ok() {}
        stopped.send(()).unwrap();
    });
    let why = why(deliver(slack(&url)).await);
    assert!(why.len() < 400, "{why}");
    end.recv().await.unwrap();
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let (elsewhere, mut followed) = receiver(200, &[]).await;
        let (url, _requests) = receiver(status, &[("Location", &elsewhere)]).await;
        let why = why(deliver(webhook(&url, "")).await);
        assert!(why.contains("redirects are not followed"), "{why}");
        assert!(!why.contains("s3cret"), "{why}");
        assert!(followed.try_recv().is_err());
    }
}

#[tokio::test]
async fn a_receiver_that_never_answers_is_given_up() {
    let url = rude(|stream| async move {
        let _held = stream;
        std::future::pending().await
    })
    .await;
    let why = why(deliver(webhook(&url, "timeout = '200ms'")).await);
    assert!(why.starts_with("no answer from http://127.0.0.1:"), "{why}");
    assert!(why.ends_with("within 200ms"), "{why}");
}

#[tokio::test]
async fn a_closed_port_is_told() {
    // Bound and not listening: nobody else can come to have this port.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let why = why(deliver(webhook(&format!("http://{address}/s3cret"), "")).await);
    assert!(why.contains("Connection refused"), "{why}");
    assert!(!why.contains("s3cret"), "{why}");
}

#[tokio::test]
async fn a_connection_that_ends_early_is_told() {
    let reset = rude(|stream| async move { stream.set_zero_linger().unwrap() }).await;
    let close = rude(|stream| async move { drop(stream) }).await;
    let junk = rude(|mut stream| async move {
        stream.write_all(b"220 mail.example ESMTP\r\n").await.unwrap();
    })
    .await;
    for url in [reset, close, junk] {
        let why = why(deliver(webhook(&url, "")).await);
        assert!(why.contains("was not reached or hung up: "), "{why}");
        assert!(!why.contains("s3cret"), "{why}");
    }
}

#[tokio::test]
async fn an_endless_answer_is_not_read() {
    let (stopped, mut end) = mpsc::unbounded_channel();
    let url = rude(move |mut stream| async move {
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
            .await
            .unwrap();
        while stream.write_all(&[b'x'; 65536]).await.is_ok() {}
        stopped.send(()).unwrap();
    })
    .await;
    let notifier = build(webhook(&url, "timeout = '5m'")).unwrap();
    assert_eq!(notifier.deliver(&delivery()).await, Outcome::Accepted);
    end.recv().await.unwrap();

    let url = rude(|mut stream| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\n").await.unwrap();
        while stream.write_all(b"X-Filler: x\r\n").await.is_ok() {}
    })
    .await;
    let notifier = build(webhook(&url, "timeout = '5m'")).unwrap();
    why(notifier.deliver(&delivery()).await);
}

#[tokio::test]
async fn a_proxy_sees_the_host_and_no_more() {
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = proxy.local_addr().unwrap();
    let asked = tokio::spawn(async move {
        let (mut stream, _client) = proxy.accept().await.unwrap();
        let mut read = Vec::new();
        while !read.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
        }
        stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        String::from_utf8(read).unwrap()
    });
    let more = format!("kind = 'webhook'\nurl_env = 'URL'\nproxy = 'http://{address}'");
    let why = why(deliver(sink(&more)).await);
    assert!(why.starts_with("https://hooks.example was not"), "{why}");
    let asked = asked.await.unwrap();
    assert!(asked.starts_with("CONNECT hooks.example:443 "), "{asked}");
    assert!(!asked.contains("s3cret") && !why.contains("s3cret"));
}

#[test]
fn the_environments_proxies_are_not_used() {
    let tested = std::env::current_exe().unwrap();
    let mut again = std::process::Command::new(tested);
    again.args(["--exact", "notify::tests::any_2xx_accepts"]);
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "ALL_PROXY"] {
        // Port 1 of an address that is nobody's.
        again.env(name, "http://192.0.2.1:1");
    }
    let output = again.env("NO_PROXY", "").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("1 passed"), "{said}");
}

#[tokio::test]
async fn only_the_named_authority_is_believed() {
    let dir = tempfile::tempdir().unwrap();
    let ours = authority();
    let other = authority();
    for (believed, accepted) in [(&ours, true), (&other, false)] {
        let path = dir.path().join("ca.pem");
        std::fs::write(&path, believed.0.pem()).unwrap();
        let url = tls_receiver(&ours);
        let outcome = deliver(webhook(&url, &format!("ca_file = '{}'", path.display()))).await;
        if accepted {
            assert_eq!(outcome, Outcome::Accepted);
        } else {
            let why = why(outcome);
            assert!(why.contains("certificate"), "{why}");
        }
    }
}

type Authority = (rcgen::Certificate, rcgen::Issuer<'static, rcgen::KeyPair>);

fn authority() -> Authority {
    let mut params = rcgen::CertificateParams::new([]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    (certificate, rcgen::Issuer::new(params, key))
}

/// Answers one request with 204 over TLS, with a certificate that `authority` made.
fn tls_receiver(authority: &Authority) -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &authority.1).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://{}/s3cret", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (stream, _client) = listener.accept().unwrap();
        let connection = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        let mut tls = rustls::StreamOwned::new(connection, stream);
        let mut read = Vec::new();
        let mut buffer = [0; 4096];
        while !read.ends_with(BODY.as_bytes()) {
            // A client that does not believe us hangs up here.
            let Ok(length) = tls.read(&mut buffer) else {
                return;
            };
            read.extend_from_slice(&buffer[..length]);
        }
        tls.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        tls.conn.send_close_notify();
        tls.flush().unwrap();
    });
    url
}

#[test]
fn a_receiver_that_cannot_work_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let junk = file("junk", "s3cret");
    for (more, said) in [
        ("kind = 'webhook'", "needs url_file or url_env"),
        ("kind = 'webhook'\nurl = 'https://hooks.example/s3cret'", "url_file"),
        ("kind = 'webhook'\nurl = 'http://127.0.0.1.s3cret/'", "another machine"),
        ("kind = 'webhook'\nurl = 'ftp://127.0.0.1/s3cret'", "https://HOST/PATH"),
        ("kind = 'webhook'\nurl = 'http://127.0.0.1/'\nurl_env = 'URL'", "keep one"),
        ("kind = 'webhook'\nurl_env = 'UNSET'", "url_env = \"UNSET\" is not set"),
        ("kind = 'webhook'\nurl_env = 'PLAIN'", "use https"),
        ("kind = 'webhook'\nurl_env = 'JUNK'", "url_env holds no URL"),
        ("kind = 'webhook'\nurl_env = 'URL'\nurl_file = '/x'", "both set"),
        ("kind = 'webhook'\nurl_file = '/nowhere/s'", "/nowhere/s\" cannot be read"),
        ("kind = 'webhook'\nurl_env = 'URL'\nsecret_env = 'UNSET'", "secret_env"),
        (&format!("kind = 'webhook'\nurl_env = 'URL'\nca_file = '{junk}'"), "holds no certificate"),
        ("kind = 'webhook'\nurl_env = 'URL'\nproxy = 'proxy:3128'", "http://HOST:PORT"),
        ("kind = 'webhook'\nurl_env = 'URL'\nproxy = 'http://u:s3cret@p:1'", "password"),
        ("kind = 'webhook'\nurl = 'http://[::1]/'\nproxy = 'http://p:1'", "remove it"),
        ("kind = 'slack'", "kind = \"slack\" needs url_file"),
        ("kind = 'slack'\nurl = 'https://hooks.example/s3cret'", "url_file"),
        ("kind = 'slack'\nurl_env = 'URL'\nsecret_env = 'URL'", "\"slack\" takes no secret_env"),
        ("kind = 'stdout'\nurl = 'http://127.0.0.1/'", "takes no url"),
        ("kind = 'stdout'\nsecret_file = '/x'", "takes no secret_file"),
    ] {
        let error = build(sink(more)).unwrap_err();
        assert!(error.starts_with("notify \"ops\": "), "{error}");
        assert!(error.contains(said), "{more}: {error}");
        assert!(!error.contains("s3cret"), "{more}: {error}");
    }
}

#[test]
fn names_are_unique_and_plain() {
    let named = |name: &str| SinkConfig { name: name.to_owned(), ..sink("kind = 'stdout'") };
    let build = |sinks: &[SinkConfig]| Notifier::build(sinks, Box::new(std::io::sink()));
    let error = build(&[named("a"), named("b"), named("a")]).unwrap_err();
    assert!(error.to_string().contains("another receiver"), "{error}");
    for name in ["", "a b", "a\n", &"a".repeat(65)] {
        let error = build(&[named(name)]).unwrap_err();
        assert!(error.to_string().contains("name must be"), "{error}");
    }
}

#[tokio::test]
async fn secrets_are_not_in_debug_output() {
    let notifier = build(sink("kind = 'webhook'\nurl_env = 'URL'")).unwrap();
    assert_eq!(format!("{notifier:?}"), r#"{"ops"}"#);
}

#[tokio::test]
async fn a_sink_that_is_gone_is_told() {
    let notifier = Notifier::build(&[], Box::new(std::io::sink())).unwrap();
    assert_eq!(notifier.deliver(&delivery()).await, Outcome::NoSuchSink);
}

#[tokio::test]
async fn a_receiver_is_reached_without_a_word() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let url = format!("http://{at}/s3cret");
    let notifier = build(webhook(&url, "")).unwrap();
    let reached = notifier.reach("ops").await.unwrap().unwrap();
    assert_eq!(reached, format!("http://{at} ({at})"));
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).await.unwrap();
    assert!(heard.is_empty(), "{heard:?}");

    drop(listener);
    let why = notifier.reach("ops").await.unwrap().unwrap_err();
    assert!(why.starts_with(&format!("http://{at} is not reached: ")), "{why}");
    assert!(!why.contains("s3cret"), "{why}");
    assert_eq!(notifier.reach("other").await, None);
    let stdout = build(sink("kind = 'stdout'")).unwrap();
    assert_eq!(stdout.reach("ops").await, None);

    // Through a proxy, only the proxy is dialled.
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = proxy.local_addr().unwrap();
    let far = sink(&format!("kind = 'webhook'\nurl_env = 'URL'\nproxy = 'http://{at}'"));
    let reached = build(far).unwrap().reach("ops").await.unwrap().unwrap();
    assert_eq!(reached, format!("http://{at} ({at})"));
}
