//! The wire between the kernel programs and the agent: one definition of every map's key and value
//! and of every ring-buffer record. Padding is a compile error, a bad discriminant an `Err`.
//! It says nothing of what a flow means: that is the core's.
//!
//! Byte order is the machine's own unless a field says otherwise; times are nanoseconds since boot,
//! suspended time included (`bpf_ktime_get_boot_ns`).
#![no_std]
#![forbid(unsafe_code)]

mod address;
mod executable;
mod flood;
mod followed;
mod hash;
mod lineage;
mod lookup;
mod stats;

pub use address::Address;
pub use executable::{
    EXECUTABLE_PATH_BYTES, Executable, executable_id, is_own_file, leads_through_itself,
    names_one_file,
};
pub use flood::{
    BUDGET_SPAN_NS, Budget, Flood, Payer, SKETCH_REGISTERS, peer_hash, peer_note, register_of,
};
pub use followed::{ClientKey, Dialler, Dials, Followed, Opened, Tracked};
pub use lineage::{Execution, Lineage, SHELL_BYTES, end_of, is_shell, under_shell};
pub use lookup::{
    Asker, DNS_PORT, LOOKUP_BYTE_NS, LOOKUP_RING_BYTES, LOOKUP_ROOMS, LOOKUP_SPAN_NS, LookupHead,
};
pub use stats::{FlowStats, Origin, came_at, came_slot};
use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

/// Says whether two builds agree on the wire: what this crate's text comes to, so that nobody has to
/// think of changing it. A change of a comment changes it too, which costs a restart its memory.
pub const LAYOUT: u64 = digest(include_bytes!("lib.rs"))
    ^ digest(include_bytes!("address.rs")).rotate_left(1)
    ^ digest(include_bytes!("executable.rs")).rotate_left(2)
    ^ digest(include_bytes!("flood.rs")).rotate_left(3)
    ^ digest(include_bytes!("followed.rs")).rotate_left(4)
    ^ digest(include_bytes!("hash.rs")).rotate_left(5)
    ^ digest(include_bytes!("lineage.rs")).rotate_left(6)
    ^ digest(include_bytes!("lookup.rs")).rotate_left(7)
    ^ digest(include_bytes!("stats.rs")).rotate_left(8);

/// FNV-1a: tells texts apart, not attackers.
#[must_use]
pub const fn digest(text: &[u8]) -> u64 {
    let mut digest = 0xcbf2_9ce4_8422_2325_u64;
    let mut index = 0;
    while index < text.len() {
        digest = (digest ^ text[index] as u64).wrapping_mul(0x0100_0000_01b3);
        index += 1;
    }
    digest
}

/// Names of the maps as both halves know them; sizes are set when the programs are loaded.
pub mod map {
    pub const SEEN: &str = "SEEN";
    pub const BUDGETS: &str = "BUDGETS";
    pub const FLOODS: &str = "FLOODS";
    pub const SOCKETS: &str = "SOCKETS";
    pub const LISTENERS: &str = "LISTENERS";
    pub const BOUND: &str = "BOUND";
    pub const DIALS: &str = "DIALS";
    pub const OPENERS: &str = "OPENERS";
    pub const NETS: &str = "NETS";
    pub const TRIED: &str = "TRIED";
    pub const MAKERS: &str = "MAKERS";
    pub const ASKED: &str = "ASKED";
    pub const INTERNAL: &str = "INTERNAL";
    pub const PROCESSES: &str = "PROCESSES";
    pub const EXECUTABLE_PATHS: &str = "EXECUTABLE_PATHS";
    pub const LOST: &str = "LOST";
    pub const EVENTS: &str = "EVENTS";
    pub const LOOKUPS: &str = "LOOKUPS";
}

