//! `lab`: the released agent beside a real container runtime, which does to a small application all
//! that runtimes do: restarts, rollouts, other addresses, its own end. Every end of every edge must have
//! its right name all the while. The runtime is private: a network namespace, a cgroup, a directory;
//! nothing else is touched and nothing is left behind, also when interrupted.

mod kubernetes;
mod outside;
mod parts;
mod runtime;
mod trials;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;

use crate::build;
use crate::interrupt::Interrupt;
use crate::machine;
use crate::setup;
use crate::stage::Stages;
use crate::workspace::Workspace;

use self::parts::{Part, Parts};
use self::runtime::Runtime;

/// The runtimes that are tried.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Target {
    /// With Compose
    Docker,
    /// An API server, and two nodes whose pods are played as a kubelet would lay them out
    Kubernetes,
}

const DOCKER: &[Part] = &[
    ("dockerd", "docker.io"),
    ("docker", "docker.io"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("iptables", "iptables"),
    ("docker-compose", "docker-compose"),
];

/// How it is tried.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    target: Target,
    /// Leave the runtime and the application running for a look by hand; the next `lab` ends them
    #[arg(long)]
    keep: bool,
    /// For how many seconds the runtime's socket is gone
    #[arg(long, default_value_t = 5)]
    away: u64,
    /// The program that is tried; without it the released one, built first
    #[arg(long, env = "EDGEWATCH_BIN")]
    program: Option<PathBuf>,
}

/// Sets up, builds and tries it.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> anyhow::Result<ExitCode> {
    machine::require_root(
        "the lab starts a container runtime and loads kernel programs: it needs root",
        "lab docker",
    )?;
    let program = match &options.program {
        Some(program) => program.clone(),
        None => {
            setup::ensure(workspace)?;
            build::release(workspace)?;
            workspace.target().join("release/edgewatch")
        }
    };
    let stages = Stages::start();
    let interrupt = Interrupt::watch()?;
    if let Target::Kubernetes = options.target {
        return kubernetes::run(workspace, &program, &stages, &interrupt, options);
    }
    let build = ["build", "--package", "tests", "--bin", "peer"];
    stages.run("build", workspace.cargo().args(build))?;
    let peer = workspace.target().join("debug/peer");
    let parts = Parts::find(workspace, &stages, DOCKER)?;
    let mut runtime = Runtime::start(&workspace.target().join("lab/docker"), parts, &interrupt)?;
    let away = Duration::from_secs(options.away);
    let tried = trials::all(&mut runtime, [&program, &peer], &stages, &interrupt, away);
    if options.keep {
        runtime.keep();
    } else {
        runtime.take_down()?;
    }
    tried?;
    stages.finish("lab docker");
    Ok(ExitCode::SUCCESS)
}
