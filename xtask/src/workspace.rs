//! Where the repository is, and how its `cargo` is started.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::machine;

/// What `cargo run` adds for this program. Build scripts that watch these variables would run again
/// each time a developer alternates between `cargo xtask` and plain `cargo`; and a long build that
/// is quiet looks like one that hangs.
const OURS: &[&str] = &[
    "CARGO_BIN_NAME",
    "CARGO_CRATE_NAME",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "CARGO_PRIMARY_PACKAGE",
    "CARGO_TERM_QUIET",
];

/// The checked-out repository.
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The repository this program was compiled from.
    pub(crate) fn find() -> Self {
        let own_crate = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        Self { root: own_crate.parent().map_or(own_crate.clone(), Path::to_path_buf) }
    }

    /// The directory of the workspace's manifest.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where cargo puts what it builds.
    pub(crate) fn target(&self) -> PathBuf {
        match std::env::var_os("CARGO_TARGET_DIR") {
            Some(chosen) => self.root.join(chosen),
            None => self.root.join("target"),
        }
    }

    /// The cargo that started this program.
    pub(crate) fn cargo(&self) -> Command {
        self.command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
    }

    /// A program started in the repository, free of what `cargo run` told this one.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root).env("PATH", machine::search_path());
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if OURS.contains(&&*name) || name.starts_with("CARGO_PKG_") {
                command.env_remove(&*name);
            }
        }
        command
    }
}
