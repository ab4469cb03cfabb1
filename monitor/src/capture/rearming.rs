//! Keys that the kernel is to forget, so that what they stand for is told again. Why, others decide.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use monitor_core::flow::{Begun, Direction, FlowKey, KeyId, Observation, Remote};
use monitor_core::ids::WallTime;

use crate::capture::clock;
use crate::capture::decode::{self, KeyBytes, PayerBytes};
use crate::capture::entries::{self, Entry};
use crate::capture::tell::Teller;
use crate::capture::{Result, map_error};

/// Addresses that are others' now, and since when.
pub type Moved = BTreeMap<IpAddr, WallTime>;

impl Teller {
    pub(super) fn keys_of(&self, concerned: impl Fn(&FlowKey) -> bool) -> Vec<KeyId> {
        self.told.keys.of(|bytes| decode::key(bytes).is_ok_and(|key| concerned(&key)))
    }

    /// Makes the kernel forget keys; what they did, and that they are forgotten, is told next. What else
    /// came of the same dials goes with them. Whether one of them is a listener's.
    pub(super) fn rearm(&mut self, keys: &[KeyId], moved: &Moved) -> Result<bool> {
        // None where it is forgotten already, and that is about to be told.
        let keys = keys.iter().filter_map(|id| Some((*id, self.told.keys.bytes_of(*id)?)));
        let keys: Vec<(KeyId, KeyBytes)> = keys.collect();
        self.credit(&keys);
        let is_listener = |key: FlowKey| key.direction == Direction::Listening;
        let listens = keys.iter().any(|(_, it)| decode::key(it).is_ok_and(is_listener));
        for (id, bytes) in keys {
            if let Some(entry) = self.seen.get(&bytes) {
                self.forget(&entry, moved);
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
    fn forget(&mut self, entry: &Entry, moved: &Moved) {
        let at_ns = self.came_at(entry);
        for (bytes, counters) in entry.flows() {
            if !self.told.holds(&bytes) {
                self.sighting(bytes, entry.first_seen_ns, at_ns, &entry.origin());
            }
            // None of a canary's.
            let Some(id) = self.told.id_of(&bytes) else { continue };
            let traffic = self.told.traffic(id, &counters, self.clock);
            // That a connection was closed since says nothing: it was the former owner's. What was counted
            // for that one already may have been dialled since all the same.
            let came = self.clock.wall(counters.came_ns);
            let is_busy = self.told.is_busy(id, clock::boot_ns());
            let key = decode::key(&bytes).ok().filter(|_| is_busy);
            let late = key.filter(|key| is_another_s(moved, key, came));
            self.pending.extend(traffic.map(Observation::Traffic));
            self.told.remove(id, &mut self.pending);
            if let Some(key) = late {
                self.tell((key, None), counters.came_ns, &entry.origin(), Begun::Seen);
            }
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

/// Whether what was dialled `at` that moment reached somebody else than what the kernel took it for.
fn is_another_s(moved: &Moved, key: &FlowKey, at: WallTime) -> bool {
    match key.remote {
        Remote::Address(address) => moved.get(&address).is_some_and(|since| *since <= at),
        Remote::Cgroup(_) | Remote::World | Remote::Socket(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use monitor_core::flow::{Outcome, Protocol};
    use monitor_core::ids::CgroupId;

    use super::*;

    #[test]
    fn what_was_dialled_after_an_address_changed_hands_is_another_s() {
        let address: IpAddr = "10.0.0.7".parse().unwrap();
        let key = |remote| FlowKey {
            cgroup: CgroupId(1),
            direction: Direction::Outbound,
            protocol: Protocol::Tcp,
            remote,
            local: None,
            port: 80,
            outcome: Outcome::Established,
            executable_id: 0,
        };
        let moved = Moved::from([(address, WallTime(20))]);
        let is = |remote, at| is_another_s(&moved, &key(remote), WallTime(at));
        assert!(!is(Remote::Address(address), 19));
        assert!(is(Remote::Address(address), 20));
        assert!(!is(Remote::Address("10.0.0.8".parse().unwrap()), 20));
        assert!(!is(Remote::World, 20));
    }
}
