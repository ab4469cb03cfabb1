//! What the socket asks of the engine's task, and what it gets back.

use monitor_core::baseline::document::{Document, Figures};
use monitor_core::engine::{Actor, Command, Selection};
use serde::Serialize;
use tokio::sync::oneshot;

/// One question, with who asks. Nobody waits for the reply if the client is gone: sending it may
/// fail, and that is no error.
#[derive(Debug)]
pub struct Request {
    pub query: Query,
    pub actor: Actor,
    pub reply: oneshot::Sender<Answer>,
}

/// Everything that can be asked. The answer is the JSON of the type named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Query {
    /// Anything, once the agent is ready; else [`Refusal::Unavailable`].
    Ready,
    /// `Status`
    Status,
    /// `[EdgeView]`
    Map,
    /// `[ServiceView]`
    Services,
    /// `[Alert]`
    Alerts,
    /// `Alert`, by the beginning of its id
    Alert(String),
    /// `[MuteView]`
    Mutes,
    /// `[Tested]`: one receiver, or all of them, was sent a test message
    Test { receiver: Option<String> },
    /// `[BaselineRow]`
    Baseline,
    /// `[Difference]`
    Undecided,
    /// `Document`
    Document { selection: Selection, figures: Figures },
    /// `Reply`: what importing the document would add and remove
    DifferenceTo(Document),
    /// `Reply`: a change was made
    Command(Command),
    /// `[{"number": N, …AuditEntry}]`: the newest `limit`
    Audit { limit: usize },
}

/// The answer as JSON, or why there is none.
pub type Answer = Result<serde_json::Value, Refusal>;

/// Why a request was not carried out; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The request cannot be meant.
    #[error("{0}")]
    Invalid(String),
    /// What it names is not there.
    #[error("{0}")]
    Missing(String),
    /// It cannot be done as things are.
    #[error("{0}")]
    Conflict(String),
    /// The agent is starting, busy or ending: ask again.
    #[error("{0}")]
    Unavailable(String),
    /// It should have worked.
    #[error("{0}")]
    Failed(String),
}

impl Request {
    /// Answers with the JSON of `value`.
    pub fn answer(self, value: Result<impl Serialize, Refusal>) {
        let answer = value.and_then(|value| {
            serde_json::to_value(value).map_err(|error| Refusal::Failed(error.to_string()))
        });
        // The client may have hung up.
        drop(self.reply.send(answer));
    }
}
