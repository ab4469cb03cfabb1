//! Durations as people write them: `"30s"`. A bare number is refused: nobody can tell its unit.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// A length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(Duration);

impl Period {
    #[must_use]
    pub const fn seconds(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

/// What a text was refused for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    #[error("{0:?} is not a duration: write one like 30s, 15m, 4h or 7d")]
    Period(String),
}

impl FromStr for Period {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let period = humantime::parse_duration(text);
        period.map(Self).map_err(|_error| UnitError::Period(text.to_owned()))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// Reads a quoted text.
struct Quoted;

impl Visitor<'_> for Quoted {
    type Value = Period;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration in quotes, like \"30s\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Period, E> {
        text.parse().map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Quoted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        for (text, seconds) in [("30s", 30), ("15m", 900), ("7d", 604_800), ("1h 30m", 5400)] {
            assert_eq!(text.parse(), Ok(Period::seconds(seconds)));
        }
        for text in ["", "30", "-1s", "30 parsecs"] {
            assert!(text.parse::<Period>().is_err(), "{text}");
        }
    }
}
