//! Memory that a burst has left: the allocator keeps it for the next one unless it is asked not to.

/// Gives the pages that nobody uses back to the machine. A walk over all that is free: not for every
/// step.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes no pointer and leaves what is in use alone; any thread may call it.
    let _given = unsafe { libc::malloc_trim(0) };
}