/// Names of the read-only globals that the agent sets before it loads the programs.
pub mod global {
    /// `[u64; 2]`, random at every start: what [`crate::executable_id`] is keyed with.
    pub const EXECUTABLE_SEED: &str = "EXECUTABLE_SEED";
    /// `u8`, 1 where cgroup programs may ask for the name of the current command.
    pub const COMMAND_IN_CGROUP: &str = "COMMAND_IN_CGROUP";
    /// `u8`, 1 where `sock_ops` programs may ask for the network namespace.
    pub const NETNS_IN_SOCK_OPS: &str = "NETNS_IN_SOCK_OPS";
    /// `u64`, the time in which one more new key may be told of a cgroup, in nanoseconds.
    pub const BUDGET_INTERVAL_NS: &str = "BUDGET_INTERVAL_NS";
    /// `u8`, 1 where bytes, round-trip time and outcome of every connection are noted, and who opens
    /// which socket.
    pub const FULL: &str = "FULL";
    /// `u8`, 1 where sockets that ask for names are noted.
    pub const DNS: &str = "DNS";
    /// `[u64; 2]`, the cgroup below which all is watched and how far it is below the root; zeros where
    /// that is everywhere. For what belongs to no cgroup.
    pub const WATCHED: &str = "WATCHED";
    /// `u32`, the power of two that says how many slots `SOCKETS` has.
    pub const SOCKET_BITS: &str = "SOCKET_BITS";
    /// `u32`, the power of two that says how many elements `DIALS` has.
    pub const DIALS_BITS: &str = "DIALS_BITS";
    /// `u64`, how long the kernel's tick lasts; 0 where that is not known.
    pub const TICK_NS: &str = "TICK_NS";
    /// `u32`, where `child_pid` lies in a `sched_process_fork` record.
    pub const FORK_CHILD_PID_AT: &str = "FORK_CHILD_PID_AT";
}

/// Longest cgroup path that a record carries; a longer one is looked up by its id instead.
pub const CGROUP_PATH_BYTES: usize = 512;

/// Length of a command name, NUL included (`TASK_COMM_LEN`).
pub const COMM_BYTES: usize = 16;

/// Frames of the kernel's stack that are looked at, see [`Maker`].
pub const STACK_FRAMES: usize = 16;

/// Buckets of the round-trip histogram: `i` counts `[16 << i, 32 << i)` microseconds, the first
/// from 0, the last open-ended.
pub const RTT_BUCKETS: usize = 16;

/// How long after a wake no further wake is sent, in nanoseconds; the agent drains that often.
pub const WAKE_INTERVAL_NS: u64 = 5_000_000;

/// The transport protocol, as IP numbers it.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Protocol {
    /// Any other; the port is the protocol's number.
    Ip = 0,
    /// ICMPv6 too; the port is the message's type.
    Icmp = 1,
    Tcp = 6,
    Udp = 17,
    UdpLite = 136,
}

/// What makes sockets and asks for a capability first: the index into `MAKERS`, which holds a return
/// address on its stack (`u64`), 0 where none is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Maker {
    Packet = 0,
    Vsock = 1,
}

/// A kind of socket whose making is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum SocketKind {
    Raw = 1,
    Ping = 2,
    UdpLite = 3,
    Other = 4,
    Packet = 5,
    Vsock = 6,
}

impl SocketKind {
    pub const ALL: [Self; 6] =
        [Self::Raw, Self::Ping, Self::UdpLite, Self::Other, Self::Packet, Self::Vsock];
}

/// Who opened the exchange, seen from the cgroup of the key; or that it waits for others to.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    Outbound = 1,
    Inbound = 2,
    /// No exchange yet: a TCP port is listened at, see [`FlowKey::listening`].
    Listening = 3,
}

/// What the `remote` bytes of a key hold.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum RemoteKind {
    Address = 1,
    /// A cgroup of this machine, see [`Address::of_cgroup`].
    Cgroup = 2,
    /// Anybody outside the internal networks; the bytes are zero.
    World = 3,
    /// Nobody: an unusual socket was made, see [`FlowKey::opening`] and [`Address::of_socket`].
    Socket = 4,
}

/// How an exchange went.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    Attempted = 1,
    Refused = 2,
    TimedOut = 3,
    Unreachable = 4,
    Sent = 5,
    Established = 6,
}

impl Outcome {
    /// How many counters it takes to tell apart what comes of one key of `SEEN`.
    pub const SLOTS: usize = 5;

    /// What may come of a dial, each with a counter of its own.
    pub const OF_DIALS: [Self; Self::SLOTS] =
        [Self::Established, Self::Attempted, Self::Refused, Self::TimedOut, Self::Unreachable];

