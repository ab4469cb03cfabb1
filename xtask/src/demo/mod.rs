//! `demo`: three real services in cgroups and namespaces of their own, learned, then hijacked. All
//! traffic stays in the demo's namespaces; nothing of it is left behind, also when interrupted.

mod act;
mod cast;
mod house;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::build;
use crate::machine;
use crate::setup;
use crate::workspace::Workspace;

/// Set once somebody pressed Ctrl-C or asked us to stop.
#[derive(Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    fn watch() -> anyhow::Result<Self> {
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
            std::thread::sleep(Duration::from_millis(50));
        }
        self.check()
    }

    /// Waits until `ready` says yes, at most `limit`; `what` names what was waited for.
    pub(crate) fn until(
        &self,
        what: &str,
        limit: Duration,
        mut ready: impl FnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let started = Instant::now();
        while !ready()? {
            self.check()?;
            if started.elapsed() > limit {
                bail!("{what}: not within {} s", limit.as_secs());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// Sets up, builds, and plays the demo.
pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<ExitCode> {
    if !machine::is_root() {
        bail!(
            "the demo loads kernel programs and makes network namespaces: it needs root: \
             sudo -E env \"PATH=$PATH\" cargo xtask demo"
        );
    }
    setup::ensure(workspace)?;
    build::release(workspace)?;
    let interrupt = Interrupt::watch()?;
    let at = workspace.target().join("demo");
    let cast = cast::find(workspace, &at.join("packages"))?;
    let house = house::House::build(&at)?;
    let played = act::play(workspace, &house, &cast, &interrupt);
    let left = house.take_down();
    played?;
    left?;
    println!("\nThe demo's cgroups, namespaces and processes are gone; nothing was pinned.");
    Ok(ExitCode::SUCCESS)
}
