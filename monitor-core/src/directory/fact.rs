//! What a source says of who is who: values alone, as the adapters hand them over and as they are
//! stored. What follows from them is the directory's.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::flow::Protocol;
use crate::ids::{ServiceName, WallTime};

/// Who says so. In the order in which they are believed, the most first: a cluster knows what its
/// runtime only runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    Kubernetes,
    Cri,
    Docker,
    Podman,
}

impl Source {
    pub const ALL: [Self; 4] = [Self::Kubernetes, Self::Cri, Self::Docker, Self::Podman];
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kubernetes => "kubernetes",
            Self::Cri => "cri",
            Self::Docker => "docker",
            Self::Podman => "podman",
        })
    }
}

/// A container of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// As its cgroup's path has it: the runtime's full id.
    pub id: Arc<str>,
    /// Its lasting name; None where only its pod has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ServiceName>,
    /// The uid of the pod that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Arc<str>>,
    /// What it is called within its pod, else by its runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Arc<str>>,
    /// The image's digest (`sha256:…`), else its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Arc<str>>,
    /// Its own addresses, those of the machine left out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// When it was started: its addresses are its own from then on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<WallTime>,
}

/// A pod, of whichever node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// As its cgroups' paths have it.
    pub uid: Arc<str>,
    /// The uid that endpoints call it by, where that is another: of a static pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<Arc<str>>,
    /// `k8s:NAMESPACE/KIND/NAME` of what owns it in the end: its Deployment, StatefulSet, DaemonSet,
    /// CronJob; `k8s:NAMESPACE/Pod/NAME` where nothing does.
    pub service: ServiceName,
    pub node: Arc<str>,
    /// Empty where it uses its node's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// When the first of its containers was started: by then its addresses are its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<WallTime>,
    /// Of those on this node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<Container>,
}

/// A Service of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterService {
    /// `k8s:NAMESPACE/Service/NAME`.
    pub service: ServiceName,
    /// Cluster addresses, none where it is headless; external and load balancers' addresses.
    pub addresses: Vec<IpAddr>,
    pub ports: Vec<ServicePort>,
}

/// A port of a [`ClusterService`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// By which its endpoints have it; empty where it is the only one.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub port: u16,
    /// The same on every node's own addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_port: Option<u16>,
}

/// Who answers for a [`ClusterService`]: one slice of its endpoints, or all of them at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoints {
    /// Tells it from the others: `NAMESPACE/NAME` of the slice.
    pub slice: Arc<str>,
    /// `k8s:NAMESPACE/Service/NAME`.
    pub service: ServiceName,
    /// With the uid of the pod behind each, where it is one.
    pub addresses: Vec<(IpAddr, Option<Arc<str>>)>,
    /// On those addresses; none for all.
    pub ports: Vec<EndpointPort>,
}

/// A port of [`Endpoints`]: the one that a workload listens at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointPort {
    /// As the Service has it.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub port: u16,
}

/// A machine of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub name: Arc<str>,
    pub addresses: Vec<IpAddr>,
}

/// Something that a source knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    Container(Container),
    Pod(Pod),
    Service(ClusterService),
    Endpoints(Endpoints),
    Node(Node),
}

/// Which of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    Container,
    Pod,
    Service,
    Endpoints,
    Node,
}

impl Kind {
    pub const ALL: [Self; 5] =
        [Self::Container, Self::Pod, Self::Service, Self::Endpoints, Self::Node];
}

/// Tells one thing that a source knows from all others.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Key {
    pub source: Source,
    pub kind: Kind,
    /// The container's id, the pod's uid, the Service's name, the slice, the node's name.
    pub id: Arc<str>,
}

impl Subject {
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Container(_) => Kind::Container,
            Self::Pod(_) => Kind::Pod,
            Self::Service(_) => Kind::Service,
            Self::Endpoints(_) => Kind::Endpoints,
            Self::Node(_) => Kind::Node,
        }
    }

    #[must_use]
    pub fn key(&self, source: Source) -> Key {
        let id = match self {
            Self::Container(it) => Arc::clone(&it.id),
            Self::Pod(it) => Arc::clone(&it.uid),
            Self::Service(it) => it.service.as_str().into(),
            Self::Endpoints(it) => Arc::clone(&it.slice),
            Self::Node(it) => Arc::clone(&it.name),
        };
        Key { source, kind: self.kind(), id }
    }
}

/// What a source tells, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// It is there, and is so.
    Is(Source, Box<Subject>),
    /// It is there no more.
    Gone(Key),
    /// All that the source knows of this kind follows, until [`Fact::Listed`].
    Listing(Source, Kind),
    /// That was all: what was not told since [`Fact::Listing`] is there no more.
    Listed(Source, Kind),
    /// It answers; a first list follows or was told.
    Present(Source),
    /// It does not, and why: what it said last still holds. It is asked again for ever.
    Away(Source, String),
    /// What it does not tell, though it answers: some names are worse by that. None from now on, where
    /// there is none.
    Without(Source, Vec<String>),
}
