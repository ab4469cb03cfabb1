//! What can be seen from outside: the shapes that the verbs print and the socket serves. Reads only.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::attribute::{SeenFrom, Sighting};
use crate::baseline::document::{Document, DocumentError, Figures, export};
use crate::baseline::{Allowance, LearnRule, Mode, Phase, Provenance, ServiceRecord};
use crate::edge::{Edge, EdgeWith};
use crate::engine::{
    CanaryView, CommandError, Engine, Latency, Lookups, Reply, Selection, SourceView,
};
use crate::flow::{Loss, Outcome, Process};
use crate::graph::Evidence;
use crate::ids::{Now, ServiceName, WallTime};
use crate::incident::{Alert, AlertEdge};
use crate::instances::Instance;
use crate::pattern::Pattern;

/// An edge of the map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeView {
    pub edge: AlertEdge,
    pub seen_from: SeenFrom,
    pub outcome: Outcome,
    /// The process that dialled it first; only when the edge is told as it appears.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Arc<Process>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
    /// Who opened its socket, where that was somebody else; only when the edge is told as it appears.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened_by: Option<ServiceName>,
    /// When it was first seen.
    pub at: WallTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<EvidenceView>,
    pub standing: Standing,
}

/// What the baseline says of an edge now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    Allowed,
    Pending,
    Forbidden,
    /// In no baseline, and nobody guards it.
    Unjudged,
}

/// An edge's evidence as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EvidenceView {
    pub first_seen: WallTime,
    pub last_seen: WallTime,
    pub connections: u64,
    pub failures: u64,
    pub bytes_to_server: u64,
    pub bytes_to_client: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<Rtt>,
    pub executables: Vec<String>,
    pub nodes: Vec<String>,
    /// The containers that its owner ran as, the newest last, with their images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Instance>,
    /// Who opened the socket, where that was somebody else than who used it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened_by: Option<ServiceName>,
}

/// Round-trip times in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rtt {
    pub p50: u64,
    pub p99: u64,
}

/// A service in the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    pub service: ServiceName,
    pub phase: Phase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Edges on the map in which it is the client, and the server.
    pub outbound: usize,
    pub inbound: usize,
    pub pending: usize,
    pub first_seen: WallTime,
    pub last_seen: WallTime,
}

/// How far a service's learning is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaselineRow {
    pub service: ServiceName,
    pub phase: Phase,
    pub edges: usize,
    pub pending: usize,
    pub forbidden: usize,
    /// Seconds without a new edge, and how many it needs.
    pub quiet_s: u64,
    pub quiet_needed_s: u64,
    pub observations: u64,
    pub observations_needed: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_until: Option<WallTime>,
    /// Written in a baseline file.
    pub from_file: bool,
}

/// One line of a diff: `+` seen and not in the baseline, `-` in the one and not in the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    pub sign: char,
    pub edge: EdgeWith,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A receiver and its queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkView {
    pub name: String,
    pub delivered: u64,
    pub queued: usize,
    /// Messages that it was not sent, and that a digest will tell.
    #[serde(default)]
    pub held_back: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

/// A mute that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MuteView {
    pub pattern: Pattern,
    pub since: WallTime,
    pub until: WallTime,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approver: Option<String>,
    pub reason: String,
    /// Open incidents it covers, and messages it kept back.
    pub incidents: usize,
    pub messages: u64,
}

/// The agent at a glance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub node: String,
    pub mode: Mode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<WallTime>,
    pub edges: usize,
    pub pending: usize,
    pub services: usize,
    pub guarded: usize,
    pub proposed: usize,
    pub learning: usize,
    pub open_incidents: usize,
    #[serde(default)]
    pub mutes: Vec<MuteView>,
    pub sinks: Vec<SinkView>,
    /// What was not told, by reason; empty when nothing was lost.
    pub lost: BTreeMap<Loss, u64>,
    /// Who tells names here, and how that one is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceView>,
    /// What cannot be seen on this machine, and why: the engine knows of none, its agent may.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
    /// Where the names are heard that are asked for: the engine knows of none, its agent may.
    #[serde(default, skip_serializing_if = "Lookups::is_nowhere")]
    pub lookups: Lookups,
    /// The agent's own connection, by which it knows that it sees.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<CanaryView>,
    /// From the kernel's stamp of what is new to the engine, microseconds: the last one, and the last
    /// few hundred of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub news_us: Option<Latency>,
}

