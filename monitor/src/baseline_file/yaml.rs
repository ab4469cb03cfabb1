//! From YAML text to a document, and how what is wrong with it is told.

use monitor_core::baseline::document::{Document, Parsed};
use monitor_core::baseline::{Baseline, Provenance};
use monitor_core::ids::WallTime;
use serde_saphyr::Error;
use serde_saphyr::budget::BudgetBreach;

use crate::baseline_file::FileError;
use crate::spelling::hint;

/// Keys, values, lists and tables for each edge: an entry of its own with one port and every field
/// takes 24, and each executable one more.
const NODES_PER_EDGE: usize = 32;
/// Of those, lists and tables end as well.
const ENDS_PER_EDGE: usize = 4;

/// Reads a document; `file` is what errors call it.
///
/// # Errors
/// The first thing in the text that cannot be meant, with its line.
pub fn from_text(text: &str, file: &str) -> Result<Document, FileError> {
    // What a node can hold, it must be able to read back.
    let document = bounded(text, file, Baseline::EDGES)?;
    // What no single value is wrong about is found before anybody relies on the file.
    take_apart(&document, text, file, Provenance::File, WallTime::default())?;
    Ok(document)
}

/// Reads a document that is no larger than the export of so many edges.
fn bounded(text: &str, file: &str, edges: usize) -> Result<Document, FileError> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! {
            max_nodes: edges * NODES_PER_EDGE,
            max_events: edges * (NODES_PER_EDGE + ENDS_PER_EDGE),
        },
    };
    let document = serde_saphyr::from_str_with_options(text, options);
    document.map_err(|error| unfit(&error, file, edges))
}

/// Takes a document apart; its text tells at which line a service's section stands.
pub(crate) fn take_apart(
    document: &Document,
    text: &str,
    file: &str,
    provenance: Provenance,
    at: WallTime,
) -> Result<Parsed, FileError> {
    document.parse(provenance, at).map_err(|error| {
        let what = error.to_string();
        FileError::Content { file: file.to_owned(), line: line_of(text, &what), what }
    })
}

/// The line of the section that `services.NAME.…` or `format` names.
fn line_of(text: &str, what: &str) -> Option<u64> {
    let place = what.split_once(": ").map_or(what, |(place, _)| place);
    let key = place.strip_prefix("services.").unwrap_or(place);
    let is_key = |line: &&str| {
        let line = line.trim_start().trim_start_matches(['"', '\'']);
        let name = line.split_once(": ").map_or(line.trim_end(), |(name, _)| name);
        let name = name.trim_end_matches([':', '"', '\'']);
        !name.is_empty()
            && (key == name || key.strip_prefix(name).is_some_and(|rest| rest.starts_with('.')))
    };
    let index = text.lines().position(|line| is_key(&line))?;
    Some(index as u64 + 1)
}

fn unfit(error: &Error, file: &str, edges: usize) -> FileError {
    let error = error.without_snippet();
    let what = match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            format!("unknown key {field:?}; {}", hint(field, expected))
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            format!("{variant:?} is unknown; {}", hint(variant, expected))
        }
        Error::SerdeMissingField { field, .. } => format!("{field} is missing"),
        Error::DuplicateMappingKey { key, .. } => {
            format!("{} is there twice", key.as_deref().unwrap_or("a key"))
        }
        Error::SerdeInvalidType { unexpected, expected, .. } => {
            format!("wants {expected}, not {unexpected}")
        }
        Error::Message { msg, .. } => msg.clone(),
        Error::Budget {
            breach: BudgetBreach::Nodes { .. } | BudgetBreach::Events { .. }, ..
        } => {
            format!(
                "this is more than a baseline of {edges} edges, and no node holds a larger one: \
                 divide it, each service in one file"
            )
        }
        other => {
            let text = other.to_string();
            // The place is told in front, as everywhere else.
            text.split(" at line ").next().unwrap_or(&text).to_owned()
        }
    };
    let line = error.location().map(|location| location.line()).filter(|&line| line > 0);
    FileError::Content { file: file.to_owned(), line, what }
}

/// Whether a line holds a comment, for counting: a `#` in a quoted text counts as one too.
pub(crate) fn has_comment(line: &str) -> bool {
    line.trim_start().starts_with('#') || line.contains(" #")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline_file::to_text;

    /// A service with so many edges, as an export with figures writes them.
    fn exported(edges: usize) -> String {
        let mut text = String::from(
            "format: edgewatch-baseline/1\nservices:\n  systemd:app.service:\n    outbound:\n",
        );
        for edge in 0..edges {
            let (third, fourth) = (edge / 250, edge % 250);
            text.push_str(&format!(
                "      - {{to: \"ip:10.{}.{}.{fourth}\", ports: [443/tcp], by: [/usr/bin/app], \
                 attempted_only: true, until: \"2026-12-01T00:00:00Z\", approver: anna, reason: rollout, \
                 evidence: {{first_seen: \"2026-07-01T00:00:00Z\", last_seen: \"2026-07-02T00:00:00Z\", \
                 connections: 3}}}}\n",
                third / 250,
                third % 250
            ));
        }
        text
    }

    #[test]
    fn the_export_of_a_large_node_is_read_back() {
        let text = exported(40_000);
        assert!(to_text(&from_text(&text, "base.yaml").unwrap()) == text, "another text");
    }

    #[test]
    fn what_no_node_can_hold_is_refused_with_what_to_do() {
        let text = exported(2_000);
        let error = bounded(&text, "base.yaml", 1_000).unwrap_err().to_string();
        let (place, what) = error.split_once(": ").unwrap();
        assert!(place.starts_with("base.yaml:"), "{error}");
        assert_eq!(
            what,
            "this is more than a baseline of 1000 edges, and no node holds a larger one: divide it, \
             each service in one file"
        );
        bounded(&text, "base.yaml", 2_000).unwrap();
    }
}
