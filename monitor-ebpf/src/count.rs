//! Counters that every CPU adds to, and what else is written at one place of several.

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

/// Writes a number, of which the compiler must not know that it is written to another place elsewhere: it
/// would reckon the place while the program runs, which kernels refuse where pointers may not leak.
///
/// # Safety
///
/// `place` points into a map value.
#[inline(always)]
pub(crate) unsafe fn put(place: *mut u16, number: u16) {
    // SAFETY: the caller's.
    #[cfg(target_arch = "bpf")]
    unsafe {
        let number = u64::from(number);
        core::arch::asm!("*(u16 *)({0} + 0) = {1}", in(reg) place, in(reg) number);
    }
    // SAFETY: the caller's; only for the tools that check this crate on the host.
    #[cfg(not(target_arch = "bpf"))]
    unsafe {
        *place = number;
    }
}
