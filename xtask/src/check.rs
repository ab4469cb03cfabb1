//! `check`: what can be said of the code without running it, quickest first.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};

use crate::setup::{self, Compiler, Core};
use crate::stage::Stages;
use crate::tidy;
use crate::workspace::Workspace;

/// What `aya-build` passes for the kernel programs, and warnings denied.
const KERNEL_FLAGS: &str = "--cfg=bpf_target_arch=\"ARCH\"\u{1f}-Dwarnings";

/// Runs every check and stops at the first that fails.
pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<ExitCode> {
    let stages = Stages::start();
    all(workspace, &stages)?;
    stages.finish("check");
    Ok(ExitCode::SUCCESS)
}

/// The stages of `check`, for `test` to begin with.
pub(crate) fn all(workspace: &Workspace, stages: &Stages) -> anyhow::Result<()> {
    let compiler = setup::ensure(workspace)?;
    stages.run("format", workspace.cargo().args(["fmt", "--all", "--check"]))?;
    stages.announce("tidy", "the architecture, as a test");
    let problems = tidy::problems(workspace.root()).context("tidy")?;
    if !problems.is_empty() {
        tidy::print(&problems);
        bail!("tidy: {} to mend", problems.len());
    }
    // `monitor-ebpf` is a program for another machine: its turn comes below.
    stages.run(
        "clippy",
        workspace.cargo().args(["clippy", "--workspace", "--exclude", "monitor-ebpf"]).args([
            "--all-targets",
            "--",
            "-Dwarnings",
        ]),
    )?;
    stages.run("clippy for the kernel", &mut kernel_clippy(workspace, &compiler))
}

/// Clippy on the kernel programs, by the compiler that builds them; where that one came without
/// clippy, the compiler's own warnings alone.
fn kernel_clippy(workspace: &Workspace, compiler: &Compiler) -> Command {
    let linter = if compiler.has_clippy() { "clippy" } else { "check" };
    let mut cargo = compiler.cargo(workspace);
    cargo
        .args([linter, "--package", "monitor-ebpf", "--bins", "--release"])
        .args(["--target", "bpfel-unknown-none"])
        .arg("--target-dir")
        .arg(workspace.target().join("kernel"));
    match compiler.core {
        Core::Precompiled => {}
        Core::Source => {
            cargo.arg("-Zbuild-std=core");
        }
    }
    cargo.env("CARGO_ENCODED_RUSTFLAGS", KERNEL_FLAGS.replace("ARCH", std::env::consts::ARCH));
    cargo
}
