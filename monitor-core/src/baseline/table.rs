//! Rows found by their name in one look, or by their place without any; what was touched is known
//! until it is taken. Knows nothing of what the rows mean.

use std::hash::{BuildHasher as _, Hash};
use std::num::NonZeroU32;

use foldhash::quality::FixedState;
use hashbrown::HashTable;

/// Where a row stands: for as long as the row is not taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(NonZeroU32);

impl Place {
    /// More rows than that do not fit anywhere.
    fn at(index: usize) -> Self {
        let number = u32::try_from(index + 1).unwrap_or(u32::MAX);
        Self(NonZeroU32::new(number).unwrap_or(NonZeroU32::MAX))
    }

    pub(super) const fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// Names and what is known of each. Walked in the order of their places, which follows from the
/// inputs and means nothing: where order is seen, [`Table::in_order`] has it.
#[derive(Debug)]
pub struct Table<K, V> {
    rows: Vec<Row<K, V>>,
    /// Of each row; beside them, where each takes less room.
    states: Vec<State>,
    /// Places that were left.
    free: Vec<Place>,
    places: HashTable<Place>,
    touched: Vec<Place>,
    hasher: FixedState,
}

#[derive(Debug)]
struct Row<K, V> {
    name: K,
    value: V,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// As it was when what was touched was last taken.
    Settled,
    Touched,
    /// Taken out: its place is free.
    Left,
}

impl<K: Hash + Ord + Clone, V> Table<K, V> {
    /// `seed` keys the table: it holds what strangers choose.
    pub(super) fn new(seed: u64, rows: usize) -> Self {
        Self {
            rows: Vec::with_capacity(rows),
            states: Vec::with_capacity(rows),
            free: Vec::new(),
            places: HashTable::with_capacity(rows),
            touched: Vec::new(),
            hasher: FixedState::with_seed(seed),
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    #[must_use]
    pub fn place_of(&self, name: &K) -> Option<Place> {
        self.places.find(self.hasher.hash_one(name), |it| self.is_at(*it, name)).copied()
    }

    #[must_use]
    pub fn contains_key(&self, name: &K) -> bool {
        self.place_of(name).is_some()
    }

    #[must_use]
    pub fn get(&self, name: &K) -> Option<&V> {
        self.at(self.place_of(name)?).map(|(_, value)| value)
    }

    /// The row that stands there.
    #[must_use]
    pub fn at(&self, place: Place) -> Option<(&K, &V)> {
        let row = self.rows.get(place.index()).filter(|_| self.is_there(place))?;
        Some((&row.name, &row.value))
    }

    /// In the order of their places.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let rows = self.rows.iter().zip(&self.states).filter(|(_, state)| **state != State::Left);
        rows.map(|(row, _)| (&row.name, &row.value))
    }

    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(name, _)| name)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// In the order of their names.
    #[must_use]
    pub fn in_order(&self) -> Vec<(&K, &V)> {
        let mut rows: Vec<_> = self.iter().collect();
        rows.sort_unstable_by_key(|(name, _)| *name);
        rows
    }

    /// The row that stands there, to be changed: it is touched.
    pub(super) fn touch_at(&mut self, place: Place) -> Option<(&K, &mut V)> {
        if !self.is_there(place) {
            return None;
        }
        self.note_touched(place);
        self.rows.get_mut(place.index()).map(|row| (&row.name, &mut row.value))
    }

    /// The row of that name, to be changed: it is touched.
    pub(super) fn touch(&mut self, name: &K) -> Option<&mut V> {
        let place = self.place_of(name)?;
        self.touch_at(place).map(|(_, value)| value)
    }

    /// The row of that name, to be changed: it is touched. Where there is none it is made by `new`,
    /// under a copy of the name that is to be kept.
    pub(super) fn touch_or(&mut self, name: &K, new: impl FnOnce() -> (K, V)) -> (Place, &mut V) {
        let place = self.place_of(name).unwrap_or_else(|| self.add(new()));
        self.note_touched(place);
        (place, &mut self.rows[place.index()].value)
    }

    fn note_touched(&mut self, place: Place) {
        let state = &mut self.states[place.index()];
        if std::mem::replace(state, State::Touched) != State::Touched {
            self.touched.push(place);
        }
    }

    fn is_there(&self, place: Place) -> bool {
        self.states.get(place.index()).is_some_and(|state| *state != State::Left)
    }

    /// Adds a row that is not there, untouched.
    pub(super) fn add(&mut self, (name, value): (K, V)) -> Place {
        let hash = self.hasher.hash_one(&name);
        let row = Row { name, value };
        let place = match self.free.pop() {
            Some(place) => {
                self.rows[place.index()] = row;
                self.states[place.index()] = State::Settled;
                place
            }
            None => {
                self.rows.push(row);
                self.states.push(State::Settled);
                Place::at(self.rows.len() - 1)
            }
        };
        let Self { rows, hasher, .. } = self;
        self.places.insert_unique(hash, place, |it| hasher.hash_one(&rows[it.index()].name));
        place
    }

    /// Takes a row out.
    pub(super) fn remove(&mut self, place: Place)
    where
        V: Default,
    {
        if !self.is_there(place) {
            return;
        }
        self.states[place.index()] = State::Left;
        let row = &mut self.rows[place.index()];
        row.value = V::default();
        let hash = self.hasher.hash_one(&row.name);
        if let Ok(entry) = self.places.find_entry(hash, |it| *it == place) {
            entry.remove();
            self.free.push(place);
        }
    }

    /// The places of what was touched since it was last taken, in no order.
    pub(super) fn touched(&self) -> impl Iterator<Item = Place> {
        self.touched.iter().copied()
    }

    /// The places of what was touched since the last call, in the order of their names: the same inputs
    /// give the same outputs, and a store that sorts by name takes them in where they belong.
    pub(super) fn take_touched(&mut self) -> Vec<Place> {
        let mut touched = std::mem::take(&mut self.touched);
        for place in &touched {
            if self.is_there(*place) {
                self.states[place.index()] = State::Settled;
            }
        }
        touched.sort_unstable_by(|a, b| self.rows[a.index()].name.cmp(&self.rows[b.index()].name));
        touched
    }

    fn is_at(&self, place: Place, name: &K) -> bool {
        self.rows[place.index()].name == *name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_touched_is_told_once_and_in_order() {
        let mut table: Table<&str, u32> = Table::new(7, 0);
        for name in ["b", "a", "c"] {
            table.touch_or(&name, || (name, 0));
        }
        *table.touch(&"a").unwrap() += 1;
        let names = |table: &mut Table<&'static str, u32>| -> Vec<&str> {
            let touched = table.take_touched();
            touched.into_iter().map(|place| *table.at(place).unwrap().0).collect()
        };
        assert_eq!(names(&mut table), ["a", "b", "c"]);
        assert_eq!(names(&mut table), [""; 0]);
        table.touch(&"c");
        assert_eq!(names(&mut table), ["c"]);
        assert_eq!(table.in_order(), [(&"a", &1), (&"b", &0), (&"c", &0)]);
    }

    #[test]
    fn a_place_that_was_left_is_given_again() {
        let mut table: Table<u32, u32> = Table::new(7, 0);
        for name in 0..100 {
            table.add((name, name));
        }
        let left = table.place_of(&41).unwrap();
        table.remove(left);
        assert_eq!((table.len(), table.get(&41), table.at(left)), (99, None, None));
        assert_eq!(table.add((100, 100)), left);
        assert_eq!((table.get(&100), table.get(&99), table.len()), (Some(&100), Some(&99), 100));
    }
}
