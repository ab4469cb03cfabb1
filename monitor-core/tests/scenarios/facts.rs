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
