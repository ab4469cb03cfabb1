//! Keys that the kernel is to forget, so that what they stand for is told again. Why, others decide.

use std::collections::{BTreeSet, HashMap};

use monitor_core::flow::{Direction, FlowKey, KeyId, Observation};

use crate::capture::decode::{self, KeyBytes, PayerBytes};
use crate::capture::entries::{self, Entry};
use crate::capture::tell::Teller;
use crate::capture::{Result, map_error};

impl Teller {
    pub(super) fn keys_of(&self, concerned: impl Fn(&FlowKey) -> bool) -> Vec<KeyId> {
        self.told.keys.of(|bytes| decode::key(bytes).is_ok_and(|key| concerned(&key)))
    }

    /// Makes the kernel forget keys; what they did, and that they are forgotten, is told next. What else
    /// came of the same dials goes with them. Whether one of them is a listener's.
    pub(super) fn rearm(&mut self, keys: &[KeyId]) -> Result<bool> {
        // None where it is forgotten already, and that is about to be told.
        let keys = keys.iter().filter_map(|id| Some((*id, self.told.keys.bytes_of(*id)?)));
        let keys: Vec<(KeyId, KeyBytes)> = keys.collect();
        self.credit(&keys);
        let is_listener = |key: FlowKey| key.direction == Direction::Listening;
        let listens = keys.iter().any(|(_, it)| decode::key(it).is_ok_and(is_listener));
        for (id, bytes) in keys {
            if let Some(entry) = self.seen.get(&bytes) {
                self.forget(&entry);
            }
            let removed = self.seen.remove(&bytes);
            removed.map_err(|source| map_error(monitor_common::map::SEEN, source))?;
            // Where there was no entry; else it is forgotten with that.
            self.told.remove(id, &mut self.pending);
        }
        Ok(listens)
    }

    /// Forgets all keys of an entry, and tells what they did. One that was never told, since the ring had no
    /// room, is told first: nothing else would.
    fn forget(&mut self, entry: &Entry) {
        let at_ns = self.came_at(entry);
        for (bytes, counters) in &entry.flows {
            if !self.told.holds(bytes) {
                self.sighting(*bytes, entry.first_seen_ns, at_ns, &entry.origin);
            }
            // None of a canary's.
            let Some(id) = self.told.id_of(bytes) else { continue };
            let traffic = self.told.traffic(id, counters, self.clock);
            self.pending.extend(traffic.map(Observation::Traffic));
            self.told.remove(id, &mut self.pending);
        }
    }

    /// What is to be told again costs whoever shows it nothing.
    fn credit(&mut self, keys: &[(KeyId, KeyBytes)]) {
        let mut credits: HashMap<PayerBytes, u64> = HashMap::new();
        let entries: BTreeSet<KeyBytes> = keys.iter().map(|(_, key)| entries::held(key)).collect();
        for payer in entries.iter().filter_map(|key| decode::payer(key).ok()) {
            *credits.entry(payer).or_default() += 1;
        }
        for (payer, keys) in credits {
            self.floods.credit(payer, keys, self.seen.entries() as u64);
        }
    }
}
