//! One receiver as the configuration file says it, and which alerts it wants. Read strictly, and
//! checked without opening anything: files and variables are read when the receiver is built.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use monitor_core::delivery::{Rate, Sink};
use monitor_core::detect::Severity;
use monitor_core::pattern::Pattern;
use serde::{Deserialize, Deserializer};

/// What a receiver understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Kind {
    /// The alert as JSON, by HTTP POST.
    Webhook,
    /// A message in a Slack channel, through an incoming webhook.
    Slack,
    /// The alert as one line of JSON on standard output.
    Stdout,
}

/// Why a receiver's kind was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KindError {
    #[error(
        "{0:?} is not supported yet: this version delivers to \"slack\", \"webhook\" and \"stdout\""
    )]
    NotYet(String),
    #[error("{0:?} is not known: write \"slack\", \"webhook\" or \"stdout\"")]
    Unknown(String),
}

impl TryFrom<String> for Kind {
    type Error = KindError;

    fn try_from(text: String) -> Result<Self, KindError> {
        match text.as_str() {
            "webhook" => Ok(Self::Webhook),
            "slack" => Ok(Self::Slack),
            "stdout" => Ok(Self::Stdout),
            planned if PLANNED.contains(&planned) => Err(KindError::NotYet(text)),
            _ => Err(KindError::Unknown(text)),
        }
    }
}

/// One `[[notify]]` table.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkConfig {
    /// What it is called in logs, in `notify test` and in the delivery queue: unique.
    pub name: String,
    pub kind: Kind,
    /// Only for a receiver on this machine: any other webhook's URL is a secret.
    pub url: Option<String>,
    /// The file that holds the URL.
    pub url_file: Option<PathBuf>,
    /// The environment variable that holds the URL.
    pub url_env: Option<String>,
    /// The file that holds the key deliveries are signed with.
    pub secret_file: Option<PathBuf>,
    /// The environment variable that holds the key deliveries are signed with.
    pub secret_env: Option<String>,
    /// The only certificate authorities believed for this receiver (PEM); else the system's.
    pub ca_file: Option<PathBuf>,
    /// The HTTP proxy to go through. The environment's proxies are never used.
    pub proxy: Option<String>,
    #[serde(default = "lowest")]
    pub min_severity: Severity,
    /// The services whose alerts are wanted; none named means all.
    #[serde(default)]
    pub services: Vec<Pattern>,
    /// How long one delivery may take as a whole.
    #[serde(default = "default_timeout", deserialize_with = "duration")]
    pub timeout: Duration,
    /// How fast messages may follow one another, like `30/min`; else what its kind takes.
    pub rate: Option<Rate>,
}

impl SinkConfig {
    /// What the delivery queue must know of this receiver.
    #[must_use]
    pub fn sink(&self) -> Sink {
        Sink {
            name: self.name.clone(),
            min_severity: self.min_severity,
            services: self.services.clone(),
            rate: self.rate.unwrap_or(self.kind.rate()),
            room: self.kind.room(),
        }
    }
}

impl Kind {
    /// What such a receiver takes: a chat a message a second, a program more than anybody sends.
    const fn rate(self) -> Rate {
        match self {
            Self::Slack => Rate::CHAT,
            Self::Webhook | Self::Stdout => Rate::PROGRAM,
        }
    }

    /// Messages that may wait: for people no more than they would read, for programs a long outage.
    const fn room(self) -> usize {
        match self {
            Self::Slack => 20,
            Self::Webhook | Self::Stdout => 1_000,
        }
    }
}

/// As the configuration writes it.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Webhook => "webhook",
            Self::Slack => "slack",
            Self::Stdout => "stdout",
        })
    }
}

const fn lowest() -> Severity {
    Severity::Low
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let duration = humantime::parse_duration(&text).map_err(|error| {
        serde::de::Error::custom(format!("{text:?} is not a duration like \"10s\": {error}"))
    })?;
    if duration.is_zero() || duration > MAX_TIMEOUT {
        return Err(serde::de::Error::custom(format!(
            "{text:?} is out of range: a delivery may take more than 0 and at most 5 minutes"
        )));
    }
    Ok(duration)
}

const fn default_timeout() -> Duration {
    Duration::from_secs(10)
}

const MAX_TIMEOUT: Duration = Duration::from_secs(300);

const PLANNED: [&str; 7] =
    ["teams", "discord", "mattermost", "google-chat", "alertmanager", "pagerduty", "syslog"];

#[cfg(test)]
mod tests {
    use monitor_core::ids::ServiceName;

    use super::*;

    fn parse(text: &str) -> Result<SinkConfig, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_full_table_is_read() {
        let sink = parse(
            r#"
            name = "ops"
            kind = "webhook"
            url_file = "/run/secrets/url"
            secret_env = "OPS_SECRET"
            ca_file = "/etc/ca.pem"
            proxy = "http://proxy:3128"
            min_severity = "high"
            services = ["compose:shop/*"]
            timeout = "2s"
            "#,
        )
        .unwrap();
        assert_eq!(sink.kind, Kind::Webhook);
        assert_eq!(sink.min_severity, Severity::High);
        assert_eq!(sink.timeout, Duration::from_secs(2));
    }

    #[test]
    fn what_is_not_given_is_the_widest() {
        let sink = parse("name = 'out'\nkind = 'stdout'").unwrap();
        assert_eq!(sink.timeout, Duration::from_secs(10));
        let service = ServiceName::new("systemd", "nginx.service");
        assert!(sink.sink().wants(Severity::Low, &service));
        assert_eq!(sink.sink().rate.to_string(), "600/min");
        let chat = parse("name = 'ops'\nkind = 'slack'").unwrap().sink();
        assert_eq!((chat.rate.to_string().as_str(), chat.room), ("60/min", 20));
        let slow = parse("name = 'ops'\nkind = 'slack'\nrate = '6/min'").unwrap();
        assert_eq!(slow.sink().rate.to_string(), "6/min");
    }

    #[test]
    fn only_what_passes_both_filters_is_wanted() {
        let sink = parse(
            "name = 'ops'\nkind = 'stdout'\nmin_severity = 'medium'\nservices = ['compose:shop/*', 'k8s:prod/**']",
        )
        .unwrap();
        for (severity, scheme, rest, expected) in [
            (Severity::Medium, "compose", "shop/web", true),
            (Severity::Critical, "k8s", "prod/deployment/web", true),
            (Severity::Low, "compose", "shop/web", false),
            (Severity::Critical, "compose", "pay/web", false),
        ] {
            let service = ServiceName::new(scheme, rest);
            assert_eq!(sink.sink().wants(severity, &service), expected, "{service}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (text, said) in [
            ("kind = 'teams'", "\"teams\" is not supported yet"),
            ("kind = 'teams'", "\"slack\", \"webhook\" and \"stdout\""),
            ("kind = 'slack'\nrate = '2/fortnight'", "is not a rate: write one like \"1/s\""),
            ("kind = 'smoke'", "not known"),
            ("kind = 'stdout'\ntimout = '1s'", "unknown field `timout`"),
            ("kind = 'stdout'\ntimeout = 'soon'", "not a duration"),
            ("kind = 'stdout'\ntimeout = '0s'", "out of range"),
            ("kind = 'stdout'\ntimeout = '1h'", "out of range"),
            ("kind = 'stdout'\nmin_severity = 'loud'", "unknown variant"),
            ("kind = 'stdout'\nservices = ['nginx']", "matches no name"),
        ] {
            let error = parse(&format!("name = 'ops'\n{text}")).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
