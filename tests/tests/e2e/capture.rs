//! What the kernel sees and how it is named: both ends, whose they are, what came of the dial.

use std::net::SocketAddr;
use std::path::Path;

use tests::agent::{SOON, SWEPT, Setup};
use tests::kernel::Loaded;
use tests::lab::{Lab, SILENCE};
use tests::traffic::{Protocol, edge, nameless};

use crate::lab;

/// As the documentation gives them.
const CONFIGURATION: &str = include_str!("../../../docs/configuration.md");

#[test]
fn tcp_between_namespaces_is_one_edge_with_both_ends_named() {
    let lab = lab();
    let agent = lab.agent("agent", &Setup::mode("learn"));
    check_between_namespaces(&lab, &agent, Protocol::Tcp, "established");
}

#[test]
fn udp_between_namespaces_is_one_edge_with_both_ends_named() {
    let lab = lab();
    let agent = lab.agent("agent", &Setup::mode("learn"));
    check_between_namespaces(&lab, &agent, Protocol::Udp, "sent");
}

/// Dials by IPv4 and IPv6 and expects these two edges and no others.
#[track_caller]
fn check_between_namespaces(
    lab: &Lab,
    agent: &tests::agent::Agent,
    protocol: Protocol,
    outcome: &str,
) {
    let wire = lab.wire();
    let (web, api) = (lab.service("web"), lab.service("api"));
    let mut dialler = lab.dialler(&web, &wire.client);
    let mut edges = Vec::new();
    for (address, port) in [(wire.server.v4, 8080), (wire.server.v6, 8443)] {
        let server = lab.serve(&api, &wire.server, protocol, SocketAddr::new(address, port));
        dialler.reaches(&server);
        let edge = server.edge_from(&web);
        let view = agent.shows(&edge, SOON, |view| view["seen_from"] == "both");
        assert_eq!(view["outcome"], outcome);
        assert_eq!(view["evidence"]["executables"], serde_json::json!([dialler.executable]));
        edges.push(edge);
    }
    agent.has_only(&web, &edges);
    agent.has_only(&api, &edges);
}

#[test]
fn connected_udp_is_seen_like_any_other() {
    let lab = lab();
    let agent = lab.agent("agent", &Setup::mode("learn"));
    let wire = lab.wire();
    let (web, api) = (lab.service("web"), lab.service("api"));
    let at = SocketAddr::new(wire.server.v4, 5353);
    let server = lab.serve(&api, &wire.server, Protocol::Udp, at);
    let mut dialler = lab.dialler(&web, &wire.client);
    dialler.dials(&format!("udp-connected {at}"), "sent");
    let edge = server.edge_from(&web);
    let view = agent.shows(&edge, SOON, |view| view["seen_from"] == "both");
    assert_eq!(view["outcome"], "sent");
    agent.has_only(&web, std::slice::from_ref(&edge));
    agent.has_only(&api, &[edge]);
}

#[test]
fn over_loopback_every_port_has_its_own_owner() {
    let lab = lab();
    let agent = lab.agent("agent", &Setup::mode("learn"));
    let here = lab.alone();
    let (web, job) = (lab.service("web"), lab.service("job"));
    let (api, db) = (lab.service("api"), lab.service("db"));
    let mut diallers = [lab.dialler(&web, &here), lab.dialler(&job, &here)];
    let servers = [
        lab.serve(&api, &here, Protocol::Tcp, SocketAddr::new(here.v4, 8080)),
        lab.serve(&db, &here, Protocol::Tcp, SocketAddr::new(here.v4, 5432)),
        lab.serve(&db, &here, Protocol::Tcp, SocketAddr::new(here.v6, 5433)),
    ];
    for dialler in &mut diallers {
        for server in &servers {
            dialler.reaches(server);
        }
    }
    for client in [&web, &job] {
        let edges: Vec<String> = servers.iter().map(|it| it.edge_from(client)).collect();
        for edge in &edges {
            agent.shows(edge, SOON, |view| view["seen_from"] == "both");
        }
        agent.has_only(client, &edges);
    }
}

#[test]
fn a_refused_dial_is_an_attempt_that_was_refused() {
    let lab = lab();
    let agent = lab.agent("agent", &Setup::mode("learn"));
    let wire = lab.wire();
    let web = lab.service("web");
    let mut dialler = lab.dialler(&web, &wire.client);
    for address in [wire.server.v4, wire.server.v6] {
        dialler.is_refused(SocketAddr::new(address, 9));
        let edge = edge(&web, &nameless(address), 9, Protocol::Tcp);
        let view = agent.shows(&edge, SOON, |view| view["outcome"] == "refused");
        assert_eq!(view["seen_from"], "client");
    }
}