/// How many edges of each kind a service has.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    outbound: usize,
    inbound: usize,
    pending: usize,
    allowed: usize,
    forbidden: usize,
}

impl Engine {
    /// Every edge seen, with its evidence.
    #[must_use]
    pub fn map(&self, wall: WallTime) -> Vec<EdgeView> {
        let edges = self.baseline.edges.in_order().into_iter().map(|(edge, _)| edge);
        let edges = edges.filter(|edge| edge.is_exchange());
        edges.filter_map(|edge| self.edge_view(edge, wall)).collect()
    }

    /// An edge as it appears; None where there was no room for it.
    pub(crate) fn sighting_view(&self, sighting: &Sighting, wall: WallTime) -> Option<EdgeView> {
        self.baseline.edges.get(&sighting.edge)?;
        Some(EdgeView {
            edge: AlertEdge::from(&sighting.edge),
            seen_from: sighting.seen_from,
            outcome: sighting.outcome,
            process: sighting.process.clone(),
            cgroup: sighting.workload.as_ref().map(|it| it.cgroup.clone()),
            opened_by: sighting.opened_by.as_ref().map(|it| it.opener.clone()),
            at: sighting.at,
            evidence: None,
            standing: self.standing(&sighting.edge, wall),
        })
    }

    fn edge_view(&self, edge: &Edge, wall: WallTime) -> Option<EdgeView> {
        let evidence = self.baseline.edges.get(edge)?.evidence.as_ref()?;
        Some(EdgeView {
            edge: AlertEdge::from(edge),
            seen_from: evidence.seen_from,
            outcome: evidence.outcome,
            process: None,
            cgroup: None,
            opened_by: None,
            at: evidence.first_seen,
            evidence: Some(self.evidence_view(evidence)),
            standing: self.standing(edge, wall),
        })
    }

    fn evidence_view(&self, evidence: &Evidence) -> EvidenceView {
        let totals = evidence.totals();
        let rtt = evidence.rtt.whole();
        let quantile = |q| rtt.quantile_us(q);
        EvidenceView {
            first_seen: evidence.first_seen,
            last_seen: evidence.last_seen,
            connections: totals.connections,
            failures: totals.failures,
            bytes_to_server: totals.to_server,
            bytes_to_client: totals.to_client,
            rtt_us: quantile(0.5).zip(quantile(0.99)).map(|(p50, p99)| Rtt { p50, p99 }),
            executables: evidence.executables.iter().map(str::to_owned).collect(),
            nodes: vec![self.settings.node.clone()],
            images: evidence.instances.all().to_vec(),
            opened_by: evidence.opened_by().cloned(),
        }
    }

    fn standing(&self, edge: &Edge, wall: WallTime) -> Standing {
        if self.baseline.prohibition(edge, wall).is_some() {
            Standing::Forbidden
        } else if self.baseline.edges.get(edge).is_some_and(|it| it.pending.is_some()) {
            Standing::Pending
        } else if self.baseline.allowances(edge, wall).next().is_some() {
            Standing::Allowed
        } else {
            Standing::Unjudged
        }
    }

    #[must_use]
    pub fn services(&self, wall: WallTime) -> Vec<ServiceView> {
        let counts = self.counts(wall);
        let row = |(name, record): (&ServiceName, &ServiceRecord)| {
            let count = counts.get(name).copied().unwrap_or_default();
            ServiceView {
                service: name.clone(),
                phase: self.baseline.phase(name),
                owner: self.baseline.owner_of(name),
                outbound: count.outbound,
                inbound: count.inbound,
                pending: count.pending,
                first_seen: record.first_seen,
                last_seen: record.last_seen,
            }
        };
        self.baseline.services.in_order().into_iter().map(row).collect()
    }

