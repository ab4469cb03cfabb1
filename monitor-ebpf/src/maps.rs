//! Every map and every setting: who writes it, who reads it, what happens when it is full. The
//! sizes here are the least that make sense; the agent sets the real ones when it loads.

use core::ffi::c_void;
use core::ptr;

use aya_ebpf::Global;
use aya_ebpf::helpers::generated::bpf_map_lookup_elem;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf};
use monitor_common::{
    Address, Asker, Bound, Budget, Dials, Executable, Flood, FlowKey, FlowStats, Followed,
    LOOKUP_RING_BYTES, Lineage, ListenKey, Listener, Loss, Odd, Opened, Owner, Payer, STACK_FRAMES,
};

use crate::time::Tick;
use crate::words::Words;

/// What was told, and its counters. Written by every hook that sees a flow, and by the agent for
/// listeners, which begin once; swept, and told again by deletion, by the agent. Full: the longest
/// unused is forgotten, hence told again when seen.
#[map]
pub(crate) static SEEN: LruHashMap<FlowKey, FlowStats> = LruHashMap::with_max_entries(1024, 0);

/// What each payer may still show. Written and read by `budget`, and credited by the agent for keys that
/// it has forgotten. Full: the longest unused is forgotten, hence whole.
#[map]
pub(crate) static BUDGETS: LruHashMap<Payer, Budget> = LruHashMap::with_max_entries(1024, 0);

/// What was new beyond a budget. Written by `budget`, read by the agent, and removed by it once a flood
/// is over. Full: `MapFull`. Never LRU: its counts are exact.
#[map]
pub(crate) static FLOODS: HashMap<Payer, Flood> = HashMap::with_max_entries(128, 0);

/// TCP connections under way, in slots by socket cookie. Written when dialled or accepted, read and
/// freed when closed. Full: one of those whose slots are the same is forgotten, and counted as
/// `Untracked`.
#[map]
pub(crate) static SOCKETS: Array<Followed> = Array::with_max_entries(1024, 0);

/// Who listens where (TCP). Written at listen, and by the agent for listeners older than itself;
/// read at accept, and by the agent for those that `SEEN` forgot; removed when the last of them
/// closes. Full: the socket carries its owner in `OWNERS`, which is dearer at every accept; what is
/// accepted at one that is older than the agent is `Unattributed`. Never LRU: an idle listener must
/// keep its owner.
#[map]
pub(crate) static LISTENERS: HashMap<ListenKey, Listener> = HashMap::with_max_entries(1024, 0);

/// Sockets bound to a local port, by cookie. Written at bind, and by the agent for sockets older
/// than itself; read at listen and for datagrams. Full: the longest unused is forgotten: its
/// datagrams then pass for a client's, until the agent enters it again. What one cgroup binds is
/// limited (`budget`): beyond it `MapFull`.
#[map]
pub(crate) static BOUND: LruHashMap<u64, Bound> = LruHashMap::with_max_entries(1024, 0);

/// Unusual sockets, by cookie: who made them. Written when made, read for what they send. Full: the
/// longest unused is forgotten, and of what it sends only the cgroup is known.
#[map]
pub(crate) static ODD: LruHashMap<u64, Odd> = LruHashMap::with_max_entries(1024, 0);

/// Cgroups whose packets are looked at. Written by the agent once `net` is attached there; read when an
/// unusual socket is made. Full: never, the agent attaches no more.
#[map]
pub(crate) static NETS: HashMap<u64, u8> = HashMap::with_max_entries(256, 0);

/// Threads whose stacks are wanted, by thread id: the agent's own, while it learns where sockets are
/// made. Entered by the agent, written when they ask for a capability.
#[map]
pub(crate) static TRIED: HashMap<u32, [u64; STACK_FRAMES]> = HashMap::with_max_entries(8, 0);

/// Return addresses by [`monitor_common::Maker`]. Written by the agent, read when somebody asks for a
/// capability.
#[map]
pub(crate) static MAKERS: Array<u64> = Array::with_max_entries(2, 0);

/// Who dialled from where, in sets by the client's end. Written when dialled, read at accept. Full:
/// the oldest of the set is forgotten; it matters only in the moment before the accept, whose far end
/// then is an address.
#[map]
pub(crate) static DIALS: Array<Dials> = Array::with_max_entries(32, 0);

/// With whom a bound port exchanges datagrams, by a hash of its owner, the far end and who began: a
/// client that asked of late, to whom alone is what is sent an answer; or a far end that was sent a
/// request beyond a budget, whose answer is nothing new. With what kind of far end it is. Written and read
/// by `datagram`. Full: the longest unused is forgotten, and an answer passes for a beginning.
#[map]
pub(crate) static ASKED: LruHashMap<u64, u64> = LruHashMap::with_max_entries(1024, 0);

/// In which cgroup sockets were opened, by socket cookie. Written when made, in full detail, and read when
/// they dial or send what is new. Full: whoever stood there is forgotten, and asked for by the agent.
#[map]
pub(crate) static OPENERS: Array<Opened> = Array::with_max_entries(2, 0);

