//! The baseline: how far learning is and what it still needs, what waits for a decision, what a
//! decision changed.

use monitor_core::baseline::Phase;
use monitor_core::engine::{BaselineRow, Difference, Reply};

use crate::render::overview::{named, phase};
use crate::render::table::{self, Cell, Column, Kind};
use crate::render::text::{clock, span};
use crate::render::{Screen, Tone};
use crate::wording::{counted, safe};

const ROWS: [Column; 5] = [
    Column { title: "service", kind: Kind::Gives },
    Column { title: "phase", kind: Kind::Left },
    Column { title: "edges", kind: Kind::Right },
    Column { title: "pending", kind: Kind::Right },
    Column { title: "what is missing", kind: Kind::Left },
];

/// How far each service's learning is.
#[must_use]
pub fn baseline_rows(screen: Screen, rows: &[BaselineRow]) -> String {
    if rows.is_empty() {
        return "no service was seen yet\n".to_owned();
    }
    let cells = |missing: fn(&BaselineRow) -> String| -> Vec<[Cell; 5]> {
        let cell = |row: &BaselineRow| {
            let pending = if row.pending > 0 { Tone::Doubtful } else { Tone::Faint };
            [
                (row.service.to_string(), Tone::Plain),
                phase(row.phase),
                (row.edges.to_string(), Tone::Plain),
                (row.pending.to_string(), pending),
                (missing(row), Tone::Plain),
            ]
        };
        rows.iter().map(cell).collect()
    };
    let whole = cells(missing);
    if screen.width.is_none_or(|width| table::natural_width(&ROWS, &whole) <= width) {
        return table::table(screen, &ROWS, &whole);
    }
    // A command that is cut is worse than none: they follow below, whole.
    let mut text = table::table(screen, &ROWS, &cells(missing_in_short));
    for row in rows.iter().filter(|row| row.phase == Phase::Proposed) {
        text.push_str(&format!("\n  {}", guard(row)));
    }
    text.push('\n');
    text
}

fn guard(row: &BaselineRow) -> String {
    format!("edgewatch baseline guard {}", row.service)
}

fn missing(row: &BaselineRow) -> String {
    match row.phase {
        Phase::Proposed => format!("approve it: {}", guard(row)),
        Phase::Learning | Phase::Guarded => missing_in_short(row),
    }
}

fn missing_in_short(row: &BaselineRow) -> String {
    match row.phase {
        Phase::Proposed => "your approval".to_owned(),
        Phase::Guarded => match (row.open_until, row.from_file) {
            (Some(until), _) => format!("open until {} UTC, then guarded", clock(until)),
            (None, true) => "– (in a baseline file)".to_owned(),
            (None, false) => "–".to_owned(),
        },
        Phase::Learning if row.service.is_provisional() => "its lasting name".to_owned(),
        Phase::Learning => {
            let observations = row.observations_needed.saturating_sub(row.observations);
            let quiet = row.quiet_needed_s.saturating_sub(row.quiet_s);
            let needs = [
                (observations > 0).then(|| counted(observations, "more connection")),
                (quiet > 0).then(|| format!("{} quiet", span(quiet))),
            ];
            let needs: Vec<String> = needs.into_iter().flatten().collect();
            if needs.is_empty() { "–".to_owned() } else { needs.join(" · ") }
        }
    }
}

/// What was seen and waits for a decision, one edge a line.
#[must_use]
pub fn undecided(screen: Screen, differences: &[Difference]) -> String {
    if differences.is_empty() {
        return "nothing waits for a decision\n".to_owned();
    }
    let lines = differences.iter().map(|it| {
        let note = it.note.as_ref().map(|note| format!("  ({})", safe(note))).unwrap_or_default();
        signed(screen, it.sign, &format!("{}{note}", it.edge))
    });
    lines.collect()
}

/// What a decision changed, or would change; `verb` says what was done to its services, and is empty
/// where that goes without saying.
#[must_use]
pub fn reply(screen: Screen, verb: &str, reply: &Reply) -> String {
    let mut text = String::new();
    if !verb.is_empty() {
        text.push_str(&format!("{verb} {}\n", named(&reply.services)));
    }
    for edge in &reply.no_longer_forbidden {
        text.push_str(&signed(screen, '-', &format!("forbidden: {edge}")));
    }
    for edge in &reply.forbidden {
        text.push_str(&signed(screen, '+', &format!("forbidden: {edge}")));
    }
    for edge in &reply.removed {
        text.push_str(&signed(screen, '-', &edge.to_string()));
    }
    for edge in &reply.added {
        text.push_str(&signed(screen, '+', &edge.to_string()));
    }
    for note in &reply.notes {
        text.push_str(&format!("note: {}\n", safe(note)));
    }
    text
}

fn signed(screen: Screen, sign: char, text: &str) -> String {
    let tone = if sign == '-' { Tone::Bad } else { Tone::Good };
    format!("{}\n", screen.colour.paint(tone, &format!("{sign} {text}")))
}
