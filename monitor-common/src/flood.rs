//! What is noted of a cgroup that shows more that is new than its budget: how often it went beyond,
//! and a sketch of how many peers that were. The kernel fills it in, the agent reads it; how many
//! peers a sketch means is the agent's to say.

use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

use crate::Direction;
use crate::FlowKey;
use crate::RemoteKind;
use crate::hash::KeyedHash;

/// In this time a budget that was used up comes back whole, in nanoseconds.
pub const BUDGET_SPAN_NS: u64 = 4_000_000_000;

/// Registers of a sketch (HyperLogLog): the standard error is 1.04 over the root of their number.
pub const SKETCH_REGISTERS: usize = 1024;

/// Key of `BUDGETS` and `FLOODS`: who pays for what is new.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Payer {
    pub cgroup_id: u64,
    pub direction: Direction,
    /// What it is for, where that are no flows: 1 ports that are bound, 2 messages of DNS. Of those no flood
    /// is told.
    pub other: u8,
    pub _reserved: [u8; 6],
}
const _: () = assert!(size_of::<Payer>() == 16);

impl Payer {
    /// Who dials pays for both ends where both are on this machine: a flood that is dialled must not
    /// use up what the one who is dialled may show.
    #[inline(always)]
    #[must_use]
    pub const fn of(key: &FlowKey) -> Self {
        let dialled_here = matches!(key.remote_kind, RemoteKind::Cgroup);
        let (cgroup_id, direction) = if dialled_here {
            (key.remote.cgroup(), Direction::Outbound)
        } else {
            (key.cgroup_id, key.direction)
        };
        Self { cgroup_id, direction, other: 0, _reserved: [0; 6] }
    }

    /// Who binds a port pays for the room that it takes among those of others.
    #[inline(always)]
    #[must_use]
    pub const fn binding(cgroup_id: u64) -> Self {
        Self { cgroup_id, direction: Direction::Listening, other: 1, _reserved: [0; 6] }
    }

    /// Who asks for names pays for what it asks and is answered.
    #[inline(always)]
    #[must_use]
    pub const fn asking(cgroup_id: u64) -> Self {
        Self { cgroup_id, direction: Direction::Outbound, other: 2, _reserved: [0; 6] }
    }
}

/// Value of `BUDGETS`: what one payer may still show.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Budget {
    /// When it is whole again: each new key moves that on, and it lies no further ahead than
    /// [`BUDGET_SPAN_NS`].
    pub whole_ns: u64,
    /// New keys that cost nothing: the agent had as many forgotten, to hear of them again.
    pub credit: u64,
}
const _: () = assert!(size_of::<Budget>() == 16);

/// Value of `FLOODS`: what one payer showed beyond its budget.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Flood {
    pub first_ns: u64,
    pub last_ns: u64,
    /// Exact: every one that was neither entered nor told.
    pub count: u64,
    pub registers: [u8; SKETCH_REGISTERS],
}
const _: () = assert!(size_of::<Flood>() == 1048);

impl Flood {
    pub const NONE: Self =
        Self { first_ns: 0, last_ns: 0, count: 0, registers: [0; SKETCH_REGISTERS] };
}

/// The far end of a flow as a sketch counts it: address, port and protocol, by a keyed hash, so that
/// nobody can choose peers that count for few or for many.
#[inline(always)]
#[must_use]
pub fn peer_hash(seed: [u64; 2], key: &FlowKey) -> u64 {
    let [a, b, c, d] = key.remote.0.map(u64::from);
    let mut hash = KeyedHash::new(seed);
    hash.add(a | (b << 32));
    hash.add(c | (d << 32));
    hash.add(u64::from(key.port) | ((key.protocol as u64) << 16));
    hash.finish()
}

/// A socket and a far end (see [`crate::Address::words`]), and whatever else tells two such pairs apart.
#[inline(always)]
#[must_use]
pub const fn peer_note(seed: [u64; 2], cookie: u64, remote: [u64; 2], more: u64) -> u64 {
    let [high, low] = remote;
    let mut hash = KeyedHash::new(seed);
    hash.add(cookie);
    hash.add(high);
    hash.add(low);
    hash.add(more);
    hash.finish()
}

/// The register that a hash falls into, and the least that it is to hold.
#[inline(always)]
#[must_use]
pub const fn register_of(hash: u64) -> (usize, u8) {
    const MASK: u64 = SKETCH_REGISTERS as u64 - 1;
    let index = (hash & MASK) as usize;
    // What chose the register says nothing here: it is set, so that a first bit is always found.
    let rest = hash | MASK;
    let [zeros, ..] = rest.leading_zeros().to_le_bytes();
    (index, zeros + 1)
}
