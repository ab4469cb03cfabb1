//! Ctrl-C and SIGTERM as a value that long work looks at, so that it takes down what it built.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::machine;

/// Between two looks, where nobody measures how long it takes.
pub(crate) const PAUSE: Duration = Duration::from_millis(50);

/// Set once somebody pressed Ctrl-C or asked us to stop.
#[derive(Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    pub(crate) fn watch() -> anyhow::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&flag)).context("watch for Ctrl-C")?;
        }
        Ok(Self(flag))
    }

    /// Fails once interrupted, so that everything is taken down on the way out.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if self.0.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        Ok(())
    }

    /// Gives a spectator time to read; a pipe needs none.
    pub(crate) fn pause(&self) -> anyhow::Result<()> {
        let end = Instant::now() + Duration::from_secs(8);
        while machine::is_attended() && Instant::now() < end {
            self.check()?;
            std::thread::sleep(PAUSE);
        }
        self.check()
    }

    /// Waits until `ready` says yes, at most `limit`, with `pause` between two looks; `what` names what
    /// was waited for.
    pub(crate) fn until(
        &self,
        what: &str,
        limit: Duration,
        pause: Duration,
        mut ready: impl FnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let started = Instant::now();
        while !ready()? {
            self.check()?;
            if started.elapsed() > limit {
                bail!("{what}: not within {} s", limit.as_secs());
            }
            std::thread::sleep(pause);
        }
        Ok(())
    }
}
