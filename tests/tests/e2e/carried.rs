//! What connections carried, as three count it who know nothing of each other: the sockets (`ss`), the
//! interface that all of it went through, and the evidence of the edge; also where the connections
//! outlive the agent, or are older than it.

use std::net::{IpAddr, SocketAddr};

use rustix::process::Signal;
use serde_json::Value;
use tests::agent::{Agent, SWEPT, Setup};
use tests::lab::{Lab, Namespace};
use tests::traffic::{Dialler, Protocol, Server, nameless};
use tests::ways::ORDER_BYTES;

use crate::lab;

/// Payload to a server and from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Carried {
    to_server: u64,
    to_client: u64,
}

impl Carried {
    /// Within one in a hundred.
    fn is_about(self, other: Self) -> bool {
        let about = |one: u64, two: u64| one.abs_diff(two) * 100 <= one.max(two);
        about(self.to_server, other.to_server) && about(self.to_client, other.to_client)
    }

    /// Of the connections of `namespace` to `server`, as the kernel counts them there.
    #[track_caller]
    fn by_sockets(namespace: &Namespace, server: SocketAddr) -> (usize, Self) {
        let said =
            namespace.run(&format!("ss -tinHO state established dport = :{}", server.port()));
        let sum = |name: &str| -> u64 {
            let words = said.split_whitespace().filter_map(|it| it.strip_prefix(name));
            words.map(|it| it.parse::<u64>().expect("a number")).sum()
        };
        let carried = Self { to_server: sum("bytes_acked:"), to_client: sum("bytes_received:") };
        (said.lines().count(), carried)
    }

    /// Of all that went through the wire's end in `namespace`, without the headers.
    #[track_caller]
    fn by_interface(namespace: &Namespace, headers: u64) -> Self {
        let said = namespace.run("cat /proc/net/dev");
        let line = said.lines().find_map(|it| it.trim().strip_prefix("wire:"));
        let counts = line.expect("it is there").split_whitespace().map(|it| it.parse::<u64>());
        let counts: Vec<u64> = counts.collect::<Result<_, _>>().expect("numbers");
        let [received, received_packets, .., sent, sent_packets, _, _, _, _, _, _] = counts[..]
        else {
            panic!("{said}");
        };
        Self {
            to_server: sent - sent_packets * headers,
            to_client: received - received_packets * headers,
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            to_server: self.to_server - before.to_server,
            to_client: self.to_client - before.to_client,
        }
    }

    fn of(view: &Value) -> Self {
        let count = |name: &str| view["evidence"][name].as_u64().unwrap_or(0);
        Self { to_server: count("bytes_to_server"), to_client: count("bytes_to_client") }
    }

    /// After so many exchanges of `says` and `hears` on each of so many connections.
    fn after(exchanges: u64, says: u64, hears: u64) -> Self {
        Self { to_server: exchanges * (says + ORDER_BYTES), to_client: exchanges * hears }
    }
}

/// Waits until the edge says that so many connections carried this, and never more.
#[track_caller]
fn says(agent: &Agent, edge: &str, connections: u64, carried: Carried) {
    let view = agent.shows(edge, SWEPT, |view| {
        let said = Carried::of(view);
        let more = |one: u64, two: u64| assert!(one <= two, "{one} and not {two}: {view:#}");
        more(said.to_server, carried.to_server);
        more(said.to_client, carried.to_client);
        more(view["evidence"]["connections"].as_u64().unwrap_or(0), connections);
        said == carried && view["evidence"]["connections"] == connections
    });
    assert_eq!(view["outcome"], "established", "{view:#}");
}

#[track_caller]
fn serve(lab: &Lab, at: (&Namespace, IpAddr)) -> Server {
    let (namespace, ip) = at;
    let api = lab.service(if ip.is_ipv4() { "api" } else { "api6" });
    lab.serve_in_a_way(&api, namespace, "exchanges", SocketAddr::new(ip, 8080))
}

#[test]
fn an_edge_says_what_its_sockets_and_the_wire_say() {
    const CONNECTIONS: u64 = 4;
    const SAYS: u64 = 3_000_000;
    const HEARS: u64 = 5_000_000;
    // Of Ethernet, of IP, and of TCP with its times.
    const HEADERS: [u64; 2] = [14 + 20 + 32, 14 + 40 + 32];
    let lab = lab();
    let wire = lab.wire();
    let agent = lab.agent("agent", &Setup::mode("learn").within(&lab, "detail = \"full\"\n"));
    let mut dialler = lab.dialler(&lab.service("web"), &wire.client);
    for (ip, headers) in [wire.server.v4, wire.server.v6].into_iter().zip(HEADERS) {
        let server = serve(&lab, (&wire.server, ip));
        let before = Carried::by_interface(&wire.client, headers);
        dialler.does(&format!("hold {} {CONNECTIONS}", server.address), "held");
        dialler.does(&format!("exchange {SAYS} {HEARS}"), "exchanged");
        let (sockets, by_sockets) = Carried::by_sockets(&wire.client, server.address);
        let by_wire = Carried::by_interface(&wire.client, headers).since(before);
        dialler.does("release", "released");

        let carried = Carried::after(CONNECTIONS, SAYS, HEARS);
        says(&agent, &server.edge_from(&dialler.service), sockets as u64, carried);
        assert!(by_sockets.is_about(carried), "{carried:?}, and {by_sockets:?} by sockets");
        assert!(by_wire.is_about(carried), "{carried:?}, and {by_wire:?} by the wire");
    }
}

