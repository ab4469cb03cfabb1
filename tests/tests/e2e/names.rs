//! Addresses outside are called by the names that each service asked for, however it asked; who was not
//! asked, or may be the asker itself, names nothing.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;
use tests::agent::{Agent, SOON, SWEPT, Setup};
use tests::eventually;
use tests::kernel::attached;
use tests::lab::{Lab, Service, Wire};
use tests::traffic::{Dialler, Server};

use crate::lab;

/// `BPF_CGROUP_INET_INGRESS` and `BPF_CGROUP_INET_EGRESS`
const HOOKS: [u32; 2] = [0, 1];

/// What the resolver knows; the addresses are at the server's end, and nobody listens there.
pub(crate) const ZONE: &[&str] = &[
    "api.test=203.0.113.1",
    "other.test=203.0.113.1",
    "api6.test=2001:db8::1",
    "www.test>cdn.test",
    "cdn.test>edge.test",
    "edge.test=203.0.113.2",
    "stream.test=203.0.113.3",
    "many.test=203.0.113.4",
    "many.test=203.0.113.5",
    "wrong-id.test=203.0.113.6",
    "elsewhere.test=203.0.113.7",
    "garbage.test=203.0.113.8",
    "later.test=203.0.113.9",
];

/// A resolver, an asker, and a world that both reach. The lab is dropped last.
pub(crate) struct Stand {
    pub(crate) agent: Agent,
    pub(crate) web: Dialler,
    pub(crate) resolver: Server,
    pub(crate) wire: Wire,
    pub(crate) lab: Lab,
}

impl Stand {
    #[track_caller]
    pub(crate) fn new() -> Self {
        let lab = lab();
        let setup = Setup::mode("learn").within(&lab, "");
        Self::with(lab, &setup)
    }

    #[track_caller]
    pub(crate) fn with(lab: Lab, setup: &Setup) -> Self {
        let wire = lab.wire();
        world(&wire);
        let at = SocketAddr::new(wire.server.v4, 53);
        let resolver = lab.resolver(&lab.service("resolver"), &wire.server, at, ZONE);
        let agent = lab.agent("agent", setup);
        let web = lab.dialler(&lab.service("web"), &wire.client);
        Self { agent, web, resolver, wire, lab }
    }

    /// Asks once, so that what is asked from now on is heard.
    #[track_caller]
    pub(crate) fn heard(mut self) -> Self {
        asks(&mut self.web, "udp", self.resolver.address, "first.test");
        self.hears(1);
        self
    }

    /// Waits until names are heard in so many cgroups.
    #[track_caller]
    pub(crate) fn hears(&self, cgroups: u64) {
        eventually(SWEPT, "the names are heard", || {
            let status = self.agent.json(&["status"]);
            let heard = status["lookups"]["heard"].as_u64().unwrap_or(0);
            if heard == cgroups { Ok(()) } else { Err(format!("{heard}: {status:#}")) }
        });
    }

    /// Asks and dials what came of it, where nobody listens; the edge is called by the name.
    #[track_caller]
    fn resolves(&mut self, way: &str, name: &str, address: &str) {
        let resolver = self.resolver.address;
        resolves(&mut self.web, (way, resolver), name, address);
        self.agent.sees(&edge(&self.web.service, &format!("dns:{}", bare(name))));
    }
}

/// Gives the server's end the addresses that names have, and leads the client there.
#[track_caller]
fn world(wire: &Wire) {
    for host in 1..10 {
        wire.server.ip(&format!("addr add 203.0.113.{host}/32 dev lo"));
    }
    wire.server.ip("addr add 2001:db8::1/128 dev lo nodad");
    wire.client.ip(&format!("route add 203.0.113.0/24 via {}", wire.server.v4));
    wire.client.ip(&format!("route add 2001:db8::/64 via {}", wire.server.v6));
}

/// A name without what is to be asked for it.
fn bare(name: &str) -> &str {
    name.split(' ').next().unwrap_or(name)
}

pub(crate) fn edge(client: &Service, server: &str) -> String {
    format!("{} -> {server} 443/tcp", client.name)
}

#[track_caller]
pub(crate) fn asks(dialler: &mut Dialler, way: &str, resolver: SocketAddr, name: &str) {
    dialler.does(&format!("ask {way} {resolver} {name}"), "answered");
}

