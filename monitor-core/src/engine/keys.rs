//! Which edge each of the kernel's keys stands for, so that what a key counts is found without asking
//! for its edge's name. Bounded by the kernel's own table, which says what it forgets.

use foldhash::quality::FixedState;
use hashbrown::HashMap;
use indexmap::IndexMap;
use smallvec::SmallVec;

use crate::baseline::{EdgeRecord, Place, Table};
use crate::edge::Edge;
use crate::flow::{FlowKey, Outcome};

#[derive(Debug)]
pub(crate) struct Keys {
    /// Where the edge is kept: one that was seen stays there. What is dialled is a key for each of its
    /// outcomes, two most often: they are under the first.
    kept: IndexMap<FlowKey, Outcomes, FixedState>,
    /// Edges for which there was no room.
    unkept: HashMap<FlowKey, Edge, FixedState>,
}

type Outcomes = SmallVec<[(Outcome, Place); 2]>;

impl Keys {
    /// `seed` keys the tables: they hold what strangers choose.
    pub(crate) fn new(seed: u64) -> Self {
        let hasher = FixedState::with_seed(seed);
        Self { kept: IndexMap::with_hasher(hasher.clone()), unkept: HashMap::with_hasher(hasher) }
    }

    /// From now on `keys` stand for `edge`, which is kept at `place`.
    pub(crate) fn stand_for(&mut self, keys: &[FlowKey], edge: &Edge, place: Option<Place>) {
        for key in keys {
            match place {
                Some(place) => {
                    self.keep(key, place);
                    self.unkept.remove(key);
                }
                None => {
                    self.unkept.insert(*key, edge.clone());
                    self.leave(key);
                }
            }
        }
    }

    fn keep(&mut self, key: &FlowKey, place: Place) {
        let outcomes = self.kept.entry(key.dial()).or_default();
        match outcomes.iter_mut().find(|(outcome, _)| *outcome == key.outcome) {
            Some((_, kept)) => *kept = place,
            None => outcomes.push((key.outcome, place)),
        }
    }

    fn leave(&mut self, key: &FlowKey) {
        let dial = key.dial();
        let Some(outcomes) = self.kept.get_mut(&dial) else { return };
        outcomes.retain(|(outcome, _)| *outcome != key.outcome);
        if outcomes.is_empty() {
            self.kept.swap_remove(&dial);
        }
    }

    fn kept_at(&self, key: &FlowKey) -> Option<Place> {
        let outcomes = self.kept.get(&key.dial())?;
        outcomes.iter().find(|(outcome, _)| *outcome == key.outcome).map(|(_, place)| *place)
    }

    /// Where the edge of `key` is kept; room may have been found for it since.
    pub(crate) fn place_of(&self, key: &FlowKey, edges: &Table<Edge, EdgeRecord>) -> Option<Place> {
        self.kept_at(key).or_else(|| edges.place_of(self.unkept.get(key)?))
    }

    /// The edge of `key`.
    pub(crate) fn edge_of<'a>(
        &'a self,
        key: &FlowKey,
        edges: &'a Table<Edge, EdgeRecord>,
    ) -> Option<&'a Edge> {
        let kept = self.kept_at(key).and_then(|place| edges.at(place)).map(|(edge, _)| edge);
        kept.or_else(|| self.unkept.get(key))
    }

    /// The kernel forgot `key`.
    pub(crate) fn forget(&mut self, key: &FlowKey) {
        self.leave(key);
        self.unkept.remove(key);
        // A burst is over: its room is worth more than growing again.
        if self.kept.capacity() > 4 * self.kept.len().max(Self::ROOM) {
            self.kept.shrink_to(2 * self.kept.len());
        }
    }

    /// So much is kept without looking whether it is needed.
    const ROOM: usize = 1024;

    /// The keys of the edges that `touched` picks. In order: the same inputs give the same outputs.
    pub(crate) fn of(
        &self,
        edges: &Table<Edge, EdgeRecord>,
        touched: impl Fn(&Edge) -> bool,
    ) -> Vec<FlowKey> {
        let is_touched = |place: Place| edges.at(place).is_some_and(|(edge, _)| touched(edge));
        let kept = self.kept.iter().flat_map(|(dial, outcomes)| {
            let there = outcomes.iter().filter(|(_, place)| is_touched(*place));
            there.map(|(outcome, _)| FlowKey { outcome: *outcome, ..*dial })
        });
        let unkept = self.unkept.iter().filter(|(_, edge)| touched(edge)).map(|(key, _)| *key);
        let mut keys: Vec<FlowKey> = kept.chain(unkept).collect();
        keys.sort_unstable();
        keys
    }
}