    /// What each service has of every kind of edge, in one walk over all of them.
    fn counts(&self, wall: WallTime) -> BTreeMap<&ServiceName, Counts> {
        let mut counts: BTreeMap<&ServiceName, Counts> = BTreeMap::new();
        let files = self.baseline.files.allowed.keys().chain(self.baseline.files.forbidden.keys());
        let edges: BTreeSet<&Edge> = self.baseline.edges.keys().chain(files).collect();
        for edge in edges {
            let record = self.baseline.edges.get(edge);
            let seen = record.is_some_and(|it| it.evidence.is_some()) && edge.is_exchange();
            let seen = usize::from(seen);
            let pending = usize::from(record.is_some_and(|it| it.pending.is_some()));
            let allowed = usize::from(self.baseline.allowances(edge, wall).next().is_some());
            let forbidden = usize::from(self.baseline.prohibition(edge, wall).is_some());
            for name in edge.services().collect::<BTreeSet<_>>() {
                let count = counts.entry(name).or_default();
                count.pending += pending;
                count.allowed += allowed;
                count.forbidden += forbidden;
            }
            if let Some(client) = edge.client.service() {
                counts.entry(client).or_default().outbound += seen;
            }
            if let Some(server) = edge.server.service() {
                counts.entry(server).or_default().inbound += seen;
            }
        }
        counts
    }

    /// The incidents as messages: open ones first, each list newest first.
    #[must_use]
    pub fn alerts(&self, wall: WallTime) -> Vec<Alert> {
        let open = self.incidents.open.values().rev();
        let closed = self.incidents.closed.values().rev();
        open.map(|incident| Alert {
            muted_until: self.muted_until(incident, wall),
            ..incident.alert()
        })
        .chain(closed.map(crate::incident::Incident::alert))
        .collect()
    }

    #[must_use]
    pub fn status(&self, wall: WallTime) -> Status {
        let phase = |phase| {
            self.baseline.services.keys().filter(|name| self.baseline.phase(name) == phase).count()
        };
        let sinks = self.settings.sinks.iter().map(|sink| {
            let waiting: Vec<_> =
                self.queue.waiting().filter(|delivery| delivery.sink == sink.name).collect();
            SinkView {
                name: sink.name.clone(),
                delivered: self.queue.delivered.get(&sink.name).copied().unwrap_or(0),
                queued: waiting.len(),
                held_back: self.queue.held_back(&sink.name),
                failure: waiting.iter().find_map(|delivery| delivery.failure.clone()),
            }
        });
        let seen = self.baseline.edges.iter();
        Status {
            node: self.settings.node.clone(),
            mode: self.settings.mode,
            since: self.started,
            edges: seen.filter(|(edge, it)| it.evidence.is_some() && edge.is_exchange()).count(),
            pending: self.baseline.edges.values().filter(|it| it.pending.is_some()).count(),
            services: self.baseline.services.len(),
            guarded: phase(Phase::Guarded),
            proposed: phase(Phase::Proposed),
            learning: phase(Phase::Learning),
            open_incidents: self.incidents.open.len(),
            mutes: self.mutes(wall),
            sinks: sinks.collect(),
            lost: self.losses.counted.clone(),
            sources: self.source_views(),
            missing: Vec::new(),
            lookups: Lookups::default(),
            canary: self.canaries.view(),
            news_us: self.latencies.view(),
        }
    }

    #[must_use]
    pub fn baseline_rows(&self, now: Now) -> Vec<BaselineRow> {
        let LearnRule { quiet_s, observations, .. } = self.settings.learn;
        let counts = self.counts(now.wall);
        let row = |(name, record): (&ServiceName, &ServiceRecord)| {
            let count = counts.get(name).copied().unwrap_or_default();
            BaselineRow {
                service: name.clone(),
                phase: self.baseline.phase(name),
                edges: count.allowed,
                pending: count.pending,
                forbidden: count.forbidden,
                quiet_s: now.wall.seconds_since(record.last_new_edge),
                quiet_needed_s: quiet_s,
                observations: record.observations,
                observations_needed: observations,
                open_until: record.open_until,
                from_file: self.baseline.files.guarded.contains(name),
            }
        };
        // A service that a file guards is listed before it ever talks.
        let unseen: BTreeMap<&ServiceName, ServiceRecord> = self
            .baseline
            .files
            .guarded
            .iter()
            .filter(|name| !self.baseline.services.contains_key(*name))
            .map(|name| (name, ServiceRecord::new(now.wall)))
            .collect();
        let seen = self.baseline.services.iter();
        let mut rows: Vec<BaselineRow> =
            seen.chain(unseen.iter().map(|(name, record)| (*name, record))).map(row).collect();
        rows.sort_by(|a, b| a.service.cmp(&b.service));
        rows
    }

