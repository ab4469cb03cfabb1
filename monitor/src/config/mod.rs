//! The configuration: one TOML file, read whole and strictly before anything is opened. An unknown
//! key is an error that names the line and the nearest key; what this version cannot do is refused
//! rather than ignored. Reads the file and nothing it names.

mod mistake;
mod units;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use monitor_core::attribute::Places;
use monitor_core::baseline::{LearnRule, Mode, Promote};
use monitor_core::ids::percent_encode_into;
use monitor_core::network::{Named, Network};
use monitor_core::pattern::Pattern;
use serde::Deserialize;
use toml::de::DeTable;

use crate::capture;
use crate::notify::SinkConfig;
use crate::serve;
use crate::sources;

pub use self::mistake::ConfigError;
use self::mistake::{Place, Source};
pub use self::units::Period;

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub mode: Mode,
    /// Files and patterns of files whose services are guarded as written.
    pub baseline_files: Vec<String>,
    pub state_dir: PathBuf,
    /// This machine's name in alerts; see [`Config::node_name`].
    pub node: Option<String>,
    /// How long the end may take.
    pub grace_period: Period,
    pub capture: capture::Config,
    pub learn: Learn,
    pub detect: Detect,
    /// Networks by the names that edges are to call them.
    pub networks: BTreeMap<NetworkName, Vec<Network>>,
    pub identity: sources::Config,
    pub serve: serve::Config,
    pub notify: Vec<SinkConfig>,
}

/// `[learn]`: when a service's learning has what it needs, and who promotes it then.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Learn {
    pub promote: Promote,
    /// Time without a new edge.
    pub quiet: Period,
    /// Exchanges seen at least.
    pub observations: u64,
}

/// `[detect]`: what is judged.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Detect {
    /// Services to judge; empty means all.
    pub only: Vec<Pattern>,
    /// Networks that are not the Internet.
    pub internal: Vec<Network>,
    /// What is new from one cgroup is told one by one up to this.
    pub budget: capture::Budget,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: Mode::Auto,
            baseline_files: Vec::new(),
            state_dir: "/var/lib/edgewatch".into(),
            node: None,
            grace_period: Period::seconds(10),
            capture: capture::Config::default(),
            learn: Learn::default(),
            detect: Detect::default(),
            networks: BTreeMap::new(),
            identity: sources::Config::default(),
            serve: serve::Config::default(),
            notify: Vec::new(),
        }
    }
}

impl Default for Learn {
    fn default() -> Self {
        Self { promote: Promote::Ask, quiet: Period::seconds(3600), observations: 100 }
    }
}

impl Default for Detect {
    fn default() -> Self {
        Self {
            only: Vec::new(),
            internal: Network::INTERNAL.to_vec(),
            budget: capture::Budget::default(),
        }
    }
}

impl Learn {
    #[must_use]
    pub fn rule(&self) -> LearnRule {
        LearnRule {
            promote: self.promote,
            quiet_s: self.quiet.get().as_secs(),
            observations: self.observations,
        }
    }
}

/// What a network is called: `net:NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct NetworkName(Arc<str>);

/// What a network's name was refused for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a network's name: 1 to 63 letters, digits, dots, underscores and hyphens")]
pub struct NetworkNameError(String);

impl TryFrom<String> for NetworkName {
    type Error = NetworkNameError;

    fn try_from(text: String) -> Result<Self, NetworkNameError> {
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=63).contains(&text.len()) && text.bytes().all(safe) {
            Ok(Self(text.into()))
        } else {
            Err(NetworkNameError(text))
        }
    }
}

/// Parts of the configuration that this version knows of and cannot honour.
const UNSUPPORTED: [(&[&str], &str); 3] = [
    (&["zones"], "[zones]"),
    (&["serve", "listen"], "serve.listen (only the Unix socket is served)"),
    (&["serve", "token_file"], "serve.token_file (only the Unix socket is served)"),
];

