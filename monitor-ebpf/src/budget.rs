//! How much that is new one cgroup may show. Asked only where a key is not known, so what is known pays
//! nothing. What goes beyond is counted, sketched and told as a whole: it is neither entered nor told
//! one by one, and so takes no place from what others show.

use aya_ebpf::bindings::BPF_NOEXIST;
use monitor_common::{
    BUDGET_SPAN_NS, Budget, Flood, FlowKey, LOOKUP_BYTE_NS, LOOKUP_SPAN_NS, Loss, Payer, peer_hash,
    register_of,
};

use crate::count::add;
use crate::emit;
use crate::maps::{BUDGET_INTERVAL_NS, BUDGETS, EXECUTABLE_SEED, FLOODS};
use crate::words::Words;

/// Takes the price of one new key from whoever shows it; false where nothing is left. A call, for its room
/// on the stack.
#[inline(never)]
pub(crate) fn spend(key: &FlowKey, now_ns: u64) -> bool {
    take(&Words::of(Payer::of(key)), BUDGET_INTERVAL_NS.load(), BUDGET_SPAN_NS, now_ns)
}

/// The same for a port that is bound, a quarter as often: it takes room among those of others for as long
/// as theirs are not used.
#[inline(always)]
pub(crate) fn spend_on_bind(cgroup_id: u64, now_ns: u64) -> bool {
    let interval_ns = BUDGET_INTERVAL_NS.load() << 2;
    take(&Words::of(Payer::binding(cgroup_id)), interval_ns, BUDGET_SPAN_NS, now_ns)
}

/// The same for so many bytes of what is asked and answered: who asks without end hides what he himself is
/// answered, and leaves others their room.
#[inline(always)]
pub(crate) fn spend_on_lookup(cgroup_id: u64, bytes: u64, now_ns: u64) -> bool {
    let interval_ns = bytes * LOOKUP_BYTE_NS;
    take(&Words::of(Payer::asking(cgroup_id)), interval_ns, LOOKUP_SPAN_NS, now_ns)
}

/// The price is a time; within `span_ns` what was used up comes back whole. Two CPUs that ask at once may
/// both be let through.
#[inline(never)]
fn take(payer: &Payer, interval_ns: u64, span_ns: u64, now_ns: u64) -> bool {
    let Some(budget) = BUDGETS.get_ptr_mut(payer) else {
        let budget = Words::of(Budget { whole_ns: now_ns.wrapping_add(interval_ns), credit: 0 });
        // Another CPU was first, or there is no room: then it is not limited, and the ring is.
        _ = BUDGETS.insert(payer, &*budget, u64::from(BPF_NOEXIST));
        return true;
    };
    // SAFETY: a valid map value. Entries are recycled in place, so at worst another payer pays.
    unsafe {
        let credit = (&raw const (*budget).credit).read_volatile();
        if credit != 0 {
            // Not atomic: it must not pass zero.
            (&raw mut (*budget).credit).write_volatile(credit - 1);
            return true;
        }
        let whole_ns = &raw mut (*budget).whole_ns;
        if whole_ns.read_volatile() < now_ns {
            whole_ns.write_volatile(now_ns);
        }
        let ahead_ns = whole_ns.read_volatile().wrapping_sub(now_ns);
        let is_left = ahead_ns.wrapping_add(interval_ns) <= span_ns;
        if is_left {
            add(whole_ns, interval_ns);
        }
        is_left
    }
}

/// How many peers there were is sketched.
pub(crate) const SKETCHED: u8 = 1;
/// It is not, in programs that are as much as old kernels follow: an index that is not known when they are
/// loaded makes the verifier try every way there is, where CAP_PERFMON is missing.
pub(crate) const COUNTED: u8 = 0;

/// Counts a new key beyond the budget; whether to tell of it. Of each flood the first is told as an
/// example, the second, the fourth and so on: who floods is known at once, and a few of those it dials.
#[inline(never)]
pub(crate) fn overflow<const SKETCH: u8>(key: &FlowKey, now_ns: u64) -> bool {
    let payer = Words::of(Payer::of(key));
    if FLOODS.get_ptr(&*payer).is_none() {
        // Another CPU was first, or there is no room: it is looked for below.
        _ = FLOODS.insert(&*payer, &NONE, u64::from(BPF_NOEXIST));
    }
    let Some(flood) = FLOODS.get_ptr_mut(&*payer) else {
        emit::lost(Loss::MapFull);
        return false;
    };
    emit::lost(Loss::OverBudget);
    if SKETCH != 0 {
        let (index, least) = register_of(peer_hash(EXECUTABLE_SEED.load(), key));
        // SAFETY: a valid map value, `index` below the number of registers. Not atomic: two CPUs at one
        // register may leave it the lesser of both.
        unsafe {
            let register = (&raw mut (*flood).registers).cast::<u8>().add(index);
            if *register < least {
                *register = least;
            }
        }
    }
    // SAFETY: a valid map value.
    let before = unsafe {
        if (*flood).first_ns == 0 {
            (*flood).first_ns = now_ns;
        }
        (*flood).last_ns = now_ns;
        let before = (&raw const (*flood).count).read_volatile();
        add(&raw mut (*flood).count, 1);
        before
    };
    before & before.wrapping_add(1) == 0
}

/// Entered from read-only data: there is no room for it on the stack.
static NONE: Flood = Flood::NONE;
