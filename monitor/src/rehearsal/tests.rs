//! Small recordings and what comes of them. A line is
//! `SECOND SOURCE -> PEER PORT/PROTOCOL [OUTCOME] [with EXECUTABLE]`, `<-` where it was dialled.

use monitor_core::baseline::Promote;
use monitor_core::baseline::document::FORMAT;
use monitor_core::flow::Outcome;
use serde_json::{Value, json};

use super::*;
use crate::recording::{FarEnd, Source};

const START: &str = "2026-11-21T10:00:00Z";

fn flow(line: &str) -> RecordedFlow {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [second, source, arrow, peer, port, rest @ ..] = words.as_slice() else {
        panic!("no line: {line}")
    };
    let start: WallTime = START.parse().unwrap();
    let (outcome, executable) = match rest {
        [] => ("established", None),
        ["with", executable] => ("established", Some(*executable)),
        [outcome] => (*outcome, None),
        [outcome, "with", executable] => (*outcome, Some(*executable)),
        _ => panic!("no line: {line}"),
    };
    let port: monitor_core::edge::Port = port.parse().unwrap();
    RecordedFlow {
        at: start.plus_seconds(second.parse().unwrap()),
        node: "n1".to_owned(),
        source: Source::named(source.parse().unwrap()),
        peer: FarEnd { peer: peer.parse().unwrap(), address: None },
        direction: if *arrow == "->" { Direction::Outbound } else { Direction::Inbound },
        protocol: port.protocol,
        port: port.number,
        outcome: match outcome {
            "established" => Outcome::Established,
            "attempted" => Outcome::Attempted,
            "denied" => Outcome::Denied,
            _ => panic!("no outcome: {outcome}"),
        },
        connections: 1,
        bytes_sent: 0,
        bytes_received: 0,
        executable: executable.map(str::to_owned),
        pid: None,
        uid: None,
    }
}

/// A baseline that guards `systemd:web` with this section.
fn guarded(section: Value) -> Document {
    let services = json!({"systemd:web": section});
    serde_json::from_value(json!({"format": FORMAT, "services": services})).unwrap()
}

/// It may dial `systemd:api`.
fn web() -> Document {
    guarded(json!({"outbound": [{"to": "systemd:api", "ports": ["80/tcp"]}]}))
}

fn plan() -> Plan {
    Plan {
        mode: Mode::Auto,
        rule: LearnRule { promote: Promote::Ask, quiet_s: 3600, observations: 100 },
        only: Vec::new(),
        internal: Box::new(|address| address.to_string().starts_with("10.")),
        baseline: Vec::new(),
        learn: None,
    }
}

fn rehearse(plan: Plan, flows: impl IntoIterator<Item = RecordedFlow>) -> Rehearsed {
    let mut rehearsal = Rehearsal::new(plan).unwrap();
    for flow in flows {
        rehearsal.take(&flow);
    }
    rehearsal.finish()
}

/// Rehearses the lines of `story` with [`web`] guarded; says each incident's edges and messages.
#[track_caller]
fn check(story: &str, expected: &[&str]) -> Rehearsed {
    let plan = Plan { baseline: vec![web()], ..plan() };
    let rehearsed = rehearse(plan, story.lines().map(flow));
    let mut told: Vec<String> = rehearsed.alerts.iter().map(incident).collect();
    told.sort();
    assert_eq!(told, expected);
    rehearsed
}

fn incident(alert: &Alert) -> String {
    let findings: Vec<String> = alert
        .findings
        .iter()
        .map(|it| {
            let edge = it.edge.as_ref().unwrap();
            format!("{} {} -> {} {}", it.kind, edge.client, edge.server, edge.port)
        })
        .collect();
    let state = if alert.state == State::Resolved { " resolved" } else { "" };
    format!("{} ×{}{state}", findings.join(", "), alert.count)
}

#[test]
fn what_the_baseline_allows_is_silent_and_what_it_does_not_alerts_once() {
    let rehearsed = check(
        "0 systemd:web -> systemd:api 80/tcp\n\
         5 systemd:web -> ip:10.0.0.9 4444/tcp\n\
         6 systemd:web -> ip:10.0.0.9 4444/tcp\n\
         7 systemd:web -> systemd:api 80/tcp\n\
         9 systemd:other -> ip:10.0.0.9 4444/tcp",
        &["new-peer systemd:web -> ip:10.0.0.9 4444 ×2"],
    );
    let summary = rehearsed.summary;
    assert_eq!((summary.flows, summary.judged, summary.total.messages), (5, 5, 1));
    assert_eq!(rehearsed.alerts[0].node, "n1");
    assert_eq!(rehearsed.alerts[0].findings[0].place.node, "n1");
}

