//! What kernel programs say while somebody works on them (feature `kernel-log`): handed to the log.
//! Shipped builds have none of it.

#[cfg(feature = "kernel-log")]
pub(super) struct KernelLog(Box<dyn FnMut() + Send>);

#[cfg(feature = "kernel-log")]
impl KernelLog {
    pub(super) fn of(ebpf: &mut aya::Ebpf) -> Self {
        match aya_log::EbpfLogger::init(ebpf) {
            Ok(mut logger) => Self(Box::new(move || logger.flush())),
            Err(error) => {
                tracing::warn!(%error, "no kernel log");
                Self(Box::new(|| {}))
            }
        }
    }

    /// Hands over what was said.
    pub(super) fn flush(&mut self) {
        (self.0)();
    }
}

#[cfg(not(feature = "kernel-log"))]
pub(super) struct KernelLog;

#[cfg(not(feature = "kernel-log"))]
impl KernelLog {
    pub(super) fn of(_ebpf: &mut aya::Ebpf) -> Self {
        Self
    }

    pub(super) fn flush(&mut self) {}
}
