//! A Slack channel, through an incoming webhook: what is sent, and what Slack's answers mean. Knows
//! nothing of Slack's other interfaces; a message that was sent is never edited.

mod message;
mod text;

use reqwest::StatusCode;
use reqwest::header::HeaderMap;

use crate::notify::config::SinkConfig;
use crate::notify::post::Post;
use crate::notify::secret::Environment;
use crate::notify::{Delivery, Outcome, Problem};

pub use self::message::message;

pub(super) struct Slack {
    post: Post,
}

impl Slack {
    pub(super) fn build(config: &SinkConfig, env: Environment<'_>) -> Result<Self, Problem> {
        Ok(Self { post: Post::build(config, env)? })
    }

    /// See [`Post::reach`].
    pub(super) async fn reach(&self) -> Result<String, String> {
        self.post.reach().await
    }

    /// Slack accepts with 200 and the word `ok`; whoever else answers 200 is not Slack.
    pub(super) async fn deliver(&self, delivery: &Delivery) -> Outcome {
        let body = message(&delivery.message).to_string();
        let response = match self.post.send(HeaderMap::new(), body).await {
            Ok(response) => response,
            Err(outcome) => return outcome,
        };
        let status = response.status();
        let refused = self.post.refused(&response);
        let words = Post::words(response).await;
        match refused {
            _ if status == StatusCode::OK && words == "ok" => Outcome::Accepted,
            Outcome::Retry { after, why } if !words.is_empty() => {
                let meant = meaning(&words).map(|it| format!(": {it}")).unwrap_or_default();
                Outcome::Retry { after, why: format!("{why} ({words}{meant})") }
            }
            other => other,
        }
    }
}

/// What Slack's word for a refusal means, and what mends it.
fn meaning(words: &str) -> Option<&'static str> {
    Some(match words {
        "invalid_payload" | "invalid_blocks" | "msg_blocks_too_long" | "no_text" => {
            "Slack cannot read the message; please report this"
        }
        "channel_is_archived" | "is_archived" => {
            "the channel is archived: unarchive it, or make a webhook for another"
        }
        "channel_not_found" => "the channel is gone: make a webhook for another",
        "no_service" | "no_service_id" | "no_team" | "team_disabled" | "invalid_token" => {
            "the webhook was removed or switched off: make another and put its URL in place"
        }
        "action_prohibited" | "posting_to_general_channel_denied" => {
            "an administrator of the workspace does not allow this: ask them"
        }
        "rate_limited" | "ratelimited" => "too many messages: lower rate",
        "rollup_error" => "trouble at Slack: it is tried again",
        _ => return None,
    })
}
