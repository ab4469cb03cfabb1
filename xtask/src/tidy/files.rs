//! What every file and every manifest owes: an opening line, a length one can read, a name that
//! says something, the lints, and no trace of one developer's machine.

use std::path::Path;

use crate::tidy::Report;
use crate::tidy::source::{Kind, Source};

/// Lines of a file before its tests.
const CEILING: usize = 500;

/// Names that could stand over any code, and so say nothing of what is below them.
const EMPTY_NAMES: &[&str] = &["common", "handler", "helper", "manager", "util"];

/// Directories of one developer's machine.
const PRIVATE_PATHS: &[&str] = &[concat!("/", "work/"), concat!("../", "shared")];

/// Where `unsafe` is allowed: at the kernel's door and in the tests that lean on it.
const UNSAFE: &[&str] = &["monitor/src/capture", "monitor-ebpf", "tests"];

/// Checks a text file of any kind.
pub(crate) fn check(path: &Path, text: &str, report: &mut Report) {
    for (index, line) in text.lines().enumerate() {
        for private in PRIVATE_PATHS {
            if is_private(line, private) {
                report.add(path, index + 1, format!("names `{private}`, a path of one machine"));
            }
        }
    }
    if path.file_name().is_some_and(|name| name == "Cargo.toml") && text.contains("[package]") {
        let lints = text.split("[lints]").nth(1).unwrap_or_default();
        let section = lints.split("\n[").next().unwrap_or_default();
        if !section.lines().any(|line| line.trim() == "workspace = true") {
            report.add(path, 1, "does not opt in to the lints: add `[lints]` `workspace = true`");
        }
    }
}

/// Checks a Rust file.
pub(crate) fn check_source(source: &Source<'_>, report: &mut Report) {
    if !source.text.starts_with("//!") {
        report.add(source.path, 1, "starts without a `//!` line that says what the file is for");
    }
    if source.own_lines > CEILING {
        let what =
            format!("{} lines before its tests; {CEILING} are the ceiling", source.own_lines);
        report.add(source.path, CEILING + 1, what);
    }
    for part in source.path.iter().skip(1).filter_map(|part| part.to_str()) {
        check_name(source, 1, part.trim_end_matches(".rs"), report);
    }
    for pair in source.tokens.windows(2) {
        if let [mark, name] = pair
            && let (Kind::Word(mark), Kind::Word(word)) = (&mark.kind, &name.kind)
            && mark == "mod"
        {
            check_name(source, name.line, word, report);
        }
    }
    if !UNSAFE.iter().any(|place| source.path.starts_with(place) || is_door(source.path, place)) {
        for token in &source.tokens {
            if token.kind == Kind::Word("unsafe".into()) {
                let what = format!("`unsafe` belongs in {} alone", UNSAFE.join(", "));
                report.add(source.path, token.line, what);
            }
        }
    }
}

fn check_name(source: &Source<'_>, line: usize, name: &str, report: &mut Report) {
    let empty = name.split('_').find(|part| EMPTY_NAMES.contains(&part.trim_end_matches('s')));
    if let Some(empty) = empty {
        report.add(
            source.path,
            line,
            format!("a module called `{empty}` says nothing of its work"),
        );
    }
}

/// Whether `path` is `place` written as a single file.
fn is_door(path: &Path, place: &str) -> bool {
    path == Path::new(place).with_extension("rs")
}

/// Whether `line` names the private path itself, not a longer path that contains its words.
fn is_private(line: &str, private: &str) -> bool {
    line.match_indices(private).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|char| char.is_alphanumeric() || "/._-*}".contains(char))
    })
}
