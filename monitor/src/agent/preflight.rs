//! What `check` looks at: everything the agent would need, opened nowhere and changed nowhere.

use monitor_core::baseline::document::written;
use monitor_core::ids::WallTime;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::baseline_file;
use crate::capture;
use crate::config::Config;
use crate::notify::Notifier;

/// What was found in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preflight {
    pub kernel: String,
    /// The root of the version-2 hierarchy, and its layout.
    pub cgroup: String,
    pub receivers: Vec<String>,
    /// Services that baseline files guard.
    pub written: usize,
    /// What cannot be seen from here, and why.
    pub hidden: Vec<String>,
}

/// Reads the secrets and baseline files that the configuration names, and looks at the kernel.
///
/// # Errors
/// The first thing that would keep the agent from working, with its mend.
pub fn preflight(config: &Config) -> anyhow::Result<Preflight> {
    Notifier::build(&config.notify, Box::new(std::io::sink()))?;
    let files = baseline_file::read_all(&config.baseline_files, WallTime::default())?;
    let ground = capture::preflight()?;
    Ok(Preflight {
        hidden: ground.foreseen(),
        kernel: ground.kernel.to_string(),
        cgroup: format!("{} ({})", ground.cgroup.path.display(), ground.cgroup.layout),
        receivers: config.notify.iter().map(|sink| sink.name.clone()).collect(),
        written: written(&files).guarded.len(),
    })
}

/// Prepares the process for [`crate::agent::run`] and [`crate::agent::watch`]: to be called while it
/// has one thread.
pub fn prepare() -> capture::Tracing {
    allow_files();
    capture::prepare_mounts()
}

/// Asks for as many open files as may be had: each cgroup whose packets are looked at takes one or two,
/// and 1024, which is usual, are soon too few. Who waits for them by number is none of ours.
fn allow_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    raised.unwrap_or_else(|error| tracing::debug!(%error, "the limit of open files stays"));
}
