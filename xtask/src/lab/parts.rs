//! The programs that make a runtime: the machine's own where it has them, else Debian's, unpacked under
//! `target/`, never installed. Starts nothing.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::bail;

use crate::machine;
use crate::setup::apt;
use crate::stage::Stages;
use crate::tools;
use crate::workspace::Workspace;

/// A program, and Debian's package of it.
pub(crate) type Part = (&'static str, &'static str);

/// In every image: a program that leans on no library.
const BUSYBOX: Part = ("busybox", "busybox-static");

/// What is asked of the machine itself.
const OWN: &[Part] = &[
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("bash", "bash"),
    ("tar", "tar"),
    ("sha256sum", "coreutils"),
    ("python3", "python3"),
];

/// Where runtimes have the programs that they alone start.
const ASIDE: &[&str] = &["usr/lib/cni", "opt/cni/bin", "usr/lib/podman", "usr/libexec/podman"];

/// Where the parts are.
pub(crate) struct Parts {
    /// Of what was unpacked; None where the machine has all.
    tree: Option<PathBuf>,
    pub(crate) busybox: PathBuf,
}

impl Parts {
    /// Finds them, or fetches those that are not here.
    pub(crate) fn find(
        workspace: &Workspace,
        stages: &Stages,
        parts: &[Part],
    ) -> anyhow::Result<Self> {
        for (program, package) in OWN {
            if machine::program(program).is_none() {
                bail!("the lab needs `{program}`: apt-get install {package}");
            }
        }
        let root = Path::new("/");
        let is_here =
            |program| machine::program(program).is_some() || find_in(root, program).is_some();
        let lacking = || parts.iter().filter(|(program, _)| !is_here(program));
        let busybox = || machine::program(BUSYBOX.0).filter(|it| is_static(it));
        if lacking().next().is_none()
            && let Some(busybox) = busybox()
        {
            return Ok(Self { tree: None, busybox });
        }
        let tree = workspace.target().join("lab/tree");
        if lacking().any(|(program, _)| find_in(&tree, program).is_none())
            || busybox().is_none() && find_in(&tree, BUSYBOX.0).is_none()
        {
            let mut packages: Vec<&str> = lacking().map(|(_, package)| *package).collect();
            packages.push(BUSYBOX.1);
            packages.dedup();
            if !apt::is_here() {
                bail!("the lab needs what Debian has in these packages: {}", packages.join(" "));
            }
            stages.announce("lab", &format!("unpacking {} under target/", packages.join(" ")));
            tools::unpack(workspace, &workspace.target().join("lab"), &packages)?;
        }
        let Some(busybox) = find_in(&tree, BUSYBOX.0).or_else(busybox) else {
            bail!("the lab needs a static busybox: apt-get install busybox-static");
        };
        Ok(Self { tree: Some(tree), busybox })
    }

    /// Where a program is that no search path leads to.
    pub(crate) fn directory_of(&self, program: &str) -> Option<PathBuf> {
        let roots = self.tree.as_deref().into_iter().chain([Path::new("/")]);
        let file = roots.filter_map(|root| find_in(root, program)).next()?;
        file.parent().map(Path::to_path_buf)
    }

    /// Lets a command, and whatever it starts, find them and what they lean on.
    pub(crate) fn lend(&self, command: &mut Command) {
        let own = std::env::var_os("PATH").unwrap_or_default();
        let admin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
        let Some(tree) = &self.tree else {
            command.env("PATH", joined(std::env::split_paths(&own).chain(admin)));
            return;
        };
        let here = ["usr/bin", "usr/sbin", "bin", "sbin"].map(|dir| tree.join(dir));
        command
            .env("PATH", joined(here.into_iter().chain(std::env::split_paths(&own)).chain(admin)));
        let libraries = format!("{}-linux-gnu", std::env::consts::ARCH);
        let dirs = ["usr/lib", "lib"].map(|dir| tree.join(dir).join(&libraries));
        command.env("LD_LIBRARY_PATH", joined(dirs.into_iter()));
        command.env("PYTHONPATH", tree.join("usr/lib/python3/dist-packages"));
        let extensions = tree.join("usr/lib").join(libraries).join("xtables");
        if extensions.exists() {
            command.env("XTABLES_LIBDIR", extensions);
        }
    }
}

fn joined(dirs: impl Iterator<Item = PathBuf>) -> OsString {
    std::env::join_paths(dirs).unwrap_or_default()
}

fn find_in(tree: &Path, program: &str) -> Option<PathBuf> {
    let dirs = ["usr/bin", "usr/sbin", "bin", "sbin"].iter().chain(ASIDE);
    dirs.map(|dir| tree.join(dir).join(program)).find(|it| it.exists())
}

/// Whether a program runs in an image that holds nothing else.
fn is_static(program: &Path) -> bool {
    let listed = Command::new("ldd").arg(program).output();
    listed.is_ok_and(|output| !String::from_utf8_lossy(&output.stdout).contains("=>"))
}
