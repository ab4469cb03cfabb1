//! Who is meant by an address, a port and a moment, and what facts leave behind.

use std::net::Ipv4Addr;

use super::*;
use crate::edge::Port;

const fn second(second: i64) -> WallTime {
    WallTime(second * 1_000_000)
}

const fn ip(third: u8, last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, third, last))
}

fn k8s(name: &str) -> ServiceName {
    ServiceName::new("k8s", name)
}

fn pod(uid: &str, owner: &str, address: IpAddr) -> Subject {
    Subject::Pod(Pod {
        uid: uid.into(),
        alias: None,
        service: k8s(owner),
        node: "n2".into(),
        addresses: vec![address],
        since: None,
        containers: Vec::new(),
    })
}

fn service(name: &str, address: Option<IpAddr>, node_port: Option<u16>) -> Subject {
    Subject::Service(ClusterService {
        service: k8s(name),
        addresses: address.into_iter().collect(),
        ports: vec![ServicePort { name: "".into(), protocol: Protocol::Tcp, port: 80, node_port }],
    })
}

fn endpoints(slice: &str, service: &str, addresses: &[(IpAddr, Option<&str>)]) -> Subject {
    Subject::Endpoints(Endpoints {
        slice: slice.into(),
        service: k8s(service),
        addresses: addresses.iter().map(|(ip, uid)| (*ip, uid.map(Arc::from))).collect(),
        ports: vec![EndpointPort { name: "".into(), protocol: Protocol::Tcp, port: 8080 }],
    })
}

fn container(id: &str, service: Option<&str>, address: Option<IpAddr>) -> Subject {
    Subject::Container(Container {
        id: id.into(),
        service: service.map(|it| ServiceName::new("compose", it)),
        pod: None,
        name: Some("main".into()),
        image: Some("sha256:1".into()),
        addresses: address.into_iter().collect(),
        since: None,
    })
}

fn told(at: i64, source: Source, subjects: impl IntoIterator<Item = Subject>) -> Directory {
    let mut directory = Directory::default();
    for subject in subjects {
        directory.take(second(at), Fact::Is(source, Box::new(subject)));
    }
    directory
}

fn cluster(subjects: impl IntoIterator<Item = Subject>) -> Directory {
    told(0, Source::Kubernetes, subjects)
}

const fn tcp(number: u16) -> Port {
    Port { number, protocol: Protocol::Tcp }
}

#[track_caller]
fn means(directory: &Directory, address: IpAddr, port: u16, name: &str) {
    let holder = directory.server(address, tcp(port), second(1));
    let holder = holder.map(|it| format!("{} {}", it.service, it.port.number));
    assert_eq!(holder.as_deref().unwrap_or("nobody"), name);
}

#[test]
fn a_container_is_named_by_its_runtime_and_a_pod_s_by_the_cluster() {
    let mut directory = told(0, Source::Docker, [container("c1", Some("shop/web"), None)]);
    let identity = directory.identity(Some("c1"), None);
    assert_eq!(identity.service.unwrap().as_str(), "compose:shop/web");
    assert_eq!(identity.image.as_deref(), Some("sha256:1"));
    assert_eq!(directory.identity(Some("c2"), None), Identity::default());

    // A runtime knows which pod, the cluster what that is.
    let Subject::Container(mut inner) = container("c3", None, None) else { unreachable!() };
    inner.pod = Some("u1".into());
    directory.take(second(0), Fact::Is(Source::Cri, Box::new(Subject::Container(inner))));
    assert_eq!(directory.identity(Some("c3"), None).service, None);
    let owned = pod("u1", "shop/Deployment/web", ip(0, 1));
    let changed = directory.take(second(1), Fact::Is(Source::Kubernetes, Box::new(owned)));
    assert!(changed.workloads.contains("u1"));
    let identity = directory.identity(Some("c3"), None);
    assert_eq!(identity.service.unwrap().as_str(), "k8s:shop/Deployment/web");
    assert_eq!(identity.container.as_deref(), Some("main"));
    assert_eq!(directory.identity(None, Some("u1")).service.unwrap(), k8s("shop/Deployment/web"));
}

