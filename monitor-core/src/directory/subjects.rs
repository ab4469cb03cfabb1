//! Everything that sources said last, found by the id that they gave it. Holds, and concludes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::directory::{Key, Kind, Source, Subject};
use crate::ids::WallTime;

#[derive(Debug, Default)]
pub(crate) struct Subjects {
    /// Looked up by parts: no key is made for that.
    of: BTreeMap<(Source, Kind), BTreeMap<Arc<str>, Known>>,
    count: usize,
}

#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) subject: Subject,
    /// Told since the list that is under way began.
    pub(crate) listed: bool,
    pub(crate) gone: Option<WallTime>,
}

impl Subjects {
    pub(crate) const fn len(&self) -> usize {
        self.count
    }

    pub(crate) fn get(&self, source: Source, kind: Kind, id: &str) -> Option<&Subject> {
        Some(&self.of.get(&(source, kind))?.get(id)?.subject)
    }

    pub(crate) fn known(&self, key: &Key) -> Option<&Known> {
        self.of.get(&(key.source, key.kind))?.get(&key.id)
    }

    pub(crate) fn known_mut(&mut self, key: &Key) -> Option<&mut Known> {
        self.of.get_mut(&(key.source, key.kind))?.get_mut(&key.id)
    }

    pub(crate) fn insert(&mut self, key: &Key, known: Known) {
        let kind = self.of.entry((key.source, key.kind)).or_default();
        if kind.insert(Arc::clone(&key.id), known).is_none() {
            self.count += 1;
        }
    }

    pub(crate) fn remove(&mut self, key: &Key) -> Option<Known> {
        let removed = self.of.get_mut(&(key.source, key.kind))?.remove(&key.id)?;
        self.count -= 1;
        Some(removed)
    }

    pub(crate) fn of_kind(
        &self,
        source: Source,
        kind: Kind,
    ) -> impl Iterator<Item = (&Arc<str>, &Known)> {
        self.of.get(&(source, kind)).into_iter().flatten()
    }

    pub(crate) fn of_kind_mut(
        &mut self,
        source: Source,
        kind: Kind,
    ) -> impl Iterator<Item = &mut Known> {
        self.of.get_mut(&(source, kind)).into_iter().flat_map(BTreeMap::values_mut)
    }
}
