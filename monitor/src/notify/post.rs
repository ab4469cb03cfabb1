//! One HTTP receiver: posts a body, tells how it was answered. A URL is a secret from its path on, so
//! only its origin is ever shown. Redirects are not followed and the environment's proxies are not
//! used. What an answer means is its caller's to say.

use std::error::Error as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Client, ClientBuilder, Proxy, Response, StatusCode, Url};
use tokio::net::TcpStream;

use crate::notify::config::SinkConfig;
use crate::notify::secret::{self, Environment, Places};
use crate::notify::{Outcome, Problem};

pub(super) struct Post {
    client: Client,
    url: Url,
    /// What is connected to: the receiver, or the proxy before it.
    door: Url,
    timeout: Duration,
}

impl Post {
    pub(super) fn build(config: &SinkConfig, env: Environment<'_>) -> Result<Self, Problem> {
        let url = read_url(config, env)?;
        let proxy = config.proxy.as_deref().map(proxy_url).transpose()?;
        let door = proxy.as_ref().unwrap_or(&url).clone();
        Ok(Self { client: client(config, &url, proxy)?, url, door, timeout: config.timeout })
    }

    /// Resolves and connects, no further.
    pub(super) async fn reach(&self) -> Result<String, String> {
        let host = self.door.host_str().unwrap_or_default();
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = self.door.port_or_known_default().unwrap_or(443);
        let connecting = TcpStream::connect((host, port));
        let timeout = self.timeout.min(MAX_CONNECT);
        let origin = origin(&self.door);
        match tokio::time::timeout(timeout, connecting).await {
            Ok(Ok(stream)) => {
                let at = stream.peer_addr().map(|at| format!(" ({at})"));
                Ok(format!("{origin}{}", at.unwrap_or_default()))
            }
            Ok(Err(error)) => Err(format!("{origin} is not reached: {error}")),
            Err(_elapsed) => {
                let timeout = humantime::format_duration(timeout);
                Err(format!("{origin} does not answer within {timeout}"))
            }
        }
    }

    /// Posts `body`; the answer, or how it went without one.
    pub(super) async fn send(
        &self,
        mut headers: HeaderMap,
        body: String,
    ) -> Result<Response, Outcome> {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let sent = self.client.post(self.url.clone()).headers(headers).body(body).send().await;
        sent.map_err(|error| Outcome::Retry { after: None, why: self.why(&error) })
    }

    /// The outcome of an answer that is no acceptance.
    pub(super) fn refused(&self, response: &Response) -> Outcome {
        let status = response.status();
        let after = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| retry_after(value, SystemTime::now()));
        let hint = match status {
            status if status.is_redirection() => {
                Some("redirects are not followed: configure the final address")
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => {
                Some("is the URL still the receiver's?")
            }
            StatusCode::PROXY_AUTHENTICATION_REQUIRED => Some("the proxy asks for a password"),
            _ => None,
        };
        let hint = hint.map(|hint| format!("; {hint}")).unwrap_or_default();
        let origin = origin(&self.url);
        Outcome::Retry { after, why: format!("{origin} answered {status}{hint}") }
    }

    /// The beginning of an answer's text, made printable.
    pub(super) async fn words(response: Response) -> String {
        let mut response = response;
        let mut read = Vec::new();
        while read.len() < MAX_WORDS
            && let Ok(Some(chunk)) = response.chunk().await
        {
            read.extend_from_slice(&chunk[..chunk.len().min(MAX_WORDS - read.len())]);
        }
        printable(String::from_utf8_lossy(&read).trim())
    }

    /// The chain of causes, without the URL.
    fn why(&self, error: &reqwest::Error) -> String {
        let origin = origin(&self.url);
        if error.is_timeout() {
            let timeout = humantime::format_duration(self.timeout);
            return format!("no answer from {origin} within {timeout}");
        }
        let mut chain: Vec<String> = Vec::new();
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if chain.last().is_none_or(|last| !last.ends_with(&text)) {
                chain.push(text);
            }
            source = cause.source();
        }
        let causes = printable(&chain.join(": "));
        format!("{origin} was not reached or hung up: {causes}")
    }
}

/// Parts of a chain may be the receiver's own words, such as the names in its certificate.
fn printable(text: &str) -> String {
    text.chars()
        .map(
            |character| {
                if character == ' ' || character.is_ascii_graphic() { character } else { '?' }
            },
        )
        .take(MAX_WHY_CHARS)
        .collect()
}

fn read_url(config: &SinkConfig, env: Environment<'_>) -> Result<Url, Problem> {
    let places = Places {
        file_key: "url_file",
        file: config.url_file.as_deref(),
        env_key: "url_env",
        env: config.url_env.as_deref(),
    };
    if config.url.is_some() && (places.file.is_some() || places.env.is_some()) {
        return Err(Problem::TwoUrls);
    }
    let (key, text) = match &config.url {
        Some(url) => ("url", url.clone()),
        None => {
            let key = if places.file.is_some() { places.file_key } else { places.env_key };
            let bytes = secret::read(places, env)?.ok_or(Problem::NoUrl(config.kind))?;
            let text = String::from_utf8(bytes).map_err(|_secret| Problem::Url { key })?;
            (key, text)
        }
    };
    let url: Url = text.trim().parse().map_err(|_secret| Problem::Url { key })?;
    let local = is_loopback(&url);
    match url.scheme() {
        _ if key == "url" && !local => Err(Problem::LiteralUrl),
        "https" => Ok(url),
        "http" if local => Ok(url),
        "http" => Err(Problem::PlainHttp { key }),
        _ => Err(Problem::Url { key }),
    }
}

