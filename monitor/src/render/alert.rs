//! An alert as a chat would show it, and the list of them.

use monitor_core::detect::Severity;
use monitor_core::incident::{Alert, AlertEdge, AlertFinding, State, Subject};

use crate::render::table::{self, Cell, Column, Kind};
use crate::render::text::{clock, date, program};
use crate::render::{Screen, Tone};
use crate::wording::{counted, grouped, safe};

/// Characters of an id that are shown: its time to the millisecond, and more.
const ID: usize = 13;
/// Findings beside the leading one that are shown.
const ALSO: usize = 5;

/// One alert: what happened, with what, why it is odd, and what to do about it.
#[must_use]
pub fn alert(screen: Screen, alert: &Alert) -> String {
    let tone = tone_of(alert.severity, alert.state);
    let headline = format!("{} · {}", alert.severity.capitalised(), safe(&alert.title));
    let mut lines = vec![screen.colour.paint(tone, &headline)];
    let Some(lead) = alert.lead() else {
        return lines.join("\n") + "\n";
    };
    let of = if alert.is_about_several() { " in this incident" } else { "" };
    let edge = lead.edge.as_ref().map(AlertEdge::sentence);
    let times =
        lead.went().map(|outcome| format!("{}{of}, {outcome}", counted(alert.count, "connection")));
    let place = format!("node {} · {} UTC", safe(&alert.node), clock(alert.last_seen));
    let facts: Vec<String> = edge.into_iter().chain(times).chain([place]).collect();
    lines.push(facts.join(" · "));
    lines.extend(with(lead).map(|with| format!("with {with}")));
    let why: Vec<String> = lead.reasons.iter().map(|reason| safe(&reason.text)).collect();
    let nearest = lead.nearest.as_ref().map(|edge| format!("nearest known edge: {}", safe(edge)));
    let why: Vec<String> = why.into_iter().chain(nearest).collect();
    if !why.is_empty() {
        lines.push(format!("Why: {}", why.join(" · ")));
    }
    if !lead.attack.is_empty() {
        lines.push(format!("ATT&CK: {}", lead.attack.join(", ")));
    }
    if let Some(owner) = &alert.owner {
        lines.push(format!("Owner: {}", safe(owner)));
    }
    lines.extend(muted(alert));
    if alert.state != State::Resolved {
        lines.extend(alert.inspect.as_ref().map(|command| format!("Look: {}", safe(command))));
        if !alert.allow.is_empty() {
            lines.push(format!("Expected? {}", safe(&alert.allow)));
        }
    }
    lines.extend(also(alert));
    lines.join("\n") + "\n"
}

/// That nobody was sent it.
pub(crate) fn muted(alert: &Alert) -> Option<String> {
    let until = alert.muted_until?;
    Some(format!("Muted until {} UTC: listed here and not sent", date(until)))
}

pub(crate) fn with(finding: &AlertFinding) -> Option<String> {
    let process = finding.process.as_ref()?;
    let ids = process.ids().join(", ");
    let ids = if ids.is_empty() { String::new() } else { format!(" ({ids})") };
    let ancestors = process.ancestors.iter().filter_map(|it| it.executable.as_deref());
    let ancestors: String = ancestors.map(|path| format!(" ← {}", program(path))).collect();
    Some(format!("{}{ids}{ancestors}", safe(process.name())).trim_start().to_owned())
}

/// The other findings of the incident, each with the command that allows it.
fn also(alert: &Alert) -> Vec<String> {
    let others = alert.others(ALSO);
    if others.total() == 0 {
        return Vec::new();
    }
    let total = counted(others.total(), "more finding");
    let mut lines = vec![format!("{total} in this incident:")];
    for finding in &others.shown {
        let with =
            finding.executable().map(|path| format!(" with {}", safe(path))).unwrap_or_default();
        let what = match finding.subject() {
            Subject::Edge(edge) => edge,
            Subject::Trouble(why) => safe(why),
        };
        let outcome = finding.went().map(|it| format!(" · {it}")).unwrap_or_default();
        lines.push(format!("  {}: {what}{with}{outcome}", finding.kind));
    }
    if others.left > 0 {
        lines.push(format!("  … and {} more", grouped(others.left)));
    }
    lines
}

