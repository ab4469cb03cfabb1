//! The agent at a glance, its services, and who changed what.

use std::fmt::Write as _;

use monitor_core::baseline::Phase;
use monitor_core::delivery::Tested;
use monitor_core::engine::{
    AuditEntry, CanaryView, Latency, Lookups, MuteView, ServiceView, SinkView, SourceView, Status,
};

use crate::render::table::{self, Cell, Column, Kind};
use crate::render::text::date;
use crate::render::{Colour, Screen, Tone};
use crate::wording::{counted, grouped, safe};

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
            let wait = if some == 1 { "waits" } else { "wait" };
            let text = format!("{some} {wait} for a decision: edgewatch baseline diff");
            colour.paint(Tone::Doubtful, &text)
        }
    };
    lines.push(figure("edges", format!("{}, {pending}", grouped(status.edges))));
    lines.push(figure(
        "incidents",
        match status.open_incidents {
            0 => colour.paint(Tone::Good, "none open"),
            open => colour.paint(Tone::Bad, &format!("{open} open: edgewatch alerts")),
        },
    ));
    for (index, mute) in status.mutes.iter().enumerate() {
        let text = colour.paint(Tone::Bad, &muted(mute));
        lines.push(figure(if index == 0 { "MUTED" } else { "" }, text));
    }
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
            some => colour.paint(Tone::Doubtful, &format!("{}: edgewatch doctor", some.join(", "))),
        },
    ));
    for (index, source) in status.sources.iter().enumerate() {
        lines.push(figure(if index == 0 { "names" } else { "" }, names(colour, source)));
    }
    if status.lookups != Lookups::default() {
        lines.push(figure("lookups", lookups(colour, status.lookups)));
    }
    lines.extend(status.canary.as_ref().map(|it| figure("canary", canary(colour, it))));
    lines.extend(status.news_us.map(|it| figure("news", news(it))));
    for (index, missing) in status.missing.iter().enumerate() {
        let name = if index == 0 { "not seen" } else { "" };
        lines.push(figure(name, colour.paint(Tone::Doubtful, &safe(missing))));
    }
    lines.join("\n") + "\n"
}

/// Who tells names, and how that one is.
fn names(colour: Colour, view: &SourceView) -> String {
    let known = [
        (view.containers, "container"),
        (view.pods, "pod"),
        (view.services, "service"),
        (view.nodes, "node"),
    ];
    let known = known.into_iter().filter(|(count, _)| *count > 0);
    let known: Vec<String> = known.map(|(count, what)| counted(count, what)).collect();
    let (source, since) = (view.source, date(view.since));
    let Some(why) = &view.away else {
        let known = if known.is_empty() { "nothing to name".to_owned() } else { known.join(", ") };
        let told = format!("{source}: {known}, since {since} UTC");
        return match view.without.as_slice() {
            [] => told,
            lacking => {
                let lacking = format!("not told: {}", safe(&lacking.join(", ")));
                format!("{told}; {}", colour.paint(Tone::Doubtful, &lacking))
            }
        };
    };
    let kept = match known.as_slice() {
        [] => String::new(),
        known => format!("; what it said still holds: {}", known.join(", ")),
    };
    let text = format!("{source} is away since {since} UTC: {}{kept}", safe(why));
    colour.paint(if view.required { Tone::Bad } else { Tone::Doubtful }, &text)
}

/// Where the names are heard that services ask for.
fn lookups(colour: Colour, lookups: Lookups) -> String {
    let heard = format!("heard in {}", counted(lookups.heard, "cgroup"));
    if lookups.unheard == 0 {
        return heard;
    }
    let more = counted(lookups.unheard, "cgroup");
    colour.paint(Tone::Doubtful, &format!("{heard}; there is no room for {more} more that ask"))
}

/// Whether what the agent dials itself comes back to it.
fn canary(colour: Colour, view: &CanaryView) -> String {
    let last = view.at.map(|at| format!("{} UTC", date(at)));
    if view.missing.is_some() {
        let last = last.map_or_else(|| "none ever came".to_owned(), |at| format!("the last {at}"));
        let text = format!("MISSING: connections are not seen; {last}: edgewatch alerts");
        return colour.paint(Tone::Bad, &text);
    }
    if let Some(why) = &view.grounded {
        return colour.paint(Tone::Doubtful, &format!("none: {}", safe(why)));
    }
    let took = view.latency_us.map(|it| format!(", {:.1} ms after its dial", it.last as f64 / 1e3));
    format!("seen {}{}", last.unwrap_or_default(), took.unwrap_or_default())
}

/// How soon what is new is here.
fn news(latency: Latency) -> String {
    let millis = |micros: u64| micros as f64 / 1e3;
    let (half, most) = (millis(latency.p50), millis(latency.p99));
    format!("half within {half:.1} ms of the kernel's stamp, 99 of 100 within {most:.1} ms")
}

fn muted(mute: &MuteView) -> String {
    let by = mute.approver.as_ref().map(|who| format!(" by {}", safe(who))).unwrap_or_default();
    format!(
        "{} until {} UTC{by}: {} ({}, {} not sent)",
        mute.pattern,
        date(mute.until),
        safe(&mute.reason),
        counted(mute.incidents, "open incident"),
        counted(mute.messages, "message")
    )
}

const MUTES: [Column; 6] = [
    Column { title: "services", kind: Kind::Gives },
    Column { title: "until", kind: Kind::Left },
    Column { title: "by", kind: Kind::Left },
    Column { title: "open incidents", kind: Kind::Right },
    Column { title: "not sent", kind: Kind::Right },
    Column { title: "why", kind: Kind::Gives },
];

/// The mutes that hold.
#[must_use]
pub fn mutes(screen: Screen, mutes: &[MuteView]) -> String {
    if mutes.is_empty() {
        return "nothing is muted\n".to_owned();
    }
    let rows: Vec<[Cell; 6]> = mutes
        .iter()
        .map(|mute| {
            [
                (mute.pattern.to_string(), Tone::Plain),
                (date(mute.until), Tone::Plain),
                (mute.approver.as_deref().map(safe).unwrap_or_default(), Tone::Plain),
                (mute.incidents.to_string(), Tone::Plain),
                (grouped(mute.messages), Tone::Doubtful),
                (safe(&mute.reason), Tone::Plain),
            ]
        })
        .collect();
    table::table(screen, &MUTES, &rows)
}

/// What became of test messages.
#[must_use]
pub fn tested(screen: Screen, tested: &[Tested]) -> String {
    let mut text = String::new();
    for Tested { receiver, failure } in tested {
        let (verdict, tone, why) = match failure {
            None => ("ok    ", Tone::Good, String::new()),
            Some(why) => ("failed", Tone::Bad, format!(": {}", safe(why))),
        };
        let verdict = screen.colour.paint(tone, verdict);
        text.push_str(&format!("{verdict}  {}{why}\n", safe(receiver)));
    }
    if tested.iter().any(|it| it.failure.is_some()) {
        text.push_str("mend its [[notify]] table and start the agent again; what waits is kept\n");
    }
    text
}

fn receiver(colour: Colour, sink: &SinkView) -> String {
    let mut text = format!(
        "{}: {} delivered, {} queued",
        safe(&sink.name),
        grouped(sink.delivered),
        sink.queued
    );
    if sink.held_back > 0 {
        let _written = write!(text, ", {} held back for a digest", grouped(sink.held_back));
    }
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
    format!("{}: {}{more}", counted(names.len(), "service"), shown.join(", "))
}
