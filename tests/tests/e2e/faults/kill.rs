//! `kill -9` at every moment: what was accepted arrives, under the same key and with the same words;
//! what was acknowledged is there; what was not is there wholly or not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tests::agent::{RETRIED, SOON, Setup};
use tests::eventually;
use tests::process::finish;
use tests::receiver::{Manner, Request};
use tests::traffic::{Protocol, edge, nameless};

use crate::lab;
use crate::shop::{Shop, is_about, is_of};

/// When the agent is killed after a dial.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// So much later: the sweep over all that happens then, from the kernel's record to the stored
    /// outcome. This pause is what is tested; nothing is awaited with it.
    After(Duration),
    /// As soon as the agent lists the alert, hence has stored it.
    Stored,
    /// As soon as the receiver has it, and has answered.
    Received,
    /// While the receiver has it and does not answer.
    Held,
}

#[test]
fn at_any_moment_every_accepted_alert_arrives_once_or_under_the_same_key() {
    let mut shop = Shop::undistracted(&Setup::mode("learn"), "");
    // A dial waits 300 ms for its other end; then it is stored, sent, and its outcome stored.
    let swept = (0..10).map(|step| Moment::After(Duration::from_millis(40 * step)));
    let points = [Moment::Stored, Moment::Received, Moment::Held].into_iter().cycle().take(6);
    let moments: Vec<Moment> = swept.chain(points).collect();
    let mut edges = Vec::new();
    for (&moment, port) in moments.iter().zip(30_000..) {
        let to = shop.at(port);
        let edge = edge(&shop.web.service, &nameless(to.ip()), port, Protocol::Tcp);
        let before = shop.receiver.requests().len();
        if matches!(moment, Moment::Held) {
            shop.receiver.behaves(&[Manner::Holds]);
        }
        shop.web.is_refused(to);
        match moment {
            Moment::After(pause) => thread::sleep(pause),
            Moment::Stored => {
                shop.alert_listed(&edge);
            }
            Moment::Received | Moment::Held => eventually(SOON, "a request", || {
                let requests = shop.receiver.requests();
                if requests.len() > before { Ok(()) } else { Err("none".to_owned()) }
            }),
        }
        shop.agent.kill();
        shop.agent.start();
        // Where it was not accepted yet, it is news again: nothing was learned of it.
        shop.web.is_refused(to);
        shop.receiver.request(RETRIED, &format!("{moment:?}: {edge}"), |it| is_about(it, &edge));
        edges.push(edge);
    }
    // Its queue is empty: all that was accepted has arrived.
    eventually(RETRIED, "an empty queue", || {
        let status = shop.agent.json(&["status"]);
        if status["sinks"][0]["queued"] == 0 { Ok(()) } else { Err(status.to_string()) }
    });
    shop.told();
    check_ledger(&shop, &edges);
}

/// Each edge was told in a revision of its own, none is missing, and a message that came twice was the
/// same message.
#[track_caller]
fn check_ledger(shop: &Shop, edges: &[String]) {
    let requests = shop.receiver.requests();
    let own = |it: &&Request| is_of(&it.alert(), &shop.web.service);
    let mut bodies: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for request in requests.iter().filter(own) {
        request.is_proper();
        let body = bodies.entry(request.key().to_owned()).or_insert_with(|| request.body.clone());
        assert_eq!(*body, request.body, "{} was told in two ways", request.key());
    }
    let accepted: BTreeMap<(String, u64), Value> = requests
        .iter()
        .filter(|it| it.answered < 300)
        .map(Request::alert)
        .filter(|it| is_of(it, &shop.web.service))
        .map(|it| ((it["id"].to_string(), it["revision"].as_u64().unwrap_or(0)), it))
        .collect();
    let keys: Vec<_> = accepted.keys().collect();
    let incidents: BTreeSet<_> = keys.iter().map(|(id, _)| id).collect();
    assert_eq!(incidents.len(), 1, "one cause, one incident: {keys:?}");
    let revisions: Vec<u64> = keys.iter().map(|(_, revision)| *revision).collect();
    let expected: Vec<u64> = (1..=edges.len() as u64).collect();
    assert_eq!(revisions, expected, "one message for each edge");
    for (revision, alert) in accepted.values().enumerate() {
        let told = edges.iter().filter(|edge| is_about(alert, edge)).count();
        assert_eq!(told, revision + 1, "{alert:#}");
    }
}

