//! Programs that others wrote, as peers: on the search path, or where `cargo xtask test` has unpacked
//! Debian's.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::{Lab, Namespace, Service};

/// A program and where it finds what it leans on.
#[derive(Debug, Clone)]
pub struct Tool {
    /// As the kernel names what is executed.
    pub executable: PathBuf,
    /// Where it was unpacked; None for what this machine has installed.
    tree: Option<PathBuf>,
}

impl Tool {
    /// The program called `name`.
    #[track_caller]
    #[must_use]
    pub fn find(name: &str) -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let installed = std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/usr/bin".into()])
            // A wrapper of somebody's home is no program of the system.
            .filter(|dir| dir.starts_with("/usr") || dir.starts_with("/bin"))
            .find_map(|dir| existing(&dir.join(name)));
        if let Some(executable) = installed {
            return Self { executable, tree: None };
        }
        let tree = std::env::var_os("EDGEWATCH_TEST_TOOLS").map(PathBuf::from);
        let unpacked = tree.iter().flat_map(|tree| {
            ["usr/bin", "usr/sbin"].iter().filter_map(|dir| existing(&tree.join(dir).join(name)))
        });
        match unpacked.collect::<Vec<_>>().pop() {
            Some(executable) => Self { executable, tree },
            None => panic!("{name} is not here: install it, or run `cargo xtask test`"),
        }
    }

    /// Runs it in a service's cgroup and a namespace.
    #[must_use]
    pub fn command(&self, lab: &Lab, service: &Service, namespace: &Namespace) -> Command {
        let mut command = lab.command(service, Some(namespace), &self.executable);
        if let Some(tree) = &self.tree {
            let multiarch = format!("{}-linux-gnu", std::env::consts::ARCH);
            let dirs = ["usr/lib", "lib"].map(|dir| tree.join(dir).join(&multiarch));
            let dirs = dirs.iter().cloned().chain([dirs[0].join("blas")]);
            let libraries = std::env::join_paths(dirs).expect("no colon in it");
            command.env("LD_LIBRARY_PATH", libraries).env("NMAPDIR", tree.join("usr/share/nmap"));
        }
        command
    }
}

fn existing(path: &Path) -> Option<PathBuf> {
    path.is_file().then(|| path.canonicalize().ok()).flatten()
}
