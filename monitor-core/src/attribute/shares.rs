//! A table in which each owner has a share: one who fills his loses what he had there, and nobody else
//! does. It knows nothing of what it holds.

use std::collections::BTreeMap;
use std::ops::RangeBounds;

/// Bounded by [`Shares::BOUND`] entries; a full one starts anew.
#[derive(Debug)]
pub(crate) struct Shares<O, K, V> {
    entries: BTreeMap<K, (O, V)>,
    /// How many each has.
    counts: BTreeMap<O, usize>,
}

impl<O, K, V> Default for Shares<O, K, V> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), counts: BTreeMap::new() }
    }
}

impl<O: Ord + Clone, K: Ord, V> Shares<O, K, V> {
    pub(crate) const BOUND: usize = 65_536;
    /// What one owner may have.
    pub(crate) const OF_ONE: usize = Self::BOUND / 16;

    pub(crate) fn insert(&mut self, owner: O, key: K, value: V) {
        if self.entries.len() >= Self::BOUND {
            self.entries.clear();
            self.counts.clear();
        } else if self.counts.get(&owner).is_some_and(|count| *count >= Self::OF_ONE)
            && !self.entries.contains_key(&key)
        {
            self.forget(&owner);
        }
        *self.counts.entry(owner.clone()).or_default() += 1;
        if let Some((before, _)) = self.entries.insert(key, (owner, value)) {
            self.has_one_less(&before);
        }
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key).map(|(_, value)| value)
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.entries.contains_key(key)
    }

    pub(crate) fn range(&self, keys: impl RangeBounds<K>) -> impl Iterator<Item = (&K, &V)> {
        self.entries.range(keys).map(|(key, (_, value))| (key, value))
    }

    /// Forgets what an owner has; next to nothing to do where that is nothing.
    pub(crate) fn forget(&mut self, owner: &O) {
        if self.counts.remove(owner).is_some() {
            self.entries.retain(|_, (of, _)| of != owner);
        }
    }

    /// Forgets whatever does not fit.
    pub(crate) fn retain(&mut self, fits: impl Fn(&V) -> bool) {
        let Self { entries, counts } = self;
        entries.retain(|_, (owner, value)| {
            let stays = fits(value);
            if !stays && let Some(count) = counts.get_mut(owner) {
                *count -= 1;
            }
            stays
        });
        counts.retain(|_, count| *count > 0);
    }

    fn has_one_less(&mut self, owner: &O) {
        if let Some(count) = self.counts.get_mut(owner) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(owner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Table = Shares<u8, u32, ()>;

    #[test]
    fn who_fills_his_share_takes_nothing_of_others() {
        let mut table = Table::default();
        (0..10).for_each(|key| table.insert(1, key, ()));
        for key in 1_000..1_000 + 20 * u32::try_from(Table::BOUND).unwrap() {
            table.insert(2, key, ());
        }
        assert!((0..10).all(|key| table.contains(&key)));
        assert!(table.entries.len() <= 10 + Table::OF_ONE, "{}", table.entries.len());
        assert_eq!(table.counts.values().sum::<usize>(), table.entries.len());
    }

    #[test]
    fn many_owners_start_anew_together() {
        let mut table = Table::default();
        for owner in 0..=u8::MAX {
            let base = u32::from(owner) * 10_000;
            (0..1_000).for_each(|key| table.insert(owner, base + key, ()));
        }
        assert!(table.entries.len() <= Table::BOUND);
        assert_eq!(table.counts.values().sum::<usize>(), table.entries.len());
    }

    #[test]
    fn what_another_enters_is_anothers() {
        let mut table = Table::default();
        table.insert(1, 7, ());
        table.insert(2, 7, ());
        table.forget(&1);
        assert!(table.contains(&7));
        table.insert(2, 7, ());
        table.forget(&2);
        assert!(!table.contains(&7));
        assert!(table.counts.is_empty());
    }
}
