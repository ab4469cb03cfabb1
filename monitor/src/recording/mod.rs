//! Flow recordings: JSON lines, one flow a line, already named. What a line is, how it is written,
//! and a strict reader that names what is wrong with one. Judges nothing, and keeps no file open
//! longer than its reader or writer lives.
//!
//! | key | |
//! |---|---|
//! | `at` | RFC 3339 in UTC |
//! | `node` | the machine that saw it |
//! | `source` | the local end: `service`, and where known `container`, `pod`, `image`, `cgroup` |
//! | `peer` | the far end: one of `service`, `name`, `network`, each with an `address` where known, or an `address` alone; the network `world` is the Internet as a whole, a client only |
//! | `direction` | `outbound`: the source dialled; `inbound`: it was dialled |
//! | `protocol`, `port` | `tcp`, `udp` or `udplite` and the server's port; `icmp` and the message's type; `ip` and the protocol's number |
//! | `outcome` | how it went, see [`Outcome`] |
//! | `connections` | how many exchanges the line stands for; 1 where it is left out |
//! | `bytes_sent`, `bytes_received` | payload, as the source counted it |
//! | `executable`, `pid`, `uid` | the source's process |
//!
//! All after `outcome` may be left out, `node` and names are safe text, nothing else may be there.

mod file;
mod read;
mod write;

use std::net::IpAddr;

use monitor_core::attribute::Workload;
use monitor_core::edge::{Edge, Peer, Port};
use monitor_core::flow::{Outcome, Protocol};
use monitor_core::ids::{ServiceName, WallTime};
use serde::Serialize;

use self::write::{is_one, is_zero};

pub use self::file::{Existing, Numbered, Reader, RecordingError, create, is_dash, open};
pub use self::read::{LineError, read_line};

/// One line; its fields are written in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RecordedFlow {
    pub at: WallTime,
    pub node: String,
    pub source: Source,
    pub peer: FarEnd,
    pub direction: Direction,
    pub protocol: Protocol,
    /// The server's, whichever end the line tells of.
    pub port: u16,
    pub outcome: Outcome,
    /// Exchanges that this line stands for; 0 where earlier lines counted them.
    #[serde(skip_serializing_if = "is_one")]
    pub connections: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub bytes_sent: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub bytes_received: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executable: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
}

/// The local end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Source {
    pub service: ServiceName,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
}

/// The far end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FarEnd {
    pub peer: Peer,
    /// Beside a peer that is no address itself.
    pub address: Option<IpAddr>,
}

/// Who dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// The source.
    Outbound,
    /// The peer.
    Inbound,
}

/// What names the Internet as a whole among the networks.
const WORLD: &str = "world";

const DIRECTIONS: [(&str, Direction); 2] =
    [("outbound", Direction::Outbound), ("inbound", Direction::Inbound)];
const PROTOCOLS: [(&str, Protocol); 5] = [
    ("tcp", Protocol::Tcp),
    ("udp", Protocol::Udp),
    ("udplite", Protocol::UdpLite),
    ("icmp", Protocol::Icmp),
    ("ip", Protocol::Ip),
];
const OUTCOMES: [(&str, Outcome); 7] = [
    ("attempted", Outcome::Attempted),
    ("established", Outcome::Established),
    ("refused", Outcome::Refused),
    ("timed-out", Outcome::TimedOut),
    ("unreachable", Outcome::Unreachable),
    ("denied", Outcome::Denied),
    ("sent", Outcome::Sent),
];

impl Source {
    /// A source of which nothing is known but its name.
    #[must_use]
    pub const fn named(service: ServiceName) -> Self {
        Self { service, container: None, pod: None, image: None, cgroup: None }
    }
}

impl From<&Workload> for Source {
    fn from(workload: &Workload) -> Self {
        Self {
            service: workload.service.clone(),
            container: workload.container.clone(),
            pod: workload.pod.clone(),
            image: workload.image.as_deref().map(str::to_owned),
            cgroup: Some(workload.cgroup.clone()).filter(|it| !it.is_empty()),
        }
    }
}

impl RecordedFlow {
    /// The edge that this line is about, with its far end as the line says it.
    #[must_use]
    pub fn edge(&self) -> Edge {
        let source = Peer::Service(self.source.service.clone());
        let (client, server) = match self.direction {
            Direction::Outbound => (source, self.peer.peer.clone()),
            Direction::Inbound => (self.peer.peer.clone(), source),
        };
        Edge { client, server, port: Port { number: self.port, protocol: self.protocol } }
    }
}

#[cfg(test)]
mod tests;
