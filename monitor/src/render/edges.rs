//! Edges: the live lines of `run --show` and `watch`, and the map.

use std::collections::BTreeMap;

use monitor_core::edge::Peer;
use monitor_core::engine::{EdgeView, Standing};

use crate::render::table::{self, Cell, Column, Kind};
use crate::render::text::{clock, day, micros, outcome, program};
use crate::render::{Screen, Tone};
use crate::wording::{grouped, safe};

const LIVE: [Column; 6] = [
    Column { title: "  first seen", kind: Kind::Left },
    Column { title: "client", kind: Kind::Gives },
    Column { title: "  server", kind: Kind::Gives },
    Column { title: "port", kind: Kind::Left },
    Column { title: "with", kind: Kind::Gives },
    Column { title: "outcome", kind: Kind::Left },
];

/// Widths of the live columns: they cannot wait for what comes, so they are fixed. A terminal's
/// spare room goes to the two names.
fn live_widths(screen: Screen) -> [usize; 6] {
    const TIME: usize = 12;
    const PORT: usize = 9;
    const OUTCOME: usize = 11;
    const GAPS: usize = 10;
    let Some(width) = screen.width else {
        return [TIME, 26, 30, PORT, 16, OUTCOME];
    };
    let with = if width < 100 { 10 } else { 16 };
    let names = width.saturating_sub(TIME + PORT + with + OUTCOME + GAPS).clamp(20, 100);
    [TIME, names / 2, names - names / 2, PORT, with, OUTCOME]
}

/// The head above the live lines.
#[must_use]
pub fn edge_head(screen: Screen) -> String {
    let head = LIVE.map(|column| (column.title.to_owned(), Tone::Faint));
    table::line(screen, &LIVE, &live_widths(screen), &head)
}

/// One edge as it appears.
#[must_use]
pub fn edge_line(screen: Screen, view: &EdgeView) -> String {
    let process = view.process.as_ref();
    let with = process.map_or_else(String::new, |process| {
        process.executable.as_deref().map_or_else(|| safe(&process.command), program)
    });
    let with = match &view.opened_by {
        Some(opener) => format!("{with}, socket of {opener}"),
        None => with,
    };
    let (server, port, outcome) = match view.edge.server {
        // No exchange, and nothing to come of it.
        Peer::Socket(socket) => {
            (format!("opens {socket}"), String::new(), (String::new(), Tone::Plain))
        }
        _ => {
            (format!("→ {}", view.edge.server), view.edge.port().to_string(), outcome(view.outcome))
        }
    };
    let row = [
        (format!("  {}", clock(view.at)), Tone::Faint),
        (view.edge.client.to_string(), Tone::Plain),
        (server, tone_of(view.standing)),
        (port, Tone::Plain),
        (with, Tone::Plain),
        outcome,
    ];
    table::line(screen, &LIVE, &live_widths(screen), &row)
}

const fn tone_of(standing: Standing) -> Tone {
    match standing {
        Standing::Allowed | Standing::Unjudged => Tone::Plain,
        Standing::Pending => Tone::Doubtful,
        Standing::Forbidden => Tone::Bad,
    }
}

const MAP: [Column; 9] = [
    Column { title: "client", kind: Kind::Gives },
    Column { title: "  server", kind: Kind::Gives },
    Column { title: "port", kind: Kind::Left },
    Column { title: "with", kind: Kind::Gives },
    Column { title: "outcome", kind: Kind::Left },
    Column { title: "times", kind: Kind::Right },
    Column { title: "rtt", kind: Kind::SpareRight },
    Column { title: "baseline", kind: Kind::Left },
    Column { title: "last seen", kind: Kind::SpareLeft },
];

/// Every edge, under its client.
#[must_use]
pub fn map(screen: Screen, views: &[EdgeView]) -> String {
    if views.is_empty() {
        return "no edge was seen yet\n".to_owned();
    }
    let mut clients: BTreeMap<&Peer, Vec<&EdgeView>> = BTreeMap::new();
    for view in views {
        clients.entry(&view.edge.client).or_default().push(view);
    }
    let mut rows: Vec<[Cell; 9]> = Vec::new();
    for (client, views) in clients {
        for (index, view) in views.into_iter().enumerate() {
            // A name that is repeated is no news; in a pipe each line must stand alone.
            let repeated = index > 0 && screen.width.is_some();
            rows.push(row(view, if repeated { String::new() } else { client.to_string() }));
        }
    }
    table::table(screen, &MAP, &rows)
}

fn row(view: &EdgeView, client: String) -> [Cell; 9] {
    let evidence = view.evidence.as_ref();
    let with = evidence.map_or_else(String::new, |it| match it.executables.as_slice() {
        [] => String::new(),
        [one] => program(one),
        [first, more @ ..] => format!("{} +{}", program(first), more.len()),
    });
    let times = evidence.map(|it| it.connections.max(it.failures)).filter(|&times| times > 0);
    let rtt = evidence.and_then(|it| it.rtt_us);
    let standing = match view.standing {
        Standing::Allowed => "allowed",
        Standing::Pending => "pending",
        Standing::Forbidden => "forbidden",
        Standing::Unjudged => "–",
    };
    let last = evidence.map_or(view.at, |it| it.last_seen);
    [
        (client, Tone::Plain),
        (format!("→ {}", view.edge.server), Tone::Plain),
        (view.edge.port().to_string(), Tone::Plain),
        (with, Tone::Plain),
        outcome(view.outcome),
        (times.map(|times| format!("×{}", grouped(times))).unwrap_or_default(), Tone::Plain),
        (rtt.map(|rtt| micros(rtt.p50)).unwrap_or_default(), Tone::Faint),
        (standing.to_owned(), tone_of(view.standing)),
        (day(last), Tone::Faint),
    ]
}
