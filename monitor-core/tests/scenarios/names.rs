//! Names that become known while or after something is seen, and addresses that change hands.

use std::net::SocketAddr;

use monitor_core::attribute::Workload;
use monitor_core::baseline::Mode;
use monitor_core::directory::{Container, Fact, Key, Kind, Pod, Source, Subject};
use monitor_core::engine::{Effect, Engine, Input, Settings, Snapshot};
use monitor_core::flow::{Direction, Outcome, Remote};
use monitor_core::ids::{CgroupId, ServiceName, WallTime};

use crate::stage::{Stage, flow, ip, key, settings};

const ID: &str = "0123456789abcdef";

/// A container's cgroup appears; its path says no more than its id.
fn container(stage: &mut Stage, cgroup: u64) -> CgroupId {
    let workload = Workload {
        service: ServiceName::new("docker", &format!("id/{ID}")),
        container: Some(ID.to_owned()),
        container_name: None,
        pod: None,
        image: None,
        cgroup: format!("/docker/{ID}"),
        node: None,
    };
    stage.step(Input::Workload { cgroup: CgroupId(cgroup), workload });
    CgroupId(cgroup)
}

fn fact(stage: &mut Stage, source: Source, subject: Subject) {
    stage.step(Input::Fact(Fact::Is(source, Box::new(subject))));
}

/// Docker says that it is `compose:shop/web`.
fn named(stage: &mut Stage) {
    let container = Container {
        id: ID.into(),
        service: Some(ServiceName::new("compose", "shop/web")),
        pod: None,
        name: Some("shop_web_1".into()),
        image: Some("sha256:1".into()),
        addresses: Vec::new(),
        since: None,
    };
    fact(stage, Source::Docker, Subject::Container(container));
}

fn pod(uid: &str, owner: &str, address: &str) -> Subject {
    Subject::Pod(Pod {
        uid: uid.into(),
        alias: None,
        service: ServiceName::new("k8s", owner),
        node: "n2".into(),
        addresses: vec![address.parse().unwrap()],
        since: None,
        containers: Vec::new(),
    })
}

fn dials(stage: &mut Stage, cgroup: CgroupId, to: &str) {
    let key = key(cgroup, Direction::Outbound, ip(to), "443/tcp", Outcome::Established);
    let client = Some(SocketAddr::from(([10, 0, 0, 1], 50_000)));
    stage.step(Input::Flow(flow(stage.now.wall, key, client, "/bin/web")));
}

fn map(stage: &Stage) -> Vec<String> {
    stage
        .engine
        .map(stage.now.wall)
        .iter()
        .map(|it| monitor_core::edge::Edge::from(&it.edge).to_string())
        .collect()
}

#[test]
fn a_container_s_edges_wait_for_its_name_ten_seconds_at_most() {
    let mut stage = Stage::new(Mode::Auto);
    stage.step(Input::Fact(Fact::Away(Source::Docker, "not asked yet".to_owned())));
    let cgroup = container(&mut stage, 1);
    dials(&mut stage, cgroup, "192.0.2.1");
    stage.until(5_000);
    assert_eq!(map(&stage), [""; 0]);
    named(&mut stage);
    assert_eq!(map(&stage), ["compose:shop/web -> ip:192.0.2.1 443/tcp"]);

    let mut stage = Stage::new(Mode::Auto);
    stage.step(Input::Fact(Fact::Away(Source::Docker, "not asked yet".to_owned())));
    let cgroup = container(&mut stage, 1);
    dials(&mut stage, cgroup, "192.0.2.1");
    stage.until(11_000);
    assert_eq!(map(&stage), [format!("docker:id/{ID} -> ip:192.0.2.1 443/tcp")]);
}

