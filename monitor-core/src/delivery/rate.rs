//! How fast a receiver may be spoken to: a token bucket, with time as an argument. Decides when the
//! next message may go, not which one that is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::BootTime;

/// At most so many messages in any second, minute or hour; written `30/min`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    messages: u32,
    period: Period,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Period {
    Second,
    Minute,
    Hour,
}

/// Why a rate was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a rate: write one like \"1/s\", \"30/min\" or \"100/h\", at most \"1000/s\"")]
pub struct RateError(String);

impl Rate {
    /// What a chat takes: a message a second with short bursts.
    pub const CHAT: Self = Self { messages: 60, period: Period::Minute };
    /// What a program takes.
    pub const PROGRAM: Self = Self { messages: 600, period: Period::Minute };
    const MOST_PER_SECOND: u32 = 1_000;

    /// Messages that may go at once after a silence: a tenth of what the period allows.
    const fn burst(self) -> u32 {
        if self.messages < 20 { 1 } else { self.messages / 10 }
    }

    /// The pause between messages once the burst is spent, nanoseconds: so long that burst and
    /// pauses together never exceed the rate in any period, wherever it begins.
    const fn pause_ns(self) -> u64 {
        let pauses = self.messages - self.burst() + 1;
        (self.period.seconds() as u64 * 1_000_000_000).div_ceil(pauses as u64)
    }
}

impl Period {
    const fn seconds(self) -> u32 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3_600,
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let period = match self.period {
            Period::Second => "s",
            Period::Minute => "min",
            Period::Hour => "h",
        };
        write!(f, "{}/{period}", self.messages)
    }
}

impl FromStr for Rate {
    type Err = RateError;

    fn from_str(text: &str) -> Result<Self, RateError> {
        let wrong = || RateError(text.to_owned());
        let (messages, period) = text.split_once('/').ok_or_else(wrong)?;
        let period = match period {
            "s" => Period::Second,
            "min" => Period::Minute,
            "h" => Period::Hour,
            _ => return Err(wrong()),
        };
        let most = Self::MOST_PER_SECOND * period.seconds();
        match messages.parse() {
            Ok(messages) if (1..=most).contains(&messages) => Ok(Self { messages, period }),
            _ => Err(wrong()),
        }
    }
}

impl TryFrom<String> for Rate {
    type Error = RateError;

    fn try_from(text: String) -> Result<Self, RateError> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}

/// The tokens of one receiver. Starts with a single one: a restart is no way around the rate.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: Rate,
    /// When it is full again; None before it was first looked at.
    full_at: Option<BootTime>,
}

impl Bucket {
    pub(crate) const fn new(rate: Rate) -> Self {
        Self { rate, full_at: None }
    }

    /// The time from a single token to a full bucket.
    fn filling_ns(&self) -> u64 {
        u64::from(self.rate.burst() - 1).saturating_mul(self.rate.pause_ns())
    }

    /// Takes a token if there is one.
    pub(crate) fn take(&mut self, now: BootTime) -> bool {
        let filling = self.filling_ns();
        let full_at = *self.full_at.get_or_insert(BootTime(now.0.saturating_add(filling)));
        if full_at.0 > now.0.saturating_add(filling) {
            return false;
        }
        self.full_at = Some(BootTime(full_at.0.max(now.0).saturating_add(self.rate.pause_ns())));
        true
    }

    /// A message may have arrived as late as it was answered: no time passed for its receiver.
    pub(crate) fn flew(&mut self, sent: BootTime, answered: BootTime) {
        if let Some(full_at) = &mut self.full_at {
            full_at.0 = full_at.0.saturating_add(answered.0.saturating_sub(sent.0));
        }
    }

    /// When there is a token.
    pub(crate) fn next(&self) -> BootTime {
        let full_at = self.full_at.unwrap_or_default();
        BootTime(full_at.0.saturating_sub(self.filling_ns()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_reads_as_it_is_written() {
        for text in ["1/s", "30/min", "100/h", "1000/s", "60000/min"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
        for text in ["", "30", "0/s", "-1/s", "1001/s", "30/m", "30 /min", "1/s/s", "1.5/s"] {
            let error = text.parse::<Rate>().unwrap_err().to_string();
            assert!(error.contains("30/min"), "{text}: {error}");
        }
    }

    /// Sends as fast as the bucket lets it, from a silence on; when each message went, milliseconds.
    fn storm(rate: &str, silence_ms: u64, seconds: u64) -> Vec<u64> {
        let mut bucket = Bucket::new(rate.parse().unwrap());
        let mut sent = Vec::new();
        if bucket.take(BootTime(0)) {
            sent.push(0);
        }
        for ms in silence_ms..silence_ms + seconds * 1_000 {
            while bucket.take(BootTime(ms * 1_000_000)) {
                sent.push(ms);
            }
        }
        sent
    }

    #[test]
    fn no_period_wherever_it_begins_holds_more_than_the_rate() {
        for (rate, most, period_ms) in
            [("1/s", 1, 1_000), ("7/s", 7, 1_000), ("30/min", 30, 60_000), ("60/min", 60, 60_000)]
        {
            for silence_ms in [0, 1, 500, 90_000] {
                let sent = storm(rate, silence_ms, 200);
                let worst = sent.iter().map(|start| {
                    sent.iter().filter(|it| (*start..start + period_ms).contains(*it)).count()
                });
                let worst = worst.max().unwrap_or(0);
                assert!(worst <= most, "{rate} after {silence_ms} ms: {worst}");
                // Nor is it slower than it must be, once it was silent.
                assert!(worst == most || silence_ms < period_ms, "{rate}: {worst}");
            }
        }
    }

    #[test]
    fn a_silence_is_followed_by_a_burst_and_a_start_is_not() {
        let at_start = storm("60/min", 0, 1);
        assert_eq!(at_start, [0]);
        let after_silence = storm("60/min", 90_000, 1);
        assert_eq!(after_silence, [0, 90_000, 90_000, 90_000, 90_000, 90_000, 90_000]);
    }

    #[test]
    fn it_says_when_the_next_may_go() {
        let mut bucket = Bucket::new("1/s".parse().unwrap());
        assert_eq!(bucket.next(), BootTime(0));
        assert!(bucket.take(BootTime(5)));
        assert!(!bucket.take(BootTime(6)));
        assert_eq!(bucket.next(), BootTime(1_000_000_005));
        assert!(bucket.take(bucket.next()));
        let sent = bucket.next();
        assert!(bucket.take(sent));
        bucket.flew(sent, BootTime(sent.0 + 7));
        assert_eq!(bucket.next(), BootTime(sent.0 + 7 + 1_000_000_000), "it may have come last");
    }
}
