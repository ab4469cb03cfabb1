//! The verbs. Reads the command line, asks the agent or becomes it, and prints; decides nothing
//! itself. Only here and in `main` does the program print or exit.

mod alerts;
mod args;
mod asking;
mod baseline;
mod checking;
mod manual;
mod notify;
mod output;
mod policy;
mod replaying;
mod running;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser as _;

use crate::baseline_file::FileError;
use crate::client::Client;
use crate::config::ConfigError;
use crate::recording::RecordingError;

pub use self::args::Cli;
use self::args::{Format, Verb, Wanted};
use self::output::Out;

/// How a verb ended, as the caller's shell sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Done,
    /// It found something: a difference, what would have been an alert, or a reason why the agent
    /// cannot work.
    Found,
    /// It was done, and what it printed says what failed.
    Failed,
    /// What it found is a mistake in the configuration, and was told.
    Mistaken,
}

/// Why a verb did not do what it was asked for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line, a configuration or a named file is wrong: the caller must act.
    Usage(anyhow::Error),
    Failed(anyhow::Error),
    /// Nobody reads the output any more.
    Unread,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let unread = error.downcast_ref::<std::io::Error>();
        if unread.is_some_and(|it| it.kind() == std::io::ErrorKind::BrokenPipe) {
            return Self::Unread;
        }
        if error.is::<ConfigError>() || error.is::<FileError>() || error.is::<RecordingError>() {
            return Self::Usage(error);
        }
        Self::Failed(error)
    }
}

/// 64 is `EX_USAGE` of sysexits.h.
const USAGE: u8 = 64;

/// Runs the program: the whole command line, to the exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help goes to stdout and is no mistake; nothing can be done if neither can be printed.
            drop(error.print());
            return if error.use_stderr() { USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    match carry_out(cli) {
        Ok(Ending::Done) | Err(Failure::Unread) => ExitCode::SUCCESS,
        Ok(Ending::Found) => 2.into(),
        Ok(Ending::Failed) => ExitCode::FAILURE,
        Ok(Ending::Mistaken) => USAGE.into(),
        Err(Failure::Usage(error)) => {
            output::complain(&error);
            USAGE.into()
        }
        Err(Failure::Failed(error)) => {
            output::complain(&error);
            ExitCode::FAILURE
        }
    }
}

fn carry_out(cli: Cli) -> Result<Ending, Failure> {
    let Cli { socket, format, color, verb } = cli;
    let mut out = Out::stdout(format.data().unwrap_or(Format::Table), color);
    check_format(format, &verb)?;
    let client = || {
        let standard = || PathBuf::from(args::SOCKET);
        Client::new(socket.clone().unwrap_or_else(standard))
    };
    match verb {
        Verb::Run(run) => running::run(run, socket.clone(), out),
        Verb::Watch(watch) => running::watch(watch, out),
        Verb::Record(record) => running::record(record, out),
        Verb::Replay(replay) => replaying::replay(&replay, out),
        Verb::Map(map) => block_on(asking::map(&map, format.picture(), &client(), &mut out)),
        Verb::Check(check) => checking::check(&check, &mut out),
        Verb::Doctor(doctor) => checking::doctor(doctor, socket.clone(), &mut out),
        Verb::Services => block_on(asking::services(&client(), &mut out)),
        Verb::Alerts(alerts) => block_on(alerts::carry_out(alerts, &client(), &mut out)),
        Verb::Notify { verb } => block_on(notify::carry_out(verb, &client(), &mut out)),
        Verb::Status => block_on(asking::status(&client(), &mut out)),
        Verb::Audit(audit) => block_on(asking::audit(&audit, &client(), &mut out)),
        Verb::Policy { verb } => block_on(policy::carry_out(verb, &client(), &out)),
        Verb::Completions { shell } => manual::completions(shell, &out),
        Verb::Man { dir: None } => manual::print(&out),
        Verb::Man { dir: Some(dir) } => manual::write(&dir),
        Verb::Baseline { verb } => block_on(baseline::carry_out(verb, &client(), &mut out)),
    }
}

/// Refuses a format that the verb does not have, instead of printing something else.
fn check_format(format: Wanted, verb: &Verb) -> Result<(), Failure> {
    if matches!(verb, Verb::Policy { .. }) {
        return policy::check_format(format);
    }
    let drawn = matches!(verb, Verb::Map(_));
    if format.data().is_some() || (drawn && format.picture().is_some()) {
        return Ok(());
    }
    let takes = if drawn { "table, json, dot, mermaid or svg" } else { "table or json" };
    Err(Failure::Usage(anyhow::anyhow!("this verb has no --format {format}: it takes {takes}")))
}

/// One request needs no threads.
fn block_on(verb: impl Future<Output = Result<Ending, Failure>>) -> Result<Ending, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(verb)
}

#[cfg(test)]
mod tests;
