//! Facts in any order: nothing panics, nothing is left behind, and what was stored gives the answers that
//! the living directory gives.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use monitor_core::directory::{
    ClusterService, Container, Directory, EndpointPort, Endpoints, Fact, Identity, Key, Kind, Node,
    Pod, ServicePort, Source, Subject,
};
use monitor_core::edge::Port;
use monitor_core::flow::Protocol;
use monitor_core::ids::{ServiceName, WallTime};
use proptest::prelude::*;

/// So few of each kind that they meet.
const IDS: u8 = 4;

const fn second(second: i64) -> WallTime {
    WallTime(second * 1_000_000)
}

const fn address(kind: Kind, id: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, kind as u8, id))
}

fn id(id: u8) -> Arc<str> {
    format!("{id}").into()
}

fn service(kind: Kind, id: u8) -> ServiceName {
    ServiceName::new("k8s", &format!("n/{kind:?}/{id}"))
}

/// Each holds addresses of its own: whose one that two claim is depends on who said so last.
fn subject(kind: Kind, number: u8, other: u8) -> Subject {
    let port = |name: &str| (Arc::<str>::from(name), Protocol::Tcp, 80 + u16::from(number));
    match kind {
        Kind::Container => Subject::Container(Container {
            id: id(number),
            service: other.is_multiple_of(2).then(|| service(kind, other)),
            pod: (other > 1).then(|| id(other)),
            name: Some(id(other)),
            image: None,
            addresses: vec![address(kind, number)],
            since: None,
        }),
        Kind::Pod => Subject::Pod(Pod {
            uid: id(number),
            alias: None,
            service: service(kind, other),
            node: id(other),
            addresses: vec![address(kind, number)],
            since: None,
            containers: Vec::new(),
        }),
        Kind::Service => {
            let (name, protocol, port) = port("");
            Subject::Service(ClusterService {
                service: service(kind, number),
                addresses: vec![address(kind, number)],
                ports: vec![ServicePort { name, protocol, port, node_port: Some(30_000 + port) }],
            })
        }
        Kind::Endpoints => {
            let (name, protocol, port) = port("");
            Subject::Endpoints(Endpoints {
                slice: id(number),
                service: service(Kind::Service, other),
                addresses: vec![(address(Kind::Pod, other), Some(id(other)))],
                ports: vec![EndpointPort { name, protocol, port }],
            })
        }
        Kind::Node => {
            Subject::Node(Node { name: id(number), addresses: vec![address(kind, number)] })
        }
    }
}

fn facts() -> impl Strategy<Value = Vec<Fact>> {
    let source = proptest::sample::select(Source::ALL.to_vec());
    let kind = proptest::sample::select(Kind::ALL.to_vec());
    let fact =
        (0..8_u8, source, kind, 0..IDS, 0..IDS).prop_map(|(what, source, kind, own, other)| {
            // Only runtimes have containers, only the cluster the rest; each container has one runtime.
            let source = match kind {
                Kind::Container if source == Source::Kubernetes => Source::Docker,
                Kind::Container => source,
                _ => Source::Kubernetes,
            };
            let own = if kind == Kind::Container { own + IDS * source as u8 } else { own };
            let subject = subject(kind, own, other);
            match what {
                0 => Fact::Listing(source, kind),
                1 => Fact::Listed(source, kind),
                2 => Fact::Gone(subject.key(source)),
                3 => Fact::Away(source, "gone".to_owned()),
                4 => Fact::Present(source),
                _ => Fact::Is(source, Box::new(subject)),
            }
        });
    proptest::collection::vec(fact, 0..60)
}

/// Everything that can be asked, at that moment.
fn answers(directory: &Directory, at: WallTime) -> Vec<String> {
    let mut answers = Vec::new();
    for number in 0..IDS * 5 {
        let pod = Some(id(number));
        let identity: Identity = directory.identity(Some(&id(number)), pod.as_deref());
        answers.push(format!("{identity:?}"));
        for kind in Kind::ALL {
            let address = address(kind, number);
            for number in (80..88).chain(30_080..30_088) {
                let port = Port { number, protocol: Protocol::Tcp };
                let shared = directory.shared(address, port);
                answers.push(format!("{:?} {shared:?}", directory.server(address, port, at)));
            }
            answers.push(format!("{:?}", directory.client(address, at)));
        }
    }
    answers
}

