//! What was observed, free of wire and kernel: a flow is one connection or datagram exchange as one
//! end of it saw it. The keys here are the kernel's own, so that what is known can be told apart
//! there and re-armed from here.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::dns::Lookup;
use crate::ids::{BootTime, CgroupId, NetnsCookie, WallTime};
use crate::socket::Socket;

/// Who opened the exchange, seen from the cgroup that the flow belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// The cgroup dialled.
    Outbound,
    /// The cgroup was dialled.
    Inbound,
    /// The cgroup opened a port: no exchange, and nobody at the other end. The key's remote is the
    /// world, its outcome established, its executable the listener's.
    Listening,
}

/// The transport protocol, and with it what a port means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    UdpLite,
    /// ICMP and ICMPv6; the port is the message's type.
    Icmp,
    /// Any other above IP; the port is the protocol's number.
    Ip,
}

impl Protocol {
    pub const ALL: [Self; 5] = [Self::Tcp, Self::Udp, Self::UdpLite, Self::Icmp, Self::Ip];

    /// Whether a server of it is found by its port, and answers without having accepted.
    #[must_use]
    pub const fn serves_datagrams(self) -> bool {
        match self {
            Self::Udp | Self::UdpLite => true,
            Self::Tcp | Self::Icmp | Self::Ip => false,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::UdpLite => "udplite",
            Self::Icmp => "icmp",
            Self::Ip => "ip",
        })
    }
}

/// How an exchange went, as far as the hooks show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Dialled; nothing more is known (yet).
    Attempted,
    /// The far end answered with a reset.
    Refused,
    /// Nobody answered until the kernel gave up.
    TimedOut,
    /// Ended before it was established for another reason: an ICMP error, or the caller gave up.
    Unreachable,
    /// A policy on the dialling machine refused it. Only recordings made elsewhere say so: what our
    /// hooks see of it stays attempted.
    Denied,
    /// A datagram went out or came in.
    Sent,
    /// The handshake was completed.
    Established,
}

impl Outcome {
    /// Whether data could pass: what lifts an edge above a mere attempt.
    #[must_use]
    pub const fn reached(self) -> bool {
        matches!(self, Self::Established | Self::Sent)
    }

    /// Whether a later observation of the same dial can still change it.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Attempted)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Attempted => "attempted",
            Self::Refused => "refused",
            Self::TimedOut => "timed-out",
            Self::Unreachable => "unreachable",
            Self::Denied => "denied",
            Self::Sent => "sent",
            Self::Established => "established",
        })
    }
}

/// The far end as the kernel knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Remote {
    /// IPv4-mapped addresses are normalised to IPv4 before they get here.
    Address(IpAddr),
    /// The other end of this connection is on this machine and the kernel saw whose it is.
    Cgroup(CgroupId),
    /// Somewhere outside the internal networks (inbound only).
    World,
    /// No exchange and nobody: the cgroup made a socket of this kind (outbound, established, port 0
    /// of [`Protocol::Ip`]).
    Socket(Socket),
}

/// What makes a flow news: one entry of the kernel's seen-map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey {
    pub cgroup: CgroupId,
    pub direction: Direction,
    pub protocol: Protocol,
    pub remote: Remote,
    /// The address the client reached this end at; inbound only. Where a listener listens, None for
    /// all addresses.
    pub local: Option<IpAddr>,
    /// The server's port, whichever end the flow was seen from; the listener's own.
    pub port: u16,
    pub outcome: Outcome,
    /// The kernel's identity of the dialling (or listening) executable; 0 where it gave none, and
    /// inbound.
    pub executable_id: u64,
}

impl FlowKey {
    /// The key without its outcome: the same for all that is told of one dial.
    #[must_use]
    pub const fn dial(&self) -> Self {
        Self { outcome: Outcome::Attempted, ..*self }
    }

    /// What an outbound flow dialled.
    #[must_use]
    pub const fn dialled(&self) -> Option<SocketAddr> {
        match self.remote {
            Remote::Address(address) => Some(SocketAddr::new(address, self.port)),
            Remote::Cgroup(_) | Remote::World | Remote::Socket(_) => None,
        }
    }
}

/// The number by which capture tells of a key: small, so that a table of them is a list. Once its key
/// was told to be forgotten it may be another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub u32);

impl KeyId {
    /// Where it stands in a list of all.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// The process that dialled (outbound) or that listens (inbound).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Process {
    /// Path of the executable, as seen in the process's own mount namespace. An interpreter that runs
    /// under a shell which the service itself started is `SHELL:INTERPRETER`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable: Option<String>,
    #[serde(default = "unknown", skip_serializing_if = "is_unknown")]
    pub pid: u32,
    #[serde(default = "unknown", skip_serializing_if = "is_unknown")]
    pub uid: u32,
    /// The settable command name (`comm`): shown, never judged by.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub command: String,
    #[serde(default, skip_serializing_if = "Image::is_file")]
    pub image: Image,
    /// Who started it, the nearest first, at most [`Process::ANCESTORS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ancestors: Vec<Ancestor>,
}