#[test]
fn a_service_is_its_one_workload_and_itself_where_there_are_more() {
    let mut directory = cluster([
        service("shop/Service/api", Some(ip(96, 1)), None),
        endpoints("shop/api-1", "shop/Service/api", &[(ip(0, 1), Some("u1"))]),
        pod("u1", "shop/Deployment/api", ip(0, 1)),
    ]);
    means(&directory, ip(96, 1), 80, "k8s:shop/Deployment/api 8080");
    means(&directory, ip(0, 1), 8080, "k8s:shop/Deployment/api 8080");
    assert_eq!(directory.shared(ip(96, 1), tcp(80)), None);

    let canary = [
        pod("u2", "shop/Deployment/api-canary", ip(0, 2)),
        endpoints("shop/api-2", "shop/Service/api", &[(ip(0, 2), Some("u2"))]),
    ];
    for subject in canary {
        let changed = directory.take(second(0), Fact::Is(Source::Kubernetes, Box::new(subject)));
        assert!(changed.addresses.contains(&ip(0, 2)));
    }
    means(&directory, ip(96, 1), 80, "k8s:shop/Service/api 80");
    let shared = directory.shared(ip(96, 1), tcp(80));
    assert_eq!(shared, Some(k8s("shop/Service/api")));
    means(&directory, ip(0, 2), 8080, "k8s:shop/Deployment/api-canary 8080");
}

#[test]
fn a_pod_that_is_told_after_its_slice_makes_nobody_of_its_service_meanwhile() {
    let both = &[(ip(0, 1), Some("u1")), (ip(0, 2), Some("u2"))];
    let mut directory = cluster([
        service("shop/Service/api", Some(ip(96, 1)), None),
        endpoints("shop/api-1", "shop/Service/api", both),
        pod("u1", "shop/Deployment/api", ip(0, 1)),
    ]);
    means(&directory, ip(96, 1), 80, "k8s:shop/Deployment/api 8080");
    // What was dialled meanwhile means something else now.
    let canary = pod("u2", "shop/Deployment/api-canary", ip(0, 2));
    let changed = directory.take(second(0), Fact::Is(Source::Kubernetes, Box::new(canary)));
    assert!(changed.addresses.contains(&ip(96, 1)), "{changed:?}");
    means(&directory, ip(96, 1), 80, "k8s:shop/Service/api 80");
    // One that is gone for long, and that its slice still has.
    let key = Key { source: Source::Kubernetes, kind: Kind::Pod, id: "u2".into() };
    directory.take(second(10), Fact::Gone(key));
    directory.take(second(100), Fact::Present(Source::Kubernetes));
    means(&directory, ip(96, 1), 80, "k8s:shop/Deployment/api 8080");
}

#[test]
fn what_no_pod_answers_for_is_the_service() {
    let directory = cluster([
        Subject::Node(Node { name: "n1".into(), addresses: vec![ip(1, 1)] }),
        service("default/Service/kubernetes", Some(ip(96, 9)), None),
        endpoints("default/kubernetes", "default/Service/kubernetes", &[(ip(1, 1), None)]),
        service("shop/Service/legacy", None, None),
        endpoints("shop/legacy", "shop/Service/legacy", &[(ip(7, 7), None)]),
    ]);
    means(&directory, ip(96, 9), 80, "k8s:default/Service/kubernetes 80");
    means(&directory, ip(1, 1), 8080, "k8s:default/Service/kubernetes 8080");
    means(&directory, ip(1, 1), 22, "host:n1 22");
    means(&directory, ip(7, 7), 8080, "k8s:shop/Service/legacy 8080");
    means(&directory, ip(7, 7), 22, "nobody");
}

#[test]
fn a_port_of_every_node_is_its_service_s() {
    let directory = cluster([
        Subject::Node(Node { name: "n1".into(), addresses: vec![ip(1, 1)] }),
        service("shop/Service/web", Some(ip(96, 1)), Some(30_080)),
        endpoints("shop/web", "shop/Service/web", &[(ip(0, 1), Some("u1"))]),
        pod("u1", "shop/Deployment/web", ip(0, 1)),
    ]);
    means(&directory, ip(1, 1), 30_080, "k8s:shop/Deployment/web 8080");
    means(&directory, ip(1, 1), 30_081, "host:n1 30081");
    means(&directory, ip(1, 2), 30_080, "nobody");
}

