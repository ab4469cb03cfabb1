//! `edgewatch record`: every exchange of the machine as a line, and `replay` of what was recorded.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tests::agent::{SOON, START, verb};
use tests::eventually;
use tests::kernel::Loaded;
use tests::process::{Running, finish};
use tests::traffic::Protocol;

use crate::lab;

#[test]
fn what_was_recorded_counts_every_exchange_and_replays_to_the_alert_of_an_unknown_dial() {
    let lab = lab();
    let wire = lab.wire();
    let (web, api, db) = (lab.service("web"), lab.service("api"), lab.service("db"));
    let serve = |service, port| {
        lab.serve(service, &wire.server, Protocol::Tcp, SocketAddr::new(wire.server.v4, port))
    };
    let (api_server, db_server) = (serve(&api, 8080), serve(&db, 5432));
    let mut dialler = lab.dialler(&web, &wire.client);

    let mut record = Running::start(&mut lab.looks(&["record", "-"]));
    // It is silent until it sees something, so a scout dials until that is recorded.
    let scout = lab.service("scout");
    let mut scouting = lab.dialler(&scout, &wire.client);
    eventually(START, "the scout is recorded", || {
        scouting.reaches(&api_server);
        let line = record.line_within(Duration::from_millis(200)).unwrap_or_default();
        if line.contains(&scout.name) { Ok(()) } else { Err(line) }
    });
    for _ in 0..20 {
        dialler.reaches(&api_server);
    }
    dialler.reaches(&db_server);
    let loaded = Loaded::by(record.pid());
    record.signal(Signal::INT);
    let (status, lines) = record.rest(SOON);
    assert_eq!(status.code(), Some(0));
    eventually(SOON, "nothing of it in the kernel", || loaded.gone());
    let text: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();

    // Whole lines, also at the end; each end counted every exchange once.
    let mut counted: BTreeMap<(String, String), u64> = BTreeMap::new();
    for line in text.lines().filter(|line| line.contains(&web.name)) {
        let flow: Value = serde_json::from_str(line).expect("one document a line");
        let field = |key: &str| flow[key]["service"].as_str().unwrap_or_default().to_owned();
        let connections = flow["connections"].as_u64().unwrap_or(1);
        if flow["outcome"] == "established" {
            *counted.entry((field("source"), field("peer"))).or_default() += connections;
        }
        if flow["pid"].is_u64() {
            assert_eq!(flow["pid"], dialler.pid(), "{flow:#}");
            assert_eq!(flow["executable"], dialler.executable.as_str(), "{flow:#}");
        }
    }
    let ends = |a: &str, b: &str| (a.to_owned(), b.to_owned());
    let expected = BTreeMap::from([
        (ends(&web.name, &api.name), 20),
        (ends(&api.name, &web.name), 20),
        (ends(&web.name, &db.name), 1),
        (ends(&db.name, &web.name), 1),
    ]);
    assert_eq!(counted, expected, "{text}");

    let (recording, baseline) = (lab.path("flows.jsonl"), lab.path("web.yaml"));
    std::fs::write(&recording, &text).expect("the place is ours");
    let known = format!(
        "format: edgewatch-baseline/1\nservices:\n  {}:\n    outbound:\n      - {{to: {:?}, ports: [8080/tcp]}}\n",
        web.name, api.name
    );
    std::fs::write(&baseline, known).expect("the place is ours");
    let mut replay = verb(&["replay", "--format", "json"]);
    let replayed = finish(replay.arg(&recording).arg("--baseline").arg(&baseline));
    assert_eq!(replayed.code, Some(2), "{replayed:#?}");
    let told: Value = serde_json::from_str(&replayed.stdout).expect("one document");
    let alerts = told["alerts"].as_array().map_or(0, Vec::len);
    assert_eq!(alerts, 1, "{told:#}");
    let edge = &told["alerts"][0]["findings"][0]["edge"];
    assert_eq!((edge["server"].as_str(), &edge["port"]), (Some(db.name.as_str()), &5432.into()));
}

#[test]
fn it_ends_in_time_although_nobody_reads() {
    let lab = lab();
    let wire = lab.wire();
    let mut dialler = lab.dialler(&lab.service("web"), &wire.client);
    let pipe = lab.path("pipe");
    finish(Command::new("mkfifo").arg(&pipe)).done();
    let mut record = Running::start(verb(&["record", "--append", "--for", "6s"]).arg(&pipe));
    // Each is news, and a line more than the pipe takes.
    let mut ports = 10_000..;
    let status = eventually(START, "the end of the recording", || {
        for port in ports.by_ref().take(20) {
            dialler.is_refused(SocketAddr::new(wire.server.v4, port));
        }
        if record.runs() { Err("it runs".to_owned()) } else { Ok(record.ended(SOON)) }
    });
    assert_eq!(status.code(), Some(1), "not all could be written");
}

#[test]
fn a_recording_is_not_overwritten() {
    let lab = lab();
    let file = lab.path("flows.jsonl");
    std::fs::write(&file, "kept\n").expect("the place is ours");
    finish(verb(&["record"]).arg(&file)).failed(64, &["exists", "--append"]);
    finish(verb(&["record", "--append", "--for", "1s"]).arg(&file)).done();
    let text = std::fs::read_to_string(&file).expect("it is there");
    assert!(text.starts_with("kept\n") && text.ends_with('\n'), "{text}");
}