/// The internal networks. Written by the agent before anything is attached, read for inbound flows.
#[map]
pub(crate) static INTERNAL: LpmTrie<Address, u8> = LpmTrie::with_max_entries(1024, 0);

/// Process (thread-group) id to what it runs and who started it. Written at exec and fork, and by the
/// agent for processes older than itself; read at every dial, and by the agent for ancestors, which
/// may be gone. Full: the longest unused becomes unknown (0).
#[map]
pub(crate) static PROCESSES: LruHashMap<u32, Lineage> = LruHashMap::with_max_entries(1024, 0);

/// Executable id to path as it was started, and under which shell. Written at exec, and by the agent
/// for processes older than itself that a shell started; read at exec for whether it is there, and by
/// the agent, who names by it what a flow's processes run or ran. Full: the longest unused is
/// forgotten.
#[map]
pub(crate) static EXECUTABLE_PATHS: LruHashMap<u64, Executable> =
    LruHashMap::with_max_entries(1024, 0);

/// Things not told, by [`Loss`]. Written where they happen, read by the agent.
#[map]
pub(crate) static LOST: PerCpuArray<u64> = PerCpuArray::with_max_entries(Loss::ALL.len() as u32, 0);

/// News, for the agent. Full: `RingFull`; a flow is then found by the sweep of `SEEN`, a cgroup by
/// a walk of the tree.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// What is asked of resolvers and answered, for the agent. Full: `Unheard`. Apart from `EVENTS`, so that it
/// takes no place from flows.
#[map]
pub(crate) static LOOKUPS: RingBuf = RingBuf::with_byte_size(LOOKUP_RING_BYTES, 0);

/// When the agent was last woken for each ring. Written and read by `emit` alone, without a lock: two
/// hooks that meet here wake it twice.
#[map]
pub(crate) static WOKEN: Array<u64> = Array::with_max_entries(2, 0);

/// A tick and its time. Written and read by `time` alone, about once a second.
#[map]
pub(crate) static TICKS: Array<Tick> = Array::with_max_entries(1, 0);

/// The owner of a listening socket whose address another cgroup listens at too, or that found no room
/// in `LISTENERS`; the kernel hands it on to every socket accepted from it. Laid by hand: it needs a flag that `SkStorage` lacks.
#[repr(C)]
pub(crate) struct OwnerStorage {
    r#type: *const [i32; SK_STORAGE],
    key: *const i32,
    value: *const Owner,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; NO_PREALLOC_AND_CLONE],
}

/// Sockets that were told to send to a resolver. Written when they dial or send, read for their packets;
/// gone with the socket. Where the kernel has no room for it: `Unheard`. Laid by hand as `OWNERS`.
#[repr(C)]
pub(crate) struct AskerStorage {
    r#type: *const [i32; SK_STORAGE],
    key: *const i32,
    value: *const Asker,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; NO_PREALLOC],
}

// SAFETY: as of `OwnerStorage`.
unsafe impl Sync for AskerStorage {}

#[unsafe(link_section = ".maps")]
#[unsafe(no_mangle)]
pub(crate) static ASKERS: AskerStorage = AskerStorage {
    r#type: ptr::null(),
    key: ptr::null(),
    value: ptr::null(),
    max_entries: ptr::null(),
    map_flags: ptr::null(),
};

const SK_STORAGE: usize = 24;
const NO_PREALLOC: usize = 0x1;
const NO_PREALLOC_AND_CLONE: usize = 0x1 | 0x200;

// SAFETY: its pointers are types written down for the loader; nobody follows them.
unsafe impl Sync for OwnerStorage {}

#[unsafe(link_section = ".maps")]
#[unsafe(no_mangle)]
pub(crate) static OWNERS: OwnerStorage = OwnerStorage {
    r#type: ptr::null(),
    key: ptr::null(),
    value: ptr::null(),
    max_entries: ptr::null(),
    map_flags: ptr::null(),
};

/// See `monitor_common::global`. The verifier removes what a setting rules out, but where the loader
/// lacks CAP_PERFMON it still looks at it: what a kernel does not know at all needs another program.
#[unsafe(no_mangle)]
pub(crate) static EXECUTABLE_SEED: Global<[u64; 2]> = Global::new([0; 2]);
#[unsafe(no_mangle)]
pub(crate) static COMMAND_IN_CGROUP: Global<u8> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static NETNS_IN_SOCK_OPS: Global<u8> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static BUDGET_INTERVAL_NS: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static FULL: Global<u8> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static DNS: Global<u8> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static WATCHED: Global<[u64; 2]> = Global::new([0; 2]);
#[unsafe(no_mangle)]
pub(crate) static SOCKET_BITS: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static DIALS_BITS: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static TICK_NS: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
pub(crate) static FORK_CHILD_PID_AT: Global<u32> = Global::new(0);

/// An element of an array, by an index that stands on the stack as a whole word; null beyond its end.
#[inline(always)]
pub(crate) fn element(map: *const c_void, index: u32) -> *mut c_void {
    let index = Words::of(u64::from(index));
    // SAFETY: `map` is an array; of the index it reads the lower half, which comes first.
    unsafe { bpf_map_lookup_elem(map.cast_mut(), (&raw const *index).cast()) }
}
