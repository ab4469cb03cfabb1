//! The agent, where one runs: asked through its socket, as the other verbs do.

use std::path::Path;
use std::time::Duration;

use monitor_core::engine::{CanaryView, Lookups, SinkView, Status};
use monitor_core::flow::Loss;
use serde_json::Value;

use crate::client::{Client, ClientError};
use crate::doctor::{Check, Finding, told};
use crate::wording::counted;

/// An agent that takes longer has something else to do, and that is worth telling.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn examine(socket: &Path) -> Vec<Finding> {
    let check = Check::Agent;
    let client = Client::new(socket.to_owned());
    let what = format!("agent at {}", socket.display());
    let Ok(asked) = tokio::time::timeout(PATIENCE, ask(&client)).await else {
        let detail = format!("does not answer within {} s", PATIENCE.as_secs());
        return vec![Finding::warn(check, what, detail).mend("look at its log and its load")];
    };
    match asked {
        Ok(answers) => answered(&what, &answers),
        Err(ClientError::Nobody(_)) if !socket.exists() => {
            let detail = "none runs: start one with `sudo edgewatch run`";
            vec![Finding::ok(check, what, detail)]
        }
        Err(ClientError::Nobody(_)) => {
            let detail = "the socket is there and nobody listens, so an agent was killed";
            vec![Finding::warn(check, what, detail).mend("start it again")]
        }
        Err(error) => vec![Finding::warn(check, what, told(error))],
    }
}

/// What a running agent says of itself.
struct Answers {
    version: Option<String>,
    /// Why it is not ready, where it is not.
    unready: Option<String>,
    status: Status,
}

async fn ask(client: &Client) -> Result<Answers, ClientError> {
    let health = client.get("/healthz").await?;
    let unready = match client.get("/readyz").await {
        Ok(_) => None,
        Err(ClientError::Refused { what, .. }) => Some(what),
        Err(error) => return Err(error),
    };
    let status = client.read(client.get("/api/v1/status").await?)?;
    let version = health.get("version").and_then(Value::as_str).map(ToOwned::to_owned);
    Ok(Answers { version, unready, status })
}

fn answered(what: &str, answers: &Answers) -> Vec<Finding> {
    let check = Check::Agent;
    let mut findings = Vec::new();
    let status = &answers.status;
    let version = answers.version.as_deref().unwrap_or("of another version");
    let since = status.since.map(|since| format!(", since {since}")).unwrap_or_default();
    let detail = format!(
        "{version}, mode {}{since}: {}, {}",
        status.mode,
        counted(status.services, "service"),
        counted(status.edges, "edge")
    );
    findings.push(match &answers.unready {
        None => Finding::ok(check, what, format!("ready: {detail}")),
        Some(why) => Finding::warn(check, what, format!("not ready ({why}): {detail}")),
    });
    let own = env!("CARGO_PKG_VERSION");
    if version != own {
        let detail = format!("runs version {version}, this program is {own}");
        findings.push(Finding::warn(check, what, detail).mend("restart it to run this one"));
    }
    let missing = |it: &String| Finding::warn(check, "not seen by the agent", it);
    findings.extend(status.missing.iter().map(missing));
    findings.extend(status.canary.as_ref().and_then(canary));
    findings.extend(lookups(status.lookups));
    if status.lost.is_empty() {
        findings.push(Finding::ok(check, "lost", "nothing since the agent started"));
    }
    findings.extend(status.lost.iter().map(|(&loss, &count)| lost(loss, count)));
    findings.extend(status.sinks.iter().map(queue));
    findings
}

/// Where names are asked for and not heard.
fn lookups(lookups: Lookups) -> Option<Finding> {
    let Lookups { heard, unheard } = lookups;
    let check = Check::Agent;
    let heard = format!("names are heard in {}", counted(heard, "cgroup"));
    if unheard == 0 {
        return (lookups.heard > 0).then(|| Finding::ok(check, "lookups", heard));
    }
    let detail = format!("{heard}, and not in {} more that ask", counted(unheard, "cgroup"));
    Some(
        Finding::warn(check, "lookups", detail)
            .mend("watch less of the machine with capture.cgroup"),
    )
}

/// What is wrong with the connection that the agent makes itself.
fn canary(view: &CanaryView) -> Option<Finding> {
    let finding = |detail: &str| Finding::warn(Check::Agent, "canary", detail);
    if view.missing.is_some() {
        let detail = "the agent does not see a connection that it made itself";
        return Some(finding(detail).mend("restart it; look who detaches its programs"));
    }
    let why = view.grounded.as_ref()?;
    Some(finding(&format!("whether the agent sees is not tried: {why}")))
}

