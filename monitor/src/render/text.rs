//! Small pieces: times, outcomes, programs.

use monitor_core::flow::Outcome;
use monitor_core::ids::WallTime;

use crate::render::Tone;
use crate::wording::safe;

/// `10:41:07`
pub(crate) fn clock(time: WallTime) -> String {
    time.to_string().get(11..19).unwrap_or("--:--:--").to_owned()
}

/// `2026-11-21 10:41:07`
pub(crate) fn date(time: WallTime) -> String {
    time.to_string().get(..19).unwrap_or("").replace('T', " ")
}

/// `11-21 10:41`, where the year goes without saying.
pub(crate) fn day(time: WallTime) -> String {
    time.to_string().get(5..16).unwrap_or("").replace('T', " ")
}

/// `40 s`, `40 min`, `6 h`, `3 d`: rounded up, so that nothing is said to be over before it is.
pub(crate) fn span(seconds: u64) -> String {
    let (unit, name) = match seconds {
        0..=90 => (1, "s"),
        91..=5_400 => (60, "min"),
        5_401..=172_800 => (3_600, "h"),
        _ => (86_400, "d"),
    };
    format!("{} {name}", seconds.div_ceil(unit))
}

/// `950 µs`, `1.2 ms`, `3 s`
pub(crate) fn micros(micros: u64) -> String {
    match micros {
        0..=999 => format!("{micros} µs"),
        1_000..=9_999 => format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100),
        10_000..=999_999 => format!("{} ms", micros / 1_000),
        _ => format!("{} s", micros / 1_000_000),
    }
}

/// An outcome in few letters.
pub(crate) fn outcome(outcome: Outcome) -> (String, Tone) {
    match outcome {
        Outcome::Established => ("ok".to_owned(), Tone::Good),
        Outcome::Sent => ("sent".to_owned(), Tone::Good),
        Outcome::Attempted => ("attempted".to_owned(), Tone::Faint),
        Outcome::Refused | Outcome::TimedOut | Outcome::Unreachable | Outcome::Denied => {
            (outcome.to_string(), Tone::Doubtful)
        }
    }
}

/// The last component of a path.
pub(crate) fn program(path: &str) -> String {
    safe(path.rsplit('/').next().unwrap_or(path))
}
