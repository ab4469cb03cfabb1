//! Addresses outside by the names that each service asked for, and answers that name nothing.

use std::net::{IpAddr, SocketAddr};

use monitor_core::attribute::Workload;
use monitor_core::baseline::Mode;
use monitor_core::delivery::Message;
use monitor_core::dns::{Data, Lookup, Message as Told, Name, Near, Question, Record, Said};
use monitor_core::edge::Edge;
use monitor_core::engine::{Effect, Input};
use monitor_core::flow::{Direction, Outcome};
use monitor_core::ids::{CgroupId, NetnsCookie, ServiceName, WallTime};

use crate::stage::{Stage, flow, ip, key};

const RESOLVER: &str = "192.0.2.53:53";

/// A question with the end it was asked from; its answer has to match all of it.
#[derive(Clone)]
struct Asking {
    cgroup: CgroupId,
    id: u16,
    name: String,
    client: SocketAddr,
    resolver: SocketAddr,
}

impl Asking {
    fn of(cgroup: CgroupId, name: &str) -> Self {
        let client = SocketAddr::from(([10, 0, 0, 1], 50_000));
        let resolver = RESOLVER.parse().unwrap();
        Self { cgroup, id: 7, name: name.to_owned(), client, resolver }
    }

    fn step(&self, stage: &mut Stage, said: Said) {
        let question = Question { name: name(&self.name), kind: 1 };
        let message = Told { id: self.id, question, said };
        let Self { cgroup, client, resolver, .. } = *self;
        let (at, near) = (stage.now.wall, Near::Unknown);
        stage.step(Input::LookedUp(Lookup { cgroup, at, client, resolver, near, message }));
    }

    fn ask(&self, stage: &mut Stage) {
        self.step(stage, Said::Asked);
    }

    fn answer(&self, stage: &mut Stage, records: Vec<Record>) {
        self.step(stage, Said::Answered(records));
    }
}

