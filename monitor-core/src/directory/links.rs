//! By which addresses, ports and ids a subject is found: entered as it is told, taken back as it goes,
//! with note of what means something else by that.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::directory::{Changed, ClusterService, Directory, Endpoints, Key, Subject};
use crate::flow::Protocol;
use crate::ids::WallTime;

impl Directory {
    /// Makes a subject be found, which was `before` until now.
    pub(crate) fn link(
        &mut self,
        at: WallTime,
        key: &Key,
        (subject, before): (&Subject, Option<&Subject>),
        changed: &mut Changed,
    ) {
        let kept = kept(before);
        match subject {
            Subject::Container(container) => {
                let id = &container.id;
                self.containers.entry(Arc::clone(id)).or_default().insert(key.source);
                changed.workloads.insert(Arc::clone(id));
                for address in &container.addresses {
                    let (id, since) = (Arc::clone(id), container.since);
                    if kept.contains(address) {
                        self.hosts.keep(*address, id, since, at);
                    } else {
                        self.hosts.begin(*address, id, since, at);
                    }
                    changed.addresses.insert(*address);
                }
            }
            Subject::Pod(pod) => {
                if let Some(alias) = &pod.alias {
                    self.aliases.insert(Arc::clone(alias), Arc::clone(&pod.uid));
                }
                changed.workloads.insert(Arc::clone(&pod.uid));
                changed.workloads.extend(pod.containers.iter().map(|it| Arc::clone(&it.id)));
                for address in &pod.addresses {
                    let (uid, since) = (Arc::clone(&pod.uid), pod.since);
                    if kept.contains(address) {
                        self.pods.keep(*address, uid, since, at);
                    } else {
                        self.pods.begin(*address, uid, since, at);
                    }
                    changed.addresses.insert(*address);
                    // It may have been told after who answers for a Service.
                    for slice in self.behind.get(address).into_iter().flatten() {
                        changed.addresses.extend(self.dialled_for(slice));
                    }
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
    pub(crate) fn unlink(
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
                if let Some(alias) = &pod.alias {
                    self.aliases.remove(alias);
                }
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
        changed.addresses.extend(self.addresses_of(endpoints));
    }

    /// The addresses of the Service that a slice is of.
    fn dialled_for(&self, slice: &str) -> impl Iterator<Item = &IpAddr> {
        self.slice(slice).into_iter().flat_map(|it| self.addresses_of(it))
    }

    fn addresses_of(&self, endpoints: &Endpoints) -> impl Iterator<Item = &IpAddr> {
        let service = self.service(endpoints.service.as_str());
        service.into_iter().flat_map(|it| &it.addresses)
    }
}

fn node_ports(service: &ClusterService) -> impl Iterator<Item = (Protocol, u16)> {
    service.ports.iter().filter_map(|it| Some((it.protocol, it.node_port?)))
}

/// Addresses that `next`, the same subject as it is now, does not hold any more.
fn left(addresses: &[IpAddr], next: Option<&Subject>) -> Vec<IpAddr> {
    let kept = kept(next);
    addresses.iter().filter(|it| !kept.contains(it)).copied().collect()
}

/// Addresses of which a subject is the tenant.
fn kept(subject: Option<&Subject>) -> &[IpAddr] {
    match subject {
        Some(Subject::Container(container)) => &container.addresses,
        Some(Subject::Pod(pod)) => &pod.addresses,
        Some(Subject::Service(_) | Subject::Endpoints(_) | Subject::Node(_)) | None => &[],
    }
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
