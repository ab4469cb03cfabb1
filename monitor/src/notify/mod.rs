//! Performs deliveries: one attempt each, its outcome told. When to try again, how often, and what
//! is said to whom is the core's to decide; what is queued is the core's and the store's to keep.
//!
//! Knows the HTTP client. Delivery is at least once: a receiver that must not act twice looks at
//! `Idempotency-Key`.

mod config;
mod post;
mod secret;
mod slack;
mod stdout;
#[cfg(test)]
mod tests;
mod webhook;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use monitor_core::delivery::Message;
use tokio::sync::Mutex;

pub use config::{Kind, KindError, SinkConfig};
pub use secret::SecretError;
pub use slack::message as slack_message;
pub use stdout::Lines;

/// One message to one receiver.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// The receiver's name in the configuration.
    pub sink: String,
    pub message: Message,
}

impl Delivery {
    /// The message as JSON, byte for byte what is signed.
    fn json(&self) -> Result<String, Outcome> {
        let json = match &self.message {
            Message::Alert(alert) => serde_json::to_string(alert),
            Message::Digest(digest) => serde_json::to_string(digest),
            Message::Test(test) => serde_json::to_string(test),
        };
        json.map_err(|error| Outcome::Retry { after: None, why: error.to_string() })
    }
}

/// How one attempt went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver has it.
    Accepted,
    /// It may not have it.
    Retry {
        /// How long the receiver asks to be left alone.
        after: Option<Duration>,
        /// For a person; never holds a secret.
        why: String,
    },
    /// No receiver of that name is configured (any more): no attempt can succeed.
    NoSuchSink,
}

/// What is wrong with the configured receiver `sink`.
#[derive(Debug, thiserror::Error)]
#[error("notify {sink:?}: {problem}")]
pub struct NotifyError {
    pub sink: String,
    pub problem: Problem,
}

#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("name must be 1 to 64 letters, digits, '.', '_' or '-'")]
    Name,
    #[error("another receiver has this name: names are unique")]
    Duplicate,
    #[error("kind = \"{kind}\" takes no {key}: remove it")]
    NotForKind { kind: Kind, key: &'static str },
    #[error("kind = \"{0}\" needs url_file or url_env (or url, for a receiver on this machine)")]
    NoUrl(Kind),
    #[error("url is set beside url_file or url_env: keep one")]
    TwoUrls,
    #[error("{key} holds no URL of the form https://HOST/PATH")]
    Url { key: &'static str },
    #[error(
        "url names another machine, and whoever knows a webhook's URL can write to it: put it into a file and name that with url_file, or use url_env"
    )]
    LiteralUrl,
    #[error(
        "{key} holds a plain http URL of another machine, where alerts could be read: use https"
    )]
    PlainHttp { key: &'static str },
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(
        "ca_file = {path:?} holds no certificate: it must be PEM, as in -----BEGIN CERTIFICATE-----"
    )]
    Authorities { path: String },
    #[error("proxy is not of the form http://HOST:PORT")]
    Proxy,
    #[error(
        "proxy holds a password, which must not stand in this file: use one that asks for none"
    )]
    ProxyPassword,
    #[error("proxy is set for a plain http receiver on this machine, which needs none: remove it")]
    ProxyForLoopback,
    #[error("the HTTP client cannot be built ({}); without system certificates, set ca_file", chain(.0))]
    Client(reqwest::Error),
}

/// The configured receivers, ready to deliver.
pub struct Notifier {
    sinks: BTreeMap<String, Sink>,
}

enum Sink {
    Webhook(webhook::Webhook),
    Slack(slack::Slack),
    Stdout(stdout::Stdout),
}

impl Notifier {
    /// Reads the secrets that `sinks` name and makes their clients; connects to nobody. `lines` is
    /// standard output.
    ///
    /// # Errors
    ///
    /// The first receiver that cannot work, with what is wrong and what mends it.
    pub fn build(sinks: &[SinkConfig], lines: Lines) -> Result<Self, NotifyError> {
        Self::build_with(sinks, lines, &|name| std::env::var_os(name))
    }

