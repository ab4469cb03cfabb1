//! Names that are asked for at an address which is another's on the way, as containers and pods do.

use std::net::SocketAddr;

use crate::names::{Stand, edge, resolves};

#[test]
fn a_name_is_known_whose_resolver_is_dialled_at_another_address() {
    let mut stand = Stand::new();
    let (server, client) = (&stand.wire.server, &stand.wire.client);
    let at = SocketAddr::new(server.v4, 5353);
    let service = stand.lab.service("behind");
    let _behind = stand.lab.resolver(&service, server, at, &["api.test=203.0.113.1"]);
    let dialled: SocketAddr = "198.51.100.53:53".parse().expect("an address");
    client.ip(&format!("route add {}/32 via {}", dialled.ip(), server.v4));
    // Both its ends are changed, as by Docker's own resolver.
    client.run(&format!(
        "nft add table ip t
         nft 'add chain ip t out {{ type nat hook output priority -100; }}'
         nft 'add chain ip t post {{ type nat hook postrouting priority 100; }}'
         nft add rule ip t out ip daddr {to} udp dport 53 dnat to {at}
         nft add rule ip t out ip daddr {to} tcp dport 53 dnat to {at}
         nft add rule ip t post ip daddr {real} udp dport 5353 masquerade fully-random
         nft add rule ip t post ip daddr {real} tcp dport 5353 masquerade fully-random",
        to = dialled.ip(),
        real = at.ip(),
    ));
    stand.web.does(&format!("ask udp {dialled} first.test"), "answered");
    stand.hears(1);
    for way in ["udp", "udp-connected", "tcp"] {
        resolves(&mut stand.web, (way, dialled), "api.test", "203.0.113.1");
        stand.agent.sees(&edge(&stand.web.service, "dns:api.test"));
    }
    assert_eq!(stand.agent.lost("unasked"), 0);
}
