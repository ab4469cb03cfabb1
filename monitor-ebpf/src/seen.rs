//! Is it news? Looks up first and counts in place; only a miss costs more.

use core::hint::black_box;
use core::ops::Deref;

use aya_ebpf::bindings::BPF_NOEXIST;
use monitor_common::{
    FlowKey, FlowStats, Loss, News, Origin, Outcome, RTT_BUCKETS, came_at, came_slot,
};

pub(crate) use crate::time::{about_now_ns, now_ns};

use crate::budget;
use crate::count::{add, put};
use crate::emit;
use crate::emit::Why;
use crate::maps::SEEN;
use crate::words::Words;

#[inline(always)]
fn find(key: &FlowKey) -> Option<*mut FlowStats> {
    SEEN.get_ptr_mut(key)
}

/// Whether the key was told; counts nothing.
#[inline(always)]
pub(crate) fn is_known(key: &FlowKey) -> bool {
    find(key).is_some()
}

/// Counts one more of a known key; false where it is not known.
#[inline(always)]
pub(crate) fn count(key: &FlowKey, outcome: Outcome, now_ns: u64) -> bool {
    let Some(stats) = find(key) else {
        return false;
    };
    // SAFETY: the entry that was found.
    unsafe { count_in(stats, outcome, now_ns) };
    true
}

/// Counts one more in an entry.
///
/// # Safety
///
/// It is a valid map value. Entries are recycled in place, so at worst a key that was being forgotten at
/// this very moment lends its count to the next one.
#[inline(always)]
unsafe fn count_in(stats: *mut FlowStats, outcome: Outcome, now_ns: u64) {
    // SAFETY: the caller's. Each place is known when the program is loaded, see `one_of_pair`.
    unsafe {
        match outcome {
            Outcome::Established => count_at::<{ Outcome::Established.slot() }>(stats, now_ns),
            Outcome::Attempted | Outcome::Sent => {
                count_at::<{ Outcome::Attempted.slot() }>(stats, now_ns);
            }
            Outcome::Refused => count_at::<{ Outcome::Refused.slot() }>(stats, now_ns),
            Outcome::TimedOut => count_at::<{ Outcome::TimedOut.slot() }>(stats, now_ns),
            Outcome::Unreachable => count_at::<{ Outcome::Unreachable.slot() }>(stats, now_ns),
        }
        (*stats).last_seen_ns = now_ns;
    }
}

/// Counts one more in a slot, and takes note of when.
///
/// # Safety
///
/// As of [`count_in`]; there is such a slot.
#[inline(always)]
unsafe fn count_at<const SLOT: usize>(stats: *mut FlowStats, now_ns: u64) {
    // SAFETY: the caller's.
    unsafe {
        add((&raw mut (*stats).counts).cast::<u64>().add(SLOT), 1);
        put((&raw mut (*stats).came).cast::<u16>().add(came_slot(SLOT)), came_at(now_ns));
    }
}

/// How often that came of the key of an entry.
///
/// # Safety
///
/// As of [`count_in`].
#[inline(always)]
unsafe fn counted(stats: *const FlowStats, came: &Came) -> u64 {
    let mut counted = 0;
    let mut slot = 0;
    while slot < Outcome::SLOTS {
        // SAFETY: the caller's; `slot` is one of them.
        counted |= unsafe { (&raw const (*stats).counts[slot]).read() } & came.masks[slot];
        slot += 1;
    }
    counted
}

/// What came of a key.
pub(crate) struct Came {
    outcome: Outcome,
    /// All ones at its slot, else 0: no place in a map value may be known only when the program runs.
    masks: [u64; Outcome::SLOTS],
}

impl Came {
    /// What is known when the program is built.
    pub(crate) const ESTABLISHED: Self = Self::of(Outcome::Established);
    pub(crate) const ATTEMPTED: Self = Self::of(Outcome::Attempted);