/// What it means that this was lost, and what keeps it from happening again.
fn lost(loss: Loss, count: u64) -> Finding {
    let (meaning, mend) = match loss {
        Loss::RingFull => ("news was late", "raise capture.ring"),
        Loss::MapFull => ("a table of the kernel was full", "raise the sizes in [capture]"),
        Loss::Unattributed => (
            "connections accepted by nobody known",
            "raise capture.listeners, or restart servers that are older than the agent",
        ),
        Loss::Untracked => ("bytes of connections are missing", "raise capture.connections"),
        Loss::Unwatched => {
            let meaning = "unusual sockets made where packets were not looked at yet";
            let finding = Finding::ok(Check::Agent, "lost", format!("{count} {loss}, {meaning}"));
            return finding;
        }
        Loss::Undecodable => ("the kernel said what this version cannot read", "restart the agent"),
        Loss::TableFull => {
            ("edges were judged and not kept", "watch less of the machine with capture.cgroup")
        }
        Loss::ServiceFull => (
            "undecided edges of a service were judged and not kept",
            "`edgewatch alerts` says which service scans; approve or forbid what it may do",
        ),
        Loss::Unheard => {
            let meaning = "messages of DNS that were not read: names may be missing";
            return Finding::ok(Check::Agent, "lost", format!("{count} {loss}, {meaning}"));
        }
        Loss::Unasked => {
            let meaning =
                "DNS answers that nobody asked for, or of resolvers that are not believed";
            return Finding::ok(Check::Agent, "lost", format!("{count} {loss}, {meaning}"));
        }
        Loss::Untaken => (
            "sources know more than can be held",
            "ask fewer of them, see [identity] in the configuration",
        ),
        Loss::OverBudget => (
            "new edges were told as a whole, not one by one",
            "`edgewatch alerts` says who fans out; for one that may, raise detect.budget",
        ),
        Loss::Evicted => ("counts of keys the kernel dropped are missing", "raise capture.seen"),
        Loss::HookMissing => {
            ("kernel programs that are not attached", "see what is not seen and why, above")
        }
    };
    Finding::warn(Check::Agent, "lost", format!("{count} {loss}, {meaning}")).mend(mend)
}

fn queue(sink: &SinkView) -> Finding {
    let what = format!("deliveries to {}", sink.name);
    let detail = format!("{} delivered, {} queued", sink.delivered, sink.queued);
    match &sink.failure {
        None => Finding::ok(Check::Agent, what, detail),
        Some(why) => Finding::warn(Check::Agent, what, format!("{detail}: {why}"))
            .mend("queued alerts are delivered once it is reached"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::Verdict;

    fn answers(version: &str, unready: Option<&str>) -> Answers {
        let status = json!({
            "node": "n1", "mode": "auto", "edges": 40, "pending": 0, "services": 1, "guarded": 0,
            "proposed": 0, "learning": 1, "open_incidents": 0,
            "sinks": [
                {"name": "ops", "delivered": 3, "queued": 2, "failure": "no answer"},
                {"name": "log", "delivered": 5, "queued": 0},
            ],
            "lost": {"ring-full": 7, "untracked": 1},
        });
        Answers {
            version: Some(version.to_owned()),
            unready: unready.map(ToOwned::to_owned),
            status: serde_json::from_value(status).unwrap(),
        }
    }

    fn lines(answers: &Answers) -> Vec<(Verdict, String)> {
        let found = answered("agent", answers).into_iter();
        found.map(|it| (it.verdict, format!("{}: {}", it.what, it.detail))).collect()
    }

    #[test]
    fn an_agents_troubles_are_told_one_by_one() {
        let own = env!("CARGO_PKG_VERSION");
        let found = lines(&answers(own, None));
        let expected = [
            (Verdict::Ok, format!("agent: ready: {own}, mode auto: 1 service, 40 edges")),
            (Verdict::Warn, "lost: 7 ring-full, news was late".to_owned()),
            (Verdict::Warn, "lost: 1 untracked, bytes of connections are missing".to_owned()),
            (Verdict::Warn, "deliveries to ops: 3 delivered, 2 queued: no answer".to_owned()),
            (Verdict::Ok, "deliveries to log: 5 delivered, 0 queued".to_owned()),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn what_an_agent_cannot_see_is_told_beside_it() {
        let own = env!("CARGO_PKG_VERSION");
        let mut answers = answers(own, None);
        answers.status.missing = vec!["one: why".to_owned(), "another: why not".to_owned()];
        let found = lines(&answers);
        let expected = [
            (Verdict::Warn, "not seen by the agent: one: why".to_owned()),
            (Verdict::Warn, "not seen by the agent: another: why not".to_owned()),
        ];
        assert_eq!(found[1..3], expected);
    }

    #[test]
    fn a_canary_that_is_missed_or_cannot_fly_is_told() {
        let mut answers = answers(env!("CARGO_PKG_VERSION"), None);
        for (canary, said) in [
            (json!({"returned": 3}), None),
            (json!({"returned": 3, "missing": "dial"}), Some("does not see a connection")),
            (json!({"returned": 0, "grounded": "no loopback"}), Some("not tried: no loopback")),
        ] {
            answers.status.canary = serde_json::from_value(canary).unwrap();
            let told = lines(&answers).into_iter().find(|(_, line)| line.starts_with("canary"));
            assert_eq!(told.is_some(), said.is_some(), "{told:?}");
            assert!(told.is_none_or(|(_, it)| it.contains(said.unwrap_or_default())));
        }
    }

    #[test]
    fn another_version_and_one_that_is_not_ready_are_told() {
        let found = lines(&answers("0.0.1", Some("it is starting")));
        assert_eq!(found[0].0, Verdict::Warn);
        assert!(found[0].1.starts_with("agent: not ready (it is starting): 0.0.1"), "{found:?}");
        assert_eq!(found[1].0, Verdict::Warn);
        assert!(found[1].1.contains("runs version 0.0.1, this program is"), "{found:?}");
    }
}
