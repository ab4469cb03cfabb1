//! Sockets that one opened and another uses: both are told.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use rustix::process::Signal;
use tests::agent::{Agent, SOON, SWEPT, Setup};
use tests::eventually;
use tests::lab::Service;
use tests::receiver::edge_of;
use tests::traffic::{Dialler, Protocol, edge, nameless};

use crate::lab;

#[test]
fn a_socket_that_changed_hands_is_told_with_who_opened_it() {
    let lab = lab();
    let wire = lab.wire();
    let (web, job, api) = (lab.service("web"), lab.service("job"), lab.service("api"));
    let at = |port| SocketAddr::new(wire.server.v4, port);
    let serve = |port| lab.serve(&api, &wire.server, Protocol::Tcp, at(port));
    let (own, moved, handed) = (serve(80), serve(81), serve(82));
    let agent = lab.agent("agent", &Setup::mode("learn").within(&lab, ""));
    lab.dialler(&job, &wire.client).reaches(&own);
    let view = agent.sees(&own.edge_from(&job));
    assert!(view["evidence"]["opened_by"].is_null(), "{view}");
    agent.guards(&[&job]);

    let place = job.cgroup.display();
    for (way, server, said) in [("moved", &moved, "moved"), ("handed", &handed, "used")] {
        let mut opener = lab.dialler(&web, &wire.client);
        opener.does(&format!("{way} {place} {}", server.address), said);
        let used = edge(&job, &api.name, server.address.port(), Protocol::Tcp);
        let opened = |it: &serde_json::Value| it["evidence"]["opened_by"] == web.name.as_str();
        let view = agent.shows(&used, SOON, opened);
        assert_eq!(view["seen_from"], "both", "{view}");
        let text = format!("the socket was opened by {} and is used by {}", web.name, job.name);
        eventually(SOON, &text, || {
            let alerts = agent.json(&["alerts"]).to_string();
            if alerts.contains(&text) { Ok(()) } else { Err(alerts) }
        });
    }
}

#[test]
fn in_full_detail_it_is_told_although_the_socket_is_gone() {
    let lab = lab();
    let wire = lab.wire();
    let (web, job, api) = (lab.service("web"), lab.service("job"), lab.service("api"));
    let at = |port| SocketAddr::new(wire.server.v4, port);
    let agent = lab.agent("agent", &Setup::mode("learn").within(&lab, "detail = \"full\"\n"));
    // Newer than the agent, which may not look for older ones wherever this runs.
    let stream = lab.serve(&api, &wire.server, Protocol::Tcp, at(81));
    let mut opener = lab.dialler(&web, &wire.client);
    let place = job.cgroup.display();
    // Nobody can ask about a socket that is closed before the agent hears of it.
    agent.stop();
    opener.does(&format!("handed {place} {}", stream.address), "used");
    opener.does(&format!("handed-udp {place} {}", at(82)), "used");
    opener.does("release", "released");
    opener.dials(&format!("tcp {}", stream.address), "established");
    agent.signal(Signal::CONT);
    let datagrams = edge(&job, &nameless(wire.server.v4), 82, Protocol::Udp);
    for used in [stream.edge_from(&job), datagrams] {
        agent.shows(&used, SOON, |it| it["evidence"]["opened_by"] == web.name.as_str());
    }
    // Who uses a socket of its own is no stranger to it.
    let view = agent.sees(&stream.edge_from(&web));
    assert!(view["evidence"]["opened_by"].is_null(), "{view}");
}

/// Dials until it is told that `server` serves at a socket of `opener`.
#[track_caller]
fn serves(agent: &Agent, dialler: &mut Dialler, at: SocketAddr, [opener, server]: [&Service; 2]) {
    let used = edge(&dialler.service, &server.name, at.port(), Protocol::Tcp);
    let text = format!("the socket was opened by {} and is used by {}", opener.name, server.name);
    eventually(SWEPT, &used, || {
        dialler.dials(&format!("tcp {at}"), "established");
        let map = agent.json(&["map"]);
        let view = map.as_array().into_iter().flatten().find(|it| edge_of(it) == used);
        let view = view.ok_or_else(|| map.to_string())?;
        assert_eq!(view["evidence"]["opened_by"], opener.name.as_str(), "{view}");
        let alerts = agent.json(&["alerts"]).to_string();
        if alerts.contains(&text) { Ok(()) } else { Err(alerts) }
    });
}

#[test]
fn a_server_that_moves_once_it_listens_is_told_where_it_is() {
    let lab = lab();
    let here = lab.alone();
    let (api, job, web) = (lab.service("api"), lab.service("job"), lab.service("web"));
    let agent = lab.agent("agent", &Setup::mode("learn").within(&lab, ""));
    let server = lab.serve(&api, &here, Protocol::Tcp, SocketAddr::new(here.v4, 80));
    fs::write(job.cgroup.join("cgroup.procs"), server.pid().to_string()).expect("it may move");
    let mut dialler = lab.dialler(&web, &here);
    dialler.reaches(&server);
    agent.sees(&server.edge_from(&web));
    agent.guards(&[&web]);
    serves(&agent, &mut dialler, server.address, [&api, &job]);
}

#[test]
fn what_a_manager_listens_for_is_told_with_who_serves_there() {
    let lab = lab();
    let here = lab.alone();
    let (manager, web) = (lab.service("manager"), lab.service("web"));
    let at = SocketAddr::new(here.v4, 80);
    let agent = lab.agent("agent", &Setup::mode("learn").within(&lab, ""));
    let mut opener = lab.dialler(&manager, &here);
    let mut dialler = lab.dialler(&web, &here);
    opener.does(&format!("manager listen {at}"), "listens");
    // What it is started for is accepted before it is there: by nobody else than the manager.
    dialler.begins(&format!("tcp {at}"));
    let view = agent.sees(&edge(&web, &manager.name, 80, Protocol::Tcp));
    assert!(view["evidence"]["opened_by"].is_null(), "{view}");
    agent.guards(&[&web]);
    let start = |cgroup: &Path| format!("manager start {}", cgroup.display());
    let api = lab.service("api");
    opener.does(&start(&api.cgroup), "started");
    dialler.ends("established");
    serves(&agent, &mut dialler, at, [&manager, &api]);
    // The next one is another.
    opener.does("manager end", "ended");
    eventually(SOON, "its cgroup is empty", || {
        fs::remove_dir(&api.cgroup).map_err(|error| error.to_string())
    });
    let next = lab.service("next");
    opener.does(&start(&next.cgroup), "started");
    serves(&agent, &mut dialler, at, [&manager, &next]);
}
