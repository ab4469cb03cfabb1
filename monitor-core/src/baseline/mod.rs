//! What is normal, per service: the allowed, the forbidden and the pending edges with who said so,
//! and the phase of each service. Holds the rules of who may widen what; finds nothing odd itself.

pub mod document;
mod known;
mod pending;
mod record;
mod rename;
mod stated;
mod table;
mod undecided;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize, Serializer};

use crate::attribute::Sighting;
use crate::edge::{Edge, Peer};
use crate::executables::{Executables, Names};
use crate::graph::{Count, Evidence};
use crate::ids::{ServiceName, WallTime};

use self::known::Known;
pub use self::known::{Circle, Listed};
pub use self::pending::{Class, Pending, Told};
pub use self::record::{Allowances, EdgeRecord, ServiceRecord};
pub use self::rename::Moved;
pub use self::stated::Stated;
pub use self::table::{Place, Table};
pub use self::undecided::Room;
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
    #[serde(default, skip_serializing_if = "Option::is_none", serialize_with = "as_text")]
    pub until: Option<WallTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approver: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Also where nobody reads it: what is flattened into another is always read as if somebody did.
fn as_text<S: Serializer>(until: &Option<WallTime>, serializer: S) -> Result<S::Ok, S::Error> {
    until.map(|until| until.to_string()).serialize(serializer)
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
    #[serde(default, skip_serializing_if = "Executables::is_empty")]
    pub executables: Executables,
    /// Only dialled, never answered, while it was learned: an answer would be news.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attempted_only: bool,
    #[serde(flatten)]
    pub grounds: Stated,
}

impl Allowance {
    /// Executables learned per edge: a session runs many.
    pub const EXECUTABLES: usize = 1_024;

    /// An interpreter known under a shell (`SHELL:INTERPRETER`) is permitted without one as well:
    /// of a process older than the agent it is not known what started it.
    #[must_use]
    pub fn permits_executable(&self, executable: &str) -> bool {
        let under_shell =
            |known: &str| known.strip_suffix(executable).is_some_and(|shell| shell.ends_with(':'));
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

/// The baseline and the map in one table, plus what the baseline files say, which always holds.
#[derive(Debug)]
pub struct Baseline {
    pub services: Table<ServiceName, ServiceRecord>,
    pub edges: Table<Edge, EdgeRecord>,
    /// From the baseline files: as written, never stored, above all else.
    pub files: Written,
    /// What the files allow, once more: by its edges' services.
    written: Table<Edge, Vec<Allowance>>,
    /// Of `edges`, as of when their changes were last taken, with what was learned since, and of
    /// `files`. Whatever else changes an allowance is taken before anything else is judged.
    known: Known,
    known_by_files: Known,
    /// As `known`: how many of `edges` are undecided.
    undecided: Undecided,
    names: Names,
    /// Services that have another name now, and are to be stored no more.
    renamed: Vec<ServiceName>,
    seed: u64,
}

/// What [`Baseline::count`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Exchanges that nobody counted before.
    pub exchanges: u64,
    /// When the edge was last told, where it waits for a decision.
    pub last_told: Option<WallTime>,
}

/// What changed in a [`Baseline`].
#[derive(Debug, Default)]
pub struct Dirty {
    pub edges: Vec<(Edge, Option<EdgeRecord>)>,
    pub services: Vec<(ServiceName, Option<ServiceRecord>)>,
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

    /// Takes up what was stored. `seed` keys the hash tables: they hold what strangers choose.
    #[must_use]
    pub fn restore(
        services: Vec<(ServiceName, ServiceRecord)>,
        edges: Vec<(Edge, EdgeRecord)>,
        seed: u64,
    ) -> Self {
        let mut baseline = Self {
            services: Table::new(seed, services.len()),
            edges: Table::new(seed, edges.len()),
            files: Written::default(),
            written: Table::new(seed, 0),
            known: Known::new(seed),
            known_by_files: Known::new(seed),
            undecided: Undecided::new(seed),
            names: Names::new(seed),
            renamed: Vec::new(),
            seed,
        };
        for service in services {
            baseline.services.add(service);
        }
        for (edge, mut record) in edges {
            record.settle(&mut baseline.names);
            let edge = shared(&baseline.services, &edge);
            baseline.edges.add((edge, record));
        }
        baseline.known = Known::of(&baseline.edges, seed);
        baseline.undecided = Undecided::of(&baseline.edges, seed);
        baseline
    }

