//! What is normal, per service: the allowed, the forbidden and the pending edges with who said so,
//! and the phase of each service. Holds the rules of who may widen what; finds nothing odd itself.

pub mod document;
mod known;
mod undecided;
mod marks;
mod pending;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::attribute::Sighting;
use crate::edge::Edge;
use crate::graph::Evidence;
use crate::ids::{ServiceName, WallTime};

use self::known::Known;
pub use self::marks::Dirty;
use self::marks::Marks;
pub use self::pending::{Class, Pending, Told};
use self::undecided::Undecided;

/// How far a service's baseline has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// New edges are added.
    Learning,
    /// Learning has what it needs; a new edge returns it to learning.
    Proposed,
    /// Nothing is added except by a person or a baseline file.
    Guarded,
}

impl std::fmt::Display for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Learning => "learning",
            Self::Proposed => "proposed",
            Self::Guarded => "guarded",
        })
    }
}

/// What the agent does with services that are not guarded; guarded ones are always judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Learns, never promotes.
    Learn,
    /// Learns, and promotes on evidence where [`Promote::Auto`] says so.
    Auto,
    /// Learns nothing, reports services without a baseline.
    Guard,
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Learn => "learn",
            Self::Auto => "auto",
            Self::Guard => "guard",
        })
    }
}

/// Who makes a proposed baseline a guarded one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Promote {
    Auto,
    Ask,
}

/// When learning has what it needs: quiet for `quiet_s` seconds since the last new edge, after at
/// least `observations` new or counted exchanges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LearnRule {
    pub promote: Promote,
    pub quiet_s: u64,
    pub observations: u64,
}

/// Where an allowance comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provenance {
    Learned,
    Imported,
    Approved,
    /// Written in one of the configured baseline files; never stored, always re-read.
    File,
}

/// Who says so, and why: what `approve` and `forbid` take beside the edge.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Grounds {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<WallTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approver: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Grounds {
    #[must_use]
    pub fn expired(&self, wall: WallTime) -> bool {
        self.until.is_some_and(|until| until <= wall)
    }
}

/// An edge known to be normal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Allowance {
    pub provenance: Provenance,
    pub since: WallTime,
    /// With which executables; empty means with any.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub executables: BTreeSet<String>,
    /// Only dialled, never answered, while it was learned: an answer would be news.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attempted_only: bool,
    #[serde(flatten)]
    pub grounds: Grounds,
}

impl Allowance {
    /// Executables learned per edge: a session runs many.
    pub const EXECUTABLES: usize = 1_024;

    /// An interpreter known under a shell (`SHELL:INTERPRETER`) is permitted without one as well:
    /// of a process older than the agent it is not known what started it.
    #[must_use]
    pub fn permits_executable(&self, executable: &str) -> bool {
        let under_shell = |known: &String| {
            known.strip_suffix(executable).is_some_and(|shell| shell.ends_with(':'))
        };
        self.executables.is_empty()
            || self.executables.contains(executable)
            || self.executables.iter().any(under_shell)
    }
}

/// An edge that must not happen, whatever was learned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prohibition {
    pub since: WallTime,
    /// An approval with an end came after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifted_until: Option<WallTime>,
    #[serde(flatten)]
    pub grounds: Grounds,
}

/// Everything known about one edge: stored as one value, under the edge's text.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EdgeRecord {
    /// None for an edge that was written down and never seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// What was learned or imported, and each approval with its own end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed: Vec<Allowance>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forbidden: Option<Prohibition>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
}

impl EdgeRecord {
    /// Whether nobody has said or learned yet what is to be thought of it.
    #[must_use]
    pub const fn is_undecided(&self) -> bool {
        self.allowed.is_empty() && self.forbidden.is_none()
    }
}

/// Whether an edge finds a place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    Some,
    /// Its service has as many undecided ones as it may.
    NoneOfService,
    None,
}