#[test]
fn who_is_dialled_in_vain_where_they_just_were_is_meant() {
    let api = "k8s:shop/Deployment/api";
    for (outcome, after_s, server) in [
        (Outcome::TimedOut, 5, api),
        (Outcome::Refused, 5, api),
        // Somebody answers, of whom nobody tells.
        (Outcome::Established, 5, "ip:10.244.0.1"),
        (Outcome::TimedOut, 300, "ip:10.244.0.1"),
    ] {
        let mut stage = Stage::new(Mode::Auto);
        stage.step(Input::Fact(Fact::Present(Source::Kubernetes)));
        let subject = pod("u1", "shop/Deployment/api", "10.244.0.1");
        fact(&mut stage, Source::Kubernetes, subject.clone());
        let web = stage.cgroup("web");
        stage.until(20_000);
        stage.step(Input::Fact(Fact::Gone(subject.key(Source::Kubernetes))));
        let dialled = 20_000 + after_s * 1_000;
        stage.until(dialled);
        let key = key(web, Direction::Outbound, ip("10.244.0.1"), "443/tcp", outcome);
        let client = Some(SocketAddr::from(([10, 0, 0, 1], 50_000)));
        stage.step(Input::Flow(flow(stage.now.wall, key, client, "/bin/web")));
        stage.until(dialled + 11_000);
        assert_eq!(map(&stage), [format!("systemd:web.service -> {server} 443/tcp")]);
    }
}

#[test]
fn a_provisional_name_becomes_a_lasting_one_with_all_that_is_known() {
    let mut stage = Stage::new(Mode::Auto);
    let cgroup = container(&mut stage, 1);
    dials(&mut stage, cgroup, "192.0.2.1");
    stage.until(1_000);
    let provisional = format!("docker:id/{ID} -> ip:192.0.2.1 443/tcp");
    assert_eq!(map(&stage), [provisional.as_str()]);
    let before = stage.engine.map(stage.now.wall);
    named(&mut stage);
    assert_eq!(map(&stage), ["compose:shop/web -> ip:192.0.2.1 443/tcp"]);
    let mut after = stage.engine.map(stage.now.wall);
    // What it runs as became known with its name.
    let images = after[0].evidence.as_mut().map(|it| std::mem::take(&mut it.images));
    assert_eq!(images.map_or(0, |it| it.len()), 1);
    assert_eq!(before[0].evidence, after[0].evidence);
    stage.until(40_000);
    stage.restart(Mode::Auto);
    assert_eq!(map(&stage), ["compose:shop/web -> ip:192.0.2.1 443/tcp"]);
    assert_eq!(stage.said, "");
    // What was said is known after a restart, without asking anybody.
    let cgroup = container(&mut stage, 2);
    dials(&mut stage, cgroup, "192.0.2.2");
    stage.until(41_000);
    assert_eq!(map(&stage).len(), 2);
    assert!(map(&stage).iter().all(|it| it.starts_with("compose:shop/web ")));
}

#[test]
fn what_a_guarded_service_did_before_its_name_was_known_is_judged() {
    let mut stage = Stage::new(Mode::Auto);
    let cgroup = container(&mut stage, 1);
    named(&mut stage);
    dials(&mut stage, cgroup, "192.0.2.1");
    stage.until(1_000);
    stage.guard("compose:shop/web");
    // Another container of the same service, of which nobody tells for a while.
    stage.step(Input::Fact(Fact::Gone(Key {
        source: Source::Docker,
        kind: Kind::Container,
        id: ID.into(),
    })));
    stage.until(120_000);
    stage.step(Input::Fact(Fact::Present(Source::Docker)));
    let next = container(&mut stage, 2);
    for to in ["192.0.2.1", "203.0.113.9"] {
        dials(&mut stage, next, to);
    }
    stage.until(140_000);
    assert_eq!(stage.said, "");
    named(&mut stage);
    stage.until(141_000);
    assert_eq!(
        stage.said,
        "firing high: new-peer compose:shop/web -> ip:203.0.113.9 443/tcp established with /bin/web;\n"
    );
}

