//! What was told, by the kernel's keys, and the number by which each is told of. Keys of one dial differ
//! by their outcomes alone, and stand under it. Knows nothing of what was told.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::BuildHasher as _;
use std::mem::offset_of;

use foldhash::quality::RandomState;
use hashbrown::HashTable;
use monitor_common as wire;
use monitor_core::flow::KeyId;

use crate::capture::decode::KeyBytes;
use crate::capture::seen::ToldKey;

#[derive(Default)]
pub(super) struct ToldKeys {
    /// Where each dial stands, found by its bytes.
    places: HashTable<u32>,
    dials: Vec<Dial>,
    /// By number.
    slots: Vec<Slot>,
    /// Numbers that nobody has; the lowest is given first.
    free: BinaryHeap<Reverse<u32>>,
    /// Those of keys that were removed, until whoever knows them by these was told so.
    leaving: Vec<u32>,
    hasher: RandomState,
}

struct Dial {
    /// Its keys, but for their outcome.
    bytes: KeyBytes,
    first: u32,
}

struct Slot {
    told: ToldKey,
    /// The next key of its dial.
    next: u32,
    /// Where its dial stands.
    dial: u32,
}

impl Slot {
    const VACANT: Self = Self { told: ToldKey::NONE, next: NONE, dial: NONE };

    const fn is_vacant(&self) -> bool {
        self.dial == NONE
    }
}

/// In place of a number: so many fit nowhere.
const NONE: u32 = u32::MAX;

/// A key without its outcome, and that.
const fn split(bytes: &KeyBytes) -> (KeyBytes, u8) {
    let mut dial = *bytes;
    let outcome = dial[AT];
    dial[AT] = 0;
    (dial, outcome)
}

const AT: usize = offset_of!(wire::FlowKey, outcome);

const fn number(index: usize) -> u32 {
    debug_assert!(index < NONE as usize);
    #[expect(clippy::cast_possible_truncation, reason = "the kernel holds fewer keys")]
    let number = index as u32;
    number
}

impl ToldKeys {
    /// So many are kept room for without looking whether that is needed.
    const ROOM: usize = 1024;

