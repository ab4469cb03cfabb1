//! Debug messages of the hooks, for those who work on them (feature `log`); else nothing at all.

#[cfg(feature = "log")]
macro_rules! note {
    ($ctx:expr, $($message:tt)*) => {
        aya_log_ebpf::debug!($ctx, $($message)*)
    };
}

#[cfg(not(feature = "log"))]
macro_rules! note {
    ($ctx:expr, $($message:tt)*) => {};
}

pub(crate) use note;
