//! Services, who answers for them, and the nodes: what an address that is no pod's means.

use std::net::IpAddr;
use std::sync::Arc;

use monitor_core::directory::{
    ClusterService, EndpointPort, Endpoints, Kind, Node, ServicePort, Subject,
};
use monitor_core::flow::Protocol;
use serde::Deserialize;

use crate::sources::Unheard;
use crate::sources::kubernetes::follow::Reader;
use crate::sources::kubernetes::object::{Address, Meta, addresses};
use crate::sources::kubernetes::resource::{
    ENDPOINTS, NODES, OLD_SLICES, Resource, SERVICES, SLICES,
};
use crate::sources::text::{address, short_text};

/// Of one Service.
const PORTS: usize = 256;
/// Of one slice.
const ENDPOINTS_OF_ONE: usize = 5_000;

/// None for what carries no port that is seen here.
fn protocol(text: Option<&str>) -> Option<Protocol> {
    match text {
        None | Some("" | "TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some(_) => None,
    }
}

pub(super) struct ServiceReader;

#[derive(Deserialize, Debug, Clone)]
pub(super) struct ServiceObject {
    metadata: Meta,
    #[serde(default)]
    spec: ServiceSpec,
    #[serde(default)]
    status: ServiceStatus,
}

#[derive(Deserialize, Debug, Clone, Default)]
#[serde(default)]
struct ServiceSpec {
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Option<Vec<String>>,
    #[serde(rename = "externalIPs")]
    external_ips: Option<Vec<String>>,
    ports: Option<Vec<PortObject>>,
}

#[derive(Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "camelCase", default)]
struct PortObject {
    name: Option<String>,
    protocol: Option<String>,
    port: Option<i64>,
    node_port: Option<i64>,
}

#[derive(Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "camelCase", default)]
struct ServiceStatus {
    load_balancer: LoadBalancer,
}

#[derive(Deserialize, Debug, Clone, Default)]
#[serde(default)]
struct LoadBalancer {
    ingress: Option<Vec<Address>>,
}

fn number(port: Option<i64>) -> Option<u16> {
    port.and_then(|it| u16::try_from(it).ok()).filter(|it| *it != 0)
}

fn port_name(port: &PortObject) -> Arc<str> {
    short_text(port.name.as_deref().unwrap_or_default())
}

impl ServiceObject {
    pub(super) fn told(self) -> ClusterService {
        let Self { metadata, spec, status } = self;
        let cluster = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        let external = spec.external_ips.iter().flatten();
        let balancers = status.load_balancer.ingress.iter().flatten().map(|it| &*it.ip);
        let ports = spec.ports.iter().flatten().take(PORTS).filter_map(|it| {
            Some(ServicePort {
                name: port_name(it),
                protocol: protocol(it.protocol.as_deref())?,
                port: number(it.port)?,
                node_port: number(it.node_port),
            })
        });
        ClusterService {
            service: metadata.service("Service", &metadata.name),
            addresses: addresses(cluster.chain(external).map(|it| &**it).chain(balancers)),
            ports: ports.collect(),
        }
    }
}

impl Reader for ServiceReader {
    type Object = ServiceObject;
    const KIND: Kind = Kind::Service;
    const RESOURCES: &'static [Resource] = &[SERVICES];

    fn version(object: &ServiceObject) -> &str {
        &object.metadata.resource_version
    }

    fn id(object: &ServiceObject) -> Arc<str> {
        object.metadata.service("Service", &object.metadata.name).as_str().into()
    }

    async fn subject(&mut self, object: ServiceObject) -> Result<Option<Subject>, Unheard> {
        Ok(Some(Subject::Service(object.told())))
    }
}

/// EndpointSlices, and Endpoints where the server has none: one shape holds both.
pub(super) struct SliceReader;

#[derive(Deserialize, Debug, Clone)]
pub(super) struct SliceObject {
    metadata: Meta,
    /// Of a slice.
    #[serde(default)]
    endpoints: Option<Vec<Endpoint>>,
    #[serde(default)]
    ports: Option<Vec<PortObject>>,
    /// Of Endpoints, which have the name of their Service.
    #[serde(default)]
    subsets: Option<Vec<Subset>>,
}

#[derive(Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "camelCase", default)]
struct Endpoint {
    addresses: Option<Vec<String>>,
    target_ref: Option<Target>,
}

#[derive(Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "camelCase", default)]
struct Subset {
    addresses: Option<Vec<SubsetAddress>>,
    not_ready_addresses: Option<Vec<SubsetAddress>>,
    ports: Option<Vec<PortObject>>,
}

#[derive(Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "camelCase", default)]
struct SubsetAddress {
    ip: String,
    target_ref: Option<Target>,
}

#[derive(Deserialize, Debug, Clone, Default)]
#[serde(default)]
struct Target {
    kind: String,
    uid: Option<String>,
}

impl Target {
    fn pod(&self) -> Option<Arc<str>> {
        let uid = self.uid.as_deref().filter(|it| self.kind == "Pod" && !it.is_empty());
        uid.map(short_text)
    }
}

impl SliceObject {
    fn id(&self) -> Arc<str> {
        short_text(&format!("{}/{}", self.metadata.namespace, self.metadata.name))
    }

    /// None for a slice of no Service.
    pub(super) fn told(self) -> Option<Endpoints> {
        let labels = self.metadata.labels.as_ref();
        let service = match &self.subsets {
            Some(_) => self.metadata.name.as_str(),
            None => labels.and_then(|it| it.service.as_deref())?,
        };
        let mut addresses = Vec::new();
        let mut add = |text: &str, target: Option<&Target>| {
            if let Some(address) = address(text)
                && addresses.len() < ENDPOINTS_OF_ONE
            {
                addresses.push((address, target.and_then(Target::pod)));
            }
        };
        for endpoint in self.endpoints.iter().flatten() {
            for address in endpoint.addresses.iter().flatten() {
                add(address, endpoint.target_ref.as_ref());
            }
        }
        let mut ports: Vec<&PortObject> = self.ports.iter().flatten().collect();
        for subset in self.subsets.iter().flatten() {
            for address in [&subset.addresses, &subset.not_ready_addresses].into_iter().flatten() {
                address.iter().for_each(|it| add(&it.ip, it.target_ref.as_ref()));
            }
            ports.extend(subset.ports.iter().flatten());
        }
        let ports = ports.into_iter().take(PORTS).filter_map(|it| {
            Some(EndpointPort {
                name: port_name(it),
                protocol: protocol(it.protocol.as_deref())?,
                port: number(it.port)?,
            })
        });
        Some(Endpoints {
            slice: self.id(),
            service: self.metadata.service("Service", service),
            ports: ports.collect(),
            addresses,
        })
    }
}

impl Reader for SliceReader {
    type Object = SliceObject;
    const KIND: Kind = Kind::Endpoints;
    const RESOURCES: &'static [Resource] = &[SLICES, OLD_SLICES, ENDPOINTS];

    fn version(object: &SliceObject) -> &str {
        &object.metadata.resource_version
    }

    fn id(object: &SliceObject) -> Arc<str> {
        object.id()
    }

    async fn subject(&mut self, object: SliceObject) -> Result<Option<Subject>, Unheard> {
        Ok(object.told().map(Subject::Endpoints))
    }
}

pub(super) struct NodeReader;

#[derive(Deserialize, Debug, Clone)]
pub(super) struct NodeObject {
    metadata: Meta,
    #[serde(default)]
    spec: NodeSpec,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Deserialize, Debug, Clone, Default)]