    /// Its place in [`FlowStats::counts`]. No key has both of what is sent and what is attempted.
    #[inline(always)]
    #[must_use]
    pub const fn slot(self) -> usize {
        match self {
            Self::Established => 0,
            Self::Attempted | Self::Sent => 1,
            Self::Refused => 2,
            Self::TimedOut => 3,
            Self::Unreachable => 4,
        }
    }
}

/// What makes a flow news.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FlowKey {
    pub cgroup_id: u64,
    /// Of the dialling or listening executable; 0 where unknown, and for inbound flows.
    pub executable_id: u64,
    pub remote: Address,
    /// The address the client reached this end at, or can: zero for a socket bound to all, and for
    /// outbound flows.
    pub local: Address,
    /// The server's port.
    pub port: u16,
    pub protocol: Protocol,
    pub direction: Direction,
    pub remote_kind: RemoteKind,
    pub outcome: Outcome,
    pub _reserved: [u8; 2],
}
const _: () = assert!(size_of::<FlowKey>() == 56);

impl FlowKey {
    /// Whether it is a TCP dial. `SEEN` holds one key for all that comes of it, under
    /// [`Outcome::Attempted`]; any other key it holds as it is.
    #[inline(always)]
    #[must_use]
    pub const fn is_dial(&self) -> bool {
        matches!(self.protocol, Protocol::Tcp)
            && matches!(self.direction, Direction::Outbound)
            && matches!(self.remote_kind, RemoteKind::Address)
    }

    /// As `SEEN` holds it.
    #[must_use]
    pub const fn held(self) -> Self {
        let outcome = if self.is_dial() { Outcome::Attempted } else { self.outcome };
        Self { outcome, ..self }
    }

    /// That `owner` listens at `key`.
    #[inline(always)]
    #[must_use]
    pub const fn listening(owner: &Owner, key: &ListenKey) -> Self {
        let local = if key.address.is_unspecified() { Address::ZERO } else { key.address };
        Self {
            cgroup_id: owner.cgroup_id,
            executable_id: owner.executable_id,
            remote: Address::ZERO,
            local,
            port: key.port,
            protocol: Protocol::Tcp,
            direction: Direction::Listening,
            remote_kind: RemoteKind::World,
            outcome: Outcome::Established,
            _reserved: [0; 2],
        }
    }

    /// That `owner` made an unusual socket; `protocol` is IP's number where it means something.
    #[inline(always)]
    #[must_use]
    pub const fn opening(owner: &Owner, kind: SocketKind, protocol: u8) -> Self {
        Self {
            cgroup_id: owner.cgroup_id,
            executable_id: owner.executable_id,
            remote: Address::of_socket(kind, protocol),
            local: Address::ZERO,
            port: 0,
            protocol: Protocol::Ip,
            direction: Direction::Outbound,
            remote_kind: RemoteKind::Socket,
            outcome: Outcome::Established,
            _reserved: [0; 2],
        }
    }
}

/// A process, as it was when the kernel saw it.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Process {
    /// Thread-group id in the initial pid namespace; 0 where no process is known.
    pub pid: u32,
    pub uid: u32,
    /// NUL-padded.
    pub comm: [u8; COMM_BYTES],
}
const _: () = assert!(size_of::<Process>() == 24);

impl Process {
    pub const UNKNOWN: Self = Self { pid: 0, uid: 0, comm: [0; COMM_BYTES] };
}

/// Whose a socket is.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Owner {
    pub cgroup_id: u64,
    pub executable_id: u64,
    pub process: Process,
}
const _: () = assert!(size_of::<Owner>() == 40);

impl Owner {
    pub const UNKNOWN: Self = Self { cgroup_id: 0, executable_id: 0, process: Process::UNKNOWN };
}

/// Key of `LISTENERS`: a TCP address being listened at.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ListenKey {
    pub netns_cookie: u64,
    /// `::` and `0.0.0.0` as they are.
    pub address: Address,
    pub port: u16,
    pub _reserved: [u8; 6],
}
const _: () = assert!(size_of::<ListenKey>() == 32);