#[test]
fn a_dial_into_silence_is_first_attempted_then_timed_out() {
    let lab = lab();
    let agent = lab.agent("agent", &Setup::mode("learn"));
    let wire = lab.wire();
    // Seven seconds until the kernel gives up; kernels before 6.5 know no other way to count them.
    wire.client.set("ipv4/tcp_syn_retries", "2");
    if Path::new("/proc/sys/net/ipv4/tcp_syn_linear_timeouts").exists() {
        wire.client.set("ipv4/tcp_syn_linear_timeouts", "0");
    }
    let web = lab.service("web");
    let mut dialler = lab.dialler(&web, &wire.client);
    let edge = edge(&web, &nameless(SILENCE.into()), 80, Protocol::Tcp);
    dialler.begins(&format!("tcp {SILENCE}:80"));
    agent.shows(&edge, SOON, |view| view["outcome"] == "attempted");
    dialler.ends("timed-out");
    agent.shows(&edge, SOON, |view| view["outcome"] == "timed-out");
}

#[test]
fn a_server_older_than_the_agent_is_known() {
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
    let agent = lab.agent("agent", &Setup::mode("learn"));
    for server in &servers {
        dialler.reaches(server);
        let edge = server.edge_from(&web);
        let view = agent.shows(&edge, SOON, |view| view["seen_from"] == "both");
        assert_eq!(view["evidence"]["executables"], serde_json::json!([dialler.executable]));
    }
    agent.has_only(&web, &servers.each_ref().map(|it| it.edge_from(&web)));
}

#[test]
fn a_cgroup_that_lives_for_one_dial_is_named() {
    let lab = lab();
    let agent = lab.agent("agent", &Setup::mode("learn"));
    let wire = lab.wire();
    let at = SocketAddr::new(wire.server.v4, 8080);
    let server = lab.serve(&lab.service("api"), &wire.server, Protocol::Tcp, at);
    for name in ["spark", "flash", "blink"] {
        let brief = lab.planned(name);
        assert_eq!(lab.flash(&brief, &wire.client, at).done(), "established\n");
        let edge = server.edge_from(&brief);
        let view = agent.shows(&edge, SOON, |view| view["seen_from"] == "both");
        let executable = lab.peer().display().to_string();
        assert_eq!(view["evidence"]["executables"], serde_json::json!([executable]));
    }
}

#[test]
fn evidence_is_what_was_carried() {
    let lab = lab();
    let agent = lab.agent("agent", &Setup::mode("learn"));
    let wire = lab.wire();
    let (web, api) = (lab.service("web"), lab.service("api"));
    let at = SocketAddr::new(wire.server.v4, 8080);
    let server = lab.serve(&api, &wire.server, Protocol::Tcp, at);
    let mut dialler = lab.dialler(&web, &wire.client);
    dialler.dials(&format!("tcp {at} --count 3 --send 123456"), "established");
    let sent = serde_json::json!([3, 0, 3 * 123_456, 3 * "got 123456\n".len()]);
    agent.shows(&server.edge_from(&web), SWEPT, |view| {
        let evidence = &view["evidence"];
        let keys = ["connections", "failures", "bytes_to_server", "bytes_to_client"];
        sent == serde_json::Value::from_iter(keys.map(|key| evidence[key].clone()))
    });

    dialler.dials(&format!("tcp {} --count 1", SocketAddr::new(wire.server.v4, 9)), "refused");
    dialler.is_refused(SocketAddr::new(wire.server.v4, 9));
    let refused = edge(&web, &nameless(wire.server.v4), 9, Protocol::Tcp);
    agent.shows(&refused, SWEPT, |view| {
        view["evidence"]["failures"] == 2 && view["evidence"]["connections"] == 0
    });
}

#[test]
fn what_the_kernel_holds_stays_within_what_is_promised() {
    let (_, small) =
        CONFIGURATION.split_once("within 3 MiB:\n\n```toml\n[capture]\n").expect("one");
    let (small, _) = small.split_once("```").expect("its end");
    let lab = lab();
    for (name, sizes, mebibytes) in [("whole", "", 12), ("small", small, 3)] {
        let agent = lab.agent(name, &Setup::mode("learn").within(&lab, sizes));
        let loaded = Loaded::by(agent.pid());
        let bytes = loaded.map_bytes();
        assert!(loaded.maps.len() > 10, "{loaded:?}");
        // Even the ring alone is not nothing.
        assert!((256 << 10..mebibytes << 20).contains(&bytes), "{bytes} with {sizes:?}");
    }
}
