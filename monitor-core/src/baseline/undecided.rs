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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::baseline::Stated;

    fn learned(executable: &str, since: WallTime) -> Allowance {
        Allowance {
            provenance: Provenance::Learned,
            since,
            executables: [executable].into_iter().collect(),
            attempted_only: false,
            grounds: Stated::default(),
        }
    }

    #[test]
    fn an_edge_is_counted_while_it_is_there_and_undecided() {
        let mut baseline = Baseline::restore(Vec::new(), Vec::new(), 7);
        let edges: [Edge; 3] = [
            "systemd:web -> systemd:db 5432/tcp",
            "systemd:web -> systemd:web 9/tcp",
            "systemd:web -> systemd:api 443/tcp",
        ]
        .map(|it| it.parse().unwrap());
        let count = |baseline: &Baseline| baseline.undecided.of_owner(&edges[0]);
        for edge in edges.iter().chain(&edges) {
            baseline.edge_mut(edge);
        }
        assert_eq!(count(&baseline), 3);
        let at = WallTime(0);
        baseline.edge_mut(&edges[0]).allowed.push(learned("/bin/web", at));
        baseline.edge_mut(&edges[1]).pending.get_or_insert_default();
        baseline.take_dirty();
        // The third was nothing, and its place is another's.
        assert_eq!(count(&baseline), 1);
        let other: Edge = "systemd:api -> systemd:db 5432/tcp".parse().unwrap();
        baseline.edge_mut(&other);
        assert_eq!((count(&baseline), baseline.undecided.of_owner(&other)), (1, 1));
        let stored = baseline.edges.iter().map(|(edge, it)| (edge.clone(), it.clone())).collect();
        let restored = Baseline::restore(Vec::new(), stored, 7);
        assert_eq!((count(&restored), restored.undecided.of_owner(&other)), (1, 1));
    }

    #[test]
    fn what_was_learned_since_is_taken_back_whether_it_was_stored_or_not() {
        let mut baseline = Baseline::restore(Vec::new(), Vec::new(), 7);
        let (before, since) = (WallTime(0), WallTime(5));
        let web: ServiceName = "systemd:web".parse().unwrap();
        let learn = |baseline: &mut Baseline, edge: &str, executable, at| {
            let record = baseline.edge_mut(&edge.parse().unwrap());
            record.pending.get_or_insert_default();
            record.allowed.push(learned(executable, at));
        };
        learn(&mut baseline, "systemd:web -> systemd:db 5432/tcp", "/bin/web", before);
        learn(&mut baseline, "systemd:web -> ip:192.0.2.1 80/tcp", "/bin/scan", since);
        learn(&mut baseline, "systemd:api -> systemd:db 5432/tcp", "/bin/api", since);
        baseline.take_dirty();
        let executables = |baseline: &Baseline| -> Vec<String> {
            let executables = baseline.circle(&web, since).executables();
            executables.iter().map(str::to_owned).collect()
        };
        assert_eq!(executables(&baseline), ["/bin/scan", "/bin/web"]);
        learn(&mut baseline, "systemd:web -> ip:192.0.2.2 80/tcp", "/bin/scan", since);
        baseline.unlearn(&web, since, since);
        let dirty = baseline.take_dirty();
        assert_eq!(dirty.edges.len(), 2, "of one that stays nothing is stored: {dirty:?}");
        assert_eq!(executables(&baseline), ["/bin/web"]);
        assert_eq!(baseline.circle(&web, since).edges(), 1);
        let scan: Edge = "systemd:web -> ip:192.0.2.1 80/tcp".parse().unwrap();
        assert_eq!(baseline.undecided.of_owner(&scan), 2);
    }
}