impl Process {
    pub const ANCESTORS: usize = 8;
    /// A process or user id that was not told, as recordings made elsewhere have it: neither is ever
    /// given this number.
    pub const UNKNOWN: u32 = u32::MAX;
}

/// A process that started the one in question, or its starter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ancestor {
    pub pid: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable: Option<String>,
}

/// What a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Image {
    #[default]
    File,
    /// A file that was deleted or replaced since the process started.
    Deleted,
    /// What never was a file that others could see: a memfd, or an open descriptor (`fexecve`).
    Memory,
}

impl Image {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
    const fn is_file(&self) -> bool {
        matches!(self, Self::File)
    }
}

const fn unknown() -> u32 {
    Process::UNKNOWN
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
const fn is_unknown(id: &u32) -> bool {
    *id == Process::UNKNOWN
}

/// One end's first sighting of a [`FlowKey`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    pub key: FlowKey,
    /// None where it is told for its other end's sake alone, and nothing will be counted for it.
    pub id: Option<KeyId>,
    pub at: WallTime,
    pub netns: NetnsCookie,
    /// The client's own address and port, where known: what pairs the two ends of a connection.
    pub client: Option<SocketAddr>,
    /// None where it could not be told (an accepting socket whose listener is older than we are).
    pub process: Option<Arc<Process>>,
    pub begun: Begun,
    /// The cgroup that its socket was opened in, where that is another than the key's.
    pub opener: Option<CgroupId>,
}

/// When an exchange was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Begun {
    /// The kernel programs saw it begin.
    #[default]
    Seen,
    /// It was there before them.
    Before,
}

/// Round-trip times as a histogram of powers of two: bucket `i` counts closes whose smoothed
/// round-trip time was in `[16 << i, 32 << i)` microseconds, the first from 0, the last open-ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RttHistogram(pub [u32; Self::BUCKETS]);

impl RttHistogram {
    pub const BUCKETS: usize = 16;

    /// The round-trip time below which `quantile` (0 to 1) of the closes were, in microseconds,
    /// interpolated within its bucket; None without a sample.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a quantile of a u64 count, at most 2^20 microseconds"
    )]
    pub fn quantile_us(&self, quantile: f64) -> Option<u64> {
        let total: u64 = self.0.iter().map(|&count| u64::from(count)).sum();
        if total == 0 {
            return None;
        }
        let mut left = quantile * total as f64;
        for (index, &count) in self.0.iter().enumerate() {
            let count = f64::from(count);
            if count > 0.0 && left <= count {
                let low = if index == 0 { 0.0 } else { f64::from(16_u32 << index) };
                let high = f64::from(32_u32 << index);
                return Some((low + (high - low) * (left / count)) as u64);
            }
            left -= count;
        }
        Some(32 << (Self::BUCKETS - 1))
    }

    pub fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine = mine.saturating_add(theirs);
        }
    }
}

/// What a known flow key did since the kernel was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    pub key: FlowKey,
    pub id: KeyId,
    pub last_seen: WallTime,
    /// Dials, accepts or datagrams of this key.
    pub connections: u64,
    /// Payload bytes this end sent and received, counted when a connection closes; TCP only.
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub rtt: RttHistogram,
}

impl Traffic {
    /// Adds what the same key did later.
    pub fn add(&mut self, later: &Self) {
        self.last_seen = self.last_seen.max(later.last_seen);
        self.connections += later.connections;
        self.bytes_sent += later.bytes_sent;
        self.bytes_received += later.bytes_received;
        self.rtt.add(&later.rtt);
    }
}

/// One cgroup showed more that is new than its budget: what goes beyond is told as a whole. Nothing of
/// it is known from then on: whatever is seen again when the budget allows is told one by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flood {
    /// Who showed it. Of connections between two cgroups of this machine that is who dialled.
    pub cgroup: CgroupId,
    pub direction: Direction,
    /// When the budget was first exceeded.
    pub since: WallTime,
    /// The same as the kernel says it: tells one flood of a cgroup from the next, whoever looks.
    pub began: BootTime,
    pub last_seen: WallTime,
    /// Flows that were not told one by one, exactly.
    pub count: u64,
    /// About how many different far ends they had, by address, port and protocol.
    pub peers: u64,
    /// A few of them, the latest last.
    pub examples: Vec<FlowKey>,
    /// Who showed the last example.
    pub process: Option<Arc<Process>>,
    pub ended: Ended,
}

/// A program of somebody else on one of our hooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Joined {
    /// By its name where it has one, else by its id.
    pub program: String,
    /// Our program for that hook.
    pub hook: &'static str,
    /// The path of the cgroup.
    pub cgroup: String,
    /// Further cgroups that it was attached to meanwhile.
    pub more: u64,
    pub influence: Influence,
}

