//! What was held back, counted, and the one message that tells it: nothing is suppressed silently.
//! When a digest is due is the queue's to say; how it looks is the receiver's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::detect::{Kind, Severity};
use crate::ids::{ServiceName, WallTime};
use crate::incident::Alert;
use crate::pattern::Pattern;

/// Why a message was held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// There was no room for it, or somebody had muted it.
    Suppressed,
    /// A newer revision of the same incident, which says all of it, took its place.
    Replaced,
}

/// Messages that were held back, counted. Bounded, however many they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    pub since: WallTime,
    pub last: WallTime,
    pub messages: u64,
    /// Of those, how many a newer one replaced.
    #[serde(default)]
    pub replaced: u64,
    pub severity: Severity,
    /// Messages about each service, the first [`Ledger::NAMES`] of them.
    pub services: BTreeMap<ServiceName, u64>,
    /// Messages about further services.
    #[serde(default)]
    pub unnamed: u64,
    pub kinds: BTreeMap<Kind, u64>,
    /// The most severe incidents, at most [`Ledger::INCIDENTS`], by their id.
    pub incidents: BTreeMap<String, Brief>,
}

/// An incident in a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Brief {
    pub severity: Severity,
    pub title: String,
}

impl Ledger {
    /// Services counted by their name.
    pub const NAMES: usize = 100;
    /// Incidents kept by their title.
    pub const INCIDENTS: usize = 20;
    const TITLE: usize = 200;

    #[must_use]
    pub const fn new(at: WallTime) -> Self {
        Self {
            since: at,
            last: at,
            messages: 0,
            replaced: 0,
            severity: Severity::Low,
            services: BTreeMap::new(),
            unnamed: 0,
            kinds: BTreeMap::new(),
            incidents: BTreeMap::new(),
        }
    }

    /// Counts one message.
    pub fn add(&mut self, at: WallTime, alert: &Alert, cause: Cause) {
        self.last = self.last.max(at);
        self.messages += 1;
        self.replaced += u64::from(cause == Cause::Replaced);
        self.severity = self.severity.max(alert.severity);
        self.name(&alert.service, 1);
        let kinds: std::collections::BTreeSet<Kind> =
            alert.findings.iter().map(|finding| finding.kind).collect();
        for kind in kinds {
            *self.kinds.entry(kind).or_default() += 1;
        }
        let title = alert.title.chars().take(Self::TITLE).collect();
        self.remember(alert.id.clone(), Brief { severity: alert.severity, title });
    }

    /// Takes another ledger's counts in.
    pub fn merge(&mut self, other: Self) {
        self.since = self.since.min(other.since);
        self.last = self.last.max(other.last);
        self.messages += other.messages;
        self.replaced += other.replaced;
        self.severity = self.severity.max(other.severity);
        self.unnamed += other.unnamed;
        for (service, messages) in other.services {
            self.name(&service, messages);
        }
        for (kind, messages) in other.kinds {
            *self.kinds.entry(kind).or_default() += messages;
        }
        for (id, brief) in other.incidents {
            self.remember(id, brief);
        }
    }

    fn name(&mut self, service: &ServiceName, messages: u64) {
        if let Some(count) = self.services.get_mut(service) {
            *count += messages;
        } else if self.services.len() < Self::NAMES {
            self.services.insert(service.clone(), messages);
        } else {
            self.unnamed += messages;
        }
    }

    fn remember(&mut self, id: String, brief: Brief) {
        self.incidents.insert(id, brief);
        if self.incidents.len() > Self::INCIDENTS {
            // Ids rise with time: of the least severe, the latest gives way.
            let least = self.incidents.iter().rev().min_by_key(|(_, it)| it.severity);
            if let Some(id) = least.map(|(id, _)| id.clone()) {
                self.incidents.remove(&id);
            }
        }
    }

