//! Messages as they come, for whoever follows. A reader that is slow misses some and is told how many:
//! it never holds up the agent, and what it missed is still listed.

use axum::body::{Body, Bytes};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

/// Where messages are told to followers, however many there are.
#[derive(Debug, Clone)]
pub struct Feed(broadcast::Sender<Bytes>);

impl Feed {
    /// Lines that may wait for the slowest follower.
    const ROOM: usize = 1_024;

    #[must_use]
    pub fn new() -> Self {
        Self(broadcast::Sender::new(Self::ROOM))
    }

    /// Tells those who follow now.
    pub fn tell(&self, message: &impl Serialize) {
        if self.0.receiver_count() == 0 {
            return;
        }
        if let Ok(mut line) = serde_json::to_vec(message) {
            line.push(b'\n');
            // The last follower may have left meanwhile.
            drop(self.0.send(line.into()));
        }
    }

    /// An answer that goes on until the follower leaves or the agent ends.
    pub(crate) fn follow(&self, shutdown: CancellationToken) -> Response {
        let lines =
            stream::unfold((self.0.subscribe(), shutdown), async |(mut lines, shutdown)| {
                let line = tokio::select! {
                    () = shutdown.cancelled() => return None,
                    line = lines.recv() => line,
                };
                let line = match line {
                    Ok(line) => line,
                    Err(RecvError::Lagged(missed)) => format!("{{\"missed\":{missed}}}\n").into(),
                    Err(RecvError::Closed) => return None,
                };
                Some((Ok::<_, std::convert::Infallible>(line), (lines, shutdown)))
            });
        ([(CONTENT_TYPE, "application/jsonl")], Body::from_stream(lines)).into_response()
    }
}

impl Default for Feed {
    fn default() -> Self {
        Self::new()
    }
}
