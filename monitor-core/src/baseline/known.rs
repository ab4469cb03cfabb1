//! Which edges a service is known by, found without walking all there are: a scan by one service, or
//! a large node, must not make every judgement dear. Knows names and edges only.

use std::collections::{BTreeMap, BTreeSet};

use crate::edge::Edge;
use crate::ids::ServiceName;

/// The edges with an allowance, under each of their services.
#[derive(Debug, Default)]
pub(super) struct Known(BTreeMap<ServiceName, BTreeSet<Edge>>);

impl Known {
    pub(super) fn of<'a>(edges: impl Iterator<Item = &'a Edge>) -> Self {
        let mut known = Self::default();
        for edge in edges {
            known.add(edge);
        }
        known
    }

    pub(super) fn add(&mut self, edge: &Edge) {
        for service in edge.services() {
            let edges = match self.0.get_mut(service) {
                Some(edges) => edges,
                None => self.0.entry(service.clone()).or_default(),
            };
            if !edges.contains(edge) {
                edges.insert(edge.clone());
            }
        }
    }

    pub(super) fn remove(&mut self, edge: &Edge) {
        for service in edge.services() {
            if let Some(edges) = self.0.get_mut(service) {
                edges.remove(edge);
            }
        }
    }

    /// In order.
    pub(super) fn edges_of(&self, service: &ServiceName) -> impl Iterator<Item = &Edge> {
        self.0.get(service).into_iter().flatten()
    }
}