#[test]
fn a_pod_that_uses_its_node_s_address_is_found_by_its_port() {
    let Subject::Pod(mut exporter) = pod("u1", "mon/DaemonSet/exporter", ip(1, 1)) else {
        unreachable!()
    };
    exporter.addresses.clear();
    let directory = cluster([
        Subject::Node(Node { name: "n1".into(), addresses: vec![ip(1, 1)] }),
        Subject::Pod(exporter),
        endpoints("mon/exporter", "mon/Service/exporter", &[(ip(1, 1), Some("u1"))]),
    ]);
    means(&directory, ip(1, 1), 8080, "k8s:mon/DaemonSet/exporter 8080");
    means(&directory, ip(1, 1), 22, "host:n1 22");
}

#[test]
fn a_static_pod_is_found_by_either_uid() {
    let Subject::Pod(mut mirrored) = pod("hash", "kube-system/Pod/etcd", ip(1, 1)) else {
        unreachable!()
    };
    mirrored.addresses.clear();
    mirrored.alias = Some("u1".into());
    let mut directory = cluster([
        Subject::Node(Node { name: "n1".into(), addresses: vec![ip(1, 1)] }),
        Subject::Pod(mirrored.clone()),
        endpoints("kube-system/etcd", "kube-system/Service/etcd", &[(ip(1, 1), Some("u1"))]),
    ]);
    means(&directory, ip(1, 1), 8080, "k8s:kube-system/Pod/etcd 8080");
    assert!(directory.identity(None, Some("hash")).service.is_some());
    // Its node made it anew: the API calls it otherwise.
    mirrored.alias = Some("u2".into());
    directory.take(second(1), Fact::Is(Source::Kubernetes, Box::new(Subject::Pod(mirrored))));
    means(&directory, ip(1, 1), 8080, "k8s:kube-system/Service/etcd 8080");
    assert_eq!(directory.aliases.len(), 1);
}

#[test]
fn what_a_source_does_not_tell_is_known_until_it_does() {
    let mut directory = Directory::default();
    let source = Source::Kubernetes;
    let without = |directory: &Directory| directory.state(source).map(|it| it.without.clone());
    directory.take(second(0), Fact::Present(source));
    directory.take(second(1), Fact::Without(source, vec!["get jobs".to_owned()]));
    directory.take(second(2), Fact::Away(source, "gone".to_owned()));
    directory.take(second(3), Fact::Present(source));
    assert_eq!(without(&directory), Some(vec!["get jobs".to_owned()]));
    directory.take(second(4), Fact::Without(source, Vec::new()));
    assert_eq!(without(&directory), Some(Vec::new()));
}

#[test]
fn an_address_taken_up_by_another_is_another() {
    let mut directory = told(0, Source::Kubernetes, [pod("u1", "shop/Deployment/a", ip(0, 1))]);
    directory.take(second(10), Fact::Gone(pod("u1", "x", ip(0, 1)).key(Source::Kubernetes)));
    let Subject::Pod(mut next) = pod("u2", "shop/Deployment/b", ip(0, 1)) else { unreachable!() };
    next.since = Some(second(12));
    // Told two seconds after it began.
    let next = Fact::Is(Source::Kubernetes, Box::new(Subject::Pod(next)));
    let changed = directory.take(second(14), next);
    assert!(changed.addresses.contains(&ip(0, 1)));
    let at = |moment| directory.client(ip(0, 1), second(moment));
    assert_eq!(at(9), Some(k8s("shop/Deployment/a")));
    assert_eq!(at(11), Some(k8s("shop/Deployment/b")));
    assert_eq!(at(13), Some(k8s("shop/Deployment/b")));
}