    /// The baseline as a document.
    ///
    /// # Errors
    /// A pattern of `selection` that matches no service.
    pub fn export(
        &self,
        wall: WallTime,
        selection: &Selection,
        figures: Figures,
    ) -> Result<Document, CommandError> {
        let chosen = self.select(selection)?;
        Ok(export(&self.baseline, wall, figures, |name| chosen.binary_search(name).is_ok()))
    }

    /// What was seen and waits for a decision.
    #[must_use]
    pub fn undecided(&self) -> Vec<Difference> {
        let mut differences = Vec::new();
        for (edge, record) in self.baseline.edges.in_order() {
            let Some(pending) = &record.pending else {
                continue;
            };
            let note = if record.forbidden.is_some() {
                "forbidden"
            } else if pending.told.is_empty() {
                "its approval ended"
            } else if pending.unalerted {
                "seen while open, not alerted"
            } else {
                "alerted"
            };
            let executables: Vec<Option<String>> = match &pending.told {
                told if told.is_empty() => vec![None],
                told => told.iter().map(|it| it.executable.clone()).collect(),
            };
            for executable in executables {
                let edge = EdgeWith { edge: edge.clone(), executable };
                differences.push(Difference { sign: '+', edge, note: Some(note.to_owned()) });
            }
        }
        differences.dedup_by(|a, b| a.edge == b.edge);
        differences
    }

    /// What importing `document` would add and remove.
    ///
    /// # Errors
    /// The first entry of the document that cannot be meant.
    pub fn difference_to(&self, document: &Document) -> Result<Reply, DocumentError> {
        let parsed = document.parse(Provenance::Imported, WallTime::default())?;
        // What the document would replace, and what it would write.
        let named = |edge: &Edge| edge.services().any(|it| parsed.services.contains_key(it));
        let forbidden_now: BTreeSet<&Edge> = self
            .baseline
            .edges
            .iter()
            .filter(|(edge, record)| record.forbidden.is_some() && named(edge))
            .map(|(edge, _)| edge)
            .collect();
        let forbidden_then: BTreeSet<&Edge> = parsed.forbidden.keys().collect();
        let mine: BTreeSet<EdgeWith> = self
            .baseline
            .edges
            .iter()
            .filter(|(edge, _)| named(edge))
            .flat_map(|(edge, record)| record.allowed.iter().flat_map(move |it| pairs(edge, it)))
            .collect();
        let theirs: BTreeSet<EdgeWith> = parsed
            .allowed
            .iter()
            .flat_map(|(edge, allowed)| allowed.iter().flat_map(move |it| pairs(edge, it)))
            .collect();
        Ok(Reply {
            added: theirs.difference(&mine).cloned().collect(),
            removed: mine.difference(&theirs).cloned().collect(),
            forbidden: forbidden_then.difference(&forbidden_now).map(|it| (*it).clone()).collect(),
            no_longer_forbidden: forbidden_now
                .difference(&forbidden_then)
                .map(|it| (*it).clone())
                .collect(),
            ..Reply::default()
        })
    }
}

/// An allowance, one line for each executable.
fn pairs(edge: &Edge, allowance: &Allowance) -> Vec<EdgeWith> {
    let with = |executable| EdgeWith { edge: edge.clone(), executable };
    match &allowance.executables {
        any if any.is_empty() => vec![with(None)],
        some => some.iter().map(|path| with(Some(path.to_owned()))).collect(),
    }
}
