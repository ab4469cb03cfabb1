//! What `SEEN` notes of a key: when it was seen, how often each thing came of it, what that carried, and
//! where it came from.

use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

use crate::Address;
use crate::Outcome;
use crate::Owner;
use crate::Process;
use crate::RTT_BUCKETS;

/// What is told of a flow's first sighting beside its key.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Origin {
    pub netns_cookie: u64,
    /// Of `process`; 0 where unknown.
    pub executable_id: u64,
    /// The client's own address; zero where it is not known.
    pub client: Address,
    pub process: Process,
    /// See [`Origin::ends`].
    pub ends: u64,
}
const _: () = assert!(size_of::<Origin>() == 64);

impl Origin {
    /// Of a process alone: it listens, or who its client is is not known yet.
    #[inline(always)]
    #[must_use]
    pub const fn without_client(owner: &Owner, netns_cookie: u64) -> Self {
        let (executable_id, process) = (owner.executable_id, owner.process);
        Self { netns_cookie, executable_id, process, ..Self::NONE }
    }

    const NONE: Self = Self {
        netns_cookie: 0,
        executable_id: 0,
        client: Address::ZERO,
        process: Process::UNKNOWN,
        ends: 0,
    };

    /// The client's own port, 0 where it is not known, and above it the cgroup that the socket was opened
    /// in, 0 where that is not known. In one word, and ids of cgroups
    /// are counted up from 1: the upper bits are free.
    #[inline(always)]
    #[must_use]
    pub const fn ends(client_port: u16, opener: u64) -> u64 {
        client_port as u64 | opener << 16
    }

    /// [`Origin::ends`] of a client's port, with the opener of another.
    #[inline(always)]
    #[must_use]
    pub const fn ends_of(client_ends: u64, opened: u64) -> u64 {
        (client_ends & 0xffff) | (opened & !0xffff)
    }

    #[must_use]
    pub const fn client_port(&self) -> u16 {
        let [low, high, ..] = self.ends.to_le_bytes();
        u16::from_le_bytes([low, high])
    }

    #[must_use]
    pub const fn opener(&self) -> u64 {
        self.ends >> 16
    }
}

/// Value of `SEEN`: counters since the key was entered, never reset.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FlowStats {
    /// Written last: 0 in an entry whose writer is still at it.
    pub first_seen_ns: u64,
    pub last_seen_ns: u64,
    /// Dials, accepts or datagrams, by what came of them: see [`Outcome::slot`]. What was not there
    /// before is news, and comes with an origin of its own, which is written before it is counted.
    pub counts: [u64; Outcome::SLOTS],
    /// Payload of closed connections; TCP only. The kernel counts each SYN and FIN as a byte; they
    /// are taken off, but for a connection that was cut off either may be one wrong.
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// Of what was news last.
    pub origin: Origin,
    pub rtt: [u32; RTT_BUCKETS],
}
const _: () = assert!(size_of::<FlowStats>() == 200);

impl FlowStats {
    /// What an entry starts from: all is to be filled in.
    pub const NONE: Self = Self {
        first_seen_ns: 0,
        last_seen_ns: 0,
        counts: [0; Outcome::SLOTS],
        bytes_sent: 0,
        bytes_received: 0,
        origin: Origin::NONE,
        rtt: [0; RTT_BUCKETS],
    };
}

#[cfg(test)]
mod tests {
    use super::Origin;

    #[test]
    fn an_origin_keeps_its_opener_beside_another_port() {
        let ends = Origin::ends_of(Origin::ends(80, 3), Origin::ends(0, 7));
        let origin = Origin { ends, ..Origin::NONE };
        assert_eq!((origin.client_port(), origin.opener()), (80, 7));
    }
}
