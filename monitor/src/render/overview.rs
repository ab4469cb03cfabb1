//! The agent at a glance, its services, and who changed what.

use std::fmt::Write as _;

use monitor_core::baseline::Phase;
use monitor_core::engine::{AuditEntry, ServiceView, SinkView, Status};

use crate::render::table::{self, Cell, Column, Kind};
use crate::render::text::{counted, date, grouped, safe};
use crate::render::{Colour, Screen, Tone};

/// The agent at a glance.
#[must_use]
pub fn status(screen: Screen, status: &Status) -> String {
    let colour = screen.colour;
    let since = status.since.map(|since| format!(" · since {} UTC", date(since)));
    let mut lines = vec![format!(
        "{} · mode {}{}",
        colour.paint(Tone::Strong, &format!("edgewatch on {}", safe(&status.node))),
        status.mode,
        since.unwrap_or_default()
    )];
    let figure = |name: &str, text: String| format!("{name:<11}{text}");
    lines.push(figure(
        "services",
        format!(
            "{}: {} guarded, {} proposed, {} learning",
            status.services, status.guarded, status.proposed, status.learning
        ),
    ));
    let pending = match status.pending {
        0 => "none waits for a decision".to_owned(),
        some => {
            let text = format!("{some} wait for a decision: edgewatch baseline diff");
            colour.paint(Tone::Doubtful, &text)
        }
    };
    lines.push(figure("edges", format!("{}, {pending}", grouped(status.edges as u64))));
    lines.push(figure(
        "incidents",
        match status.open_incidents {
            0 => colour.paint(Tone::Good, "none open"),
            open => colour.paint(Tone::Bad, &format!("{open} open: edgewatch alerts")),
        },
    ));
    if status.sinks.is_empty() {
        lines.push(figure("receivers", "none: alerts are listed by edgewatch alerts".to_owned()));
    }
    for (index, sink) in status.sinks.iter().enumerate() {
        lines.push(figure(if index == 0 { "receivers" } else { "" }, receiver(colour, sink)));
    }
    let lost: Vec<String> =
        status.lost.iter().map(|(loss, count)| format!("{} {loss}", grouped(*count))).collect();
    lines.push(figure(
        "lost",
        match lost.as_slice() {
            [] => "nothing".to_owned(),
            some => colour.paint(Tone::Doubtful, &some.join(", ")),
        },
    ));
    for (index, missing) in status.missing.iter().enumerate() {
        let name = if index == 0 { "not seen" } else { "" };
        lines.push(figure(name, colour.paint(Tone::Doubtful, &safe(missing))));
    }
    lines.join("\n") + "\n"
}

fn receiver(colour: Colour, sink: &SinkView) -> String {
    let mut text = format!(
        "{}: {} delivered, {} queued",
        safe(&sink.name),
        grouped(sink.delivered),
        sink.queued
    );
    if let Some(failure) = &sink.failure {
        let _written = write!(text, "; {}", colour.paint(Tone::Bad, &safe(failure)));
    }
    text
}

const SERVICES: [Column; 7] = [
    Column { title: "service", kind: Kind::Gives },
    Column { title: "phase", kind: Kind::Left },
    Column { title: "out", kind: Kind::Right },
    Column { title: "in", kind: Kind::Right },
    Column { title: "pending", kind: Kind::Right },
    Column { title: "owner", kind: Kind::Gives },
    Column { title: "last seen", kind: Kind::Left },
];

/// Every service.
#[must_use]
pub fn services(screen: Screen, views: &[ServiceView]) -> String {
    if views.is_empty() {
        return "no service was seen yet\n".to_owned();
    }
    let rows: Vec<[Cell; 7]> = views
        .iter()
        .map(|view| {
            let pending = if view.pending > 0 { Tone::Doubtful } else { Tone::Faint };
            [
                (view.service.to_string(), Tone::Plain),
                phase(view.phase),
                (view.outbound.to_string(), Tone::Plain),
                (view.inbound.to_string(), Tone::Plain),
                (view.pending.to_string(), pending),
                (view.owner.as_deref().map(safe).unwrap_or_default(), Tone::Plain),
                (date(view.last_seen), Tone::Faint),
            ]
        })
        .collect();
    table::table(screen, &SERVICES, &rows)
}

/// A phase by its name and colour.
pub(crate) fn phase(phase: Phase) -> Cell {
    let tone = match phase {
        Phase::Learning => Tone::Plain,
        Phase::Proposed => Tone::Doubtful,
        Phase::Guarded => Tone::Good,
    };
    (phase.to_string(), tone)
}

const AUDIT: [Column; 4] = [
    Column { title: "when", kind: Kind::Left },
    Column { title: "who", kind: Kind::Left },
    Column { title: "by", kind: Kind::Gives },
    Column { title: "what", kind: Kind::Gives },
];

/// Who changed what.
#[must_use]
pub fn audit(screen: Screen, entries: &[AuditEntry]) -> String {
    if entries.is_empty() {
        return "nothing was changed yet\n".to_owned();
    }
    let rows: Vec<[Cell; 4]> = entries
        .iter()
        .map(|entry| {
            let agent = entry.actor.pid == 0;
            let who = if agent { "agent".to_owned() } else { format!("uid {}", entry.actor.uid) };
            [
                (date(entry.at), Tone::Faint),
                (who, Tone::Plain),
                (entry.actor.executable.as_deref().map(safe).unwrap_or_default(), Tone::Faint),
                (safe(&entry.what), Tone::Plain),
            ]
        })
        .collect();
    table::table(screen, &AUDIT, &rows)
}

/// `3 services: a, b, c`, shortened after a few.
pub(crate) fn named(names: &[impl std::fmt::Display]) -> String {
    let shown: Vec<String> = names.iter().take(5).map(ToString::to_string).collect();
    let more = match names.len().saturating_sub(shown.len()) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}: {}{more}", counted(names.len() as u64, "service"), shown.join(", "))
}
