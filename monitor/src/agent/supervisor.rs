//! Whoever started the agent as a service and asked to hear of it: systemd, by the socket it names in
//! the environment. Where nobody asked, nothing is said.

use std::time::Duration;

use sd_notify::NotifyState;

/// Tells of a change: it is ready, it stops.
pub(crate) fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "tell systemd about the agent");
    }
}

/// How often it wants to hear that the loop goes round: twice in the time after which it restarts an
/// agent that it has not heard of. None where it does not watch.
pub(crate) fn wants_to_hear_every() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|patience| patience / 2).filter(|every| !every.is_zero())
}
