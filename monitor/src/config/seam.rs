//! SEAM: the settings of `capture` and `notify` as long as those modules do not own them. When they
//! do, this file goes: `Config` then names their types, and `check_secrets` theirs.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use monitor_core::detect::Severity;
use monitor_core::pattern::Pattern;
use serde::Deserialize;

use crate::config::{Period, Size};

/// `[capture]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CaptureConfig {
    /// Flow keys that the kernel holds.
    pub edges: u32,
    /// Room for news that the agent has not yet read.
    pub ring: Size,
}

impl Default for CaptureConfig {
    fn default() -> Self {
        Self { edges: 32_768, ring: Size::bytes(1 << 20) }
    }
}

/// A network in prefix notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network {
    pub address: IpAddr,
    pub prefix: u8,
}

impl Network {
    const INTERNAL: [&str; 8] = [
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "127.0.0.0/8",
        "fc00::/7",
        "fe80::/10",
    ];

    /// RFC 1918, RFC 6598, unique-local, link-local and loopback.
    #[must_use]
    pub fn internal() -> Vec<Self> {
        Self::INTERNAL.iter().filter_map(|text| text.parse().ok()).collect()
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let (address, prefix) = text.split_once('/')?;
            let (address, prefix): (IpAddr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
            let width = if address.is_ipv4() { 32 } else { 128 };
            (prefix <= width).then_some(Self { address, prefix })
        };
        read().ok_or_else(|| format!("{text:?} is not a network: write one like 10.0.0.0/8"))
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// `[[notify]]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SinkConfig {
    pub name: String,
    pub kind: SinkKind,
    pub url: Option<String>,
    pub url_file: Option<PathBuf>,
    pub url_env: Option<String>,
    pub secret_file: Option<PathBuf>,
    pub secret_env: Option<String>,
    pub ca_file: Option<PathBuf>,
    pub proxy: Option<String>,
    #[serde(default = "low")]
    pub min_severity: Severity,
    #[serde(default)]
    pub services: Vec<Pattern>,
    #[serde(default = "ten_seconds")]
    pub timeout: Period,
}

const fn low() -> Severity {
    Severity::Low
}

const fn ten_seconds() -> Period {
    Period::seconds(10)
}

/// What a receiver understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SinkKind {
    Slack,
    Teams,
    Discord,
    Mattermost,
    GoogleChat,
    Webhook,
    Alertmanager,
    Pagerduty,
    Syslog,
    Stdout,
}

/// What is wrong with a receiver, and at which of its keys.
pub(crate) struct SinkMistake {
    pub(crate) key: &'static str,
    pub(crate) what: String,
}

impl SinkConfig {
    pub(crate) fn check(&self) -> Result<(), SinkMistake> {
        let wrong = |key, what: &str| Err(SinkMistake { key, what: what.to_owned() });
        let urls = [
            ("url", self.url.is_some()),
            ("url_file", self.url_file.is_some()),
            ("url_env", self.url_env.is_some()),
        ];
        let mut given = urls.iter().filter(|(_, given)| *given).map(|(key, _)| *key);
        let optional =
            matches!(self.kind, SinkKind::Stdout | SinkKind::Syslog | SinkKind::Pagerduty);
        match (given.next(), given.next()) {
            (Some(key), None) if self.kind == SinkKind::Stdout => {
                return wrong(key, "stdout needs no URL");
            }
            (Some(_), Some(second)) => return wrong(second, "its URL is given twice"),
            (None, _) if !optional => {
                return wrong("kind", "its URL is missing: name its file with url_file");
            }
            _ => {}
        }
        if let Some(url) = &self.url {
            self.check_url(url)?;
        }
        if self.secret_file.is_some() && self.secret_env.is_some() {
            return wrong("secret_env", "its secret is given twice");
        }
        Ok(())
    }

    fn check_url(&self, url: &str) -> Result<(), SinkMistake> {
        let wrong = |what: &str| Err(SinkMistake { key: "url", what: what.to_owned() });
        let Some((scheme, rest)) = url.split_once("://") else {
            return wrong("it is no URL: write one like https://receiver.example/hook");
        };
        let local = is_loopback(rest);
        let open = matches!(self.kind, SinkKind::Alertmanager | SinkKind::Syslog);
        if !local && !open {
            return wrong(
                "a webhook's URL is a secret: put it into a file and name that with url_file, or use url_env",
            );
        }
        if scheme == "http" && !local {
            return wrong("plain http goes to loopback only: use https");
        }
        Ok(())
    }

    pub(crate) fn check_secrets(&self) -> Result<(), String> {
        for (key, file) in [
            ("url_file", &self.url_file),
            ("secret_file", &self.secret_file),
            ("ca_file", &self.ca_file),
        ] {
            if let Some(file) = file {
                check_file(file).map_err(|what| format!("{key} {}: {what}", file.display()))?;
            }
        }
        for (key, name) in [("url_env", &self.url_env), ("secret_env", &self.secret_env)] {
            let empty = |name: &String| std::env::var_os(name).is_none_or(|it| it.is_empty());
            if let Some(name) = name.as_ref().filter(|name| empty(name)) {
                return Err(format!("{key}: the environment has no {name}"));
            }
        }
        Ok(())
    }
}

fn check_file(file: &Path) -> Result<(), String> {
    match std::fs::read(file) {
        Ok(bytes) if bytes.trim_ascii().is_empty() => Err("is empty".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

/// Whether what follows `://` names this machine.
fn is_loopback(rest: &str) -> bool {
    let authority = rest.split(['/', '?', '#']).next().unwrap_or("");
    let host = authority.rsplit('@').next().unwrap_or("");
    let host = match host.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or(""),
        None => host.split(':').next().unwrap_or(""),
    };
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|it| it.is_loopback())
}