/// What another program can do to what ours sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Influence {
    /// Nothing: ours runs first, or no address is told at this hook.
    None,
    /// It may change an address before ours is told it.
    MayHide,
}

/// Whether something is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    No,
    Yes,
}

/// Why something was not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// The ring buffer was full: the flow is delayed to the next sweep of the seen-map.
    RingFull,
    /// A kernel map refused an entry.
    MapFull,
    /// An accepted connection whose listening socket is not known.
    Unattributed,
    /// A connection closed whose dial was not tracked (any more): its bytes are missing.
    Untracked,
    /// An unusual socket was made where packets were not looked at (yet): where it sent may be missing.
    Unwatched,
    /// The kernel handed over bytes that this program cannot read.
    Undecodable,
    /// The table of edges was full: an edge was judged and neither learned nor kept.
    TableFull,
    /// The table held as many undecided edges of one service as it may: a further one was judged, and
    /// neither learned nor kept.
    ServiceFull,
    /// A message of DNS that was not read: too many of one cgroup, too long, cut off, or answered what was
    /// asked before anybody looked. Names may be missing.
    Unheard,
    /// An answer of DNS that its cgroup had not asked for, or from whom it is not believed: it names no
    /// address.
    Unasked,
    /// The directory was full: what a source said of one thing more is not known.
    Untaken,
    /// New beyond its cgroup's budget: told as a [`Flood`], not one by one.
    OverBudget,
    /// The kernel's table of keys was full and dropped one that had been told: what it counted since
    /// the last sweep is missing, and seen again it is told again.
    Evicted,
    /// A hook of ours that is not there, from the start or since somebody detached it. Counts hooks:
    /// what they would have shown nobody can count.
    HookMissing,
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RingFull => "ring-full",
            Self::MapFull => "map-full",
            Self::Unattributed => "unattributed",
            Self::Untracked => "untracked",
            Self::Unwatched => "unwatched",
            Self::Undecodable => "undecodable",
            Self::TableFull => "table-full",
            Self::ServiceFull => "service-full",
            Self::Unheard => "unheard",
            Self::Unasked => "unasked",
            Self::Untaken => "untaken",
            Self::OverBudget => "over-budget",
            Self::Evicted => "evicted",
            Self::HookMissing => "hook-missing",
        })
    }
}

/// What became of the connection that the agent makes itself every so often, to see whether it sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Canary {
    /// Its news came the whole way.
    Returned { dialled: BootTime },
    /// It was made, and this half of it was not told in time.
    Missing { half: Half },
    /// It cannot be made here, so it says nothing.
    Grounded { why: String },
}

/// Which end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Half {
    Dial,
    Accept,
    Both,
}

/// Everything capture can tell, in the order in which the kernel told it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observation {
    /// A cgroup exists: its path below the root of the version-2 hierarchy, such as
    /// `/system.slice/nginx.service`. Told before any flow of that cgroup.
    CgroupAppeared { id: CgroupId, path: String },
    /// Its directory is gone; flows of it may still come.
    CgroupVanished { id: CgroupId },
    /// The addresses of a network namespace, loopback left out.
    Addresses { netns: NetnsCookie, addresses: Vec<IpAddr> },
    /// A cgroup asked for a name, or was answered. Told before any flow that came after.
    LookedUp(Lookup),
    /// A flow key was seen for the first time; a listener is a flow of direction `Listening`.
    Flow(Flow),
    /// Counters of a known key.
    Traffic(Traffic),
    /// The kernel no longer holds this key: seen again, it will be told again.
    Forgotten { id: KeyId, key: FlowKey },
    /// What one cgroup showed beyond its budget; told again as it grows.
    Flooded(Box<Flood>),
    /// Things not told, since last time.
    Lost { loss: Loss, count: u64 },
    /// A kernel program of ours is attached no longer: what it showed is not seen any more.
    Detached { program: String },
    /// What was to outlive the agent does not any more: somebody removed this pin, and maybe others.
    Unpinned { path: String },
    /// Somebody attached a program beside ours, to the watched cgroup or to one below it.
    Joined(Joined),
    /// The watched cgroup was removed, and with it all that was attached to it.
    Removed { cgroup: String },
    /// Of the agent's own connection.
    Canary(Canary),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_in_the_bucket_that_holds_them() {
        let mut rtt = RttHistogram::default();
        assert_eq!(rtt.quantile_us(0.5), None);
        rtt.0[3] = 100; // 128 to 256 microseconds
        assert_eq!(rtt.quantile_us(0.5), Some(192));
        rtt.0[10] = 1;
        assert!(rtt.quantile_us(0.5).unwrap() < 256);
        assert!(rtt.quantile_us(1.0).unwrap() >= 16 << 10);
    }
}