    /// What the baseline files say now; returns what they said before.
    pub fn set_files(&mut self, written: Written) -> Written {
        self.written = Table::new(self.seed, written.allowed.len());
        for (edge, allowed) in &written.allowed {
            self.written.add((edge.clone(), allowed.clone()));
        }
        self.known_by_files = Known::of(&self.written, self.seed);
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
        let stored = self.edges.get(edge).map(|record| record.allowed.as_slice());
        let written = self.written.get(edge).map(Vec::as_slice);
        written.into_iter().chain(stored).flatten().filter(move |it| !it.grounds.expired(wall))
    }

    #[must_use]
    pub fn prohibition(&self, edge: &Edge, wall: WallTime) -> Option<&Prohibition> {
        let stored = self.edges.get(edge).and_then(|record| record.forbidden.as_deref());
        let written = self.files.forbidden.get(edge);
        written.into_iter().chain(stored).find(|it| {
            !it.grounds.expired(wall) && it.lifted_until.is_none_or(|until| until <= wall)
        })
    }

    /// The edges of `service` that are allowed at `wall`.
    #[must_use]
    pub fn circle(&self, service: &ServiceName, wall: WallTime) -> Circle<'_> {
        Circle::new(self, service, wall)
    }

    /// Records that an edge was seen, for which there is so much `room`. Returns whether it is new to the
    /// map, and where it is kept; no place where there is no room for it.
    pub fn see(&mut self, sighting: &Sighting, room: Room) -> (bool, Option<Place>) {
        for service in sighting.edge.services() {
            let record = self.service_mut(service, sighting.at);
            record.last_seen = record.last_seen.max(sighting.at);
        }
        if room != Room::Some {
            return (true, None);
        }
        let Self { edges, services, undecided, names, .. } = self;
        let (place, record) = record_of(edges, services, undecided, &sighting.edge);
        let appeared = record.evidence.is_none();
        let evidence = record.evidence.get_or_insert_with(|| Box::new(Evidence::of(sighting)));
        evidence.see(sighting, names);
        (appeared, Some(place))
    }

    /// Where an edge is kept that was seen: it stays there.
    #[must_use]
    pub fn seen_at(&self, edge: &Edge) -> Option<Place> {
        let place = self.edges.place_of(edge)?;
        self.edges.at(place).filter(|(_, record)| record.evidence.is_some()).map(|_| place)
    }

    /// Adds what an edge did to its evidence; None where it was never seen.
    pub fn count(&mut self, place: Place, count: &Count) -> Option<Counted> {
        let (edge, record) = self.edges.touch_at(place)?;
        let evidence = record.evidence.as_mut()?;
        // Both ends, and each outcome, count the same exchanges: what is new is what the sum gained.
        let before = evidence.totals();
        evidence.count(count);
        let after = evidence.totals();
        let exchanges = (after.connections + after.failures)
            .saturating_sub(before.connections + before.failures);
        for service in edge.services() {
            let new = || (service.clone(), ServiceRecord::new(count.last_seen));
            let (_, record) = self.services.touch_or(service, new);
            record.last_seen = record.last_seen.max(count.last_seen);
            record.observations += exchanges;
        }
        Some(Counted { exchanges, last_told: record.pending.as_ref().map(|it| it.last_told) })
    }

