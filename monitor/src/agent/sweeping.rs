//! The sweep of the kernel's tables, part by part: what else there is to do is done between them, so that
//! nobody waits for all of a large table who asks for nothing of it. What a part tells is `capture`'s.

use anyhow::Context as _;

use crate::agent::Agent;
use crate::capture::Sweep;
use crate::serve::Request;

/// The sweep under way, and who waits for one.
#[derive(Default)]
pub(crate) struct Sweeping {
    under_way: Option<Sweep>,
    /// Answered when it ends.
    asked: Vec<Request>,
    /// Asked while it was under way, when some counters were read already: answered by the next.
    asked_since: Vec<Request>,
}

impl Sweeping {
    pub(crate) const fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }
}

impl Agent {
    /// Begins a sweep, where none is under way, with its first part: most often there is no other.
    pub(crate) fn begin_sweep(&mut self) -> anyhow::Result<()> {
        if self.sweeping.is_under_way() {
            return Ok(());
        }
        let Sweeping { asked, asked_since, .. } = &mut self.sweeping;
        asked.append(asked_since);
        let sweep = self.capture.begin_sweep().context("sweep the kernel's tables")?;
        self.sweeping.under_way = Some(sweep);
        self.sweep_on()
    }

    /// Answers with fresh counters.
    pub(crate) fn answer_swept(&mut self, request: Request) -> anyhow::Result<()> {
        self.sweeping.asked_since.push(request);
        self.begin_sweep()
    }

    /// Takes in the next part of the sweep under way; whoever asked is answered after the last.
    pub(crate) fn sweep_on(&mut self) -> anyhow::Result<()> {
        let Some(sweep) = &mut self.sweeping.under_way else { return Ok(()) };
        let part = self.capture.sweep_on(sweep, |key| self.engine.edge_of(key).is_some());
        if sweep.is_over() {
            self.sweeping.under_way = None;
        }
        self.observe(part.context("sweep the kernel's tables")?.unwrap_or_default())?;
        if self.sweeping.is_under_way() {
            return Ok(());
        }
        for request in std::mem::take(&mut self.sweeping.asked) {
            self.answer_now(request)?;
        }
        if self.sweeping.asked_since.is_empty() { Ok(()) } else { self.begin_sweep() }
    }

    /// All of a sweep at once.
    pub(crate) fn sweep(&mut self) -> anyhow::Result<()> {
        self.sweeping.under_way = None;
        self.begin_sweep()?;
        while self.sweeping.is_under_way() {
            self.sweep_on()?;
        }
        Ok(())
    }
}
