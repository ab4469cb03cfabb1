//! What all objects of the API have in common, and what is made of it. Only the fields that are of use
//! are taken up: the rest is passed over while it is parsed. Names, labels and addresses are strangers'
//! texts: escaped, cut, and bounded in number.

use std::net::IpAddr;
use std::sync::Arc;

use monitor_core::ids::ServiceName;
use serde::Deserialize;

use crate::sources::text::{address, service_name, short_text};

/// Of one thing; beyond what clusters have.
const ADDRESSES: usize = 64;

/// An object of which nothing but its metadata is of use.
#[derive(Deserialize, Debug, Clone)]
pub(super) struct Metadata {
    pub(super) metadata: Meta,
}

#[derive(Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Meta {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) uid: String,
    pub(super) resource_version: String,
    owner_references: Option<Vec<OwnerReference>>,
    pub(super) labels: Option<Labels>,
    annotations: Option<Annotations>,
}

#[derive(Deserialize, Debug, Clone, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct OwnerReference {
    pub(super) api_version: String,
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) controller: bool,
}

impl OwnerReference {
    pub(super) fn group(&self) -> &str {
        self.api_version.split_once('/').map_or("", |(group, _)| group)
    }
}

#[derive(Deserialize, Debug, Clone, Default)]
#[serde(default)]
pub(super) struct Labels {
    #[serde(rename = "pod-template-hash")]
    pub(super) hash: Option<String>,
    #[serde(rename = "kubernetes.io/service-name")]
    pub(super) service: Option<String>,
}

#[derive(Deserialize, Debug, Clone, Default)]
#[serde(default)]
struct Annotations {
    /// The id of the static pod that this one stands for.
    #[serde(rename = "kubernetes.io/config.mirror")]
    mirror: Option<String>,
}

impl Meta {
    /// What owns it: the one that manages it.
    pub(super) fn controller(&self) -> Option<&OwnerReference> {
        self.owner_references.iter().flatten().find(|it| it.controller)
    }

    /// The uid by which the node's cgroups know a pod.
    pub(super) fn pod_uid(&self) -> Arc<str> {
        short_text(self.mirrored().unwrap_or(&self.uid))
    }

    /// The uid that endpoints call a static pod by: the API's own, which its node does not know.
    pub(super) fn alias(&self) -> Option<Arc<str>> {
        self.mirrored().map(|_| short_text(&self.uid))
    }

    fn mirrored(&self) -> Option<&str> {
        let annotated = self.annotations.as_ref().and_then(|it| it.mirror.as_deref());
        // Not of the form of other pods' uids, so that no pod can take another's place.
        let is_hash = |it: &&str| it.len() == 32 && it.bytes().all(|it| it.is_ascii_hexdigit());
        let is_static = self.controller().is_some_and(|it| it.kind == "Node");
        annotated.filter(is_hash).filter(|_| is_static)
    }

    pub(super) fn service(&self, kind: &str, name: &str) -> ServiceName {
        service_name(&self.namespace, kind, name)
    }
}

pub(super) fn addresses<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in texts.filter_map(address) {
        if !addresses.contains(&address) && addresses.len() < ADDRESSES {
            addresses.push(address);
        }
    }
    addresses
}

#[derive(Deserialize, Debug, Clone, Default)]
#[serde(default)]
pub(super) struct Address {
    pub(super) ip: String,
}
