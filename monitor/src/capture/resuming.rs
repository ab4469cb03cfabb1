//! What an agent before this one told, taken up; and what the store is to know for the next one.

use std::collections::HashMap;

use monitor_core::edge::Edge;
use monitor_core::engine::Tallies;
use monitor_core::flow::{Begun, Flow, KeyId};

use crate::capture::batch::SeenBatch;
use crate::capture::clock::{self, Clock};
use crate::capture::decode::{self, KeyBytes};
use crate::capture::entries::{self, Entry};
use crate::capture::tell::Teller;
use crate::capture::{Before, Result, Resumed};

/// Takes up what was told, of which the store has kept `before`.
pub(super) fn resume(teller: &mut Teller, before: Before) -> Result<Resumed> {
    let mut edges: HashMap<Vec<u8>, Edge> = HashMap::new();
    // What became of a key later is what is known of it: the teller has taken that up.
    for (bytes, tallied) in before.tallied.rows() {
        edges.extend(tallied.map(|tallied| (bytes, tallied.edge)));
    }
    let flows = teller.resume()?.into_iter();
    let flows = flows.filter_map(|(bytes, flow)| Some((flow, edges.remove(bytes.as_slice())?)));
    let flows = flows.collect();
    Ok(Resumed { surroundings: teller.take(), flows })
}

impl Teller {
    /// Of the keys that an agent before this one told: which flow each is. Before any news.
    pub(super) fn resume(&mut self) -> Result<Vec<(KeyBytes, Flow)>> {
        let mut flows = Vec::new();
        let mut batch = SeenBatch::new();
        while self.seen.read(&mut batch)? {
            for (key, stats) in batch.rows() {
                let Ok(Some(entry)) = entries::entry(key, stats) else { continue };
                flows.extend(entry.flows().filter_map(|(bytes, _)| self.resumed(&bytes, &entry)));
            }
        }
        Ok(flows)
    }

    fn resumed(&mut self, bytes: &KeyBytes, entry: &Entry) -> Option<(KeyBytes, Flow)> {
        let key = decode::key(bytes).ok()?;
        let origin = entry.origin();
        let pid = origin.process.as_ref().map(|process| process.pid);
        self.cgroups.ensure(key.cgroup, pid, &mut self.pending);
        if !self.cgroups.knows(key.cgroup) {
            // Nobody could name it now; it was named when it was told.
            self.told.leave(bytes);
        }
        self.want(bytes, pid);
        let id = self.told.knows(bytes, entry.first_seen_ns)?;
        let flow = Flow {
            key,
            id: Some(id),
            at: self.clock.wall(entry.first_seen_ns),
            netns: origin.netns,
            client: origin.client,
            process: None,
            begun: Begun::default(),
            opener: None,
        };
        Some((*bytes, flow))
    }

    /// Tells what came up while no agent ran.
    pub(super) fn catch_up(&mut self) -> Result<()> {
        self.clock = Clock::read();
        self.read_seen(|_| false)
    }

    /// What the store is to learn; see [`Told::tallied`].
    pub(super) fn tallied<'e>(&mut self, edge_of: impl Fn(KeyId) -> Option<&'e Edge>) -> Tallies {
        self.told.tallied(clock::boot_ms(), edge_of)
    }

    /// See [`Told::tallied_anew`].
    pub(super) fn tallied_anew<'e>(
        &mut self,
        edge_of: impl Fn(KeyId) -> Option<&'e Edge>,
    ) -> Tallies {
        self.told.tallied_anew(edge_of)
    }

    /// See [`Told::tallied_again`].
    pub(super) fn tallied_again<'e>(
        &self,
        keys: &[KeyId],
        edge_of: impl Fn(KeyId) -> Option<&'e Edge>,
    ) -> Tallies {
        self.told.tallied_again(keys, edge_of)
    }

    /// How many keys the store may know something of.
    pub(super) fn told_keys(&self) -> usize {
        self.told.keys.len()
    }

    /// What the kernel has lost in all, as far as it was told.
    pub(super) fn told_losses(&self) -> &[u64] {
        &self.losses.before
    }
}
