//! Of which keys the store is to learn something: kept where what was pinned outlives the agent, so
//! that the next one tells what is new since the last commit, and nothing twice.

use std::collections::VecDeque;

use monitor_core::edge::Edge;
use monitor_core::engine::{Tallied, Tallies};
use monitor_core::flow::KeyId;

use crate::capture::decode::KeyBytes;
use crate::capture::seen::{Mark, Told, ToldKey};

/// Keys whose rows are behind.
#[derive(Default)]
pub(super) struct Ledger {
    /// Told a moment ago, and when (milliseconds since boot; they wrap): the engine may not know their
    /// edges yet.
    fresh: VecDeque<(KeyId, u32)>,
    changed: Vec<KeyId>,
    /// Forgotten although the store holds something of them.
    gone: Vec<KeyBytes>,
}

impl Ledger {
    /// When a key is this old the engine may have made an edge of it: sooner is not worth a look.
    const FRESH_MS: u32 = 500;

    pub(super) fn told(&mut self, key: KeyId, now_ms: u32) {
        self.fresh.push_back((key, now_ms));
    }

    pub(super) fn changed(&mut self, key: KeyId, told: &mut ToldKey) {
        if !told.marks.set(Mark::Queued) {
            self.changed.push(key);
        }
    }

    pub(super) fn gone(&mut self, bytes: KeyBytes, told: &ToldKey) {
        if told.marks.has(Mark::Stored) {
            self.gone.push(bytes);
        }
    }
}

impl Told {
    /// What the store is to learn, as of now: together with all evidence that the engine has.
    pub(super) fn tallied<'e>(
        &mut self,
        now_ms: u32,
        edge_of: impl Fn(KeyId) -> Option<&'e Edge>,
    ) -> Tallies {
        let mut tallies = Tallies::default();
        let Some(ledger) = self.ledger.as_mut() else {
            return tallies;
        };
        for bytes in std::mem::take(&mut ledger.gone) {
            tallies.push(&bytes, None);
        }
        let is_due =
            |(_, told_ms): &mut (KeyId, u32)| now_ms.wrapping_sub(*told_ms) >= Ledger::FRESH_MS;
        while let Some((key, _)) = ledger.fresh.pop_front_if(is_due) {
            // None where it was forgotten since.
            if let Some(told) = self.keys.get_mut(key) {
                ledger.changed(key, told);
            }
        }
        if ledger.fresh.is_empty() {
            ledger.fresh = VecDeque::new();
        }
        for key in std::mem::take(&mut ledger.changed) {
            self.keep(key, edge_of(key), &mut tallies);
        }
        tallies
    }

    /// Adds a key to what the store is to learn. What has no edge was not counted either: it is told when it
    /// has one, and is here again.
    fn keep(&mut self, key: KeyId, edge: Option<&Edge>, tallies: &mut Tallies) {
        let Some(told) = self.keys.get_mut(key) else { return };
        told.marks.clear(Mark::Queued);
        let Some(edge) = edge else { return };
        told.marks.set(Mark::Stored);
        let row = told.tallied(edge.clone());
        if let Some(bytes) = self.keys.bytes_of(key) {
            tallies.push(&bytes, Some(&row));
        }
    }

    /// All that the store is to know: as [`Told::tallied`], but where it begins anew.
    pub(super) fn tallied_anew<'e>(
        &mut self,
        edge_of: impl Fn(KeyId) -> Option<&'e Edge>,
    ) -> Tallies {
        let mut tallies = Tallies::default();
        let Some(ledger) = self.ledger.as_mut() else {
            return tallies;
        };
        // Of those that were told a moment ago the rest is to come.
        ledger.gone.clear();
        ledger.changed.clear();
        for key in self.keys.all() {
            if let Some(told) = self.keys.get_mut(key) {
                told.marks.clear(Mark::Stored);
            }
            self.keep(key, edge_of(key), &mut tallies);
        }
        tallies
    }

    /// That these keys' judgement has changed: to be stored with what changed it.
    pub(super) fn tallied_again<'e>(
        &self,
        keys: &[KeyId],
        edge_of: impl Fn(KeyId) -> Option<&'e Edge>,
    ) -> Tallies {
        let mut tallies = Tallies::default();
        for key in keys.iter().copied().filter(|_| self.ledger.is_some()) {
            let told = self.keys.get(key).filter(|told| told.marks.has(Mark::Stored));
            let (Some(told), Some(edge), Some(bytes)) =
                (told, edge_of(key), self.keys.bytes_of(key))
            else {
                continue;
            };
            let row = Tallied { again: true, ..told.tallied(edge.clone()) };
            tallies.push(&bytes, Some(&row));
        }
        tallies
    }

    /// Forgets of the queues what is forgotten: they are bounded as the keys are.
    pub(super) fn tidy_ledger(&mut self) {
        if let Some(ledger) = &mut self.ledger {
            ledger.fresh.retain(|(key, _)| self.keys.get(*key).is_some());
            ledger.changed.retain(|key| self.keys.get(*key).is_some());
        }
    }
}
