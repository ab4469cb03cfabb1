//! Stands in for the kernel's seen-map: a recording repeats what it knows, and of a live kernel the
//! engine hears only what is news and, every ten seconds, what the known did.

use std::collections::HashMap;

use monitor_core::edge::Edge;
use monitor_core::flow::{self, Outcome, RttHistogram};
use monitor_core::graph::Count;
use monitor_core::ids::WallTime;

use crate::recording::{Direction, RecordedFlow};

/// What makes a recorded flow news. Two nodes that see the same tell the engine nothing new.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) edge: Edge,
    pub(crate) direction: Direction,
    pub(crate) outcome: Outcome,
    pub(crate) executable: Option<String>,
}

/// The known keys, and what they did since they were last swept.
#[derive(Debug)]
pub(crate) struct StandIn {
    /// Keys held at most.
    bound: usize,
    places: HashMap<Key, usize>,
    known: Vec<Known>,
    /// Keys that did something since the last sweep, in the order in which they did.
    busy: Vec<usize>,
    /// Rises with every forgetting.
    generation: u64,
}

#[derive(Debug)]
struct Known {
    edge: Edge,
    direction: Direction,
    outcome: Outcome,
    /// In which generation it was told.
    told: u64,
    /// None since the last sweep.
    did: Option<Did>,
}

#[derive(Debug)]
struct Did {
    last_seen: WallTime,
    connections: u64,
    bytes_sent: u64,
    bytes_received: u64,
}

impl StandIn {
    /// As many as a rehearsal holds.
    pub(crate) const BOUND: usize = 1 << 20;

    pub(crate) fn new(bound: usize) -> Self {
        Self { bound, places: HashMap::new(), known: Vec::new(), busy: Vec::new(), generation: 0 }
    }

    /// Whether it is to be swept before it takes another flow.
    pub(crate) fn is_full(&self) -> bool {
        self.known.len() >= self.bound
    }

    #[cfg(test)]
    pub(crate) const fn held(&self) -> usize {
        self.known.len()
    }

    /// Counts a flow; returns whether it is news.
    pub(crate) fn is_news(&mut self, key: &Key, flow: &RecordedFlow) -> bool {
        let generation = self.generation;
        let (place, mut news) = match self.places.get(key) {
            Some(place) => (*place, false),
            None => (self.enter(key), true),
        };
        let known = &mut self.known[place];
        news |= known.told != generation;
        known.told = generation;
        if known.did.is_none() {
            self.busy.push(place);
        }
        let did = known.did.get_or_insert(Did {
            last_seen: flow.at,
            connections: 0,
            bytes_sent: 0,
            bytes_received: 0,
        });
        did.last_seen = did.last_seen.max(flow.at);
        did.connections = did.connections.saturating_add(flow.connections);
        did.bytes_sent = did.bytes_sent.saturating_add(flow.bytes_sent);
        did.bytes_received = did.bytes_received.saturating_add(flow.bytes_received);
        news
    }

    fn enter(&mut self, key: &Key) -> usize {
        let place = self.known.len();
        self.known.push(Known {
            edge: key.edge.clone(),
            direction: key.direction,
            outcome: key.outcome,
            told: self.generation,
            did: None,
        });
        self.places.insert(key.clone(), place);
        place
    }

    /// Whatever comes next is news.
    pub(crate) fn forget(&mut self) {
        self.generation += 1;
    }

    /// What the known did since the last sweep. Where it was full it then begins anew, which tells
    /// again and hides nothing.
    pub(crate) fn sweep(&mut self) -> Vec<(Edge, Count)> {
        let busy = std::mem::take(&mut self.busy);
        let counts = busy.into_iter().filter_map(|place| {
            let known = &mut self.known[place];
            let did = known.did.take()?;
            let count = Count {
                direction: match known.direction {
                    Direction::Outbound => flow::Direction::Outbound,
                    Direction::Inbound => flow::Direction::Inbound,
                },
                outcome: known.outcome,
                last_seen: did.last_seen,
                connections: did.connections,
                bytes_sent: did.bytes_sent,
                bytes_received: did.bytes_received,
                rtt: RttHistogram::default(),
            };
            Some((known.edge.clone(), count))
        });
        let counts = counts.collect();
        if self.is_full() {
            self.places.clear();
            self.known.clear();
        }
        counts
    }
}
