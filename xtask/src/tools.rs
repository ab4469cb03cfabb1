//! Programs of others that the end-to-end tests run as peers: scanners and the like, as Debian builds
//! them. What this machine lacks is unpacked under `target/tools` with all that it leans on, never
//! installed. Without apt it is left to whoever runs the tests to have them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::machine;
use crate::setup::{Log, apt};
use crate::workspace::Workspace;

/// Each program is in the package of its name.
const TOOLS: &[&str] = &["hping3", "masscan", "ncat", "nmap", "socat"];

/// Where tests find what their search path lacks; empty where nothing is lacking or can be fetched.
pub(crate) fn ensure(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    let at = workspace.target().join("tools");
    let tree = at.join("tree");
    let is_here = |tool: &str| {
        let unpacked = ["usr/bin", "usr/sbin"].iter().any(|dir| tree.join(dir).join(tool).exists());
        unpacked || machine::program(tool).is_some()
    };
    let lacking = || TOOLS.iter().copied().filter(|tool| !is_here(tool)).collect::<Vec<_>>();
    if !lacking().is_empty() && apt::is_here() && machine::is_root() {
        unpack(workspace, &at, &lacking())?;
    }
    Ok(tree)
}

/// Unpacks packages, and whatever of theirs is not installed here, as `at`'s `tree`. Needs root and apt.
pub(crate) fn unpack(workspace: &Workspace, at: &Path, packages: &[&str]) -> anyhow::Result<()> {
    let mut log = Log::create(&workspace.target())?;
    fetch(workspace, &mut log, at, packages).or_else(|_lists_are_old| {
        apt::update(workspace, &mut log)?;
        fetch(workspace, &mut log, at, packages)
    })
}

/// Unpacks packages and whatever of theirs is not installed here.
fn fetch(workspace: &Workspace, log: &mut Log, at: &Path, packages: &[&str]) -> anyhow::Result<()> {
    let archives = at.join("archives");
    fs::create_dir_all(archives.join("partial"))
        .with_context(|| format!("create {}", archives.display()))?;
    let mut download = apt::command(workspace, "apt-get");
    download
        .args(["install", "--download-only", "--yes", "--no-install-recommends"])
        .arg("-o")
        .arg(format!("Dir::Cache::Archives={}", archives.display()))
        // As root it would first try as a user who may not write here, and say so.
        .args(["-o", "APT::Sandbox::User=root"])
        .args(packages);
    log.step(&format!("apt-get download {}", packages.join(" ")), &mut download)?;
    let tree = at.join("tree");
    for entry in fs::read_dir(&archives).context("read the downloads")?.flatten() {
        let archive = entry.path();
        if archive.extension().is_some_and(|extension| extension == "deb") {
            let mut unpack = Command::new("dpkg-deb");
            log.step("dpkg-deb --extract", unpack.arg("--extract").arg(&archive).arg(&tree))?;
            fs::remove_file(&archive).context("remove a download")?;
        }
    }
    Ok(())
}
