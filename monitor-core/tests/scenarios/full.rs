//! A table of edges that is full: beyond it edges are judged, told and counted, and nothing grows;
//! what is in it goes on.

use monitor_core::baseline::{
    Allowance, Baseline, EdgeRecord, Grounds, Mode, Phase, Provenance, ServiceRecord,
};
use monitor_core::edge::{Edge, Peer, Port};
use monitor_core::engine::{Change, Engine, Input, Snapshot};
use monitor_core::executables::Executables;
use monitor_core::flow::{Direction, Loss, Outcome, Protocol, Remote};
use monitor_core::ids::{BootTime, ServiceName, WallTime};
use monitor_core::incident::Incidents;

use std::net::{IpAddr, Ipv4Addr};

use crate::stage::{Stage, key, settings, traffic};

/// One of the addresses that fill the table.
fn known(number: u32) -> IpAddr {
    Ipv4Addr::from(0x0a00_0000 + number).into()
}

/// A stage where `c` has as many edges as there is room for, and `a`, which has one of them, is
/// guarded.
fn full() -> Stage {
    let mut stage = Stage::new(Mode::Auto);
    let service = |name: &str| ServiceName::new("systemd", &format!("{name}.service"));
    let at = WallTime(stage.now.wall.0);
    let mut snapshot = Snapshot { alive: Some(at), ..Snapshot::default() };
    for (name, phase) in [("a", Phase::Guarded), ("b", Phase::Learning), ("c", Phase::Learning)] {
        let record = ServiceRecord { phase, ..ServiceRecord::new(at) };
        snapshot.services.push((service(name), record));
    }
    let allowed = Allowance {
        provenance: Provenance::Learned,
        since: at,
        executables: Executables::default(),
        attempted_only: false,
        grounds: Grounds::default().into(),
    };
    let record = EdgeRecord { allowed: vec![allowed].into(), ..EdgeRecord::default() };
    for number in 0..u32::try_from(Baseline::EDGES).unwrap() {
        let edge = Edge {
            client: Peer::Service(if number == 7 { service("a") } else { service("c") }),
            server: Peer::Address(known(number)),
            port: Port { number: 443, protocol: Protocol::Tcp },
        };
        snapshot.edges.push((edge, record.clone()));
    }
    stage.engine = Engine::restore(settings(Mode::Auto), snapshot);
    for name in ["a", "b"] {
        stage.cgroup(name);
    }
    stage
}

fn lost(stage: &Stage) -> u64 {
    stage.engine.status(stage.now.wall).lost.get(&Loss::TableFull).copied().unwrap_or(0)
}

#[test]
fn beyond_a_full_table_edges_are_judged_and_counted_and_not_kept() {
    // Filling it takes seconds: one stage for all.
    let mut stage = full();
    check_known_edges_go_on(&mut stage);
    stage.stored.clear();
    // A scan: peers that nobody knows.
    let scanned = 5;
    for number in 0..scanned {
        let address = Ipv4Addr::from(0xc633_6400 + number).to_string();
        stage.dial("a", &address, "443/tcp", "established", "/bin/sh");
        stage.set(BootTime(stage.now.boot.0 + 400_000_000));
        stage.step(Input::Tick);
    }
    stage.until(100_000);
    assert_eq!(lost(&stage), u64::from(scanned));
    let own: Vec<_> = stage
        .engine
        .alerts(stage.now.wall)
        .into_iter()
        .filter(|it| it.service.as_str() == "systemd:a.service")
        .collect();
    let [alert] = own.as_slice() else { panic!("one incident, not {}", own.len()) };
    assert_eq!(alert.findings.len() as u64, u64::from(scanned), "each was judged");
    let messages = stage.said.lines().filter(|it| it.contains("new-peer")).count();
    assert!(messages <= usize::try_from(Incidents::BURST).unwrap() + 6, "{messages} in a minute");
    assert!(stage.said.contains("lost-table-full"), "that it is full is told as well");

    // That it goes on takes no place either.
    stage.stored.clear();
    let (cgroup, remote) = (stage.cgroup("a"), Remote::Address(Ipv4Addr::from(0xc633_6400).into()));
    let scanning = key(cgroup, Direction::Outbound, remote, "443/tcp", Outcome::Established);
    let traffic = traffic(&stage, scanning, 9);
    stage.step(Input::Traffic(traffic));
    stage.dial("a", "198.51.100.0", "443/tcp", "established", "/bin/sh");
    stage.until(105_000);
    let stored = stage.stored.keys().filter(|it| it.contains("198.51.100.0")).count();
    assert_eq!(stored, 0, "what has no place is not stored");
    assert_eq!(lost(&stage), u64::from(scanned) + 1);

    // What a service learns has no place either, and is no alert.
    let before = stage.said.lines().count();
    stage.dial("b", "198.18.0.1", "80/tcp", "established", "/bin/app");
    stage.until(110_000);
    assert_eq!(lost(&stage), u64::from(scanned) + 2);
    assert!(stage.said.lines().skip(before).all(|line| !line.contains("198.18.0.1")));
    let kept = stage.stored.values().filter(|it| matches!(it, Change::Edge(_, Some(_)))).count();
    assert_eq!(kept, 0, "what has no place is not stored");
    assert_eq!(stage.engine.map(stage.now.wall).len(), 1, "none of it is on the map");
}

#[track_caller]
fn check_known_edges_go_on(stage: &mut Stage) {
    stage.dial("a", &known(7).to_string(), "443/tcp", "established", "/bin/app");
    stage.until(1_000);
    let remote = Remote::Address(known(7));
    let cgroup = stage.cgroup("a");
    let key = key(cgroup, Direction::Outbound, remote, "443/tcp", Outcome::Established);
    let traffic = traffic(stage, key, 41);
    stage.step(Input::Traffic(traffic));
    stage.until(40_000);
    assert_eq!((lost(stage), stage.said.as_str()), (0, ""));
    let map = stage.engine.map(stage.now.wall);
    let [edge] = map.as_slice() else { panic!("{map:?}") };
    assert_eq!(edge.evidence.as_ref().unwrap().connections, 41);
    let kept = stage.stored.values().filter(|it| matches!(it, Change::Edge(_, Some(_)))).count();
    assert_eq!(kept, 1, "its evidence is stored");
}
