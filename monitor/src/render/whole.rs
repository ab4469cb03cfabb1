//! One alert in full: every finding with all that is known of it, and the command that allows it.
//! Commands stand alone on their line, whole, so that they can be copied.

use monitor_core::incident::{Alert, AlertFinding, State};

use crate::render::alert::{muted, tone_of};
use crate::render::text::date;
use crate::render::{Screen, Tone};
use crate::wording::{counted, safe};

/// Everything about one alert.
#[must_use]
pub fn whole_alert(screen: Screen, alert: &Alert) -> String {
    let headline = format!("{} · {}", alert.severity.capitalised(), safe(&alert.title));
    let mut lines = vec![screen.colour.paint(tone_of(alert.severity, alert.state), &headline)];
    let state = match alert.state {
        State::Firing => "firing",
        State::Updated => "updated",
        State::Resolved => "resolved",
    };
    lines.push(format!(
        "{} · {state}, revision {} · score {} · {} on node {}",
        alert.id,
        alert.revision,
        alert.score,
        alert.service,
        safe(&alert.node)
    ));
    lines.push(format!(
        "first seen {} · last seen {} UTC · {}",
        date(alert.first_seen),
        date(alert.last_seen),
        counted(alert.count, "connection")
    ));
    lines.extend(muted(alert));
    lines.extend(alert.owner.as_ref().map(|owner| format!("Owner: {}", safe(owner))));
    if alert.state != State::Resolved {
        lines.extend(alert.inspect.as_ref().map(|command| format!("Look: {}", safe(command))));
    }
    for (index, it) in alert.findings.iter().enumerate() {
        lines.push(String::new());
        lines.extend(finding(screen, index + 1, it));
    }
    if alert.more > 0 {
        lines.push(String::new());
        let were = if alert.more == 1 { "was" } else { "were" };
        let more = counted(alert.more, "more finding");
        lines.push(format!("{more} {were} left out; the first {} are kept", alert.findings.len()));
    }
    lines.join("\n") + "\n"
}

fn finding(screen: Screen, number: usize, finding: &AlertFinding) -> Vec<String> {
    let what = finding.edge.as_ref().map(|edge| format!(" · {}", edge.sentence()));
    let outcome = finding.went();
    let head = format!(
        "{number}. {}{}{} · {} UTC · {}, score {}",
        finding.kind,
        what.unwrap_or_default(),
        outcome.map(|it| format!(" · {it}")).unwrap_or_default(),
        date(finding.at),
        finding.severity,
        finding.score
    );
    let mut lines = vec![screen.colour.paint(Tone::Strong, &head)];
    let mut say = |label: &str, text: &str| lines.push(format!("   {label:<10} {}", safe(text)));
    if let Some(process) = &finding.process {
        let called = Some(&process.command).filter(|it| !it.is_empty());
        let called = called.map(|command| format!("called {command}"));
        let known: Vec<String> = process.ids().into_iter().chain(called).collect();
        let known =
            if known.is_empty() { String::new() } else { format!(" ({})", known.join(", ")) };
        say("with", &format!("{}{known}", process.name()));
        for ancestor in &process.ancestors {
            let path = ancestor.executable.as_deref().unwrap_or("?");
            say("", &format!("← {path} (pid {})", ancestor.pid));
        }
    }
    if let Some(dialled) = finding.dialled {
        say("dialled", &dialled.to_string());
    }
    let place = &finding.place;
    let container = match (&place.container, &place.container_name) {
        (Some(id), Some(name)) => Some(format!("{name} ({id})")),
        (id, name) => id.as_ref().or(name.as_ref()).cloned(),
    };
    for (label, text) in [
        ("container", &container),
        ("image", &place.image),
        ("pod", &place.pod),
        ("cgroup", &place.cgroup),
    ] {
        if let Some(text) = text {
            say(label, text);
        }
    }
    for (index, reason) in finding.reasons.iter().enumerate() {
        say(if index == 0 { "Why" } else { "" }, &reason.text);
    }
    if let Some(nearest) = &finding.nearest {
        say("nearest", nearest);
    }
    if !finding.attack.is_empty() {
        say("ATT&CK", &finding.attack.join(", "));
    }
    if !finding.allow.is_empty() {
        say("Expected?", &finding.allow);
    }
    lines
}
