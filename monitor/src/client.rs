//! How the verbs reach a running agent: one HTTP request over its Unix socket. Knows no endpoint.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::net::UnixStream;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "no agent answers at {}: start one with `sudo edgewatch run`, or name its socket with --socket",
        .0.display()
    )]
    Nobody(PathBuf),
    #[error("{} belongs to another user: try again with sudo", .0.display())]
    Forbidden(PathBuf),
    #[error("connect to {}", socket.display())]
    Connect { socket: PathBuf, source: io::Error },
    #[error("the agent at {} did not answer within {} s", socket.display(), ANSWER.as_secs())]
    Slow { socket: PathBuf },
    #[error("talk to the agent at {}", socket.display())]
    Broken { socket: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    /// The agent's own words.
    #[error("{what}")]
    Refused { what: String },
}

/// Longer than the agent gives itself.
const ANSWER: Duration = Duration::from_secs(40);
/// A larger answer is not the agent's.
const LIMIT: usize = 1 << 30;
/// Nor is a longer line of one that goes on.
const LINE: usize = 32 << 20;

/// A running agent, by its socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    largest: usize,
}

impl Client {
    #[must_use]
    pub const fn new(socket: PathBuf) -> Self {
        Self { socket, largest: LIMIT }
    }

    /// Takes no answer that is larger.
    #[must_use]
    pub const fn taking_at_most(mut self, largest: usize) -> Self {
        self.largest = largest;
        self
    }

    /// The answer to `GET path`.
    ///
    /// # Errors
    /// Nobody answers, or the agent refuses.
    pub async fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.send(Method::GET, path, Bytes::new()).await
    }

    /// The answer to `POST path` with `body` as JSON.
    ///
    /// # Errors
    /// Nobody answers, or the agent refuses.
    pub async fn post(&self, path: &str, body: &impl Serialize) -> Result<Value, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.broken(error))?;
        self.send(Method::POST, path, body.into()).await
    }

    /// An answer as the type that it is meant to be.
    ///
    /// # Errors
    /// It is another: the agent is of another version.
    pub fn read<T: DeserializeOwned>(&self, answer: Value) -> Result<T, ClientError> {
        serde_json::from_value(answer).map_err(|error| self.broken(error))
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<Value, ClientError> {
        let answered = tokio::time::timeout(ANSWER, self.exchange(method, path, body)).await;
        let (status, body) =
            answered.map_err(|_elapsed| ClientError::Slow { socket: self.socket.clone() })??;
        let answer: Value = serde_json::from_slice(&body).map_err(|error| self.broken(error))?;
        if status.is_success() { Ok(answer) } else { Err(in_its_words(status, &answer)) }
    }

    /// The lines of an answer to `GET path` that goes on, from now on.
    ///
    /// # Errors
    /// Nobody answers, or the agent refuses.
    pub async fn follow(&self, path: &str) -> Result<Lines, ClientError> {
        let (mut sender, connection, request) = self.open(Method::GET, path, Bytes::new()).await?;
        // It ends with the sender, which the lines keep.
        tokio::spawn(connection);
        let answer = async {
            let response =
                sender.send_request(request).await.map_err(|error| self.broken(error))?;
            let (status, body) = (response.status(), response.into_body());
            if status.is_success() {
                return Ok(body);
            }
            let body = Limited::new(body, self.largest).collect().await;
            let body = body.map_err(|error| self.broken(error))?.to_bytes();
            let answer = serde_json::from_slice(&body).map_err(|error| self.broken(error))?;
            Err(in_its_words(status, &answer))
        };
        let answered = tokio::time::timeout(ANSWER, answer).await;
        let body =
            answered.map_err(|_elapsed| ClientError::Slow { socket: self.socket.clone() })??;
        Ok(Lines { client: self.clone(), body, read: Vec::new(), searched: 0, _sender: sender })
    }

    /// A connection, and the request to be sent through it.
    async fn open(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(SendRequest<Full<Bytes>>, Connection, Request<Full<Bytes>>), ClientError> {
        let stream =
            UnixStream::connect(&self.socket).await.map_err(|error| self.refused(error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, "edgewatch")
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.broken(error))?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(error))?;
        Ok((sender, connection, request))
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let (mut sender, connection, request) = self.open(method, path, body).await?;
        let exchange = async {
            let response: Response<_> = sender.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), self.largest).collect().await?;
            Ok((status, body.to_bytes()))
        };
        let mut connection = std::pin::pin!(connection);
        let mut exchange = std::pin::pin!(exchange);
        let answered: Result<_, Box<dyn std::error::Error + Send + Sync>> = tokio::select! {
            answered = exchange.as_mut() => answered,
            // The agent may close as soon as it has answered.
            _closed = connection.as_mut() => exchange.await,
        };
        answered.map_err(|source| self.broken(source))
    }

    fn broken(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), source: source.into() }
    }

    fn refused(&self, error: io::Error) -> ClientError {
        let socket = self.socket.clone();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::Nobody(socket)
            }
            io::ErrorKind::PermissionDenied => ClientError::Forbidden(socket),
            _ => ClientError::Connect { socket, source: error },
        }
    }
}

