//! Commands of others, run to their end, with what they said where they fail.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// Runs a command that must not fail; what it printed.
pub(crate) fn done(command: &mut Command) -> anyhow::Result<String> {
    fed(command, "")
}

/// Runs a command that must not fail and reads `text`; what it printed.
pub(crate) fn fed(command: &mut Command, text: &str) -> anyhow::Result<String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("start {command:?}"))?;
    let mut stdin = child.stdin.take().context("its standard input")?;
    // It is read whole before anything is printed that could fill a pipe.
    let fed = stdin.write_all(text.as_bytes());
    drop(stdin);
    let output = child.wait_with_output().with_context(|| format!("wait for {command:?}"))?;
    if !output.status.success() {
        let said = [output.stderr, output.stdout].concat();
        bail!("{command:?}: {}: {}", output.status, String::from_utf8_lossy(&said).trim());
    }
    fed.with_context(|| format!("tell {command:?}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command that may fail, and says nothing.
pub(crate) fn tried(command: &mut Command) -> anyhow::Result<()> {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command.status().with_context(|| format!("start {command:?}")).map(drop)
}
