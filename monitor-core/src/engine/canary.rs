//! The connection that the agent makes itself every so often: how long its news took, and that it is
//! missed. Its edge is never here: capture keeps it to itself.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::detect::Trouble;
use crate::engine::{Effect, Engine};
use crate::flow::{Canary, Half};
use crate::ids::{Now, WallTime};

/// What is known of the canaries so far.
#[derive(Debug, Default)]
pub(crate) struct Canaries {
    last: Option<WallTime>,
    /// From the dial to the engine, microseconds; the newest last.
    latencies_us: VecDeque<u64>,
    returned: u64,
    missing: Option<Half>,
    grounded: Option<String>,
}

/// The canary as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CanaryView {
    /// When the last one came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<WallTime>,
    /// How many did.
    pub returned: u64,
    /// From the dial to the engine: the last one, and the last few hundred of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<Latency>,
    /// Of the newest one this was not seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<Half>,
    /// Why there is none here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grounded: Option<String>,
}

/// Microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    pub last: u64,
    pub p50: u64,
    pub p99: u64,
}

impl Canaries {
    /// Latencies remembered.
    const KEPT: usize = 512;

    /// None where nothing is known of any.
    pub(crate) fn view(&self) -> Option<CanaryView> {
        let known = self.last.is_some() || self.missing.is_some() || self.grounded.is_some();
        known.then(|| CanaryView {
            at: self.last,
            returned: self.returned,
            latency_us: self.latency(),
            missing: self.missing,
            grounded: self.grounded.clone(),
        })
    }

    fn latency(&self) -> Option<Latency> {
        let last = *self.latencies_us.back()?;
        let mut sorted: Vec<u64> = self.latencies_us.iter().copied().collect();
        sorted.sort_unstable();
        // The smallest that so many percent do not exceed.
        let quantile = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100) - 1];
        Some(Latency { last, p50: quantile(50), p99: quantile(99) })
    }

    fn came_back(&mut self, now: Now, latency_us: u64) {
        self.last = Some(now.wall);
        self.returned += 1;
        self.grounded = None;
        if self.latencies_us.len() >= Self::KEPT {
            self.latencies_us.pop_front();
        }
        self.latencies_us.push_back(latency_us);
    }
}

impl Engine {
    /// Says once that it is missed, and once that it is back.
    pub(crate) fn canary(&mut self, now: Now, canary: Canary, effects: &mut Vec<Effect>) {
        match canary {
            Canary::Returned { dialled } => {
                let latency_us = now.boot.0.saturating_sub(dialled.0) / 1_000;
                self.canaries.came_back(now, latency_us);
                if self.canaries.missing.take().is_some() {
                    self.mended(now, Trouble::is_about_canary, effects);
                }
            }
            Canary::Missing { half } => {
                self.canaries.grounded = None;
                if self.canaries.missing.replace(half).is_none() {
                    self.trouble(now, &Trouble::Canary { half });
                }
            }
            Canary::Grounded { why } => self.canaries.grounded = Some(why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::BootTime;

    #[test]
    fn latencies_are_told_by_their_quantiles() {
        let mut canaries = Canaries::default();
        assert_eq!(canaries.view(), None);
        let now = Now { boot: BootTime(0), wall: WallTime(5) };
        for latency_us in (1..=1_000).rev() {
            canaries.came_back(now, latency_us);
        }
        let view = canaries.view().unwrap();
        assert_eq!((view.at, view.returned), (Some(now.wall), 1_000));
        assert_eq!(view.latency_us, Some(Latency { last: 1, p50: 256, p99: 507 }));
    }
}
