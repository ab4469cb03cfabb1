//! Who is meant: by a container's id, by an address and a port, at a given moment. Reads only.

use std::net::IpAddr;
use std::sync::Arc;

use crate::directory::{
    ClusterService, Directory, EndpointPort, Endpoints, Kind, Pod, ServicePort, Source, Subject,
};
use crate::edge::Port;
use crate::ids::{ServiceName, WallTime};

/// What is known of a cgroup's workload beyond its path.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    pub service: Option<ServiceName>,
    /// What the container is called within its pod, or by its runtime.
    pub container: Option<Arc<str>>,
    pub image: Option<Arc<str>>,
}

/// Who is meant by an address and a port: published ports lead to others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub service: ServiceName,
    pub port: Port,
}

impl Directory {
    /// What is known of a container, given its pod where its cgroup's path says that.
    #[must_use]
    pub fn identity(&self, container: Option<&str>, pod: Option<&str>) -> Identity {
        let mut identity = Identity::default();
        let sources = container.and_then(|id| self.containers.get(id));
        let told = sources.into_iter().flatten().filter_map(|source| {
            match self.get(*source, Kind::Container, container?)? {
                Subject::Container(container) => Some(container),
                _ => None,
            }
        });
        let mut pod = pod.map(Arc::from);
        for container in told {
            identity.service = identity.service.or_else(|| container.service.clone());
            identity.container = identity.container.or_else(|| container.name.clone());
            identity.image = identity.image.or_else(|| container.image.clone());
            pod = pod.or_else(|| container.pod.clone());
        }
        let Some(pod) = pod.and_then(|uid| self.pod(&uid)) else { return identity };
        identity.service = Some(pod.service.clone());
        if let Some(own) = pod.containers.iter().find(|it| Some(&*it.id) == container) {
            identity.container = own.name.clone().or(identity.container);
            identity.image = own.image.clone().or(identity.image);
        }
        identity
    }

    /// Who was meant by dialling `address` at that port at that moment.
    #[must_use]
    pub fn server(&self, address: IpAddr, port: Port, moment: WallTime) -> Option<Holder> {
        let own = |service| Holder { service, port };
        if let Some(pod) = self.pods.at(address, moment).and_then(|uid| self.pod(uid)) {
            return Some(own(pod.service.clone()));
        }
        if let Some(behind) = self.endpoint(address, port) {
            return Some(own(behind));
        }
        if let Some(service) = self.service_at(address, port) {
            return Some(self.behind_service(service, |it| it.port == port.number, port));
        }
        if let Some(service) = self.container_at(address, moment) {
            return Some(own(service));
        }
        let node = self.nodes.get(&address)?;
        if let Some(service) = self.node_ports.get(&(port.protocol, port.number)) {
            let is_it = |it: &ServicePort| it.node_port == Some(port.number);
            return Some(self.behind_service(service, is_it, port));
        }
        Some(own(ServiceName::new("host", node)))
    }

    /// Who came from `address` at that moment.
    #[must_use]
    pub fn client(&self, address: IpAddr, moment: WallTime) -> Option<ServiceName> {
        if let Some(pod) = self.pods.at(address, moment).and_then(|uid| self.pod(uid)) {
            return Some(pod.service.clone());
        }
        let container = self.container_at(address, moment);
        container.or_else(|| Some(ServiceName::new("host", self.nodes.get(&address)?)))
    }

    /// Who had an address until shortly before that moment, where nobody has it now: who is meant by
    /// dialling there in vain.
    #[must_use]
    pub fn left_by(&self, address: IpAddr, moment: WallTime) -> Option<ServiceName> {
        if let Some(pod) = self.pods.left_at(address, moment).and_then(|uid| self.pod(uid)) {
            return Some(pod.service.clone());
        }
        self.identity(Some(self.hosts.left_at(address, moment)?), None).service
    }

    /// The Service that was dialled, where more than one workload answers for it: then that is who is
    /// meant, whoever answers.
    #[must_use]
    pub fn shared(&self, address: IpAddr, port: Port) -> Option<ServiceName> {
        let key = (port.protocol, port.number);
        let at_node = || self.nodes.get(&address).and_then(|_| self.node_ports.get(&key));
        let service = self.service_at(address, port).or_else(at_node)?;
        self.workload_of(service).is_none().then(|| self.name_of(service))
    }

    /// Since when an address may be its pod's or container's, or was left by the last of them.
    #[must_use]
    pub fn held_since(&self, address: IpAddr) -> Option<WallTime> {
        self.pods.since(address).max(self.hosts.since(address))
    }

    /// Whether it may still be told that an address was somebody else's at that moment already: who held
    /// it was about to leave.
    #[must_use]
    pub fn may_be_another_s(&self, address: IpAddr, moment: WallTime) -> bool {
        self.pods.may_be_another_s(address, moment) || self.hosts.may_be_another_s(address, moment)
    }

