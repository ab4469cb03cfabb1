//! Findings of one cause, grouped: what becomes one message, and how that message reads. Decides when
//! an incident has something new to say; who hears it is decided elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::detect::{Finding, Kind, Severity, Where};
use crate::edge::{Edge, EdgeWith, Peer};
use crate::flow::{Outcome, Process};
use crate::ids::{BootTime, Now, ServiceName, WallTime};

/// Where an incident stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Firing,
    /// Later evidence came to it.
    Updated,
    /// Approved, or unseen for 24 hours.
    Resolved,
}

/// Findings of one service that belong together. Stored as one value, under its id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// A ULID: sorts by the time of the first finding.
    pub id: String,
    /// Rises with every message.
    pub revision: u32,
    pub state: State,
    pub service: ServiceName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    pub node: String,
    pub dedup_key: String,
    pub first_seen: WallTime,
    pub last_seen: WallTime,
    /// When its last finding came: what groups the next one with it.
    pub last_finding: WallTime,
    /// Exchanges on its edges as the kernel counted them, which may lag a few seconds.
    pub count: u64,
    /// It has something to say that it has not said yet.
    #[serde(default)]
    pub unspoken: bool,
    pub findings: Vec<Finding>,
    /// Findings beyond [`Incident::FINDINGS`].
    #[serde(default)]
    pub more: u64,
}

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
    pub findings: Vec<AlertFinding>,
    /// Findings left out for length.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inspect: Option<String>,
    pub allow: String,
}

/// A finding as it is sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AlertFinding {
    pub kind: Kind,
    pub edge: AlertEdge,
    pub outcome: Outcome,
    pub at: WallTime,
    pub score: f64,
    pub reasons: Vec<crate::detect::Reason>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attack: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    #[serde(rename = "where")]
    pub place: Where,
    /// The command that allows this one edge.
    pub allow: String,
}

/// An edge taken apart, for programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlertEdge {
    pub client: Peer,
    pub server: Peer,
    pub protocol: crate::flow::Protocol,
    pub port: u16,
}

impl Alert {
    /// The weightiest finding: the one the title is about.
    #[must_use]
    pub fn lead(&self) -> Option<&AlertFinding> {
        let rank = |it: &AlertFinding| (it.kind.severity(), it.score);
        self.findings.iter().reduce(|best, next| if rank(next) > rank(best) { next } else { best })
    }
}

