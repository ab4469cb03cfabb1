//! The endpoints: a request's path and body become a query, the answer becomes a response.

use std::time::Duration;

use axum::extract::rejection::JsonRejection;
use axum::extract::{DefaultBodyLimit, Path, RawQuery, Request as HttpRequest, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_LENGTH;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use monitor_core::baseline::document::{Document, Figures};
use monitor_core::engine::{Actor, Command, Selection};
use monitor_core::pattern::Pattern;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::serve::{Answer, Feed, Query, Refusal, Request};

/// A document of this size names some hundred thousand edges.
const BODY: usize = 16 << 20;
/// A request, from its head to its answer.
const REQUEST: Duration = Duration::from_secs(30);

const VERSION: &str = env!("CARGO_PKG_VERSION");

type Requests = mpsc::Sender<Request>;

pub(crate) fn router(requests: Requests, feed: Feed, shutdown: CancellationToken) -> Router {
    let fixed = |query: Query| {
        get(
            move |State(requests): State<Requests>, Extension(actor): Extension<Actor>| async move {
                respond(ask(&requests, actor, query).await)
            },
        )
    };
    Router::new()
        .route("/healthz", get(async || Json(json!({"healthy": true, "version": VERSION}))))
        .route("/readyz", fixed(Query::Ready))
        .route("/api/v1/status", fixed(Query::Status))
        .route("/api/v1/map", fixed(Query::Map))
        .route("/api/v1/services", fixed(Query::Services))
        .route("/api/v1/alerts", fixed(Query::Alerts))
        .route("/api/v1/alerts/{id}", get(alert))
        .route("/api/v1/alerts/follow", get(async move || feed.follow(shutdown)))
        .route("/api/v1/mutes", fixed(Query::Mutes))
        .route("/api/v1/notify/test", post(test))
        .route("/api/v1/baseline", fixed(Query::Baseline))
        .route("/api/v1/baseline/undecided", fixed(Query::Undecided))
        .route("/api/v1/baseline/document", get(document))
        .route("/api/v1/baseline/difference", post(difference))
        .route("/api/v1/commands", post(command))
        .route("/api/v1/audit", get(audit))
        .fallback(async || respond(Err(Refusal::Missing("there is no such endpoint".to_owned()))))
        .method_not_allowed_fallback(async || {
            let error = json!({"error": "this endpoint does not take that method"});
            (StatusCode::METHOD_NOT_ALLOWED, Json(error))
        })
        .layer(DefaultBodyLimit::max(BODY))
        .layer(middleware::from_fn(bounded))
        .with_state(requests)
}

/// Refuses what announces itself as too large, and ends what takes too long.
async fn bounded(request: HttpRequest, next: Next) -> Response {
    let length = request.headers().get(CONTENT_LENGTH).and_then(|it| it.to_str().ok());
    if length.and_then(|it| it.parse().ok()).is_some_and(|length: u64| length > BODY as u64) {
        let error = json!({"error": format!(
            "the body is larger than {} MiB: import a baseline of that size in several files, some of \
             its services in each, or name it in the agent's baseline_files",
            BODY >> 20
        )});
        return (StatusCode::PAYLOAD_TOO_LARGE, Json(error)).into_response();
    }
    match tokio::time::timeout(REQUEST, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => {
            respond(Err(Refusal::Unavailable("the agent did not answer in time".to_owned())))
        }
    }
}

/// Puts one question to the engine's task. Its queue is bounded: when it is full, this waits, and
/// [`REQUEST`] ends the waiting.
async fn ask(requests: &Requests, actor: Actor, query: Query) -> Answer {
    let ending = || Refusal::Unavailable("the agent is ending".to_owned());
    let (reply, answer) = oneshot::channel();
    let sent = requests.send(Request { query, actor, reply }).await;
    sent.map_err(|_closed| ending())?;
    answer.await.map_err(|_dropped| ending())?
}

fn respond(answer: Answer) -> Response {
    let (status, error) = match answer {
        Ok(value) => return Json(value).into_response(),
        Err(Refusal::Invalid(what)) => (StatusCode::BAD_REQUEST, what),
        Err(Refusal::Missing(what)) => (StatusCode::NOT_FOUND, what),
        Err(Refusal::Conflict(what)) => (StatusCode::CONFLICT, what),
        Err(Refusal::Unavailable(what)) => (StatusCode::SERVICE_UNAVAILABLE, what),
        Err(Refusal::Failed(what)) => (StatusCode::INTERNAL_SERVER_ERROR, what),
    };
    (status, Json(json!({ "error": error }))).into_response()
}

async fn alert(
    State(requests): State<Requests>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
) -> Response {
    respond(ask(&requests, actor, Query::Alert(id)).await)
}

async fn document(
    State(requests): State<Requests>,
    Extension(actor): Extension<Actor>,
    RawQuery(query): RawQuery,
) -> Response {
    match wanted(query.as_deref().unwrap_or("")) {
        Ok((selection, figures)) => {
            respond(ask(&requests, actor, Query::Document { selection, figures }).await)
        }
        Err(what) => respond(Err(Refusal::Invalid(what))),
    }
}

/// Reads `service=P&service=Q&evidence=true`. Names and patterns are safe text, and what a URL must
/// encode of it comes as `%XX`.
fn wanted(query: &str) -> Result<(Selection, Figures), String> {
    let (mut patterns, mut figures) = (Vec::new(), Figures::Left);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("service", pattern)) => patterns.push(pattern_of(pattern)?),
            Some(("evidence", "true")) => figures = Figures::Kept,
            Some(("evidence", "false")) => figures = Figures::Left,
            _ => return Err(format!("{pair:?} is not one of service=PATTERN, evidence=true")),
        }
    }
    let selection =
        if patterns.is_empty() { Selection::All } else { Selection::Matching(patterns) };
    Ok((selection, figures))
}

