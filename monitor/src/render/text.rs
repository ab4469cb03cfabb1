//! Small pieces: times, counts, and texts that others wrote.

use monitor_core::flow::Outcome;
use monitor_core::ids::{WallTime, is_unprintable};

use crate::render::Tone;

/// A text that may hold anything, as one that cannot move the cursor.
pub(crate) fn safe(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if is_unprintable(character) {
            safe.extend(character.escape_unicode());
        } else {
            safe.push(character);
        }
    }
    safe
}

/// Shortened in the middle, where names differ least, to at most `width` characters. A unit's suffix
/// goes first: it tells nothing.
pub(crate) fn shortened(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    if let Some(stem) = text.strip_suffix(".service").filter(|_| width > 1) {
        let fits = stem.chars().count() < width;
        let stem = if fits { stem.to_owned() } else { shortened(stem, width - 1) };
        return format!("{stem}…");
    }
    let kept = width.saturating_sub(1);
    let head = kept / 2;
    let tail = kept - head;
    let mut short: String = text.chars().take(head).collect();
    short.push('…');
    short.extend(text.chars().skip(length - tail));
    short
}

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

/// `1 edge`, `2 edges`
pub(crate) fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{} {what}s", grouped(count)) }
}

/// `88,211`
#[must_use]
pub fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
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
