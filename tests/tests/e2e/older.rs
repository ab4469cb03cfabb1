//! Sockets that were there before the agent: whose they are, who is at the other end, and how long it
//! takes to look at very many of them.

use std::net::SocketAddr;

use rustix::process::Signal;
use tests::agent::{SOON, SWEPT, Setup};
use tests::eventually;
use tests::lab::Lab;
use tests::traffic::{Protocol, edge, nameless};

use crate::lab;

fn setup(lab: &Lab) -> Setup {
    Setup::mode("learn").within(lab, "")
}

#[test]
fn a_connection_older_than_the_agent_is_an_edge_with_both_ends() {
    let lab = lab();
    let wire = lab.wire();
    let (web, api) = (lab.service("web"), lab.service("api"));
    let at = SocketAddr::new(wire.server.v4, 80);
    let server = lab.serve(&api, &wire.server, Protocol::Tcp, at);
    let mut dialler = lab.dialler(&web, &wire.client);
    dialler.does(&format!("hold {at} 5"), "held");
    let six = lab.serve(&api, &wire.server, Protocol::Tcp, SocketAddr::new(wire.server.v6, 81));
    dialler.does(&format!("hold {} 1", six.address), "held");
    // Nobody answers there: it is still being dialled.
    let silence = SocketAddr::new("10.63.255.1".parse().expect("an address"), 7);
    let mut waiting = lab.dialler(&lab.service("cron"), &wire.client);
    waiting.begins(&format!("tcp {silence}"));

    let agent = lab.agent("agent", &setup(&lab));
    let view = agent.shows(&server.edge_from(&web), SOON, |view| view["seen_from"] == "both");
    assert_eq!(view["outcome"], "established");
    assert_eq!(view["evidence"]["executables"][0], dialler.executable.as_str(), "{view}");
    agent.shows(&server.edge_from(&web), SWEPT, |view| view["evidence"]["connections"] == 5);
    agent.shows(&six.edge_from(&web), SOON, |view| view["seen_from"] == "both");
    let dialled = edge(&waiting.service, &nameless(silence.ip()), silence.port(), Protocol::Tcp);
    assert_eq!(agent.sees(&dialled)["outcome"], "attempted");
    agent.has_only(&web, &[server.edge_from(&web), six.edge_from(&web)]);
}

#[test]
fn what_was_dialled_while_nobody_looked_is_told_as_such() {
    let lab = lab();
    let here = lab.alone();
    let (web, api, db) = (lab.service("web"), lab.service("api"), lab.service("db"));
    let known = lab.serve(&api, &here, Protocol::Tcp, SocketAddr::new(here.v4, 80));
    let other = lab.serve(&db, &here, Protocol::Tcp, SocketAddr::new(here.v4, 5432));
    let mut dialler = lab.dialler(&web, &here);
    let mut agent = lab.agent("agent", &setup(&lab));
    dialler.reaches(&known);
    agent.sees(&known.edge_from(&web));
    agent.guards(&[&web]);
    assert_eq!(agent.end(Signal::TERM).code(), Some(0));
    dialler.does(&format!("hold {} 2", other.address), "held");
    dialler.does(&format!("hold {} 2", known.address), "held");
    agent.start();
    let finding = eventually(SOON, "the finding", || {
        let alerts = agent.json(&["alerts"]);
        let findings = alerts.as_array().into_iter().flatten();
        let mut findings = findings.filter_map(|it| it["findings"].as_array().cloned()).flatten();
        let found = findings.find(|it| it["kind"] == "new-peer");
        found.ok_or_else(|| alerts.to_string())
    });
    assert_eq!(finding["edge"]["server"], db.name.as_str(), "{finding}");
    let reasons = finding["reasons"].to_string();
    assert!(reasons.contains("it was connected before the agent started"), "{reasons}");
    assert_eq!(agent.json(&["status"])["pending"], 1);
}

#[test]
fn a_namespace_that_is_only_mounted_is_looked_into() {
    let lab = lab();
    let here = lab.alone();
    let web = lab.service("web");
    let mut dialler = lab.dialler(&web, &here);
    dialler.does(&format!("crowd {}:80 3", here.v4), "crowded");
    // From then on no process is in it: what it opened there stays with it.
    dialler.does("leave", "left");
    let agent = lab.agent("agent", &setup(&lab));
    let own = edge(&web, &web.name, 80, Protocol::Tcp);
    agent.shows(&own, SOON, |view| view["seen_from"] == "both");
    agent.shows(&own, SWEPT, |view| view["evidence"]["connections"] == 3);
}

/// Listeners, each with so many connections of which both ends are here.
const CROWDS: u16 = 5;
const EACH: usize = 10_000;

#[test]
fn a_hundred_thousand_sockets_are_taken_in_at_once() {
    let lab = lab();
    let here = lab.alone();
    here.set("core/somaxconn", "65535");
    here.set("ipv4/tcp_max_syn_backlog", "65535");
    let mut crowds = Vec::new();
    for number in 0..CROWDS {
        let service = lab.service(&format!("crowd{number}"));
        let mut dialler = lab.dialler(&service, &here);
        dialler.begin_order(&format!("crowd {}:{} {EACH}", here.v4, 7_000 + number));
        crowds.push(dialler);
    }
    crowds.iter_mut().for_each(|it| it.ends("crowded"));
    let agent = lab.agent("agent", &setup(&lab));
    let said = agent.said();
    let figure = |name: &str| -> u64 {
        let after = said.split_once(&format!("{name}=")).map_or("", |(_, after)| after);
        let digits = after.split(|it: char| !it.is_ascii_digit()).next().unwrap_or_default();
        digits.parse().unwrap_or_else(|error| panic!("{name}: {error}: {said}"))
    };
    let all = 2 * u64::from(CROWDS) * EACH as u64;
    assert!(figure("connections") >= all, "{said}");
    // Five times a second.
    assert!(figure("took_ms") < 5_000, "{said}");
    for (number, crowd) in crowds.iter().enumerate() {
        let name = &crowd.service.name;
        let own =
            edge(&crowd.service, name, 7_000 + u16::try_from(number).expect("few"), Protocol::Tcp);
        agent.shows(&own, SWEPT, |view| view["evidence"]["connections"] == EACH as u64);
    }
}
