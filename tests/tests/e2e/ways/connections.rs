//! TCP: every way to dial and to be dialled, and every way in which it comes to nothing.

use std::path::Path;

use serde_json::json;
use tests::agent::SWEPT;
use tests::traffic::{Protocol, edge, nameless};

use crate::ways::Family::{Mapped, V4, V6};
use crate::ways::{Row, Stand, row};

const SENT: usize = 100_000;

/// Every way with `--send` of [`SENT`] bytes.
const ESTABLISHED: &[Row] = &[
    row("tcp4", "tcp", "tcp --send 100000", V4),
    row("tcp6", "tcp", "tcp --send 100000", V6),
    row("mapped", "tcp", "tcp --send 100000", Mapped),
    row("multipath", "multipath", "multipath --send 100000", V4),
    row("multipath6", "multipath", "multipath --send 100000", V6),
    row("multipath-to-plain", "tcp", "multipath --send 100000", V4),
    row("plain-to-multipath", "multipath", "tcp --send 100000", V4),
    row("ring", "tcp", "ring --send 100000", V4),
    row("ring6", "tcp", "ring --send 100000", V6),
    row("polled-ring", "tcp", "polled-ring --send 100000", V4),
    row("polled-ring6", "tcp", "polled-ring --send 100000", V6),
];

#[test]
fn every_way_to_dial_is_one_edge_with_its_bytes() {
    let mut stand = Stand::new();
    for row in ESTABLISHED {
        let (_, view) = stand.play(row, "established");
        carried(&stand, &view["edge"], row.name, 1);
    }
    let multipath = stand.wire.client.counted("MPCapableSYNACKRX");
    assert_eq!(multipath, 2, "both ends spoke multipath as often as they were to");
    stand.told_no_more();
}

/// Waits until the evidence of an edge is that of so many dials.
#[track_caller]
fn carried(stand: &Stand, edge: &serde_json::Value, name: &str, dials: usize) {
    let edge = tests::receiver::edge_of(&json!({ "edge": edge }));
    let answer = format!("got {SENT}\n").len();
    let expected = json!([dials, 0, dials * SENT, dials * answer]);
    stand.agent.shows(&edge, SWEPT, |view| {
        let keys = ["connections", "failures", "bytes_to_server", "bytes_to_client"];
        let found = serde_json::Value::from_iter(keys.map(|it| view["evidence"][it].clone()));
        let fits = found == expected;
        assert!(fits || view["evidence"]["connections"].as_u64() <= Some(dials as u64), "{name}");
        fits
    });
}

#[test]
fn a_dial_that_sends_with_its_first_segment_is_seen_like_any_other() {
    // The client asks for a cookie, then brings it; or neither end wants one.
    for (client, server) in [("1", "2"), ("5", "514")] {
        let mut stand = Stand::new();
        stand.wire.client.set("ipv4/tcp_fastopen", client);
        stand.wire.server.set("ipv4/tcp_fastopen", server);
        let rows = [
            row("send", "fast-open", "fast-open-send --send 100000 --count 2", V4),
            row("send6", "fast-open", "fast-open-send --send 100000 --count 2", V6),
            row("connect", "fast-open", "fast-open-connect --send 100000 --count 2", V4),
            row("connect6", "fast-open", "fast-open-connect --send 100000 --count 2", V6),
        ];
        for row in &rows {
            let (_, view) = stand.play(row, "established");
            carried(&stand, &view["edge"], row.name, 2);
        }
        // Cookies are kept by address: each family's first dial fetches one where they are wanted.
        let early = if client == "1" { 6 } else { 8 };
        assert_eq!(stand.wire.client.counted("TCPFastOpenActive"), early);
        assert_eq!(stand.wire.server.counted("TCPFastOpenPassive"), early);
        stand.told_no_more();
    }
}

#[test]
fn refused_is_refused_in_every_way() {
    let mut stand = Stand::new();
    // Without a cookie the first segment goes out with the first byte.
    stand.wire.client.set("ipv4/tcp_fastopen", "5");
    let ways = ["tcp", "fast-open-send", "fast-open-connect", "multipath", "ring", "polled-ring"];
    for (way, family) in ways.iter().flat_map(|way| [V4, V6, Mapped].map(|it| (way, it))) {
        let at = stand.fresh(family);
        let web = stand.lab.service(&format!("{way}-{family:?}").to_lowercase());
        let mut dialler = stand.lab.dialler(&web, &stand.wire.client);
        let seen_as = crate::ways::seen_as(at, family);
        dialler.dials(&format!("{way} {seen_as} --send 10"), "refused");
        let edge = edge(&web, &nameless(at.ip()), at.port(), Protocol::Tcp);
        stand.clients_word(&web, edge, "refused");
    }
    stand.told_no_more();
}

#[test]
fn a_dial_that_nobody_answers_says_how_it_ended() {
    let mut stand = Stand::new();
    let (client, server) = (&stand.wire.client, &stand.wire.server);
    client.set("ipv4/tcp_syn_retries", "1");
    if Path::new("/proc/sys/net/ipv4/tcp_syn_linear_timeouts").exists() {
        client.set("ipv4/tcp_syn_linear_timeouts", "0");
    }
    // The server's end says of these that nobody is there, of others nothing; and to some the
    // client itself knows no way.
    server.set("ipv4/ip_forward", "1");
    server.set("ipv6/conf/all/forwarding", "1");
    server.ip("route add unreachable 10.62.1.0/24\nroute add blackhole 10.62.2.0/24\n");
    server.ip("route add unreachable fd00:e4:ffff:1::/64\n");
    server.ip("route add blackhole fd00:e4:ffff:2::/64\n");
    client.ip(&format!("route add 10.62.0.0/22 via {}\n", server.v4));
    client.ip(&format!("route add fd00:e4:ffff::/60 via {}\n", server.v6));
    client.ip("route add unreachable 10.62.3.0/24\nroute add unreachable fd00:e4:ffff:3::/64\n");
    for (name, to, came_to, outcome) in [
        ("told", "10.62.1.1", "unreachable", "unreachable"),
        ("told6", "fd00:e4:ffff:1::1", "unreachable", "unreachable"),
        ("silent", "10.62.2.1", "timed-out", "timed-out"),
        ("silent6", "fd00:e4:ffff:2::1", "timed-out", "timed-out"),
        ("no-way", "10.62.3.1", "unreachable", "attempted"),
        ("no-way6", "fd00:e4:ffff:3::1", "unreachable", "attempted"),
    ] {
        let web = stand.lab.service(name);
        let to = std::net::SocketAddr::new(to.parse().expect("an address"), 80);
        let mut dialler = stand.lab.dialler(&web, &stand.wire.client);
        dialler.dials(&format!("tcp {to}"), came_to);
        let edge = edge(&web, &nameless(to.ip()), 80, Protocol::Tcp);
        stand.clients_word(&web, edge, outcome);
    }
    stand.told_no_more();
}