proptest! {
    #[test]
    fn what_is_stored_answers_as_what_is_alive(facts in facts()) {
        let mut directory = Directory::default();
        let mut stored: BTreeMap<Key, Subject> = BTreeMap::new();
        for (at, fact) in (0..).zip(facts) {
            for (key, subject) in directory.take(second(at), fact).stored {
                match subject {
                    Some(subject) => drop(stored.insert(key, subject)),
                    None => drop(stored.remove(&key)),
                }
            }
        }
        let told = stored.keys().map(|key| (key.source, key.kind));
        let mut counts: BTreeMap<(Source, Kind), usize> = BTreeMap::new();
        told.for_each(|it| *counts.entry(it).or_default() += 1);
        for source in Source::ALL {
            for kind in Kind::ALL {
                let count = counts.get(&(source, kind)).copied().unwrap_or(0);
                prop_assert_eq!(directory.count(source, kind), count);
            }
        }
        // What is gone answers for a while, and no longer.
        directory.take(second(10_000), Fact::Present(Source::Docker));
        let mut restored = Directory::default();
        restored.restore(
            second(10_000),
            stored.into_iter().map(|(key, subject)| (key.source, subject)).collect(),
        );
        let at = second(20_000);
        let both = answers(&directory, at).into_iter().zip(answers(&restored, at));
        for (alive, restored) in both {
            prop_assert_eq!(alive, restored);
        }
    }
}

/// Who was told to hold an address, and until when that may be believed.
struct Claim {
    who: u8,
    address: IpAddr,
    from: i64,
    left: Option<i64>,
}

/// What happens to one of a few pods: it is told with some of a few addresses, or is gone.
#[derive(Debug, Clone)]
struct Event {
    after_s: i64,
    who: u8,
    /// None where it goes.
    addresses: Option<Vec<IpAddr>>,
    since_s: Option<i64>,
    /// Of what it is: another one is another state of the same pod.
    service: u8,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let addresses = proptest::collection::btree_set(0..3_u8, 0..3);
    let addresses = addresses.prop_map(|of| of.into_iter().map(|it| address(Kind::Pod, it)));
    let addresses = proptest::option::weighted(0.8, addresses.prop_map(Iterator::collect));
    let since = proptest::option::of(-30..30_i64);
    let event = (0..15_i64, 0..IDS, addresses, since, 0..2_u8);
    let event = event.prop_map(|(after_s, who, addresses, since_s, service)| Event {
        after_s,
        who,
        addresses,
        since_s,
        service,
    });
    proptest::collection::vec(event, 1..40)
}

fn pod(event: &Event, now: i64) -> Subject {
    Subject::Pod(Pod {
        uid: id(event.who),
        alias: None,
        service: service(Kind::Pod, event.who),
        node: id(event.service),
        addresses: event.addresses.clone().unwrap_or_default(),
        since: event.since_s.map(|it| second(now + it)),
        containers: Vec::new(),
    })
}

proptest! {
    /// An address is the one's who was told last to take it up and has not left it; at an earlier moment
    /// it is nobody's who had left it by then, or who only came later.
    #[test]
    fn nobody_has_the_name_of_another_tenancy(events in events()) {
        let mut directory = Directory::default();
        let mut claims: Vec<Claim> = Vec::new();
        let mut last: BTreeMap<u8, Option<Subject>> = BTreeMap::new();
        let mut now = 1_000;
        for event in &events {
            now += event.after_s;
            let subject = pod(event, now);
            let holds = event.addresses.clone().unwrap_or_default();
            let own = claims.iter_mut().filter(|it| it.who == event.who && it.left.is_none());
            own.filter(|it| !holds.contains(&it.address)).for_each(|it| it.left = Some(now));
            // What was told before says nothing new.
            let told = event.addresses.is_some().then(|| subject.clone());
            let before = last.insert(event.who, told.clone()).flatten();
            let is_news = before != told;
            let before = before.map_or_else(Vec::new, |it| match it {
                Subject::Pod(pod) => pod.addresses,
                _ => Vec::new(),
            });
            for address in holds.into_iter().filter(|_| is_news) {
                let mut there =
                    claims.iter_mut().filter(|it| it.address == address && it.left.is_none());
                // Told again with what it had, it takes nothing from whoever took that up since.
                let holder = there.next();
                if holder.as_ref().is_some_and(|it| it.who == event.who || before.contains(&address)) {
                    continue;
                }
                if let Some(holder) = holder {
                    holder.left = Some(now);
                }
                let from = now + event.since_s.unwrap_or(0).min(0) - 10;
                claims.push(Claim { who: event.who, address, from, left: None });
            }
            let source = Source::Kubernetes;
            directory.take(second(now), match event.addresses {
                Some(_) => Fact::Is(source, Box::new(subject)),
                None => Fact::Gone(subject.key(source)),
            });
            for (it, moment) in (0..3_u8).flat_map(|it| (0..60).map(move |ago| (it, now - ago))) {
                let address = address(Kind::Pod, it);
                let said = directory.client(address, second(moment));
                let of = |claim: &&Claim| claim.address == address;
                if let Some(said) = &said {
                    let is_right = |claim: &Claim| {
                        *said == service(Kind::Pod, claim.who)
                            && claim.from <= moment
                            && claim.left.is_none_or(|left| moment < left)
                    };
                    prop_assert!(claims.iter().filter(of).any(is_right), "{said} at {moment}");
                }
                if moment == now {
                    let holder = claims.iter().filter(of).find(|it| it.left.is_none());
                    prop_assert_eq!(said, holder.map(|it| service(Kind::Pod, it.who)));
                }
            }
        }
    }
}
