//! The one way out: put a record into the ring, or count why not. It decides when the agent is
//! woken, and nothing else.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{
    BPF_RB_AVAIL_DATA, BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP, BPF_RB_RING_SIZE,
};
use monitor_common::{
    CgroupCreated, CgroupRemoved, FlowKey, FlowRecord, Loss, News, Origin, Outcome, RecordKind,
    WAKE_INTERVAL_NS,
};

use crate::count::add;
use crate::maps::{self, EVENTS, LOST, WOKEN};

/// Why a flow is told, and what came of it: in one word, since there is room for five.
#[derive(Clone, Copy)]
pub(crate) struct Why(u64);

impl Why {
    #[inline(always)]
    pub(crate) const fn of(news: News, outcome: Outcome) -> Self {
        Self(news as u64 | ((outcome as u64) << 32))
    }
}

/// Tells of a flow: of `key`, which was entered at `entered_ns`. A call, for its room on the stack.
#[inline(never)]
pub(crate) fn flow(why: Why, key: &FlowKey, origin: &Origin, entered_ns: u64, now_ns: u64) {
    let Some(mut record) = EVENTS.reserve::<FlowRecord>(0) else {
        return lost(Loss::RingFull);
    };
    let told = MaybeUninit::as_mut_ptr(&mut record);
    // SAFETY: `told` points to the reserved record, which nobody else sees before it is submitted; `why`
    // was made of what these two are. In place: on its way the key would be taken apart on the stack.
    unsafe {
        (&raw mut (*told).kind).write(RecordKind::Flow);
        (&raw mut (*told).news).cast::<u32>().write(why.0 as u32);
        (&raw mut (*told).at_ns).write(now_ns);
        (&raw mut (*told).entered_ns).write(entered_ns);
        (&raw mut (*told).key).write(*key);
        (&raw mut (*told).key.outcome).cast::<u8>().write_volatile((why.0 >> 32) as u8);
        (&raw mut (*told).origin).write(*origin);
    }
    record.submit(wake(OF_EVENTS, now_ns));
}

/// Tells of a new cgroup; `fill` writes its path in place and returns how long it is.
#[inline(always)]
pub(crate) fn cgroup_created(id: u64, now_ns: u64, fill: impl FnOnce(*mut CgroupCreated) -> u32) {
    if is_half_full() {
        return lost(Loss::RingFull);
    }
    let Some(mut record) = EVENTS.reserve::<CgroupCreated>(0) else {
        return lost(Loss::RingFull);
    };
    let created = MaybeUninit::as_mut_ptr(&mut record);
    let path_bytes = fill(created);
    // SAFETY: `created` points to the reserved record, which nobody else sees before it is submitted.
    unsafe {
        (&raw mut (*created).kind).write(RecordKind::CgroupCreated);
        (&raw mut (*created).path_bytes).write(path_bytes);
        (&raw mut (*created).id).write(id);
    }
    record.submit(wake(OF_EVENTS, now_ns));
}

/// Tells that a cgroup is gone.
#[inline(always)]
pub(crate) fn cgroup_removed(id: u64, now_ns: u64) {
    if is_half_full() {
        return lost(Loss::RingFull);
    }
    let Some(mut record) = EVENTS.reserve::<CgroupRemoved>(0) else {
        return lost(Loss::RingFull);
    };
    record.write(CgroupRemoved { kind: RecordKind::CgroupRemoved, _reserved: 0, id });
    record.submit(wake(OF_EVENTS, now_ns));
}

/// No budget limits how many cgroups somebody makes, and their records are large: half of the ring is
/// for flows alone.
#[inline(always)]
fn is_half_full() -> bool {
    let unread = EVENTS.query(u64::from(BPF_RB_AVAIL_DATA));
    unread > EVENTS.query(u64::from(BPF_RB_RING_SIZE)) >> 1
}

/// The rings, as `WOKEN` has them.
const OF_EVENTS: u32 = 0;
pub(crate) const OF_LOOKUPS: u32 = 1;

/// Counts one thing that could not be told.
#[inline(always)]
pub(crate) fn lost(loss: Loss) {
    let count = maps::element((&raw const LOST).cast(), loss.index()).cast::<u64>();
    if !count.is_null() {
        // SAFETY: a valid map value of this CPU, on which another hook may interrupt this one.
        unsafe { add(count, 1) };
    }
}

/// A wake costs the traced program far more than all else here, so there is one at most every
/// [`WAKE_INTERVAL_NS`] for each ring: once woken, the agent drains on its own for longer than that.
#[inline(always)]
pub(crate) fn wake(ring: u32, now_ns: u64) -> u64 {
    let woken_ns = maps::element((&raw const WOKEN).cast(), ring).cast::<u64>();
    // SAFETY: null, or a valid map value; a torn or lost write costs a wake too many.
    if let Some(woken_ns) = unsafe { woken_ns.as_mut() } {
        if now_ns.wrapping_sub(*woken_ns) < WAKE_INTERVAL_NS {
            return u64::from(BPF_RB_NO_WAKEUP);
        }
        *woken_ns = now_ns;
    }
    u64::from(BPF_RB_FORCE_WAKEUP)
}
