//! What was probably meant: how the two files that people write tell a word they do not know.

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
