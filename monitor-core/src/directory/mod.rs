//! Who is who, as runtimes and the cluster tell it: which service a container or a pod is, and whose
//! an address was at a given moment. It holds what was said last, also while a source is away, and
//! judges nothing. What the two ends of a connection say themselves goes before it.

mod fact;
mod tenancy;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use crate::edge::Port;
use crate::flow::Protocol;
use crate::ids::{ServiceName, WallTime};

pub use self::fact::{
    ClusterService, Container, EndpointPort, Endpoints, Fact, Key, Kind, Node, Pod, ServicePort,
    Source, Subject,
};
use self::tenancy::Tenancies;

/// All that is known. Bounded by [`Directory::SUBJECTS`]; what is gone by number and age.
#[derive(Debug, Default)]
pub struct Directory {
    subjects: BTreeMap<Key, Known>,
    /// Whoever may be named by more than one source, by its id alone.
    containers: BTreeMap<Arc<str>, BTreeSet<Source>>,
    pods: Tenancies<Arc<str>>,
    hosts: Tenancies<Arc<str>>,
    /// Whose addresses lead to them: Services, by address.
    services: BTreeMap<IpAddr, BTreeSet<Arc<str>>>,
    /// Services by the port that every node serves them at.
    node_ports: BTreeMap<(Protocol, u16), Arc<str>>,
    /// Slices by the addresses in them.
    behind: BTreeMap<IpAddr, BTreeSet<Arc<str>>>,
    /// Slices of each Service.
    slices: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
    nodes: BTreeMap<IpAddr, Arc<str>>,
    /// Gone, and still answering for what is on its way.
    gone: VecDeque<(WallTime, Key)>,
    listing: BTreeSet<(Source, Kind)>,
    sources: BTreeMap<Source, State>,
    refused: u64,
}

#[derive(Debug)]
struct Known {
    subject: Subject,
    /// Told since the list that is under way began.
    listed: bool,
    gone: Option<WallTime>,
}

/// How a source is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Present,
    /// And why.
    Away(String),
}

