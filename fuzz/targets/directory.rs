//! Facts in any order, at any moment, of which many meet: nothing panics, nothing grows beyond what was
//! told, and nobody is ever called what nobody was told to be. Six bytes are a step.
#![no_main]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use monitor_core::directory::{
    ClusterService, Container, Directory, EndpointPort, Endpoints, Fact, Kind, Node, Pod,
    ServicePort, Source, Subject,
};
use monitor_core::edge::Port;
use monitor_core::flow::Protocol;
use monitor_core::ids::{ServiceName, WallTime};

/// What there is of each.
const FEW: u8 = 5;

fuzz_target!(|bytes: &[u8]| {
    let (steps, _) = bytes.as_chunks::<6>();
    let mut directory = Directory::default();
    let mut told: BTreeSet<ServiceName> = BTreeSet::new();
    let mut is: BTreeSet<(Source, Kind, Arc<str>)> = BTreeSet::new();
    let mut now = 0_i64;
    for &[what, who, a, b, c, time] in steps {
        // Now and then the clock is set back.
        now += if time == 255 { -60 } else { i64::from(time % 64) };
        let source = Source::ALL[usize::from(who / 8) % Source::ALL.len()];
        let kind = Kind::ALL[usize::from(what / 8) % Kind::ALL.len()];
        let subject = subject(kind, who % FEW, [a, b, c], now);
        let key = subject.key(source);
        let fact = match what % 8 {
            0 => Fact::Gone(key),
            1 => Fact::Listing(source, kind),
            2 => Fact::Listed(source, kind),
            3 => Fact::Away(source, "gone".to_owned()),
            4 => Fact::Present(source),
            _ => {
                told.extend(names(&subject));
                Fact::Is(source, Box::new(subject))
            }
        };
        let changed = directory.take(WallTime(now * 1_000_000), fact);
        for (key, subject) in changed.stored {
            let it = (key.source, key.kind, key.id);
            match subject {
                Some(_) => is.insert(it),
                None => is.remove(&it),
            };
        }
        check(&directory, &told, &is, now, i64::from(b));
    }
});

fn check(
    directory: &Directory,
    told: &BTreeSet<ServiceName>,
    is: &BTreeSet<(Source, Kind, Arc<str>)>,
    now: i64,
    ago: i64,
) {
    let moment = WallTime((now - ago) * 1_000_000);
    for source in Source::ALL {
        for kind in Kind::ALL {
            let count = is.iter().filter(|(s, k, _)| (*s, *k) == (source, kind)).count();
            assert_eq!(directory.count(source, kind), count, "{source} {kind:?}");
        }
    }
    let known = |name: &ServiceName| told.contains(name) || name.scheme() == "host";
    for number in 0..FEW {
        let identity = directory.identity(Some(&id(number)), Some(&id(number)));
        assert!(identity.service.iter().all(known), "{identity:?}");
        let address = address(number);
        assert!(directory.client(address, moment).iter().all(known));
        for number in [80, 81, 30_080] {
            let port = Port { number, protocol: Protocol::Tcp };
            let served = directory.server(address, port, moment);
            assert!(served.iter().all(|it| known(&it.service)), "{served:?}");
            assert!(directory.shared(address, port).iter().all(known));
        }
        // Nobody's for ever, or since a moment that has been.
        let since = directory.held_since(address);
        assert!(since.is_none_or(|it| it <= WallTime((now + 60 * 64) * 1_000_000)), "{since:?}");
    }
}

fn names(subject: &Subject) -> Vec<ServiceName> {
    match subject {
        Subject::Container(container) => container.service.iter().cloned().collect(),
        Subject::Pod(pod) => vec![pod.service.clone()],
        Subject::Service(service) => vec![service.service.clone()],
        Subject::Endpoints(endpoints) => vec![endpoints.service.clone()],
        Subject::Node(_) => Vec::new(),
    }
}

fn id(number: u8) -> Arc<str> {
    number.to_string().into()
}

fn address(number: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, number).into()
}

/// The addresses whose bits are set.
fn addresses(bits: u8) -> Vec<IpAddr> {
    (0..FEW).filter(|it| bits & (1 << it) != 0).map(address).collect()
}

fn service(kind: Kind, number: u8) -> ServiceName {
    ServiceName::new("k8s", &format!("n/{kind:?}/{number}"))
}

fn subject(kind: Kind, number: u8, [a, b, c]: [u8; 3], now: i64) -> Subject {
    let since = (c & 1 != 0).then(|| WallTime((now + 32 - i64::from(c)) * 1_000_000));
    let container = |number: u8| Container {
        id: id(number),
        service: (b & 1 != 0).then(|| service(kind, b % FEW)),
        pod: (b & 2 != 0).then(|| id(c % FEW)),
        name: (b & 4 != 0).then(|| id(c % FEW)),
        image: None,
        addresses: addresses(a),
        since,
    };
    let port = 80 + u16::from(c & 2 != 0);
    match kind {
        Kind::Container => Subject::Container(container(number)),
        Kind::Pod => Subject::Pod(Pod {
            uid: id(number),
            alias: None,
            service: service(kind, b % FEW),
            node: id(c % FEW),
            addresses: addresses(a),
            since,
            containers: Vec::new(),
        }),
        Kind::Service => Subject::Service(ClusterService {
            service: service(kind, number),
            addresses: addresses(a),
            ports: vec![ServicePort {
                name: "".into(),
                protocol: Protocol::Tcp,
                port,
                node_port: (c & 4 != 0).then_some(30_080),
            }],
        }),
        Kind::Endpoints => Subject::Endpoints(Endpoints {
            slice: id(number),
            service: service(Kind::Service, b % FEW),
            addresses: addresses(a)
                .into_iter()
                .map(|it| (it, (c & 8 != 0).then(|| id(c % FEW))))
                .collect(),
            ports: vec![EndpointPort { name: "".into(), protocol: Protocol::Tcp, port }],
        }),
        Kind::Node => Subject::Node(Node { name: id(number), addresses: addresses(a) }),
    }
}
