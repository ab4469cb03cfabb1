//! Who listens: seen when it begins, in whatever way, and right about who accepts.

use std::net::{IpAddr, SocketAddr};

use crate::ways::Family::V4;
use crate::ways::Stand;

#[test]
fn however_a_socket_came_to_listen_its_owner_accepts() {
    let mut stand = Stand::new();
    let zero = |ip: IpAddr| if ip.is_ipv4() { "0.0.0.0" } else { "::" };
    for (way, ip) in ["unbound", "no-port-at-bind", "fast-open", "multipath"]
        .iter()
        .flat_map(|way| [(way, stand.wire.server.v4), (way, stand.wire.server.v6)])
        .collect::<Vec<_>>()
    {
        let family = if ip.is_ipv4() { "4" } else { "6" };
        let api = stand.lab.service(&format!("{way}{family}-server"));
        let web = stand.lab.service(&format!("{way}{family}"));
        let any = SocketAddr::new(zero(ip).parse().expect("an address"), 0);
        let mut server = stand.lab.serve_in_a_way(&api, &stand.wire.server, way, any);
        server.address.set_ip(ip);
        stand.lab.dialler(&web, &stand.wire.client).reaches(&server);
        stand.both_ends(&server, &web, "established");
    }
    stand.told_no_more();
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
