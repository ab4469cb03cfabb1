//! SEAM: the composition root is not here yet. These are the signatures that `cli` relies on.

use std::ops::ControlFlow;
use std::time::Duration;

use monitor_core::engine::EdgeView;
use monitor_core::incident::Alert;

use crate::config::Config;

/// What a running agent tells whoever watches it.
#[derive(Debug)]
pub enum Told {
    /// It is ready: what it runs on and what it does, for people, in one or more lines.
    Ready(String),
    /// An edge that is new to the map.
    Edge(Box<EdgeView>),
    /// A message was accepted.
    Alert(Box<Alert>),
    /// Something a person should know, that stops nothing.
    Warning(String),
}

/// Takes what is told; `Break` asks the agent to end, because nobody listens any more.
pub type Tell = Box<dyn FnMut(Told) -> ControlFlow<()> + Send>;

/// How `run` differs from the configuration's words.
#[derive(Default)]
pub struct RunOptions {
    /// With `--show`: who watches.
    pub tell: Option<Tell>,
}

/// What `watch` is to do.
pub struct WatchOptions {
    /// Ends by itself after this time.
    pub duration: Option<Duration>,
    pub tell: Tell,
}

/// Runs the agent until it is asked to end.
///
/// # Errors
/// It could not start, or a part of it ended early.
#[expect(clippy::unused_async, reason = "the seam of an async function")]
pub async fn run(config: Config, options: RunOptions) -> anyhow::Result<()> {
    drop((config, options));
    anyhow::bail!("run the agent: it is not part of this build")
}

/// Tells the edges of this machine as they appear; keeps no state and leaves nothing behind.
///
/// # Errors
/// It could not start, or a part of it ended early.
#[expect(clippy::unused_async, reason = "the seam of an async function")]
pub async fn watch(config: Config, options: WatchOptions) -> anyhow::Result<()> {
    drop((config, options));
    anyhow::bail!("watch this machine: it is not part of this build")
}
