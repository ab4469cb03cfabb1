//! Edges that nobody has decided about: how many a service may fill the table with, and what becomes one
//! again because it was learned of a flood. Judges nothing.

use foldhash::quality::FixedState;
use hashbrown::HashMap;

use crate::baseline::{Allowance, Baseline, EdgeRecord, Place, Provenance, Table};
use crate::edge::Edge;
use crate::ids::{ServiceName, WallTime};

/// How many undecided edges each service has.
#[derive(Debug)]
pub(super) struct Undecided {
    services: HashMap<ServiceName, usize, FixedState>,
    /// By place: whether it is counted.
    counted: Vec<bool>,
}

impl Undecided {
    /// `seed` keys the table: it holds what strangers choose.
    pub(super) fn new(seed: u64) -> Self {
        Self { services: HashMap::with_hasher(FixedState::with_seed(seed)), counted: Vec::new() }
    }

    pub(super) fn of(edges: &Table<Edge, EdgeRecord>, seed: u64) -> Self {
        let mut undecided = Self::new(seed);
        for (edge, _) in edges.iter().filter(|(_, record)| record.is_undecided()) {
            if let Some(place) = edges.place_of(edge) {
                undecided.add(edge, place);
            }
        }
        undecided
    }

    pub(super) fn add(&mut self, edge: &Edge, place: Place) {
        if self.counted.len() <= place.index() {
            self.counted.resize(place.index() + 1, false);
        }
        if std::mem::replace(&mut self.counted[place.index()], true) {
            return;
        }
        if let Some(service) = edge.owner() {
            *self.services.entry_ref(service).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, edge: &Edge, place: Place) {
        let counted = self.counted.get_mut(place.index());
        if !counted.is_some_and(|it| std::mem::replace(it, false)) {
            return;
        }
        let Some(service) = edge.owner() else { return };
        if let Some(count) = self.services.get_mut(service) {
            *count -= 1;
            if *count == 0 {
                self.services.remove(service);
            }
        }
    }

    /// How many the service has that this edge belongs to.
    pub(super) fn of_owner(&self, edge: &Edge) -> usize {
        edge.owner().and_then(|service| self.services.get(service)).copied().unwrap_or(0)
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
        let edges = &self.edges;
        let is_its =
            |place: &Place| edges.at(*place).is_some_and(|(edge, _)| edge.touches(service));
        // Touched, and so not taken for known yet, or known already.
        let touched = edges.touched().filter(is_its);
        let mut places: Vec<Place> = touched.chain(self.known.places_of(edges, service)).collect();
        places.retain(|it| edges.at(*it).is_some_and(|(_, it)| it.allowed.iter().any(learned)));
        for place in places {
            if let Some((_, record)) = self.edges.touch_at(place) {
                record.allowed.retain(|it| !learned(it));
            }
        }
        self.return_to_learning(service, at);
    }
}