    /// How many keys were told.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len() - self.leaving.len()
    }

    /// How many there are but for their outcomes.
    pub(super) fn dials(&self) -> usize {
        self.dials.len()
    }

    /// The number of a key that was told.
    pub(super) fn find(&self, bytes: &KeyBytes) -> Option<KeyId> {
        let (dial, outcome) = split(bytes);
        let dial = &self.dials[self.place_of(&dial)? as usize];
        self.of_dial(dial.first).find(|it| self.slots[it.index()].told.outcome == outcome)
    }

    pub(super) fn get(&self, id: KeyId) -> Option<&ToldKey> {
        self.slots.get(id.index()).filter(|slot| !slot.is_vacant()).map(|slot| &slot.told)
    }

    pub(super) fn get_mut(&mut self, id: KeyId) -> Option<&mut ToldKey> {
        let slot = self.slots.get_mut(id.index()).filter(|slot| !slot.is_vacant());
        slot.map(|slot| &mut slot.told)
    }

    pub(super) fn bytes_of(&self, id: KeyId) -> Option<KeyBytes> {
        let slot = self.slots.get(id.index()).filter(|slot| !slot.is_vacant())?;
        let mut bytes = self.dials[slot.dial as usize].bytes;
        bytes[AT] = slot.told.outcome;
        Some(bytes)
    }

    /// Adds a key that is not there.
    pub(super) fn insert(&mut self, bytes: &KeyBytes, mut told: ToldKey) -> KeyId {
        let (dial, outcome) = split(bytes);
        told.outcome = outcome;
        let place = self.place_of(&dial).unwrap_or_else(|| self.add(dial));
        let dial = &mut self.dials[place as usize];
        let slot = Slot { told, next: dial.first, dial: place };
        let id = match self.free.pop() {
            Some(Reverse(id)) => {
                self.slots[id as usize] = slot;
                id
            }
            None => {
                self.slots.push(slot);
                number(self.slots.len() - 1)
            }
        };
        dial.first = id;
        KeyId(id)
    }

    /// Removes a key; its number stays its own until [`ToldKeys::handed_over`].
    pub(super) fn remove(&mut self, id: KeyId) -> Option<(KeyBytes, ToldKey)> {
        let bytes = self.bytes_of(id)?;
        let Slot { told, next, dial } =
            std::mem::replace(&mut self.slots[id.index()], Slot::VACANT);
        let first = self.dials[dial as usize].first;
        let before = self.of_dial(first).find(|it| self.slots[it.index()].next == id.0);
        match before {
            Some(before) => self.slots[before.index()].next = next,
            None if next == NONE => self.remove_dial(dial),
            None => self.dials[dial as usize].first = next,
        }
        self.leaving.push(id.0);
        Some((bytes, told))
    }

    /// Numbers of which some may be nobody's; the keys have no others.
    pub(super) fn all(&self) -> impl Iterator<Item = KeyId> + use<> {
        (0..number(self.slots.len())).map(KeyId)
    }

    /// Takes out what `is_gone`.
    pub(super) fn take(
        &mut self,
        is_gone: impl Fn(&ToldKey) -> bool,
    ) -> Vec<(KeyId, KeyBytes, ToldKey)> {
        let gone = |slot: &Slot| !slot.is_vacant() && is_gone(&slot.told);
        let numbers = (0..number(self.slots.len())).map(KeyId);
        let gone: Vec<KeyId> = numbers.filter(|id| gone(&self.slots[id.index()])).collect();
        let removed = |id: KeyId| self.remove(id).map(|(bytes, told)| (id, bytes, told));
        gone.into_iter().filter_map(removed).collect()
    }

    /// Whoever knows keys by their numbers was told which were removed: those may be given to others.
    pub(super) fn handed_over(&mut self) {
        if self.leaving.is_empty() {
            return;
        }
        self.free.extend(self.leaving.drain(..).map(Reverse));
        // A burst is over: its room is worth more than growing again.
        if self.slots.len() > 4 * self.len().max(Self::ROOM) {
            while self.slots.last().is_some_and(Slot::is_vacant) {
                self.slots.pop();
            }
            let end = number(self.slots.len());
            self.free.retain(|Reverse(id)| *id < end);
            self.free.shrink_to_fit();
            self.slots.shrink_to_fit();
            self.leaving = Vec::new();
            self.dials.shrink_to_fit();
            let Self { places, dials, hasher, .. } = self;
            places.shrink_to(0, |it| hasher.hash_one(dials[*it as usize].bytes));
        }
    }

    /// The numbers of the keys that `concerned` picks, in order; of a dial it is asked once.
    pub(super) fn of(&self, concerned: impl Fn(&KeyBytes) -> bool) -> Vec<KeyId> {
        let dials = self.dials.iter().flat_map(|dial| {
            let bytes = self.of_dial(dial.first).next().and_then(|id| self.bytes_of(id));
            let concerns = bytes.is_some_and(|bytes| concerned(&bytes));
            self.of_dial(dial.first).filter(move |_| concerns)
        });
        let mut keys: Vec<KeyId> = dials.collect();
        keys.sort_unstable();
        keys
    }

    /// The keys of a dial, from this one on.
    fn of_dial(&self, first: u32) -> impl Iterator<Item = KeyId> {
        let next = |it: &KeyId| Some(KeyId(self.slots[it.index()].next)).filter(|it| it.0 != NONE);
        std::iter::successors((first != NONE).then_some(KeyId(first)), next)
    }

    fn place_of(&self, dial: &KeyBytes) -> Option<u32> {
        let hash = self.hasher.hash_one(dial);
        self.places.find(hash, |it| self.dials[*it as usize].bytes == *dial).copied()
    }

    fn add(&mut self, dial: KeyBytes) -> u32 {
        let hash = self.hasher.hash_one(dial);
        let place = number(self.dials.len());
        self.dials.push(Dial { bytes: dial, first: NONE });
        let Self { places, dials, hasher, .. } = self;
        places.insert_unique(hash, place, |it| hasher.hash_one(dials[*it as usize].bytes));
        place
    }

    /// Takes out a dial that has no key any more; the last one moves to its place.
    fn remove_dial(&mut self, place: u32) {
        let hash = self.hasher.hash_one(self.dials[place as usize].bytes);
        if let Ok(entry) = self.places.find_entry(hash, |it| *it == place) {
            entry.remove();
        }
        self.dials.swap_remove(place as usize);
        let Some(moved) = self.dials.get(place as usize) else { return };
        let (hash, first) = (self.hasher.hash_one(moved.bytes), moved.first);
        let before = number(self.dials.len());
        if let Some(it) = self.places.find_mut(hash, |it| *it == before) {
            *it = place;
        }
        let mut key = first;
        while key != NONE {
            let slot = &mut self.slots[key as usize];
            (slot.dial, key) = (place, slot.next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(dial: u32, outcome: u8) -> KeyBytes {
        let mut bytes = [0; size_of::<KeyBytes>()];
        bytes[..4].copy_from_slice(&dial.to_ne_bytes());
        bytes[AT] = outcome;
        bytes
    }

    #[test]
    fn each_key_is_found_by_its_number_and_its_number_by_it() {
        let mut keys = ToldKeys::default();
        let mut there = std::collections::BTreeMap::new();
        // Some are added and some removed, all the time, in an order that means nothing.
        for step in 0..20_000_u32 {
            let mixed = step.wrapping_mul(0x9e37_79b9) >> 16;
            let bytes = key(mixed % 500, (mixed / 500 % 3) as u8);
            match keys.find(&bytes) {
                Some(id) if step % 3 == 0 => {
                    assert_eq!(there.remove(&bytes), Some(id));
                    assert_eq!(keys.remove(id).map(|(bytes, _)| bytes), Some(bytes));
                    assert!(keys.get(id).is_none() && keys.remove(id).is_none());
                }
                Some(id) => assert_eq!(there.get(&bytes), Some(&id)),
                None => drop(there.insert(bytes, keys.insert(&bytes, ToldKey::NONE))),
            }
            if step % 100 == 0 {
                keys.handed_over();
            }
        }
        assert_eq!((keys.len(), keys.dials.len() < keys.len()), (there.len(), true));
        for (bytes, id) in &there {
            assert_eq!((keys.find(bytes), keys.bytes_of(*id)), (Some(*id), Some(*bytes)));
        }
    }

    #[test]
    fn a_number_is_given_again_only_once_it_was_told_that_it_is_free() {
        let mut keys = ToldKeys::default();
        let [a, b] = [0, 1].map(|it| keys.insert(&key(it, 0), ToldKey::NONE));
        keys.remove(a);
        let c = keys.insert(&key(2, 0), ToldKey::NONE);
        assert!(c != a && c != b);
        keys.handed_over();
        assert_eq!(keys.insert(&key(3, 0), ToldKey::NONE), a);
        assert_eq!(keys.len(), 3);
    }

    #[test]
    fn what_a_burst_took_is_given_back() {
        let mut keys = ToldKeys::default();
        for it in 0..100_000 {
            keys.insert(&key(it, 0), ToldKey::NONE);
        }
        let kept = keys.find(&key(77, 0)).unwrap();
        let gone: Vec<KeyId> = (1..100_000).filter_map(|it| keys.find(&key(it, 0))).collect();
        gone.into_iter().filter(|it| *it != kept).for_each(|it| drop(keys.remove(it)));
        keys.handed_over();
        assert_eq!((keys.len(), keys.find(&key(77, 0))), (2, Some(kept)));
        assert!(keys.slots.capacity() < 100 && keys.free.len() < 100 && keys.dials.capacity() < 9);
        assert!(keys.places.capacity() < 100);
        assert_eq!(keys.insert(&key(1, 0), ToldKey::NONE), KeyId(1));
    }

    #[test]
    fn a_key_takes_little_room() {
        assert_eq!((size_of::<Slot>(), size_of::<Dial>()), (40, 60));
    }
}
