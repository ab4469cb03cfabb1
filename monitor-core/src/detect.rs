//! A sighting against the baseline: what is odd about it, how odd, and why, in words. Reads only; what
//! follows from a finding is decided elsewhere.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::attribute::{Sighting, Workload};
use crate::baseline::{Allowance, Baseline, Mode, Phase};
use crate::edge::{Edge, EdgeWith, Peer, Port};
use crate::flow::{Outcome, Process, Protocol};
use crate::ids::{ServiceName, WallTime};

/// What is odd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An edge that somebody forbade.
    Forbidden,
    /// A guarded client dialled somebody new.
    NewPeer,
    /// A guarded client dialled a known peer on a new port.
    NewPort,
    /// A guarded server was dialled by somebody new.
    NewClient,
    /// A known edge, dialled with another binary.
    NewExecutable,
    /// A service talks and has no baseline, and nothing is learned.
    Unbaselined,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forbidden => "forbidden",
            Self::NewPeer => "new-peer",
            Self::NewPort => "new-port",
            Self::NewClient => "new-client",
            Self::NewExecutable => "new-executable",
            Self::Unbaselined => "unbaselined",
        })
    }
}

/// How much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    Low,
    Medium,
    High,
    Critical,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        })
    }
}

impl Kind {
    #[must_use]
    pub const fn severity(self) -> Severity {
        match self {
            Self::Forbidden => Severity::Critical,
            Self::NewPeer | Self::NewClient | Self::NewExecutable => Severity::High,
            Self::NewPort | Self::Unbaselined => Severity::Medium,
        }
    }

    /// The weight of the kind itself, before its reasons add theirs.
    const fn weight(self) -> f64 {
        match self {
            Self::Forbidden => 6.0,
            Self::NewPeer | Self::NewClient => 3.0,
            Self::NewExecutable => 2.5,
            Self::NewPort => 2.0,
            Self::Unbaselined => 1.0,
        }
    }
}

/// Why a finding is one: a name for programs, a weight in its score, a sentence for people.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reason {
    pub name: String,
    pub weight: f64,
    pub text: String,
}

/// Where the edge's owner ran.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Where {
    pub node: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<String>,
}

/// One judged oddity.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    pub kind: Kind,
    pub edge: Edge,
    pub outcome: Outcome,
    pub at: WallTime,
    pub score: f64,
    pub reasons: Vec<Reason>,
    /// The known edge most like it, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
    /// MITRE ATT&CK techniques.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attack: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    #[serde(rename = "where")]
    pub place: Where,
}

/// What the baseline says about a sighting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    /// Known, allowed, or not ours to judge.
    Normal,
    /// Nobody is guarded: it may be added to what is normal.
    Learnable,
    /// Odd in these ways; the first is the weightiest.
    Odd { kind: Kind, also: Option<Kind> },
}

/// Judges one sighting.
#[must_use]
pub fn judge(baseline: &Baseline, mode: Mode, sighting: &Sighting, wall: WallTime) -> Judgement {
    let odd = |kind| Judgement::Odd { kind, also: None };
    let edge = &sighting.edge;
    if baseline.prohibition(edge, wall).is_some() {
        return odd(Kind::Forbidden);
    }
    let guarded = |peer: &Peer| {
        peer.service().is_some_and(|service| baseline.phase(service) == Phase::Guarded)
    };
    let (client, server) = (guarded(&edge.client), guarded(&edge.server));
    if !client && !server {
        return match mode {
            Mode::Learn | Mode::Auto => Judgement::Learnable,
            Mode::Guard => odd(Kind::Unbaselined),
        };
    }
    let reached = sighting.outcome.reached();
    let allowances: Vec<&Allowance> = baseline
        .allowances(edge, wall)
        .filter(|allowance| !(reached && allowance.attempted_only))
        .collect();
    if allowances.is_empty() {
        return match (client, server) {
            (true, true) => Judgement::Odd {
                kind: unknown_to_client(baseline, edge, wall),
                also: Some(Kind::NewClient),
            },
            (true, false) => odd(unknown_to_client(baseline, edge, wall)),
            _ => odd(Kind::NewClient),
        };
    }
    let executable = sighting.process.as_ref().and_then(|process| process.executable.as_deref());
    match executable {
        Some(path) if !allowances.iter().any(|it| it.permits_executable(path)) => {
            odd(Kind::NewExecutable)
        }
        _ => Judgement::Normal,
    }
}

