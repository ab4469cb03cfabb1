//! The engine, told as stories: what happens in, messages out. A story is text, one event a line;
//! `check` is the single place that touches the engine's API.
//!
//! ```text
//! 10 a -> 192.0.2.7 443/tcp established with /bin/x    a dial somebody outside answered
//! 10 a => b 443/tcp established with /bin/x            both ends are on this machine
//! 10 b listens 443/tcp with /bin/x                     a port is opened
//! 10 world => b 443/tcp                                accepted from outside
//! 10 guard a b | learn a | open a 60 | approve EDGE ttl 60 | forbid EDGE | tick
//! ```
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's way to fail")]

mod clock;
mod dns;
mod ends;
mod flood;
mod full;
mod names;
mod oddities;
mod properties;
mod queue;
mod quiet;
mod sockets;
mod stage;
mod steadfast;

use std::net::{IpAddr, Ipv4Addr};

use monitor_core::baseline::{Baseline, Mode};
use monitor_core::edge::Edge;
use monitor_core::engine::{Command, Engine, Guarding, Input, Selection};
use monitor_core::flow::{Direction, Flow, Outcome, Protocol, Remote};
use monitor_core::ids::NetnsCookie;

use crate::stage::{Stage, check, check_in, flow, ip, key, traffic};

#[test]
fn while_learning_nothing_is_said() {
    let stage = check(
        "0 a => b 80/tcp
         1 a -> 192.0.2.1 443/tcp established with /bin/x
         2 world => a 443/tcp",
        "",
    );
    assert_eq!(stage.engine.map(stage.now.wall).len(), 3);
}

#[test]
fn a_new_peer_of_a_guarded_service_is_said_once() {
    check(
        "0 a => b 80/tcp
         5 guard a b
         10 a -> 192.0.2.1 443/tcp established with /bin/sh
         11 a -> 192.0.2.1 443/tcp established with /bin/sh
         12 a => b 80/tcp",
        "firing high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/sh;",
    );
}

#[test]
fn both_ends_here_are_one_edge_and_one_message() {
    let stage = check(
        "0 a => b 80/tcp
         0 c => b 80/tcp
         5 guard *
         10 a => c 5432/tcp with /bin/sh",
        "firing high: new-peer a -> c 5432/tcp established with /bin/sh; new-client a -> c 5432/tcp established with /bin/sh;",
    );
    let map = stage.engine.map(stage.now.wall);
    assert!(map.iter().all(|edge| edge.seen_from == monitor_core::attribute::SeenFrom::Both));
}

#[test]
fn an_edge_is_judged_the_same_from_either_end() {
    let kind = "firing high: new-client a -> b 90/tcp established with /bin/app;";
    check("0 a => b 80/tcp\n 5 guard b\n 10 a => b 90/tcp", kind);
    check(
        "0 a => b 80/tcp\n 5 guard a\n 10 a => b 90/tcp",
        "firing medium: new-port a -> b 90/tcp established with /bin/app;",
    );
}

#[test]
fn a_later_success_is_an_update_of_the_same_incident() {
    check(
        "0 a => b 80/tcp
         5 guard a
         10 a -> 192.0.2.1 443/tcp attempted with /bin/sh
         20 a -> 192.0.2.1 443/tcp refused with /bin/sh
         30 a -> 192.0.2.1 443/tcp established with /bin/sh",
        "firing high: new-peer a -> ip:192.0.2.1 443/tcp attempted with /bin/sh;
         updated high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/sh;",
    );
}

#[test]
fn another_executable_on_a_pending_edge_is_an_update() {
    check(
        "0 a => b 80/tcp
         5 guard a
         10 a -> 192.0.2.1 443/tcp established with /bin/sh
         20 a -> 192.0.2.1 443/tcp established with /bin/nc",
        "firing high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/sh;
         updated high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/sh; new-peer a -> ip:192.0.2.1 443/tcp established with /bin/nc;",
    );
}

#[test]
fn a_known_edge_with_another_executable_is_said() {
    check(
        "0 a => b 80/tcp with /bin/app
         5 guard a
         10 a => b 80/tcp with /bin/sh",
        "firing high: new-executable a -> b 80/tcp established with /bin/sh;",
    );
}

