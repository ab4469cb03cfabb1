//! What the API server says, read as facts.

use std::collections::BTreeSet;

use k8s_openapi::api::rbac::v1::ClusterRole;
use monitor_core::directory::{ClusterService, Container, Endpoints, Kind, Pod, Subject};
use monitor_core::ids::ServiceName;
use serde_json::{Value, json};

use super::follow::Reader;
use super::object::Metadata;
use super::owners::Owner;
use super::pods::PodObject;
use super::resource::READ;
use super::services::{NodeReader, ServiceObject, ServiceReader, SliceObject, SliceReader};
use crate::sources::text::service_name;

fn pod(metadata: &Value, spec: &Value, status: &Value) -> Pod {
    let object = json!({"metadata": metadata, "spec": spec, "status": status});
    let object: PodObject = serde_json::from_value(object).unwrap();
    object.told(&Owner::new("Deployment", "web"), "n1")
}

fn slice(object: Value) -> Option<Endpoints> {
    serde_json::from_value::<SliceObject>(object).unwrap().told()
}

#[test]
fn a_pod_has_its_addresses_and_on_this_node_its_containers() {
    let metadata = json!({"name": "web-5d4f-x", "namespace": "shop", "uid": "u-1"});
    let status = json!({
        "podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}],
        "startTime": "2026-11-21T10:00:00Z",
        "containerStatuses": [
            {"name": "app", "containerID": "containerd://c1", "imageID": "reg/app@sha256:ab",
                "state": {"running": {"startedAt": "2026-11-21T10:01:00Z"}}},
            {"name": "waits", "imageID": ""},
        ],
        "initContainerStatuses": [{"name": "init", "containerID": "cri-o://c2", "image": "i:1"}],
    });
    let here = pod(&metadata, &json!({"nodeName": "n1"}), &status);
    assert_eq!(here.service.as_str(), "k8s:shop/Deployment/web");
    assert_eq!(here.addresses.len(), 2);
    // Taken up is not yet addressed.
    assert_eq!(here.since, Some("2026-11-21T10:01:00Z".parse().unwrap()));
    let short = |it: &Container| {
        format!("{} {:?} {:?} {:?}", it.id, it.pod, it.name.as_deref(), it.image.as_deref())
    };
    let containers: Vec<String> = here.containers.iter().map(short).collect();
    assert_eq!(
        containers,
        [
            r#"c1 Some("u-1") Some("app") Some("sha256:ab")"#,
            r#"c2 Some("u-1") Some("init") Some("i:1")"#
        ]
    );
    let there = pod(&metadata, &json!({"nodeName": "n2"}), &status);
    assert_eq!((there.containers.len(), &*there.node), (0, "n2"));
    let of_host = pod(&metadata, &json!({"nodeName": "n1", "hostNetwork": true}), &status);
    assert!(of_host.addresses.is_empty());
    let new = pod(&metadata, &json!({}), &json!({}));
    assert_eq!((new.addresses.len(), new.since), (0, None));
}

#[test]
fn a_static_pod_is_known_by_the_uid_that_its_node_uses() {
    let mirror = "0123456789abcdef0123456789abcdef";
    let metadata = |owner: &str, mirror: &str| {
        json!({"name": "etcd-n1", "namespace": "kube-system", "uid": "u-1",
            "annotations": {"kubernetes.io/config.mirror": mirror, "other": "x"},
            "ownerReferences": [{"apiVersion": "v1", "kind": owner, "name": "n1", "uid": "n-1",
                "controller": true}]})
    };
    let uid = |owner: &str, mirror: &str| {
        pod(&metadata(owner, mirror), &json!({}), &json!({})).uid.to_string()
    };
    assert_eq!(uid("Node", mirror), mirror);
    let alias = |owner: &str| pod(&metadata(owner, mirror), &json!({}), &json!({})).alias;
    assert_eq!((alias("Node").as_deref(), alias("ReplicaSet")), (Some("u-1"), None));
    // Nobody takes another pod's place by an annotation.
    assert_eq!(uid("Node", "11111111-2222-3333-4444-555555555555"), "u-1");
    assert_eq!(uid("ReplicaSet", mirror), "u-1");
}

#[test]
fn a_service_has_every_address_that_leads_to_it() {
    let object: ServiceObject = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {
            "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::96"],
            "externalIPs": ["192.0.2.1"],
            "ports": [
                {"name": "http", "port": 80, "nodePort": 30080, "targetPort": "http"},
                {"name": "dns", "protocol": "UDP", "port": 53},
                {"name": "sctp", "protocol": "SCTP", "port": 99},
                {"name": "wrong", "port": 70000},
            ],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}, {"hostname": "lb"}]}},
    }))
    .unwrap();
    let ClusterService { service, addresses, ports } = object.told();
    assert_eq!(service.as_str(), "k8s:shop/Service/web");
    assert_eq!(addresses.len(), 4);
    let ports: Vec<String> =
        ports.iter().map(|it| format!("{} {} {:?}", it.name, it.port, it.node_port)).collect();
    assert_eq!(ports, ["http 80 Some(30080)", "dns 53 None"]);
    let headless = json!({"metadata": {"name": "db", "namespace": "shop"},
        "spec": {"clusterIP": "None", "clusterIPs": ["None"]}});
    let headless: ServiceObject = serde_json::from_value(headless).unwrap();
    assert!(headless.told().addresses.is_empty());
}