#[test]
fn findings_are_grouped_and_resolved_in_recorded_time() {
    check(
        "0 systemd:web -> ip:10.0.0.1 1/tcp\n\
         600 systemd:web -> ip:10.0.0.2 2/tcp\n\
         1600 systemd:web -> ip:10.0.0.3 3/tcp",
        &[
            "new-peer systemd:web -> ip:10.0.0.1 1, new-peer systemd:web -> ip:10.0.0.2 2 ×2",
            "new-peer systemd:web -> ip:10.0.0.3 3 ×1",
        ],
    );
    // A day without it resolves it; whoever comes back is told again.
    check(
        "0 systemd:web -> ip:10.0.0.1 1/tcp\n\
         90000 systemd:web -> systemd:api 80/tcp\n\
         90001 systemd:web -> ip:10.0.0.1 1/tcp",
        &[
            "new-peer systemd:web -> ip:10.0.0.1 1 ×1",
            "new-peer systemd:web -> ip:10.0.0.1 1 ×1 resolved",
        ],
    );
    // While it goes on it stays open.
    let going_on: Vec<String> =
        (0..30).map(|hour| format!("{} systemd:web -> ip:10.0.0.1 1/tcp", hour * 3600)).collect();
    check(&going_on.join("\n"), &["new-peer systemd:web -> ip:10.0.0.1 1 ×30"]);
}

#[test]
fn a_forbidden_edge_repeats_itself_every_hour() {
    let forbidden = json!({"forbidden": [{"to": "systemd:db", "ports": ["5432/tcp"]}]});
    let plan = Plan { baseline: vec![guarded(forbidden)], ..plan() };
    let flows =
        (0..360).map(|round| flow(&format!("{} systemd:web -> systemd:db 5432/tcp", round * 30)));
    let rehearsed = rehearse(plan, flows);
    assert_eq!(rehearsed.alerts.len(), 1);
    // Three hours: at once, and after one and two of them.
    assert_eq!(rehearsed.summary.total.messages, 3);
}

#[test]
fn clients_outside_the_internal_networks_are_the_world() {
    check(
        "0 systemd:web <- ip:203.0.113.1 443/tcp\n\
         1 systemd:web <- ip:203.0.113.2 443/tcp\n\
         2 systemd:web <- ip:10.0.0.2 443/tcp with /usr/sbin/nginx",
        &["new-client world -> systemd:web 443, new-client ip:10.0.0.2 -> systemd:web 443 ×3"],
    );
}

#[test]
fn an_answer_and_another_executable_are_news() {
    let line = json!({"to": "systemd:api", "ports": ["80/tcp"], "by": ["/usr/sbin/nginx"]});
    let plan = Plan { baseline: vec![guarded(json!({"outbound": [line]}))], ..plan() };
    let story = "0 systemd:web -> systemd:api 80/tcp with /usr/sbin/nginx\n\
                 1 systemd:web -> systemd:api 80/tcp with /usr/bin/bash\n\
                 2 systemd:web -> ip:10.0.0.1 1/tcp denied with /usr/bin/bash\n\
                 3 systemd:web -> ip:10.0.0.1 1/tcp with /usr/bin/bash";
    let rehearsed = rehearse(plan, story.lines().map(flow));
    let [alert] = rehearsed.alerts.as_slice() else { panic!("{:?}", rehearsed.alerts) };
    let told: Vec<String> =
        alert.findings.iter().map(|it| format!("{} {}", it.kind, it.outcome.unwrap())).collect();
    assert_eq!(told, ["new-executable established", "new-peer established"]);
    assert_eq!(rehearsed.summary.total.messages, 3);
    let process = alert.findings[0].process.as_ref().unwrap();
    let process = serde_json::to_value(process).unwrap();
    // What a line does not say is not made up.
    assert_eq!(process["executable"], "/usr/bin/bash");
    assert!(process.get("uid").is_none() && process.get("pid").is_none(), "{process}");
}

#[test]
fn what_was_learned_is_guarded_after_it() {
    let story = "0 systemd:web -> systemd:api 80/tcp\n\
                 10 systemd:web -> ip:10.0.0.1 1/tcp\n\
                 70 systemd:web -> ip:10.0.0.1 1/tcp\n\
                 80 systemd:web -> ip:10.0.0.2 2/tcp";
    let learn = |seconds| Some(LearnEnd::After(std::time::Duration::from_secs(seconds)));
    let plan_of = |seconds| Plan { learn: learn(seconds), ..plan() };
    let rehearsed = rehearse(plan_of(60), story.lines().map(flow));
    let told: Vec<String> = rehearsed.alerts.iter().map(incident).collect();
    assert_eq!(told, ["new-peer systemd:web -> ip:10.0.0.2 2 ×1"]);
    let learned = rehearsed.summary.learned.unwrap();
    assert_eq!((learned.flows, learned.services, learned.edges), (2, 2, 2));
    assert_eq!(learned.until, START.parse::<WallTime>().unwrap().plus_seconds(60));
    assert_eq!(rehearsed.summary.judged, 2);

    // What a file names is guarded from the start.
    let both = Plan { baseline: vec![web()], learn: learn(60), ..plan() };
    let rehearsed = rehearse(both, story.lines().map(flow));
    assert_eq!(rehearsed.alerts[0].findings.len(), 2);

    let rehearsed = rehearse(plan_of(3600), story.lines().map(flow));
    assert_eq!((rehearsed.alerts.len(), rehearsed.summary.judged), (0, 0));
}