#[test]
fn while_a_decision_is_made_it_is_kept_whole_or_not_at_all() {
    let mut shop = Shop::guarded();
    // The verb starts, asks, and is answered once its decision is stored; at last it is waited for.
    let pauses = (0..10).map(|step| Some(Duration::from_millis(8 * step))).chain([None]);
    for (pause, port) in pauses.zip(40_000_u16..) {
        let edge = edge(&shop.web.service, &nameless(shop.at(port).ip()), port, Protocol::Tcp);
        let words = ["baseline", "approve", &edge, "--reason", "a fault"];
        let told = decides_and_is_killed(&mut shop, &words, pause);
        let there = shop.exported().contains(&format!("{port}/tcp"));
        let noted = audit(&shop).iter().any(|what| what.contains(&edge));
        assert_eq!(there, noted, "half of a decision, {pause:?} in");
        assert!(there || !told, "acknowledged, and gone, {pause:?} in");
        assert!(told || pause.is_some(), "nothing kept it from being made");
    }
}

#[test]
fn while_a_baseline_is_imported_it_is_the_old_or_the_new_one() {
    let mut shop = Shop::guarded();
    let web = shop.web.service.name.clone();
    let ports: Vec<String> = (1..=1_500).map(|port| format!("{port}/tcp")).collect();
    let mut before = "none".to_owned();
    let pauses = (0..6).map(|step| Some(Duration::from_millis(60 * step))).chain([None]);
    for (step, pause) in pauses.enumerate() {
        let peer = format!("ip:198.51.100.{step}");
        let file = shop.lab.path("import.yaml");
        let text = format!(
            "format: edgewatch-baseline/1\nservices:\n  {web}:\n    outbound:\n      - {{to: \"{peer}\", ports: [{}]}}\n",
            ports.join(", ")
        );
        std::fs::write(&file, text).expect("the place is ours");
        let path = file.display().to_string();
        let words = ["baseline", "import", &path, "--guard"];
        let told = decides_and_is_killed(&mut shop, &words, pause);
        let document = shop.agent.json(&["baseline", "export", &web]);
        let lines = document["services"][&web]["outbound"].as_array().cloned().unwrap_or_default();
        let [line] = lines.as_slice() else { panic!("{} entries, not one", lines.len()) };
        let found = line["to"].as_str().unwrap_or_default().to_owned();
        if found.starts_with("ip:") {
            assert_eq!(line["ports"].as_array().map(Vec::len), Some(ports.len()), "{pause:?} in");
        }
        assert!(found == peer || !told, "acknowledged, and gone, {pause:?} in");
        assert!(found == peer || found == before || before == "none", "{found}, {pause:?} in");
        assert!(told || pause.is_some(), "nothing kept it from being made");
        before = found;
    }
}

/// Starts a verb, kills the agent after `pause` or once the verb has ended, and starts it again; whether
/// the verb was told that it was done. The pause is swept over, and awaits nothing.
#[track_caller]
fn decides_and_is_killed(shop: &mut Shop, words: &[&str], pause: Option<Duration>) -> bool {
    let mut verb = shop.agent.verb(words);
    let verb = verb.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut verb = verb.spawn().expect("the program is there");
    match pause {
        Some(pause) => thread::sleep(pause),
        None => drop(verb.wait()),
    }
    shop.agent.kill();
    let status = verb.wait().expect("it was started");
    shop.agent.start();
    status.success()
}

/// What was decided, as the audit tells it.
#[track_caller]
fn audit(shop: &Shop) -> Vec<String> {
    let log = shop.agent.json(&["audit"]);
    let entries = log.as_array().into_iter().flatten();
    entries.map(|it| it["what"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn while_it_starts_or_ends_nothing_of_its_state_is_lost() {
    let mut shop = Shop::guarded();
    let exported = shop.exported();
    let phase = |shop: &Shop| {
        let rows = shop.agent.json(&["baseline", "status"]);
        let rows = rows.as_array().cloned().unwrap_or_default();
        let web = rows.into_iter().find(|it| it["service"] == shop.web.service.name.as_str());
        web.map(|it| it["phase"].clone())
    };
    let guarded = phase(&shop);
    for step in 0..6_u64 {
        shop.agent.signal(Signal::TERM);
        thread::sleep(Duration::from_millis(10 * step));
        shop.agent.kill();
        shop.agent.launch();
        thread::sleep(Duration::from_millis(100 * step));
        shop.agent.kill();
        shop.agent.start();
    }
    assert_eq!(shop.exported(), exported);
    assert_eq!(phase(&shop), guarded);
    shop.web.reaches(&shop.api);
    shop.was_silent(0);
}

#[test]
fn while_it_starts_for_the_first_time_the_next_start_is_as_good() {
    let lab = lab();
    for step in 0..6_u64 {
        let mut agent = lab.prepared_agent(&format!("agent{step}"), &Setup::mode("learn"));
        agent.launch();
        thread::sleep(Duration::from_millis(60 * step));
        agent.kill();
        agent.start();
        assert_eq!(agent.end(Signal::TERM).code(), Some(0), "{}", agent.said());
        // What is half-made has no name of its own.
        let mut ls = Command::new("ls");
        let files = finish(ls.arg("-A").arg(&agent.state)).done();
        let files: Vec<&str> = files.lines().collect();
        assert_eq!(files, ["state.lock", "state.redb"]);
    }
}
