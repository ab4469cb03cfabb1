//! What the kernel does not say by itself, asked for every so often: what known keys did, which keys
//! it has forgotten, and what was lost. Told part by part, so that what is made of it is never as large
//! as the whole.

use monitor_core::flow::{KeyId, Loss, Observation};

use crate::capture::batch::SeenBatch;
use crate::capture::clock::Clock;
use crate::capture::namespaces;
use crate::capture::tell::Teller;
use crate::capture::unusual::Sought;
use crate::capture::{Capture, Result};

/// A sweep under way; see [`Capture::begin_sweep`].
pub struct Sweep(Option<UnderWay>);

impl Sweep {
    /// Whether all was told.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        self.0.is_none()
    }
}

struct UnderWay {
    batch: SeenBatch,
    accepts: Accepts,
}

/// Whether every connection accepted since the last sweep had an owner, and every bound port was noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accepts {
    AllAttributed,
    SomeUnattributed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    OneOfMore,
    Last,
}

impl Capture {
    /// Asks the kernel what known keys did, which it has forgotten, and what was lost. Call it every
    /// ten seconds or so. Only of keys that `counts` picks it is told what they did: of one that has no
    /// edge yet nobody could count it, so that it is told the next time.
    pub fn sweep(&mut self, counts: impl Fn(KeyId) -> bool) -> Result<Vec<Observation>> {
        let mut sweep = self.begin_sweep()?;
        let mut all = Vec::new();
        while let Some(mut part) = self.sweep_on(&mut sweep, &counts)? {
            all.append(&mut part);
        }
        Ok(all)
    }

    /// Begins a [`Capture::sweep`] that is taken in part by part, each before the next is asked for.
    pub fn begin_sweep(&mut self) -> Result<Sweep> {
        while self.hear()? {}
        Ok(Sweep(Some(self.teller.begin_sweep()?)))
    }

    /// The next part of a sweep; None where all was told.
    pub fn sweep_on(
        &mut self,
        sweep: &mut Sweep,
        counts: impl Fn(KeyId) -> bool,
    ) -> Result<Option<Vec<Observation>>> {
        let Some(under_way) = &mut sweep.0 else { return Ok(None) };
        if self.teller.sweep_on(&mut under_way.batch, counts)? == Part::Last {
            let accepts = under_way.accepts;
            sweep.0 = None;
            self.end_sweep(accepts);
        }
        self.look_at_packets();
        self.look_for_servers();
        Ok(Some(self.teller.take()))
    }

    fn end_sweep(&mut self, accepts: Accepts) {
        if accepts == Accepts::SomeUnattributed {
            self.older.enter_again(&mut self.teller);
        }
        self.older.tell_listeners(&mut self.teller);
        if let Some(kept) = &mut self.kept {
            kept.told(self.teller.told_losses());
        }
        if self.polled {
            self.teller.unusual(Sought::Packets, &self.watched);
        }
    }
}

impl Teller {
    /// Sweeps between two looks for addresses that changed.
    const SWEEPS_PER_SURVEY: u32 = 6;
    /// So much, or a little more, is told at once.
    const PART: usize = 4096;

    fn begin_sweep(&mut self) -> Result<UnderWay> {
        self.clock = Clock::read();
        let lost = self.losses.read()?;
        if lost.contains(&Loss::RingFull) || self.cgroups.are_looked_for() {
            self.cgroups.walk(&mut self.pending);
        }
        self.sweeps = self.sweeps.wrapping_add(1);
        if self.sweeps.is_multiple_of(Self::SWEEPS_PER_SURVEY) {
            for namespace in namespaces::survey_addresses() {
                self.addresses(namespace.0, namespace.1);
            }
        }
        self.told.begin_round();
        let unknown = |it: &Loss| matches!(it, Loss::Unattributed | Loss::MapFull);
        let accepts = if lost.iter().any(unknown) {
            Accepts::SomeUnattributed
        } else {
            Accepts::AllAttributed
        };
        Ok(UnderWay { batch: SeenBatch::new(), accepts })
    }

    fn sweep_on(&mut self, batch: &mut SeenBatch, counts: impl Fn(KeyId) -> bool) -> Result<Part> {
        while self.pending.len() < Self::PART {
            if !self.read_batch(batch, &counts)? {
                self.told.end_round(self.clock, &mut self.pending);
                self.losses.count(Loss::Evicted, self.told.take_evicted());
                self.losses.tell(&mut self.pending);
                return Ok(Part::Last);
            }
        }
        Ok(Part::OneOfMore)
    }
}
