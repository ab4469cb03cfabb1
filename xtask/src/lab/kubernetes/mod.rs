//! `lab kubernetes`: the agent beside a real API server, on one of two nodes whose pods are processes
//! with the addresses and the cgroups that the API's pods have. It may read what the manifest's role
//! grants, and nothing else. There is no kubelet, no controller and no kube-proxy: what they would do, the
//! lab does.

mod apps;
mod cluster;
mod ground;
mod scale;
mod server;
mod trials;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use crate::interrupt::Interrupt;
use crate::lab::Options;
use crate::lab::kubernetes::cluster::Cluster;
use crate::lab::kubernetes::ground::Ground;
use crate::lab::kubernetes::server::Server;
use crate::lab::parts::{Part, Parts};
use crate::stage::Stages;
use crate::workspace::Workspace;

const PARTS: &[Part] =
    &[("etcd", "etcd-server"), ("nft", "nftables"), ("curl", "curl"), ("openssl", "openssl")];

/// Builds, stands it up, and tries everything.
pub(crate) fn run(
    workspace: &Workspace,
    program: &Path,
    stages: &Stages,
    interrupt: &Interrupt,
    options: &Options,
) -> anyhow::Result<ExitCode> {
    let parts = Parts::find(workspace, stages, PARTS)?;
    let apiserver = server::build(workspace, stages)?;
    let at = workspace.target().join("lab/kubernetes");
    let mut ground = Ground::build(&at, parts)?;
    stages.announce("lab", "etcd and the API server are started");
    let server = Server::start(&mut ground, apiserver, interrupt)?;
    let mut cluster = Cluster::new(ground, server)?;
    let manifest = workspace.root().join("deploy/kubernetes/edgewatch.yaml");
    let manifest = std::fs::read_to_string(manifest).context("read the manifest")?;
    let kubeconfig = cluster.admit(&manifest)?;
    let away = Duration::from_secs(options.away);
    let tried = trials::all(&mut cluster, (program, &kubeconfig), stages, interrupt, away);
    if options.keep {
        println!("The lab is kept: {}", cluster.ground.at.display());
        cluster.ground.keep();
    } else {
        cluster.ground.take_down()?;
    }
    tried?;
    stages.finish("lab kubernetes");
    Ok(ExitCode::SUCCESS)
}
