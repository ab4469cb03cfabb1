//! From a flow to its line. What is not known is left out, never null.

use std::net::IpAddr;

use monitor_core::edge::Peer;
use serde::Serialize;

use crate::recording::{Direction, FarEnd, RecordedFlow, Source, WORLD};

#[derive(Serialize)]
struct Line<'a> {
    at: &'a monitor_core::ids::WallTime,
    node: &'a str,
    source: LineSource<'a>,
    peer: LinePeer<'a>,
    direction: &'static str,
    protocol: monitor_core::flow::Protocol,
    port: u16,
    outcome: monitor_core::flow::Outcome,
    #[serde(skip_serializing_if = "is_one")]
    connections: u64,
    #[serde(skip_serializing_if = "is_zero")]
    bytes_sent: u64,
    #[serde(skip_serializing_if = "is_zero")]
    bytes_received: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    executable: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
}

#[derive(Serialize)]
struct LineSource<'a> {
    service: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup: Option<&'a str>,
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

impl RecordedFlow {
    /// Appends the line, newline included. Its texts are to be safe text, as all that the core
    /// holds is: then it is read back as it was.
    pub fn write_line(&self, out: &mut Vec<u8>) {
        let line = Line {
            at: &self.at,
            node: &self.node,
            source: LineSource::from(&self.source),
            peer: LinePeer::from(&self.peer),
            direction: match self.direction {
                Direction::Outbound => "outbound",
                Direction::Inbound => "inbound",
            },
            protocol: self.protocol,
            port: self.port,
            outcome: self.outcome,
            connections: self.connections,
            bytes_sent: self.bytes_sent,
            bytes_received: self.bytes_received,
            executable: self.executable.as_deref(),
            pid: self.pid,
            uid: self.uid,
        };
        serde_json::to_writer(&mut *out, &line).expect("memory takes whatever is written");
        out.push(b'\n');
    }
}

impl<'a> From<&'a Source> for LineSource<'a> {
    fn from(source: &'a Source) -> Self {
        Self {
            service: source.service.as_str(),
            container: source.container.as_deref(),
            pod: source.pod.as_deref(),
            image: source.image.as_deref(),
            cgroup: source.cgroup.as_deref(),
        }
    }
}

impl<'a> From<&'a FarEnd> for LinePeer<'a> {
    fn from(far: &'a FarEnd) -> Self {
        let peer = Self { address: far.address, ..Self::default() };
        match &far.peer {
            Peer::Service(name) => Self { service: Some(name.as_str()), ..peer },
            Peer::Name(name) => Self { name: Some(name), ..peer },
            Peer::Network(name) => Self { network: Some(name), ..peer },
            Peer::World => Self { network: Some(WORLD), ..peer },
            Peer::Address(address) => Self { address: Some(*address), ..peer },
            // A port that was opened: no flow, and not to be written.
            Peer::Nobody => peer,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_one(count: &u64) -> bool {
    *count == 1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}
