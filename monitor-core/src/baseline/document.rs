//! The baseline as people write, review and diff it: the shape of a baseline file, and the two ways
//! between it and the edges. The YAML text itself is somebody else's; so is every file.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::baseline::{Allowance, Baseline, Grounds, Phase, Prohibition, Provenance, Written};
use crate::edge::{Edge, Peer, Port, executable_name};
use crate::graph::Evidence;
use crate::ids::{ServiceName, WallTime};
use crate::socket::Socket;

/// The only format this program writes and reads.
pub const FORMAT: &str = "edgewatch-baseline/1";

/// A baseline file. Its order is its content: everything in it is sorted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    pub format: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<String>,
    #[serde(default)]
    pub services: BTreeMap<ServiceName, Entry>,
}

/// One service's section.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub about: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outbound: Vec<Line>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inbound: Vec<Line>,
    /// Ports it opens: what is dialled there is said by `inbound`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listens: Vec<Line>,
    /// Unusual sockets it makes: where they send is said by `outbound`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub opens: Vec<Line>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forbidden: Vec<Line>,
}

/// The lists of a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum List {
    Outbound,
    Inbound,
    Listens,
    Opens,
    Forbidden,
}

/// One line of a section: the peer (`to` for outbound, `from` for inbound, none for a port that is
/// opened) and its ports; or the kinds of sockets that are made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Peer>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Peer>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sockets: Vec<Socket>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by: Vec<String>,
    /// Only ever dialled, never answered.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attempted_only: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<WallTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approver: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Volatile figures, only on request; ignored when read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<LineEvidence>,
}

/// What was seen of a line's edges, for the reader.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LineEvidence {
    pub first_seen: WallTime,
    pub last_seen: WallTime,
    pub connections: u64,
}

/// What is wrong with a document, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    #[error("format: {0:?} is not one this program reads; it reads {FORMAT}")]
    Format(String),
    #[error("services.{service}.{list}: an entry needs {needs:?} and nothing else to say its peer")]
    Peer { service: ServiceName, list: List, needs: &'static str },
    #[error(
        "services.{service}.{list}: the entry for {peer} has no ports: list them, like [443/tcp]"
    )]
    NoPorts { service: ServiceName, list: List, peer: Peer },
    #[error("services.{service}.{list}: an entry without a peer and without ports says nothing")]
    Empty { service: ServiceName, list: List },
    #[error(
        "services.{service}.outbound: world cannot be dialled; write a name, an address or a service"
    )]
    World { service: ServiceName },
    #[error(
        "services.{service}: the name is provisional: it holds an id that the next start will change"
    )]
    Provisional { service: ServiceName },
}

/// A document taken apart into edges, each with the service it is written under.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    pub services: BTreeMap<ServiceName, Entry>,
    pub allowed: BTreeMap<Edge, Vec<Allowance>>,
    pub forbidden: BTreeMap<Edge, Prohibition>,
}

impl Document {
    /// Takes the document apart, refusing what it cannot mean.
    ///
    /// # Errors
    /// The first entry that cannot be meant, with its place.
    pub fn parse(&self, provenance: Provenance, at: WallTime) -> Result<Parsed, DocumentError> {
        if self.format != FORMAT {
            return Err(DocumentError::Format(self.format.clone()));
        }
        let mut parsed = Parsed { services: self.services.clone(), ..Parsed::default() };
        for (service, entry) in &self.services {
            if service.is_provisional() {
                return Err(DocumentError::Provisional { service: service.clone() });
            }
            let lists = [
                (List::Outbound, &entry.outbound),
                (List::Inbound, &entry.inbound),
                (List::Listens, &entry.listens),
                (List::Opens, &entry.opens),
            ];
            for (list, lines) in lists {
                for line in lines {
                    for edge in line.edges(service, list)? {
                        let allowance = line.allowance(provenance, at);
                        parsed.allowed.entry(edge).or_default().push(allowance);
                    }
                }
            }
            for line in &entry.forbidden {
                for edge in line.edges(service, List::Forbidden)? {
                    let prohibition =
                        Prohibition { since: at, lifted_until: None, grounds: line.grounds() };
                    parsed.forbidden.insert(edge, prohibition);
                }
            }
        }
        Ok(parsed)
    }
}

