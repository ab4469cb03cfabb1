//! Pods of the whole cluster: which workload each belongs to, its addresses, and of those on this node
//! the containers.

use std::sync::Arc;

use monitor_core::directory::{Container, Kind, Pod, Subject};
use monitor_core::ids::WallTime;
use serde::Deserialize;

use crate::sources::Unheard;
use crate::sources::kubernetes::follow::Reader;
use crate::sources::kubernetes::object::{Address, Meta, addresses};
use crate::sources::kubernetes::owners::{Owner, Owners};
use crate::sources::kubernetes::resource::{PODS, Resource};
use crate::sources::text::short_text;

/// Of one pod.
const CONTAINERS: usize = 256;

pub(super) struct PodReader<'a> {
    pub(super) owners: Owners<'a>,
    /// This node: the containers of its pods are here.
    pub(super) node: Arc<str>,
}

#[derive(Deserialize, Debug, Clone)]
pub(super) struct PodObject {
    metadata: Meta,
    #[serde(default)]
    spec: PodSpec,
    #[serde(default)]
    status: PodStatus,
}

#[derive(Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    node_name: String,
    host_network: bool,
}

#[derive(Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    #[serde(rename = "podIP")]
    pod_ip: String,
    #[serde(rename = "podIPs")]
    pod_ips: Option<Vec<Address>>,
    container_statuses: Option<Vec<ContainerStatus>>,
    init_container_statuses: Option<Vec<ContainerStatus>>,
    ephemeral_container_statuses: Option<Vec<ContainerStatus>>,
}

#[derive(Deserialize, Debug, Clone, Default)]
#[serde(default)]
struct ContainerStatus {
    #[serde(rename = "containerID")]
    id: Option<String>,
    name: String,
    #[serde(rename = "imageID")]
    image_id: String,
    image: String,
    state: ContainerState,
}

#[derive(Deserialize, Debug, Clone, Default)]
#[serde(default)]
struct ContainerState {
    running: Option<Begun>,
    terminated: Option<Begun>,
}

#[derive(Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "camelCase", default)]
struct Begun {
    started_at: Option<String>,
}

impl ContainerStatus {
    fn begun(&self) -> Option<WallTime> {
        let state = [&self.state.running, &self.state.terminated].into_iter().flatten();
        let begun = state.filter_map(|it| it.started_at.as_deref()?.parse().ok());
        begun.filter(|it| *it > WallTime(0)).min()
    }

    fn container(&self, pod: &Arc<str>) -> Option<Container> {
        // `containerd://ID`.
        let (_, id) = self.id.as_deref()?.split_once("://")?;
        let digest = self.image_id.rsplit_once('@').map_or(&*self.image_id, |(_, digest)| digest);
        let image = if digest.is_empty() { &self.image } else { digest };
        (!id.is_empty()).then(|| Container {
            id: short_text(id),
            service: None,
            pod: Some(Arc::clone(pod)),
            name: (!self.name.is_empty()).then(|| short_text(&self.name)),
            image: (!image.is_empty()).then(|| short_text(image)),
            addresses: Vec::new(),
            since: None,
        })
    }
}

impl PodObject {
    /// What it belongs to by what it says itself.
    pub(super) fn owner_by_name(&self) -> Owner {
        Owner::by_name(&self.metadata)
    }

    pub(super) fn told(self, owner: &Owner, here: &str) -> Pod {
        let Self { metadata, spec, status } = self;
        let uid = metadata.pod_uid();
        let own = status.pod_ips.iter().flatten().map(|it| &*it.ip);
        let own = own.chain(std::iter::once(&*status.pod_ip));
        let statuses = [
            &status.container_statuses,
            &status.init_container_statuses,
            &status.ephemeral_container_statuses,
        ];
        let statuses = statuses.into_iter().flatten().flatten().take(CONTAINERS);
        // Its node takes a pod up long before it gives it an address, which it does before it starts any
        // container.
        let since = statuses.clone().filter_map(ContainerStatus::begun).min();
        let is_here = spec.node_name == here;
        let containers = statuses.filter(|_| is_here).filter_map(|it| it.container(&uid));
        Pod {
            service: metadata.service(&owner.kind, &owner.name),
            node: short_text(&spec.node_name),
            addresses: if spec.host_network { Vec::new() } else { addresses(own) },
            since,
            containers: containers.collect(),
            alias: metadata.alias(),
            uid,
        }
    }
}

impl Reader for PodReader<'_> {
    type Object = PodObject;
    const KIND: Kind = Kind::Pod;
    const RESOURCES: &'static [Resource] = &[PODS];
    // Those that have ended hold no address any more.
    const FIELDS: Option<&'static str> = Some("status.phase!=Succeeded,status.phase!=Failed");

    fn version(object: &PodObject) -> &str {
        &object.metadata.resource_version
    }

    fn id(object: &PodObject) -> Arc<str> {
        object.metadata.pod_uid()
    }

    async fn subject(&mut self, object: PodObject) -> Result<Option<Subject>, Unheard> {
        let owner = self.owners.of(&object.metadata).await?;
        Ok(Some(Subject::Pod(object.told(&owner, &self.node))))
    }

    async fn list_begins(&mut self) -> Result<(), Unheard> {
        self.owners.list().await
    }

    fn list_ends(&mut self) {
        self.owners.forget_unused();
    }
}
