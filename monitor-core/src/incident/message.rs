//! How an incident reads: the one JSON object that every receiver gets, its title, and the commands
//! it offers.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::detect::{Finding, Kind, Severity, Where};
use crate::edge::{Edge, EdgeWith, Peer, Port};
use crate::flow::{Outcome, Process};
use crate::ids::{ServiceName, WallTime};
use crate::incident::telling::{RESOLVED, weightiest};
use crate::incident::{Incident, State};
use crate::socket::Socket;

/// A message: one JSON object, the same for every receiver.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    pub schema: String,
    pub id: String,
    pub revision: u32,
    pub dedup_key: String,
    pub state: State,
    pub severity: Severity,
    pub score: f64,
    pub title: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    pub node: String,
    pub service: ServiceName,
    pub first_seen: WallTime,
    pub last_seen: WallTime,
    pub count: u64,
    pub findings: Vec<Arc<AlertFinding>>,
    /// Findings left out for length.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inspect: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub allow: String,
    /// Listed and not sent: somebody muted its service until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub muted_until: Option<WallTime>,
}

/// A finding as it is sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlertFinding {
    pub kind: Kind,
    #[serde(default)]
    pub severity: Severity,
    /// Left out where the finding is about the agent itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge: Option<AlertEdge>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    pub at: WallTime,
    pub score: f64,
    pub reasons: Vec<crate::detect::Reason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attack: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Arc<Process>>,
    #[serde(rename = "where")]
    pub place: Where,
    /// The command that allows this one edge; nothing allows an agent's own trouble.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub allow: String,
}

/// An edge taken apart, for programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertEdge {
    /// Left out of a port that was opened.
    #[serde(default, skip_serializing_if = "Peer::is_nobody")]
    pub client: Peer,
    pub server: Peer,
    /// Of a server that has a DNS name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registered_domain: Option<Box<str>>,
    pub protocol: crate::flow::Protocol,
    pub port: u16,
}

impl AlertEdge {
    #[must_use]
    pub const fn port(&self) -> Port {
        Port { number: self.port, protocol: self.protocol }
    }
}

impl From<&Edge> for AlertEdge {
    fn from(edge: &Edge) -> Self {
        Self {
            client: edge.client.clone(),
            server: edge.server.clone(),
            registered_domain: edge.server.registered_domain().map(Into::into),
            protocol: edge.port.protocol,
            port: edge.port.number,
        }
    }
}

