//! The connection that the agent makes itself: it comes back and is nowhere to be seen; what it says
//! when it does not come back, and where it cannot be made.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use aya::maps::{HashMap, Map};
use tests::agent::{Agent, SOON, SWEPT, Setup};
use tests::eventually;
use tests::kernel::Loaded;
use tests::receiver::edge_of;

use crate::lab;

const OFTEN: &str = "canary = \"1s\"\n";

/// Waits until so many came back, and no more are missing.
#[track_caller]
fn returned(agent: &Agent, count: u64) {
    eventually(SWEPT, "canaries", || {
        let canary = agent.json(&["status"])["canary"].clone();
        let enough = canary["returned"].as_u64() >= Some(count) && canary["missing"].is_null();
        if enough { Ok(()) } else { Err(canary.to_string()) }
    });
}

#[test]
fn a_canary_comes_back_and_is_nowhere_else() {
    let lab = lab();
    let agent = lab.agent("agent", &Setup::mode("learn").within(&lab, OFTEN));
    returned(&agent, 3);
    let map = agent.json(&["map"]);
    let edges: Vec<String> = map.as_array().into_iter().flatten().map(edge_of).collect();
    let services = agent.json(&["services"]).to_string();
    let status = agent.json(&["status"]);
    assert!(edges.is_empty() && !services.contains(&agent.service.name), "{edges:?} {services}");
    assert_eq!(status["lost"], serde_json::json!({}));
    assert!(agent.text(&["status"]).contains("canary     seen "), "{status}");
    let latency = &status["canary"]["latency_us"];
    assert!(latency["p50"].as_u64() <= latency["p99"].as_u64(), "{latency}");
}

#[test]
fn each_canary_comes_back_in_time() {
    let lab = lab();
    // Whatever else runs on this machine runs after it: what it takes is its own.
    let first = ["chrt", "--fifo", "1"].map(str::to_owned);
    let agent = lab.agent("agent", &Setup::mode("learn").within(&lab, OFTEN).through(&first));
    returned(&agent, 5);
    // Five times what is promised of half of them, and of nearly all: here of all.
    let latency = agent.json(&["status"])["canary"]["latency_us"].clone();
    let within = |name: &str, us: u64| latency[name].as_u64().is_some_and(|it| it <= us);
    assert!(within("p50", 5_000) && within("p99", 25_000), "{latency}");
}

#[test]
fn a_canary_that_does_not_come_back_is_an_alert_until_one_does() {
    let lab = lab();
    let mut agent = lab.agent("agent", &Setup::mode("learn").within(&lab, OFTEN));
    returned(&agent, 1);
    let loaded = Loaded::by(agent.pid());
    loaded.detach("connect4");
    let told = eventually(SWEPT, "the alert", || {
        let alerts = agent.json(&["alerts"]);
        let findings = alerts.as_array().into_iter().flatten();
        let mut findings = findings.flat_map(|it| it["findings"].as_array().cloned());
        let all: Vec<_> = findings.by_ref().flatten().collect();
        let canary = all.iter().find(|it| it["reasons"][0]["name"] == "canary").cloned();
        canary.ok_or_else(|| alerts.to_string())
    });
    assert_eq!((&told["kind"], &told["severity"]), (&"sensor".into(), &"high".into()), "{told}");
    let text = told["reasons"][0]["text"].to_string();
    assert!(text.contains("as it was dialled"), "{text}");
    assert!(agent.text(&["status"]).contains("MISSING"));
    // One that starts anew attaches anew.
    agent.kill();
    agent.start();
    returned(&agent, 1);
    assert!(!agent.text(&["status"]).contains("MISSING"));
}

#[test]
fn where_no_canary_can_fly_that_is_said_and_is_no_alert() {
    let lab = lab();
    let cut_off = format!("--net=/run/netns/{}", lab.cut_off().name);
    let words = ["nsenter".to_owned(), cut_off];
    let nowhere = Setup::mode("learn").within(&lab, OFTEN).through(&words);
    // It watches a part of the machine in which it is not itself.
    let part = lab.service("elsewhere").cgroup.display().to_string();
    let outside = format!("[capture]\ncgroup = {part:?}\n{OFTEN}");
    let outside = Setup::mode("learn").tables(&outside);
    for (name, setup, why) in
        [("cut-off", nowhere, "127.101.119.1"), ("outside", outside, "outside of capture.cgroup")]
    {
        let agent = lab.agent(name, &setup);
        eventually(SOON, why, || {
            let said = agent.text(&["status"]);
            if said.contains("canary     none: ") && said.contains(why) {
                Ok(())
            } else {
                Err(said)
            }
        });
        let alerts = agent.json(&["alerts"]).to_string();
        assert!(!alerts.contains("canary"), "{alerts}");
    }
}

#[test]
fn a_canary_that_is_back_ends_its_alert() {
    let lab = lab();
    let agent = lab.agent("agent", &Setup::mode("learn").within(&lab, OFTEN));
    returned(&agent, 1);
    // What its own cgroup shows is beyond its budget for ever: nobody is told of it.
    let map = Loaded::by(agent.pid()).map("BUDGETS").map(Map::LruHashMap).expect("it is loaded");
    let mut budgets: HashMap<_, [u64; 2], [u64; 2]> = map.try_into().expect("of this shape");
    let cgroup = fs::metadata(&agent.service.cgroup).expect("it is there").ino();
    let payers = [1, 2].map(|direction| [cgroup, direction]);
    for payer in payers {
        budgets.insert(payer, [u64::MAX / 2, 0], 0).expect("there is room");
    }
    is_in_state(&agent, &["firing", "updated"]);
    assert!(agent.text(&["status"]).contains("MISSING"));
    let before = agent.json(&["status"])["canary"]["returned"].as_u64().unwrap_or(0);
    for payer in payers {
        budgets.remove(&payer).expect("it is there");
    }
    returned(&agent, before + 1);
    is_in_state(&agent, &["resolved"]);
    assert!(!agent.text(&["status"]).contains("MISSING"));
}

/// Waits until the incident that speaks of the canary alone is in one of these states.
#[track_caller]
fn is_in_state(agent: &Agent, states: &[&str]) {
    eventually(SWEPT, "the incident", || {
        let alerts = agent.json(&["alerts"]);
        let about = |it: &&serde_json::Value| it["findings"][0]["reasons"][0]["name"] == "canary";
        let found = alerts.as_array().into_iter().flatten().find(about);
        let state = found.and_then(|it| it["state"].as_str());
        if state.is_some_and(|it| states.contains(&it)) { Ok(()) } else { Err(alerts.to_string()) }
    });
}