/// Everything known about one service: stored as one value, under its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRecord {
    pub phase: Phase,
    pub first_seen: WallTime,
    pub last_seen: WallTime,
    /// When its phase last changed.
    pub since: WallTime,
    pub last_new_edge: WallTime,
    /// Exchanges counted so far.
    pub observations: u64,
    /// A guarded service opened for a rollout: new edges until then stay pending, unalerted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_until: Option<WallTime>,
    /// That it has no baseline was told.
    #[serde(default)]
    pub unbaselined_told: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
}

impl ServiceRecord {
    #[must_use]
    pub const fn new(at: WallTime) -> Self {
        Self {
            phase: Phase::Learning,
            first_seen: at,
            last_seen: at,
            since: at,
            last_new_edge: at,
            observations: 0,
            open_until: None,
            unbaselined_told: false,
            owner: None,
            about: None,
        }
    }

    /// Whether learning has what it needs.
    #[must_use]
    pub fn is_complete(&self, rule: &LearnRule, wall: WallTime) -> bool {
        self.observations >= rule.observations
            && wall.seconds_since(self.last_new_edge) >= rule.quiet_s
    }

    #[must_use]
    pub fn is_open(&self, wall: WallTime) -> bool {
        self.open_until.is_some_and(|until| wall < until)
    }
}

/// The baseline and the map in one table, plus what the baseline files say, which always holds.
#[derive(Debug)]
pub struct Baseline {
    pub services: BTreeMap<ServiceName, ServiceRecord>,
    pub edges: BTreeMap<Edge, EdgeRecord>,
    /// From the baseline files: as written, never stored, above all else.
    pub files: Written,
    /// Of `edges`, as of when their changes were last taken, and of `files`. Whatever changes an
    /// allowance is taken before anything else is judged.
    known: Known,
    known_by_files: Known,
    /// As `known`: how many of `edges` are undecided.
    undecided: Undecided,
    /// Changed since they were last stored.
    dirty_services: Marks<ServiceName>,
    dirty_edges: Marks<Edge>,
}

/// The content of the baseline files, joined.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    pub guarded: BTreeSet<ServiceName>,
    pub allowed: BTreeMap<Edge, Vec<Allowance>>,
    pub forbidden: BTreeMap<Edge, Prohibition>,
    pub owners: BTreeMap<ServiceName, String>,
}

impl Baseline {
    /// Edges held at most: a node that talks to more peers than this is not learned but scanned.
    pub const EDGES: usize = 200_000;
    /// Undecided edges that one service may have in it, so that it leaves room for others.
    pub const UNDECIDED: usize = 4_096;

    /// Takes up what was stored. `seed` keys the hash tables: they hold what strangers choose.
    #[must_use]
    pub fn restore(
        services: Vec<(ServiceName, ServiceRecord)>,
        edges: Vec<(Edge, EdgeRecord)>,
        seed: u64,
    ) -> Self {
        let edges: BTreeMap<Edge, EdgeRecord> = edges.into_iter().collect();
        let allowed = edges.iter().filter(|(_, record)| !record.allowed.is_empty());
        Self {
            known: Known::of(allowed.map(|(edge, _)| edge)),
            undecided: Undecided::of(&edges),
            services: services.into_iter().collect(),
            edges,
            files: Written::default(),
            known_by_files: Known::default(),
            dirty_services: Marks::new(seed),
            dirty_edges: Marks::new(seed),
        }
    }

    /// What the baseline files say now; returns what they said before.
    pub fn set_files(&mut self, written: Written) -> Written {
        self.known_by_files = Known::of(written.allowed.keys());
        std::mem::replace(&mut self.files, written)
    }

    #[must_use]
    pub fn phase(&self, service: &ServiceName) -> Phase {
        if self.files.guarded.contains(service) {
            return Phase::Guarded;
        }
        self.services.get(service).map_or(Phase::Learning, |record| record.phase)
    }