pub(crate) const fn tone_of(severity: Severity, state: State) -> Tone {
    match (state, severity) {
        (State::Resolved, _) => Tone::Faint,
        (_, Severity::Low) => Tone::Plain,
        (_, Severity::Medium) => Tone::Doubtful,
        (_, Severity::High | Severity::Critical) => Tone::Bad,
    }
}

const ALERTS: [Column; 6] = [
    Column { title: "last seen", kind: Kind::Left },
    Column { title: "severity", kind: Kind::Left },
    Column { title: "state", kind: Kind::Left },
    Column { title: "times", kind: Kind::Right },
    Column { title: "id", kind: Kind::Left },
    Column { title: "what", kind: Kind::Gives },
];

/// The list of alerts.
#[must_use]
pub fn alerts(screen: Screen, alerts: &[Alert]) -> String {
    if alerts.is_empty() {
        return "no alert\n".to_owned();
    }
    let rows: Vec<[Cell; 6]> = alerts
        .iter()
        .map(|alert| {
            let tone = tone_of(alert.severity, alert.state);
            [
                (date(alert.last_seen), Tone::Faint),
                (alert.severity.to_string(), tone),
                (standing(alert).to_owned(), Tone::Plain),
                (alert.count.to_string(), Tone::Plain),
                // `alerts show` takes the beginning; the whole is in the JSON.
                (alert.id.chars().take(ID).collect(), Tone::Plain),
                (safe(alert.what()), Tone::Plain),
            ]
        })
        .collect();
    table::table(screen, &ALERTS, &rows)
}

/// Where it stands, in a word.
fn standing(alert: &Alert) -> &'static str {
    match alert.state {
        State::Resolved => "resolved",
        State::Firing | State::Updated if alert.muted_until.is_some() => "muted",
        State::Firing | State::Updated => "open",
    }
}

const LIVE: [Column; 5] = [
    Column { title: "when", kind: Kind::Left },
    Column { title: "severity", kind: Kind::Left },
    Column { title: "state", kind: Kind::Left },
    Column { title: "id", kind: Kind::Left },
    Column { title: "what", kind: Kind::Gives },
];

/// Widths of the live columns: they cannot wait for what comes, so they are fixed.
fn live_widths(screen: Screen) -> [usize; 5] {
    const FIXED: [usize; 4] = [8, 8, 8, ID];
    const GAPS: usize = 8;
    let rest = FIXED.iter().sum::<usize>() + GAPS;
    let [when, severity, state, id] = FIXED;
    [when, severity, state, id, screen.width.map_or(0, |width| width.saturating_sub(rest).max(20))]
}

/// The head above the live lines.
#[must_use]
pub fn alert_head(screen: Screen) -> String {
    let head = LIVE.map(|column| (column.title.to_owned(), Tone::Faint));
    table::line(screen, &LIVE, &live_widths(screen), &head)
}

/// One message as it comes.
#[must_use]
pub fn alert_line(screen: Screen, alert: &Alert) -> String {
    let state = match (standing(alert), alert.state) {
        ("open", State::Updated) => "updated",
        (standing, _) => standing,
    };
    let row = [
        (clock(alert.last_seen), Tone::Faint),
        (alert.severity.to_string(), tone_of(alert.severity, alert.state)),
        (state.to_owned(), Tone::Plain),
        (alert.id.chars().take(ID).collect(), Tone::Plain),
        (safe(alert.what()), Tone::Plain),
    ];
    table::line(screen, &LIVE, &live_widths(screen), &row)
}
