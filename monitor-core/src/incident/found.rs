//! Where the open incidents are found without walking all of them: by their service, by an edge they
//! tell of, and those that may have something to say. Knows nothing of what they say.

use std::collections::{BTreeMap, BTreeSet};

use foldhash::quality::FixedState;
use hashbrown::HashMap;

use crate::edge::Edge;
use crate::ids::ServiceName;
use crate::incident::Incident;

/// Ids of open incidents, always in order: an id sorts by its time.
#[derive(Debug, Default)]
pub(super) struct Found {
    by_service: BTreeMap<ServiceName, BTreeSet<String>>,
    by_edge: HashMap<Edge, BTreeSet<String>, FixedState>,
    /// How many findings of each are entered under their edges: they only grow in number.
    entered: BTreeMap<String, usize>,
    /// Those that were handed out to be changed, and may hold more findings by now.
    changed: BTreeSet<String>,
    /// Those that may have something to say.
    speakers: BTreeSet<String>,
}

impl Found {
    pub(super) fn open(&mut self, incident: &Incident) {
        self.by_service.entry(incident.service.clone()).or_default().insert(incident.id.clone());
        self.handed_out(&incident.id);
    }

    /// It may say more and tell of more edges from now on.
    pub(super) fn handed_out(&mut self, id: &str) {
        self.changed.insert(id.to_owned());
        self.speakers.insert(id.to_owned());
    }

    pub(super) fn close(&mut self, incident: &Incident) {
        let id = &incident.id;
        if let Some(ids) = self.by_service.get_mut(&incident.service) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_service.remove(&incident.service);
            }
        }
        for edge in incident.findings.iter().filter_map(|it| it.edge.as_ref()) {
            if let Some(ids) = self.by_edge.get_mut(edge) {
                ids.remove(id);
                if ids.is_empty() {
                    self.by_edge.remove(edge);
                }
            }
        }
        self.entered.remove(id);
        self.changed.remove(id);
        self.speakers.remove(id);
    }

    pub(super) fn of_service(&self, service: &ServiceName) -> impl Iterator<Item = &String> {
        self.by_service.get(service).into_iter().flatten()
    }

    pub(super) fn of_edge(
        &mut self,
        open: &BTreeMap<String, Incident>,
        edge: &Edge,
    ) -> Vec<String> {
        for id in std::mem::take(&mut self.changed) {
            let Some(incident) = open.get(&id) else {
                continue;
            };
            let entered = self.entered.entry(id.clone()).or_default();
            let new = incident.findings.get(*entered..).unwrap_or_default();
            *entered = incident.findings.len();
            for edge in new.iter().filter_map(|it| it.edge.as_ref()) {
                self.by_edge.entry_ref(edge).or_default().insert(id.clone());
            }
        }
        self.by_edge.get(edge).into_iter().flatten().cloned().collect()
    }

    pub(super) fn speakers(&self) -> impl Iterator<Item = &String> {
        self.speakers.iter()
    }

    pub(super) fn has_nothing_to_say(&mut self, id: &str) {
        self.speakers.remove(id);
    }
}