#[test]
fn who_is_dialled_from_elsewhere_says_so_too() {
    const SENT: u64 = 2_000_000;
    let lab = lab();
    let wire = lab.wire();
    let agent = lab.agent("agent", &Setup::mode("learn").within(&lab, ""));
    let at = SocketAddr::new(wire.server.v4, 8080);
    let server = lab.serve(&lab.service("api"), &wire.server, Protocol::Tcp, at);
    lab.outsider(&wire.client, &format!("tcp {at} --count 3 --send {SENT}"), "established");
    let inbound = format!("{} -> {} 8080/tcp", nameless(wire.client.v4), server.service.name);
    let answered = 3 * tests::ways::answer(2_000_000).len() as u64;
    says(&agent, &inbound, 3, Carried { to_server: 3 * SENT, to_client: answered });
}

/// One who keeps connections and one who closes them while nobody looks.
#[track_caller]
fn two(lab: &Lab, from: &Namespace) -> [Dialler; 2] {
    let web = lab.service("web");
    [lab.dialler(&web, from), lab.dialler(&web, from)]
}

#[test]
fn what_connections_carry_that_outlive_the_agent_is_counted_once() {
    const SAYS: u64 = 300_000;
    const HEARS: u64 = 200_000;
    let lab = lab();
    let (bpffs, wire) = (lab.bpffs(), lab.wire());
    let setup = Setup::mode("learn").within(&lab, "detail = \"full\"\n").pinned(&bpffs.pins());
    let mut agent = lab.agent("agent", &setup);
    let server = serve(&lab, (&wire.server, wire.server.v4));
    let to = server.address;
    let [mut keeps, mut closes] = two(&lab, &wire.client);
    let edge = server.edge_from(&keeps.service);
    let exchange = |dialler: &mut Dialler| {
        dialler.does(&format!("exchange {SAYS} {HEARS}"), "exchanged");
    };
    keeps.does(&format!("hold {to} 3"), "held");
    closes.does(&format!("hold {to} 2"), "held");
    exchange(&mut keeps);
    exchange(&mut closes);
    agent.sees(&edge);
    agent.kill();
    // Nobody looks: what is open goes on, what ends ends, what begins begins.
    exchange(&mut keeps);
    exchange(&mut closes);
    closes.does("release", "released");
    keeps.does(&format!("hold {to} 1"), "held");
    agent.start();
    says(&agent, &edge, 6, Carried::after(2 * 2, SAYS, HEARS));
    exchange(&mut keeps);
    assert_eq!(agent.end(Signal::TERM).code(), Some(0), "{}", agent.said());
    exchange(&mut keeps);
    agent.start();
    exchange(&mut keeps);
    let (sockets, by_sockets) = Carried::by_sockets(&wire.client, to);
    keeps.does("release", "released");
    // Two before the fourth was dialled, and three with it.
    let kept = Carried::after(2 * 3 + 3 * 4, SAYS, HEARS);
    assert_eq!(sockets, 4);
    assert!(by_sockets.is_about(kept), "{kept:?}, and {by_sockets:?} by sockets");
    says(&agent, &edge, 6, Carried::after(2 * 2 + 2 * 3 + 3 * 4, SAYS, HEARS));
    // The next sweep finds nothing more.
    says(&agent, &edge, 6, Carried::after(2 * 2 + 2 * 3 + 3 * 4, SAYS, HEARS));
}

#[test]
fn what_older_connections_carry_is_not_counted_and_no_loss() {
    let lab = lab();
    let wire = lab.wire();
    let server = serve(&lab, (&wire.server, wire.server.v4));
    let mut dialler = lab.dialler(&lab.service("web"), &wire.client);
    dialler.does(&format!("hold {} 2", server.address), "held");
    dialler.does("exchange 10000 10000", "exchanged");
    let agent = lab.agent("agent", &Setup::mode("learn").within(&lab, ""));
    dialler.does("exchange 10000 10000", "exchanged");
    dialler.does("release", "released");
    dialler.does(&format!("hold {} 1", server.address), "held");
    dialler.does("exchange 500 700", "exchanged");
    dialler.does("release", "released");
    says(&agent, &server.edge_from(&dialler.service), 3, Carried::after(1, 500, 700));
    assert_eq!(agent.json(&["status"])["lost"], serde_json::json!({}));
}