    #[must_use]
    pub fn owner_of(&self, service: &ServiceName) -> Option<String> {
        let stored = || self.services.get(service).and_then(|record| record.owner.clone());
        self.files.owners.get(service).cloned().or_else(stored)
    }

    /// The allowances of `edge` that hold at `wall`: the files' and the stored one.
    pub fn allowances(&self, edge: &Edge, wall: WallTime) -> impl Iterator<Item = &Allowance> {
        let stored = self.edges.get(edge).map(|record| &record.allowed);
        let written = self.files.allowed.get(edge);
        written.into_iter().chain(stored).flatten().filter(move |it| !it.grounds.expired(wall))
    }

    #[must_use]
    pub fn prohibition(&self, edge: &Edge, wall: WallTime) -> Option<&Prohibition> {
        let stored = self.edges.get(edge).and_then(|record| record.forbidden.as_ref());
        let written = self.files.forbidden.get(edge);
        written.into_iter().chain(stored).find(|it| {
            !it.grounds.expired(wall) && it.lifted_until.is_none_or(|until| until <= wall)
        })
    }

    /// The edges of `service` that are allowed at `wall`.
    pub fn allowed_edges<'a>(
        &'a self,
        service: &'a ServiceName,
        wall: WallTime,
    ) -> impl Iterator<Item = (&'a Edge, &'a Allowance)> {
        let stored = self
            .known
            .edges_of(service)
            .filter_map(|edge| self.edges.get(edge).map(|record| (edge, &record.allowed)));
        let written = self
            .known_by_files
            .edges_of(service)
            .filter_map(|edge| self.files.allowed.get(edge).map(|allowed| (edge, allowed)));
        written
            .chain(stored)
            .flat_map(|(edge, allowed)| allowed.iter().map(move |it| (edge, it)))
            .filter(move |(_, it)| !it.grounds.expired(wall))
    }

    /// Whether there is room for this edge; there is for one that has its place.
    #[must_use]
    pub fn room_for(&self, edge: &Edge) -> Room {
        let full = self.edges.len() >= Self::EDGES;
        let service_full = self.undecided.of_owner(edge) >= Self::UNDECIDED;
        if !(full || service_full) || self.edges.contains_key(edge) {
            Room::Some
        } else if full {
            Room::None
        } else {
            Room::NoneOfService
        }
    }

    /// Records that an edge was seen. Returns whether it is new to the map.
    pub fn see(&mut self, sighting: &Sighting) -> bool {
        for service in sighting.edge.services() {
            let record = self.service_mut(service, sighting.at);
            record.last_seen = record.last_seen.max(sighting.at);
        }
        if self.room_for(&sighting.edge) != Room::Some {
            return true;
        }
        match &mut self.edge_mut(&sighting.edge).evidence {
            Some(evidence) => {
                evidence.see(sighting);
                false
            }
            evidence => {
                *evidence = Some(Evidence::of(sighting));
                true
            }
        }
    }

    /// Adds a sighting to what is normal, where no end of it is guarded. An edge that waits for a
    /// person's decision is never learned. Returns whether that was something new.
    pub fn learn(&mut self, sighting: &Sighting) -> bool {
        let Some(record) = self.edges.get_mut(&sighting.edge) else {
            return false;
        };
        if record.pending.is_some() {
            return false;
        }
        let executable = sighting.executable();
        let reached = sighting.outcome.reached();
        let covered = record.allowed.iter().any(|it| {
            !(it.grounds.expired(sighting.at) || reached && it.attempted_only)
                && executable.is_none_or(|path| match it.provenance {
                    // Learned without an executable: the first that is known is added.
                    Provenance::Learned => it.executables.contains(path),
                    _ => it.permits_executable(path),
                })
        });
        if covered {
            return false;
        }
        let learned = |it: &&mut Allowance| it.provenance == Provenance::Learned;
        match record.allowed.iter_mut().find(learned) {
            Some(allowance) => {
                let full = allowance.executables.len() >= Allowance::EXECUTABLES;
                if full && !(reached && allowance.attempted_only) {
                    return false;
                }
                allowance.attempted_only &= !reached;
                if allowance.executables.len() < Allowance::EXECUTABLES {
                    allowance.executables.extend(executable.map(str::to_owned));
                }
            }
            None => record.allowed.push(Allowance {
                provenance: Provenance::Learned,
                since: sighting.at,
                executables: executable.map(str::to_owned).into_iter().collect(),
                attempted_only: !reached,
                grounds: Grounds::default(),
            }),
        }
        self.dirty_edges.mark(&sighting.edge);
        for service in sighting.edge.services() {
            self.return_to_learning(service, sighting.at);
        }
        true
    }

    /// Takes back what `service` learned since then: it was no evidence of anything.
    pub fn unlearn(&mut self, service: &ServiceName, since: WallTime, at: WallTime) {
        let learned = |it: &Allowance| it.provenance == Provenance::Learned && it.since >= since;
        // Marked, and so not taken for known yet, or known already.
        let marked = self.dirty_edges.iter().filter(|edge| edge.touches(service));
        let edges: BTreeSet<Edge> = marked.chain(self.known.edges_of(service)).cloned().collect();
        for edge in edges {
            let Some(record) = self.edges.get_mut(&edge) else { continue };
            let before = record.allowed.len();
            record.allowed.retain(|it| !learned(it));
            if record.allowed.len() != before {
                self.dirty_edges.mark(&edge);
            }
        }
        self.return_to_learning(service, at);
    }

    /// A new edge: whatever was proposed no longer is.
    fn return_to_learning(&mut self, service: &ServiceName, at: WallTime) {
        let Some(record) = self.services.get_mut(service) else {
            return;
        };
        record.last_new_edge = record.last_new_edge.max(at);
        if record.phase == Phase::Proposed {
            record.phase = Phase::Learning;
            record.since = at;
        }
        self.dirty_services.mark(service);
    }

    /// The record of `edge`, if there is one, to be changed: it will be stored.
    pub fn known_edge_mut(&mut self, edge: &Edge) -> Option<&mut EdgeRecord> {
        let record = self.edges.get_mut(edge)?;
        self.dirty_edges.mark(edge);
        Some(record)
    }

    /// The record of `edge`, a new one where there is none, to be changed: it will be stored.
    pub fn edge_mut(&mut self, edge: &Edge) -> &mut EdgeRecord {
        self.dirty_edges.mark(edge);
        match self.edges.entry(edge.clone()) {
            Entry::Occupied(record) => record.into_mut(),
            Entry::Vacant(place) => {
                self.undecided.add(edge);
                place.insert(EdgeRecord::default())
            }
        }
    }

    /// The record of `service`, to be changed: it will be stored.
    pub fn service_mut(&mut self, service: &ServiceName, at: WallTime) -> &mut ServiceRecord {
        self.dirty_services.mark(service);
        self.services.entry(service.clone()).or_insert_with(|| ServiceRecord::new(at))
    }

    /// What changed since the last call. An edge about which nothing is known any more is taken out
    /// of the table, and told as None.
    pub fn take_dirty(&mut self) -> Dirty {
        let mut dirty = Dirty::default();
        for edge in self.dirty_edges.take() {
            let empty = EdgeRecord::default();
            let record = self.edges.get(&edge).filter(|record| **record != empty).cloned();
            match &record {
                Some(record) if !record.allowed.is_empty() => self.known.add(&edge),
                _ => self.known.remove(&edge),
            }
            match &record {
                Some(record) if record.is_undecided() => self.undecided.add(&edge),
                _ => self.undecided.remove(&edge),
            }
            if record.is_none() {
                self.edges.remove(&edge);
            }
            dirty.edges.push((edge, record));
        }
        for service in self.dirty_services.take() {
            if let Some(record) = self.services.get(&service) {
                dirty.services.push((service, record.clone()));
            }
        }
        dirty
    }
}