impl List {
    /// Where `owner`'s section has what it allows of `edge`, which it is an end of.
    #[must_use]
    pub fn of(edge: &Edge, owner: &ServiceName) -> Self {
        if edge.is_listener() {
            Self::Listens
        } else if edge.opens().is_some() {
            Self::Opens
        } else if edge.client.service() == Some(owner) {
            Self::Outbound
        } else {
            Self::Inbound
        }
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
            Self::Listens => "listens",
            Self::Opens => "opens",
            Self::Forbidden => "forbidden",
        })
    }
}

impl Entry {
    pub const fn list_mut(&mut self, list: List) -> &mut Vec<Line> {
        match list {
            List::Outbound => &mut self.outbound,
            List::Inbound => &mut self.inbound,
            List::Listens => &mut self.listens,
            List::Opens => &mut self.opens,
            List::Forbidden => &mut self.forbidden,
        }
    }
}

impl Line {
    /// What `owner`'s section says about `edge`, which it is an end of: with every executable.
    #[must_use]
    pub fn about(edge: &Edge, owner: &ServiceName, grounds: &Grounds) -> Self {
        let list = List::of(edge, owner);
        Self {
            to: (list == List::Outbound).then(|| edge.server.clone()),
            from: (list == List::Inbound).then(|| edge.client.clone()),
            ports: if list == List::Opens { Vec::new() } else { vec![edge.port] },
            sockets: edge.opens().into_iter().collect(),
            by: Vec::new(),
            attempted_only: false,
            until: grounds.until,
            approver: grounds.approver.clone(),
            reason: grounds.reason.clone(),
            evidence: None,
        }
    }

    fn edges(&self, service: &ServiceName, list: List) -> Result<Vec<Edge>, DocumentError> {
        let needs = match list {
            List::Outbound => "to",
            List::Inbound => "from",
            List::Listens => "ports",
            List::Opens => "sockets",
            List::Forbidden => "to or from",
        };
        let wrong = || DocumentError::Peer { service: service.clone(), list, needs };
        let own = || Peer::Service(service.clone());
        if !self.sockets.is_empty() || list == List::Opens {
            let opens = matches!(list, List::Opens | List::Forbidden);
            let peers = self.to.is_some() || self.from.is_some() || !self.ports.is_empty();
            if !opens || peers || self.sockets.is_empty() {
                return Err(wrong());
            }
            return Ok(self.sockets.iter().map(|it| Edge::opening(own(), *it)).collect());
        }
        let dials = matches!(list, List::Outbound | List::Forbidden);
        let accepts = matches!(list, List::Inbound | List::Forbidden);
        let listens = matches!(list, List::Listens | List::Forbidden);
        let (client, server) = match (&self.to, &self.from) {
            (Some(to), None) if dials => (own(), to.clone()),
            (None, Some(from)) if accepts => (from.clone(), own()),
            (None, None) if listens => (Peer::Nobody, own()),
            _ => return Err(wrong()),
        };
        if server == Peer::World {
            return Err(DocumentError::World { service: service.clone() });
        }
        if self.ports.is_empty() {
            let service = service.clone();
            return Err(match self.to.as_ref().or(self.from.as_ref()) {
                Some(peer) => DocumentError::NoPorts { service, list, peer: peer.clone() },
                None => DocumentError::Empty { service, list },
            });
        }
        let edge =
            |port: &Port| Edge { client: client.clone(), server: server.clone(), port: *port };
        Ok(self.ports.iter().map(edge).collect())
    }

    fn grounds(&self) -> Grounds {
        Grounds { until: self.until, approver: self.approver.clone(), reason: self.reason.clone() }
    }

    fn allowance(&self, provenance: Provenance, at: WallTime) -> Allowance {
        Allowance {
            provenance,
            since: at,
            executables: self.by.iter().map(|path| executable_name(path)).collect(),
            attempted_only: self.attempted_only,
            grounds: self.grounds().into(),
        }
    }
}

/// Joins documents into what the files say together.
#[must_use]
pub fn written(files: &[Parsed]) -> Written {
    let mut written = Written::default();
    for file in files {
        for (service, entry) in &file.services {
            written.guarded.insert(service.clone());
            if let Some(owner) = &entry.owner {
                written.owners.insert(service.clone(), owner.clone());
            }
        }
        for (edge, allowed) in &file.allowed {
            written.allowed.entry(edge.clone()).or_default().extend(allowed.iter().cloned());
        }
        written.forbidden.extend(file.forbidden.clone());
    }
    written
}

