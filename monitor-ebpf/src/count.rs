//! Counters that every CPU adds to.

/// Adds to a counter that others add to at the same time, on other CPUs or by interrupting this one.
///
/// # Safety
///
/// `counter` points into a map value.
#[inline(always)]
pub(crate) unsafe fn add(counter: *mut u64, more: u64) {
    // SAFETY: the caller's; the target lacks compare-and-swap, and with it `fetch_add`.
    #[cfg(target_arch = "bpf")]
    unsafe {
        core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) more);
    }
    // SAFETY: the caller's; only for the tools that check this crate on the host.
    #[cfg(not(target_arch = "bpf"))]
    unsafe {
        *counter += more;
    }
}