/// A guarded client's unknown edge: a new port of a known peer, or a new peer.
fn unknown_to_client(baseline: &Baseline, edge: &Edge, wall: WallTime) -> Kind {
    let on = |number, protocol| Edge { port: Port { number, protocol }, ..edge.clone() };
    let ports = on(0, Protocol::Tcp)..=on(u16::MAX, Protocol::Udp);
    let stored = baseline.edges.range(ports.clone()).map(|(known, _)| known);
    let written = baseline.files.allowed.range(ports).map(|(known, _)| known);
    let known_peer = stored.chain(written).any(|known| {
        known.port != edge.port && baseline.allowances(known, wall).any(|it| !it.attempted_only)
    });
    if known_peer { Kind::NewPort } else { Kind::NewPeer }
}

/// What is known around a finding while it is written.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    pub baseline: &'a Baseline,
    pub node: &'a str,
    pub wall: WallTime,
}

/// Writes a finding out: its reasons with figures, the nearest known edge, the technique.
#[must_use]
pub fn finding(context: &Context<'_>, kind: Kind, sighting: &Sighting) -> Finding {
    let reasons = reasons(context, kind, sighting);
    let score = reasons.iter().map(|reason| reason.weight).sum::<f64>().clamp(0.0, 10.0);
    let nearest = nearest(context, sighting);
    Finding {
        kind,
        edge: sighting.edge.clone(),
        outcome: sighting.outcome,
        at: sighting.at,
        score: (score * 10.0).round() / 10.0,
        reasons,
        nearest: nearest.map(|near| near.to_string()),
        attack: attack(kind, &sighting.edge.server).iter().map(ToString::to_string).collect(),
        process: sighting.process.clone(),
        place: place(context.node, sighting.workload.as_ref()),
    }
}

fn place(node: &str, workload: Option<&Workload>) -> Where {
    Where {
        node: workload.and_then(|it| it.node.clone()).unwrap_or_else(|| node.to_owned()),
        container: workload.and_then(|it| it.container.clone()),
        pod: workload.and_then(|it| it.pod.clone()),
        image: workload.and_then(|it| it.image.clone()),
        cgroup: workload.map(|it| it.cgroup.clone()).filter(|it| !it.is_empty()),
    }
}

fn reasons(context: &Context<'_>, kind: Kind, sighting: &Sighting) -> Vec<Reason> {
    let mut reasons = vec![first_reason(context, kind, sighting)];
    let executable = sighting.process.as_ref().and_then(|process| process.executable.as_deref());
    if kind != Kind::NewExecutable
        && kind != Kind::Unbaselined
        && let Some(path) = executable
        && let Some(client) = sighting.edge.client.service()
        && context.baseline.phase(client) == Phase::Guarded
        && let Some(text) = never_dialled(context, client, path)
    {
        reasons.push(Reason { name: "executable".to_owned(), weight: 2.5, text });
    }
    if let Peer::Address(address) = sighting.edge.server
        && kind != Kind::Forbidden
    {
        reasons.extend(address_reason(address));
    }
    reasons
}

fn first_reason(context: &Context<'_>, kind: Kind, sighting: &Sighting) -> Reason {
    let edge = &sighting.edge;
    let text = match kind {
        Kind::Forbidden => match context.baseline.prohibition(edge, context.wall) {
            Some(prohibition) => forbidden_text(prohibition.since, &prohibition.grounds),
            None => "this edge is forbidden".to_owned(),
        },
        Kind::NewPeer => match &edge.client {
            Peer::Service(client) => learned_text(context, client, edge, "to"),
            _ => "the client never dialled it".to_owned(),
        },
        Kind::NewClient => match &edge.server {
            Peer::Service(server) => learned_text(context, server, edge, "from"),
            _ => "the server never served it".to_owned(),
        },
        Kind::NewPort => format!(
            "{} is a known peer of {}, but never on {}",
            edge.server, edge.client, edge.port
        ),
        Kind::NewExecutable => {
            let known = known_executables(context, edge);
            let with = EdgeWith { edge: edge.clone(), executable: executable_of(sighting) };
            let with = with.executable.unwrap_or_default();
            format!("{with} never dialled this edge; known: {}", list(&known))
        }
        Kind::Unbaselined => {
            "it has no guarded baseline, and the agent is in mode guard: nothing is learned"
                .to_owned()
        }
    };
    Reason { name: kind.to_string(), weight: kind.weight(), text }
}

fn executable_of(sighting: &Sighting) -> Option<String> {
    sighting.process.as_ref().and_then(|process| process.executable.clone())
}

fn forbidden_text(since: WallTime, grounds: &crate::baseline::Grounds) -> String {
    let by = grounds.approver.as_ref().map(|who| format!(" by {who}")).unwrap_or_default();
    let why = grounds.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    format!("forbidden{by} since {}{why}", since.to_second())
}