/// What an export takes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figures {
    /// Only what a review needs: no volatile figures.
    Left,
    /// With `--with-evidence`.
    Kept,
}

/// Writes the baseline of the services that `chosen` picks. Provisional names are left out: they
/// would mean nothing elsewhere.
#[must_use]
pub fn export(
    baseline: &Baseline,
    wall: WallTime,
    figures: Figures,
    chosen: impl Fn(&ServiceName) -> bool,
) -> Document {
    let names: BTreeSet<&ServiceName> = baseline
        .services
        .keys()
        .chain(&baseline.files.guarded)
        .filter(|name| !name.is_provisional() && chosen(name))
        .collect();
    let mut services: BTreeMap<ServiceName, Entry> =
        names.iter().map(|name| ((*name).clone(), header(baseline, name))).collect();
    let edges: BTreeSet<&Edge> = baseline
        .edges
        .keys()
        .chain(baseline.files.allowed.keys())
        .chain(baseline.files.forbidden.keys())
        .collect();
    for edge in edges {
        if edge.is_provisional() {
            continue;
        }
        // Under its client, or under its server where the client is not part of this document.
        let Some(name) = edge.services().find(|name| names.contains(name)) else {
            continue;
        };
        let Some(entry) = services.get_mut(name) else {
            continue;
        };
        for allowance in joined(baseline.allowances(edge, wall)) {
            entry.list_mut(List::of(edge, name)).push(Line {
                by: allowance.executables.iter().map(ToString::to_string).collect(),
                attempted_only: allowance.attempted_only,
                evidence: (figures == Figures::Kept).then(|| evidence(baseline, edge)).flatten(),
                ..Line::about(edge, name, &allowance.grounds)
            });
        }
        if let Some(prohibition) = baseline.prohibition(edge, wall) {
            entry.forbidden.push(Line::about(edge, name, &prohibition.grounds));
        }
    }
    for entry in services.values_mut() {
        let Entry { outbound, inbound, listens, opens, forbidden, .. } = entry;
        for list in [outbound, inbound, listens, opens, forbidden] {
            merge_ports(list);
        }
    }
    Document { format: FORMAT.to_owned(), environment: None, services }
}

/// Allowances that differ only in where they came from, or in their executables, are one line.
fn joined<'a>(allowances: impl Iterator<Item = &'a Allowance>) -> Vec<Allowance> {
    let mut joined: Vec<Allowance> = Vec::new();
    for allowance in allowances {
        let same = joined.iter_mut().find(|it| {
            it.grounds == allowance.grounds && it.attempted_only == allowance.attempted_only
        });
        match same {
            Some(known) if known.executables.is_empty() || allowance.executables.is_empty() => {
                known.executables.clear();
            }
            Some(known) => known.executables.extend(allowance.executables.shared().cloned()),
            None => joined.push(allowance.clone()),
        }
    }
    joined
}

fn header(baseline: &Baseline, name: &ServiceName) -> Entry {
    Entry {
        owner: baseline.owner_of(name),
        about: baseline.services.get(name).and_then(|record| record.about.clone()),
        ..Entry::default()
    }
}

fn evidence(baseline: &Baseline, edge: &Edge) -> Option<LineEvidence> {
    let evidence: &Evidence = baseline.edges.get(edge)?.evidence.as_deref()?;
    Some(LineEvidence {
        first_seen: evidence.first_seen,
        last_seen: evidence.last_seen,
        connections: evidence.totals().connections,
    })
}

/// Makes one line of lines that differ only in their ports, or in their sockets.
fn merge_ports(lines: &mut Vec<Line>) {
    // A line has either ports or sockets.
    type Lists = (BTreeSet<Port>, BTreeSet<Socket>);
    let mut merged: BTreeMap<(Line, bool), Lists> = BTreeMap::new();
    for mut line in lines.drain(..) {
        let ports = std::mem::take(&mut line.ports);
        let sockets = std::mem::take(&mut line.sockets);
        let lists = merged.entry((line, sockets.is_empty())).or_default();
        lists.0.extend(ports);
        lists.1.extend(sockets);
    }
    lines.extend(merged.into_iter().map(|((line, _), (ports, sockets))| Line {
        ports: ports.into_iter().collect(),
        sockets: sockets.into_iter().collect(),
        ..line
    }));
}
