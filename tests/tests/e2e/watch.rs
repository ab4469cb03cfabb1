//! `edgewatch watch`: every edge of the machine as it appears, and nothing left behind.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tests::agent::SOON;
use tests::eventually;
use tests::kernel::Loaded;
use tests::lab::Lab;
use tests::process::Running;
use tests::receiver::edge_of;
use tests::traffic::Protocol;

use crate::lab;

#[test]
fn every_edge_is_printed_once_with_both_ends_named() {
    let lab = lab();
    let wire = lab.wire();
    let (web, api) = (lab.service("web"), lab.service("api"));
    let servers = [
        (Protocol::Tcp, SocketAddr::new(wire.server.v4, 8080)),
        (Protocol::Tcp, SocketAddr::new(wire.server.v6, 8443)),
        (Protocol::Udp, SocketAddr::new(wire.server.v4, 5353)),
    ]
    .map(|(protocol, at)| lab.serve(&api, &wire.server, protocol, at));
    let mut dialler = lab.dialler(&web, &wire.client);

    let words = ["watch", "--for", "10s", "--format", "json"];
    let mut watch = watching(&lab, &words);
    let loaded = Loaded::by(watch.pid());
    assert!(!loaded.links.is_empty() && !loaded.maps.is_empty(), "{loaded:?}");

    let mut seen: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let mut take = |line: &str| {
        let view: Value = serde_json::from_str(line).expect("one document a line");
        let edge = edge_of(&view);
        if edge.contains(&web.name) || edge.contains(&api.name) {
            seen.entry(edge).or_default().push(view);
        }
    };
    while watch.runs() {
        for server in &servers {
            dialler.reaches(server);
        }
        while let Some(line) = watch.line_within(Duration::from_millis(200)) {
            take(&line);
        }
    }
    let (status, lines) = watch.rest(SOON);
    lines.iter().for_each(|line| take(line));
    assert_eq!(status.code(), Some(0));

    let expected: Vec<String> = servers.iter().map(|it| it.edge_from(&web)).collect();
    for edge in &expected {
        let Some([view]) = seen.get(edge).map(Vec::as_slice) else {
            panic!("{edge} is to be printed once: {seen:#?}");
        };
        assert_eq!(view["seen_from"], "both", "{view:#}");
        assert_eq!(view["process"]["pid"], dialler.pid(), "{view:#}");
        assert_eq!(view["process"]["executable"], dialler.executable.as_str(), "{view:#}");
        let cgroup = view["cgroup"].as_str().unwrap_or_default();
        assert!(web.cgroup.ends_with(cgroup.trim_start_matches('/')), "{view:#}");
        assert!(view["at"].as_str().is_some_and(|it| it.ends_with('Z')), "{view:#}");
    }
    assert_eq!(seen.len(), expected.len(), "{seen:#?}");
    eventually(SOON, "nothing of it in the kernel", || loaded.gone());
}

#[test]
fn a_datagram_of_who_is_gone_by_then_has_both_ends_named() {
    let lab = lab();
    let mut watch = watching(&lab, &["watch", "--format", "json"]);
    // Nobody was in these namespaces when it began to watch.
    let wire = lab.wire();
    let (web, api) = (lab.service("web"), lab.service("api"));
    let at = SocketAddr::new(wire.server.v4, 8080);
    let server = lab.serve(&api, &wire.server, Protocol::Udp, at);
    let mut dialler = lab.dialler(&web, &wire.client);
    // As if it were busy: who asks is gone before its question is read, and its namespace lives on.
    let _other = lab.dialler(&web, &wire.client);
    watch.stop();
    dialler.reaches(&server);
    drop(dialler);
    watch.signal(Signal::CONT);
    let view = loop {
        let view: Value = serde_json::from_str(&watch.line(SOON)).expect("one document a line");
        if [&web, &api].into_iter().any(|it| edge_of(&view).contains(&it.name)) {
            break view;
        }
    };
    assert_eq!(edge_of(&view), server.edge_from(&web));
    assert_eq!(view["seen_from"], "both", "{view:#}");
}

/// Starts to watch. It is silent until it sees something, so a scout dials until that is printed.
#[track_caller]
fn watching(lab: &Lab, words: &[&str]) -> Running {
    let place = lab.alone();
    let at = SocketAddr::new(place.v4, 7);
    let server = lab.serve(&lab.service("post"), &place, Protocol::Tcp, at);
    let scout = lab.service("scout");
    let mut dialler = lab.dialler(&scout, &place);
    let mut watch = Running::start(&mut lab.looks(words));
    eventually(SOON, "the scout is seen", || {
        dialler.reaches(&server);
        let line = watch.line_within(Duration::from_millis(200)).unwrap_or_default();
        if line.contains(&scout.name) { Ok(()) } else { Err(line) }
    });
    watch
}

#[test]
fn interrupted_it_ends_well_and_leaves_nothing() {
    let lab = lab();
    let mut watch = watching(&lab, &["watch"]);
    let loaded = Loaded::by(watch.pid());
    watch.signal(Signal::INT);
    assert_eq!(watch.ended(SOON).code(), Some(0));
    eventually(SOON, "nothing of it in the kernel", || loaded.gone());
}

#[test]
fn who_watches_is_told_what_is_not_seen_any_more() {
    let lab = lab();
    let path = lab.path("watch.log");
    let log = File::create(&path).expect("the place is ours");
    let watch = Running::logged(&mut lab.looks(&["watch"]), log);
    let says = |what: &str| {
        eventually(4 * SOON, what, || {
            let said = fs::read_to_string(&path).expect("it is there");
            if said.contains(what) { Ok(()) } else { Err(said) }
        });
    };
    says("watching, nothing is kept");
    Loaded::by(watch.pid()).detach("recvmsg6");
    says("edgewatch: the kernel program recvmsg6 is attached no longer");
}

#[test]
fn only_the_part_that_is_watched_is_told_whatever_is_older() {
    let lab = lab();
    let here = lab.alone();
    let at = |port| SocketAddr::new(here.v4, port);
    let api = lab.service("api");
    let _inside = lab.serve(&api, &here, Protocol::Tcp, at(8_080));
    let outside = |words: &[&str]| {
        let mut command = Command::new(lab.peer());
        command.args(["enter", "--netns", &here.name, "--"]).arg(lab.peer());
        Running::start(command.args(words))
    };
    let mut listens = outside(&["serve", "tcp", &at(8_081).to_string()]);
    assert_eq!(listens.line(SOON), format!("listening {}", at(8_081)));
    let mut packets = outside(&["obey"]);
    assert_eq!(packets.line(SOON), "ready");
    packets.say("odd open packet");
    assert!(packets.line(SOON).starts_with("open"), "it is not open");

    let mut watch = Running::start(&mut lab.looks(&["watch", "--for", "2s", "--format", "json"]));
    let (status, lines) = watch.rest(SOON * 4);
    assert_eq!(status.code(), Some(0));
    let views: Vec<Value> = lines.iter().map(|it| serde_json::from_str(it).expect("one")).collect();
    assert!(views.iter().any(|it| it.to_string().contains(&api.name)), "{lines:#?}");
    let foreign = views.iter().filter(|it| !it.to_string().contains(lab.tag()));
    assert_eq!(foreign.count(), 0, "{lines:#?}");
}
