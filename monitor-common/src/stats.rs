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
    /// When anything came of it or one of its connections was closed.
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
    /// When each thing came of it last, as [`came_at`] writes it: that a connection is closed does not
    /// count. Where it is 0, nothing came of it since it was entered by the agent.
    pub came: [u16; CAME_SLOTS],
}
const _: () = assert!(size_of::<FlowStats>() == 208);

/// Who gives up dialling and who has no way there share the last.
const CAME_SLOTS: usize = 4;

/// The place in [`FlowStats::came`] of what has this one in [`FlowStats::counts`].
#[inline(always)]
#[must_use]
pub const fn came_slot(slot: usize) -> usize {
    if slot < CAME_SLOTS { slot } else { CAME_SLOTS - 1 }
}

/// A time of the kernel's clock in milliseconds, about, which begin anew after 68 seconds; never 0.
#[inline(always)]
#[must_use]
pub const fn came_at(now_ns: u64) -> u16 {
    ((now_ns >> CAME_SHIFT) & 0xffff) as u16 | 1
}

/// A millisecond, of which the lowest bit is lost.
const CAME_SHIFT: u32 = 20;

/// What is later than the key was seen by less than a second is no minute before it.
const AHEAD: u16 = 1024;

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
        came: [0; CAME_SLOTS],
    };

    /// When this came of the key last, or two milliseconds later. Of what came longer ago than a minute
    /// before the key was last seen it says a moment within that minute.
    #[must_use]
    pub const fn came_ns(&self, outcome: Outcome) -> u64 {
        let came = self.came[came_slot(outcome.slot())];
        if came == 0 {
            return self.last_seen_ns;
        }
        // Hence so much before the key was seen last; that may be told by the tick, which lags behind.
        let ago = came_at(self.last_seen_ns).wrapping_sub(came);
        let ago = if ago > u16::MAX - AHEAD { 0 } else { ago.saturating_sub(2) };
        self.last_seen_ns.saturating_sub((ago as u64) << CAME_SHIFT)
    }
}

#[cfg(test)]
mod tests {
    use super::{FlowStats, Origin, came_at, came_slot};
    use crate::Outcome;

    #[test]
    fn it_is_known_when_each_thing_came_of_a_key() {
        const S: u64 = 1_000_000_000;
        for begun in [0, 7 * S, 33 * S, 68 * S, 1_000_000 * S] {
            let mut stats = FlowStats { last_seen_ns: begun + 60 * S, ..FlowStats::NONE };
            assert_eq!(stats.came_ns(Outcome::Refused), stats.last_seen_ns);
            stats.came[came_slot(Outcome::Refused.slot())] = came_at(begun + 30 * S);
            stats.came[came_slot(Outcome::Established.slot())] = came_at(stats.last_seen_ns);
            let came = |outcome| stats.came_ns(outcome);
            let late = came(Outcome::Refused).checked_sub(begun + 30 * S);
            assert!(late.is_some_and(|it| it <= 5_000_000), "{begun}: {late:?}");
            assert_eq!(came(Outcome::Established), stats.last_seen_ns);
            // It was closed at once, by a tick that lags behind.
            stats.last_seen_ns -= 9_000_000;
            let early = stats.last_seen_ns - stats.came_ns(Outcome::Established);
            assert!(early <= 10_000_000, "{begun}: {early}");
        }
    }

    #[test]
    fn an_origin_keeps_its_opener_beside_another_port() {
        let ends = Origin::ends_of(Origin::ends(80, 3), Origin::ends(0, 7));
        let origin = Origin { ends, ..Origin::NONE };
        assert_eq!((origin.client_port(), origin.opener()), (80, 7));
    }
}
