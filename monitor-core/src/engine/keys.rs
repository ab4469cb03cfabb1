//! Which edge each of the kernel's keys stands for, so that what a key counts is found without asking
//! for its edge's name. Bounded by the kernel's own table, which says what it forgets.

use foldhash::quality::FixedState;
use hashbrown::HashMap;

use crate::baseline::{EdgeRecord, Place, Table};
use crate::edge::Edge;
use crate::flow::FlowKey;

#[derive(Debug)]
pub(crate) struct Keys {
    /// Where the edge is kept: one that was seen stays there.
    kept: HashMap<FlowKey, Place, FixedState>,
    /// Edges for which there was no room.
    unkept: HashMap<FlowKey, Edge, FixedState>,
}

impl Keys {
    /// `seed` keys the tables: they hold what strangers choose.
    pub(crate) fn new(seed: u64) -> Self {
        let hasher = FixedState::with_seed(seed);
        Self { kept: HashMap::with_hasher(hasher.clone()), unkept: HashMap::with_hasher(hasher) }
    }

    /// From now on `keys` stand for `edge`, which is kept at `place`.
    pub(crate) fn stand_for(&mut self, keys: &[FlowKey], edge: &Edge, place: Option<Place>) {
        for key in keys {
            match place {
                Some(place) => {
                    self.kept.insert(*key, place);
                    self.unkept.remove(key);
                }
                None => {
                    self.unkept.insert(*key, edge.clone());
                    self.kept.remove(key);
                }
            }
        }
    }

    /// Where the edge of `key` is kept; room may have been found for it since.
    pub(crate) fn place_of(&self, key: &FlowKey, edges: &Table<Edge, EdgeRecord>) -> Option<Place> {
        let kept = self.kept.get(key).copied();
        kept.or_else(|| edges.place_of(self.unkept.get(key)?))
    }

    /// The edge of `key`.
    pub(crate) fn edge_of<'a>(
        &'a self,
        key: &FlowKey,
        edges: &'a Table<Edge, EdgeRecord>,
    ) -> Option<&'a Edge> {
        let kept = self.kept.get(key).and_then(|place| edges.at(*place)).map(|(edge, _)| edge);
        kept.or_else(|| self.unkept.get(key))
    }

    /// The kernel forgot `key`.
    pub(crate) fn forget(&mut self, key: &FlowKey) {
        self.kept.remove(key);
        self.unkept.remove(key);
    }

    /// The keys of the edges that `touched` picks. In order: the same inputs give the same outputs.
    pub(crate) fn of(
        &self,
        edges: &Table<Edge, EdgeRecord>,
        touched: impl Fn(&Edge) -> bool,
    ) -> Vec<FlowKey> {
        let is_touched = |place: &Place| edges.at(*place).is_some_and(|(edge, _)| touched(edge));
        let kept = self.kept.iter().filter(|(_, place)| is_touched(place)).map(|(key, _)| *key);
        let unkept = self.unkept.iter().filter(|(_, edge)| touched(edge)).map(|(key, _)| *key);
        let mut keys: Vec<FlowKey> = kept.chain(unkept).collect();
        keys.sort_unstable();
        keys
    }
}
