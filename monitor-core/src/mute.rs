//! Mutes: services whose alerts nobody wants to be sent for a while. A mute changes what is sent and
//! nothing else: what it covers is judged, grouped, stored and listed as ever, and never learned. It
//! covers what the person named, also what is critical, ends by itself, and is told once it has.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::delivery::{Cause, EndedMute, Ledger, Sink};
use crate::ids::WallTime;
use crate::incident::{About, Alert, Incident, State};
use crate::pattern::Pattern;

/// A mute. Stored as one value, under its pattern.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Mute {
    pub pattern: Pattern,
    pub since: WallTime,
    pub until: WallTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approver: Option<String>,
    pub reason: String,
    /// Messages that were not sent.
    pub messages: u64,
    /// What each receiver did not get.
    pub held: BTreeMap<String, Ledger>,
}

impl Mute {
    /// Whether all of `incident` is about services it names.
    #[must_use]
    pub fn covers(&self, incident: &Incident) -> bool {
        let owners = || incident.findings.iter().filter_map(|it| it.edge.as_ref()?.owner());
        // Services that nobody guards are told together: one mute must not silence the others.
        self.pattern.matches(incident.service.as_str())
            && (!matches!(incident.about, About::Unguarded(_))
                || owners().all(|owner| self.pattern.matches(owner.as_str())))
    }

    /// Counts a message that is not sent.
    pub(crate) fn hold<'a>(
        &mut self,
        at: WallTime,
        alert: &Alert,
        wanting: impl Iterator<Item = &'a Sink>,
    ) {
        self.messages += 1;
        for sink in wanting {
            let ledger = self.held.entry(sink.name.clone()).or_insert_with(|| Ledger::new(at));
            ledger.add(at, alert, Cause::Suppressed);
        }
    }

    /// What it leaves behind, for each receiver that did not get something.
    pub(crate) fn ended(self, at: WallTime) -> impl Iterator<Item = (String, Ledger, EndedMute)> {
        let Self { pattern, since, until, approver, reason, messages: _, held } = self;
        held.into_iter().map(move |(sink, ledger)| {
            let ended = EndedMute {
                pattern: pattern.clone(),
                since,
                until: until.min(at),
                approver: approver.clone(),
                reason: reason.clone(),
                messages: ledger.messages,
            };
            (sink, ledger, ended)
        })
    }
}

/// The mutes that hold, by their pattern.
#[derive(Debug, Default)]
pub struct Mutes(BTreeMap<String, Mute>);

impl Mutes {
    /// At most this many hold at once.
    pub const ROOM: usize = 100;
    /// The longest, seconds: what is to be silent for good is approved instead.
    pub const LONGEST_S: u64 = 30 * 24 * 60 * 60;

    #[must_use]
    pub fn restore(stored: Vec<Mute>) -> Self {
        Self(stored.into_iter().map(|mute| (mute.pattern.to_string(), mute)).collect())
    }

    #[must_use]
    pub fn is_full(&self) -> bool {
        self.0.len() >= Self::ROOM
    }

    #[must_use]
    pub fn get(&self, pattern: &Pattern) -> Option<&Mute> {
        self.0.get(&pattern.to_string())
    }

    /// Adds a mute; one of the same pattern goes on with the new terms and its counts.
    pub fn insert(&mut self, mute: Mute) -> &Mute {
        let key = mute.pattern.to_string();
        let merged = match self.0.remove(&key) {
            Some(old) => Mute { since: old.since, messages: old.messages, held: old.held, ..mute },
            None => mute,
        };
        self.0.entry(key).or_insert(merged)
    }

    pub fn remove(&mut self, pattern: &Pattern) -> Option<Mute> {
        self.0.remove(&pattern.to_string())
    }

    /// Takes out those that are over.
    pub fn take_ended(&mut self, wall: WallTime) -> Vec<Mute> {
        let ended = self.0.extract_if(.., |_, mute| mute.until <= wall);
        ended.map(|(_, mute)| mute).collect()
    }

    /// The mute that covers `incident`; of several the one that ends last, so that it is told once.
    pub fn covering(&mut self, incident: &Incident, wall: WallTime) -> Option<&mut Mute> {
        let covering = self.0.values_mut().filter(|it| it.until > wall && it.covers(incident));
        covering.max_by_key(|it| it.until)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Mute> {
        self.0.values()
    }
}

/// Whether a message goes out although a mute covers it: that something ended which was told before
/// the mute began, so that no receiver waits for an end for ever.
#[must_use]
pub fn passes(mute: &Mute, alert: &Alert) -> bool {
    alert.state == State::Resolved && alert.first_seen < mute.since && alert.revision > 1
}
