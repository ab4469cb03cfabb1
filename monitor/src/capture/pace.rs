//! When something that costs may be done again because somebody asks for it: so seldom that it takes a
//! small part of the time, however often it is asked for.

use std::time::{Duration, Instant};

/// When it was done last, and how long that took.
#[derive(Debug, Default)]
pub(super) struct Pace {
    last: Option<(Instant, Duration)>,
}

impl Pace {
    /// At least so often, where it is asked for.
    const EVERY: Duration = Duration::from_secs(1);
    /// What is done in no time is done more often: it takes at most a tenth of the time.
    const SHARE: u32 = 10;

    pub(super) fn is_due(&self) -> bool {
        self.last.is_none_or(|(ended, took)| {
            ended.elapsed() >= took.saturating_mul(Self::SHARE).min(Self::EVERY)
        })
    }

    /// As if it had been done just now, and had taken that long.
    #[cfg(test)]
    pub(super) fn took(took: Duration) -> Self {
        Self { last: Some((Instant::now(), took)) }
    }

    /// Does it, and notes how long it took.
    pub(super) fn timed<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let done = work();
        self.did(started);
        done
    }

    /// Notes that it was done from then on until now.
    pub(super) fn did(&mut self, started: Instant) {
        self.last = Some((Instant::now(), started.elapsed()));
    }
}
