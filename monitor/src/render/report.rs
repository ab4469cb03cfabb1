//! What `doctor` found: a line for each check, wrapped below itself where the screen is narrow.

use crate::doctor::{Finding, Report, Verdict};
use crate::render::{Screen, Tone};
use crate::wording::{counted, safe};

/// `ok`, `warn` or `fail`, and two blanks.
const MARGIN: usize = 6;
const GAP: usize = 2;

/// The whole report, and how it ends.
#[must_use]
pub fn report(screen: Screen, report: &Report) -> String {
    let longest = report.findings.iter().map(|it| safe(&it.what).chars().count()).max();
    let left = match screen.width {
        // Two fifths: what was looked at is shorter than what was found.
        Some(width) => longest.unwrap_or(0).min(width.saturating_sub(MARGIN) * 2 / 5),
        None => longest.unwrap_or(0).min(44),
    };
    let mut text: String =
        report.findings.iter().map(|finding| lines(screen, left, finding)).collect();
    let (failures, warnings) = (report.count(Verdict::Fail), report.count(Verdict::Warn));
    let (tone, end) = match (failures, warnings) {
        (0, 0) => (Tone::Good, "everything edgewatch needs is here".to_owned()),
        (0, some) => {
            let warnings = counted(some, "warning");
            (Tone::Doubtful, format!("edgewatch can work here; {warnings} above"))
        }
        (some, _) => {
            let failures = counted(some, "failure");
            (Tone::Bad, format!("edgewatch cannot work like this; {failures} above"))
        }
    };
    text.push('\n');
    text.push_str(&screen.colour.paint(tone, &end));
    text.push('\n');
    text
}

fn lines(screen: Screen, left: usize, finding: &Finding) -> String {
    let (verdict, tone) = match finding.verdict {
        Verdict::Ok => ("ok", Tone::Good),
        Verdict::Warn => ("warn", Tone::Doubtful),
        Verdict::Fail => ("fail", Tone::Bad),
    };
    let detail = match &finding.mend {
        // The configuration's mistakes may end with a question.
        Some(mend) if finding.detail.ends_with('?') => format!("{} {mend}", finding.detail),
        Some(mend) => format!("{}: {mend}", finding.detail),
        None => finding.detail.clone(),
    };
    let (what, detail) = (safe(&finding.what), safe(&detail));
    let right = screen.width.map(|width| width.saturating_sub(MARGIN + left + GAP).max(20));
    let whats = match screen.width {
        Some(_) => wrapped(&what, left),
        None => vec![what],
    };
    let details = right.map_or_else(|| vec![detail.clone()], |right| wrapped(&detail, right));
    let mut text = String::new();
    for at in 0..whats.len().max(details.len()) {
        let what = whats.get(at).map_or("", String::as_str);
        let detail = details.get(at).map_or("", String::as_str);
        let verdict = if at == 0 { verdict } else { "" };
        let margin = " ".repeat(MARGIN - verdict.len());
        let gap = " ".repeat((left + GAP).saturating_sub(what.chars().count()).max(GAP));
        let verdict = if at == 0 { screen.colour.paint(tone, verdict) } else { String::new() };
        let line = format!("{verdict}{margin}{what}{gap}{detail}");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Broken at blanks; a word that is longer than a line is cut.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let length = |text: &str| text.chars().count();
    for word in text.split(' ') {
        let mut word = word.to_owned();
        let last = lines.last().map_or(0, |line| length(line));
        if last > 0 && last + 1 + length(&word) > width {
            lines.push(String::new());
        }
        while length(&word) > width.max(1) {
            let head: String = word.chars().take(width.max(1)).collect();
            word = word.chars().skip(width.max(1)).collect();
            if let Some(line) = lines.last_mut() {
                line.push_str(&head);
            }
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&word);
        }
    }
    lines
}
