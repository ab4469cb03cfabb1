//! When the ring is looked into next without being woken: soon after the first news, for what belongs
//! to it is a moment behind; less often while news keep coming; and no more once it is quiet. Knows
//! nothing of what is in it.

use std::time::Duration;

use tokio::time::Instant;

/// The rounds after a wake.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// None where the kernel is waited for.
    next: Option<Instant>,
    /// In a row.
    with_news: u32,
    without: u32,
}

impl Rounds {
    /// The kernel wakes nobody within [`monitor_common::WAKE_INTERVAL_NS`] of the last wake: what came
    /// in that time is found by a round. Less than that, for the runtime's clock goes by whole
    /// milliseconds, and is late by up to one: what waits for a round is to be here within that time.
    const EVERY: Duration = Duration::from_nanos(monitor_common::WAKE_INTERVAL_NS - 2_000_000);
    const FIRST: Duration = Duration::from_millis(1);
    /// So many without news, and the kernel will wake again: together they take longer than the time in
    /// which it does not.
    const QUIET: u32 = 3;

    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// There was news.
    pub(super) fn news(&mut self, now: Instant) {
        let doublings = self.with_news.min(8);
        self.with_news += 1;
        self.without = 0;
        self.next = Some(now + Self::EVERY.min(Self::FIRST * (1 << doublings)));
    }

    /// There was none.
    pub(super) fn silence(&mut self, now: Instant) {
        self.without += 1;
        if self.next.is_none() || self.without >= Self::QUIET {
            *self = Self::default();
        } else {
            self.next = Some(now + Self::EVERY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_the_last_news_it_is_looked_for_longer_than_the_kernel_keeps_quiet() {
        let interval = Duration::from_nanos(monitor_common::WAKE_INTERVAL_NS);
        for news in 1..20_u32 {
            let (mut rounds, mut now) = (Rounds::default(), Instant::now());
            let mut last = now;
            for _ in 0..news {
                rounds.news(now);
                let next = rounds.next().unwrap();
                assert!(next > now && next <= now + interval, "no news waits longer");
                (last, now) = (now, next);
            }
            while let Some(next) = rounds.next() {
                now = next;
                rounds.silence(now);
            }
            assert!(now - last > interval, "{news}: {:?}", now - last);
        }
    }

    #[test]
    fn the_first_round_comes_soon_and_a_look_at_rest_begins_none() {
        let (mut rounds, now) = (Rounds::default(), Instant::now());
        rounds.silence(now);
        assert_eq!(rounds.next(), None);
        rounds.news(now);
        assert_eq!(rounds.next(), Some(now + Rounds::FIRST));
        rounds.news(now);
        rounds.news(now);
        rounds.news(now);
        assert_eq!(rounds.next(), Some(now + Rounds::EVERY));
    }
}
