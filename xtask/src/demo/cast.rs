//! The demo's programs: nginx and Redis as Debian builds them. Taken from the machine where they are,
//! else unpacked under `target/`, never installed: no service of the machine is started or changed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::machine;
use crate::stage::Stages;
use crate::workspace::Workspace;

/// Packages that hold the two programs and the libraries a small system lacks.
const PACKAGES: &[&str] = &[
    "nginx",
    "redis-tools",
    "libjemalloc2",
    "liblua5.1-0",
    "liblzf1",
    "libatomic1",
    "libpcre2-8-0",
];

/// Where the programs are, and where they find their libraries.
pub(crate) struct Cast {
    pub(crate) nginx: PathBuf,
    pub(crate) redis: PathBuf,
    pub(crate) libraries: Option<PathBuf>,
}

/// Finds the programs, or fetches them.
pub(crate) fn find(workspace: &Workspace, at: &Path) -> anyhow::Result<Cast> {
    for program in ["ip", "nsenter", "perl", "bash", "timeout"] {
        if machine::program(program).is_none() {
            bail!(
                "the demo needs `{program}`: apt-get install iproute2 util-linux perl-base bash coreutils"
            );
        }
    }
    if let (Some(nginx), Some(redis)) =
        (machine::program("nginx"), machine::program("redis-server"))
    {
        return Ok(Cast { nginx, redis, libraries: None });
    }
    let unpacked = Cast {
        nginx: at.join("usr/sbin/nginx"),
        redis: at.join("usr/bin/redis-check-rdb"),
        libraries: Some(at.join("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH))),
    };
    if !unpacked.nginx.exists() || !unpacked.redis.exists() {
        fetch(workspace, at)?;
    }
    // The server and its checker are one program that goes by its name.
    let server = at.join("usr/bin/redis-server");
    if !server.exists() {
        std::fs::hard_link(&unpacked.redis, &server)
            .with_context(|| format!("link {}", server.display()))?;
    }
    Ok(Cast { redis: server, ..unpacked })
}

fn fetch(workspace: &Workspace, at: &Path) -> anyhow::Result<()> {
    if machine::program("apt-get").is_none() || machine::program("dpkg").is_none() {
        bail!("the demo needs nginx and redis-server on the search path");
    }
    let stages = Stages::start();
    std::fs::create_dir_all(at).with_context(|| format!("create {}", at.display()))?;
    stages.announce(
        "demo",
        "fetching nginx and Redis from Debian, unpacked under target/, not installed",
    );
    let download = || {
        let mut apt = quiet(workspace, "apt-get", at);
        apt.args(["-q", "-o", "APT::Sandbox::User=root", "download"]).args(PACKAGES);
        apt
    };
    // The package lists may be older than the packages.
    if !download().status().is_ok_and(|status| status.success()) {
        stages.run("demo", quiet(workspace, "apt-get", at).args(["-q", "update"]))?;
        stages.run("demo", &mut download())?;
    }
    for entry in std::fs::read_dir(at).with_context(|| format!("read {}", at.display()))? {
        let package = entry.with_context(|| format!("read {}", at.display()))?.path();
        if package.extension().is_some_and(|it| it == "deb") {
            stages.run("demo", Command::new("dpkg").arg("-x").arg(&package).arg(at))?;
        }
    }
    Ok(())
}

fn quiet(workspace: &Workspace, program: &str, at: &Path) -> Command {
    let mut command = workspace.command(program);
    command.current_dir(at).stdout(std::process::Stdio::null());
    command
}
