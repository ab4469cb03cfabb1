//! What is handed over of a message of DNS: whose socket sent or got it, and with whom it thought it
//! spoke. What is in the message is the agent's to read.

use zerocopy::{Immutable, IntoBytes, KnownLayout, TryFromBytes};

use crate::Address;
use crate::Direction;
use crate::Protocol;

/// The port that names are asked for at.
pub const DNS_PORT: u16 = 53;

/// How much of one packet's payload a record has room for: as little of these as it fits into. Of a longer
/// one nothing is handed over.
pub const LOOKUP_ROOMS: [usize; 3] = [256, 1024, 4096];

/// What a byte of the ring costs who takes it, and in what time a budget that was used up comes back
/// whole, in nanoseconds: half of the ring at once, and a quarter of a megabyte a second.
pub const LOOKUP_BYTE_NS: u64 = 4_000;
pub const LOOKUP_SPAN_NS: u64 = (LOOKUP_RING_BYTES as u64 / 2) * LOOKUP_BYTE_NS;

/// The size of the ring.
pub const LOOKUP_RING_BYTES: u32 = 1 << 16;

/// Value of `ASKERS`: a socket that was last told to send to port 53.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Asker {
    /// Of whoever told it to.
    pub cgroup_id: u64,
    /// As it was told, before any translation.
    pub resolver: Address,
}
const _: () = assert!(size_of::<Asker>() == 24);

/// What a record of `LOOKUPS` begins with; the payload follows.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct LookupHead {
    pub at_ns: u64,
    /// The socket.
    pub cookie: u64,
    pub asker: Asker,
    /// The socket's own end; zero where it is bound to all addresses.
    pub own: Address,
    /// The packet's far end.
    pub far: Address,
    /// Of TCP: where in the stream the payload begins.
    pub sequence: u32,
    pub own_port: u16,
    pub far_port: u16,
    /// Bytes of the payload that count; what follows them is arbitrary.
    pub bytes: u16,
    /// Out of the socket, or into it.
    pub direction: Direction,
    pub protocol: Protocol,
    /// 1 where both ends of the packet have one address.
    pub same: u8,
    pub _reserved: [u8; 3],
}
const _: () = assert!(size_of::<LookupHead>() == 88);
