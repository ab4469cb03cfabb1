//! UDP: every way to send and to receive, who asked whom, and what the hooks cannot show.

use std::net::SocketAddr;

use tests::agent::{SOON, SWEPT};
use tests::lab::Wire;
use tests::receiver::edge_of;
use tests::traffic::{Protocol, edge, nameless};

use crate::ways::Family::{Mapped, V4, V6};
use crate::ways::{Row, Stand, row};

const ANSWERED: &[Row] = &[
    row("sendto", "udp", "udp", V4),
    row("sendto6", "udp", "udp", V6),
    row("sendto-mapped", "udp", "udp", Mapped),
    row("mixed", "udp", "mixed", V4),
    row("many", "udp", "many", V4),
    row("many6", "udp", "many", V6),
    row("many-received", "udp-many", "many", V4),
    row("many-received6", "udp-many", "many", V6),
    row("connected", "udp", "udp-connected", V4),
    row("connected6", "udp", "udp-connected", V6),
    row("connected-mapped", "udp", "udp-connected", Mapped),
    row("own-port", "udp", "from-port=6001", V4),
    row("own-port6", "udp", "from-port=6002", V6),
    row("answered-connected", "udp-connecting", "udp", V4),
    row("answered-connected6", "udp-connecting", "udp", V6),
];

#[test]
fn every_way_to_send_is_one_edge_and_its_answers_are_none() {
    let mut stand = Stand::new();
    let edges = ANSWERED.iter().map(|row| edge_of(&stand.play(row, "sent").1));
    for (row, edge) in ANSWERED.iter().zip(edges.collect::<Vec<_>>()) {
        let datagrams = match row.name {
            // IPv4 by a socket of IPv6 goes the way of datagrams with an address, connected or not.
            "connected-mapped" => 2,
            _ if row.dials == "many" => 3,
            _ => 1,
        };
        stand.agent.shows(&edge, SWEPT, |view| view["evidence"]["connections"] == datagrams);
    }
    stand.told_no_more();
}

#[test]
fn a_server_at_all_addresses_is_one_server_to_both_families() {
    let mut stand = Stand::new();
    for serves in ["udp", "udp-many", "udp-connecting"] {
        let api = stand.lab.service(&format!("{serves}-server"));
        let port = stand.fresh(V4).port();
        let all = SocketAddr::new("::".parse().expect("an address"), port);
        let server = stand.lab.serve_in_a_way(&api, &stand.wire.server, serves, all);
        for ip in [stand.wire.server.v4, stand.wire.server.v6] {
            let family = if ip.is_ipv4() { "v4" } else { "v6" };
            let web = stand.lab.service(&format!("{serves}-{family}"));
            let mut dialler = stand.lab.dialler(&web, &stand.wire.client);
            dialler.udp(SocketAddr::new(ip, port));
            stand.both_ends(&server, &web, "sent");
        }
    }
    stand.told_no_more();
}

#[test]
fn a_connected_socket_that_sends_elsewhere_has_two_peers() {
    let mut stand = Stand::new();
    for family in [V4, V6, Mapped] {
        let web = stand.lab.service(&format!("{family:?}").to_lowercase());
        let api = stand.lab.service(&format!("{family:?}-server").to_lowercase());
        let (there, elsewhere) = (stand.fresh(family), stand.fresh(family));
        let server = stand.lab.serve(&api, &stand.wire.server, Protocol::Udp, elsewhere);
        let mut dialler = stand.lab.dialler(&web, &stand.wire.client);
        let [seen_there, seen_elsewhere] =
            [there, elsewhere].map(|at| crate::ways::seen_as(at, family));
        dialler.dials(&format!("elsewhere={seen_there} {seen_elsewhere}"), "sent");
        stand.both_ends(&server, &web, "sent");
        let edge = edge(&web, &nameless(there.ip()), there.port(), Protocol::Udp);
        stand.clients_word(&web, edge, "attempted");
    }
    stand.told_no_more();
}

#[test]
fn who_never_asks_who_sent_is_known_by_address() {
    let mut stand = Stand::new();
    for family in [V4, V6] {
        let web = stand.lab.service(&format!("{family:?}").to_lowercase());
        let api = stand.lab.service(&format!("{family:?}-server").to_lowercase());
        let at = stand.fresh(family);
        let _server = stand.lab.serve_in_a_way(&api, &stand.wire.server, "udp-deaf", at);
        stand.lab.dialler(&web, &stand.wire.client).dials(&format!("datagram {at}"), "sent");
        stand.clients_word(&web, edge(&web, &nameless(at.ip()), at.port(), Protocol::Udp), "sent");
        stand.agent.has_only(&api, &[]);
    }
    stand.told_no_more();
}

/// Addresses of the Internet: of the wire's client end, as the server's reaches it.
const WORLD: [&str; 2] = ["198.51.100.7", "2001:db8:e4::7"];

/// Gives the wire's client end its addresses of the Internet.
#[track_caller]
fn opened(wire: &Wire) {
    let (client, server) = (&wire.client, &wire.server);
    let [v4, v6] = WORLD;
    client.ip(&format!("addr add {v4}/24 dev wire\naddr add {v6}/64 dev wire nodad\n"));
    server.ip(&format!("route add 198.51.100.0/24 via {}\n", client.v4));
    server.ip(&format!("route add 2001:db8:e4::/64 via {}\n", client.v6));
}

#[test]
fn only_who_asked_is_answered() {
    let mut stand = Stand::new();
    opened(&stand.wire);
    let [inside4, inside6] = [stand.wire.client.v4, stand.wire.client.v6].map(|it| it.to_string());
    for (name, asks, elsewhere) in [
        ("world", WORLD[0], "198.51.100.9"),
        ("world6", WORLD[1], "2001:db8:e4::9"),
        ("inside", inside4.as_str(), WORLD[0]),
        ("inside6", inside6.as_str(), WORLD[1]),
    ] {
        let asks = asks.parse().expect("an address");
        let asker = SocketAddr::new(asks, 4_000);
        let family = if asks.is_ipv4() { V4 } else { V6 };
        let at = stand.fresh(family);
        let api = stand.lab.service(name);
        let server = stand.lab.serve_in_a_way(&api, &stand.wire.server, "udp-hijacked", at);
        // An answer to whom asked; and then to another port of it, and to another address, with
        // the words of a client.
        let elsewhere = SocketAddr::new(elsewhere.parse().expect("an address"), 4_444);
        for to in [asker, SocketAddr::new(asks, 4_444), elsewhere] {
            stand.lab.outsider(&stand.wire.client, &format!("saying={asker},{to} {at}"), "sent");
        }
        let client = if name.starts_with("world") { "world".to_owned() } else { nameless(asks) };
        let inbound = format!("{client} -> {} {}/udp", server.service.name, at.port());
        let view = stand.agent.shows(&inbound, SOON, |view| view["outcome"] == "sent");
        assert_eq!(view["seen_from"], "server", "{view:#}");
        stand.told.push((api.clone(), inbound));
        for to in [asks, elsewhere.ip()] {
            stand.clients_word(&api, edge(&api, &nameless(to), 4_444, Protocol::Udp), "sent");
        }
    }
    stand.told_no_more();
}
