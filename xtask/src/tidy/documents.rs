//! The documents that code must keep up with: the kernels the README promises are those CI runs,
//! and the architecture stays short enough to be read.

use std::collections::BTreeSet;
use std::path::Path;

use crate::tidy::{Report, Tree};

const README: &str = "README.md";
const ARCHITECTURE: &str = "ARCHITECTURE.md";
const CI: &str = ".github/workflows/ci.yml";

/// What stands before the README's table of kernels.
const MARKER: &str = "<!-- kernels -->";
/// What opens the matrix of kernels in CI.
const MATRIX: &str = "kernel: [";
/// Lines of `ARCHITECTURE.md`.
const CEILING: usize = 150;

/// Checks the documents of a repository that has a README.
pub(crate) fn check(tree: &Tree, report: &mut Report) {
    let Some(readme) = tree.text(Path::new(README)) else {
        return;
    };
    check_architecture(tree, report);
    let promised = match table(readme) {
        Ok(promised) => promised,
        Err((line, what)) => return report.add(Path::new(README), line, what),
    };
    let Some((line, run)) = tree.text(Path::new(CI)).and_then(matrix) else {
        let what = format!("has no `{MATRIX}..]` matrix to hold the README's table against");
        return report.add(Path::new(CI), 1, what);
    };
    for kernel in promised.difference(&run) {
        report.add(
            Path::new(CI),
            line,
            format!("does not run kernel {kernel}, which the README promises"),
        );
    }
    for kernel in run.difference(&promised) {
        report.add(
            Path::new(CI),
            line,
            format!("runs kernel {kernel}, which the README does not name"),
        );
    }
}

fn check_architecture(tree: &Tree, report: &mut Report) {
    let path = Path::new(ARCHITECTURE);
    match tree.text(path).map(|text| text.lines().count()) {
        None => report.add(path, 1, "is missing"),
        Some(lines) if lines > CEILING => {
            report.add(path, CEILING + 1, format!("{lines} lines; {CEILING} are the ceiling"));
        }
        Some(_) => {}
    }
}

/// The first column of the table after the marker, without its heading.
fn table(readme: &str) -> Result<BTreeSet<String>, (usize, String)> {
    let at = readme
        .lines()
        .position(|line| line.trim() == MARKER)
        .ok_or_else(|| (1, format!("has no `{MARKER}` before its table of kernels")))?;
    let rows = readme.lines().skip(at + 1).skip_while(|line| line.trim().is_empty());
    let kernels: BTreeSet<String> = rows
        .take_while(|line| line.trim_start().starts_with('|'))
        .skip(2)
        .filter_map(|row| row.split('|').nth(1))
        .map(|cell| cell.trim().trim_matches('`').to_owned())
        .collect();
    if kernels.is_empty() {
        return Err((
            at + 1,
            format!("has no table with a first column of kernels after `{MARKER}`"),
        ));
    }
    Ok(kernels)
}

/// The kernels of every job that has a matrix of them, and the line of the first.
fn matrix(ci: &str) -> Option<(usize, BTreeSet<String>)> {
    let lists = || {
        let lines = ci.lines().enumerate();
        lines.filter_map(|(index, line)| Some((index, line.trim().strip_prefix(MATRIX)?)))
    };
    let (first, _) = lists().next()?;
    let kernels = lists().flat_map(|(_, list)| {
        let kernels = list.split(']').next().unwrap_or_default().split(',');
        kernels.map(|kernel| kernel.trim().trim_matches(['"', '\'']).to_owned())
    });
    Some((first + 1, kernels.filter(|kernel| !kernel.is_empty()).collect()))
}
