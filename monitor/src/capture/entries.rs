//! What the seen-map holds under one key, read as the keys that everybody else has: of a TCP dial one for
//! each outcome. What was told of them is not its business.

use monitor_common as wire;
use monitor_core::flow::RttHistogram;

use crate::capture::decode::{self, KeyBytes, Origin, StatsBytes, Undecodable};

/// What a key counted so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counters {
    pub(super) first_seen_ns: u64,
    pub(super) last_seen_ns: u64,
    /// When the last of the connections was made.
    pub(super) came_ns: u64,
    pub(super) connections: u64,
    pub(super) bytes_sent: u64,
    pub(super) bytes_received: u64,
    pub(super) rtt: RttHistogram,
}

/// What the map holds under one key: of a TCP dial all that came of it, each a key of its own to everybody
/// else; of any other key that alone. As it was read: most are asked for little.
pub(super) struct Entry {
    pub(super) first_seen_ns: u64,
    pub(super) last_seen_ns: u64,
    key: wire::FlowKey,
    stats: wire::FlowStats,
}

impl Entry {
    /// Of what was news last.
    pub(super) fn origin(&self) -> Origin {
        decode::origin(&self.stats.origin)
    }

    /// Of the process that did what was news last; None where it is not known.
    pub(super) fn pid(&self) -> Option<u32> {
        Some(self.stats.origin.process.pid).filter(|pid| *pid != 0)
    }

    pub(super) fn flows(&self) -> impl Iterator<Item = (KeyBytes, Counters)> {
        let is_dial = self.key.is_dial();
        let dials = is_dial.then_some(wire::Outcome::OF_DIALS).into_iter().flatten();
        let outcomes = dials.chain((!is_dial).then_some(self.key.outcome));
        outcomes.filter_map(|outcome| self.flow(outcome))
    }

    /// None where it counted nothing.
    fn flow(&self, outcome: wire::Outcome) -> Option<(KeyBytes, Counters)> {
        let Self { key, stats, .. } = self;
        let connections = stats.counts[outcome.slot()];
        let mut counters = Counters {
            first_seen_ns: stats.first_seen_ns,
            last_seen_ns: stats.last_seen_ns,
            came_ns: stats.came_ns(outcome),
            connections,
            ..Counters::default()
        };
        if outcome == wire::Outcome::Established {
            counters.bytes_sent = stats.bytes_sent;
            counters.bytes_received = stats.bytes_received;
            counters.rtt = RttHistogram(stats.rtt);
        }
        let bytes = zerocopy::transmute!(wire::FlowKey { outcome, ..*key });
        (connections != 0).then_some((bytes, counters))
    }

    /// Whether a key of it counted nothing yet.
    pub(super) fn lacks(&self, key: &KeyBytes) -> bool {
        self.flows().all(|(bytes, _)| bytes != *key)
    }
}

/// None where its writer is still at it.
pub(super) fn entry(key: &KeyBytes, stats: &StatsBytes) -> Result<Option<Entry>, Undecodable> {
    let key: wire::FlowKey = decode::read(key)?;
    let stats: wire::FlowStats = decode::read(stats)?;
    if stats.first_seen_ns == 0 {
        return Ok(None);
    }
    let (first_seen_ns, last_seen_ns) = (stats.first_seen_ns, stats.last_seen_ns);
    Ok(Some(Entry { first_seen_ns, last_seen_ns, key, stats }))
}

/// The key under which the map holds it, see [`entry`]; as it is where it is none.
pub(super) fn held(bytes: &KeyBytes) -> KeyBytes {
    decode::read::<wire::FlowKey>(bytes).map_or(*bytes, |key| zerocopy::transmute!(key.held()))
}

/// Whether it is a dial of a resolver's port.
pub(super) fn asks(bytes: &KeyBytes) -> bool {
    use std::mem::offset_of;
    let at = offset_of!(wire::FlowKey, port);
    bytes[at..at + 2] == wire::DNS_PORT.to_ne_bytes()
        && bytes[offset_of!(wire::FlowKey, direction)] == wire::Direction::Outbound as u8
}
