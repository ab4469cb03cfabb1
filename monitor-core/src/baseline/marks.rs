//! What was touched, each once, and is to be stored next.

use std::hash::Hash;

use foldhash::quality::FixedState;
use hashbrown::HashSet;

use crate::baseline::{EdgeRecord, ServiceRecord};
use crate::edge::Edge;
use crate::ids::ServiceName;

/// What changed in a [`crate::baseline::Baseline`].
#[derive(Debug, Default)]
pub struct Dirty {
    pub edges: Vec<(Edge, Option<EdgeRecord>)>,
    pub services: Vec<(ServiceName, ServiceRecord)>,
}

/// Values that were touched.
#[derive(Debug)]
pub(super) struct Marks<T>(HashSet<T, FixedState>);

impl<T> Marks<T> {
    /// `seed` keys the table: it holds what strangers choose.
    pub(super) fn new(seed: u64) -> Self {
        Self(HashSet::with_hasher(FixedState::with_seed(seed)))
    }
}

impl<T: Clone + Ord + Hash> Marks<T> {
    pub(super) fn mark(&mut self, value: &T) {
        if !self.0.contains(value) {
            self.0.insert(value.clone());
        }
    }

    /// All of them, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter()
    }

    /// Takes all of them, in order: the same inputs give the same outputs.
    pub(super) fn take(&mut self) -> Vec<T> {
        let mut values: Vec<T> = self.0.drain().collect();
        values.sort_unstable();
        values
    }
}