/// What followed from a [`Fact`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changed {
    /// Containers (by id) and pods (by uid) of which something else is known now.
    pub workloads: BTreeSet<Arc<str>>,
    /// Addresses that mean somebody else now.
    pub addresses: BTreeSet<IpAddr>,
    /// What is to be stored: None for what is gone.
    pub stored: Vec<(Key, Option<Subject>)>,
}

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
    /// Beyond this nothing more is taken in.
    pub const SUBJECTS: usize = 200_000;
    /// What is gone answers for so long, seconds.
    const GONE_S: i64 = 60;
    /// No more of what is gone than this.
    const GONE: usize = 8_192;

    /// Takes up what was stored: it holds until its source says otherwise.
    pub fn restore(&mut self, at: WallTime, stored: Vec<(Source, Subject)>) {
        for (source, subject) in stored {
            let mut changed = Changed::default();
            self.is(at, source, subject, &mut changed);
        }
    }

    /// Takes a fact in.
    pub fn take(&mut self, at: WallTime, fact: Fact) -> Changed {
        let mut changed = Changed::default();
        match fact {
            Fact::Is(source, subject) => self.is(at, source, *subject, &mut changed),
            Fact::Gone(key) => self.leaves(at, &key, &mut changed),
            Fact::Listing(source, kind) => {
                self.listing.insert((source, kind));
                for known in self.of_kind_mut(source, kind) {
                    known.listed = false;
                }
            }
            Fact::Listed(source, kind) => {
                // A list that broke off says nothing of what it had not come to.
                if self.listing.remove(&(source, kind)) {
                    let unlisted = self.of_kind(source, kind).filter(|(_, it)| !it.listed);
                    let unlisted: Vec<Key> = unlisted.map(|(key, _)| key.clone()).collect();
                    for key in unlisted {
                        self.leaves(at, &key, &mut changed);
                    }
                }
            }
            Fact::Present(source) => {
                self.sources.insert(source, State::Present);
            }
            Fact::Away(source, why) => {
                self.listing.retain(|(it, _)| *it != source);
                self.sources.insert(source, State::Away(why));
            }
        }
        self.forget(at);
        changed
    }

    /// The sources that were heard of, and how they are.
    pub fn sources(&self) -> impl Iterator<Item = (Source, &State)> {
        self.sources.iter().map(|(source, state)| (*source, state))
    }

    /// How much a source told of.
    #[must_use]
    pub fn count(&self, source: Source, kind: Kind) -> usize {
        self.of_kind(source, kind).filter(|(_, it)| it.gone.is_none()).count()
    }

    /// What was not taken in for want of room.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused
    }

    /// Whether a source may still tell the lasting name of what has a provisional one.
    #[must_use]
    pub fn may_name(&self, provisional: &ServiceName) -> bool {
        let asks = |source| self.sources.contains_key(&source);
        match provisional.scheme() {
            "docker" => asks(Source::Docker),
            "podman" => asks(Source::Podman),
            "k8s" => asks(Source::Kubernetes) || asks(Source::Cri),
            _ => false,
        }
    }

    /// Whether somebody may still tell whose an address of the inside is: a cluster, whose pods are on
    /// other machines. A runtime tells of this machine alone, whose ends show themselves.
    #[must_use]
    pub fn may_tell_addresses(&self) -> bool {
        self.sources.contains_key(&Source::Kubernetes)
    }

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

    /// The Service that was dialled, where more than one workload answers for it: then that is who is
    /// meant, whoever answers.
    #[must_use]
    pub fn shared(&self, address: IpAddr, port: Port) -> Option<ServiceName> {
        let key = (port.protocol, port.number);
        let at_node = || self.nodes.get(&address).and_then(|_| self.node_ports.get(&key));
        let service = self.service_at(address, port).or_else(at_node)?;
        self.workload_of(service).is_none().then(|| self.name_of(service))
    }

    fn container_at(&self, address: IpAddr, moment: WallTime) -> Option<ServiceName> {
        self.identity(Some(self.hosts.at(address, moment)?), None).service
    }

    fn get(&self, source: Source, kind: Kind, id: &str) -> Option<&Subject> {
        let key = Key { source, kind, id: id.into() };
        self.subjects.get(&key).map(|known| &known.subject)
    }

    /// As the cluster has it, else as the node's runtime does.
    fn pod(&self, uid: &str) -> Option<&Pod> {
        let by = |source| match self.get(source, Kind::Pod, uid)? {
            Subject::Pod(pod) => Some(pod),
            _ => None,
        };
        by(Source::Kubernetes).or_else(|| by(Source::Cri))
    }

    fn service(&self, name: &str) -> Option<&ClusterService> {
        match self.get(Source::Kubernetes, Kind::Service, name)? {
            Subject::Service(service) => Some(service),
            _ => None,
        }
    }

    fn slice(&self, slice: &str) -> Option<&Endpoints> {
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

    /// The workload that alone answers for a Service.
    fn workload_of(&self, service: &str) -> Option<ServiceName> {
        let endpoints = self.slices_of(service).flat_map(|it| &it.addresses);
        let mut workloads = endpoints
            .map(|(_, uid)| uid.as_deref().and_then(|uid| self.pod(uid)).map(|pod| &pod.service));
        let first = workloads.next()??;
        workloads.all(|it| it == Some(first)).then(|| first.clone())
    }

    fn name_of(&self, service: &str) -> ServiceName {
        match self.service(service) {
            Some(known) => known.service.clone(),
            None => ServiceName::new("k8s", service.strip_prefix("k8s:").unwrap_or(service)),
        }
    }

    fn is(&mut self, at: WallTime, source: Source, subject: Subject, changed: &mut Changed) {
        let key = subject.key(source);
        if let Some(known) = self.subjects.get_mut(&key) {
            known.listed = true;
            if known.subject == subject && known.gone.is_none() {
                return;
            }
            let before = self.subjects.remove(&key);
            if let Some(before) = before {
                self.unlink(at, &before.subject, Some(&subject), changed);
            }
        } else if self.subjects.len() >= Self::SUBJECTS {
            self.refused += 1;
            return;
        }
        self.link(at, source, &subject, changed);
        changed.stored.push((key.clone(), Some(subject.clone())));
        self.subjects.insert(key, Known { subject, listed: true, gone: None });
    }

    fn leaves(&mut self, at: WallTime, key: &Key, changed: &mut Changed) {
        let Some(known) = self.subjects.get_mut(key) else { return };
        if known.gone.replace(at).is_some() {
            return;
        }
        let subject = known.subject.clone();
        self.unlink(at, &subject, None, changed);
        self.gone.push_back((at, key.clone()));
        changed.stored.push((key.clone(), None));
    }

    /// Makes a subject be found.
    fn link(&mut self, at: WallTime, source: Source, subject: &Subject, changed: &mut Changed) {
        match subject {
            Subject::Container(container) => {
                let id = &container.id;
                self.containers.entry(Arc::clone(id)).or_default().insert(source);
                changed.workloads.insert(Arc::clone(id));
                for address in &container.addresses {
                    self.hosts.begin(*address, Arc::clone(id), container.since, at);
                    changed.addresses.insert(*address);
                }
            }
            Subject::Pod(pod) => {
                changed.workloads.insert(Arc::clone(&pod.uid));
                changed.workloads.extend(pod.containers.iter().map(|it| Arc::clone(&it.id)));
                for address in &pod.addresses {
                    self.pods.begin(*address, Arc::clone(&pod.uid), pod.since, at);
                    changed.addresses.insert(*address);
                }
            }
            Subject::Service(service) => {
                let name: Arc<str> = service.service.as_str().into();
                for address in &service.addresses {
                    self.services.entry(*address).or_default().insert(Arc::clone(&name));
                    changed.addresses.insert(*address);
                }
                for (protocol, port) in node_ports(service) {
                    self.node_ports.insert((protocol, port), Arc::clone(&name));
                }
            }
            Subject::Endpoints(endpoints) => {
                let service: Arc<str> = endpoints.service.as_str().into();
                let slice = &endpoints.slice;
                self.slices.entry(Arc::clone(&service)).or_default().insert(Arc::clone(slice));
                for (address, _) in &endpoints.addresses {
                    self.behind.entry(*address).or_default().insert(Arc::clone(slice));
                }
                self.means_other(endpoints, changed);
            }
            Subject::Node(node) => {
                for address in &node.addresses {
                    self.nodes.insert(*address, Arc::clone(&node.name));
                    changed.addresses.insert(*address);
                }
            }
        }
    }

    /// Takes back what [`Directory::link`] did, but for what `next` goes on with.
    fn unlink(
        &mut self,
        at: WallTime,
        subject: &Subject,
        next: Option<&Subject>,
        changed: &mut Changed,
    ) {
        match subject {
            Subject::Container(container) => {
                for address in left(&container.addresses, next) {
                    self.hosts.end(address, &container.id, at);
                    changed.addresses.insert(address);
                }
            }
            Subject::Pod(pod) => {
                for address in left(&pod.addresses, next) {
                    self.pods.end(address, &pod.uid, at);
                    changed.addresses.insert(address);
                }
            }
            Subject::Service(service) => {
                let name = service.service.as_str();
                for address in &service.addresses {
                    take_from(&mut self.services, address, name);
                    changed.addresses.insert(*address);
                }
                for port in node_ports(service) {
                    if self.node_ports.get(&port).is_some_and(|it| &**it == name) {
                        self.node_ports.remove(&port);
                    }
                }
            }
            Subject::Endpoints(endpoints) => {
                let service: Arc<str> = endpoints.service.as_str().into();
                take_from(&mut self.slices, &service, &endpoints.slice);
                for (address, _) in &endpoints.addresses {
                    take_from(&mut self.behind, address, &endpoints.slice);
                }
                self.means_other(endpoints, changed);
            }
            Subject::Node(node) => {
                for address in &node.addresses {
                    if self.nodes.get(address) == Some(&node.name) {
                        self.nodes.remove(address);
                        changed.addresses.insert(*address);
                    }
                }
            }
        }
    }

    /// Who answers for a Service may be who is meant by dialling it.
    fn means_other(&self, endpoints: &Endpoints, changed: &mut Changed) {
        changed.addresses.extend(endpoints.addresses.iter().map(|(address, _)| *address));
        let service = self.service(endpoints.service.as_str());
        changed.addresses.extend(service.into_iter().flat_map(|it| &it.addresses));
    }

    fn of_kind(&self, source: Source, kind: Kind) -> impl Iterator<Item = (&Key, &Known)> {
        let first = Key { source, kind, id: "".into() };
        let is_of = move |key: &Key| key.source == source && key.kind == kind;
        self.subjects.range(first..).take_while(move |(key, _)| is_of(key))
    }

    fn of_kind_mut(&mut self, source: Source, kind: Kind) -> impl Iterator<Item = &mut Known> {
        let first = Key { source, kind, id: "".into() };
        let is_of = move |key: &Key| key.source == source && key.kind == kind;
        self.subjects.range_mut(first..).take_while(move |(key, _)| is_of(key)).map(|(_, it)| it)
    }

    /// Forgets what has been gone for long.
    fn forget(&mut self, now: WallTime) {
        let old = now.plus_seconds(-Self::GONE_S);
        while let Some((at, key)) = self.gone.front()
            && (*at < old || self.gone.len() > Self::GONE)
        {
            // Told again since, or gone once more since: that is another end.
            if self.subjects.get(key).is_some_and(|known| known.gone == Some(*at)) {
                self.subjects.remove(key);
                if key.kind == Kind::Container
                    && let Some(sources) = self.containers.get_mut(&key.id)
                {
                    sources.remove(&key.source);
                    if sources.is_empty() {
                        self.containers.remove(&key.id);
                    }
                }
            }
            self.gone.pop_front();
        }
    }
}

fn node_ports(service: &ClusterService) -> impl Iterator<Item = (Protocol, u16)> {
    service.ports.iter().filter_map(|it| Some((it.protocol, it.node_port?)))
}

/// Addresses that `next`, the same subject as it is now, does not hold any more.
fn left(addresses: &[IpAddr], next: Option<&Subject>) -> Vec<IpAddr> {
    let kept: &[IpAddr] = match next {
        Some(Subject::Container(container)) => &container.addresses,
        Some(Subject::Pod(pod)) => &pod.addresses,
        Some(Subject::Service(_) | Subject::Endpoints(_) | Subject::Node(_)) | None => &[],
    };
    addresses.iter().filter(|it| !kept.contains(it)).copied().collect()
}

/// Takes `member` out of the set at `key`, and the set where nothing is left in it.
fn take_from<K: Ord>(sets: &mut BTreeMap<K, BTreeSet<Arc<str>>>, key: &K, member: &str) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(member);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