    /// Adds a sighting, whose edge is kept at `place`, to what is normal, where no end of it is guarded.
    /// An edge that waits for a person's decision is never learned. Returns whether that was something
    /// new.
    pub fn learn(&mut self, sighting: &Sighting, place: Place) -> bool {
        // It was seen: it is touched already.
        let Some((_, record)) = self.edges.touch_at(place) else {
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
                    allowance.executables.extend(executable.map(|it| self.names.share(it)));
                }
            }
            None => {
                record.allowed.push(Allowance {
                    provenance: Provenance::Learned,
                    since: sighting.at,
                    executables: executable.map(|it| self.names.share(it)).into_iter().collect(),
                    attempted_only: !reached,
                    grounds: Stated::default(),
                });
            }
        }
        // It is stored a moment later, and known from now on.
        self.known.enter(&sighting.edge, place);
        self.undecided.remove(&sighting.edge, place);
        for service in sighting.edge.services() {
            self.return_to_learning(service, sighting.at);
        }
        true
    }

    /// A new edge: whatever was proposed no longer is.
    fn return_to_learning(&mut self, service: &ServiceName, at: WallTime) {
        let Some(record) = self.services.touch(service) else {
            return;
        };
        record.last_new_edge = record.last_new_edge.max(at);
        if record.phase == Phase::Proposed {
            record.phase = Phase::Learning;
            record.since = at;
        }
    }

    /// The record of `edge`, if there is one, to be changed: it will be stored.
    pub fn known_edge_mut(&mut self, edge: &Edge) -> Option<&mut EdgeRecord> {
        self.edges.touch(edge)
    }

    /// The record of `edge`, a new one where there is none, to be changed: it will be stored.
    pub fn edge_mut(&mut self, edge: &Edge) -> &mut EdgeRecord {
        let Self { edges, services, undecided, .. } = self;
        record_of(edges, services, undecided, edge).1
    }

    /// The record of `service`, to be changed: it will be stored.
    pub fn service_mut(&mut self, service: &ServiceName, at: WallTime) -> &mut ServiceRecord {
        self.services.touch_or(service, || (service.clone(), ServiceRecord::new(at))).1
    }

    /// What changed since the last call. An edge about which nothing is known any more is taken out
    /// of the table, and told as None.
    pub fn take_dirty(&mut self) -> Dirty {
        let mut dirty = Dirty::default();
        for place in self.edges.take_touched() {
            let Some((edge, record)) = self.edges.at(place) else {
                continue;
            };
            if record.allowed.is_empty() {
                self.known.leave(edge, place);
            } else {
                self.known.enter(edge, place);
            }
            let record = (!record.is_empty()).then(|| record.clone());
            match &record {
                Some(record) if record.is_undecided() => self.undecided.add(edge, place),
                _ => self.undecided.remove(edge, place),
            }
            let gone = record.is_none();
            dirty.edges.push((edge.clone(), record));
            if gone {
                self.edges.remove(place);
            }
        }
        // First: one of them may be there again.
        dirty.services.extend(self.renamed.drain(..).map(|service| (service, None)));
        for place in self.services.take_touched() {
            if let Some((service, record)) = self.services.at(place) {
                dirty.services.push((service.clone(), Some(record.clone())));
            }
        }

        dirty
    }
}

/// The record of `edge`, a new one that is undecided where there is none, to be changed.
fn record_of<'a>(
    edges: &'a mut Table<Edge, EdgeRecord>,
    services: &Table<ServiceName, ServiceRecord>,
    undecided: &mut Undecided,
    edge: &Edge,
) -> (Place, &'a mut EdgeRecord) {
    let mut is_new = false;
    let (place, record) = edges.touch_or(edge, || {
        is_new = true;
        (shared(services, edge), EdgeRecord::default())
    });
    if is_new {
        undecided.add(edge, place);
    }
    (place, record)
}

/// The same edge, its services by the copies of their names that `services` keeps.
fn shared(services: &Table<ServiceName, ServiceRecord>, edge: &Edge) -> Edge {
    let shared = |peer: &Peer| {
        let place = peer.service().and_then(|it| services.place_of(it));
        let name = place.and_then(|it| services.at(it)).map(|(name, _)| name);
        name.map_or_else(|| peer.clone(), |name| Peer::Service(name.clone()))
    };
    Edge { client: shared(&edge.client), server: shared(&edge.server), port: edge.port }
}