    const fn of(outcome: Outcome) -> Self {
        let mut masks = [0; Outcome::SLOTS];
        masks[outcome.slot()] = u64::MAX;
        Self { outcome, masks }
    }

    /// A packet, which was sent, or is an attempt.
    #[inline(always)]
    pub(crate) const fn packet(outcome: Outcome) -> Self {
        Self { outcome, ..Self::ATTEMPTED }
    }

    /// One of those by which a dial fails.
    #[inline(always)]
    pub(crate) fn failed(outcome: Outcome) -> Self {
        let mut masks = [0; Outcome::SLOTS];
        let mut slot = Outcome::Refused.slot();
        while slot < Outcome::SLOTS {
            let differs = (slot ^ outcome.slot()) as u64;
            let here = (differs.wrapping_sub(1) & !differs) >> 63;
            // Out of the compiler's sight, or it would make a place of it.
            masks[slot] = black_box(0_u64.wrapping_sub(here));
            slot += 1;
        }
        Self { outcome, masks }
    }
}

/// What is known of a dial.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Dialled {
    /// One like it was established.
    Established,
    /// None was, but attempted: so is this one, and counted.
    Attempted,
    /// Neither, but what came of one is known.
    Otherwise,
    Never,
}

/// Counts a dial that is made, unless it is for what comes of it to say.
#[inline(always)]
pub(crate) fn dialled(key: &FlowKey) -> Dialled {
    let Some(stats) = find(key) else {
        return Dialled::Never;
    };
    // SAFETY: the entry that was found.
    unsafe {
        if counted(stats, &Came::ESTABLISHED) != 0 {
            return Dialled::Established;
        }
        if counted(stats, &Came::ATTEMPTED) == 0 {
            return Dialled::Otherwise;
        }
        count_in(stats, Outcome::Attempted, about_now_ns());
    }
    Dialled::Attempted
}

/// What became of a flow.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Sighted {
    Known,
    New,
    /// New, and neither entered nor told: whoever shows it shows too much. It is news again whenever it
    /// is seen again.
    OverBudget,
}

/// Counts what came of a key, and tells of it where the key is new or that is. Only then `told` is asked
/// for: the key where nobody else writes it, and the origin.
#[inline(always)]
pub(crate) fn observe<const SKETCH: u8, K: Deref<Target = FlowKey>>(
    (key, this): (&FlowKey, Came),
    told: impl FnOnce() -> (K, Origin),
) -> Sighted {
    let Some(stats) = find(key) else {
        let (key, origin) = told();
        return enter::<SKETCH>(&key, this.outcome, &Words::of(origin));
    };
    // SAFETY: the entry that was found.
    if unsafe { counted(stats, &this) } == 0 {
        let (key, origin) = told();
        came(stats, &key, this.outcome, &Words::of(origin));
        return Sighted::New;
    }
    // SAFETY: as above.
    unsafe { count_in(stats, this.outcome, about_now_ns()) };
    Sighted::Known
}

/// Counts and tells what comes of a known key for the first time. It costs no budget: there are few such
/// for a key. Where two CPUs are first, both tell, and the agent takes note of one.
#[inline(never)]
fn came(stats: *mut FlowStats, key: &FlowKey, outcome: Outcome, origin: &Origin) {
    let now_ns = now_ns();
    // SAFETY: a valid map value, as in `count_in`.
    let entered_ns = unsafe {
        // Before it is counted: what is counted can be told.
        let opened = (&raw const (*stats).origin.ends).read_volatile();
        (*stats).origin = *origin;
        (*stats).origin.ends = Origin::ends_of(origin.ends, opened);
        count_in(stats, outcome, now_ns);
        (&raw const (*stats).first_seen_ns).read_volatile()
    };
    emit::flow(Why::of(News::Entered, outcome), key, origin, entered_ns, now_ns);
}

/// Tells of a known flow once more, for the sake of the other end, which is new.
#[inline(always)]
pub(crate) fn repeat(key: &FlowKey, origin: &Origin) {
    emit::flow(Why::of(News::OtherEnd, key.outcome), key, origin, 0, now_ns());
}

