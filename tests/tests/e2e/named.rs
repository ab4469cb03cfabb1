//! Names that a runtime tells, on real traffic: an address that changes hands while the kernel knows it.
//! Who answers there is on no cgroup that the agent looks at, as if it were on another machine: then the
//! runtime's word is all there is.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use tests::agent::{SOON, START, SWEPT, Setup, verb};
use tests::eventually;
use tests::lab::{Lab, Service, Wire};
use tests::process::{Running, finish};
use tests::receiver::Receiver;
use tests::runtime::{Container, Docker};
use tests::traffic::{Dialler, Protocol, Server, edge};

use crate::lab;
use crate::shop::is_about;

const API: &str = "compose:shop/api";
const OTHER: &str = "docker:other";

/// A guarded web service that dials `compose:shop/api`, which has the address of the wire's far end.
struct Stage {
    agent: tests::agent::Agent,
    receiver: Receiver,
    docker: Docker,
    web: Dialler,
    api: Server,
    wire: Wire,
    lab: Lab,
    _elsewhere: Lab,
}

impl Stage {
    #[track_caller]
    fn set() -> Self {
        let (lab, elsewhere) = (lab(), lab());
        let (receiver, wire) = (Receiver::start(), lab.wire());
        let at = SocketAddr::new(wire.server.v4, 8080);
        let api = elsewhere.serve(&elsewhere.service("api"), &wire.server, Protocol::Tcp, at);
        let started = "2026-01-01T00:00:00Z".to_owned();
        let addresses = vec![wire.server.v4, wire.server.v6];
        let container = Container::named(1, "shop_api_1");
        let compose = Some(("shop", "api"));
        let docker = lab.docker(vec![Container { compose, addresses, started, ..container }]);
        let setup = Setup::mode("learn").within(&lab, "").tables(&docker.asked());
        let agent = lab.agent("agent", &setup.told_to(&lab, &receiver));
        let mut web = lab.dialler(&lab.service("web"), &wire.client);
        web.reaches(&api);
        agent.sees(&edge(&web.service, API, 8080, Protocol::Tcp));
        agent.guards(&[&web.service]);
        Self { agent, receiver, docker, web, api, wire, lab, _elsewhere: elsewhere }
    }

    fn to(&self, name: &str) -> String {
        edge(&self.web.service, name, 8080, Protocol::Tcp)
    }

    /// Another container takes the address, and was started `now`; of that the agent hears only here.
    fn changes_hands(&self, now: &str) {
        self.docker.removes(&format!("{:064x}", 1));
        let (addresses, started) = (vec![self.api.address.ip()], now.to_owned());
        self.docker.starts(Container { addresses, started, ..Container::named(2, "other") });
    }

    /// Waits until the agent took in who has the address now: by the word of a dial from elsewhere.
    #[track_caller]
    fn is_told(&self) {
        let scout = self.lab.service("scout");
        let mut scout = self.lab.dialler(&scout, &self.wire.client);
        eventually(SOON, "the scout dials the other", || {
            scout.reaches(&self.api);
            let edge = edge(&scout.service, OTHER, 8080, Protocol::Tcp);
            self.agent.mapped(&edge).map(drop)
        });
    }
}

/// The time as a runtime writes it.
#[track_caller]
fn now() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("it is later");
    // Not everybody's `date` knows parts of a second.
    let mut date = std::process::Command::new("date");
    let seconds = format!("@{}", now.as_secs());
    let date = finish(date.args(["-u", "-d", &seconds, "+%Y-%m-%dT%H:%M:%S"])).done();
    format!("{}.{:09}Z", date.trim(), now.subsec_nanos())
}

/// The kernel knows when something came by its tick, a hundredth of a second at most: what is to be before
/// or after something else is so by more than that.
#[track_caller]
fn a_tick_passes() {
    const TICKS: Duration = Duration::from_millis(30);
    let begun = Instant::now();
    eventually(SOON, "a tick", || match begun.elapsed() {
        passed if passed > TICKS => Ok(()),
        passed => Err(format!("{passed:?}")),
    });
}

#[test]
fn whoever_takes_an_address_is_told_although_it_was_dialled_before_that_was_known() {
    let mut stage = Stage::set();
    let started = now();
    a_tick_passes();
    // The kernel takes it for what it knows; nobody has said yet that it is somebody else's.
    let api = &stage.api;
    stage.web.reaches(api);
    stage.changes_hands(&started);
    let other = stage.to(OTHER);
    let alert = stage.receiver.alert(SOON, &other, |alert| is_about(alert, &other));
    assert_eq!(alert["findings"][0]["outcome"], "established", "{alert:#}");
    // What was dialled before is the former owner's, and stays that.
    stage.agent.sees(&stage.to(API));
}

#[test]
fn so_is_whoever_was_dialled_when_that_was_counted_for_the_former_owner_already() {
    let mut stage = Stage::set();
    let started = now();
    a_tick_passes();
    let api = &stage.api;
    stage.web.reaches(api);
    let former = stage.to(API);
    eventually(SOON, "it is counted", || {
        let view = stage.agent.mapped(&former)?;
        let count = view["evidence"]["connections"].as_u64();
        if count >= Some(2) { Ok(()) } else { Err(format!("{count:?}")) }
    });
    stage.changes_hands(&started);
    let other = stage.to(OTHER);
    stage.receiver.alert(SOON, &other, |alert| is_about(alert, &other));
}

