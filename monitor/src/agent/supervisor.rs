//! Whoever started the agent as a service and asked to hear of it: systemd, by the socket it names in
//! the environment. Where nobody asked, nothing is said.

use std::sync::LazyLock;

use sd_notify::NotifyState;

/// Whether the supervisor restarts an agent that it has not heard of for a while.
static WATCHES: LazyLock<bool> = LazyLock::new(|| sd_notify::watchdog_enabled().is_some());

/// Tells of a change: it is ready, it stops.
pub(crate) fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "tell systemd about the agent");
    }
}

/// Tells that the loop goes round.
pub(crate) fn lives() {
    if *WATCHES {
        tell(NotifyState::Watchdog);
    }
}
