//! Who listens: seen when it begins, in whatever way, and right about who accepts.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use tests::agent::{SOON, SWEPT};
use tests::eventually;
use tests::process::Running;

use crate::lab;
use crate::ways::Family::V4;
use crate::ways::Stand;

/// Ways to come to listen, on both families; the first two are bound to no port before.
const WAYS: [&str; 4] = ["unbound", "no-port-at-bind", "fast-open", "multipath"];

fn any(ip: IpAddr) -> SocketAddr {
    let any =
        if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(any, 0)
}

/// Whether kernel programs are told who begins to listen; up to 6.1 that is looked up once somebody
/// was accepted in vain.
fn who_listens_is_told() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("every kernel says it");
    let numbers: Vec<u32> = release.split(['.', '-']).map_while(|it| it.parse().ok()).collect();
    numbers.as_slice() >= &[6, 2][..]
}

#[test]
fn however_a_socket_came_to_listen_its_owner_accepts() {
    let mut stand = Stand::new();
    let both = [stand.wire.server.v4, stand.wire.server.v6];
    for (way, ip) in WAYS.iter().flat_map(|way| both.map(|ip| (way, ip))) {
        let family = if ip.is_ipv4() { "4" } else { "6" };
        let api = stand.lab.service(&format!("{way}{family}-server"));
        let web = stand.lab.service(&format!("{way}{family}"));
        let mut server = stand.lab.serve_in_a_way(&api, &stand.wire.server, way, any(ip));
        server.address.set_ip(ip);
        let mut dialler = stand.lab.dialler(&web, &stand.wire.client);
        dialler.reaches(&server);
        if !who_listens_is_told() && WAYS[..2].contains(way) {
            let edge = server.edge_from(&web);
            eventually(SWEPT, &edge, || {
                dialler.reaches(&server);
                stand.agent.mapped(&edge)
            });
            continue;
        }
        stand.both_ends(&server, &web, "established");
    }
    stand.told_no_more_but(if who_listens_is_told() { &[] } else { &["unattributed"] });
}

#[test]
fn however_a_socket_came_to_listen_it_is_told() {
    let lab = lab();
    let wire = lab.wire();
    let mut watch = Running::start(&mut lab.looks(&["watch", "--format", "json"]));
    let mut told: Vec<Value> = Vec::new();
    let mut tells = |socket: Value, patience: Duration| {
        eventually(patience, &socket.to_string(), || {
            while let Some(line) = watch.line_within(Duration::from_millis(50)) {
                told.push(serde_json::from_str(&line).expect("one document a line"));
            }
            let found = told.iter().find(|it| it["socket"] == socket).cloned();
            found.ok_or_else(|| format!("{told:#?}"))
        })
    };
    // What listened before is told once all is attached.
    let at = SocketAddr::new(wire.server.v4, 7_000);
    let early = lab.service("early");
    let _early = lab.serve_in_a_way(&early, &wire.server, "tcp", at);
    tells(json!({"service": early.name, "listens": "7000/tcp"}), 2 * SOON);
    // Those of which the kernel does not say whose they are wait for somebody to be accepted there.
    let ways = if who_listens_is_told() { &WAYS[..] } else { &WAYS[2..] };
    let both = [wire.server.v4, wire.server.v6];
    let mut servers = Vec::new();
    for (way, ip) in ways.iter().chain(&["tcp"]).flat_map(|way| both.map(|ip| (way, ip))) {
        let family = if ip.is_ipv4() { "4" } else { "6" };
        let api = lab.service(&format!("{way}{family}"));
        let server = lab.serve_in_a_way(&api, &wire.server, way, any(ip));
        let listens = format!("{}/tcp", server.address.port());
        let line = tells(json!({"service": api.name, "listens": listens}), SOON);
        assert_eq!(line["process"]["pid"], server.pid(), "{line:#}");
        servers.push(server);
    }
    // Each of those that share a port.
    for name in ["one", "other"] {
        let service = lab.service(name);
        let at = SocketAddr::new(wire.server.v6, 7_001);
        servers.push(lab.serve_in_a_way(&service, &wire.server, "shared", at));
        tells(json!({"service": service.name, "listens": "7001/tcp"}), SOON);
    }
}

#[test]
fn a_listener_of_both_families_is_one_server() {
    let mut stand = Stand::new();
    let all = SocketAddr::new("::".parse().expect("an address"), stand.fresh(V4).port());
    let api = stand.lab.service("api");
    let server = stand.lab.serve_in_a_way(&api, &stand.wire.server, "tcp", all);
    for ip in [stand.wire.server.v4, stand.wire.server.v6] {
        let web = stand.lab.service(if ip.is_ipv4() { "v4" } else { "v6" });
        let at = SocketAddr::new(ip, all.port());
        stand.lab.dialler(&web, &stand.wire.client).tcp(at, "established");
        stand.both_ends(&server, &web, "established");
    }
    stand.told_no_more();
}

#[test]
fn two_cgroups_that_share_a_port_accept_each_for_itself() {
    let mut stand = Stand::new();
    for ip in [stand.wire.server.v4, stand.wire.server.v6] {
        let family = if ip.is_ipv4() { "4" } else { "6" };
        let at = SocketAddr::new(ip, stand.fresh(V4).port());
        let servers = ["one", "other"].map(|name| {
            let service = stand.lab.service(&format!("{name}{family}"));
            stand.lab.serve_in_a_way(&service, &stand.wire.server, "shared", at)
        });
        let web = stand.lab.service(&format!("web{family}"));
        // Which of the two accepts is the kernel's choice; that it is always the same one is less
        // likely than a machine that fails.
        let mut dialler = stand.lab.dialler(&web, &stand.wire.client);
        dialler.dials(&format!("tcp {at} --count 64"), "established");
        for server in &servers {
            stand.both_ends(server, &web, "established");
        }
    }
    stand.told_no_more();
}
