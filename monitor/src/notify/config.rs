//! One receiver as the configuration file says it, and which alerts it wants. Read strictly, and
//! checked without opening anything: files and variables are read when the receiver is built.

use std::path::PathBuf;
use std::time::Duration;

use monitor_core::delivery::Sink;
use monitor_core::detect::Severity;
use monitor_core::pattern::Pattern;
use serde::{Deserialize, Deserializer};

/// What a receiver understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Kind {
    /// The alert as JSON, by HTTP POST.
    Webhook,
    /// The alert as one line of JSON on standard output.
    Stdout,
}

/// Why a receiver's kind was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KindError {
    #[error("{0:?} is not supported yet: this version delivers to \"webhook\" and \"stdout\"")]
    NotYet(String),
    #[error("{0:?} is not known: write \"webhook\" or \"stdout\"")]
    Unknown(String),
}

impl TryFrom<String> for Kind {
    type Error = KindError;

    fn try_from(text: String) -> Result<Self, KindError> {
        match text.as_str() {
            "webhook" => Ok(Self::Webhook),
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
}

impl SinkConfig {
    /// What the delivery queue must know of this receiver.
    #[must_use]
    pub fn sink(&self) -> Sink {
        Sink {
            name: self.name.clone(),
            min_severity: self.min_severity,
            services: self.services.clone(),
        }
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

const PLANNED: [&str; 8] = [
    "slack",
    "teams",
    "discord",
    "mattermost",
    "google-chat",
    "alertmanager",
    "pagerduty",
    "syslog",
];

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
            ("kind = 'slack'", "\"slack\" is not supported yet"),
            ("kind = 'slack'", "\"webhook\" and \"stdout\""),
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