/// Enters a key that was not known a moment ago, and tells of it, as far as the budget goes.
#[inline(never)]
pub(crate) fn enter<const SKETCH: u8>(key: &FlowKey, outcome: Outcome, origin: &Origin) -> Sighted {
    let now_ns = now_ns();
    let (mut news, mut entered_ns) = (News::Entered, now_ns);
    if !budget::spend(key, now_ns) {
        if !budget::overflow::<SKETCH>(key, now_ns) {
            return Sighted::OverBudget;
        }
        (news, entered_ns) = (News::OverBudget, 0);
    } else if SEEN.insert(key, &NONE, u64::from(BPF_NOEXIST)).is_err() {
        // Another CPU was first, or there is no room; what does not fit is told all the same.
        if let Some(stats) = find(key) {
            came(stats, key, outcome, origin);
            return Sighted::Known;
        }
        emit::lost(Loss::MapFull);
    } else if let Some(stats) = find(key) {
        // SAFETY: a valid map value, as in `count_in`.
        unsafe {
            (*stats).origin = *origin;
            count_in(stats, outcome, now_ns);
            (&raw mut (*stats).first_seen_ns).write_volatile(now_ns);
        }
    }
    emit::flow(Why::of(news, outcome), key, origin, entered_ns, now_ns);
    if matches!(news, News::OverBudget) { Sighted::OverBudget } else { Sighted::New }
}

/// Entered from read-only data and then filled in: there is no room for it on the stack.
static NONE: FlowStats = FlowStats::NONE;

/// What a closed connection carried.
pub(crate) struct Closed {
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
    pub(crate) rtt_us: u32,
}

/// Adds a closed connection to its key; false where the key is no longer held.
#[inline(always)]
pub(crate) fn close(key: &FlowKey, closed: &Closed, now_ns: u64) -> bool {
    let Some(stats) = SEEN.get_ptr_mut(key) else {
        return false;
    };
    let bucket = rtt_bucket(closed.rtt_us);
    // SAFETY: a valid map value, as in `count`; `bucket` is below `RTT_BUCKETS`.
    unsafe {
        add(&raw mut (*stats).bytes_sent, closed.bytes_sent);
        add(&raw mut (*stats).bytes_received, closed.bytes_received);
        let counters = (&raw mut (*stats).rtt).cast::<u64>();
        let mut pair = 0;
        while pair < RTT_BUCKETS / 2 {
            // Not atomic: two closes of one key at once on two CPUs may count as one in the histogram.
            *counters.add(pair) = (*counters.add(pair)).wrapping_add(one_of_pair(bucket, pair));
            pair += 1;
        }
        (*stats).last_seen_ns = now_ns;
    }
    true
}

/// One more in its half of the pair of buckets where `bucket` is, nothing in others. So each place is
/// known when the program is loaded: where one is not, and CAP_PERFMON is missing, the verifier tries
/// every way to it.
#[inline(always)]
const fn one_of_pair(bucket: usize, pair: usize) -> u64 {
    let differs = ((bucket >> 1) ^ pair) as u64;
    let here = (differs.wrapping_sub(1) & !differs) >> 63;
    let upper = bucket & 1;
    here << (upper << 5)
}

/// The bucket of a round-trip time: its power of two above 16 microseconds. Without a branch: the
/// verifier would follow each, and refuse an index made of several without CAP_PERFMON.
#[inline(always)]
fn rtt_bucket(rtt_us: u32) -> usize {
    let sixteenths = (rtt_us >> 4) | 1;
    let power = 31 - sixteenths.leading_zeros();
    // Above the last bucket (over half a second) the power of two has its fifth bit set.
    let beyond = 0_u32.wrapping_sub(power >> 4);
    ((power | beyond) as usize) & (RTT_BUCKETS - 1)
}
