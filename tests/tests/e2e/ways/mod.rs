//! Every way of talking that the hooks can show: seen, blamed on the right cgroup, with the right
//! outcome; nothing else is told, and nothing is lost. Tools that others wrote are in `tools`.

mod connections;
mod datagrams;
mod listeners;

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use tests::agent::{Agent, SOON, Setup};
use tests::lab::{Lab, Service, Wire};
use tests::traffic::Server;

use crate::lab;

/// The stand: an agent that watches the lab's cgroups alone and notes all there is of them.
struct Stand {
    agent: Agent,
    /// The edges of each service so far.
    told: Vec<(Service, String)>,
    next_port: u16,
    wire: Wire,
    lab: Lab,
}

/// Which address of the server's end is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
    /// IPv4, from a socket of IPv6.
    Mapped,
}

/// A way to talk, and to whom.
struct Row {
    name: &'static str,
    /// A word of `peer serve`.
    serves: &'static str,
    /// A word of `peer dial`, and its options after it.
    dials: &'static str,
    family: Family,
}

const fn row(name: &'static str, serves: &'static str, dials: &'static str, family: Family) -> Row {
    Row { name, serves, dials, family }
}

impl Stand {
    #[track_caller]
    fn new() -> Self {
        let lab = lab();
        let wire = lab.wire();
        let agent = lab.agent("agent", &Setup::mode("learn").within(&lab, "detail = \"full\"\n"));
        Self { agent, told: Vec::new(), next_port: 7_000, wire, lab }
    }

    /// An address that nobody has had here.
    fn fresh(&mut self, family: Family) -> SocketAddr {
        self.next_port += 1;
        let ip = if family == Family::V6 { self.wire.server.v6 } else { self.wire.server.v4 };
        SocketAddr::new(ip, self.next_port)
    }

    /// Plays one row, between two services of its own; the client and the edge as the map has it.
    #[track_caller]
    fn play(&mut self, row: &Row, outcome: &str) -> (Service, Value) {
        let at = self.fresh(row.family);
        let api = self.lab.service(&format!("{}-server", row.name));
        let web = self.lab.service(&format!("{}-client", row.name));
        let server = self.lab.serve_in_a_way(&api, &self.wire.server, row.serves, at);
        let mut dialler = self.lab.dialler(&web, &self.wire.client);
        let (way, options) = row.dials.split_once(' ').unwrap_or((row.dials, ""));
        dialler.dials(&format!("{way} {} {options}", seen_as(at, row.family)), outcome);
        let view = self.both_ends(&server, &web, outcome);
        // Also by Fast Open, where it is accepted before its dialler knows that it is established.
        assert_eq!(view["evidence"]["executables"], json!([dialler.executable]), "{view:#}");
        (web, view)
    }

    /// Waits for the edge from `client` to `server`, told by both.
    #[track_caller]
    fn both_ends(&mut self, server: &Server, client: &Service, outcome: &str) -> Value {
        let edge = server.edge_from(client);
        let view = self.agent.shows(&edge, SOON, |view| view["seen_from"] == "both");
        assert_eq!(view["outcome"], outcome, "{edge}");
        self.told.push((client.clone(), edge.clone()));
        self.told.push((server.service.clone(), edge));
        view
    }

    /// Waits for an edge that its client alone tells.
    #[track_caller]
    fn clients_word(&mut self, client: &Service, edge: String, outcome: &str) -> Value {
        let view = self.agent.shows(&edge, SOON, |view| view["outcome"] == outcome);
        assert_eq!(view["seen_from"], "client", "{view:#}");
        self.told.push((client.clone(), edge));
        view
    }

    /// Checks that nothing else was told of any of them, and nothing lost.
    #[track_caller]
    fn told_no_more(&self) {
        self.told_no_more_but(&[]);
    }

    /// The same, but for what may be lost.
    #[track_caller]
    fn told_no_more_but(&self, losses: &[&str]) {
        for (service, _) in &self.told {
            let edges = self.told.iter().filter(|(of, _)| of.name == service.name);
            let edges: Vec<String> = edges.map(|(_, edge)| edge.clone()).collect();
            self.agent.has_only(service, &edges);
        }
        let status = self.agent.json(&["status"]);
        let lost = status["lost"].as_object().expect("it says what was lost");
        let whole =
            |(loss, count): (&String, &Value)| *count == 0 || losses.contains(&loss.as_str());
        assert!(lost.iter().all(whole), "{lost:#?}");
    }
}

/// The address as a socket of this family is given it.
fn seen_as(at: SocketAddr, family: Family) -> SocketAddr {
    match (at.ip(), family) {
        (IpAddr::V4(v4), Family::Mapped) => SocketAddr::new(v4.to_ipv6_mapped().into(), at.port()),
        _ => at,
    }
}