#[test]
fn an_unknown_address_of_the_inside_waits_and_one_of_the_outside_does_not() {
    let mut stage = Stage::new(Mode::Auto);
    stage.step(Input::Fact(Fact::Present(Source::Kubernetes)));
    let a = stage.cgroup("a");
    for to in ["10.1.0.1", "10.1.0.2", "203.0.113.9", "192.88.99.7", "169.254.169.254"] {
        dials(&mut stage, a, to);
    }
    stage.until(1_000);
    let outside =
        ["systemd:a.service -> net:office 443/tcp", "systemd:a.service -> ip:203.0.113.9 443/tcp"];
    let seen = map(&stage);
    assert!(outside.iter().all(|it| seen.contains(&(*it).to_owned())), "{seen:?}");
    // Whoever asks for the keys of the machine is told at once.
    assert_eq!(seen.len(), 3);
    fact(&mut stage, Source::Kubernetes, pod("u1", "shop/Deployment/api", "10.1.0.1"));
    let api = "systemd:a.service -> k8s:shop/Deployment/api 443/tcp".to_owned();
    assert!(map(&stage).contains(&api));
    stage.until(11_000);
    let seen = map(&stage);
    assert!(seen.contains(&"systemd:a.service -> ip:10.1.0.2 443/tcp".to_owned()), "{seen:?}");
    assert_eq!(seen.len(), 5);
}

#[test]
fn an_address_that_changes_hands_is_another_peer() {
    let mut stage = Stage::new(Mode::Auto);
    fact(&mut stage, Source::Kubernetes, pod("u1", "shop/Deployment/api", "10.1.0.1"));
    let a = stage.cgroup("a");
    dials(&mut stage, a, "10.1.0.1");
    stage.until(1_000);
    stage.unknown.clear();
    stage.step(Input::Fact(Fact::Gone(Key {
        source: Source::Kubernetes,
        kind: Kind::Pod,
        id: "u1".into(),
    })));
    fact(&mut stage, Source::Kubernetes, pod("u2", "evil/Deployment/other", "10.1.0.1"));
    assert!(stage.unknown.contains(&"10.1.0.1".parse().unwrap()), "the kernel is to tell it again");
    dials(&mut stage, a, "10.1.0.1");
    stage.until(2_000);
    assert!(
        map(&stage).contains(&"systemd:a.service -> k8s:evil/Deployment/other 443/tcp".to_owned())
    );
}

#[test]
fn what_was_dialled_before_an_address_was_told_to_be_left_may_be_the_next_one_s() {
    let mut stage = Stage::new(Mode::Auto);
    stage.step(Input::Fact(Fact::Present(Source::Kubernetes)));
    let api = pod("u1", "shop/Deployment/api", "10.1.0.1");
    let gone = Fact::Gone(api.key(Source::Kubernetes));
    fact(&mut stage, Source::Kubernetes, api);
    let a = stage.cgroup("a");
    dials(&mut stage, a, "10.1.0.1");
    stage.until(20_000);
    let edge = |to: &str| format!("systemd:a.service -> k8s:{to} 443/tcp");
    assert_eq!(map(&stage), [edge("shop/Deployment/api")]);
    // The kernel knew it; it tells it as soon as somebody left, for whose it was is not sure.
    let dialled = stage.now.wall;
    let retold = |stage: &mut Stage| {
        let to = ip("10.1.0.1");
        let key = key(a, Direction::Outbound, to, "443/tcp", Outcome::Established);
        stage.step(Input::Flow(flow(dialled, key, None, "/bin/web")));
    };
    stage.until(22_000);
    stage.step(Input::Fact(gone.clone()));
    retold(&mut stage);
    stage.until(23_000);
    let Subject::Pod(mut next) = pod("u2", "evil/Deployment/other", "10.1.0.1") else { panic!() };
    next.since = Some(WallTime(dialled.0 - 1_000_000));
    fact(&mut stage, Source::Kubernetes, Subject::Pod(next));
    assert!(map(&stage).contains(&edge("evil/Deployment/other")), "{:?}", map(&stage));

    // Nobody takes it: it was who left.
    let mut stage = Stage::new(Mode::Auto);
    stage.step(Input::Fact(Fact::Present(Source::Kubernetes)));
    fact(&mut stage, Source::Kubernetes, pod("u1", "shop/Deployment/api", "10.1.0.1"));
    let a = stage.cgroup("a");
    stage.until(20_000);
    stage.step(Input::Fact(gone));
    let key = key(a, Direction::Outbound, ip("10.1.0.1"), "443/tcp", Outcome::Established);
    let at = stage.now.wall.plus_seconds(-1);
    stage.step(Input::Flow(flow(at, key, None, "/bin/web")));
    stage.until(25_000);
    assert_eq!(map(&stage), [""; 0]);
    stage.until(32_000);
    assert_eq!(map(&stage), [edge("shop/Deployment/api")]);
}

