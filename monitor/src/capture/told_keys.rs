//! What was told, by the kernel's keys. What is dialled is a key for each of its outcomes, two most
//! often: they stand under one, without which a hundred thousand edges take half as much again.

use std::mem::offset_of;

use foldhash::quality::RandomState;
use indexmap::IndexMap;
use monitor_common as wire;
use smallvec::SmallVec;

use crate::capture::decode::KeyBytes;
use crate::capture::seen::ToldKey;

#[derive(Default)]
pub(super) struct ToldKeys {
    dials: IndexMap<KeyBytes, SmallVec<[Outcome; 2]>, RandomState>,
}

struct Outcome {
    told: ToldKey,
    /// As it stands in the key.
    outcome: u8,
}

/// A key without its outcome, and that.
const fn split(bytes: &KeyBytes) -> (KeyBytes, u8) {
    let mut dial = *bytes;
    let outcome = dial[AT];
    dial[AT] = 0;
    (dial, outcome)
}

const AT: usize = offset_of!(wire::FlowKey, outcome);

impl ToldKeys {
    /// So many are kept room for without looking whether that is needed.
    const ROOM: usize = 1024;

    /// How many there are but for their outcomes.
    pub(super) fn dials(&self) -> usize {
        self.dials.len()
    }

    pub(super) fn get(&self, bytes: &KeyBytes) -> Option<&ToldKey> {
        let (dial, outcome) = split(bytes);
        let outcomes = self.dials.get(&dial)?;
        outcomes.iter().find(|it| it.outcome == outcome).map(|it| &it.told)
    }

    pub(super) fn get_mut(&mut self, bytes: &KeyBytes) -> Option<&mut ToldKey> {
        let (dial, outcome) = split(bytes);
        let outcomes = self.dials.get_mut(&dial)?;
        outcomes.iter_mut().find(|it| it.outcome == outcome).map(|it| &mut it.told)
    }

    pub(super) fn contains(&self, bytes: &KeyBytes) -> bool {
        self.get(bytes).is_some()
    }

    /// Returns what was there before.
    pub(super) fn insert(&mut self, bytes: &KeyBytes, told: ToldKey) -> Option<ToldKey> {
        if let Some(before) = self.get_mut(bytes) {
            return Some(std::mem::replace(before, told));
        }
        let (dial, outcome) = split(bytes);
        self.dials.entry(dial).or_default().push(Outcome { told, outcome });
        None
    }

    pub(super) fn remove(&mut self, bytes: &KeyBytes) -> Option<ToldKey> {
        let (dial, outcome) = split(bytes);
        let outcomes = self.dials.get_mut(&dial)?;
        let at = outcomes.iter().position(|it| it.outcome == outcome)?;
        let removed = outcomes.swap_remove(at);
        if outcomes.is_empty() {
            self.dials.swap_remove(&dial);
        }
        Some(removed.told)
    }

    /// Takes out what `is_gone`.
    pub(super) fn take(&mut self, is_gone: impl Fn(&ToldKey) -> bool) -> Vec<(KeyBytes, ToldKey)> {
        let mut taken = Vec::new();
        self.dials.retain(|dial, outcomes| {
            while let Some(at) = outcomes.iter().position(|it| is_gone(&it.told)) {
                let Outcome { told, outcome } = outcomes.swap_remove(at);
                let mut bytes = *dial;
                bytes[AT] = outcome;
                taken.push((bytes, told));
            }
            !outcomes.is_empty()
        });
        // A burst is over: its room is worth more than growing again.
        if self.dials.capacity() > 4 * self.dials.len().max(Self::ROOM) {
            self.dials.shrink_to(2 * self.dials.len());
        }
        taken
    }
}