#[test]
fn services_that_come_later_are_treated_as_the_mode_says() {
    let story = "0 systemd:web -> systemd:api 80/tcp\n70 systemd:new -> ip:10.0.0.1 1/tcp";
    for (mode, expected) in [(Mode::Auto, 0), (Mode::Guard, 1)] {
        let learn = Some(LearnEnd::After(std::time::Duration::from_secs(60)));
        let rehearsed = rehearse(Plan { mode, learn, ..plan() }, story.lines().map(flow));
        assert_eq!(rehearsed.summary.total.messages, expected, "{mode}");
    }
}

#[test]
fn the_same_flows_give_the_same_bytes() {
    let rehearsal = || {
        let flows = (0..3000).map(|index| {
            let second = index * 7;
            flow(&format!("{second} systemd:web -> ip:10.0.0.{} {}/tcp", index % 250, index % 13))
        });
        let rehearsed = rehearse(Plan { baseline: vec![web()], ..plan() }, flows);
        let alerts = serde_json::to_string(&rehearsed.alerts).unwrap();
        (alerts, serde_json::to_string(&rehearsed.summary).unwrap())
    };
    let (first, second) = (rehearsal(), rehearsal());
    assert!(first.0.len() > 1000);
    assert_eq!(first, second);
}

#[test]
fn any_times_are_crossed_in_few_steps() {
    let times = ["1970-01-01T00:00:00Z", "-009999-06-01T00:00:00Z", "9999-12-01T00:00:00Z", START];
    let flows = times.map(|at| {
        let mut flow = flow("0 systemd:web -> ip:10.0.0.1 1/tcp");
        flow.at = at.parse().unwrap();
        flow
    });
    let rehearsed = rehearse(Plan { baseline: vec![web()], ..plan() }, flows);
    assert_eq!(rehearsed.summary.flows, 4);
    assert!(rehearsed.summary.total.messages >= 2, "told, resolved, told again");
}

#[test]
fn a_full_stand_in_is_swept_and_begins_anew() {
    let mut rehearsal = Rehearsal::new(Plan { baseline: vec![web()], ..plan() }).unwrap();
    rehearsal.stand_in = StandIn::new(3);
    // All at once, so that no round passes.
    for index in 0..40 {
        rehearsal.take(&flow(&format!("0 systemd:web -> ip:10.0.0.{} 1/tcp", index % 8)));
        assert!(rehearsal.stand_in.held() <= 3, "{}", rehearsal.stand_in.held());
    }
    let alerts = rehearsal.finish().alerts;
    let told: Vec<(usize, u64)> = alerts.iter().map(|it| (it.findings.len(), it.count)).collect();
    assert_eq!(told, [(8, 40)], "one incident, and nothing of it lost or told twice");
}

#[test]
fn after_a_long_silence_rounds_are_as_short_as_before_it() {
    let mut rehearsal = Rehearsal::new(Plan { baseline: vec![web()], ..plan() }).unwrap();
    for year in 0..3_i64 {
        let at = year * (365 * 86_400 + 15);
        rehearsal.take(&flow(&format!("{at} systemd:web -> systemd:api 80/tcp")));
        let round = rehearsal.now.boot.plus_millis(Rehearsal::ROUND_MS);
        assert!(rehearsal.next_round <= round, "{:?}", (rehearsal.now, rehearsal.next_round));
    }
}

#[test]
fn how_much_to_learn_is_said_in_one_of_three_ways() {
    let time = START.parse().unwrap();
    for (text, learn) in [
        ("24h", Learn::Until(LearnEnd::After(std::time::Duration::from_secs(86_400)))),
        ("0.5", Learn::Part(0.5)),
        ("25%", Learn::Part(0.25)),
        (START, Learn::Until(LearnEnd::At(time))),
    ] {
        assert_eq!(text.parse(), Ok(learn));
    }
    for text in ["", "0", "1", "100%", "24", "-1h", "nan", "half", "2026-11-21"] {
        assert!(text.parse::<Learn>().is_err(), "{text}");
    }
    let last = WallTime(time.0 + 1000);
    assert_eq!(LearnEnd::of_part(0.5, time, last), LearnEnd::At(WallTime(time.0 + 500)));
}
