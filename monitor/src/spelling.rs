//! What was probably meant: how all that people and their tools write (the configuration, baseline
//! files, recordings) tells a word it does not know.

/// The nearest of `known`, or all of them.
pub(crate) fn hint(unknown: &str, known: &[&str]) -> String {
    let distance = |it: &&&str| strsim::osa_distance(unknown, it);
    match known.iter().min_by_key(distance) {
        Some(nearest) if distance(&nearest) <= 1 + unknown.len() / 4 => {
            format!("did you mean {nearest:?}?")
        }
        Some(_) => format!("known here: {}", known.join(", ")),
        None => "none is known here".to_owned(),
    }
}

/// The word that serde does not know, and those that it does, of "unknown field `x`, expected `y`";
/// `head` is the message up to the word. The word is a stranger's and may hold anything, backticks
/// too; ours hold none.
pub(crate) fn misspelt<'m>(message: &'m str, head: &str) -> Option<(&'m str, Vec<&'m str>)> {
    let rest = message.strip_prefix(head)?;
    let (unknown, known) =
        rest.rsplit_once("`, expected ").unwrap_or((rest.trim_end_matches('`'), ""));
    Some((unknown, known.split('`').skip(1).step_by(2).collect()))
}
