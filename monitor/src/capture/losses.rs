//! What was not told, by reason: the kernel's counters and our own, told as differences.

use std::collections::BTreeMap;

use aya::maps::{MapData, PerCpuArray};
use monitor_core::flow::{Loss, Observation};

use crate::capture::decode;
use crate::capture::{Result, map_error};

/// The kernel's loss counters, and our own.
pub(super) struct Losses {
    map: PerCpuArray<MapData, u64>,
    /// What the kernel had counted when it was last asked.
    pub(super) before: Vec<u64>,
    untold: BTreeMap<Loss, u64>,
}

impl Losses {
    /// `told` is what an agent before this one told.
    pub(super) fn new(map: PerCpuArray<MapData, u64>, told: &[u64]) -> Self {
        let mut before = told.to_vec();
        before.resize(decode::losses().len(), 0);
        Self { map, before, untold: BTreeMap::new() }
    }

    pub(super) fn count(&mut self, loss: Loss, count: u64) {
        if count != 0 {
            *self.untold.entry(loss).or_default() += count;
        }
    }

    /// Takes in what the kernel lost since last time, and returns what it was.
    pub(super) fn read(&mut self) -> Result<Vec<Loss>> {
        let mut lost = Vec::new();
        for (position, (index, loss)) in decode::losses().into_iter().enumerate() {
            let total = self.total(index)?;
            let count = total.saturating_sub(self.before[position]);
            self.before[position] = total;
            if count != 0 {
                lost.push(loss);
                self.count(loss, count);
            }
        }
        Ok(lost)
    }

    /// Takes what the kernel counted so far for these reasons as nothing.
    pub(super) fn forget(&mut self, reasons: &[Loss]) -> Result<()> {
        for (position, (index, loss)) in decode::losses().into_iter().enumerate() {
            if reasons.contains(&loss) {
                self.before[position] = self.total(index)?;
            }
        }
        Ok(())
    }

    pub(super) fn total(&self, index: u32) -> Result<u64> {
        let counts = self.map.get(&index, 0);
        let counts = counts.map_err(|source| map_error(monitor_common::map::LOST, source))?;
        Ok(counts.iter().sum())
    }

    /// Tells all that was counted and not told.
    pub(super) fn tell(&mut self, out: &mut Vec<Observation>) {
        let untold = std::mem::take(&mut self.untold);
        out.extend(untold.into_iter().map(|(loss, count)| Observation::Lost { loss, count }));
    }
}