    fn build_with(
        configs: &[SinkConfig],
        lines: Lines,
        env: secret::Environment<'_>,
    ) -> Result<Self, NotifyError> {
        let lines = Arc::new(Mutex::new(lines));
        let mut sinks = BTreeMap::new();
        for config in configs {
            let wrong = |problem| NotifyError { sink: config.name.clone(), problem };
            check_name(&config.name).map_err(wrong)?;
            let sink = match config.kind {
                Kind::Webhook => {
                    Sink::Webhook(webhook::Webhook::build(config, env).map_err(wrong)?)
                }
                Kind::Slack => {
                    check_keys(config, &SECRET_KEYS).map_err(wrong)?;
                    Sink::Slack(slack::Slack::build(config, env).map_err(wrong)?)
                }
                Kind::Stdout => {
                    check_keys(config, &SECRET_KEYS).map_err(wrong)?;
                    check_keys(config, &PLACE_KEYS).map_err(wrong)?;
                    Sink::Stdout(stdout::Stdout::new(Arc::clone(&lines), config.timeout))
                }
            };
            if sinks.insert(config.name.clone(), sink).is_some() {
                return Err(wrong(Problem::Duplicate));
            }
        }
        Ok(Self { sinks })
    }

    /// Makes one attempt, which ends within the receiver's `timeout`. May be dropped half-way: then
    /// the receiver may or may not have the message.
    pub async fn deliver(&self, delivery: &Delivery) -> Outcome {
        match self.sinks.get(&delivery.sink) {
            Some(Sink::Webhook(webhook)) => webhook.deliver(delivery).await,
            Some(Sink::Slack(slack)) => slack.deliver(delivery).await,
            Some(Sink::Stdout(stdout)) => stdout.deliver(delivery).await,
            None => Outcome::NoSuchSink,
        }
    }

    /// Connects to the receiver called `sink`, or to the proxy before it, and sends nothing: where it
    /// was reached, or why it was not. None where it is no receiver that is dialled.
    pub async fn reach(&self, sink: &str) -> Option<Result<String, String>> {
        match self.sinks.get(sink)? {
            Sink::Webhook(webhook) => Some(webhook.reach().await),
            Sink::Slack(slack) => Some(slack.reach().await),
            Sink::Stdout(_) => None,
        }
    }
}

/// The names only: a receiver holds secrets.
impl fmt::Debug for Notifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.sinks.keys()).finish()
    }
}

fn check_name(name: &str) -> Result<(), Problem> {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=64).contains(&name.len()) && name.bytes().all(safe) {
        Ok(())
    } else {
        Err(Problem::Name)
    }
}

/// A key of a `[[notify]]` table, and whether it is there.
type Key = (&'static str, fn(&SinkConfig) -> bool);

/// Keys that only a webhook takes.
const SECRET_KEYS: [Key; 2] =
    [("secret_file", |it| it.secret_file.is_some()), ("secret_env", |it| it.secret_env.is_some())];

/// Keys that only a receiver elsewhere takes.
const PLACE_KEYS: [Key; 5] = [
    ("url", |it| it.url.is_some()),
    ("url_file", |it| it.url_file.is_some()),
    ("url_env", |it| it.url_env.is_some()),
    ("ca_file", |it| it.ca_file.is_some()),
    ("proxy", |it| it.proxy.is_some()),
];

/// Refuses the first of `keys` that is given.
fn check_keys(config: &SinkConfig, keys: &[Key]) -> Result<(), Problem> {
    match keys.iter().find(|(_key, given)| given(config)) {
        Some((key, _)) => Err(Problem::NotForKind { kind: config.kind, key }),
        None => Ok(()),
    }
}

fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
