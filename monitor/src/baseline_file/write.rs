//! From a document to YAML text: one entry a line, in the document's own order, so that a diff in
//! review shows exactly the edges that changed.

use std::fmt::Write as _;

use monitor_core::baseline::document::{Document, Line, LineEvidence};

/// The document as text. The same document is always the same text.
#[must_use]
pub fn to_text(document: &Document) -> String {
    let mut text = format!("format: {}\n", plain_or_quoted(&document.format));
    if let Some(environment) = &document.environment {
        let _written = writeln!(text, "environment: {}", plain_or_quoted(environment));
    }
    if document.services.is_empty() {
        text.push_str("services: {}\n");
        return text;
    }
    text.push_str("services:\n");
    for (name, entry) in &document.services {
        let head = [
            entry.phase.map(|phase| ("phase", phase.to_string())),
            entry.owner.as_ref().map(|owner| ("owner", plain_or_quoted(owner))),
            entry.about.as_ref().map(|about| ("about", plain_or_quoted(about))),
        ];
        let lists = [
            ("outbound", &entry.outbound),
            ("inbound", &entry.inbound),
            ("listens", &entry.listens),
            ("opens", &entry.opens),
            ("forbidden", &entry.forbidden),
        ];
        let empty = head.iter().all(Option::is_none) && lists.iter().all(|(_, it)| it.is_empty());
        let _written =
            writeln!(text, "  {}:{}", key(name.as_str()), if empty { " {}" } else { "" });
        for (name, value) in head.into_iter().flatten() {
            let _written = writeln!(text, "    {name}: {value}");
        }
        for (name, lines) in lists {
            if !lines.is_empty() {
                let _written = writeln!(text, "    {name}:");
            }
            for line in lines {
                let _written = writeln!(text, "      - {}", flow(line));
            }
        }
    }
    text
}

/// One entry as an inline table.
fn flow(line: &Line) -> String {
    let Line { to, from, ports, sockets, by, attempted_only, until, approver, reason, evidence } =
        line;
    let list = |items: Vec<String>| format!("[{}]", items.join(", "));
    let parts = [
        to.as_ref().map(|to| ("to", plain_or_quoted(&to.to_string()))),
        from.as_ref().map(|from| ("from", plain_or_quoted(&from.to_string()))),
        (!ports.is_empty())
            .then(|| ("ports", list(ports.iter().map(ToString::to_string).collect()))),
        (!sockets.is_empty())
            .then(|| ("sockets", list(sockets.iter().map(ToString::to_string).collect()))),
        (!by.is_empty()).then(|| ("by", list(by.iter().map(|it| plain_or_quoted(it)).collect()))),
        attempted_only.then(|| ("attempted_only", "true".to_owned())),
        until.map(|until| ("until", plain_or_quoted(&until.to_string()))),
        approver.as_ref().map(|approver| ("approver", plain_or_quoted(approver))),
        reason.as_ref().map(|reason| ("reason", plain_or_quoted(reason))),
        evidence.as_ref().map(|evidence| ("evidence", figures(evidence))),
    ];
    table(parts)
}

fn figures(evidence: &LineEvidence) -> String {
    table([
        Some(("first_seen", plain_or_quoted(&evidence.first_seen.to_string()))),
        Some(("last_seen", plain_or_quoted(&evidence.last_seen.to_string()))),
        Some(("connections", evidence.connections.to_string())),
    ])
}

fn table<const N: usize>(parts: [Option<(&str, String)>; N]) -> String {
    let parts: Vec<String> =
        parts.into_iter().flatten().map(|(key, value)| format!("{key}: {value}")).collect();
    format!("{{{}}}", parts.join(", "))
}

/// A service's name as a key: its colons are no trouble unless one ends it.
fn key(name: &str) -> String {
    let safe = |it: char| it.is_ascii_alphanumeric() || "._:/@+-%".contains(it);
    if name.chars().all(safe) && !name.ends_with(':') { name.to_owned() } else { quoted(name) }
}

/// A text as it is where nobody can mistake it for anything else, in quotes where they could.
fn plain_or_quoted(text: &str) -> String {
    let first = |it: char| it.is_ascii_alphabetic() || it == '/';
    let safe = |it: char| it.is_ascii_alphanumeric() || "._/@+-% ".contains(it);
    let word = ["true", "false", "yes", "no", "on", "off", "null", "y", "n"];
    let plain = text.starts_with(first)
        && text.chars().all(safe)
        && !text.ends_with(' ')
        && !word.contains(&text.to_ascii_lowercase().as_str());
    if plain { text.to_owned() } else { quoted(text) }
}

/// In double quotes, on one line, whatever the text holds.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                let _written = write!(quoted, "\\u{:04X}", u32::from(character));
            }
            control if control.is_control() => {
                let _written = write!(quoted, "\\u{:04X}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
