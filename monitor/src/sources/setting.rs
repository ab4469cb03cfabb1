//! Whether and where a source is asked, as people write it.

use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// A source's setting.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Setting {
    /// Where its socket is, if there is one.
    #[default]
    Auto,
    Off,
    /// Where its socket usually is: it is told when it cannot be asked.
    Required,
    /// There, and as if required.
    At(PathBuf),
}

impl Setting {
    /// Whether it is told when it is away.
    #[must_use]
    pub const fn is_required(&self) -> bool {
        matches!(self, Self::Required | Self::At(_))
    }
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Off => f.write_str("off"),
            Self::Required => f.write_str("required"),
            Self::At(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

/// What a text was refused for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is none of \"auto\", \"off\", \"required\" and a place like \"unix:///run/docker.sock\""
)]
pub struct SettingError(String);

impl FromStr for Setting {
    type Err = SettingError;

    fn from_str(text: &str) -> Result<Self, SettingError> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            "required" => Ok(Self::Required),
            _ => match text.strip_prefix("unix://") {
                Some(path) if path.starts_with('/') && path.len() > 1 => Ok(Self::At(path.into())),
                _ => Err(SettingError(text.to_owned())),
            },
        }
    }
}

impl<'de> Deserialize<'de> for Setting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Reads the setting of a cluster, which is found through a kubeconfig file.
pub(super) fn kubeconfig<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Setting, D::Error> {
    let text = String::deserialize(deserializer)?;
    match &*text {
        "auto" => Ok(Setting::Auto),
        "off" => Ok(Setting::Off),
        "required" => Ok(Setting::Required),
        path if path.starts_with('/') && path.len() > 1 => Ok(Setting::At(path.into())),
        _ => Err(serde::de::Error::custom(format!(
            "{text:?} is none of \"auto\", \"off\", \"required\" and a file like \"/etc/edgewatch/kubeconfig\""
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_read_as_they_are_written() {
        assert_eq!("auto".parse(), Ok(Setting::Auto));
        assert_eq!("off".parse(), Ok(Setting::Off));
        assert_eq!("required".parse(), Ok(Setting::Required));
        for text in ["auto", "off", "required", "unix:///run/x.sock"] {
            assert_eq!(text.parse::<Setting>().map(|it| it.to_string()), Ok(text.to_owned()));
        }
        assert_eq!("unix:///run/x.sock".parse(), Ok(Setting::At("/run/x.sock".into())));
        for text in ["", "on", "/run/x.sock", "unix://", "unix://run/x", "unix:///", "tcp://a:1"] {
            assert!(text.parse::<Setting>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_cluster_is_found_through_a_file() {
        let read = |text: &str| {
            let text = toml::Value::String(text.to_owned());
            kubeconfig(text)
        };
        assert_eq!(read("auto"), Ok(Setting::Auto));
        assert_eq!(read("off"), Ok(Setting::Off));
        assert_eq!(read("required"), Ok(Setting::Required));
        assert_eq!(read("/root/.kube/config"), Ok(Setting::At("/root/.kube/config".into())));
        for text in ["", "on", "/", "config", "unix:///run/x.sock", "https://a:6443"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