    fn container_at(&self, address: IpAddr, moment: WallTime) -> Option<ServiceName> {
        self.identity(Some(self.hosts.at(address, moment)?), None).service
    }

    fn get(&self, source: Source, kind: Kind, id: &str) -> Option<&Subject> {
        self.subjects.get(source, kind, id)
    }

    /// As the cluster has it, else as the node's runtime does.
    fn pod(&self, uid: &str) -> Option<&Pod> {
        let uid = self.aliases.get(uid).map_or(uid, |it| &**it);
        let by = |source| match self.get(source, Kind::Pod, uid)? {
            Subject::Pod(pod) => Some(pod),
            _ => None,
        };
        by(Source::Kubernetes).or_else(|| by(Source::Cri))
    }

    pub(crate) fn service(&self, name: &str) -> Option<&ClusterService> {
        match self.get(Source::Kubernetes, Kind::Service, name)? {
            Subject::Service(service) => Some(service),
            _ => None,
        }
    }

    pub(crate) fn slice(&self, slice: &str) -> Option<&Endpoints> {
        match self.get(Source::Kubernetes, Kind::Endpoints, slice)? {
            Subject::Endpoints(endpoints) => Some(endpoints),
            _ => None,
        }
    }

    /// The Service of this address; one that serves this port, if any does.
    fn service_at(&self, address: IpAddr, port: Port) -> Option<&Arc<str>> {
        let services = self.services.get(&address)?;
        let serves = |name: &&Arc<str>| {
            let service = self.service(name);
            let mut ports = service.into_iter().flat_map(|it| &it.ports);
            ports.any(|it| (it.protocol, it.port) == (port.protocol, port.number))
        };
        services.iter().find(serves).or_else(|| services.first())
    }

    /// Who is behind an address as an endpoint of a Service at that port.
    fn endpoint(&self, address: IpAddr, port: Port) -> Option<ServiceName> {
        let slices = self.behind.get(&address)?.iter().filter_map(|slice| self.slice(slice));
        let is_it = |it: &EndpointPort| (it.protocol, it.port) == (port.protocol, port.number);
        let serving = slices.filter(|it| it.ports.is_empty() || it.ports.iter().any(is_it));
        let named = serving.flat_map(|slice| {
            let here = slice.addresses.iter().filter(move |(it, _)| *it == address);
            here.map(move |(_, uid)| {
                let pod = uid.as_deref().and_then(|uid| self.pod(uid));
                pod.map_or_else(|| slice.service.clone(), |pod| pod.service.clone())
            })
        });
        named.min()
    }

    /// Who is meant by a Service: its one workload at its own port, else the Service itself.
    fn behind_service(
        &self,
        service: &Arc<str>,
        is_dialled: impl Fn(&ServicePort) -> bool,
        port: Port,
    ) -> Holder {
        let known = self.service(service);
        let mut ports = known.into_iter().flat_map(|it| &it.ports);
        let dialled = ports.find(|it| it.protocol == port.protocol && is_dialled(it));
        let Some(workload) = self.workload_of(service) else {
            let number = dialled.map_or(port.number, |it| it.port);
            return Holder { service: self.name_of(service), port: Port { number, ..port } };
        };
        let mut targets = self.slices_of(service).flat_map(|it| &it.ports);
        let target = dialled.and_then(|dialled| {
            let is_it =
                |it: &&EndpointPort| it.protocol == port.protocol && it.name == dialled.name;
            targets.find(is_it)
        });
        let number = target.map_or(port.number, |it| it.port);
        Holder { service: workload, port: Port { number, ..port } }
    }

    fn slices_of(&self, service: &str) -> impl Iterator<Item = &Endpoints> {
        let slices = self.slices.get(service).into_iter().flatten();
        slices.filter_map(|slice| self.slice(slice))
    }

    /// The workload that alone answers for a Service, as far as is known: pods that were not told yet, or
    /// are gone, are taken for those of the others. What is no pod answers for itself.
    fn workload_of(&self, service: &str) -> Option<ServiceName> {
        let endpoints = || self.slices_of(service).flat_map(|it| &it.addresses);
        if endpoints().any(|(_, uid)| uid.is_none()) {
            return None;
        }
        let pods = endpoints().filter_map(|(_, uid)| self.pod(uid.as_deref()?));
        let mut workloads = pods.map(|pod| &pod.service);
        let first = workloads.next()?;
        workloads.all(|it| it == first).then(|| first.clone())
    }

    fn name_of(&self, service: &str) -> ServiceName {
        match self.service(service) {
            Some(known) => known.service.clone(),
            None => ServiceName::new("k8s", service.strip_prefix("k8s:").unwrap_or(service)),
        }
    }
}
