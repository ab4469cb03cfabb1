//! Debian's packages, where this machine has `apt-get`: asked for by name, nothing removed for them.

use std::process::Command;

use anyhow::bail;

use crate::machine;
use crate::setup::progress::Log;
use crate::workspace::Workspace;

/// Whether packages can be had this way.
pub(crate) fn is_here() -> bool {
    machine::program("apt-get").is_some()
}

/// Installs `packages` from fresh lists.
pub(crate) fn install(
    workspace: &Workspace,
    log: &mut Log,
    packages: &[&str],
) -> anyhow::Result<()> {
    if !machine::is_root() {
        bail!(
            "apt-get needs root; run this, then the same again:\n  \
             sudo apt-get update && sudo apt-get install --no-install-recommends {}",
            packages.join(" ")
        );
    }
    update(workspace, log)?;
    // Packages that would push others out, rustup among them, are refused.
    let install = ["install", "--yes", "--no-install-recommends", "--no-remove"];
    log.step("apt-get install", command(workspace, "apt-get").args(install).args(packages))
}

/// Fetches the lists of packages.
pub(crate) fn update(workspace: &Workspace, log: &mut Log) -> anyhow::Result<()> {
    log.step("apt-get update", command(workspace, "apt-get").arg("update"))
}

/// One of apt's programs, which asks nobody anything.
pub(crate) fn command(workspace: &Workspace, program: &str) -> Command {
    let mut command = outside(workspace, program);
    command.env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C");
    command
}

/// A program that is to know nothing of this repository.
pub(crate) fn outside(workspace: &Workspace, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = workspace.command(program);
    command.current_dir("/").env_remove("RUSTC_BOOTSTRAP").env_remove("CARGO_TARGET_DIR");
    command
}
