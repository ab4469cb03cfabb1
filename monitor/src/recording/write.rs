//! From a flow to its line: what the types in `recording` do not say of themselves. What is not
//! known is left out, never null.

use std::net::IpAddr;

use monitor_core::edge::Peer;
use serde::{Serialize, Serializer};

use crate::recording::{FarEnd, RecordedFlow, WORLD};

impl RecordedFlow {
    /// Appends the line, newline included. Its texts are to be safe text, as all that the core
    /// holds is: then it is read back as it was.
    pub fn write_line(&self, out: &mut Vec<u8>) {
        serde_json::to_writer(&mut *out, self).expect("memory takes whatever is written");
        out.push(b'\n');
    }
}

#[derive(Default, Serialize)]
struct LinePeer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
}

impl Serialize for FarEnd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let line = LinePeer { address: self.address, ..LinePeer::default() };
        let line = match &self.peer {
            Peer::Service(name) => LinePeer { service: Some(name.as_str()), ..line },
            Peer::Name(name) => LinePeer { name: Some(name), ..line },
            Peer::Network(name) => LinePeer { network: Some(name), ..line },
            Peer::World => LinePeer { network: Some(WORLD), ..line },
            Peer::Address(address) => LinePeer { address: Some(*address), ..line },
            // A port that was opened, or a socket that was made: no flow, and not to be written.
            Peer::Socket(_) | Peer::Nobody => line,
        };
        line.serialize(serializer)
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
pub(crate) const fn is_one(count: &u64) -> bool {
    *count == 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
pub(crate) const fn is_zero(count: &u64) -> bool {
    *count == 0
}