#[test]
fn what_was_only_attempted_in_learning_is_news_when_it_is_answered() {
    check(
        "0 a => b 80/tcp
         1 a -> 192.0.2.1 443/tcp refused with /bin/app
         5 guard a
         10 a -> 192.0.2.1 443/tcp refused with /bin/app
         20 a -> 192.0.2.1 443/tcp established with /bin/app",
        "firing high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/app;",
    );
}

#[test]
fn an_approved_edge_is_silent_until_the_approval_ends() {
    let stage = check(
        "0 a => b 80/tcp
         5 guard a
         10 a -> 192.0.2.1 443/tcp established with /bin/sh
         20 approve a -> ip:192.0.2.1 443/tcp with /bin/sh ttl 100
         30 a -> 192.0.2.1 443/tcp established with /bin/sh
         130 a -> 192.0.2.1 443/tcp established with /bin/sh",
        "firing high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/sh;
         resolved high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/sh;
         firing high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/sh;",
    );
    assert!(stage.rearmed.iter().any(|key| key.port == 443), "the kernel must tell it again");
}

#[test]
fn an_approval_is_for_one_executable() {
    check(
        "0 a => b 80/tcp
         5 guard a
         20 approve a -> ip:192.0.2.1 443/tcp with /bin/x
         30 a -> 192.0.2.1 443/tcp established with /bin/x
         40 a -> 192.0.2.1 443/tcp established with /bin/sh",
        "firing high: new-executable a -> ip:192.0.2.1 443/tcp established with /bin/sh;",
    );
}

#[test]
fn a_forbidden_edge_is_loud_also_when_known_and_while_learning() {
    let stage = check(
        "0 a -> 192.0.2.1 443/tcp established with /bin/x
         10 forbid a -> ip:192.0.2.1 443/tcp
         20 a -> 192.0.2.1 443/tcp established with /bin/x",
        "firing critical: forbidden a -> ip:192.0.2.1 443/tcp established with /bin/x;",
    );
    assert_eq!(stage.rearmed.len(), 1);
}

#[test]
fn a_forbidden_edge_that_goes_on_repeats_hourly() {
    let mut stage = check(
        "0 forbid a -> ip:192.0.2.1 443/tcp
         20 a -> 192.0.2.1 443/tcp established with /bin/x",
        "firing critical: forbidden a -> ip:192.0.2.1 443/tcp established with /bin/x;",
    );
    let cgroup = stage.cgroup("a");
    let remote = Remote::Address("192.0.2.1".parse().unwrap());
    let key = key(cgroup, Direction::Outbound, remote, "443/tcp", Outcome::Established);
    let said = |stage: &Stage| stage.said.lines().count();
    for (second, lines) in [(60, 1), (1800, 1), (3700, 2), (3760, 2), (7400, 3)] {
        stage.until(second * 1000);
        stage.step(Input::Traffic(traffic(&stage, key, 5)));
        assert_eq!(said(&stage), lines, "at {second} s");
    }
    assert_eq!(stage.engine.alerts(stage.now.wall)[0].count, 25);
}

#[test]
fn what_is_counted_of_a_dial_that_still_waits_is_not_lost() {
    let mut stage = Stage::new(Mode::Learn);
    stage.event("0 a -> 192.0.2.1 53/udp attempted with /bin/x");
    let remote = ip("192.0.2.1");
    let key = key(stage.cgroup("a"), Direction::Outbound, remote, "53/udp", Outcome::Attempted);
    for _ in 0..2 {
        stage.step(Input::Traffic(traffic(&stage, key, 2)));
    }
    stage.until(1_000);
    stage.step(Input::Traffic(traffic(&stage, key, 3)));
    let edges = stage.engine.map(stage.now.wall);
    assert_eq!(edges[0].evidence.as_ref().unwrap().connections, 7);
}