fn in_its_words(status: StatusCode, answer: &Value) -> ClientError {
    let what = answer.get("error").and_then(Value::as_str);
    let what = what.map_or_else(|| format!("the agent answers {status}"), ToOwned::to_owned);
    ClientError::Refused { what }
}

type Connection = hyper::client::conn::http1::Connection<TokioIo<UnixStream>, Full<Bytes>>;

/// Lines of JSON as the agent tells them.
#[derive(Debug)]
pub struct Lines {
    client: Client,
    body: Incoming,
    read: Vec<u8>,
    /// So much of it holds no end of a line.
    searched: usize,
    _sender: SendRequest<Full<Bytes>>,
}

impl Lines {
    /// The next line; None once the agent has ended.
    ///
    /// # Errors
    /// What comes is no line of JSON.
    pub async fn next(&mut self) -> Result<Option<Value>, ClientError> {
        loop {
            let rest = &self.read[self.searched..];
            if let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=self.searched + end).collect();
                self.searched = 0;
                let value = serde_json::from_slice(&line);
                return value.map(Some).map_err(|error| self.client.broken(error));
            }
            self.searched = self.read.len();
            if self.searched > LINE {
                let what = format!("a line of it is longer than {} MiB", LINE >> 20);
                return Err(self.client.broken(what));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.read.extend(frame.into_data().unwrap_or_default()),
                // However it ended: nothing more comes.
                Some(Err(_)) | None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;
    use tokio::task::JoinHandle;

    /// An agent that answers `text` to whatever it is asked once; tells what that was.
    fn agent(text: impl Into<String>) -> (tempfile::TempDir, Client, JoinHandle<String>) {
        let (dir, text) = (tempfile::tempdir().unwrap(), text.into());
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let agent = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            // Whoever asked may hang up before the end.
            drop(stream.write_all(text.as_bytes()).await);
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        (dir, Client::new(socket), agent)
    }

    /// What `get` makes of an agent that answers `text`.
    async fn answered(text: &'static str) -> Result<Value, String> {
        let (_dir, client, agent) = agent(text);
        let answer = client.get("/api/v1/map").await;
        assert!(agent.await.unwrap().starts_with("GET /api/v1/map HTTP/1.1\r\n"));
        answer.map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn whoever_follows_hears_refusals_and_no_endless_line() {
        let refusal = "HTTP/1.1 503 Busy\r\ncontent-length: 15\r\n\r\n{\"error\":\"why\"}";
        let (_dir, client, _agent) = agent(refusal);
        assert_eq!(client.follow("/x").await.unwrap_err().to_string(), "why");

        let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        let (_dir, client, _agent) = agent(format!("{head}2\r\n[1\r\n5\r\n]\n2\n3\r\n0\r\n\r\n"));
        let mut lines = client.follow("/x").await.unwrap();
        assert_eq!(lines.next().await.unwrap(), Some(serde_json::json!([1])));
        assert_eq!(lines.next().await.unwrap(), Some(serde_json::json!(2)));
        assert_eq!(lines.next().await.unwrap(), None);

        let (long, length) = ("x".repeat(LINE + 1), LINE + 1);
        let (_dir, client, _agent) = agent(format!("{head}{length:x}\r\n{long}"));
        let error = client.follow("/x").await.unwrap().next().await.unwrap_err();
        let why = std::error::Error::source(&error).unwrap().to_string();
        assert_eq!(why, "a line of it is longer than 32 MiB");
    }

    #[tokio::test]
    async fn answers_are_json_and_refusals_the_agents_words() {
        let answer = answered("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n[1]").await;
        assert_eq!(answer, Ok(serde_json::json!([1])));
        let refusal = "HTTP/1.1 409 Conflict\r\ncontent-length: 15\r\n\r\n{\"error\":\"why\"}";
        assert_eq!(answered(refusal).await, Err("why".to_owned()));
        for broken in ["", "hello", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[1]"] {
            let error = answered(broken).await.unwrap_err();
            assert!(error.starts_with("talk to the agent at "), "{error}");
        }
    }

    #[tokio::test]
    async fn an_answer_that_is_too_large_is_none() {
        let text = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n[1]";
        for (largest, fits) in [(2, false), (3, true)] {
            let (_dir, client, _agent) = agent(text);
            let client = client.taking_at_most(largest);
            assert_eq!(client.get("/x").await.is_ok(), fits, "{largest}");
        }
    }

    #[tokio::test]
    async fn nobody_at_the_socket_is_told_with_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("edgewatch.sock");
        let expected = format!(
            "no agent answers at {}: start one with `sudo edgewatch run`, or name its socket with --socket",
            socket.display()
        );
        let client = Client::new(socket.clone());
        assert_eq!(client.get("/").await.unwrap_err().to_string(), expected);
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        assert_eq!(client.get("/").await.unwrap_err().to_string(), expected);
        let denied = client.refused(io::ErrorKind::PermissionDenied.into()).to_string();
        assert!(denied.ends_with("belongs to another user: try again with sudo"), "{denied}");
    }
}
