//! A service that was known by its container's id alone has its lasting name: what was known of the
//! one is known of the other. What a guarded service may do is not widened by that.

use std::sync::Arc;

use crate::attribute::{Heard, KeyIds, Sighting};
use crate::baseline::{Baseline, EdgeRecord, Phase, Place, Provenance, ServiceRecord, record_of};
use crate::edge::{Edge, Peer};
use crate::flow::{Begun, Process};
use crate::graph::Evidence;
use crate::ids::{ServiceName, WallTime};

/// An edge that has another name now.
#[derive(Debug)]
pub struct Moved {
    /// Where it was kept, and is now.
    pub from: Place,
    pub to: Place,
    /// What was seen of it, to be judged under its name: once for each executable.
    pub sightings: Vec<Sighting>,
}

impl Baseline {
    /// From now on `from` is `to`.
    pub fn rename(&mut self, from: &ServiceName, to: &ServiceName, wall: WallTime) -> Vec<Moved> {
        // Taken first: an edge that was touched is known by where it stands.
        let edges: Vec<Edge> = self.edges.keys().filter(|it| it.touches(from)).cloned().collect();
        if let Some(place) = self.services.place_of(from)
            && let Some(record) = self.services.at(place).map(|(_, record)| record.clone())
        {
            self.join_service(to, record);
            self.services.remove(place);
            self.renamed.push(from.clone());
        }
        edges.into_iter().filter_map(|edge| self.move_edge(edge, (from, to), wall)).collect()
    }

    fn join_service(&mut self, to: &ServiceName, before: ServiceRecord) {
        let record = self.service_mut(to, before.first_seen);
        record.first_seen = record.first_seen.min(before.first_seen);
        record.last_seen = record.last_seen.max(before.last_seen);
        record.observations += before.observations;
    }

    fn move_edge(
        &mut self,
        edge: Edge,
        (from, to): (&ServiceName, &ServiceName),
        wall: WallTime,
    ) -> Option<Moved> {
        let old = self.edges.place_of(&edge)?;
        let record = std::mem::take(self.edges.touch_at(old)?.1);
        let called = |peer: &Peer| match peer.service() {
            Some(service) if service == from => Peer::Service(to.clone()),
            _ => peer.clone(),
        };
        let named =
            Edge { client: called(&edge.client), server: called(&edge.server), port: edge.port };
        for service in named.services() {
            self.service_mut(service, wall);
        }
        let guarded = named.services().any(|it| self.phase(it) == Phase::Guarded);
        let Self { edges, services, undecided, .. } = self;
        let (place, known) = record_of(edges, services, undecided, &named);
        let EdgeRecord { evidence, allowed, forbidden, pending } = record;
        if known.allowed.is_empty() && !guarded {
            known.allowed = allowed;
        } else if !guarded {
            // What was learned under the other name is learned anew, with what follows.
            known
                .allowed
                .extend(allowed.into_iter().filter(|it| it.provenance != Provenance::Learned));
        }
        known.forbidden = known.forbidden.take().or(forbidden);
        known.pending = known.pending.take().or(pending.filter(|_| known.allowed.is_empty()));
        let sightings = evidence.as_deref().map(|it| seen(&named, it)).unwrap_or_default();
        if let Some(evidence) = evidence {
            match &mut known.evidence {
                Some(known) => known.join(*evidence),
                none => *none = Some(evidence),
            }
        }
        Some(Moved { from: old, to: place, sightings })
    }
}

/// What evidence says was seen, once with each executable.
fn seen(edge: &Edge, evidence: &Evidence) -> Vec<Sighting> {
    let sighting = |process| Sighting {
        edge: edge.clone(),
        outcome: evidence.outcome,
        seen_from: evidence.seen_from,
        at: evidence.last_seen,
        process,
        workload: None,
        dialled: evidence.dialled().last().copied(),
        begun: Begun::Seen,
        asker: None,
        heard: Heard::Itself,
        // Told already, under the name that it had.
        opened_by: None,
        keys: KeyIds::new(),
    };
    let with = |executable: &str| {
        let process = Process {
            executable: Some(executable.to_owned()),
            pid: Process::UNKNOWN,
            uid: Process::UNKNOWN,
            ..Process::default()
        };
        sighting(Some(Arc::new(process)))
    };
    let seen: Vec<Sighting> = evidence.executables.iter().map(with).collect();
    if seen.is_empty() { vec![sighting(None)] } else { seen }
}