    /// `12 services`, or `more than 100 services`.
    #[must_use]
    pub fn services_text(&self) -> String {
        match (self.services.len(), self.unnamed) {
            (1, 0) => "1 service".to_owned(),
            (known, 0) => format!("{known} services"),
            (known, _) => format!("more than {known} services"),
        }
    }
}

/// The message that tells what was held back: one JSON object, the same for every receiver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Digest {
    pub schema: String,
    pub id: String,
    pub revision: u32,
    pub severity: Severity,
    pub title: String,
    pub node: String,
    pub from: WallTime,
    pub to: WallTime,
    /// Messages held back, and how many of them a newer one replaced.
    pub messages: u64,
    pub replaced: u64,
    /// The services with the most of them, at most [`Digest::TOP`].
    pub services: Vec<ServiceCount>,
    /// How many services there were, as far as they were counted by name.
    pub service_count: usize,
    pub kinds: Vec<KindCount>,
    /// The most severe incidents, at most [`Digest::TOP`].
    pub incidents: Vec<DigestIncident>,
    /// The mutes that ended meanwhile.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mutes: Vec<EndedMute>,
    /// The command that lists them all.
    pub look: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCount {
    pub service: ServiceName,
    pub messages: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KindCount {
    pub kind: Kind,
    pub messages: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestIncident {
    pub id: String,
    pub severity: Severity,
    pub title: String,
}

/// A mute that is over, as a digest tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedMute {
    pub pattern: Pattern,
    pub since: WallTime,
    pub until: WallTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approver: Option<String>,
    pub reason: String,
    /// Messages that this receiver did not get.
    pub messages: u64,
}

impl Digest {
    pub const SCHEMA: &str = "edgewatch-digest/1";
    /// Services and incidents named.
    pub const TOP: usize = 5;

    #[must_use]
    pub fn new(
        id: String,
        node: &str,
        to: WallTime,
        ledger: Ledger,
        mutes: Vec<EndedMute>,
    ) -> Self {
        let about = ledger.services_text();
        let messages = if ledger.messages == 1 {
            "1 message".to_owned()
        } else {
            format!("{} messages", ledger.messages)
        };
        let why = if mutes.is_empty() { "held back" } else { "muted or held back" };
        let span = span(to.seconds_since(ledger.since));
        let title = format!("{messages} about {about} {why} in the last {span}");
        let service_count = ledger.services.len();
        let mut services: Vec<ServiceCount> = ledger
            .services
            .into_iter()
            .map(|(service, messages)| ServiceCount { service, messages })
            .collect();
        services.sort_by_key(|it| std::cmp::Reverse(it.messages));
        services.truncate(Self::TOP);
        let mut kinds: Vec<KindCount> =
            ledger.kinds.into_iter().map(|(kind, messages)| KindCount { kind, messages }).collect();
        kinds.sort_by_key(|it| std::cmp::Reverse(it.messages));
        let mut incidents: Vec<DigestIncident> = ledger
            .incidents
            .into_iter()
            .map(|(id, Brief { severity, title })| DigestIncident { id, severity, title })
            .collect();
        incidents.sort_by_key(|it| std::cmp::Reverse(it.severity));
        incidents.truncate(Self::TOP);
        Self {
            schema: Self::SCHEMA.to_owned(),
            id,
            revision: 1,
            severity: ledger.severity,
            title,
            node: node.to_owned(),
            from: ledger.since,
            to,
            messages: ledger.messages,
            replaced: ledger.replaced,
            services,
            service_count,
            kinds,
            incidents,
            mutes,
            look: "edgewatch alerts".to_owned(),
        }
    }
}

/// A length of time, rounded up to the minute.
fn span(seconds: u64) -> String {
    match seconds.div_ceil(60) {
        minutes @ 0..120 => format!("{} min", minutes.max(1)),
        minutes @ 120..2_880 => format!("{} h", minutes.div_ceil(60)),
        minutes => format!("{} d", minutes.div_ceil(1_440)),
    }
}
