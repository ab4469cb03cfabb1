//! Stories of sockets that are neither TCP's nor UDP's: never learned silently, allowed by name, on no
//! map; and of where they send.

use monitor_core::baseline::Provenance;
use monitor_core::baseline::document::{Document, FORMAT, Figures, List};
use monitor_core::engine::Selection;
use monitor_core::flow::{Direction, Outcome, Protocol, Remote};
use monitor_core::ids::WallTime;

use crate::stage::{check, key, traffic};

#[test]
fn a_raw_socket_is_never_learned_silently() {
    let stage = check(
        "0 a opens raw/icmp with /bin/nmap
         10 a opens raw/icmp with /bin/nmap
         20 a -> 192.0.2.1 8/icmp established with /bin/nmap",
        "firing medium: raw-socket a opens raw/icmp established with /bin/nmap;",
    );
    let alert = &stage.engine.alerts(stage.now.wall)[0];
    assert_eq!(alert.title, "systemd:a.service opened a raw socket (raw/icmp)");
    assert_eq!(
        alert.allow,
        "edgewatch baseline approve 'systemd:a.service opens raw/icmp with /bin/nmap' --ttl 7d"
    );
    assert_eq!(alert.findings[0].attack, ["T1095"]);
    // Where it sends is an edge like others; the socket is none.
    let map = stage.engine.map(stage.now.wall);
    let edges: Vec<_> = map.iter().map(|it| (it.edge.protocol, it.edge.port)).collect();
    assert_eq!(edges, [(Protocol::Icmp, 8)]);
    let rows = stage.engine.services(stage.now.wall);
    assert_eq!((rows[0].outbound, rows[0].pending), (1, 1));
}

#[test]
fn how_grave_it_is_depends_on_the_kind_and_on_who_guards() {
    check(
        "0 a => b 80/tcp
         5 guard a
         10 a opens packet with /bin/x
         11 a opens ping with /bin/ping",
        "firing high: raw-socket a opens packet established with /bin/x;
         updated high: raw-socket a opens packet established with /bin/x; raw-socket a opens ping established with /bin/ping;",
    );
    check(
        "0 a opens udplite with /bin/x",
        "firing low: raw-socket a opens udplite established with /bin/x;",
    );
}

#[test]
fn an_allowed_one_is_silent_for_its_executable() {
    check(
        "0 a => b 80/tcp
         2 guard a
         3 approve a opens packet with /bin/tcpdump
         5 a opens packet with /bin/tcpdump
         10 a opens packet with /bin/x
         20 forbid a opens packet
         30 a opens packet with /bin/tcpdump",
        "firing high: new-executable a opens packet established with /bin/x;
         updated critical: new-executable a opens packet established with /bin/x; forbidden a opens packet established with /bin/tcpdump;",
    );
}

#[test]
fn they_travel_with_an_export() {
    let stage = check(
        "0 a => b 80/tcp
         1 approve a opens packet with /bin/tcpdump
         2 approve a opens raw/icmp with /bin/tcpdump
         3 forbid a opens vsock
         4 forbid a listens 22/tcp",
        "",
    );
    let document = stage.engine.export(stage.now.wall, &Selection::All, Figures::Left).unwrap();
    let entry = &document.services[&"systemd:a.service".parse().unwrap()];
    assert_eq!((entry.opens.len(), entry.opens[0].sockets.len()), (1, 2));
    assert_eq!((entry.outbound.len(), entry.forbidden.len()), (1, 2), "{:?}", entry.forbidden);
    let parsed = document.parse(Provenance::File, WallTime(0)).unwrap();
    let allowed: Vec<String> = parsed.allowed.keys().map(ToString::to_string).collect();
    assert!(allowed.contains(&"systemd:a.service opens raw/icmp".to_owned()), "{allowed:?}");
    let forbidden: Vec<String> = parsed.forbidden.keys().map(ToString::to_string).collect();
    assert_eq!(forbidden, ["systemd:a.service opens vsock", "systemd:a.service listens 22/tcp"]);
}

#[test]
fn a_line_names_either_ports_or_sockets() {
    let read = |entry: &str| {
        let text =
            format!("{{\"format\": {FORMAT:?}, \"services\": {{\"systemd:a.service\": {entry}}}}}");
        let document: Document = serde_json::from_str(&text).unwrap();
        document
            .parse(Provenance::File, WallTime(0))
            .map(|it| it.allowed.len() + it.forbidden.len())
    };
    assert_eq!(read(r#"{"opens": [{"sockets": ["packet", "raw/gre"]}]}"#), Ok(2));
    assert_eq!(read(r#"{"forbidden": [{"sockets": ["packet"]}]}"#), Ok(1));
    for wrong in [
        r#"{"opens": [{"ports": ["80/tcp"]}]}"#,
        r#"{"opens": [{}]}"#,
        r#"{"opens": [{"sockets": ["packet"], "ports": ["80/tcp"]}]}"#,
        r#"{"opens": [{"sockets": ["packet"], "to": "dns:x"}]}"#,
        r#"{"listens": [{"sockets": ["packet"]}]}"#,
        r#"{"outbound": [{"to": "dns:x", "sockets": ["packet"], "ports": ["80/tcp"]}]}"#,
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
    assert_eq!(List::Opens.to_string(), "opens");
}

#[test]
fn how_often_one_is_made_is_counted_and_tells_nothing_new() {
    let mut stage = check(
        "0 a opens ping with /bin/ping",
        "firing low: raw-socket a opens ping established with /bin/ping;",
    );
    let cgroup = stage.cgroup("a");
    let socket = Remote::Socket("ping".parse().unwrap());
    let key = key(cgroup, Direction::Outbound, socket, "0/ip", Outcome::Established);
    let counted = traffic(&stage, key, 5);
    stage.step(monitor_core::engine::Input::Traffic(counted));
    let alert = &stage.engine.alerts(stage.now.wall)[0];
    assert_eq!((alert.count, alert.revision), (5, 1));
}
