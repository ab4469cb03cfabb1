//! The map: every edge seen, with its evidence. Says what happened, never whether it is right.

use std::net::SocketAddr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::attribute::{SeenFrom, Sighting};
use crate::executables::{Executables, Names};
use crate::flow::{Direction, Outcome, RttHistogram, Traffic};
use crate::ids::{ServiceName, WallTime};
use crate::rtt::Rtts;

/// What is known of an edge from having seen it. Connections, not requests: payloads are not read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    pub first_seen: WallTime,
    pub last_seen: WallTime,
    /// The best outcome so far: once established, always established.
    pub outcome: Outcome,
    pub seen_from: SeenFrom,
    /// Connections as each end counted them: two views of the same connections, never a sum.
    pub from_client: Tally,
    /// Most often there is nothing: the server is elsewhere.
    #[serde(serialize_with = "whole", deserialize_with = "counted")]
    from_server: Option<Box<Tally>>,
    #[serde(default, skip_serializing_if = "Rtts::is_empty")]
    pub rtt: Rtts,
    /// Dialling executables, at most [`Evidence::EXECUTABLES`].
    #[serde(default)]
    pub executables: Executables,
    /// What was dialled to reach a server on this machine, the last at most
    /// [`Evidence::DIALLED`] of them.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    pub dialled: Box<[SocketAddr]>,
    /// Who opened the socket, the last time it was somebody else than who used it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened_by: Option<Box<ServiceName>>,
}

/// What one end counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    pub connections: u64,
    /// Dials that came to nothing.
    pub failures: u64,
    /// Payload bytes of closed connections.
    pub to_server: u64,
    pub to_client: u64,
}

/// What one end of an edge counted since it was last asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Which end, and how the exchanges went.
    pub direction: Direction,
    pub outcome: Outcome,
    pub last_seen: WallTime,
    pub connections: u64,
    /// Payload bytes that this end sent and received.
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub rtt: RttHistogram,
}

impl From<&Traffic> for Count {
    fn from(traffic: &Traffic) -> Self {
        Self {
            direction: traffic.key.direction,
            outcome: if traffic.key.protocol.serves_datagrams() {
                // A dial is all that is seen of a connected datagram socket: it is what is counted.
                traffic.key.outcome.max(Outcome::Sent)
            } else {
                traffic.key.outcome
            },
            last_seen: traffic.last_seen,
            connections: traffic.connections,
            bytes_sent: traffic.bytes_sent,
            bytes_received: traffic.bytes_received,
            rtt: traffic.rtt,
        }
    }
}

impl Evidence {
    /// Executables remembered per edge; more are counted by nobody and remembered by nobody.
    pub const EXECUTABLES: usize = 32;
    pub const DIALLED: usize = 8;

    /// What a first sighting is entered into.
    #[must_use]
    pub fn of(sighting: &Sighting) -> Self {
        Self {
            first_seen: sighting.at,
            last_seen: sighting.at,
            outcome: sighting.outcome,
            seen_from: sighting.seen_from,
            from_client: Tally::default(),
            from_server: None,
            rtt: Rtts::default(),
            executables: Executables::default(),
            dialled: Box::default(),
            opened_by: None,
        }
    }

    /// Takes a sighting in. Its connection is counted by [`Evidence::count`] alone.
    pub fn see(&mut self, sighting: &Sighting, names: &mut Names) {
        self.last_seen = self.last_seen.max(sighting.at);
        self.seen_from = self.seen_from.and(sighting.seen_from);
        self.outcome = self.outcome.max(sighting.outcome);
        if let Some(executable) = sighting.executable()
            && self.executables.len() < Self::EXECUTABLES
            && !self.executables.contains(executable)
        {
            self.executables.insert(names.share(executable));
        }
        if let Some(handover) = &sighting.opened_by {
            self.opened_by = Some(Box::new(handover.opener.clone()));
        }
        if let Some(dialled) = sighting.dialled.filter(|it| self.dialled.last() != Some(it)) {
            let others = self.dialled.iter().copied().filter(|it| *it != dialled);
            let mut all: Vec<SocketAddr> = others.chain([dialled]).collect();
            all.drain(..all.len().saturating_sub(Self::DIALLED));
            self.dialled = all.into();
        }
    }

    /// Adds what was counted.
    pub fn count(&mut self, count: &Count) {
        self.last_seen = self.last_seen.max(count.last_seen);
        let outbound = count.direction == Direction::Outbound;
        let tally =
            if outbound { &mut self.from_client } else { self.from_server.get_or_insert_default() };
        if count.outcome.reached() {
            tally.connections += count.connections;
        } else if count.outcome.is_final() {
            tally.failures += count.connections;
        }
        let (to_server, to_client) = if outbound {
            (count.bytes_sent, count.bytes_received)
        } else {
            (count.bytes_received, count.bytes_sent)
        };
        tally.to_server += to_server;
        tally.to_client += to_client;
        // Both ends measure the same path: one of them is enough.
        let measures = outbound || self.seen_from == SeenFrom::Server;
        if measures && count.rtt != RttHistogram::default() {
            self.rtt.add(&count.rtt);
        }
    }

    #[must_use]
    pub fn from_server(&self) -> Tally {
        self.from_server.as_deref().copied().unwrap_or_default()
    }

    /// The fuller of the two ends' views, field by field: an end that came late missed some.
    #[must_use]
    pub fn totals(&self) -> Tally {
        let (a, b) = (self.from_client, self.from_server());
        Tally {
            connections: a.connections.max(b.connections),
            failures: a.failures.max(b.failures),
            to_server: a.to_server.max(b.to_server),
            to_client: a.to_client.max(b.to_client),
        }
    }
}

fn whole<S: Serializer>(tally: &Option<Box<Tally>>, serializer: S) -> Result<S::Ok, S::Error> {
    tally.as_deref().copied().unwrap_or_default().serialize(serializer)
}

fn counted<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<Tally>>, D::Error> {
    let tally = Tally::deserialize(deserializer)?;
    Ok((tally != Tally::default()).then(|| Box::new(tally)))
}