impl Config {
    /// Where the configuration is looked for when nobody names another file.
    pub const PATH: &str = "/etc/edgewatch/edgewatch.toml";

    /// Reads the file that `named` names, or the default one, which need not exist.
    ///
    /// # Errors
    /// The file cannot be read, or the first thing in it that cannot be meant.
    pub fn load(named: Option<&Path>) -> Result<Self, ConfigError> {
        let path = named.unwrap_or(Path::new(Self::PATH));
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, &path.to_string_lossy()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && named.is_none() => {
                Ok(Self::default())
            }
            Err(error) => Err(ConfigError::unreadable(path, &error)),
        }
    }

    /// Reads a configuration from its text; `file` is what errors call it.
    ///
    /// # Errors
    /// The first thing in the text that cannot be meant, with its line.
    pub fn parse(text: &str, file: &str) -> Result<Self, ConfigError> {
        let source = Source { text, file };
        let table = DeTable::parse(text).map_err(|error| source.syntax(&error))?;
        let table = table.get_ref();
        for (path, name) in UNSUPPORTED {
            if let Some(place) = Place::of(table, path) {
                let what = format!("{name} is not supported by this version");
                return Err(source.mistake(place.at, what));
            }
        }
        let mut config: Self = toml::from_str(text).map_err(|error| source.unfit(&error, table))?;
        config.capture.dns = match config.identity.dns {
            sources::Dns::Auto => capture::Dns::Auto,
            sources::Dns::Off => capture::Dns::Off,
        };
        config.check(&source, table)?;
        Ok(config)
    }

    /// What no single value can be wrong about.
    fn check(&self, source: &Source<'_>, table: &DeTable<'_>) -> Result<(), ConfigError> {
        let wrong = |key: &str, what: &str| {
            let place = Place::of(table, &[key]);
            source.mistake(place.map_or(0, |it| it.at), format!("{key}: {what}"))
        };
        if self.node.as_deref().is_some_and(|node| node.trim().is_empty()) {
            return Err(wrong("node", "is empty: leave it out to use the host's name"));
        }
        if self.state_dir.as_os_str().is_empty() {
            return Err(wrong("state_dir", "is empty: name a directory"));
        }
        let taken = self.capture.takes();
        let all: u64 = taken.iter().map(|(_, bytes)| bytes).sum();
        if all > capture::Config::MOST_BYTES
            && let Some((key, most)) = taken.iter().max_by_key(|(_, bytes)| bytes)
        {
            let place = Place::of(table, &["capture", key]);
            let [all, most, limit] = [all, *most, capture::Config::MOST_BYTES].map(|it| it >> 20);
            let what = format!(
                "{key} in [capture]: takes {most} MiB of the kernel's memory, all sizes there {all} MiB: lower it until they take {limit} MiB at most"
            );
            return Err(source.mistake(place.map_or(0, |it| it.at), what));
        }
        let mut names = std::collections::BTreeSet::new();
        for (index, sink) in self.notify.iter().enumerate() {
            let refuse = |key: &str, what: &str| {
                let at = Place::of_element(table, "notify", index, key);
                let what = format!("{key} of [[notify]] {:?}: {what}", sink.name);
                Err(source.mistake(at, what))
            };
            if !names.insert(&sink.name) {
                return refuse("name", "there is another of this name; give each its own");
            }
        }
        Ok(())
    }

    /// What addresses are by themselves.
    #[must_use]
    pub fn places(&self) -> Places {
        let named = self.networks.iter().flat_map(|(name, networks)| {
            networks.iter().map(|network| (*network, Arc::clone(&name.0)))
        });
        Places { internal: self.detect.internal.clone(), named: Named::new(named.collect()) }
    }

    /// This machine's name as safe text: the configured one, else the host's.
    #[must_use]
    pub fn node_name(&self) -> String {
        let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        let mut name = String::new();
        percent_encode_into(&mut name, &self.node.clone().unwrap_or_else(host));
        name
    }
}

#[cfg(test)]
mod tests;
