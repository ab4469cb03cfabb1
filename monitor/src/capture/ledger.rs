//! Of which keys the store is to learn something: kept where what was pinned outlives the agent, so
//! that the next one tells what is new since the last commit, and nothing twice.

use std::collections::VecDeque;

use monitor_core::edge::Edge;
use monitor_core::engine::{Tallied, Tallies};
use monitor_core::flow::FlowKey;

use crate::capture::decode::{self, KeyBytes};
use crate::capture::seen::{Told, ToldKey};

/// Keys whose rows are behind.
#[derive(Default)]
pub(super) struct Ledger {
    /// Told a moment ago: the engine may not know their edges yet.
    fresh: VecDeque<KeyBytes>,
    changed: Vec<KeyBytes>,
    /// Forgotten although the store holds something of them.
    gone: Vec<KeyBytes>,
}

impl Ledger {
    /// When a key is this old the engine may have made an edge of it: sooner is not worth a look.
    pub(super) const FRESH_MS: u32 = 500;

    pub(super) fn told(&mut self, bytes: KeyBytes) {
        self.fresh.push_back(bytes);
    }

    pub(super) fn changed(&mut self, bytes: KeyBytes, told: &mut ToldKey) {
        if !std::mem::replace(&mut told.queued, true) {
            self.changed.push(bytes);
        }
    }

    pub(super) fn gone(&mut self, bytes: KeyBytes, told: &ToldKey) {
        if told.stored {
            self.gone.push(bytes);
        }
    }
}

impl Told {
    /// What the store is to learn, as of now: together with all evidence that the engine has.
    pub(super) fn tallied<'e>(
        &mut self,
        now_ms: u32,
        edge_of: impl Fn(&FlowKey) -> Option<&'e Edge>,
    ) -> Tallies {
        let mut tallies = Tallies::default();
        let Some(ledger) = self.ledger.as_mut() else {
            return tallies;
        };
        ledger.gone.drain(..).for_each(|bytes| tallies.push(&bytes, None));
        while let Some(bytes) = ledger.fresh.front().copied() {
            // None where it was forgotten since.
            let told = self.keys.get_mut(&bytes);
            if told.as_ref().is_some_and(|told| told.is_fresh(now_ms)) {
                break;
            }
            ledger.fresh.pop_front();
            if let Some(told) = told {
                ledger.changed(bytes, told);
            }
        }
        for bytes in ledger.changed.drain(..) {
            let Some(told) = self.keys.get_mut(&bytes) else { continue };
            told.queued = false;
            let key = decode::key(&bytes).ok();
            // What has no edge was not counted either: it is told when it has one, and is here again.
            if let Some(edge) = key.and_then(|key| edge_of(&key)) {
                told.stored = true;
                tallies.push(&bytes, Some(&told.tallied(edge.clone())));
            }
        }
        tallies
    }

    /// All that the store is to know: as [`Told::tallied`], but where it begins anew.
    pub(super) fn tallied_anew<'e>(
        &mut self,
        edge_of: impl Fn(&FlowKey) -> Option<&'e Edge>,
    ) -> Tallies {
        let mut tallies = Tallies::default();
        let Some(ledger) = self.ledger.as_mut() else {
            return tallies;
        };
        // Of those that were told a moment ago the rest is to come.
        ledger.gone.clear();
        ledger.changed.clear();
        self.keys.each(|bytes, told| {
            told.queued = false;
            let key = decode::key(bytes).ok();
            let edge = key.and_then(|key| edge_of(&key));
            told.stored = edge.is_some();
            if let Some(edge) = edge {
                tallies.push(bytes, Some(&told.tallied(edge.clone())));
            }
        });
        tallies
    }

    /// That these keys' judgement has changed: to be stored with what changed it.
    pub(super) fn tallied_again<'e>(
        &self,
        keys: &[FlowKey],
        edge_of: impl Fn(&FlowKey) -> Option<&'e Edge>,
    ) -> Tallies {
        let mut tallies = Tallies::default();
        for key in keys.iter().filter(|_| self.ledger.is_some()) {
            let bytes = decode::key_bytes(key);
            let told = self.keys.get(&bytes).filter(|told| told.stored);
            if let (Some(told), Some(edge)) = (told, edge_of(key)) {
                let again = Tallied { again: true, ..told.tallied(edge.clone()) };
                tallies.push(&bytes, Some(&again));
            }
        }
        tallies
    }

    /// Forgets of the queues what is forgotten: they are bounded as the keys are.
    pub(super) fn tidy_ledger(&mut self) {
        if let Some(ledger) = &mut self.ledger {
            ledger.fresh.retain(|bytes| self.keys.contains(bytes));
            ledger.changed.retain(|bytes| self.keys.contains(bytes));
        }
    }
}