#[test]
fn loopback_aliases_multicast_and_broadcast_are_one_peer_each() {
    let mut stage = Stage::new(Mode::Auto);
    let a = stage.cgroup("a");
    for to in ["127.0.0.1", "127.0.0.53", "::1", "224.0.0.251", "ff02::fb", "255.255.255.255"] {
        dials(&mut stage, a, to);
    }
    stage.until(1_000);
    assert_eq!(map(&stage).len(), 3, "{:?}", map(&stage));
}

#[test]
fn whoever_is_dialled_by_both_families_is_one_peer() {
    let mut stage = Stage::new(Mode::Auto);
    let Subject::Pod(mut api) = pod("u1", "shop/Deployment/api", "10.1.0.1") else { panic!() };
    api.addresses.push("fd00:1::1".parse().unwrap());
    fact(&mut stage, Source::Kubernetes, Subject::Pod(api));
    let a = stage.cgroup("a");
    // As browsers and curl do: the one that does not answer first, then the other.
    for (to, outcome) in [("fd00:1::1", Outcome::Refused), ("10.1.0.1", Outcome::Established)] {
        let key = key(a, Direction::Outbound, ip(to), "443/tcp", outcome);
        stage.step(Input::Flow(flow(stage.now.wall, key, None, "/bin/web")));
    }
    // A link's own addresses are told without the link.
    for _ in ["eth0", "eth1"] {
        dials(&mut stage, a, "fe80::1");
    }
    stage.until(11_000);
    assert_eq!(
        map(&stage),
        [
            "systemd:a.service -> k8s:shop/Deployment/api 443/tcp",
            "systemd:a.service -> ip:fe80::1 443/tcp"
        ]
    );
}

#[test]
fn images_are_recorded_with_the_edge_and_their_change_is_no_news() {
    let mut stage = Stage::new(Mode::Auto);
    for (cgroup, image) in [(1, "sha256:1"), (2, "sha256:2"), (3, "sha256:2")] {
        let described = Container {
            id: ID.into(),
            service: Some(ServiceName::new("compose", "shop/web")),
            pod: None,
            name: Some("shop_web_1".into()),
            image: Some(image.into()),
            addresses: Vec::new(),
            since: None,
        };
        fact(&mut stage, Source::Docker, Subject::Container(described));
        let cgroup = container(&mut stage, cgroup);
        dials(&mut stage, cgroup, "192.0.2.1");
        stage.until(1_000 + stage.now.boot.0 / 1_000_000);
        stage.guard("compose:shop/web");
    }
    stage.until(40_000);
    assert_eq!(stage.said, "");
    stage.restart(Mode::Auto);
    let map = stage.engine.map(stage.now.wall);
    let [edge] = map.as_slice() else { panic!("{map:?}") };
    let evidence = edge.evidence.as_ref().unwrap();
    let images: Vec<_> = evidence.images.iter().map(|it| it.image.as_deref()).collect();
    assert_eq!(images, [Some("sha256:1"), Some("sha256:2")]);
    assert_eq!(evidence.images[0].container.as_deref(), Some("shop_web_1"));
    // It stands where the container ran, too.
    let cgroup = container(&mut stage, 4);
    dials(&mut stage, cgroup, "198.51.100.7");
    stage.until(50_000);
    let place = stage.engine.alerts(stage.now.wall)[0].findings[0].place.clone();
    assert_eq!(place.container_name.as_deref(), Some("shop_web_1"));
    assert_eq!(place.image.as_deref(), Some("sha256:2"));
}

