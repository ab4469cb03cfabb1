//! Is it news? Looks up first and counts in place; only a miss costs more.

use aya_ebpf::bindings::BPF_NOEXIST;
use monitor_common::{FlowKey, FlowStats, Loss, News, Origin, RTT_BUCKETS};

pub(crate) use crate::time::{about_now_ns, now_ns};

use crate::budget;
use crate::count::add;
use crate::emit;
use crate::maps::SEEN;
use crate::words::Words;

/// Whether the key was told; counts nothing.
#[inline(always)]
pub(crate) fn is_known(key: &FlowKey) -> bool {
    SEEN.get_ptr(key).is_some()
}

/// Counts one more of a known key; false where it is not known.
#[inline(always)]
pub(crate) fn count(key: &FlowKey, now_ns: u64) -> bool {
    let Some(stats) = SEEN.get_ptr_mut(key) else {
        return false;
    };
    // SAFETY: a valid map value. Entries are recycled in place, so at worst a key that was being
    // forgotten at this very moment lends its count to the next one.
    unsafe {
        add(&raw mut (*stats).connections, 1);
        (*stats).last_seen_ns = now_ns;
    }
    true
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

/// Counts a flow, and tells of it where its key is new; only then `origin` is asked for.
#[inline(always)]
pub(crate) fn observe<const SKETCH: u8>(
    key: &FlowKey,
    now_ns: u64,
    origin: impl FnOnce() -> Origin,
) -> Sighted {
    if count(key, now_ns) {
        return Sighted::Known;
    }
    enter::<SKETCH>(key, &Words::of(origin()), now_ns)
}

/// Tells of a known flow once more, for the sake of the other end, which is new.
#[inline(never)]
pub(crate) fn repeat(key: &FlowKey, origin: &Origin, now_ns: u64) {
    emit::flow(News::OtherEnd, key, origin, now_ns);
}

/// Enters a key that was not known a moment ago, and tells of it, as far as the budget goes.
#[inline(never)]
pub(crate) fn enter<const SKETCH: u8>(key: &FlowKey, origin: &Origin, now_ns: u64) -> Sighted {
    if !budget::spend(key, now_ns) {
        budget::overflow::<SKETCH>(key, origin, now_ns);
        return Sighted::OverBudget;
    }
    if SEEN.insert(key, &ONCE, u64::from(BPF_NOEXIST)).is_err() {
        // Another CPU was first, or there is no room; what does not fit is told all the same.
        if count(key, now_ns) {
            return Sighted::Known;
        }
        emit::lost(Loss::MapFull);
    } else if let Some(stats) = SEEN.get_ptr_mut(key) {
        // SAFETY: a valid map value, as in `count`.
        unsafe {
            (*stats).last_seen_ns = now_ns;
            (*stats).origin = *origin;
            (&raw mut (*stats).first_seen_ns).write_volatile(now_ns);
        }
    }
    emit::flow(News::Entered, key, origin, now_ns);
    Sighted::New
}

/// Entered from read-only data and then filled in: there is no room for it on the stack.
static ONCE: FlowStats = FlowStats::ONCE;

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
