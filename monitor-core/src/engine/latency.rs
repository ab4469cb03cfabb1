//! How long news take to come here: the newest few hundred, and their quantiles. Measures nothing
//! itself.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Microseconds; the newest last.
#[derive(Debug, Default)]
pub(crate) struct Latencies(VecDeque<u64>);

/// Microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latency {
    pub last: u64,
    pub p50: u64,
    pub p99: u64,
}

impl Latencies {
    const KEPT: usize = 512;

    pub(crate) fn add(&mut self, latency_us: u64) {
        if self.0.len() >= Self::KEPT {
            self.0.pop_front();
        }
        self.0.push_back(latency_us);
    }

    /// None where there was none yet.
    pub(crate) fn view(&self) -> Option<Latency> {
        let last = *self.0.back()?;
        let mut sorted: Vec<u64> = self.0.iter().copied().collect();
        sorted.sort_unstable();
        // The smallest that so many percent do not exceed.
        let quantile = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100) - 1];
        Some(Latency { last, p50: quantile(50), p99: quantile(99) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_told_by_their_quantiles() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.view(), None);
        (1..=1_000).rev().for_each(|latency_us| latencies.add(latency_us));
        assert_eq!(latencies.view(), Some(Latency { last: 1, p50: 256, p99: 507 }));
    }
}
