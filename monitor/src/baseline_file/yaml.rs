//! From YAML text to a document, and how what is wrong with it is told.

use monitor_core::baseline::Provenance;
use monitor_core::baseline::document::{Document, Parsed};
use monitor_core::ids::WallTime;
use serde_saphyr::Error;

use crate::baseline_file::FileError;
use crate::spelling::hint;

/// Reads a document; `file` is what errors call it.
///
/// # Errors
/// The first thing in the text that cannot be meant, with its line.
pub fn from_text(text: &str, file: &str) -> Result<Document, FileError> {
    let options = serde_saphyr::options! { with_snippet: false };
    let document: Document =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| unfit(&error, file))?;
    // What no single value is wrong about is found before anybody relies on the file.
    take_apart(&document, text, file, Provenance::File, WallTime::default())?;
    Ok(document)
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

fn unfit(error: &Error, file: &str) -> FileError {
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