#[test]
fn slices_and_endpoints_say_the_same() {
    let target = json!({"kind": "Pod", "uid": "u-1"});
    let sliced = slice(json!({
        "metadata": {"name": "web-1", "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"], "targetRef": target, "conditions": {}},
            {"addresses": ["not an address"]}],
        "ports": [{"name": "http", "protocol": "TCP", "port": 8080}, {"name": "all", "port": null}],
    }))
    .unwrap();
    let whole = slice(json!({
        "metadata": {"name": "web", "namespace": "shop"},
        "subsets": [{"addresses": [{"ip": "10.0.0.1", "targetRef": target}],
            "ports": [{"name": "http", "port": 8080}]}],
    }))
    .unwrap();
    assert_eq!((&*sliced.slice, &*whole.slice), ("shop/web-1", "shop/web"));
    assert_eq!(sliced.service.as_str(), "k8s:shop/Service/web");
    assert_eq!(sliced, Endpoints { slice: "shop/web-1".into(), ..whole });
    assert_eq!(sliced.addresses[0].1.as_deref(), Some("u-1"));
    // As Go writes what is empty; and a slice of no Service.
    let labels = json!({"kubernetes.io/service-name": "web"});
    let empty = json!({"metadata": {"name": "a", "namespace": "b", "labels": labels},
        "endpoints": null, "ports": null});
    assert!(slice(empty).unwrap().addresses.is_empty());
    assert_eq!(slice(json!({"metadata": {"name": "a", "namespace": "b"}, "endpoints": []})), None);
}

#[tokio::test]
async fn what_is_gone_has_the_key_of_what_was_there() {
    async fn same<R: Reader>(mut reader: R, object: Value) {
        let object: R::Object = serde_json::from_value(object).unwrap();
        let id = R::id(&object);
        let subject: Subject = reader.subject(object).await.unwrap().unwrap();
        let key = subject.key(monitor_core::directory::Source::Kubernetes);
        assert_eq!((key.kind, key.id), (R::KIND, id));
    }
    let metadata = json!({"name": "a\u{1b}", "namespace": "b/c",
        "labels": {"kubernetes.io/service-name": "web"}});
    same(ServiceReader, json!({"metadata": metadata})).await;
    same(SliceReader, json!({"metadata": metadata})).await;
    same(NodeReader, json!({"metadata": metadata})).await;
    let kinds: BTreeSet<Kind> = [ServiceReader::KIND, SliceReader::KIND, NodeReader::KIND].into();
    assert_eq!(kinds.len(), 3);
}

#[tokio::test]
async fn a_node_has_the_first_addresses_of_its_pods_network() {
    let object = json!({"metadata": {"name": "n1"},
        "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:1::/64"]},
        "status": {"addresses": [{"address": "192.0.2.1"}, {"address": "n1.example"}]}});
    let object = serde_json::from_value(object).unwrap();
    let Ok(Some(Subject::Node(node))) = NodeReader.subject(object).await else { unreachable!() };
    let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["192.0.2.1", "10.244.1.0", "10.244.1.1", "fd00:1::", "fd00:1::1"]);
}

#[test]
fn hostile_names_are_safe_and_bounded() {
    let long = "x".repeat(10_000);
    let name = service_name("a/b", "K\u{1b}[2J", &format!("<b>\u{202e}{long}"));
    assert!(name.as_str().starts_with("k8s:a%252Fb/K%1B%5B2J/%3Cb%3E%E2%80%AE"), "{name}");
    assert!(name.as_str().len() <= ServiceName::MAX_BYTES);
    assert!(!service_name("uid", "Pod", "x").is_provisional());

    let ips: Vec<Value> = (0..10_000).map(|it| json!({"ip": format!("fd00::{it:x}")})).collect();
    let statuses: Vec<Value> = (0..10_000)
        .map(|it| json!({"name": long, "containerID": format!("c://{it}\n"), "imageID": long}))
        .collect();
    let metadata = json!({"name": long, "namespace": long, "uid": long});
    let status = json!({"podIPs": ips, "containerStatuses": statuses});
    let pod = pod(&metadata, &json!({"nodeName": "n1"}), &status);
    assert_eq!((pod.addresses.len(), pod.containers.len(), pod.since), (64, 256, None));
    assert!(pod.uid.len() <= 800);
    for container in &pod.containers {
        assert!(container.id.ends_with("%0A"));
        assert!(container.name.as_ref().is_some_and(|it| it.len() <= 800));
    }
}

#[test]
fn only_the_owner_that_manages_counts() {
    let metadata: Metadata = serde_json::from_value(json!({"metadata": {
        "name": "web", "ownerReferences": [
            {"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "1"},
            {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "y", "uid": "2",
                "controller": true, "blockOwnerDeletion": true}]}}))
    .unwrap();
    let owner = metadata.metadata.controller().unwrap();
    assert_eq!((&*owner.name, owner.group()), ("y", "apps"));
}

#[test]
fn the_manifest_grants_what_is_read_and_no_more() {
    const MANIFEST: &str = include_str!("../../../../deploy/kubernetes/edgewatch.yaml");
    let is_role = |text: &&str| text.contains("\nkind: ClusterRole\n");
    let text = MANIFEST.split("\n---\n").find(is_role).unwrap();
    let role: ClusterRole = serde_saphyr::from_str(text).unwrap();
    let mut granted = BTreeSet::new();
    for rule in role.rules.unwrap() {
        assert_eq!((rule.resource_names, rule.non_resource_urls), (None, None));
        for group in rule.api_groups.unwrap() {
            for resource in rule.resources.as_ref().unwrap() {
                for verb in &rule.verbs {
                    assert!(granted.insert((group.clone(), resource.clone(), verb.clone())));
                }
            }
        }
    }
    let asked = READ.iter().flat_map(|it| {
        it.verbs.iter().map(|verb| (it.group.into(), it.plural.into(), (*verb).into()))
    });
    assert_eq!(granted, asked.collect());
}
