//! The stand itself: without an agent, its traffic flows and nothing of it stays.

use std::net::SocketAddr;
use std::path::Path;

use tests::traffic::Protocol;

use crate::lab;

#[test]
fn namespaces_reach_each_other_and_nothing_stays() {
    let lab = lab();
    let (web, api) = (lab.service("web"), lab.service("api"));
    let wire = lab.wire();
    let mut dialler = lab.dialler(&web, &wire.client);
    for (address, protocol) in [
        (wire.server.v4, Protocol::Tcp),
        (wire.server.v6, Protocol::Tcp),
        (wire.server.v4, Protocol::Udp),
        (wire.server.v6, Protocol::Udp),
    ] {
        let server = lab.serve(&api, &wire.server, protocol, SocketAddr::new(address, 8080));
        dialler.reaches(&server);
        assert!(is_in(server.pid(), &api.cgroup));
    }
    dialler.dials(&format!("tcp {}", SocketAddr::new(wire.server.v4, 1)), "refused");
    assert!(is_in(dialler.pid(), &web.cgroup));

    let namespace = format!("/run/netns/{}", wire.client.name);
    assert!(Path::new(&namespace).exists());
    let directory = lab.path("");
    drop(lab);
    assert!(!Path::new(&namespace).exists());
    assert!(!web.cgroup.parent().unwrap().exists());
    assert!(!directory.exists());
    assert!(!dialler.runs(), "its cgroup was killed");
}

#[test]
fn a_cgroup_may_live_for_one_dial() {
    let lab = lab();
    let wire = lab.wire();
    let api = lab.service("api");
    let at = SocketAddr::new(wire.server.v6, 8080);
    let server = lab.serve(&api, &wire.server, Protocol::Tcp, at);
    let brief = lab.planned("brief");
    assert_eq!(lab.flash(&brief, &wire.client, server.address).done(), "established\n");
    assert!(!brief.cgroup.exists());
}

#[test]
fn silence_is_not_refusal() {
    let lab = lab();
    let wire = lab.wire();
    wire.client.set("ipv4/tcp_syn_retries", "1");
    let mut dialler = lab.dialler(&lab.service("web"), &wire.client);
    dialler.dials(&format!("tcp {}:80", tests::lab::SILENCE), "timed-out");
}

fn is_in(pid: u32, cgroup: &Path) -> bool {
    let members = std::fs::read_to_string(cgroup.join("cgroup.procs")).expect("it exists");
    members.lines().any(|line| line == pid.to_string())
}
