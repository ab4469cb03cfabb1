//! What Slack is sent, as Block Kit: an alert, a digest, a test. Pure. Slack's limits hold by
//! construction, whatever an alert holds: every part has its share of the whole, and what does not
//! fit is counted with where to find it.

use monitor_core::delivery::{Digest, Message, Test};
use monitor_core::incident::{Alert, AlertFinding, State, Subject};
use serde_json::{Value, json};

use crate::notify::slack::text::{code, command, escaped, sentence};
use crate::wording::{counted, grouped};

/// Slack's own limits, of a header, a section and a whole message.
const HEADER: usize = 150;
const SECTION: usize = 3_000;
const WHOLE: usize = 12_000;

/// The shares, in bytes.
const FALLBACK: usize = 400;
const FACTS: usize = 2_000;
const WHY: usize = 2_400;
const COMMANDS: usize = SECTION;
const MORE: usize = 2_400;
const FOOT: usize = 600;
const _: () = assert!(FALLBACK + HEADER + FACTS + WHY + COMMANDS + MORE + FOOT <= WHOLE);
const _: () = assert!(FACTS <= SECTION && WHY <= SECTION && MORE <= SECTION && FOOT <= SECTION);

/// One name, edge, path or sentence.
const NAME: usize = 560;
/// One line of a list.
const LINE: usize = 380;
/// An edge in a list, and what stands beside it.
const SHORT: usize = 180;
/// Reasons and further findings that are shown.
const LIST: usize = 5;
const ANCESTORS: usize = 4;

/// The body of the request.
#[must_use]
pub fn message(message: &Message) -> Value {
    match message {
        Message::Alert(it) => alert(it),
        Message::Digest(it) => digest(it),
        Message::Test(it) => test(it),
    }
}

fn payload(headline: &str, blocks: &[Option<Value>]) -> Value {
    let header = json!({
        "type": "header",
        "text": {"type": "plain_text", "text": escaped(headline, HEADER), "emoji": false},
    });
    let blocks: Vec<&Value> = std::iter::once(&header).chain(blocks.iter().flatten()).collect();
    json!({
        "text": escaped(headline, FALLBACK),
        "blocks": blocks,
        "mrkdwn": false,
        "link_names": false,
        "unfurl_links": false,
        "unfurl_media": false,
    })
}

/// A section of markup that is ours, with values that are escaped.
fn section(markup: &str) -> Option<Value> {
    let text = json!({"type": "mrkdwn", "text": markup, "verbatim": true});
    (!markup.is_empty()).then(|| json!({"type": "section", "text": text}))
}

fn foot(parts: &[String]) -> Option<Value> {
    let text = json!({"type": "mrkdwn", "text": parts.join(" · "), "verbatim": true});
    Some(json!({"type": "context", "elements": [text]}))
}

fn alert(alert: &Alert) -> Value {
    let title = alert.what();
    let severity = alert.severity.capitalised();
    let headline = match alert.state {
        State::Firing => format!("{severity} · {title}"),
        State::Updated => format!("{severity}, updated · {title}"),
        State::Resolved => format!("Resolved · {title}"),
    };
    let lead = alert.lead();
    payload(
        &headline,
        &[
            lead.and_then(|lead| section(&facts(alert, lead))),
            lead.and_then(|lead| section(&why(lead))),
            section(&commands(alert)),
            section(&more(alert)),
            foot(&alert_foot(alert)),
        ],
    )
}

/// Which edge, how often, where, when, with what.
fn facts(alert: &Alert, lead: &AlertFinding) -> String {
    let of = if alert.is_about_several() { " in this incident" } else { "" };
    let edge = lead.edge.as_ref().map(|edge| code(&edge.sentence(), NAME));
    let times =
        lead.went().map(|outcome| format!("{}{of}, {outcome}", counted(alert.count, "connection")));
    let node = format!("node {}", code(&alert.node, SHORT));
    let parts = [edge, times, Some(node), Some(clock(alert.last_seen))];
    let mut text = parts.into_iter().flatten().collect::<Vec<_>>().join(" · ");
    if let Some(process) = &lead.process {
        text.push_str(&format!("\nwith {}", code(process.name(), NAME)));
        let ids = process.ids().join(", ");
        if !ids.is_empty() {
            text.push_str(&format!(" ({ids})"));
        }
        let ancestors = process.ancestors.iter().filter_map(|it| it.executable.as_deref());
        for path in ancestors.take(ANCESTORS) {
            let program = path.rsplit('/').next().unwrap_or(path);
            text.push_str(&format!(" ← {}", code(program, SHORT / 2)));
        }
    }
    text
}

fn why(lead: &AlertFinding) -> String {
    let mut lines: Vec<String> = lead
        .reasons
        .iter()
        .take(LIST)
        .map(|it| format!("• {}", sentence(&it.text, LINE)))
        .collect();
    if let Some(left) = lead.reasons.len().checked_sub(LIST).filter(|left| *left > 0) {
        lines.push(format!("• and {}", counted(left, "more reason")));
    }
    let nearest = lead.nearest.as_ref();
    lines.extend(nearest.map(|edge| format!("• nearest known edge: {}", code(edge, LINE - 24))));
    if lines.is_empty() {
        return String::new();
    }
    lines.insert(0, "*Why*".to_owned());
    lines.join("\n")
}