impl From<&Edge> for AlertEdge {
    fn from(edge: &Edge) -> Self {
        Self {
            client: edge.client.clone(),
            server: edge.server.clone(),
            protocol: edge.port.protocol,
            port: edge.port.number,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Incident {
    /// Findings kept and sent; further ones are counted.
    pub const FINDINGS: usize = 50;
    /// A finding joins its service's incident within this time of the last one, seconds.
    pub const GROUPING_S: u64 = 15 * 60;
    /// An incident unseen for this long is resolved, seconds.
    pub const FORGOTTEN_S: u64 = 24 * 60 * 60;

    /// Takes a finding in; a repeat of a known one replaces it with its better outcome.
    pub fn add(&mut self, finding: Finding) {
        self.last_seen = self.last_seen.max(finding.at);
        self.last_finding = self.last_finding.max(finding.at);
        if self.state == State::Firing && self.revision > 0 {
            self.state = State::Updated;
        }
        let executable = |it: &Finding| it.process.as_ref().and_then(|it| it.executable.clone());
        let same = self.findings.iter().position(|known| {
            known.kind == finding.kind
                && known.edge == finding.edge
                && (executable(known) == executable(&finding) || finding.process.is_none())
        });
        if let Some(index) = same {
            let known = &mut self.findings[index];
            known.outcome = known.outcome.max(finding.outcome);
            known.process = finding.process.or_else(|| known.process.take());
        } else if self.findings.len() < Self::FINDINGS {
            self.findings.push(finding);
        } else {
            self.more += 1;
        }
    }

    /// Counts findings that are not kept.
    pub fn count_more(&mut self, at: WallTime, findings: u64) {
        self.last_seen = self.last_seen.max(at);
        self.last_finding = self.last_finding.max(at);
        if self.state == State::Firing && self.revision > 0 {
            self.state = State::Updated;
        }
        self.more += findings;
    }

    #[must_use]
    pub fn touches(&self, edge: &Edge) -> bool {
        self.findings.iter().any(|finding| finding.edge == *edge)
    }

    #[must_use]
    pub fn severity(&self) -> Severity {
        self.findings.iter().map(|it| it.kind.severity()).max().unwrap_or(Severity::Low)
    }

    /// The message that tells this incident as it stands.
    #[must_use]
    pub fn alert(&self) -> Alert {
        let score = self.findings.iter().map(|it| it.score).fold(0.0, f64::max);
        // The most severe leads, the highest score among equals.
        let rank = |it: &Finding| (it.kind.severity(), it.score);
        let lead = self
            .findings
            .iter()
            .reduce(|best, next| if rank(next) > rank(best) { next } else { best });
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
            findings: self.findings.iter().map(sent).collect(),
            more: self.more,
            inspect: lead.and_then(inspect),
            allow: lead.map_or_else(String::new, allow),
        }
    }

    fn title(&self, lead: &Finding) -> String {
        let Edge { client, server, port } = &lead.edge;
        let verb = if lead.outcome.reached() { "dialled" } else { "tried to dial" };
        let mut title = match lead.kind {
            Kind::Forbidden => format!("{client} {verb} {server} {port}, which is forbidden"),
            Kind::NewPeer => format!("{client} {verb} {server} {port} for the first time"),
            Kind::NewPort => {
                format!("{client} {verb} its known peer {server} on the new port {port}")
            }
            Kind::NewClient if lead.outcome.reached() => {
                format!("{server} was dialled by {client} on {port} for the first time")
            }
            Kind::NewClient => format!("{client} {verb} {server} {port} for the first time"),
            Kind::NewExecutable => {
                let executable = lead.process.as_ref().and_then(|it| it.executable.as_deref());
                let executable = executable.unwrap_or("another executable");
                format!("{client} {verb} {server} {port} with {executable} for the first time")
            }
            Kind::Unbaselined => format!("{} talks and has no guarded baseline", self.service),
        };
        if self.state == State::Resolved {
            title.insert_str(0, "resolved: ");
        }
        let edges: BTreeSet<&Edge> = self.findings.iter().map(|it| &it.edge).collect();
        let others = edges.len().saturating_sub(1) as u64 + self.more;
        if others > 0 {
            let more = match lead.kind {
                Kind::Unbaselined if others == 1 => "service like it",
                Kind::Unbaselined => "services like it",
                _ if others == 1 => "edge",
                _ => "edges",
            };
            let _written = write!(title, ", and {others} more {more}");
        }
        title
    }
}

fn sent(finding: &Finding) -> AlertFinding {
    AlertFinding {
        kind: finding.kind,
        edge: AlertEdge::from(&finding.edge),
        outcome: finding.outcome,
        at: finding.at,
        score: finding.score,
        reasons: finding.reasons.clone(),
        nearest: finding.nearest.clone(),
        attack: finding.attack.clone(),
        process: finding.process.clone(),
        place: finding.place.clone(),
        allow: allow(finding),
    }
}

/// The one command that allows the finding's edge. Names and executables are safe text, so single
/// quotes are enough for any shell.
fn allow(finding: &Finding) -> String {
    if finding.kind == Kind::Unbaselined {
        let service = finding.edge.owner().map(ToString::to_string).unwrap_or_default();
        return format!("edgewatch baseline guard '{service}'");
    }
    let executable = finding.process.as_ref().and_then(|process| process.executable.clone());
    let with = EdgeWith { edge: finding.edge.clone(), executable };
    format!("edgewatch baseline approve '{with}' --ttl 7d")
}

/// The one command that shows what is behind it: the process while it lives, else its cgroup's.
fn inspect(finding: &Finding) -> Option<String> {
    let service = finding.edge.owner()?.as_str();
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

/// The incidents, by id.
#[derive(Debug, Default)]
pub struct Incidents {
    pub open: BTreeMap<String, Incident>,
    /// Resolved ones, the newest [`Incidents::CLOSED`] of them.
    pub closed: BTreeMap<String, Incident>,
    pace: BTreeMap<String, Pace>,
    /// Changed since they were last stored.
    dirty: BTreeSet<String>,
}

/// How fast an incident may speak.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    sent: u32,
    next: BootTime,
}

impl Incidents {
    /// Resolved incidents kept for `alerts`.
    pub const CLOSED: usize = 1_000;
    /// Messages of one incident that go out at once; after them one every [`Incidents::PACE_MS`].
    pub const BURST: u32 = 10;
    pub const PACE_MS: u64 = 10_000;

    /// The incident that a finding of `service` joins now, if one is fresh enough.
    #[must_use]
    pub fn joining(&mut self, service: &ServiceName, at: WallTime) -> Option<&mut Incident> {
        let joined = self.open.values_mut().find(|incident| {
            incident.service == *service
                && at.seconds_since(incident.last_finding) < Incident::GROUPING_S
                && incident.findings.iter().all(|it| it.kind != Kind::Unbaselined)
        })?;
        self.dirty.insert(joined.id.clone());
        Some(joined)
    }

    /// Adds a new incident.
    pub fn open(&mut self, incident: Incident) {
        self.dirty.insert(incident.id.clone());
        self.open.insert(incident.id.clone(), incident);
    }

    /// Puts back a stored incident.
    pub fn restore(&mut self, incident: Incident) {
        let resolved = incident.state == State::Resolved;
        let list = if resolved { &mut self.closed } else { &mut self.open };
        list.insert(incident.id.clone(), incident);
    }

    /// The open incidents that hold a finding about `edge`.
    pub fn about<'a>(&'a mut self, edge: &'a Edge) -> impl Iterator<Item = &'a mut Incident> {
        let touched = self.open.values_mut().filter(|incident| incident.touches(edge));
        touched.inspect(|incident| {
            self.dirty.insert(incident.id.clone());
        })
    }

    /// The incidents that say something now: each gets its next revision.
    pub fn speaking(&mut self, now: Now) -> Vec<Incident> {
        let mut speaking = Vec::new();
        for (id, incident) in &mut self.open {
            if !incident.unspoken {
                continue;
            }
            let pace = self.pace.entry(id.clone()).or_default();
            if pace.next > now.boot {
                continue;
            }
            pace.sent += 1;
            if pace.sent >= Self::BURST {
                pace.next = now.boot.plus_millis(Self::PACE_MS);
            }
            incident.revision += 1;
            incident.unspoken = false;
            self.dirty.insert(id.clone());
            speaking.push(incident.clone());
        }
        speaking
    }

    /// When [`Incidents::speaking`] has something to say next.
    #[must_use]
    pub fn next_due(&self) -> Option<BootTime> {
        let unspoken = self.open.values().filter(|it| it.unspoken);
        unspoken.map(|it| self.pace.get(&it.id).map_or(BootTime(0), |pace| pace.next)).min()
    }

    /// Resolves an incident: its last revision, moved to the closed ones.
    pub fn resolve(&mut self, id: &str) -> Option<Incident> {
        let mut incident = self.open.remove(id)?;
        self.pace.remove(id);
        incident.state = State::Resolved;
        incident.unspoken = false;
        incident.revision += 1;
        self.closed.insert(incident.id.clone(), incident.clone());
        self.dirty.insert(incident.id.clone());
        while self.closed.len() > Self::CLOSED
            && let Some((oldest, _)) = self.closed.pop_first()
        {
            self.dirty.insert(oldest);
        }
        Some(incident)
    }

    /// What changed since the last call; None for the forgotten.
    pub fn take_dirty(&mut self) -> Vec<(String, Option<Incident>)> {
        let ids = std::mem::take(&mut self.dirty);
        ids.into_iter()
            .map(|id| {
                let incident = self.open.get(&id).or_else(|| self.closed.get(&id)).cloned();
                (id, incident)
            })
            .collect()
    }
}

/// Identifies the cause without the node, so that many nodes make one: the same edge, the same kind.
#[must_use]
pub fn dedup_key(kind: Kind, edge: &Edge) -> String {
    let digest = Sha256::digest(format!("{kind} {edge}"));
    let mut key = String::from("sha256:");
    for byte in digest {
        let _written = write!(key, "{byte:02x}");
    }
    key
}
