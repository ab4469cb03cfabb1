//! What works here, what does not, and what to do: every check looks, none assumes. Changes nothing
//! that lasts; dials nobody beyond this machine unless it is asked to. How it is shown is `render`'s.

mod cgroups;
mod cluster;
mod kernel;
mod privileges;
mod running;
mod runtimes;
mod setup;

use std::path::PathBuf;

use serde::Serialize;

use crate::capture::{self, CaptureError, Machine, Tracing};
use crate::config::{Config, ConfigError};

/// What is examined.
#[derive(Debug)]
pub struct Subject {
    /// The file, and what it says.
    pub file: PathBuf,
    pub config: Result<Config, ConfigError>,
    /// In place of what the configuration says.
    pub socket: Option<PathBuf>,
    pub state_dir: Option<PathBuf>,
    pub receivers: Receivers,
    /// What came of looking for tracefs.
    pub tracing: Tracing,
}

/// Whether receivers are dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receivers {
    Left,
    Dialled,
}

pub use crate::capture::Cleaned;

/// Removes what an agent that ended has left attached and pinned.
///
/// # Errors
/// An agent runs there, or the system refused.
pub fn clean(config: &Config) -> Result<Cleaned, CaptureError> {
    capture::clean(&config.capture.pins)
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// Edgewatch works, and something is missing.
    Warn,
    /// Edgewatch cannot work.
    Fail,
}

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    Kernel,
    Lockdown,
    Jit,
    Memory,
    NotNeeded,
    Privileges,
    Namespaces,
    Tracefs,
    Executables,
    OlderSockets,
    Clock,
    Cgroups,
    CgroupNames,
    Programs,
    Abilities,
    OtherPrograms,
    Pins,
    SocketMarks,
    Configuration,
    Receiver,
    BaselineFiles,
    State,
    Agent,
    Runtime,
    Cluster,
}

impl Check {
    /// Whether a failure is a mistake in what people wrote.
    const fn is_of_configuration(self) -> bool {
        matches!(self, Self::Configuration | Self::Receiver | Self::BaselineFiles)
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub check: Check,
    pub verdict: Verdict,
    pub what: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Finding {
    fn ok(check: Check, what: impl Into<String>, detail: impl Into<String>) -> Self {
        let (what, detail) = (what.into(), detail.into());
        Self { check, verdict: Verdict::Ok, what, detail, mend: None }
    }

    fn warn(check: Check, what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { verdict: Verdict::Warn, ..Self::ok(check, what, detail) }
    }

    fn fail(check: Check, what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { verdict: Verdict::Fail, ..Self::ok(check, what, detail) }
    }

    fn mend(self, mend: impl Into<String>) -> Self {
        Self { mend: Some(mend.into()), ..self }
    }
}

/// Everything that was found, in the order in which one would look.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The worst of all.
    pub verdict: Verdict,
    pub findings: Vec<Finding>,
}

impl Report {
    fn of(findings: Vec<Finding>) -> Self {
        let worst = findings.iter().map(|finding| finding.verdict).max();
        Self { verdict: worst.unwrap_or(Verdict::Ok), findings }
    }

    /// Findings of this verdict.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.findings.iter().filter(|finding| finding.verdict == verdict).count()
    }

    /// Whether the configuration or a file that it names cannot be meant.
    #[must_use]
    pub fn is_mistaken(&self) -> bool {
        let wrong = |it: &Finding| it.verdict == Verdict::Fail && it.check.is_of_configuration();
        self.findings.iter().any(wrong)
    }
}

/// Looks at everything. Takes a second or two: kernel programs are verified, and whoever does not
/// answer is waited for.
pub async fn examine(subject: &Subject) -> Report {
    let machine = Machine::look();
    let defaults = Config::default();
    let config = subject.config.as_ref().unwrap_or(&defaults);
    let socket = subject.socket.as_ref().unwrap_or(&config.serve.socket);
    let state_dir = subject.state_dir.as_ref().unwrap_or(&config.state_dir);

    let mut findings = kernel::machine(&machine);
    findings.extend(privileges::examine(&machine, &subject.tracing));
    findings.extend(cgroups::examine());
    findings.push(kernel::pins(&config.capture));
    findings.extend(kernel::hooks(&config.capture));
    findings.extend(setup::configuration(subject));
    findings.extend(setup::receivers(&config.notify, subject.receivers).await);
    findings.extend(setup::baseline_files(&config.baseline_files));
    findings.extend(setup::state(state_dir));
    findings.extend(running::examine(socket).await);
    findings.extend(runtimes::examine(&config.identity).await);
    findings.extend(cluster::examine(&config.identity, &config.node_name()).await);
    Report::of(findings)
}

/// An error with its causes, on one line: some hold the end of a verifier's log.
fn told(error: impl Into<anyhow::Error>) -> String {
    let text = format!("{:#}", error.into());
    let lines = text.lines().map(|line| line.trim_matches([':', ' ']));
    lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" · ")
}
