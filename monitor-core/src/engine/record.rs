//! What is stored: every value with its key, and all of them together. How and where they are stored
//! is not known here.

use serde::{Deserialize, Serialize};

use crate::baseline::{Dirty, EdgeRecord, ServiceRecord};
use crate::delivery::{Delivery, DeliveryId, Held, Kept};
use crate::directory::{Key, Source, Subject};
use crate::edge::Edge;
use crate::engine::{Actor, Tallies};
use crate::ids::{ServiceName, WallTime};
use crate::incident::Incident;
use crate::mute::Mute;

/// One value to be stored under its key; None removes it.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    Service(ServiceName, Option<Box<ServiceRecord>>),
    Edge(Edge, Option<Box<EdgeRecord>>),
    Incident(String, Option<Box<Incident>>),
    Delivery(DeliveryId, Option<Box<Delivery>>),
    /// What a receiver was not sent, by its name.
    Held(String, Box<Held>),
    /// A mute, by its pattern.
    Mute(String, Option<Box<Mute>>),
    Audit(u64, AuditEntry),
    /// What a source said last.
    Known(Key, Option<Box<Subject>>),
    /// Somebody looked until then.
    Alive(WallTime),
    /// The kernel's tables are these from now on: what was tallied of others is void.
    Tables(String),
    /// What is held of keys of the kernel's tables, by their bytes there; what is not in it stays.
    Tallied(Tallies),
}

/// Who changed what, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry {
    pub at: WallTime,
    pub actor: Actor,
    pub what: String,
}

/// Everything that was stored.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub services: Vec<(ServiceName, ServiceRecord)>,
    pub edges: Vec<(Edge, EdgeRecord)>,
    /// Resolved incidents included: they are listed for a while, and never reopened.
    pub incidents: Vec<Incident>,
    pub deliveries: Vec<Delivery>,
    pub held: Vec<(String, Held)>,
    pub mutes: Vec<Mute>,
    /// What the sources said last.
    pub known: Vec<(Source, Subject)>,
    /// The number of the next audit entry.
    pub next_audit: u64,
    /// Until when somebody looked; None in a store that was never used.
    pub alive: Option<WallTime>,
    /// The kernel's tables that `tallied` is of.
    pub tables: Option<String>,
    pub tallied: Tallies,
}

impl From<Kept> for Change {
    fn from(kept: Kept) -> Self {
        match kept {
            Kept::Delivery(id, delivery) => Self::Delivery(id, delivery),
            Kept::Held(sink, held) => Self::Held(sink, held),
        }
    }
}

pub(crate) fn changes(baseline: Dirty, incidents: Vec<(String, Option<Incident>)>) -> Vec<Change> {
    let edges =
        baseline.edges.into_iter().map(|(edge, record)| Change::Edge(edge, record.map(Box::new)));
    let services =
        baseline.services.into_iter().map(|(name, it)| Change::Service(name, it.map(Box::new)));
    let incidents =
        incidents.into_iter().map(|(id, incident)| Change::Incident(id, incident.map(Box::new)));
    services.chain(edges).chain(incidents).collect()
}