fn name(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

fn record(owner: &str, data: Data) -> Record {
    Record { owner: name(owner), ttl_s: 60, data }
}

fn at(owner: &str, address: &str) -> Record {
    record(owner, Data::Address(address.parse().unwrap()))
}

fn alias(owner: &str, of: &str) -> Record {
    record(owner, Data::Alias(name(of)))
}

/// The service asks for a name and is told this address.
fn resolves(stage: &mut Stage, service: &str, asked: &str, address: &str) {
    let cgroup = stage.cgroup(service);
    let asking = Asking::of(cgroup, asked);
    asking.ask(stage);
    asking.answer(stage, vec![at(asked, address)]);
}

fn dials(stage: &mut Stage, service: &str, to: &str) {
    stage.dial(service, to, "443/tcp", "established", "/bin/app");
    let later = stage.now.boot.0 / 1_000_000 + 500;
    stage.until(later);
}

/// The edges but those to resolvers, short.
fn map(stage: &Stage) -> Vec<String> {
    let edges = stage.engine.map(stage.now.wall);
    let edges = edges.iter().map(|it| Edge::from(&it.edge).to_string());
    edges.map(|it| it.replace("systemd:", "").replace(".service", "")).collect()
}

/// Why the first finding is one.
fn reasons(stage: &Stage) -> Vec<String> {
    let Message::Alert(alert) = &stage.sent[0] else { panic!("no alert") };
    alert.findings[0].reasons.iter().map(|it| it.name.clone()).collect()
}

fn unasked(stage: &Stage) -> u64 {
    let losses = stage.engine.status(stage.now.wall).lost;
    losses.get(&monitor_core::flow::Loss::Unasked).copied().unwrap_or(0)
}

#[test]
fn each_service_means_an_address_by_the_name_that_it_asked_for() {
    let mut stage = Stage::new(Mode::Auto);
    resolves(&mut stage, "a", "api.example.org", "203.0.113.1");
    resolves(&mut stage, "b", "WWW.Example.com", "203.0.113.1");
    dials(&mut stage, "a", "203.0.113.1");
    dials(&mut stage, "b", "203.0.113.1");
    // Nobody told it: neither does what others were told say so, whose own answers are seen.
    resolves(&mut stage, "c", "other.example.org", "203.0.113.9");
    dials(&mut stage, "c", "203.0.113.1");
    assert_eq!(
        map(&stage),
        [
            "a -> dns:api.example.org 443/tcp",
            "b -> dns:www.example.com 443/tcp",
            "c -> ip:203.0.113.1 443/tcp",
        ]
    );
    assert_eq!(unasked(&stage), 0);
}

#[test]
fn an_answer_that_nobody_asked_for_names_nothing() {
    let mut stage = Stage::new(Mode::Auto);
    let a = stage.cgroup("a");
    let asked = Asking::of(a, "api.example.org");
    let other = |change: fn(&mut Asking)| {
        let mut it = asked.clone();
        change(&mut it);
        it
    };
    let lies = [
        other(|it| it.id = 8),
        other(|it| it.name = "api.example.com".to_owned()),
        other(|it| it.client.set_port(50_001)),
        other(|it| it.resolver.set_port(5353)),
        other(|it| it.resolver.set_ip([203, 0, 113, 9].into())),
        other(|it| it.cgroup = CgroupId(999)),
    ];
    asked.ask(&mut stage);
    for lie in &lies {
        lie.answer(&mut stage, vec![at(&lie.name, "203.0.113.9")]);
    }
    assert_eq!(unasked(&stage), lies.len() as u64);
    dials(&mut stage, "a", "203.0.113.9");
    // The right one comes, and only once; a late one finds nobody who waits.
    asked.answer(&mut stage, vec![at("api.example.org", "203.0.113.1")]);
    asked.answer(&mut stage, vec![at("api.example.org", "203.0.113.8")]);
    asked.ask(&mut stage);
    stage.until(60_000);
    asked.answer(&mut stage, vec![at("api.example.org", "203.0.113.7")]);
    for to in ["203.0.113.1", "203.0.113.8", "203.0.113.7"] {
        dials(&mut stage, "a", to);
    }
    assert_eq!(
        map(&stage),
        [
            "a -> dns:api.example.org 443/tcp",
            "a -> ip:203.0.113.7 443/tcp",
            "a -> ip:203.0.113.8 443/tcp",
            "a -> ip:203.0.113.9 443/tcp",
        ]
    );
    assert_eq!(unasked(&stage), lies.len() as u64 + 2);
}

#[test]
fn a_guarded_service_is_told_names_by_resolvers_that_it_may_ask_alone() {
    let mut stage = Stage::new(Mode::Auto);
    let a = stage.cgroup("a");
    stage.dial("a", "192.0.2.53", "53/udp", "established", "/bin/app");
    resolves(&mut stage, "a", "api.example.org", "203.0.113.1");
    dials(&mut stage, "a", "203.0.113.1");
    stage.guard("systemd:a.service");
    resolves(&mut stage, "a", "api.example.org", "203.0.113.2");
    dials(&mut stage, "a", "203.0.113.2");
    assert_eq!(stage.said, "");
    // Its hijacker asks a resolver of his own for a name that is allowed.
    let resolver = "203.0.113.66:53".parse().unwrap();
    let own = Asking { resolver, ..Asking::of(a, "api.example.org") };
    own.ask(&mut stage);
    own.answer(&mut stage, vec![at("api.example.org", "203.0.113.66")]);
    dials(&mut stage, "a", "203.0.113.66");
    assert_eq!(
        stage.said,
        "firing high: new-peer a -> ip:203.0.113.66 443/tcp established with /bin/app;\n"
    );
    assert_eq!(unasked(&stage), 1);
}

#[test]
fn a_resolver_that_may_be_the_asker_itself_is_not_believed() {
    let mut stage = Stage::new(Mode::Auto);
    let a = stage.cgroup("a");
    let own: IpAddr = [10, 0, 0, 1].into();
    stage.step(Input::Addresses { netns: NetnsCookie(1), addresses: vec![own] });
    for (resolver, address) in
        [("127.0.0.1", "203.0.113.1"), ("10.0.0.1", "203.0.113.2"), ("127.0.0.11", "203.0.113.3")]
    {
        stage.dial("a", resolver, "53/udp", "attempted", "/bin/app");
        let resolver = SocketAddr::new(resolver.parse().unwrap(), 53);
        let asking = Asking { resolver, ..Asking::of(a, "api.example.org") };
        asking.ask(&mut stage);
        asking.answer(&mut stage, vec![at("api.example.org", address)]);
        dials(&mut stage, "a", address);
    }
    let seen = map(&stage);
    for edge in [
        "a -> ip:203.0.113.1 443/tcp",
        "a -> ip:203.0.113.2 443/tcp",
        "a -> dns:api.example.org 443/tcp",
    ] {
        assert!(seen.contains(&edge.to_owned()), "{seen:?}");
    }
    assert_eq!(unasked(&stage), 2);

    // The same resolver is believed where another service is seen to serve there.
    let mut stage = Stage::new(Mode::Auto);
    let (a, resolved) = (stage.cgroup("a"), stage.cgroup("resolved"));
    let served = key(resolved, Direction::Inbound, ip("127.0.0.1"), "53/udp", Outcome::Sent);
    let client = SocketAddr::from(([127, 0, 0, 1], 50_000));
    stage.step(Input::Flow(flow(stage.now.wall, served, Some(client), "")));
    stage.dial("a", "127.0.0.53", "53/udp", "attempted", "/bin/app");
    let resolver = "127.0.0.53:53".parse().unwrap();
    let asking = Asking { resolver, client, ..Asking::of(a, "api.example.org") };
    asking.ask(&mut stage);
    asking.answer(&mut stage, vec![at("api.example.org", "203.0.113.1")]);
    dials(&mut stage, "a", "203.0.113.1");
    let seen = map(&stage);
    assert!(seen.contains(&"a -> dns:api.example.org 443/tcp".to_owned()), "{seen:?}");
}

#[test]
fn a_name_whose_addresses_rotate_is_one_peer() {
    let mut stage = Stage::new(Mode::Auto);
    resolves(&mut stage, "a", "api.example.org", "203.0.113.1");
    dials(&mut stage, "a", "203.0.113.1");
    stage.dial("a", "192.0.2.53", "53/udp", "established", "/bin/app");
    stage.until(1_000);
    stage.guard("systemd:a.service");
    for second in 0..600_u32 {
        let address = IpAddr::from((0xc633_6400_u32 + second).to_be_bytes()).to_string();
        resolves(&mut stage, "a", "api.example.org", &address);
        dials(&mut stage, "a", &address);
        stage.until(2_000 + 1_000 * u64::from(second));
    }
    assert_eq!(stage.said, "");
    assert_eq!(map(&stage), ["a -> dns:api.example.org 443/tcp", "a -> ip:192.0.2.53 53/udp"]);
}

#[test]
fn an_expired_answer_stays_a_name_also_after_a_restart() {
    let mut stage = Stage::new(Mode::Auto);
    resolves(&mut stage, "a", "api.example.org", "203.0.113.1");
    dials(&mut stage, "a", "203.0.113.1");
    stage.guard("systemd:a.service");
    stage.until(7_200_000);
    stage.dial("a", "203.0.113.1", "8443/tcp", "established", "/bin/app");
    stage.until(7_201_000);
    assert_eq!(
        stage.said,
        "firing medium: new-port a -> dns:api.example.org 8443/tcp established with /bin/app;\n"
    );
    assert!(reasons(&stage).contains(&"stale".to_owned()), "{:?}", reasons(&stage));
    stage.restart(Mode::Auto);
    stage.said.clear();
    dials(&mut stage, "a", "203.0.113.1");
    assert_eq!(stage.said, "");
    assert!(!map(&stage).iter().any(|it| it.contains("ip:")), "{:?}", map(&stage));
}

#[test]
fn what_others_were_told_serves_those_whose_answers_cannot_be_seen() {
    let mut stage = Stage::new(Mode::Auto);
    dials(&mut stage, "a", "203.0.113.2");
    resolves(&mut stage, "resolved", "api.example.org", "203.0.113.1");
    stage.guard("systemd:a.service");
    dials(&mut stage, "a", "203.0.113.1");
    assert_eq!(
        stage.said,
        "firing high: new-peer a -> dns:api.example.org 443/tcp established with /bin/app;\n"
    );
    assert!(reasons(&stage).contains(&"shared".to_owned()), "{:?}", reasons(&stage));
}

#[test]
fn of_several_names_the_one_asked_for_last_is_meant_and_the_kernel_tells_it_again() {
    let mut stage = Stage::new(Mode::Auto);
    let a = stage.cgroup("a");
    dials(&mut stage, "a", "203.0.113.1");
    assert_eq!(map(&stage), ["a -> ip:203.0.113.1 443/tcp"]);
    let (first, last) = (Asking::of(a, "one.example.org"), Asking::of(a, "two.example.org"));
    first.ask(&mut stage);
    stage.until(600);
    last.ask(&mut stage);
    last.answer(&mut stage, vec![at("two.example.org", "203.0.113.1")]);
    assert!(stage.unknown.contains(&"203.0.113.1".parse().unwrap()));
    stage.unknown.clear();
    // Overtaken by the other.
    first.answer(&mut stage, vec![at("one.example.org", "203.0.113.1")]);
    assert!(stage.unknown.is_empty());
    dials(&mut stage, "a", "203.0.113.1");
    assert!(map(&stage).contains(&"a -> dns:two.example.org 443/tcp".to_owned()));
    // The same name again is nothing new.
    resolves(&mut stage, "a", "two.example.org", "203.0.113.1");
    assert!(stage.unknown.is_empty());
    resolves(&mut stage, "a", "one.example.org", "203.0.113.1");
    assert!(stage.unknown.contains(&"203.0.113.1".parse().unwrap()));
}

#[test]
fn a_chain_of_names_is_followed_from_the_question_alone() {
    let mut stage = Stage::new(Mode::Auto);
    let a = stage.cgroup("a");
    let asking = Asking::of(a, "www.example.org");
    asking.ask(&mut stage);
    asking.answer(
        &mut stage,
        vec![
            at("edge.cdn.example", "203.0.113.1"),
            at("edge.cdn.example", "2001:db8::1"),
            at("bank.example", "203.0.113.9"),
            alias("cdn.example", "edge.cdn.example"),
            alias("www.example.org", "cdn.example"),
        ],
    );
    let circle = Asking::of(a, "loop.example.org");
    circle.ask(&mut stage);
    circle.answer(
        &mut stage,
        vec![
            alias("loop.example.org", "b.example.org"),
            alias("b.example.org", "loop.example.org"),
            at("c.example.org", "203.0.113.8"),
        ],
    );
    let many = Asking::of(a, "many.example.org");
    many.ask(&mut stage);
    let mut records = vec![at("other.example.org", "203.0.113.7"); 1_000];
    records.push(at("many.example.org", "203.0.113.7"));
    many.answer(&mut stage, records);
    for to in ["203.0.113.1", "2001:db8::1", "203.0.113.9", "203.0.113.8", "203.0.113.7"] {
        dials(&mut stage, "a", to);
    }
    assert_eq!(
        map(&stage),
        [
            "a -> dns:www.example.org 443/tcp",
            "a -> ip:203.0.113.7 443/tcp",
            "a -> ip:203.0.113.8 443/tcp",
            "a -> ip:203.0.113.9 443/tcp",
        ]
    );
}

#[test]
fn no_name_hides_who_hands_out_keys_or_who_is_known() {
    let mut stage = Stage::new(Mode::Auto);
    resolves(&mut stage, "a", "api.example.org", "169.254.169.254");
    resolves(&mut stage, "a", "api.example.org", "127.0.0.1");
    resolves(&mut stage, "a", "api.example.org", "192.88.99.7");
    for to in ["169.254.169.254", "127.0.0.1", "192.88.99.7", "192.88.99.8"] {
        dials(&mut stage, "a", to);
    }
    assert_eq!(
        map(&stage),
        [
            "a -> dns:api.example.org 443/tcp",
            "a -> net:office 443/tcp",
            "a -> ip:127.0.0.1 443/tcp",
            "a -> ip:169.254.169.254 443/tcp",
        ]
    );
}

#[test]
fn who_fills_the_table_of_questions_loses_his_own() {
    let mut stage = Stage::new(Mode::Auto);
    let (a, b) = (stage.cgroup("a"), stage.cgroup("b"));
    let waits = Asking::of(b, "b.example.org");
    waits.ask(&mut stage);
    let first = Asking::of(a, "first.example.org");
    first.ask(&mut stage);
    for number in 0..10_000 {
        Asking::of(a, &format!("{number}.example.org")).ask(&mut stage);
    }
    first.answer(&mut stage, vec![at("first.example.org", "203.0.113.1")]);
    waits.answer(&mut stage, vec![at("b.example.org", "203.0.113.2")]);
    dials(&mut stage, "a", "203.0.113.1");
    dials(&mut stage, "b", "203.0.113.2");
    assert_eq!(map(&stage), ["a -> ip:203.0.113.1 443/tcp", "b -> dns:b.example.org 443/tcp"]);
}

#[test]
fn a_new_name_is_told_by_whether_others_of_its_domain_are_known() {
    let mut stage = Stage::new(Mode::Auto);
    stage.dial("a", "192.0.2.53", "53/udp", "established", "/bin/app");
    for (number, known) in
        ["api.stripe.com", "files.stripe.com", "evil.github.io"].iter().enumerate()
    {
        let address = format!("203.0.113.{number}");
        resolves(&mut stage, "a", known, &address);
        dials(&mut stage, "a", &address);
    }
    stage.guard("systemd:a.service");
    let finding = |stage: &mut Stage, name: &str, address: &str| {
        resolves(stage, "a", name, address);
        dials(stage, "a", address);
        let alerts = stage.engine.alerts(stage.now.wall);
        let mut findings = alerts.iter().flat_map(|it| &it.findings);
        let about = |it: &&std::sync::Arc<_>| {
            let it: &monitor_core::incident::AlertFinding = it;
            it.edge.as_ref().is_some_and(|it| it.server.to_string() == format!("dns:{name}"))
        };
        let finding = findings.find(about).unwrap_or_else(|| panic!("{}", stage.said)).clone();
        let domain = finding.edge.as_ref().unwrap().registered_domain.clone();
        let reason = finding.reasons.iter().find(|it| it.name.ends_with("-domain")).unwrap();
        (domain.unwrap().to_string(), reason.text.clone(), finding.score)
    };
    let (domain, text, known) = finding(&mut stage, "m.stripe.com", "203.0.113.20");
    assert_eq!(domain, "stripe.com");
    assert_eq!(text, "a new name under stripe.com, of which systemd:a.service knows 2");
    let (domain, text, new) = finding(&mut stage, "a.example.co.uk", "203.0.113.21");
    assert_eq!(domain, "example.co.uk");
    assert_eq!(text, "the first name under example.co.uk that systemd:a.service dials");
    assert!(new > known, "{new} {known}");
    // Below some domains everybody has a place of his own.
    let (domain, text, _) = finding(&mut stage, "worse.github.io", "203.0.113.22");
    assert_eq!(domain, "worse.github.io");
    assert!(text.starts_with("the first name under worse.github.io "), "{text}");
}

#[test]
fn who_is_known_to_ask_is_heard_from_the_beginning() {
    let mut stage = Stage::new(Mode::Auto);
    let a = stage.cgroup("a");
    stage.dial("a", "192.0.2.53", "53/udp", "established", "/bin/app");
    dials(&mut stage, "b", "192.0.2.53");
    assert!(stage.heard.is_empty(), "it is attached where it first asks");
    for (number, service) in [(71, "a.service"), (72, "b.service")] {
        appears(&mut stage, number, service);
    }
    assert_eq!(stage.heard, [CgroupId(71)].into());
    stage.until(40_000);
    stage.restart(Mode::Auto);
    stage.heard.clear();
    appears(&mut stage, 73, "a.service");
    assert_eq!(stage.heard, [CgroupId(73)].into());
    assert_ne!(a, CgroupId(73));
}

fn appears(stage: &mut Stage, cgroup: u64, service: &str) {
    let workload = Workload {
        service: ServiceName::new("systemd", service),
        container: None,
        container_name: None,
        pod: None,
        image: None,
        cgroup: "/somewhere".to_owned(),
        node: None,
    };
    stage.step(Input::Workload { cgroup: CgroupId(cgroup), workload });
}

#[test]
fn what_is_dialled_after_an_answer_is_meant_by_its_name() {
    let mut stage = Stage::new(Mode::Auto);
    resolves(&mut stage, "a", "one.example.org", "203.0.113.1");
    dials(&mut stage, "a", "203.0.113.1");
    let asking = Asking::of(stage.cgroup("a"), "two.example.org");
    asking.ask(&mut stage);
    let question = Question { name: name("two.example.org"), kind: 1 };
    let said = Said::Answered(vec![at("two.example.org", "203.0.113.1")]);
    let (cgroup, at) = (asking.cgroup, stage.now.wall);
    let Asking { client, resolver, .. } = asking;
    let message = Told { id: 7, question, said };
    let answer = Lookup { cgroup, at, client, resolver, near: Near::Unknown, message };
    let effects = stage.engine.step(stage.now, Input::LookedUp(answer));
    // The kernel took it for what it knew: what came since is told at once.
    let since = effects.iter().find_map(|it| match it {
        Effect::Unknow(addresses) => addresses.get(&"203.0.113.1".parse().unwrap()).copied(),
        _ => None,
    });
    assert_eq!(since, Some(Some(WallTime(at.0 - 10_000))), "a tick before");
}

#[test]
fn what_comes_from_ones_own_address_is_not_believed_where_no_address_is_known() {
    let mut stage = Stage::new(Mode::Auto);
    let asking = Asking::of(stage.cgroup("a"), "api.example.org");
    asking.ask(&mut stage);
    let Asking { cgroup, client, resolver, .. } = asking;
    let question = Question { name: name("api.example.org"), kind: 1 };
    let said = Said::Answered(vec![at("api.example.org", "203.0.113.1")]);
    let message = Told { id: 7, question, said };
    let at = stage.now.wall;
    let answer = Lookup { cgroup, at, client, resolver, near: Near::SameAddress, message };
    stage.step(Input::LookedUp(answer));
    dials(&mut stage, "a", "203.0.113.1");
    assert_eq!(map(&stage), ["a -> ip:203.0.113.1 443/tcp"]);
    assert_eq!(unasked(&stage), 1);
}

#[test]
fn who_asks_by_tcp_alone_is_told_names_too() {
    let mut stage = Stage::new(Mode::Auto);
    stage.dial("a", "192.0.2.53", "53/tcp", "established", "/bin/app");
    stage.until(1_000);
    stage.guard("systemd:a.service");
    resolves(&mut stage, "a", "api.example.org", "203.0.113.1");
    dials(&mut stage, "a", "203.0.113.1");
    assert!(stage.said.contains("dns:api.example.org"), "{}", stage.said);
    assert_eq!(unasked(&stage), 0);
}