#[serde(default)]
struct NodeSpec {
    #[serde(rename = "podCIDR")]
    pod_network: Option<String>,
    #[serde(rename = "podCIDRs")]
    pod_networks: Option<Vec<String>>,
}

#[derive(Deserialize, Debug, Clone, Default)]
#[serde(default)]
struct NodeStatus {
    addresses: Option<Vec<NodeAddress>>,
}

#[derive(Deserialize, Debug, Clone, Default)]
#[serde(default)]
struct NodeAddress {
    address: String,
}

/// The first two addresses of the network of a node's pods are the node's: of its bridge and its tunnel.
/// What it translates comes from there. Where another network is used, a pod that has one of them goes
/// before the node.
fn own_addresses(network: &str) -> Option<[IpAddr; 2]> {
    let (first, _) = network.split_once('/')?;
    Some(match first.parse().ok()? {
        IpAddr::V4(first) => [first, (u32::from(first).checked_add(1)?).into()].map(IpAddr::V4),
        IpAddr::V6(first) => [first, (u128::from(first).checked_add(1)?).into()].map(IpAddr::V6),
    })
}

impl NodeObject {
    pub(super) fn told(self) -> Node {
        // Hostnames among them are no addresses.
        let told = self.status.addresses.iter().flatten().map(|it| &*it.address);
        let mut addresses = addresses(told);
        let networks = self.spec.pod_networks.iter().flatten().chain(&self.spec.pod_network);
        for address in networks.take(2).filter_map(|it| own_addresses(it)).flatten() {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        Node { name: short_text(&self.metadata.name), addresses }
    }
}

impl Reader for NodeReader {
    type Object = NodeObject;
    const KIND: Kind = Kind::Node;
    const RESOURCES: &'static [Resource] = &[NODES];

    fn version(object: &NodeObject) -> &str {
        &object.metadata.resource_version
    }

    fn id(object: &NodeObject) -> Arc<str> {
        short_text(&object.metadata.name)
    }

    async fn subject(&mut self, object: NodeObject) -> Result<Option<Subject>, Unheard> {
        Ok(Some(Subject::Node(object.told())))
    }
}
