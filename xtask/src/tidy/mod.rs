//! `tidy`: the architecture as a test. It reads the repository's text, not its meaning: rules that
//! need types are clippy's. Each rule is shown to fail on a made-up tree.

mod documents;
mod files;
mod imports;
mod source;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;

use crate::tidy::source::Source;
use crate::workspace::Workspace;

/// The crates whose rules are known here. One that moves away must not take its rules with it.
const CRATES: &[&str] =
    &["monitor", "monitor-core", "monitor-common", "monitor-ebpf", "tests", "xtask"];

/// What is not part of the repository though it lies in it.
const SKIPPED: &[&str] = &[".git", "target"];

/// One breach of one rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Problem {
    path: PathBuf,
    line: usize,
    what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.what)
    }
}

/// The verb: prints every problem.
pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<ExitCode> {
    let problems = problems(workspace.root())?;
    print(&problems);
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints problems as `file:line: what`.
pub(crate) fn print(problems: &[Problem]) {
    for problem in problems {
        println!("{problem}");
    }
}

/// All problems of the repository at `root`, in the order of its files.
pub(crate) fn problems(root: &Path) -> anyhow::Result<Vec<Problem>> {
    let tree = Tree::read(root)?;
    let mut report = Report::default();
    for name in CRATES {
        if tree.text(&Path::new(name).join("Cargo.toml")).is_none() {
            report.add(Path::new("Cargo.toml"), 1, format!("there is no crate `{name}`"));
        }
    }
    for (path, text) in &tree.files {
        files::check(path, text, &mut report);
        if path.extension().is_some_and(|extension| extension == "rs") {
            let source = Source::new(path, text, &tree);
            files::check_source(&source, &mut report);
            imports::check(&source, &mut report);
        }
    }
    documents::check(&tree, &mut report);
    report.problems.sort();
    Ok(report.problems)
}

/// The problems found so far.
#[derive(Default)]
struct Report {
    problems: Vec<Problem>,
}

impl Report {
    fn add(&mut self, path: &Path, line: usize, what: impl Into<String>) {
        self.problems.push(Problem { path: path.to_path_buf(), line, what: what.into() });
    }
}

/// The repository's text files, by their path below its root.
struct Tree {
    files: Vec<(PathBuf, String)>,
}

impl Tree {
    fn read(root: &Path) -> anyhow::Result<Self> {
        let mut files = Vec::new();
        let mut pending = vec![root.to_path_buf()];
        while let Some(dir) = pending.pop() {
            let entries =
                std::fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))?;
            for entry in entries {
                let entry = entry.with_context(|| format!("read {}", dir.display()))?;
                let path = entry.path();
                let kind =
                    entry.file_type().with_context(|| format!("look at {}", path.display()))?;
                if SKIPPED.contains(&&*entry.file_name().to_string_lossy()) {
                    continue;
                }
                if kind.is_dir() {
                    pending.push(path);
                } else if kind.is_file() {
                    let bytes =
                        std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
                    // What is not text (a picture, a recording) has no lines to speak of.
                    if let Ok(text) = String::from_utf8(bytes) {
                        let below = path.strip_prefix(root).unwrap_or(&path);
                        files.push((below.to_path_buf(), text));
                    }
                }
            }
        }
        files.sort();
        Ok(Self { files })
    }

    fn text(&self, path: &Path) -> Option<&str> {
        let found = self.files.binary_search_by(|(candidate, _)| candidate.as_path().cmp(path));
        found.ok().map(|index| self.files[index].1.as_str())
    }
}
