//! `build` and `run`: the released program, and the agent started from it.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::Context as _;

use crate::machine;
use crate::setup;
use crate::stage::Stages;
use crate::workspace::Workspace;

/// Sets up and builds `target/release/edgewatch`.
pub(crate) fn build(workspace: &Workspace) -> anyhow::Result<ExitCode> {
    setup::ensure(workspace)?;
    release(workspace)?;
    println!("{}", workspace.target().join("release/edgewatch").display());
    Ok(ExitCode::SUCCESS)
}

/// Sets up, builds and becomes the agent, with its state under `target/run`.
pub(crate) fn run(workspace: &Workspace, args: &[OsString]) -> anyhow::Result<ExitCode> {
    machine::require_root("edgewatch needs root to load kernel programs", "run")?;
    setup::ensure(workspace)?;
    release(workspace)?;
    // The agent shows these paths and sockets have short names: relative to here, where they are.
    let here = std::env::current_dir().context("find the current directory")?;
    let at = workspace.target().join("run");
    let at = at.strip_prefix(&here).unwrap_or(&at);
    std::fs::create_dir_all(at).with_context(|| format!("create {}", at.display()))?;
    let program = workspace.target().join("release/edgewatch");
    // The agent takes this process's place, so that Ctrl-C and the exit status are its own.
    let error = Command::new(&program)
        .arg("run")
        .arg("--state-dir")
        .arg(at.join("state"))
        .arg("--socket")
        .arg(at.join("edgewatch.sock"))
        .arg("--show")
        .args(args)
        .exec();
    Err(error).with_context(|| format!("start {}", program.display()))
}

/// Builds the released program.
pub(crate) fn release(workspace: &Workspace) -> anyhow::Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", "monitor", "--bin", "edgewatch"]);
    Stages::start().run("build", &mut cargo)
}