impl From<&AlertEdge> for Edge {
    fn from(edge: &AlertEdge) -> Self {
        Self { client: edge.client.clone(), server: edge.server.clone(), port: edge.port() }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Incident {
    /// The message that tells this incident as it stands.
    #[must_use]
    pub fn alert(&self) -> Alert {
        let score = self.findings.iter().map(|it| it.score).fold(0.0, f64::max);
        let lead = weightiest(&self.findings, |it| (it.severity, it.score)).map(|it| &***it);
        Alert {
            schema: "edgewatch-alert/1".to_owned(),
            id: self.id.clone(),
            revision: self.revision,
            dedup_key: self.dedup_key.clone(),
            state: self.state,
            severity: self.severity(),
            score,
            title: lead.map_or_else(String::new, |lead| self.title(lead)),
            owner: self.owner.clone(),
            node: self.node.clone(),
            service: self.service.clone(),
            first_seen: self.first_seen,
            last_seen: self.last_seen,
            // Something happened, though it may not be counted yet.
            count: self.count.max(1),
            findings: self
                .findings
                .iter()
                .map(|it| it.sent(|it| sent(&self.service, it)))
                .collect(),
            more: self.more,
            inspect: lead.and_then(|lead| inspect(&self.service, lead)),
            allow: lead.map_or_else(String::new, |lead| allow(&self.service, lead)),
            muted_until: None,
        }
    }

    fn title(&self, lead: &Finding) -> String {
        let mut title = match &lead.edge {
            Some(edge) => self.title_of_edge(lead, edge),
            None if lead.kind == Kind::FanOut => self.title_of_flood(lead),
            None => trouble_title(lead, &self.node),
        };
        if self.state == State::Resolved {
            title.insert_str(0, RESOLVED);
        }
        let edges: BTreeSet<&Edge> =
            self.findings.iter().filter_map(|it| it.edge.as_ref()).collect();
        let others = edges.len().saturating_sub(1) as u64 + self.more;
        if others > 0 {
            let one = others == 1;
            let more = match lead.kind {
                Kind::Unbaselined if one => "service like it",
                Kind::Unbaselined => "services like it",
                _ if one => "edge",
                _ => "edges",
            };
            let _written = write!(title, ", and {others} more {more}");
        }
        title
    }

    fn title_of_flood(&self, lead: &Finding) -> String {
        let Self { service, count, .. } = self;
        match cause(lead).unwrap_or_default() {
            "flooded" => {
                format!("{service} is flooded: {count} dials by new clients beyond its budget")
            }
            "many-listeners" => {
                format!("{service} opens ports: {count} new ones beyond its budget")
            }
            _ => format!("{service} fans out: {count} new dials beyond its budget"),
        }
    }

    fn title_of_edge(&self, lead: &Finding, edge: &Edge) -> String {
        let Edge { client, server, port } = edge;
        let reached = lead.outcome.is_some_and(Outcome::reached);
        let verb = if reached { "dialled" } else { "tried to dial" };
        let executable = || lead.executable().unwrap_or("another executable");
        if let Some(socket) = edge.opens() {
            return opening_title(lead, client, socket);
        }
        match lead.kind {
            Kind::Forbidden if edge.is_listener() => {
                format!("{server} listens at {port}, which is forbidden")
            }
            Kind::Forbidden => format!("{client} {verb} {server} {port}, which is forbidden"),
            Kind::NewPort => {
                format!("{client} {verb} its known peer {server} on the new port {port}")
            }
            Kind::NewClient if reached => {
                format!("{server} was dialled by {client} on {port} for the first time")
            }
            Kind::NewPeer | Kind::NewClient | Kind::RawSocket | Kind::Sensor | Kind::FanOut => {
                format!("{client} {verb} {server} {port} for the first time")
            }
            Kind::NewExecutable => {
                let executable = executable();
                format!("{client} {verb} {server} {port} with {executable} for the first time")
            }
            Kind::NewListener => {
                format!("{server} listens at {port} with {} for the first time", executable())
            }
            Kind::RoleInversion => {
                // It may well dial others: what is odd is that this one, or anybody, is dialled by it.
                format!("{client}, which others dial, {verb} {server} {port} for the first time")
            }
            Kind::MetadataAccess => {
                format!("{client} {verb} the cloud's metadata service, {server} {port}")
            }
            Kind::SensitivePort => {
                format!(
                    "{client} {verb} {server} {port}, which controls the machine or the cluster"
                )
            }
            Kind::Unbaselined => format!("{} talks and has no guarded baseline", self.service),
        }
    }
}

/// "web opened a raw socket (raw/icmp)".
fn opening_title(lead: &Finding, client: &Peer, socket: Socket) -> String {
    let what = match socket {
        Socket::Packet => "a packet socket".to_owned(),
        Socket::Vsock => "a vsock socket".to_owned(),
        Socket::Ping => "a ping socket".to_owned(),
        Socket::UdpLite => "a UDP-Lite socket".to_owned(),
        Socket::Raw(_) => format!("a raw socket ({socket})"),
        Socket::Other(_) => format!("an unusual socket ({socket})"),
    };
    match lead.kind {
        Kind::Forbidden => format!("{client} opened {what}, which is forbidden"),
        Kind::NewExecutable => {
            let executable = lead.executable().unwrap_or("another executable");
            format!("{client} opened {what} with {executable} for the first time")
        }
        _ => format!("{client} opened {what}"),
    }
}

/// What a finding about the agent itself is about, whatever its figures.
pub(crate) fn cause(finding: &Finding) -> Option<&str> {
    Some(finding.reasons.first()?.name.as_str())
}

fn trouble_title(lead: &Finding, node: &str) -> String {
    match cause(lead).unwrap_or_default() {
        "canary" => format!("the agent on {node} does not see its own connections"),
        "baseline-file" => format!("a baseline file on {node} cannot be read"),
        "empty-store" => format!("the agent on {node} started with an empty store"),
        "gap" => format!("nobody looked on {node} for a while"),
        "unpinned" => format!("what the agent on {node} keeps for its next start is gone"),
        cause if cause.starts_with("detached-") => {
            format!("a kernel program of the agent on {node} was detached")
        }
        _ => format!("the agent on {node} could not tell everything it saw"),
    }
}

fn sent(service: &ServiceName, finding: &Finding) -> AlertFinding {
    AlertFinding {
        kind: finding.kind,
        severity: finding.severity,
        edge: finding.edge.as_ref().map(AlertEdge::from),
        outcome: finding.outcome,
        at: finding.at,
        score: finding.score,
        reasons: finding.reasons.clone(),
        nearest: finding.nearest.clone(),
        attack: finding.attack.clone(),
        process: finding.process.clone(),
        place: finding.place.clone(),
        allow: allow(service, finding),
    }
}

/// The one command that allows the finding's edge, or bears with a flood for a while; empty where there
/// is none. Names and executables are safe text, so single quotes are enough for any shell.
fn allow(service: &ServiceName, finding: &Finding) -> String {
    if finding.kind == Kind::FanOut {
        return format!("edgewatch alerts mute '{service}' --for 7d --reason 'it may fan out'");
    }
    let Some(edge) = &finding.edge else {
        return String::new();
    };
    if finding.kind == Kind::Unbaselined {
        let service = edge.owner().map(ToString::to_string).unwrap_or_default();
        return format!("edgewatch baseline guard '{service}'");
    }
    let executable = finding.executable().map(str::to_owned);
    let with = EdgeWith { edge: edge.clone(), executable };
    format!("edgewatch baseline approve '{with}' --ttl 7d")
}

/// The one command that shows what is behind it: the process while it lives, else its cgroup's.
fn inspect(service: &ServiceName, finding: &Finding) -> Option<String> {
    let service = match &finding.edge {
        Some(edge) => edge.owner()?.as_str(),
        None if finding.kind == Kind::FanOut => service.as_str(),
        None => {
            let detached = cause(finding).is_some_and(|it| it.starts_with("detached-"));
            let verb = if detached { "doctor" } else { "status" };
            return Some(format!("edgewatch {verb}"));
        }
    };
    let unit = service.strip_prefix("systemd:").map(|unit| format!("systemctl status '{unit}'"));
    if let Some(process) = finding.process.as_ref().filter(|it| it.pid != Process::UNKNOWN) {
        let ps = format!("ps -o pid,ppid,user,lstart,args -p {}", process.pid);
        // The process may be gone by the time somebody looks; its unit is not.
        return Some(unit.map_or(ps.clone(), |unit| format!("{ps} || {unit}")));
    }
    if unit.is_some() {
        return unit;
    }
    if let Some(container) = &finding.place.container {
        return Some(format!("docker top '{container}' || crictl inspect '{container}'"));
    }
    let cgroup = finding.place.cgroup.as_ref()?;
    Some(format!("systemd-cgls '{cgroup}'"))
}

/// Identifies the cause without the node, so that many nodes make one: the same edge, the same kind.
#[must_use]
pub fn dedup_key(service: &ServiceName, lead: &Finding) -> String {
    let cause = match &lead.edge {
        Some(edge) => edge.to_string(),
        None if lead.kind == Kind::FanOut => {
            format!("{service} {}", cause(lead).unwrap_or_default())
        }
        // An agent's trouble is its node's own.
        None => format!("{} {}", lead.place.node, cause(lead).unwrap_or_default()),
    };
    let digest = Sha256::digest(format!("{} {cause}", lead.kind));
    let mut key = String::from("sha256:");
    for byte in digest {
        let _written = write!(key, "{byte:02x}");
    }
    key
}