fn client(config: &SinkConfig, url: &Url, proxy: Option<Url>) -> Result<Client, Problem> {
    install_cryptography();
    let mut builder = Client::builder()
        .user_agent(concat!("edgewatch/", env!("CARGO_PKG_VERSION")))
        .redirect(reqwest::redirect::Policy::none())
        .timeout(config.timeout)
        .connect_timeout(config.timeout.min(MAX_CONNECT))
        // Alerts are rare: by the next one the receiver has closed the connection.
        .pool_max_idle_per_host(0)
        .no_proxy();
    if url.scheme() == "https" {
        builder = builder.https_only(true);
    } else {
        // A name is no proof of loopback, and no authority is asked about plain HTTP.
        builder = builder.resolve_to_addrs("localhost", &LOOPBACK).tls_certs_only([]);
    }
    if let Some(path) = &config.ca_file {
        builder = believe(builder, path)?;
    }
    if let Some(proxy) = proxy {
        if url.scheme() == "http" {
            return Err(Problem::ProxyForLoopback);
        }
        builder = builder.proxy(Proxy::all(proxy).map_err(Problem::Client)?);
    }
    builder.build().map_err(Problem::Client)
}

/// Believes the authorities in the file at `path`, and no others.
fn believe(builder: ClientBuilder, path: &std::path::Path) -> Result<ClientBuilder, Problem> {
    let bytes = secret::from_file("ca_file", path)?;
    let authorities = Certificate::from_pem_bundle(&bytes).unwrap_or_default();
    if authorities.is_empty() {
        return Err(Problem::Authorities { path: path.display().to_string() });
    }
    Ok(builder.tls_certs_only(authorities))
}

fn proxy_url(text: &str) -> Result<Url, Problem> {
    let url: Url = text.parse().map_err(|_maybe_secret| Problem::Proxy)?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(Problem::Proxy);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Problem::ProxyPassword);
    }
    Ok(url)
}

/// TLS asks for one implementation a process; whoever comes first chooses it.
fn install_cryptography() {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // An error says that another thread has just done the same.
        drop(rustls::crypto::ring::default_provider().install_default());
    }
}

fn is_loopback(url: &Url) -> bool {
    let Some(host) = url.host_str() else {
        return false;
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || bare.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// All of a URL that may be shown.
fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

/// The wait that a receiver asks for, in seconds or until a date; at most [`MAX_AFTER`]. None where
/// it cannot be read or is over.
fn retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let wait = if let Ok(seconds) = value.parse::<u64>() {
        Duration::from_secs(seconds)
    } else {
        let until = jiff::fmt::rfc2822::DateTimeParser::new()
            .relaxed_weekday(true)
            .parse_timestamp(value)
            .ok()?;
        let epoch = now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let seconds = u64::try_from(until.as_second()).ok()?;
        Duration::from_secs(seconds).checked_sub(epoch)?
    };
    (!wait.is_zero()).then_some(wait.min(MAX_AFTER))
}

/// A receiver may ask for more patience than an alert has.
const MAX_AFTER: Duration = Duration::from_secs(3600);
const MAX_CONNECT: Duration = Duration::from_secs(5);
const MAX_WHY_CHARS: usize = 400;
/// Receivers answer in a word.
const MAX_WORDS: usize = 200;

/// Port 0 stands for the URL's.
const LOOPBACK: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_seconds_or_a_date() {
        // 1994-11-06T08:49:37Z
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (value, expected) in [
            ("7", Some(7)),
            (" 7 ", Some(7)),
            ("0", None),
            ("-1", None),
            ("soon", None),
            ("", None),
            ("86400", Some(3600)),
            ("18446744073709551615", Some(3600)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:00:00 GMT", None),
            ("Mon, 07 Nov 1994 08:49:37 GMT", Some(3600)),
            ("Thu, 01 Jan 1880 00:00:00 GMT", None),
        ] {
            let wait = retry_after(value, now).map(|wait| wait.as_secs());
            assert_eq!(wait, expected, "{value:?}");
        }
    }

    #[test]
    fn loopback_is_an_address_or_localhost() {
        for (url, expected) in [
            ("http://127.0.0.1:9/x", true),
            ("http://127.1/x", true),
            ("http://[::1]:9/", true),
            ("http://[::ffff:127.0.0.1]/", true),
            ("http://localhost:9/", true),
            ("http://LOCALHOST/", true),
            ("http://localhost.example.com/", false),
            ("http://127.0.0.1.example.com/", false),
            ("http://127.0.0.1@203.0.113.9/", false),
            ("http://[::]/", false),
            ("http://0.0.0.0/", false),
            ("http://10.0.0.1/", false),
        ] {
            assert_eq!(is_loopback(&url.parse().unwrap()), expected, "{url}");
        }
    }

    #[test]
    fn of_a_url_only_the_origin_is_shown() {
        let url = "https://user:pw@hooks.example:8443/services/T0/B0?key=k#f".parse().unwrap();
        assert_eq!(origin(&url), "https://hooks.example:8443");
    }
}