/// Value of `LISTENERS`.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Listener {
    pub owner: Owner,
    /// Sockets listening here (`SO_REUSEPORT`).
    pub sockets: u64,
    /// 1 once a second cgroup listens here: then its children carry their owner in socket storage.
    pub shared: u64,
}
const _: () = assert!(size_of::<Listener>() == 56);

/// Value of `BOUND`, keyed by the socket's cookie (`u64`): a socket bound to a local port.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Bound {
    pub owner: Owner,
    /// Zero where bound to all addresses.
    pub address: Address,
    pub port: u16,
    pub protocol: Protocol,
    pub _reserved: [u8; 5],
}
const _: () = assert!(size_of::<Bound>() == 64);

/// Value of `ODD`, keyed by the socket's cookie (`u64`): a raw, ping, UDP-Lite or other unusual socket.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Odd {
    pub owner: Owner,
    pub netns_cookie: u64,
}
const _: () = assert!(size_of::<Odd>() == 48);

/// What a ring-buffer record is: its first field.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RecordKind {
    Flow = 1,
    CgroupCreated = 2,
    CgroupRemoved = 3,
}

/// Why a flow is told.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum News {
    /// Its key was entered into `SEEN`, or this came of a key there for the first time.
    Entered = 1,
    /// The other end's was: see [`Dialler::news`].
    OtherEnd = 2,
    /// Its key was new and not entered: one example of many beyond the budget of its [`Payer`].
    OverBudget = 3,
}

/// A flow.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FlowRecord {
    pub kind: RecordKind,
    pub news: News,
    pub at_ns: u64,
    /// The `first_seen_ns` of its key in `SEEN`: which entry that was. 0 where that was being written at
    /// this moment, and where none was entered.
    pub entered_ns: u64,
    pub key: FlowKey,
    pub origin: Origin,
}
const _: () = assert!(size_of::<FlowRecord>() == 144);

/// A cgroup of the version-2 hierarchy was created.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CgroupCreated {
    pub kind: RecordKind,
    /// Bytes of `path` that count, NUL left out; what follows them is arbitrary.
    pub path_bytes: u32,
    pub id: u64,
    pub path: [u8; CGROUP_PATH_BYTES],
}
const _: () = assert!(size_of::<CgroupCreated>() == 528);

/// A cgroup of the version-2 hierarchy was removed.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct CgroupRemoved {
    pub kind: RecordKind,
    pub _reserved: u32,
    pub id: u64,
}
const _: () = assert!(size_of::<CgroupRemoved>() == 16);

/// Why something was not told: the index into `LOST` (per-CPU `u64` counters).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Loss {
    /// The ring buffer had no room.
    RingFull = 0,
    /// A map refused an entry.
    MapFull = 1,
    /// A connection was accepted from a listening socket that is not known.
    Unattributed = 2,
    /// A connection was forgotten for another before it ended, or its key is no longer held when it
    /// does.
    Untracked = 3,
    /// An unusual socket was made in a cgroup whose packets are not looked at (yet).
    Unwatched = 4,
    /// A key was new and beyond the budget of its [`Payer`], whose [`Flood`] counts it too.
    OverBudget = 5,
    /// A message of DNS was not handed over: there was no room, its cgroup had more than its share, or it
    /// was longer than the longest of [`LOOKUP_ROOMS`].
    Unheard = 6,
}

impl Loss {
    pub const ALL: [Self; 7] = [
        Self::RingFull,
        Self::MapFull,
        Self::Unattributed,
        Self::Untracked,
        Self::Unwatched,
        Self::OverBudget,
        Self::Unheard,
    ];

    /// The index of its counter.
    #[must_use]
    pub const fn index(self) -> u32 {
        self as u32
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::format;

    use super::Outcome;

    #[test]
    fn what_comes_of_a_dial_has_a_counter_each() {
        for (slot, outcome) in Outcome::OF_DIALS.into_iter().enumerate() {
            assert_eq!(outcome.slot(), slot);
        }
        assert_eq!(Outcome::Sent.slot(), Outcome::Attempted.slot());
    }

    #[test]
    fn every_file_is_part_of_the_layout() {
        let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        for file in sources.read_dir().unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            let part = format!("digest(include_bytes!({name:?}))");
            assert!(include_str!("lib.rs").contains(&part), "{name} is not in LAYOUT");
        }
    }
}
