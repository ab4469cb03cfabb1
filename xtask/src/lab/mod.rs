//! `lab`: the released agent beside a real container runtime, which does to a small application all
//! that runtimes do: restarts, rollouts, other addresses, its own end. Every end of every edge must have
//! its right name all the while. The runtime is private: two namespaces, a cgroup, a directory; nothing
//! else is touched and nothing is left behind, also when interrupted.

mod command;
mod containerd;
mod cri;
mod docker;
mod ground;
mod image;
mod kubernetes;
mod outside;
mod parts;
mod podman;
mod runtime;
mod systemd;
mod trials;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use clap::ValueEnum;

use crate::build;
use crate::interrupt::Interrupt;
use crate::machine;
use crate::setup;
use crate::stage::Stages;
use crate::workspace::Workspace;

use self::containerd::Containerd;
use self::docker::Docker;
use self::ground::Ground;
use self::parts::{Part, Parts};
use self::podman::Podman;
use self::runtime::Runtime;
use self::systemd::Systemd;

/// The runtimes that are tried.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Target {
    /// With Compose
    Docker,
    /// By the Container Runtime Interface, as a kubelet asks it
    Containerd,
    /// Its service, and without it
    Podman,
    /// As the first process, with units
    Systemd,
    /// An API server, and two nodes whose pods are played as a kubelet would lay them out
    Kubernetes,
}

impl Target {
    const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::Podman => "podman",
            Self::Systemd => "systemd",
            Self::Kubernetes => "kubernetes",
        }
    }

    const fn parts(self) -> &'static [Part] {
        match self {
            Self::Docker => &[
                ("dockerd", "docker.io"),
                ("docker", "docker.io"),
                ("containerd", "containerd"),
                ("runc", "runc"),
                ("iptables", "iptables"),
                ("docker-compose", "docker-compose"),
            ],
            Self::Containerd => &[
                ("containerd", "containerd"),
                ("ctr", "containerd"),
                ("runc", "runc"),
                ("host-local", "containernetworking-plugins"),
            ],
            Self::Podman => &[
                ("podman", "podman"),
                ("conmon", "conmon"),
                ("runc", "runc"),
                ("iptables", "iptables"),
                ("netavark", "netavark"),
                ("aardvark-dns", "aardvark-dns"),
            ],
            // Of the cluster's it says itself.
            Self::Systemd | Self::Kubernetes => &[],
        }
    }

    fn start(self, workspace: &Workspace, ground: Ground) -> anyhow::Result<Box<dyn Runtime>> {
        Ok(match self {
            Self::Docker => Box::new(Docker::start(ground)?),
            Self::Containerd => Box::new(Containerd::start(workspace, ground)?),
            Self::Podman => Box::new(Podman::start(ground)?),
            Self::Systemd => Box::new(Systemd::start(ground)?),
            Self::Kubernetes => bail!("a cluster is tried in its own way"),
        })
    }
}

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
    let verb = format!("lab {}", options.target.name());
    machine::require_root(
        "the lab starts a container runtime and loads kernel programs: it needs root",
        &verb,
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
    let parts = Parts::find(workspace, &stages, options.target.parts())?;
    let at = workspace.target().join("lab").join(options.target.name());
    let ground = Ground::lay(options.target.name(), &at, parts, &interrupt)?;
    let mut runtime = options.target.start(workspace, ground)?;
    let away = Duration::from_secs(options.away);
    let tried = trials::all(&mut *runtime, [&program, &peer], &stages, away);
    if options.keep {
        runtime.ground().keep();
        println!("The lab is kept: its files are in {}", at.display());
    } else {
        runtime.ground().take_down()?;
    }
    tried?;
    stages.finish(&verb);
    Ok(ExitCode::SUCCESS)
}
