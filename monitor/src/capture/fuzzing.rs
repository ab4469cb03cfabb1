//! A door for the fuzz targets, and for nobody else: `decode` is nobody's business but capture's, and
//! what reads the kernel's bytes is to be tried with all of them.

use monitor_core::dns::Message;
use monitor_core::flow::FlowKey;

use crate::capture::decode::{self, KeyBytes, Record, StatsBytes};
use crate::capture::dns;
use crate::capture::entries;

/// A key as it was read, and as it is read again after it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trip {
    pub read: FlowKey,
    /// None where it cannot be read any more.
    pub again: Option<FlowKey>,
}

fn trip(bytes: &KeyBytes) -> Option<Trip> {
    let read = decode::key(bytes).ok()?;
    Some(Trip { read, again: decode::key(&decode::key_bytes(&read)).ok() })
}

/// Reads `bytes` as a record of the ring.
#[must_use]
pub fn record(bytes: &[u8]) -> Option<Trip> {
    match decode::record(bytes).ok()? {
        Record::Flow { key, .. } => trip(&key),
        Record::CgroupCreated { .. } | Record::CgroupRemoved { .. } => None,
    }
}

/// Reads `bytes` as a key of the seen-map with its value.
#[must_use]
pub fn entry(bytes: &[u8]) -> Option<Trip> {
    let (key, value) = bytes.split_first_chunk::<{ size_of::<KeyBytes>() }>()?;
    let value = value.first_chunk::<{ size_of::<StatsBytes>() }>()?;
    let entry = entries::entry(key, value).ok()??;
    entry.flows().next().and_then(|(key, _)| trip(&key))
}

/// A message of DNS.
#[must_use]
pub fn message(bytes: &[u8]) -> Option<Message> {
    dns::message(bytes)
}
