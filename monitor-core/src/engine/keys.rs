//! Which edge each of the kernel's keys stands for, so that what a key counts is found without asking
//! for its edge's name. Knows keys by their numbers alone; bounded as those are, by the kernel's own
//! table, of which it is told what is forgotten.

use std::collections::BTreeMap;

use crate::baseline::{EdgeRecord, Place, Table};
use crate::edge::Edge;
use crate::flow::KeyId;

#[derive(Debug, Default)]
pub(crate) struct Keys {
    /// By number, where the edge is kept: one that was seen stays there.
    kept: Vec<Option<Place>>,
    /// Edges for which there was no room.
    unkept: BTreeMap<KeyId, Edge>,
}

impl Keys {
    /// From now on `keys` stand for `edge`, which is kept at `place`.
    pub(crate) fn stand_for(&mut self, keys: &[KeyId], edge: &Edge, place: Option<Place>) {
        for key in keys {
            self.forget(*key);
            match place {
                Some(_) => {
                    if self.kept.len() <= key.index() {
                        self.kept.resize(key.index() + 1, None);
                    }
                    self.kept[key.index()] = place;
                }
                None => {
                    self.unkept.insert(*key, edge.clone());
                }
            }
        }
    }

    fn kept_at(&self, key: KeyId) -> Option<Place> {
        self.kept.get(key.index()).copied().flatten()
    }

    /// Where the edge of `key` is kept; room may have been found for it since.
    pub(crate) fn place_of(&self, key: KeyId, edges: &Table<Edge, EdgeRecord>) -> Option<Place> {
        self.kept_at(key).or_else(|| edges.place_of(self.unkept.get(&key)?))
    }

    /// The edge of `key`.
    pub(crate) fn edge_of<'a>(
        &'a self,
        key: KeyId,
        edges: &'a Table<Edge, EdgeRecord>,
    ) -> Option<&'a Edge> {
        let kept = self.kept_at(key).and_then(|place| edges.at(place)).map(|(edge, _)| edge);
        kept.or_else(|| self.unkept.get(&key))
    }

    /// The kernel forgot `key`.
    pub(crate) fn forget(&mut self, key: KeyId) {
        if let Some(kept) = self.kept.get_mut(key.index()) {
            *kept = None;
        }
        self.unkept.remove(&key);
    }

    /// The keys of the edges that `touched` picks, in order.
    pub(crate) fn of(
        &self,
        edges: &Table<Edge, EdgeRecord>,
        touched: impl Fn(&Edge) -> bool,
    ) -> Vec<KeyId> {
        let is_touched = |place: Place| edges.at(place).is_some_and(|(edge, _)| touched(edge));
        let numbered = (0..).map(KeyId).zip(&self.kept);
        let kept = numbered.filter(|(_, place)| place.is_some_and(is_touched)).map(|(key, _)| key);
        let unkept = self.unkept.iter().filter(|(_, edge)| touched(edge)).map(|(key, _)| *key);
        let mut keys: Vec<KeyId> = kept.chain(unkept).collect();
        keys.sort_unstable();
        keys
    }
}