#[test]
fn what_a_whole_list_leaves_out_is_gone_and_a_broken_one_takes_nothing() {
    let mut directory =
        told(0, Source::Docker, ["c1", "c2"].map(|it| container(it, Some("a/b"), None)));
    let docker = |fact: fn(Source, Kind) -> Fact| fact(Source::Docker, Kind::Container);
    let again = || Fact::Is(Source::Docker, Box::new(container("c1", Some("a/b"), None)));
    directory.take(second(1), docker(Fact::Listing));
    directory.take(second(1), Fact::Away(Source::Docker, "it hung up".to_owned()));
    directory.take(second(1), docker(Fact::Listed));
    assert_eq!(directory.count(Source::Docker, Kind::Container), 2);

    directory.take(second(2), docker(Fact::Listing));
    assert_eq!(directory.take(second(2), again()), Changed::default());
    let changed = directory.take(second(2), docker(Fact::Listed));
    assert_eq!(directory.count(Source::Docker, Kind::Container), 1);
    let key = container("c2", None, None).key(Source::Docker);
    assert_eq!(changed.stored, [(key, None)]);
}

#[test]
fn what_is_gone_answers_for_a_minute() {
    let mut directory = told(0, Source::Docker, [container("c1", Some("a/b"), None)]);
    directory.take(second(10), Fact::Gone(container("c1", None, None).key(Source::Docker)));
    assert!(directory.identity(Some("c1"), None).service.is_some());
    directory.take(second(69), Fact::Present(Source::Docker));
    assert!(directory.identity(Some("c1"), None).service.is_some());
    directory.take(second(71), Fact::Present(Source::Docker));
    assert_eq!(directory.identity(Some("c1"), None), Identity::default());
    assert!(directory.containers.is_empty() && directory.subjects.len() == 0);
}

#[test]
fn a_subject_that_changed_leaves_nothing_of_what_it_was() {
    let mut directory = cluster([
        service("shop/Service/web", Some(ip(96, 1)), Some(30_080)),
        endpoints("shop/web", "shop/Service/web", &[(ip(0, 1), Some("u1"))]),
        Subject::Node(Node { name: "n1".into(), addresses: vec![ip(1, 1)] }),
    ]);
    let now = [
        service("shop/Service/web", Some(ip(96, 2)), None),
        endpoints("shop/web", "shop/Service/web", &[(ip(0, 2), None)]),
        Subject::Node(Node { name: "n1".into(), addresses: vec![ip(1, 2)] }),
    ];
    for subject in now {
        directory.take(second(0), Fact::Is(Source::Kubernetes, Box::new(subject)));
    }
    for (address, port) in [(ip(96, 1), 80), (ip(0, 1), 8080), (ip(1, 1), 30_080)] {
        means(&directory, address, port, "nobody");
    }
    means(&directory, ip(96, 2), 80, "k8s:shop/Service/web 80");
    means(&directory, ip(1, 2), 22, "host:n1 22");
}

#[test]
fn what_finds_no_room_is_refused_and_counted_and_what_goes_makes_room() {
    let node = |number: usize| {
        Subject::Node(Node { name: number.to_string().into(), addresses: Vec::new() })
    };
    let mut directory = cluster((0..Directory::SUBJECTS).map(node));
    assert_eq!((directory.subjects.len(), directory.refused()), (Directory::SUBJECTS, 0));
    let is = |number| Fact::Is(Source::Kubernetes, Box::new(node(number)));
    assert_eq!(directory.take(second(1), is(Directory::SUBJECTS)), Changed::default());
    assert_eq!((directory.subjects.len(), directory.refused()), (Directory::SUBJECTS, 1));
    // Those that are known go on.
    let Subject::Node(mut moved) = node(7) else { unreachable!() };
    moved.addresses.push(ip(1, 1));
    directory.take(second(1), Fact::Is(Source::Kubernetes, Box::new(Subject::Node(moved))));
    means(&directory, ip(1, 1), 22, "host:7 22");
    // More than is remembered of what is gone, at once: there is room as soon as it is gone.
    directory.take(second(2), Fact::Listing(Source::Kubernetes, Kind::Node));
    let listed = directory.take(second(2), Fact::Listed(Source::Kubernetes, Kind::Node));
    assert_eq!(listed.stored.len(), Directory::SUBJECTS);
    assert_eq!(directory.subjects.len(), Directory::GONE);
    assert_eq!(directory.gone.len(), Directory::GONE);
    directory.take(second(2), is(1));
    assert_eq!((directory.count(Source::Kubernetes, Kind::Node), directory.refused()), (1, 1));
}