fn pattern_of(encoded: &str) -> Result<Pattern, String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let hex = |at: usize| after.get(at).and_then(|&digit| char::from(digit).to_digit(16));
        let decoded = hex(0).zip(hex(1)).and_then(|(high, low)| u8::try_from(high * 16 + low).ok());
        match decoded {
            Some(decoded) if byte == b'%' => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    let text = String::from_utf8(bytes).map_err(|error| error.to_string())?;
    text.parse().map_err(|error| format!("service {text:?}: {error}"))
}

async fn difference(
    State(requests): State<Requests>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<Document>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(document)) => respond(ask(&requests, actor, Query::DifferenceTo(document)).await),
        Err(rejection) => unreadable(&rejection),
    }
}

async fn command(
    State(requests): State<Requests>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<Command>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(command)) => respond(ask(&requests, actor, Query::Command(command)).await),
        Err(rejection) => unreadable(&rejection),
    }
}

/// Which receiver is to be sent a test message; all of them where none is named.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Tried {
    #[serde(default)]
    receiver: Option<String>,
}

async fn test(
    State(requests): State<Requests>,
    Extension(actor): Extension<Actor>,
    body: Result<Json<Tried>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(Tried { receiver })) => {
            respond(ask(&requests, actor, Query::Test { receiver }).await)
        }
        Err(rejection) => unreadable(&rejection),
    }
}

fn unreadable(rejection: &JsonRejection) -> Response {
    let status = match rejection.status() {
        StatusCode::UNPROCESSABLE_ENTITY => StatusCode::BAD_REQUEST,
        status => status,
    };
    (status, Json(json!({"error": rejection.body_text()}))).into_response()
}

async fn audit(
    State(requests): State<Requests>,
    Extension(actor): Extension<Actor>,
    RawQuery(query): RawQuery,
) -> Response {
    let limit = match query.as_deref().map(|query| query.strip_prefix("limit=")) {
        None => Some(1_000),
        Some(number) => number.and_then(|number| number.parse().ok()),
    };
    match limit {
        Some(limit) => respond(ask(&requests, actor, Query::Audit { limit }).await),
        None => respond(Err(Refusal::Invalid("write ?limit=NUMBER".to_owned()))),
    }
}