#[test]
fn what_an_agent_before_knew_of_a_key_goes_on() {
    let mut stage = check("0 a -> 192.0.2.1 443/tcp established with /bin/x", "");
    let cgroup = stage.cgroup("a");
    let key_to =
        |to: &str| key(cgroup, Direction::Outbound, ip(to), "443/tcp", Outcome::Established);
    let known = key_to("192.0.2.1");
    let id = stage.number(known);
    let edge = stage.engine.edge_of(id).unwrap().clone();
    let unknown = key_to("192.0.2.2");
    let unseen: Edge = "systemd:a.service -> ip:192.0.2.2 443/tcp".parse().unwrap();
    stage.restart(Mode::Auto);
    assert_eq!(stage.engine.edge_of(id), None);
    for (key, edge) in [(known, &edge), (unknown, &unseen)] {
        let flow = Box::new(flow(stage.now.wall, key, None, "/bin/x"));
        stage.step(Input::Resumed { flow, edge: edge.clone() });
        let id = stage.number(key);
        assert_eq!(stage.engine.edge_of(id), Some(edge));
        stage.step(Input::Traffic(traffic(&stage, key, 5)));
    }
    let map = stage.engine.map(stage.now.wall);
    let [view] = &*map else { panic!("it is nothing new: {map:?}") };
    assert_eq!(view.evidence.as_ref().unwrap().connections, 5);
    // Decided about, both are told again.
    stage.rearmed.clear();
    stage.event("9 guard a");
    assert_eq!(stage.rearmed, [known, unknown]);
}

#[test]
fn a_pending_edge_is_never_learned() {
    check(
        "0 a => b 80/tcp
         5 guard a
         10 a -> 192.0.2.1 443/tcp established with /bin/sh
         20 learn a
         30 a -> 192.0.2.1 443/tcp established with /bin/sh
         40 guard a
         50 a -> 192.0.2.1 443/tcp established with /bin/nc",
        "firing high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/sh;
         updated high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/sh; new-peer a -> ip:192.0.2.1 443/tcp established with /bin/nc;",
    );
}

#[test]
fn a_learner_never_widens_a_guarded_neighbour() {
    check(
        "0 a => b 80/tcp
         5 guard b
         10 c => b 80/tcp
         20 c => b 80/tcp",
        "firing high: new-client c -> b 80/tcp established with /bin/app;",
    );
}

#[test]
fn an_open_window_collects_for_review_and_does_not_learn() {
    let stage = check(
        "0 a => b 80/tcp
         5 guard a
         10 open a 60
         20 a -> 192.0.2.1 443/tcp established with /bin/x
         100 a -> 192.0.2.1 443/tcp established with /bin/x
         110 a -> 192.0.2.2 443/tcp established with /bin/x",
        "firing high: new-peer a -> ip:192.0.2.2 443/tcp established with /bin/x;",
    );
    let undecided: Vec<String> =
        stage.engine.undecided().iter().map(|it| it.edge.to_string()).collect();
    assert_eq!(undecided.len(), 2, "{undecided:?}");
}

#[test]
fn guard_mode_is_loud_once_about_a_service_without_a_baseline() {
    check_in(
        Mode::Guard,
        "0 a -> 192.0.2.1 443/tcp established with /bin/x
         0 b -> 192.0.2.1 443/tcp established with /bin/x
         60 a -> 192.0.2.2 443/tcp established with /bin/x",
        "firing medium: unbaselined a -> ip:192.0.2.1 443/tcp established with /bin/x; unbaselined b -> ip:192.0.2.1 443/tcp established with /bin/x;",
    );
}

#[test]
fn three_dials_of_one_hijack_are_one_incident() {
    let stage = check(
        "0 a => b 80/tcp
         0 b => c 5432/tcp
         5 guard *
         10 a => c 5432/tcp with /bin/bash
         11 a -> 169.254.169.254 80/tcp attempted with /bin/bash
         12 a -> 203.0.113.9 4444/tcp established with /bin/bash",
        "firing high: new-peer a -> c 5432/tcp established with /bin/bash; new-client a -> c 5432/tcp established with /bin/bash;
         updated high: new-peer a -> c 5432/tcp established with /bin/bash; new-client a -> c 5432/tcp established with /bin/bash; metadata-access a -> ip:169.254.169.254 80/tcp attempted with /bin/bash;
         updated high: new-peer a -> c 5432/tcp established with /bin/bash; new-client a -> c 5432/tcp established with /bin/bash; metadata-access a -> ip:169.254.169.254 80/tcp attempted with /bin/bash; new-peer a -> ip:203.0.113.9 4444/tcp established with /bin/bash;",
    );
    let alerts = stage.engine.alerts(stage.now.wall);
    let [alert] = alerts.as_slice() else { panic!("{alerts:?}") };
    assert_eq!(alert.revision, 3);
    assert!(alert.allow.starts_with("edgewatch baseline approve 'systemd:a.service -> "));
    assert!(alert.findings.iter().all(|it| !it.reasons.is_empty()));
    let metadata = &alert.findings[2];
    assert_eq!(metadata.attack, ["T1552.005"]);
}

