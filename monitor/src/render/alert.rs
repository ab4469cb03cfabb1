//! An alert as a chat would show it, and the list of them.

use monitor_core::detect::Severity;
use monitor_core::edge::Port;
use monitor_core::incident::{Alert, AlertEdge, AlertFinding, State};

use crate::render::table::{self, Cell, Column, Kind};
use crate::render::text::{clock, counted, date, program, safe};
use crate::render::{Screen, Tone};

/// Characters of an id that are shown: its time to the millisecond, and more.
const ID: usize = 13;
/// Findings beside the leading one that are shown.
const ALSO: usize = 5;

/// One alert: what happened, with what, why it is odd, and what to do about it.
#[must_use]
pub fn alert(screen: Screen, alert: &Alert) -> String {
    let tone = tone_of(alert.severity, alert.state);
    let headline = format!("{} · {}", capitalised(alert.severity), safe(&alert.title));
    let mut lines = vec![screen.colour.paint(tone, &headline)];
    let Some(lead) = lead(alert) else {
        return lines.join("\n") + "\n";
    };
    let several = alert.more > 0 || alert.findings.iter().any(|it| it.edge != lead.edge);
    let of = if several { " in this incident" } else { "" };
    let edge = lead.edge.as_ref().map(edge_text);
    let times = lead
        .outcome
        .filter(|_| !listens(lead))
        .map(|outcome| format!("{}{of}, {outcome}", counted(alert.count, "connection")));
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
    if alert.state != State::Resolved {
        lines.extend(alert.inspect.as_ref().map(|command| format!("Look: {}", safe(command))));
        if !alert.allow.is_empty() {
            lines.push(format!("Expected? {}", safe(&alert.allow)));
        }
    }
    lines.extend(also(alert, lead));
    lines.join("\n") + "\n"
}

/// The weightiest finding: the one the title is about.
fn lead(alert: &Alert) -> Option<&AlertFinding> {
    let rank = |it: &AlertFinding| (it.severity, it.score);
    alert.findings.iter().reduce(|best, next| if rank(next) > rank(best) { next } else { best })
}

fn listens(finding: &AlertFinding) -> bool {
    finding.edge.as_ref().is_some_and(|edge| edge.client.is_nobody())
}

fn edge_text(edge: &AlertEdge) -> String {
    let port = Port { number: edge.port, protocol: edge.protocol };
    if edge.client.is_nobody() {
        return format!("{} listens at {port}", edge.server);
    }
    format!("{} → {} {port}", edge.client, edge.server)
}

fn with(finding: &AlertFinding) -> Option<String> {
    let process = finding.process.as_ref()?;
    let name = process.executable.as_deref().unwrap_or(&process.command);
    let ancestors = process.ancestors.iter().filter_map(|it| it.executable.as_deref());
    let ancestors: String = ancestors.map(|path| format!(" ← {}", program(path))).collect();
    Some(format!("{} (pid {}, uid {}){ancestors}", safe(name), process.pid, process.uid))
}

/// The other findings of the incident, each with the command that allows it.
fn also(alert: &Alert, lead: &AlertFinding) -> Vec<String> {
    // Both ends of one edge may have found it odd: once is enough.
    let mut others: Vec<&AlertFinding> = Vec::new();
    for finding in alert.findings.iter().filter(|it| it.edge != lead.edge || it.kind == lead.kind) {
        let told = |it: &&AlertFinding| it.edge == finding.edge && it.process == finding.process;
        if !std::ptr::eq(finding, lead) && !others.iter().any(told) {
            others.push(finding);
        }
    }
    let total = others.len() as u64 + alert.more;
    if total == 0 {
        return Vec::new();
    }
    let mut lines = vec![format!("{} in this incident:", counted(total, "more finding"))];
    for finding in others.iter().take(ALSO) {
        let with = finding.process.as_ref().and_then(|it| it.executable.as_deref());
        let with = with.map(|path| format!(" with {}", safe(path))).unwrap_or_default();
        let what = match (&finding.edge, finding.reasons.first()) {
            (Some(edge), _) => edge_text(edge),
            (None, reason) => safe(reason.map_or("", |reason| reason.text.as_str())),
        };
        let outcome = finding.outcome.filter(|_| !listens(finding));
        let outcome = outcome.map(|it| format!(" · {it}")).unwrap_or_default();
        lines.push(format!("  {}: {what}{with}{outcome}", finding.kind));
    }
    let hidden = total.saturating_sub(others.len().min(ALSO) as u64);
    if hidden > 0 {
        lines.push(format!("  … and {hidden} more"));
    }
    lines
}

fn capitalised(severity: Severity) -> &'static str {
    match severity {
        Severity::Low => "Low",
        Severity::Medium => "Medium",
        Severity::High => "High",
        Severity::Critical => "Critical",
    }
}

const fn tone_of(severity: Severity, state: State) -> Tone {
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
            let state = match alert.state {
                State::Firing | State::Updated => "open",
                State::Resolved => "resolved",
            };
            [
                (date(alert.last_seen), Tone::Faint),
                (alert.severity.to_string(), tone),
                (state.to_owned(), Tone::Plain),
                (alert.count.to_string(), Tone::Plain),
                // `alerts show` takes the beginning; the whole is in the JSON.
                (alert.id.chars().take(ID).collect(), Tone::Plain),
                (safe(alert.title.trim_start_matches("resolved: ")), Tone::Plain),
            ]
        })
        .collect();
    table::table(screen, &ALERTS, &rows)
}
