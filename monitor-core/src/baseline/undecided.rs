//! Edges that nobody has decided about: how many a service may fill the table with, and what becomes one
//! again because it was learned of a flood. Judges nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::baseline::{Allowance, Baseline, EdgeRecord, Provenance};
use crate::edge::Edge;
use crate::ids::{ServiceName, WallTime};

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

/// Whether an edge finds a place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    Some,
    /// Its service has as many undecided ones as it may.
    NoneOfService,
    None,
}

impl Baseline {
    /// Undecided edges that one service may have in it, so that it leaves room for others.
    pub const UNDECIDED: usize = 4_096;

    /// Whether there is room for this edge; there is for one that has its place.
    #[must_use]
    pub fn room_for(&self, edge: &Edge) -> Room {
        let full = self.edges.len() >= Self::EDGES;
        let service_full = self.undecided.of_owner(edge) >= Self::UNDECIDED;
        if !(full || service_full) || self.edges.contains_key(edge) {
            Room::Some
        } else if full {
            Room::None
        } else {
            Room::NoneOfService
        }
    }

    /// Takes back what `service` learned since then: it was no evidence of anything.
    pub fn unlearn(&mut self, service: &ServiceName, since: WallTime, at: WallTime) {
        let learned = |it: &Allowance| it.provenance == Provenance::Learned && it.since >= since;
        // Marked, and so not taken for known yet, or known already.
        let marked = self.dirty_edges.iter().filter(|edge| edge.touches(service));
        let edges: BTreeSet<Edge> = marked.chain(self.known.edges_of(service)).cloned().collect();
        for edge in edges {
            let Some(record) = self.edges.get_mut(&edge) else { continue };
            let before = record.allowed.len();
            record.allowed.retain(|it| !learned(it));
            if record.allowed.len() != before {
                self.dirty_edges.mark(&edge);
            }
        }
        self.return_to_learning(service, at);
    }
}