#[test]
fn learning_ends_on_quiet_and_count_and_a_new_edge_reopens_it() {
    let mut stage = check("0 a => b 80/tcp\n 1 a => b 81/tcp\n 2 a => b 82/tcp", "");
    let phase = |stage: &Stage| stage.engine.services(stage.now.wall)[0].phase.to_string();
    assert_eq!(phase(&stage), "learning");
    let cgroup = stage.cgroup("a");
    let remote = Remote::Address(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)));
    let key = key(cgroup, Direction::Outbound, remote, "80/tcp", Outcome::Established);
    stage.until(3_650_000);
    assert_eq!(phase(&stage), "learning", "quiet for long, but hardly ever seen");
    stage.step(Input::Traffic(traffic(&stage, key, 3)));
    stage.until(3_700_000);
    assert_eq!(phase(&stage), "proposed");
    stage.event("3701 a -> 192.0.2.9 443/tcp established with /bin/x");
    stage.until(3_702_000);
    assert_eq!(phase(&stage), "learning");
}

/// A storm of new edges is one transaction every so often, and each edge is known from the first moment.
#[test]
fn what_is_learned_is_stored_together_a_moment_later() {
    let mut stage = Stage::new(Mode::Learn);
    stage.until(1_000);
    stage.stored.clear();
    let edges = |stage: &Stage| stage.stored.keys().filter(|it| it.starts_with("edge")).count();
    let learned = Baseline::UNDECIDED + 10;
    for port in 1..=learned {
        stage.talk("a", "b", &format!("{port}/tcp"), "/bin/app");
    }
    assert_eq!(edges(&stage), 0);
    let lost = stage.engine.status(stage.now.wall).lost;
    assert!(lost.is_empty(), "what is learned takes no undecided one's place: {lost:?}");
    stage.until(1_000 + Engine::LEARNED_MS);
    assert_eq!(edges(&stage), learned);
    // Whatever is stored before that takes it along.
    stage.talk("a", "c", "1/tcp", "/bin/app");
    stage.command(Command::Guard { services: Selection::All });
    assert_eq!(edges(&stage), learned + 1);
}

#[test]
fn a_restart_keeps_what_was_learned_guarded_and_told() {
    let mut stage = check(
        "0 a => b 80/tcp
         5 guard a
         10 a -> 192.0.2.1 443/tcp established with /bin/sh",
        "firing high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/sh;",
    );
    stage.restart(Mode::Auto);
    stage.said.clear();
    stage.event("20 a -> 192.0.2.1 443/tcp established with /bin/sh");
    stage.event("21 a => b 80/tcp");
    stage.event("22 a -> 192.0.2.2 443/tcp established with /bin/sh");
    stage.until(30_000);
    assert_eq!(
        stage.said,
        "updated high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/sh; new-peer a -> ip:192.0.2.2 443/tcp established with /bin/sh;\n"
    );
}

#[test]
fn a_server_that_is_away_is_named_by_where_it_was_reached() {
    let mut stage = check("0 a => b 80/tcp\n 5 guard a", "");
    let server = stage.cgroup("b");
    stage.step(Input::WorkloadVanished { cgroup: server });
    stage.event("10 a -> 10.0.0.2 80/tcp refused with /bin/app");
    stage.restart(Mode::Auto);
    stage.event("20 a -> 10.0.0.2 80/tcp attempted with /bin/app");
    stage.until(25_000);
    assert_eq!(stage.said, "");
    // That somebody else answers there now is not hidden.
    stage.event("30 a -> 10.0.0.2 80/tcp established with /bin/app");
    stage.until(35_000);
    assert_eq!(
        stage.said,
        "firing high: new-peer a -> ip:10.0.0.2 80/tcp established with /bin/app;\n"
    );
}

