//! A sighting against the baseline: what is odd about it, how odd, and why, in words. Reads only; what
//! follows from a finding is decided elsewhere.

mod fan_out;
mod place;
mod sensor;
mod words;

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::attribute::Sighting;
use crate::baseline::{Allowance, Baseline, Mode, Phase};
use crate::edge::{Edge, Peer};
use crate::flow::{Outcome, Process, Protocol};
use crate::ids::WallTime;

pub use self::fan_out::{FanOut, fan_out_finding};
pub use self::sensor::{Meanwhile, Trouble, sensor_finding};
pub use self::words::{Context, finding};

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
    /// A guarded service opened a port that it never served at.
    NewListener,
    /// A guarded service that only accepted dials, or dials one of its own clients.
    RoleInversion,
    /// Somebody asks the cloud's metadata service, which hands out credentials. Needs no baseline.
    MetadataAccess,
    /// Somebody dials a container runtime, a kubelet or an etcd. Needs no baseline.
    SensitivePort,
    /// Somebody made a socket that goes past TCP and UDP. Needs no baseline.
    RawSocket,
    /// A service shows more that is new than is told one by one. Needs no baseline.
    FanOut,
    /// The agent itself sees less than it should.
    Sensor,
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
            Self::NewListener => "new-listener",
            Self::RoleInversion => "role-inversion",
            Self::MetadataAccess => "metadata-access",
            Self::SensitivePort => "sensitive-port",
            Self::RawSocket => "raw-socket",
            Self::FanOut => "fan-out",
            Self::Sensor => "sensor",
            Self::Unbaselined => "unbaselined",
        })
    }
}

/// How much it matters.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    Low,
    #[default]
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
            Self::NewPeer
            | Self::NewClient
            | Self::NewExecutable
            | Self::RoleInversion
            | Self::MetadataAccess
            | Self::SensitivePort
            | Self::RawSocket
            | Self::FanOut => Severity::High,
            Self::NewPort | Self::NewListener | Self::Unbaselined | Self::Sensor => {
                Severity::Medium
            }
        }
    }

    /// The weight of the kind itself, before its reasons add theirs.
    const fn weight(self) -> f64 {
        match self {
            Self::Forbidden => 6.0,
            Self::MetadataAccess | Self::SensitivePort | Self::RawSocket | Self::FanOut => 4.0,
            Self::RoleInversion => 3.5,
            Self::NewPeer | Self::NewClient => 3.0,
            Self::NewExecutable | Self::NewListener => 2.5,
            Self::NewPort | Self::Sensor => 2.0,
            Self::Unbaselined => 1.0,
        }
    }

    /// Whether it may be told of an edge that nobody guards: what is never learned silently.
    #[must_use]
    pub const fn needs_no_baseline(self) -> bool {
        matches!(
            self,
            Self::Forbidden | Self::MetadataAccess | Self::SensitivePort | Self::RawSocket
        )
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
    /// What it is called within its pod, or by its runtime.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container_name: Option<String>,
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
    /// Where an older version stored the finding: medium.
    #[serde(default)]
    pub severity: Severity,
    /// None where the finding is about the agent itself, or about more edges than are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub edge: Option<Edge>,
    /// Where the client dialled it, where the edge calls that otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dialled: Option<SocketAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
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
    pub process: Option<Arc<Process>>,
    #[serde(rename = "where")]
    pub place: Where,
}

impl Finding {
    #[must_use]
    pub fn executable(&self) -> Option<&str> {
        self.process.as_ref()?.executable.as_deref()
    }
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
        return unguarded(baseline, mode, sighting, wall);
    }
    let allowances = allowances(baseline, sighting, wall);
    if edge.is_listener() {
        let known = listens_as_known(baseline, sighting, &allowances, wall);
        return if known { Judgement::Normal } else { odd(Kind::NewListener) };
    }
    if allowances.is_empty() && client && dials_itself_as_known(baseline, sighting, wall) {
        return Judgement::Normal;
    }
    if allowances.is_empty() {
        let also = (client && server).then_some(Kind::NewClient);
        let kind = if client {
            unknown_to_client(baseline, sighting, wall)
        } else {
            place::hard_rule(sighting).unwrap_or(Kind::NewClient)
        };
        return Judgement::Odd { kind, also };
    }
    if permit(&allowances, sighting) { Judgement::Normal } else { odd(Kind::NewExecutable) }
}

/// The allowances that hold for a sighting, whatever its executable: one that only knows attempts
/// says nothing of an answer.
fn allowances<'a>(
    baseline: &'a Baseline,
    sighting: &Sighting,
    wall: WallTime,
) -> Vec<&'a Allowance> {
    let reached = sighting.outcome.reached();
    let allowances = baseline.allowances(&sighting.edge, wall);
    allowances.filter(|it| !(reached && it.attempted_only)).collect()
}

