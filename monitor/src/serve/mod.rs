//! The agent's Unix socket: HTTP and JSON, for its owner alone. Asks the engine's task and passes the
//! answer on; knows neither the engine nor the state.
//!
//! | endpoint | answer |
//! |---|---|
//! | `GET /healthz` | 200 as long as the process lives, and its version |
//! | `GET /readyz` | 200 once the agent is ready, else 503 |
//! | `GET /api/v1/status` | the agent at a glance |
//! | `GET /api/v1/map` | every edge, with evidence |
//! | `GET /api/v1/services` | every service |
//! | `GET /api/v1/alerts` | the incidents as messages, open ones first |
//! | `GET /api/v1/alerts/{id}` | one of them; the beginning of its id is enough |
//! | `GET /api/v1/alerts/follow` | messages as they come, one line of JSON each, until somebody ends |
//! | `GET /api/v1/mutes` | the mutes that hold |
//! | `POST /api/v1/notify/test` | sends `{"receiver": NAME}`, or all, a test message: what became of it |
//! | `GET /api/v1/baseline` | how far each service's learning is |
//! | `GET /api/v1/baseline/undecided` | what was seen and waits for a decision |
//! | `GET /api/v1/baseline/document?service=P&service=Q&evidence=true` | the baseline as a document |
//! | `POST /api/v1/baseline/difference` | what importing the document in the body would change |
//! | `POST /api/v1/commands` | carries out the command in the body |
//! | `GET /api/v1/audit?limit=N` | who changed what, the newest N |
//!
//! An error is `{"error": "…"}` with 400 (the request cannot be meant), 404, 409 (it cannot be done
//! now), 413, 500 or 503 (the agent is busy or ending).

mod answer;
mod endpoints;
mod feed;
mod listener;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use monitor_core::engine::Actor;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use self::answer::{Answer, Query, Refusal, Request};
pub use self::feed::Feed;
pub use self::listener::{Listener, ServeError};

/// `[serve]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The Unix socket through which the verbs reach the agent.
    pub socket: PathBuf,
}

impl Config {
    pub const SOCKET: &str = "/run/edgewatch/edgewatch.sock";
}

impl Default for Config {
    fn default() -> Self {
        Self { socket: Self::SOCKET.into() }
    }
}

/// Connections at once; the next one waits in the kernel's queue.
const CONNECTIONS: usize = 64;
/// A client that has not sent its request's head by then is let go.
const HEAD: Duration = Duration::from_secs(5);
/// What open connections get to finish in when the agent ends.
const DRAIN: Duration = Duration::from_secs(2);

/// Serves until `shutdown`, then lets open requests finish.
///
/// # Errors
/// The socket can no longer be listened at.
pub async fn serve(
    listener: Listener,
    requests: mpsc::Sender<Request>,
    feed: Feed,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let router = endpoints::router(requests, feed, shutdown.clone());
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (place, listener.accept().await)
        };
        let (place, stream) = tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_ended) = connections.join_next() => continue,
            accepted = accepted => accepted,
        };
        match stream {
            Ok(stream) => {
                let (router, shutdown) = (router.clone(), shutdown.clone());
                connections.spawn(async move {
                    connection(stream, router, shutdown).await;
                    drop(place);
                });
            }
            Err(error) if is_passing(&error) => {
                tracing::warn!(%error, "accept on the socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(source) => return Err(ServeError::Accept(source)),
        }
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::warn!("requests on the socket are cut off");
    }
    Ok(())
}

/// Too many open files, or a client that was gone before it was accepted.
fn is_passing(error: &std::io::Error) -> bool {
    use std::io::ErrorKind;
    let exhausted = [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE, rustix::io::Errno::NOBUFS];
    matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted)
        || exhausted.iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

async fn connection(stream: UnixStream, router: Router, shutdown: CancellationToken) {
    let router = router.layer(Extension(actor(&stream)));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(64)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    // A client that sends garbage or hangs up is its own affair.
    if let Err(error) = served {
        tracing::debug!(%error, "connection on the socket");
    }
}

/// Who is at the other end, as the kernel says it. Its executable is looked up now: a process that
/// is gone by then has none.
fn actor(stream: &UnixStream) -> Actor {
    let Ok(peer) = stream.peer_cred() else {
        return Actor { uid: u32::MAX, pid: 0, executable: None };
    };
    let pid = peer.pid().and_then(|pid| u32::try_from(pid).ok()).unwrap_or(0);
    let link = std::fs::read_link(format!("/proc/{pid}/exe")).ok();
    let executable = link.map(|path| monitor_core::edge::executable_name(&path.to_string_lossy()));
    Actor { uid: peer.uid(), pid, executable }
}

#[cfg(test)]
mod tests;
