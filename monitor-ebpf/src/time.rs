//! What time it is. Reading the clock is the dearest thing that a hook does on a known edge, so what
//! need not be exact is reckoned from the kernel's tick, which costs nothing to read.

use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::helpers::generated::bpf_jiffies64;

use crate::maps::{self, TICK_NS, TICKS};

/// A tick, when it was, and the two added without carrying: what two CPUs left of each other is none.
#[repr(C)]
pub(crate) struct Tick {
    number: u64,
    at_ns: u64,
    sum: u64,
}

/// Now.
#[inline(always)]
pub(crate) fn now_ns() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_boot_ns() }
}

/// Now, give or take a tick (10 ms at most), and after a suspension up to a second.
#[inline(always)]
pub(crate) fn about_now_ns() -> u64 {
    let tick_ns = TICK_NS.load();
    // SAFETY: a helper without arguments.
    let number = unsafe { bpf_jiffies64() };
    let tick = maps::element((&raw const TICKS).cast(), 0).cast::<Tick>();
    // SAFETY: null, or a valid map value; torn writes are found out by the sum.
    let Some(tick) = (unsafe { tick.as_mut() }) else {
        return now_ns();
    };
    let since_ns = number.wrapping_sub(tick.number).wrapping_mul(tick_ns);
    if since_ns < SECOND_NS && tick_ns != 0 && tick.sum == tick.number ^ tick.at_ns {
        return tick.at_ns + since_ns;
    }
    let at_ns = now_ns();
    *tick = Tick { number, at_ns, sum: number ^ at_ns };
    at_ns
}

const SECOND_NS: u64 = 1_000_000_000;
