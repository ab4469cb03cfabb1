//! A verb's work as named stages, each announced with the time since the start. The child's own
//! output goes through untouched, so the last thing on the screen is the last child's.

use std::process::{Command, ExitStatus};
use std::time::Instant;

use anyhow::{Context as _, bail};

/// The stages of one verb.
pub(crate) struct Stages {
    started: Instant,
}

impl Stages {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// Announces what comes next.
    pub(crate) fn announce(&self, name: &str, what: &str) {
        eprintln!("[{:>4} s] {name}: {what}", self.started.elapsed().as_secs());
    }

    /// Runs `command` as the stage `name` and fails where it fails.
    pub(crate) fn run(&self, name: &str, command: &mut Command) -> anyhow::Result<()> {
        let status = self.status(name, command)?;
        if !status.success() {
            bail!("{name}: {status}");
        }
        Ok(())
    }

    /// Runs `command` as the stage `name`; its verdict is the caller's to judge.
    pub(crate) fn status(&self, name: &str, command: &mut Command) -> anyhow::Result<ExitStatus> {
        self.announce(name, &shown(command));
        command.status().with_context(|| format!("start {}", shown(command)))
    }

    /// Says that all of `verb` went well.
    pub(crate) fn finish(&self, verb: &str) {
        self.announce(verb, "ok");
    }
}

/// A command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
    std::iter::once(name).chain(words).collect::<Vec<_>>().join(" ")
}
