//! The programs that make a runtime: the machine's own where it has them, else Debian's, unpacked under
//! `target/`, never installed. Starts nothing.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::bail;

use crate::machine;
use crate::stage::Stages;
use crate::tools;
use crate::workspace::Workspace;

/// A program, and Debian's package of it.
pub(crate) type Part = (&'static str, &'static str);

/// In every image: a program that leans on no library.
const BUSYBOX: (&str, &str) = ("busybox", "busybox-static");

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
        for program in ["ip", "nsenter", "bash", "tar", "python3"] {
            if machine::program(program).is_none() {
                bail!(
                    "the lab needs `{program}`: apt-get install iproute2 util-linux bash tar python3"
                );
            }
        }
        let lacking = lacking(parts);
        let busybox = || machine::program(BUSYBOX.0).filter(|it| is_static(it));
        if lacking.is_empty()
            && let Some(busybox) = busybox()
        {
            return Ok(Self { tree: None, busybox });
        }
        let tree = workspace.target().join("lab/tree");
        if lacking.iter().any(|(program, _)| find_in(&tree, program).is_none())
            || busybox().is_none() && find_in(&tree, BUSYBOX.0).is_none()
        {
            let mut packages: Vec<&str> = lacking.iter().map(|(_, package)| *package).collect();
            packages.push(BUSYBOX.1);
            packages.dedup();
            stages.announce("lab", &format!("unpacking {} under target/", packages.join(" ")));
            tools::unpack(workspace, &workspace.target().join("lab"), &packages)?;
        }
        let Some(busybox) = find_in(&tree, BUSYBOX.0).or_else(busybox) else {
            bail!("the lab needs a static busybox: apt-get install busybox-static");
        };
        Ok(Self { tree: Some(tree), busybox })
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

fn lacking(parts: &[Part]) -> Vec<Part> {
    parts.iter().copied().filter(|(program, _)| machine::program(program).is_none()).collect()
}

fn find_in(tree: &Path, program: &str) -> Option<PathBuf> {
    let dirs = ["usr/bin", "usr/sbin", "bin", "sbin"];
    dirs.into_iter().map(|dir| tree.join(dir).join(program)).find(|it| it.exists())
}

/// Whether a program runs in an image that holds nothing else.
fn is_static(program: &Path) -> bool {
    let listed = Command::new("ldd").arg(program).output();
    listed.is_ok_and(|output| !String::from_utf8_lossy(&output.stdout).contains("=>"))
}