#[track_caller]
pub(crate) fn resolves(
    dialler: &mut Dialler,
    (way, resolver): (&str, SocketAddr),
    name: &str,
    address: &str,
) {
    asks(dialler, way, resolver, name);
    let address: IpAddr = address.parse().expect("an address");
    dialler.is_refused(SocketAddr::new(address, 443));
}

#[test]
fn a_peer_is_called_by_the_name_however_it_was_asked_for() {
    let mut stand = Stand::new().heard();
    stand.resolves("udp", "api.test", "203.0.113.1");
    stand.resolves("udp-connected", "www.test", "203.0.113.2");
    stand.resolves("tcp", "stream.test", "203.0.113.3");
    stand.resolves("udp", "api6.test aaaa", "2001:db8::1");
    // One peer, wherever it is.
    stand.resolves("udp", "many.test", "203.0.113.4");
    stand.resolves("udp", "many.test", "203.0.113.5");
    let text = stand.agent.text(&["map"]);
    assert!(!text.contains("203.0.113."), "{text}");
    assert_eq!(stand.agent.lost("unasked"), 0);
    assert_eq!(stand.agent.lost("undecodable"), 0);
}

#[test]
fn a_resolver_is_asked_by_ipv6_too() {
    let lab = lab();
    let setup = Setup::mode("learn").within(&lab, "");
    let mut stand = Stand::with(lab, &setup);
    let at = SocketAddr::new(stand.wire.server.v6, 53);
    let service = stand.lab.service("resolver6");
    stand.resolver = stand.lab.resolver(&service, &stand.wire.server, at, ZONE);
    let mut stand = stand.heard();
    for way in ["udp", "udp-connected", "tcp"] {
        stand.resolves(way, "later.test", "203.0.113.9");
    }
}

#[test]
fn two_services_that_ask_for_two_names_of_an_address_mean_each_its_own() {
    let mut stand = Stand::new().heard();
    let resolver = stand.resolver.address;
    let mut shop = stand.lab.dialler(&stand.lab.service("shop"), &stand.wire.client);
    asks(&mut shop, "udp", resolver, "first.test");
    stand.hears(2);
    stand.resolves("udp", "api.test", "203.0.113.1");
    resolves(&mut shop, ("udp", resolver), "other.test", "203.0.113.1");
    stand.agent.sees(&edge(&shop.service, "dns:other.test"));
    let lies = [edge(&shop.service, "dns:api.test"), edge(&stand.web.service, "dns:other.test")];
    for lie in lies {
        assert!(stand.agent.mapped(&lie).is_err(), "{lie}");
    }
}

#[test]
fn of_two_names_that_a_service_asks_for_the_last_is_meant() {
    let mut stand = Stand::new().heard();
    stand.resolves("udp", "api.test", "203.0.113.1");
    // The kernel knows the address by now.
    stand.resolves("udp", "other.test", "203.0.113.1");
}

#[test]
fn a_liar_names_nothing_and_is_counted() {
    let mut stand = Stand::new().heard();
    let resolver = stand.resolver.address;
    let lies = [
        ("wrong-id.test", "203.0.113.6"),
        ("elsewhere.test", "203.0.113.7"),
        ("garbage.test", "203.0.113.8"),
    ];
    for (count, (name, address)) in (1..).zip(lies) {
        resolves(&mut stand.web, ("udp", resolver), name, address);
        stand.agent.sees(&edge(&stand.web.service, &format!("ip:{address}")));
        counted(&stand.agent, count);
    }
    // One's own resolver may say what it likes.
    let at = SocketAddr::new(stand.wire.client.v4, 53);
    let (lab, wire) = (&stand.lab, &stand.wire);
    let _own = lab.resolver(&stand.web.service, &wire.client, at, &["own.test=203.0.113.9"]);
    resolves(&mut stand.web, ("udp", at), "own.test", "203.0.113.9");
    stand.agent.sees(&edge(&stand.web.service, "ip:203.0.113.9"));
    counted(&stand.agent, 4);
    let text = stand.agent.text(&["map"]);
    assert!(!text.contains("dns:"), "{text}");
    // Who is believed is believed still.
    stand.resolves("udp", "api.test", "203.0.113.1");
}

