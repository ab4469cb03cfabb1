//! Which resources of the API are read, and what is asked of each: all that the manifest's ClusterRole
//! has to grant.

/// A resource of the API, and what is asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Resource {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) plural: &'static str,
    pub(super) kind: &'static str,
    pub(super) verbs: &'static [&'static str],
}

const FOLLOWED: &[&str] = &["list", "watch"];
const ASKED: &[&str] = &["get", "list"];

const fn resource(
    (group, version): (&'static str, &'static str),
    (plural, kind): (&'static str, &'static str),
    verbs: &'static [&'static str],
) -> Resource {
    Resource { group, version, plural, kind, verbs }
}

const CORE: (&str, &str) = ("", "v1");
const DISCOVERY: &str = "discovery.k8s.io";
pub(super) const PODS: Resource = resource(CORE, ("pods", "Pod"), FOLLOWED);
pub(super) const SERVICES: Resource = resource(CORE, ("services", "Service"), FOLLOWED);
pub(super) const NODES: Resource = resource(CORE, ("nodes", "Node"), FOLLOWED);
pub(super) const ENDPOINTS: Resource = resource(CORE, ("endpoints", "Endpoints"), FOLLOWED);
pub(super) const SLICES: Resource =
    resource((DISCOVERY, "v1"), ("endpointslices", "EndpointSlice"), FOLLOWED);
/// Of servers before 1.21.
pub(super) const OLD_SLICES: Resource = Resource { version: "v1beta1", ..SLICES };
pub(super) const REPLICA_SETS: Resource =
    resource(("apps", "v1"), ("replicasets", "ReplicaSet"), ASKED);
pub(super) const JOBS: Resource = resource(("batch", "v1"), ("jobs", "Job"), ASKED);

/// All that is ever asked for: what the manifest's ClusterRole has to grant.
pub(super) const READ: [Resource; 8] =
    [PODS, SERVICES, NODES, ENDPOINTS, SLICES, OLD_SLICES, REPLICA_SETS, JOBS];

impl Resource {
    /// Of the whole cluster, or of one namespace.
    pub(super) fn path(&self, namespace: Option<&str>) -> String {
        let Self { group, version, plural, .. } = self;
        let root = if group.is_empty() { "/api".to_owned() } else { format!("/apis/{group}") };
        match namespace {
            Some(namespace) => format!("{root}/{version}/namespaces/{namespace}/{plural}"),
            None => format!("{root}/{version}/{plural}"),
        }
    }
}
