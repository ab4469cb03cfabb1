//! How much of a recording is learned: for a time, until a time, or a part of its span.

use std::str::FromStr;
use std::time::Duration;

use monitor_core::ids::WallTime;

/// How much is to be learned, as a person says it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Learn {
    Until(LearnEnd),
    /// So much of the span from the first to the last flow, above 0 and below 1.
    Part(f64),
}

/// Where learning ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LearnEnd {
    /// So long after the first flow.
    After(Duration),
    At(WallTime),
}

/// What a text was refused for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not how much to learn: write a duration like 24h, a part like 0.5 or 50%, or a time like 2026-11-21T10:00:00Z"
)]
pub struct LearnError(String);

impl LearnEnd {
    /// The moment, in a recording that begins at `first`.
    #[must_use]
    pub fn of(self, first: WallTime) -> WallTime {
        match self {
            Self::After(duration) => {
                let micros = i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
                WallTime(first.0.saturating_add(micros))
            }
            Self::At(time) => time,
        }
    }

    /// Where `part` of the span between two times ends.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "a part of what is an i64")]
    pub fn of_part(part: f64, first: WallTime, last: WallTime) -> Self {
        let span = last.0.saturating_sub(first.0) as f64;
        Self::At(WallTime(first.0.saturating_add((span * part) as i64)))
    }
}

impl FromStr for Learn {
    type Err = LearnError;

    fn from_str(text: &str) -> Result<Self, LearnError> {
        let part = match text.strip_suffix('%') {
            Some(percent) => percent.parse::<f64>().map(|percent| percent / 100.0),
            None => text.parse::<f64>(),
        };
        match part {
            Ok(part) if part > 0.0 && part < 1.0 => return Ok(Self::Part(part)),
            Ok(_) => return Err(LearnError(text.to_owned())),
            Err(_) => {}
        }
        let end = match humantime::parse_duration(text) {
            Ok(duration) => LearnEnd::After(duration),
            Err(_) => LearnEnd::At(text.parse().map_err(|_error| LearnError(text.to_owned()))?),
        };
        Ok(Self::Until(end))
    }
}