/// "no edge to X; web has 3 known edges, watched for 6 d".
fn learned_text(context: &Context<'_>, service: &ServiceName, edge: &Edge, way: &str) -> String {
    let peer = if way == "to" { &edge.server } else { &edge.client };
    let known: std::collections::BTreeSet<&Edge> =
        context.baseline.allowed_edges(service, context.wall).map(|(edge, _)| edge).collect();
    let known = known.len();
    let edges = if known == 1 { "edge" } else { "edges" };
    let attempted = context.baseline.allowances(edge, context.wall).any(|it| it.attempted_only);
    if attempted {
        return format!("{peer} was dialled before but never answered; now it did");
    }
    let watched = context.baseline.services.get(service).map_or_else(String::new, |record| {
        format!(", watched for {}", span(context.wall.seconds_since(record.first_seen)))
    });
    format!("no edge {way} {peer}; {service} has {known} known {edges}{watched}")
}

/// A length of time in its largest whole unit: `41 s`, `12 min`, `5 h`, `6 d`.
fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// "bash never dialled from web; nginx did", unless it did.
fn never_dialled(context: &Context<'_>, client: &ServiceName, path: &str) -> Option<String> {
    let mut known: Vec<String> = Vec::new();
    for (edge, allowance) in context.baseline.allowed_edges(client, context.wall) {
        if edge.client.service() != Some(client) {
            continue;
        }
        if allowance.executables.contains(path) {
            return None;
        }
        known.extend(allowance.executables.iter().cloned());
    }
    known.sort_unstable();
    known.dedup();
    (!known.is_empty())
        .then(|| format!("{path} never dialled from {client}; known: {}", list(&known)))
}

fn known_executables(context: &Context<'_>, edge: &Edge) -> Vec<String> {
    let allowances = context.baseline.allowances(edge, context.wall);
    let mut known: Vec<String> =
        allowances.flat_map(|allowance| allowance.executables.iter().cloned()).collect();
    known.sort_unstable();
    known.dedup();
    known
}

/// At most three of them: a sentence, not a dump.
fn list(names: &[String]) -> String {
    let shown = names.iter().take(3).map(String::as_str).collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "none".to_owned(),
        1..=3 => shown,
        more => format!("{shown} and {} more", more - 3),
    }
}

/// The instance metadata services of AWS, Azure and GCP, and AWS's over IPv6.
fn is_metadata(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => v4.octets() == [169, 254, 169, 254],
        IpAddr::V6(v6) => v6.segments() == [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254],
    }
}

fn is_inside(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_multicast()
                || v4.is_broadcast()
                || (a == 100 && (64..128).contains(&b))
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || v6.is_unique_local()
                || v6.is_unicast_link_local()
                || v6.is_multicast()
        }
    }
}

fn address_reason(address: IpAddr) -> Option<Reason> {
    if is_metadata(address) {
        return Some(Reason {
            name: "metadata-address".to_owned(),
            weight: 3.0,
            text: "the cloud's metadata service: it hands out the node's credentials".to_owned(),
        });
    }
    (!is_inside(address)).then(|| Reason {
        name: "outside".to_owned(),
        weight: 1.5,
        text: "an address outside the internal networks, with no name known for it".to_owned(),
    })
}

fn attack(kind: Kind, server: &Peer) -> &'static [&'static str] {
    match (kind, server) {
        (Kind::Unbaselined, _) => &[],
        (_, Peer::Address(address)) if is_metadata(*address) => &["T1552.005"],
        (Kind::NewExecutable, _) => &["T1059"],
        (Kind::NewPort, _) => &["T1571"],
        (_, Peer::Address(address)) if !is_inside(*address) => &["T1071"],
        (_, Peer::Name(_)) => &["T1071"],
        _ => &["T1021"],
    }
}

/// The allowed edge most like this one: the same server, else the same client with the same port,
/// else the same client.
fn nearest(context: &Context<'_>, sighting: &Sighting) -> Option<EdgeWith> {
    let edge = &sighting.edge;
    let likeness = |known: &Edge| -> u32 {
        u32::from(known.server == edge.server) * 4
            + u32::from(known.client == edge.client) * 2
            + u32::from(known.port == edge.port)
    };
    let (near, allowance) = edge
        .services()
        .flat_map(|service| context.baseline.allowed_edges(service, context.wall))
        .filter(|(known, _)| known.client == edge.client || known.server == edge.server)
        .max_by_key(|(known, _)| (likeness(known), std::cmp::Reverse((*known).clone())))?;
    Some(EdgeWith { edge: near.clone(), executable: allowance.executables.first().cloned() })
}