#[test]
fn an_address_that_changes_hands_is_told_with_the_moment() {
    let mut stage = Stage::new(Mode::Auto);
    fact(&mut stage, Source::Kubernetes, pod("u1", "shop/Deployment/a", "10.0.0.7"));
    stage.until(20_000);
    let Subject::Pod(mut next) = pod("u2", "shop/Deployment/b", "10.0.0.7") else { panic!() };
    let since = WallTime(stage.now.wall.0 - 2_000_000);
    next.since = Some(since);
    let next = Fact::Is(Source::Kubernetes, Box::new(Subject::Pod(next)));
    let effects = stage.engine.step(stage.now, Input::Fact(next));
    let moved = effects.iter().find_map(|it| match it {
        Effect::Unknow(addresses) => addresses.get(&"10.0.0.7".parse().unwrap()).copied(),
        _ => None,
    });
    assert_eq!(moved, Some(Some(since)));
}

fn requiring(source: Source) -> Stage {
    let required = [source].into_iter().collect();
    let settings = Settings { required, ..settings(Mode::Auto) };
    let mut stage = Stage::new(Mode::Auto);
    stage.engine = Engine::restore(settings, Snapshot::default());
    stage
}

#[test]
fn a_required_source_that_is_away_for_a_minute_is_told_until_it_is_back() {
    let mut stage = Stage::new(Mode::Auto);
    stage.until(59_000);
    assert_eq!(stage.said, "", "neither required nor heard of");
    let mut stage = requiring(Source::Docker);
    let tell = |stage: &mut Stage, fact| stage.step(Input::Fact(fact));
    let away = |why: &str| Fact::Away(Source::Docker, why.to_owned());
    tell(&mut stage, away("not asked yet"));
    stage.until(30_000);
    tell(&mut stage, away("nobody answers there"));
    tell(&mut stage, Fact::Away(Source::Podman, "nobody answers there".to_owned()));
    stage.until(59_000);
    assert_eq!(stage.said, "");
    stage.until(62_000);
    assert_eq!(stage.said, "firing medium: sensor source-docker;\n");
    let status = stage.engine.status(stage.now.wall);
    let shown: Vec<_> = status.sources.iter().map(|it| (it.source, it.required)).collect();
    assert_eq!(shown, [(Source::Docker, true), (Source::Podman, false)]);
    assert_eq!(status.sources[0].away.as_deref(), Some("nobody answers there"));
    stage.restart(Mode::Auto);
    named(&mut stage);
    tell(&mut stage, Fact::Present(Source::Docker));
    stage.until(65_000);
    assert!(stage.said.ends_with("resolved medium: sensor source-docker;\n"), "{}", stage.said);
    let status = stage.engine.status(stage.now.wall);
    assert_eq!((status.sources[0].containers, &status.sources[0].away), (1, &None));
    stage.until(200_000);
    assert_eq!(stage.said.lines().count(), 2);

    // One that never came.
    let mut stage = requiring(Source::Kubernetes);
    stage.until(63_000);
    assert_eq!(stage.said, "firing medium: sensor source-kubernetes;\n");
}

#[test]
fn who_was_reached_before_its_name_was_known_is_meant_while_it_is_down() {
    let mut stage = Stage::new(Mode::Auto);
    stage.step(Input::Fact(Fact::Away(Source::Docker, "not asked yet".to_owned())));
    let db = stage.cgroup("db");
    let web = container(&mut stage, 1);
    let client = Some(SocketAddr::from(([10, 0, 0, 1], 50_000)));
    let to =
        |cgroup, outcome| key(cgroup, Direction::Outbound, ip("192.0.2.1"), "443/tcp", outcome);
    let accepted =
        key(db, Direction::Inbound, Remote::Cgroup(web), "443/tcp", Outcome::Established);
    for key in [to(web, Outcome::Established), accepted] {
        stage.step(Input::Flow(flow(stage.now.wall, key, client, "/bin/web")));
    }
    named(&mut stage);
    stage.until(1_000);
    let reached = ["compose:shop/web -> systemd:db.service 443/tcp"];
    assert_eq!(map(&stage), reached);
    // Started again, it is in another cgroup.
    let key = to(container(&mut stage, 2), Outcome::Refused);
    stage.step(Input::Flow(flow(stage.now.wall, key, client, "/bin/web")));
    stage.until(20_000);
    assert_eq!(map(&stage), reached);
}