/// Whether one of them permits the executable; where that is not known, any does.
fn permit(allowances: &[&Allowance], sighting: &Sighting) -> bool {
    let permits = |it: &&Allowance| {
        sighting.executable().is_none_or(|executable| it.permits_executable(executable))
    };
    allowances.iter().any(permits)
}

/// Nobody at either end is guarded. What a hard rule names is never learned silently.
fn unguarded(baseline: &Baseline, mode: Mode, sighting: &Sighting, wall: WallTime) -> Judgement {
    let edge = &sighting.edge;
    let allowed = || permit(&allowances(baseline, sighting, wall), sighting);
    match (place::hard_rule(sighting), mode) {
        (Some(kind), _) if !allowed() => Judgement::Odd { kind, also: None },
        // That a port was opened is no reason to ask for a baseline: whoever uses it is.
        (_, Mode::Guard) if !edge.is_exchange() => Judgement::Normal,
        (_, Mode::Guard) => Judgement::Odd { kind: Kind::Unbaselined, also: None },
        (_, Mode::Learn | Mode::Auto) => Judgement::Learnable,
    }
}

/// The first port of those that a kernel gives to whoever asks for any (`ip_local_port_range`).
const EPHEMERAL: u16 = 32_768;

/// Whether a guarded service is known to listen here: it did, or it is known to be dialled here, or
/// it takes whatever port the kernel gives and did so before with the same executable.
fn listens_as_known(
    baseline: &Baseline,
    sighting: &Sighting,
    allowances: &[&Allowance],
    wall: WallTime,
) -> bool {
    if !allowances.is_empty() {
        return permit(allowances, sighting);
    }
    let edge = &sighting.edge;
    let Some(service) = edge.server.service() else {
        return true;
    };
    let circle = baseline.circle(service, wall);
    let served = || circle.served_at(edge.port).iter().next().is_some();
    let ephemeral = |(known, allowance): (&Edge, &Allowance)| {
        known.port.protocol == edge.port.protocol
            && known.port.number >= EPHEMERAL
            && permit(&[allowance], sighting)
    };
    served() || (edge.port.number >= EPHEMERAL && circle.listens().iter().any(ephemeral))
}

/// Whether a guarded service dials, by UDP and over loopback, a port that the kernel gave somebody, as it
/// did before with the same executable. Nothing need be sent there: `getaddrinfo` dials so to compare
/// addresses, each time Docker has `iptables` lead a container to its resolver of names.
fn dials_itself_as_known(baseline: &Baseline, sighting: &Sighting, wall: WallTime) -> bool {
    let edge = &sighting.edge;
    let Some(client) = edge.client.service() else {
        return false;
    };
    let is_itself = |it: &Edge| {
        let own = match &it.server {
            Peer::Address(address) => address.is_loopback(),
            server => server.service() == Some(client),
        };
        own && it.port.number >= EPHEMERAL && it.port.protocol == Protocol::Udp
    };
    let as_known = |(known, allowance): (&Edge, &Allowance)| {
        is_itself(known) && permit(&[allowance], sighting)
    };
    is_itself(edge) && baseline.circle(client, wall).dialled().iter().any(as_known)
}

/// A guarded client's unknown edge: what a hard rule names, a new port of a known peer, somebody new
/// for who dials, or the first dial of who only ever was dialled.
fn unknown_to_client(baseline: &Baseline, sighting: &Sighting, wall: WallTime) -> Kind {
    let edge = &sighting.edge;
    if let Some(kind) = place::hard_rule(sighting) {
        return kind;
    }
    let Some(client) = edge.client.service() else {
        return Kind::NewPeer;
    };
    let circle = baseline.circle(client, wall);
    let answered = |(_, allowance): &(&Edge, &Allowance)| !allowance.attempted_only;
    let another_port = |(known, _): (&Edge, &Allowance)| known.port != edge.port;
    // Asking for names is what everybody does: it does not count.
    let dials = |(known, _): (&Edge, &Allowance)| known.port.number != DNS;
    if circle.dialled_to(&edge.server).iter().filter(answered).any(another_port) {
        return Kind::NewPort;
    }
    let serves_it = circle.served_to(&edge.server).iter().filter(answered).any(is_served);
    let only_accepts = || {
        edge.port.number != DNS
            && circle.served().iter().filter(answered).any(is_served)
            && !circle.dialled().iter().filter(answered).any(dials)
    };
    if serves_it || only_accepts() { Kind::RoleInversion } else { Kind::NewPeer }
}

/// Who dials himself is no client of his.
fn is_served((known, _): (&Edge, &Allowance)) -> bool {
    known.client != known.server
}

const DNS: u16 = 53;
