//! What runs in which cgroup: by its path at first, and by what runtimes and the cluster say of it as
//! soon as they do. Remembers a bounded number of cgroups that are gone.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use crate::attribute::Workload;
use crate::directory::Directory;
use crate::ids::{CgroupId, ServiceName};

#[derive(Debug, Default)]
pub(crate) struct Workloads {
    named: BTreeMap<CgroupId, Arc<Workload>>,
    /// The name by the path alone, of those that a source may name better.
    given: BTreeMap<CgroupId, ServiceName>,
    /// Those by the ids of their containers and pods.
    by_id: BTreeMap<Arc<str>, BTreeSet<CgroupId>>,
    /// In the order in which they went: the first to be forgotten.
    vanished: VecDeque<CgroupId>,
}

/// What runs in a cgroup has another name now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renamed {
    pub cgroup: CgroupId,
    pub from: ServiceName,
    pub to: ServiceName,
}

impl Workloads {
    /// Remembered at most; those that are gone make room, the oldest first.
    pub(crate) const BOUND: usize = 65_536;

    pub(crate) fn appeared(&mut self, cgroup: CgroupId, given: Workload, directory: &Directory) {
        self.forget(cgroup);
        if given.service.is_provisional() {
            for id in ids(&given) {
                self.by_id.entry(id).or_default().insert(cgroup);
            }
            self.given.insert(cgroup, given.service.clone());
        }
        let named = if self.given.contains_key(&cgroup) { name(given, directory) } else { given };
        self.named.insert(cgroup, Arc::new(named));
        while self.named.len() > Self::BOUND
            && let Some(oldest) = self.vanished.pop_front()
        {
            self.forget(oldest);
        }
    }

    /// It keeps its name for the flows that are still on their way.
    pub(crate) fn vanished(&mut self, cgroup: CgroupId) {
        self.vanished.push_back(cgroup);
        if self.vanished.len() > Self::BOUND
            && let Some(oldest) = self.vanished.pop_front()
        {
            self.forget(oldest);
        }
    }

    /// Something else is known of these containers and pods.
    pub(crate) fn learn(
        &mut self,
        ids: &BTreeSet<Arc<str>>,
        directory: &Directory,
    ) -> Vec<Renamed> {
        let cgroups = ids.iter().filter_map(|id| self.by_id.get(id)).flatten();
        let cgroups: BTreeSet<CgroupId> = cgroups.copied().collect();
        let mut renamed = Vec::new();
        for cgroup in cgroups {
            let (Some(named), Some(given)) = (self.named.get_mut(&cgroup), self.given.get(&cgroup))
            else {
                continue;
            };
            let from = named.service.clone();
            let mut now = name(Workload { service: given.clone(), ..(**named).clone() }, directory);
            // A source that forgot who it is takes no name away.
            if now.service.is_provisional() {
                now.service = from;
            } else if now.service != from {
                renamed.push(Renamed { cgroup, from, to: now.service.clone() });
            }
            *named = Arc::new(now);
        }
        renamed
    }

    pub(crate) fn get(&self, cgroup: CgroupId) -> Option<&Arc<Workload>> {
        self.named.get(&cgroup)
    }

    fn forget(&mut self, cgroup: CgroupId) {
        let Some(workload) = self.named.remove(&cgroup) else { return };
        if self.given.remove(&cgroup).is_none() {
            return;
        }
        for id in ids(&workload) {
            if let Some(cgroups) = self.by_id.get_mut(&id) {
                cgroups.remove(&cgroup);
                if cgroups.is_empty() {
                    self.by_id.remove(&id);
                }
            }
        }
    }
}

fn ids(workload: &Workload) -> impl Iterator<Item = Arc<str>> {
    [&workload.container, &workload.pod].into_iter().flatten().map(|id| Arc::from(&**id))
}

/// The workload as the directory has it; as it is where that knows nothing.
fn name(mut workload: Workload, directory: &Directory) -> Workload {
    let identity = directory.identity(workload.container.as_deref(), workload.pod.as_deref());
    if let Some(service) = identity.service {
        workload.service = service;
    }
    workload.container_name = identity.container.or(workload.container_name);
    workload.image = identity.image.or(workload.image);
    workload
}
