//! What attribution makes of flows: that an edge happened, and where its owner runs. Values alone.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::edge::{Edge, Handover};
use crate::flow::{Begun, KeyId, Outcome, Process};
use crate::ids::{CgroupId, ServiceName, WallTime};
use crate::instances::Instance;

/// What runs in a cgroup: the stable name, and where this instance of it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    pub service: ServiceName,
    /// The container's full id as its runtime knows it. Under a `user:` service it is that user's
    /// word: look an id up only where `service` is provisional. Under `cgroup:id/` no runtime is
    /// known to own the place: believe only one that names this cgroup itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// What it is called within its pod, or by its runtime, as safe text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_name: Option<Arc<str>>,
    /// The uid of the Kubernetes pod, with dashes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The digest or name of the container's image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Arc<str>>,
    /// The path below the root of the version-2 hierarchy, as safe text; empty where it is not known.
    pub cgroup: String,
    /// The machine it runs on, where that is not this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

/// Which end of an edge a sighting comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SeenFrom {
    Client,
    Server,
    /// Corroborated: the two ends of one connection were seen.
    Both,
}

impl SeenFrom {
    /// What is known once `other` has been seen too.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        if self == other { self } else { Self::Both }
    }
}

/// How the DNS name of an edge's server is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Heard {
    /// The answer holds that the client itself was given; or the server has no such name.
    #[default]
    Itself,
    /// The client's own answer had expired by then: programs keep addresses longer than they may.
    Stale,
    /// Another on this machine was given it: the client's own answers cannot be seen.
    Shared,
}

/// One attributed observation: an edge happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    pub edge: Edge,
    pub outcome: Outcome,
    pub seen_from: SeenFrom,
    pub at: WallTime,
    /// The dialling (or listening) process; None where only the far end was seen.
    pub process: Option<Arc<Process>>,
    /// Where the edge's owner runs.
    pub workload: Option<Arc<Workload>>,
    /// What the client dialled to reach a server on this machine.
    pub dialled: Option<SocketAddr>,
    pub begun: Begun,
    /// Where it was dialled, which may have asked for the server's name; None out of a recording.
    pub asker: Option<CgroupId>,
    pub heard: Heard,
    /// Who opened the socket that one of its ends uses, where that is somebody else.
    pub opened_by: Option<Handover>,
    /// The kernel's keys that stand for this edge from now on; none out of a recording.
    pub keys: KeyIds,
}

/// A dial has two most often, and its other end one.
pub type KeyIds = SmallVec<[KeyId; 4]>;

impl Sighting {
    #[must_use]
    pub fn executable(&self) -> Option<&str> {
        self.process.as_ref()?.executable.as_deref()
    }

    /// The container that the edge's owner runs as, where anything is known of it.
    #[must_use]
    pub fn instance(&self) -> Option<Instance> {
        let workload = self.workload.as_ref()?;
        let (container, image) = (workload.container_name.clone(), workload.image.clone());
        let known = container.is_some() || image.is_some();
        known.then_some(Instance { container, image })
    }
}
