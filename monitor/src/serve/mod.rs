//! serve

use std::path::PathBuf;

use serde::Deserialize;

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