#[test]
fn an_export_imported_elsewhere_and_guarded_judges_the_same() {
    let learned = check(
        "0 a => b 80/tcp with /bin/app
         1 a -> 192.0.2.1 443/tcp established with /bin/app
         2 world => a 443/tcp
         3 forbid a -> ip:169.254.169.254 80/tcp",
        "",
    );
    let figures = monitor_core::baseline::document::Figures::Left;
    let document = learned.engine.export(learned.now.wall, &Selection::All, figures).unwrap();
    let text = serde_json::to_string(&document).unwrap();
    let mut elsewhere = Stage::new(Mode::Auto);
    for name in ["a", "b", "c"] {
        elsewhere.cgroup(name);
    }
    let document = serde_json::from_str(&text).unwrap();
    elsewhere.command(Command::Import { document, guard: Guarding::Guarded });
    assert_eq!(elsewhere.answers, [Ok(())]);
    for line in [
        "1 a => b 80/tcp with /bin/app",
        "2 a -> 192.0.2.1 443/tcp established with /bin/app",
        "3 world => a 443/tcp",
        "4 a -> 169.254.169.254 80/tcp attempted with /bin/app",
        "5 a => b 80/tcp with /bin/sh",
        "6 c => b 80/tcp with /bin/app",
    ] {
        elsewhere.event(line);
    }
    elsewhere.until(10_000);
    let last: Vec<&str> = elsewhere.said.lines().collect();
    assert_eq!(last.len(), 3, "{}", elsewhere.said);
    assert!(last[0].contains("forbidden a -> ip:169.254.169.254 80/tcp"), "{}", last[0]);
    assert!(last[1].contains("new-executable a -> b 80/tcp"), "{}", last[1]);
    assert!(last[2].contains("new-client c -> b 80/tcp"), "{}", last[2]);
    let again = elsewhere.engine.export(elsewhere.now.wall, &Selection::All, figures).unwrap();
    let entry = &again.services[&"systemd:a.service".parse().unwrap()];
    assert_eq!(entry.outbound.len(), 2);
}

#[test]
fn the_same_story_gives_the_same_words() {
    let story = "0 a => b 80/tcp\n 5 guard *\n 10 a -> 192.0.2.1 443/tcp established with /bin/sh";
    let expected = "firing high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/sh;";
    let (one, two) = (check(story, expected), check(story, expected));
    assert_eq!(
        serde_json::to_string(&one.engine.alerts(one.now.wall)).unwrap(),
        serde_json::to_string(&two.engine.alerts(two.now.wall)).unwrap()
    );
}

#[test]
fn a_decision_about_nobody_is_refused() {
    let stage = check("0 a => b 80/tcp\n 1 guard nobody", "");
    assert_eq!(
        stage.answers,
        [Err(
            "no service matches systemd:nobody.service: `edgewatch services` lists them".to_owned()
        )]
    );
}

#[test]
fn udp_between_namespaces_is_paired_by_who_owns_the_address() {
    check_udp(Outcome::Sent);
}

#[test]
fn connected_udp_that_came_in_was_sent() {
    check_udp(Outcome::Attempted);
}

/// Dials by UDP, as far as the client's end shows it, and is received.
#[track_caller]
fn check_udp(dialled: Outcome) {
    let mut stage = Stage::new(Mode::Auto);
    let (a, b) = (stage.cgroup("a"), stage.cgroup("b"));
    let addresses = |last| vec![IpAddr::V4(Ipv4Addr::new(10, 0, 0, last))];
    stage.step(Input::Addresses { netns: NetnsCookie(1), addresses: addresses(1) });
    stage.step(Input::Addresses { netns: NetnsCookie(2), addresses: addresses(2) });
    let dialled = key(a, Direction::Outbound, Remote::Address(addresses(2)[0]), "53/udp", dialled);
    stage.step(Input::Flow(flow(stage.now.wall, dialled, None, "/bin/app")));
    let served =
        key(b, Direction::Inbound, Remote::Address(addresses(1)[0]), "53/udp", Outcome::Sent);
    let served = Flow { netns: NetnsCookie(2), ..flow(stage.now.wall, served, None, "") };
    assert_eq!(served.key.protocol, Protocol::Udp);
    stage.step(Input::Flow(served));
    stage.until(1000);
    let edges: Vec<String> = stage
        .engine
        .map(stage.now.wall)
        .iter()
        .map(|it| format!("{} -> {} {}", it.edge.client, it.edge.server, it.outcome))
        .collect();
    assert_eq!(edges, ["systemd:a.service -> systemd:b.service sent"]);
}
