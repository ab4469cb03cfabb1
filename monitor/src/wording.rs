//! The words that everything shown shares: counts, and texts that others wrote. What is said, and
//! how it is laid out, is for whoever shows it.

use monitor_core::ids::is_unprintable;

/// `1 edge`, `2 edges`, `2 processes`
pub(crate) fn counted(count: impl TryInto<u64>, what: &str) -> String {
    let count = whole(count);
    let ending = match what {
        _ if count == 1 => "",
        what if what.ends_with('s') => "es",
        _ => "s",
    };
    format!("{} {what}{ending}", grouped(count))
}

/// `88,211`
pub(crate) fn grouped(count: impl TryInto<u64>) -> String {
    let digits = whole(count).to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Every count there is fits.
fn whole(count: impl TryInto<u64>) -> u64 {
    count.try_into().unwrap_or(u64::MAX)
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_one_and_words_in_s_take_es() {
        for (count, what, said) in [
            (0, "edge", "0 edges"),
            (1, "process", "1 process"),
            (2, "process", "2 processes"),
            (2, "address", "2 addresses"),
            (1_141, "more reason", "1,141 more reasons"),
        ] {
            assert_eq!(counted(count, what), said);
        }
        for (count, said) in [(0, "0"), (999, "999"), (88_211, "88,211"), (1_000_000, "1,000,000")]
        {
            assert_eq!(grouped(count), said);
        }
    }

    #[test]
    fn what_others_wrote_is_short_and_safe() {
        assert_eq!(shortened("compose:shop/checkout", 11), "compo…ckout");
        assert_eq!(shortened("short", 5), "short");
        assert_eq!(shortened("shorter", 1), "…");
        assert_eq!(shortened("systemd:shop-api.service", 17), "systemd:shop-api…");
        assert_eq!(shortened("systemd:shop-api.service", 15), "system…hop-api…");
        assert_eq!(safe("a\u{1b}[31m\n\u{202e}b"), "a\\u{1b}[31m\\u{a}\\u{202e}b");
    }
}