#[test]
fn a_connection_that_is_closed_later_was_made_to_the_former_owner() {
    let mut stage = Stage::set();
    let address = stage.api.address;
    // Not counted by the agent yet, as what was seen a moment ago never is.
    stage.web.does(&format!("hold {address} 1"), "held");
    a_tick_passes();
    let started = now();
    a_tick_passes();
    stage.web.does("release", "released");
    stage.changes_hands(&started);
    stage.is_told();
    let other = stage.to(OTHER);
    let view = stage.agent.mapped(&other);
    assert!(view.is_err(), "{view:?}");
    let told = stage.receiver.alerts();
    assert!(!told.iter().any(|alert| is_about(alert, &other)), "{told:#?}");
    // Dialled again, it is the other's.
    let api = &stage.api;
    stage.web.reaches(api);
    stage.receiver.alert(SOON, &other, |alert| is_about(alert, &other));
}

#[test]
fn of_what_came_of_a_dial_only_that_is_the_new_owners_which_came_since() {
    let mut stage = Stage::set();
    let api = &stage.api;
    stage.web.reaches(api);
    stage.api.end();
    a_tick_passes();
    let started = now();
    a_tick_passes();
    stage.web.is_refused(stage.api.address);
    stage.changes_hands(&started);
    let other = stage.to(OTHER);
    let alert = stage.receiver.alert(SOON, &other, |alert| is_about(alert, &other));
    assert_eq!(alert["findings"][0]["outcome"], "refused", "{alert:#}");
    let view = stage.agent.mapped(&other).expect("it was told");
    assert_eq!(view["outcome"], "refused", "{view:#}");
}

#[test]
fn a_recording_has_the_names_that_a_runtime_gives() {
    let lab = lab();
    let wire = lab.wire();
    let compose = Some(("shop", "web"));
    let container = Container { compose, ..Container::named(7, "shop_web_1") };
    // As Docker has systemd make it.
    let cgroup = lab.slice().join(format!("docker-{}.scope", container.id));
    let web = Service { name: "compose:shop/web".to_owned(), cgroup };
    std::fs::create_dir(&web.cgroup).expect("the slice is ours");
    let docker = lab.docker(vec![container]);
    let (config, file) = (lab.path("record.toml"), lab.path("flows.jsonl"));
    let own =
        format!("{}[capture]\ncgroup = {:?}\n", docker.asked(), lab.slice().display().to_string());
    std::fs::write(&config, own).expect("the place is ours");
    let mut record = Running::start(verb(&["record"]).arg(&file).arg("--config").arg(&config));
    let at = SocketAddr::new(wire.server.v4, 8080);
    let api = lab.serve(&lab.service("api"), &wire.server, Protocol::Tcp, at);
    let mut dialler = lab.dialler(&web, &wire.client);
    let named = eventually(START, "a line with the lasting name", || {
        dialler.reaches(&api);
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let line = text.lines().find(|it| it.contains(&format!("{:?}", web.name)));
        line.map(str::to_owned).ok_or(text)
    });
    assert!(named.contains(&api.service.name), "{named}");
    record.signal(rustix::process::Signal::INT);
    assert_eq!(record.ended(SOON).code(), Some(0));
    let text = std::fs::read_to_string(&file).expect("it was written");
    assert!(!text.contains("docker:id/"), "{text}");
}

#[test]
fn whoever_is_dialled_by_both_families_is_one_peer() {
    let mut stage = Stage::set();
    // Nobody listens there by IPv6: then it is tried by IPv4, also from a socket of both families.
    let v4 = stage.api.address;
    let std::net::IpAddr::V4(own) = v4.ip() else { panic!("{v4}") };
    stage.web.is_refused(SocketAddr::new(stage.wire.server.v6, v4.port()));
    stage.web.tcp(v4, "established");
    stage.web.tcp(SocketAddr::new(own.to_ipv6_mapped().into(), v4.port()), "established");
    stage.agent.shows(&stage.to(API), SWEPT, |view| {
        view["evidence"]["connections"] == 3 && view["evidence"]["failures"] == 1
    });
    stage.agent.has_only(&stage.web.service, &[stage.to(API)]);
    assert_eq!(stage.receiver.alerts(), [] as [serde_json::Value; 0]);
}

#[test]
fn who_comes_from_the_internet_is_the_world_whoever_it_is() {
    let lab = lab();
    let wire = lab.wire();
    let (client, server) = (&wire.client, &wire.server);
    server.ip("addr add 198.51.100.1/24 dev wire");
    let agent = lab.agent("agent", &Setup::mode("learn").within(&lab, ""));
    let everywhere = "0.0.0.0:8080".parse().expect("an address");
    let api = lab.serve(&lab.service("api"), server, Protocol::Tcp, everywhere);
    let world = format!("world -> {} 8080/tcp", api.service.name);
    for from in ["198.51.100.7/24", "198.51.100.8/24"] {
        client.ip(&format!("addr add {from} dev wire"));
        lab.outsider(client, "tcp 198.51.100.1:8080", "established");
        client.ip(&format!("addr del {from} dev wire"));
    }
    agent.shows(&world, SWEPT, |view| view["evidence"]["connections"] == 2);
    // Of who is inside it is known who came.
    lab.outsider(client, &format!("tcp {}:8080", server.v4), "established");
    let inside = format!("ip:{} -> {} 8080/tcp", client.v4, api.service.name);
    agent.sees(&inside);
    agent.has_only(&api.service, &[world, inside]);
}