#[track_caller]
fn counted(agent: &Agent, unasked: u64) {
    eventually(SWEPT, "lies are counted", || match agent.lost("unasked") {
        count if count == unasked => Ok(()),
        other => Err(other.to_string()),
    });
}

#[test]
fn a_service_that_is_known_to_ask_is_heard_from_its_first_question_on() {
    let stand = Stand::new().heard();
    stand.agent.sees(&stand.resolver.edge_from(&stand.web.service));
    let Stand { agent, mut web, resolver, wire, lab } = stand;
    let service = web.service.clone();
    web.end();
    eventually(SOON, "the removal", || {
        fs::remove_dir(&service.cgroup).map_err(|error| error.to_string())
    });
    let web = lab.dialler(&lab.service("web"), &wire.client);
    assert_eq!(web.service.name, service.name);
    let mut stand = Stand { agent, web, resolver, wire, lab };
    eventually(SOON, "it is heard", || is_heard(&stand.web.service));
    stand.resolves("udp", "api.test", "203.0.113.1");
}

#[test]
fn who_asks_without_end_hides_no_answer_of_others() {
    let mut stand = Stand::new().heard();
    let resolver = stand.resolver.address;
    let mut loud = stand.lab.dialler(&stand.lab.service("loud"), &stand.wire.client);
    asks(&mut loud, "udp", resolver, "first.test");
    stand.hears(2);
    // Another than the resolver, which would be late.
    let silent = SocketAddr::new("203.0.113.8".parse().expect("an address"), 53);
    loud.begin_order(&format!("ask flood {silent} first.test"));
    stand.resolves("udp", "api.test", "203.0.113.1");
    stand.resolves("tcp", "stream.test", "203.0.113.3");
    stand.resolves("udp-connected", "www.test", "203.0.113.2");
    loud.ends("asked");
    eventually(SWEPT, "what was not heard is counted", || match stand.agent.lost("unheard") {
        0 => Err("nothing".to_owned()),
        _some => Ok(()),
    });
    assert_eq!(stand.agent.lost("ring-full"), 0);
}

/// Whether both ways are looked at.
fn is_heard(service: &Service) -> Result<(), String> {
    let attached = HOOKS.map(|hook| attached(&service.cgroup, hook).unwrap_or(0));
    if attached.iter().all(|count| *count > 0) { Ok(()) } else { Err(format!("{attached:?}")) }
}

#[test]
fn switched_off_nobody_is_heard() {
    let lab = lab();
    let setup = Setup::mode("learn").within(&lab, "").tables("[identity]\ndns = \"off\"\n");
    let mut stand = Stand::with(lab, &setup);
    let (resolver, service) = (stand.resolver.address, stand.web.service.clone());
    resolves(&mut stand.web, ("udp", resolver), "api.test", "203.0.113.1");
    stand.agent.sees(&edge(&service, "ip:203.0.113.1"));
    assert_eq!(stand.agent.json(&["status"])["lookups"], Value::Null);
}

#[test]
fn the_next_agent_takes_up_what_is_heard() {
    let lab = lab();
    let bpffs = lab.bpffs();
    let setup = Setup::mode("learn").within(&lab, "").pinned(&bpffs.pins());
    let mut stand = Stand::with(lab, &setup).heard();
    stand.resolves("udp", "api.test", "203.0.113.1");
    let seen = |stand: &Stand| {
        let map = stand.agent.json(&["map"]);
        let own = |it: &&Value| it["edge"]["client"] == *stand.web.service.name;
        map.as_array().into_iter().flatten().filter(own).count()
    };
    let before = seen(&stand);
    stand.agent.kill();
    is_heard(&stand.web.service).expect("it stays");
    // Nobody hears this answer; the address has its name.
    let resolver = stand.resolver.address;
    asks(&mut stand.web, "udp", resolver, "api.test");
    stand.agent.start();
    stand.hears(1);
    stand.web.is_refused("203.0.113.1:443".parse().expect("an address"));
    stand.resolves("udp", "later.test", "203.0.113.9");
    assert_eq!(seen(&stand), before + 1, "{}", stand.agent.text(&["map"]));
    let Stand { mut agent, .. } = stand;
    agent.end(rustix::process::Signal::INT);
    drop(bpffs);
}