/// What to do: look, and allow. Once it is resolved, nothing.
fn commands(alert: &Alert) -> String {
    if alert.state == State::Resolved {
        return String::new();
    }
    let mut text = String::new();
    let half = COMMANDS / 2 - 20;
    for (label, line) in
        [("*Look*", alert.inspect.as_deref()), ("*Expected?*", Some(&*alert.allow))]
    {
        let Some(line) = line.filter(|line| !line.is_empty()) else {
            continue;
        };
        let shown = command(line, half)
            .unwrap_or_else(|| format!("too long for this message: {}", show(&alert.id)));
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&format!("{label}\n{shown}"));
    }
    text
}

/// The other findings, as many as a person reads.
fn more(alert: &Alert) -> String {
    let others = alert.others(LIST);
    if others.total() == 0 {
        return String::new();
    }
    let total = counted(others.total(), "more finding");
    let mut lines = vec![format!("*{total} in this incident*")];
    lines.extend(others.shown.iter().map(|finding| format!("• {}", beside(finding))));
    if others.left > 0 {
        lines.push(format!("… and {} more: {}", grouped(others.left), show(&alert.id)));
    }
    lines.join("\n")
}

fn beside(finding: &AlertFinding) -> String {
    let what = match finding.subject() {
        Subject::Edge(edge) => code(&edge, SHORT),
        Subject::Trouble(why) => sentence(why, SHORT),
    };
    let with = finding.executable().map(|path| format!(" with {}", code(path, SHORT)));
    let with = with.unwrap_or_default();
    let outcome = finding.went().map(|it| format!(" · {it}")).unwrap_or_default();
    format!("{}: {what}{with}{outcome}", finding.kind)
}

fn alert_foot(alert: &Alert) -> Vec<String> {
    let mut parts = Vec::new();
    let attack = alert.lead().map(|lead| lead.attack.join(", ")).filter(|it| !it.is_empty());
    parts.extend(attack.map(|attack| format!("ATT&amp;CK {}", code(&attack, SHORT / 2))));
    parts.extend(alert.owner.as_ref().map(|owner| format!("owner {}", code(owner, SHORT))));
    match alert.state {
        State::Firing => {}
        State::Updated => parts.push(format!("update {}", alert.revision.saturating_sub(1))),
        State::Resolved => parts.push(format!("was {}", alert.severity)),
    }
    parts.push(show(&alert.id));
    parts
}

fn digest(digest: &Digest) -> Value {
    let list = |title: &str, lines: Vec<String>, left: u64| {
        let rest = (left > 0).then(|| format!("… and {left} more: {}", code(&digest.look, SHORT)));
        let lines: Vec<String> = lines.into_iter().chain(rest).collect();
        if lines.is_empty() { String::new() } else { format!("{title}\n{}", lines.join("\n")) }
    };
    let services = digest.services.iter().take(LIST);
    let services =
        services.map(|it| format!("• {} ×{}", code(it.service.as_str(), LINE), it.messages));
    let left = digest.service_count.saturating_sub(LIST) as u64;
    let services = list("*Most of them*", services.collect(), left);
    let incidents = digest.incidents.iter().take(LIST).map(|it| {
        let (severity, id) = (it.severity.capitalised(), show(&it.id));
        format!("• {severity} · {} · {id}", sentence(&it.title, LINE))
    });
    let incidents = list("*Most severe*", incidents.collect(), 0);
    let mutes = digest.mutes.iter().rev().take(LIST).map(|it| {
        let by = it.approver.as_ref().map(|who| format!(" by {}", code(who, SHORT / 2)));
        let (pattern, by) = (code(it.pattern.to_string().as_str(), SHORT), by.unwrap_or_default());
        format!("• {pattern}{by}: {} · ×{}", sentence(&it.reason, SHORT), it.messages)
    });
    let left = digest.mutes.len().saturating_sub(LIST) as u64;
    let mutes = list("*Mutes that ended*", mutes.collect(), left);
    let kinds = digest.kinds.iter().take(LIST).map(|it| format!("{} ×{}", it.kind, it.messages));
    let kinds = kinds.collect::<Vec<_>>().join(", ");
    let replaced = (digest.replaced > 0)
        .then(|| format!("{} of them were replaced by newer ones", digest.replaced));
    let end = [
        (!kinds.is_empty()).then_some(kinds),
        replaced,
        Some(format!("node {}", code(&digest.node, SHORT))),
        Some(format!("{} lists them", code(&digest.look, SHORT))),
    ];
    let end: Vec<String> = end.into_iter().flatten().collect();
    let headline = format!("Digest · {}", digest.title);
    payload(&headline, &[section(&services), section(&incidents), section(&mutes), foot(&end)])
}

fn test(test: &Test) -> Value {
    let headline = format!("Test · {}", test.title);
    let text = "edgewatch reaches this channel. Alerts will look like this message, with what happened, why it is odd, and what to do.";
    let end = [format!("node {}", code(&test.node, SHORT)), clock(test.at)];
    payload(&headline, &[section(text), foot(&end)])
}

/// The command that shows all of an incident.
fn show(id: &str) -> String {
    code(&format!("edgewatch alerts show {id}"), SHORT)
}

/// `10:41:07 UTC`
fn clock(time: monitor_core::ids::WallTime) -> String {
    let text = time.to_string();
    format!("{} UTC", text.get(11..19).unwrap_or("--:--:--"))
}
