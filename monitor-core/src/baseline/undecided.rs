//! How many edges of each service nobody has decided about: what one that scans may fill the table with.
//! Knows names and edges only.

use std::collections::{BTreeMap, BTreeSet};

use crate::baseline::EdgeRecord;
use crate::edge::Edge;
use crate::ids::ServiceName;

/// The undecided edges, each under the service it belongs to.
#[derive(Debug, Default)]
pub(super) struct Undecided(BTreeMap<ServiceName, BTreeSet<Edge>>);

impl Undecided {
    pub(super) fn of(edges: &BTreeMap<Edge, EdgeRecord>) -> Self {
        let mut undecided = Self::default();
        for (edge, _) in edges.iter().filter(|(_, record)| record.is_undecided()) {
            undecided.add(edge);
        }
        undecided
    }

    pub(super) fn add(&mut self, edge: &Edge) {
        let Some(service) = edge.owner() else { return };
        let edges = match self.0.get_mut(service) {
            Some(edges) => edges,
            None => self.0.entry(service.clone()).or_default(),
        };
        if !edges.contains(edge) {
            edges.insert(edge.clone());
        }
    }

    pub(super) fn remove(&mut self, edge: &Edge) {
        let Some(service) = edge.owner() else { return };
        if let Some(edges) = self.0.get_mut(service) {
            edges.remove(edge);
            if edges.is_empty() {
                self.0.remove(service);
            }
        }
    }

    /// How many the service has that this edge belongs to.
    pub(super) fn of_owner(&self, edge: &Edge) -> usize {
        edge.owner().and_then(|service| self.0.get(service)).map_or(0, BTreeSet::len)
    }
}
