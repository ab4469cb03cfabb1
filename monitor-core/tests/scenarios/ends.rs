//! The two ends of one connection, in whatever order they are told.

use std::net::SocketAddr;

use monitor_core::baseline::Mode;
use monitor_core::engine::Input;
use monitor_core::flow::{Direction, Flow, FlowKey, Outcome, Remote};

use crate::stage::{Stage, flow, ip, key};

const OWN: ([u8; 4], u16) = ([10, 0, 0, 1], 41_000);

/// What the kernel tells of one connection from `a` to `b`, both guarded.
struct Told {
    stage: Stage,
    attempted: FlowKey,
    accepted: FlowKey,
}

impl Told {
    fn new() -> Self {
        let mut stage = Stage::new(Mode::Auto);
        stage.event("0 a => c 80/tcp");
        stage.event("0 c => b 80/tcp");
        stage.event("5 guard *");
        stage.event("10 tick");
        let (a, b) = (stage.cgroup("a"), stage.cgroup("b"));
        let attempted = key(a, Direction::Outbound, ip("10.0.0.2"), "443/tcp", Outcome::Attempted);
        let from = Remote::Cgroup(a);
        let accepted = key(b, Direction::Inbound, from, "443/tcp", Outcome::Established);
        Self { stage, attempted, accepted }
    }

    fn tells(&mut self, key: FlowKey, own: Option<SocketAddr>, path: &str) {
        let flow: Flow = flow(self.stage.now.wall, key, own, path);
        self.stage.step(Input::Flow(flow));
    }

    fn attempts(&mut self) {
        self.tells(self.attempted, None, "/bin/x");
    }

    fn reaches(&mut self) {
        let reached = FlowKey { outcome: Outcome::Established, ..self.attempted };
        self.tells(reached, Some(OWN.into()), "/bin/x");
    }

    fn accepts(&mut self, own: impl Into<SocketAddr>) {
        self.tells(self.accepted, Some(own.into()), "");
    }

    /// Waits so long, and compares what was said until then.
    #[track_caller]
    fn has_said(&mut self, after_ms: u64, lines: &[&str]) {
        self.stage.until(10_000 + after_ms);
        let said: Vec<&str> = self.stage.said.lines().collect();
        assert_eq!(said, lines);
    }
}

const NAMED: &str = "firing high: new-peer a -> b 443/tcp established with /bin/x; \
    new-client a -> b 443/tcp established with /bin/x;";
const NAMELESS: &str = "firing high: new-peer a -> b 443/tcp established; \
    new-client a -> b 443/tcp established;";

#[test]
fn what_is_accepted_before_its_dialler_knows_is_told_with_its_dialler() {
    let mut told = Told::new();
    told.attempts();
    told.accepts(OWN);
    told.reaches();
    told.has_said(2_000, &[NAMED]);
}

#[test]
fn any_other_order_says_the_same() {
    let mut told = Told::new();
    told.attempts();
    told.reaches();
    told.accepts(OWN);
    told.has_said(2_000, &[NAMED]);
    // The attempt is known, and its end is told last.
    let mut told = Told::new();
    told.reaches();
    told.accepts(OWN);
    told.has_said(2_000, &[NAMED]);
}

#[test]
fn an_accept_waits_for_no_dial_that_says_nothing() {
    let mut told = Told::new();
    told.accepts(OWN);
    let said = told.stage.said.clone();
    assert!(said.is_empty() || said.lines().eq([NAMELESS]), "{said}");
    told.has_said(200, &[NAMELESS]);

    let mut told = Told::new();
    told.attempts();
    told.accepts(OWN);
    // The attempt is told first, and already with whom it reached.
    told.has_said(900, &[NAMED]);
}

#[test]
fn an_accept_of_another_connection_is_not_taken_for_it() {
    let mut told = Told::new();
    told.attempts();
    told.accepts(([10, 0, 0, 1], 41_001));
    told.reaches();
    told.accepts(OWN);
    // The one whose dial was known already comes after its patience.
    told.has_said(2_000, &[NAMED]);
}

/// A container asks Docker's resolver for a name: 127.0.0.11:53 leads to a port that the kernel gave.
fn asks_docker(protocol: &str) -> Stage {
    let mut stage = Stage::new(Mode::Auto);
    let (web, docker) = (stage.cgroup("a"), stage.cgroup("d"));
    let own: Option<SocketAddr> = Some(([127, 0, 0, 1], 45_000).into());
    let is_tcp = protocol == "tcp";
    let (from, outcome) = if is_tcp {
        (Remote::Cgroup(web), Outcome::Established)
    } else {
        (ip("127.0.0.1"), Outcome::Sent)
    };
    let dialled = format!("53/{protocol}");
    let dialled = key(web, Direction::Outbound, ip("127.0.0.11"), &dialled, Outcome::Attempted);
    stage.step(Input::Flow(flow(stage.now.wall, dialled, None, "/bin/x")));
    if is_tcp {
        let reached = FlowKey { outcome, ..dialled };
        stage.step(Input::Flow(flow(stage.now.wall, reached, own, "/bin/x")));
    }
    // Another container's port is another one.
    for port in ["40001", "40002"] {
        let served = key(docker, Direction::Inbound, from, &format!("{port}/{protocol}"), outcome);
        let served = FlowKey { local: Some([127, 0, 0, 11].into()), ..served };
        stage.step(Input::Flow(flow(stage.now.wall, served, own, "")));
        if is_tcp {
            break;
        }
    }
    stage.until(2_000);
    stage
}

#[test]
fn a_resolver_that_a_namespace_leads_to_is_one_edge_at_the_port_that_was_dialled() {
    for protocol in ["udp", "tcp"] {
        let stage = asks_docker(protocol);
        let map = stage.engine.map(stage.now.wall);
        let edges: Vec<String> =
            map.iter().map(|it| monitor_core::edge::Edge::from(&it.edge).to_string()).collect();
        let edge = format!("systemd:a.service -> systemd:d.service 53/{protocol}");
        assert_eq!(edges, [edge]);
    }
}

#[test]
fn a_service_that_compares_addresses_of_its_own_is_known_by_the_kind_of_port() {
    let story = |dial: &str| {
        let mut stage = Stage::new(Mode::Auto);
        stage.event("0 d -> 127.0.0.1 40001/udp attempted with /sbin/iptables");
        stage.event("1 guard d");
        stage.event(dial);
        stage.event("9 tick");
        stage.said
    };
    assert_eq!(story("2 d -> 127.0.0.1 50002/udp attempted with /sbin/iptables"), "");
    for other in [
        "2 d -> 127.0.0.1 50002/udp attempted with /bin/sh",
        "2 d -> 127.0.0.1 50002/tcp refused with /sbin/iptables",
        "2 d -> 127.0.0.1 11211/udp attempted with /sbin/iptables",
        "2 d -> 192.0.2.1 50002/udp attempted with /sbin/iptables",
    ] {
        assert!(story(other).starts_with("firing"), "{other}");
    }
}
