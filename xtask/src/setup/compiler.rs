//! The compiler of the kernel programs: which one `monitor/build.rs` will use, and whether it can.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::machine;
use crate::setup::Source;
use crate::workspace::Workspace;

/// The toolchain's name that `monitor/build.rs` prefers.
pub(crate) const LINKED: &str = "edgewatch-ebpf";

/// A compiler that can build the kernel programs.
pub(crate) struct Compiler {
    origin: Origin,
    sysroot: PathBuf,
    version: String,
    /// What it compiles against.
    pub(crate) core: Core,
}

/// Where a compiler's `core` for the BPF target comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Core {
    /// Shipped, compiled.
    Precompiled,
    /// Compiled with the programs, which takes a nightly compiler.
    Source,
}

/// What a compiler does with its LLVM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// It brings a library that others can load.
    Shared,
    /// It has none, or not for others.
    Own,
}

#[derive(Clone, Copy)]
enum Origin {
    /// rustup's toolchain of this name.
    Toolchain(&'static str),
    /// There is no rustup: the compiler on the search path.
    Distribution,
}

impl Compiler {
    /// The compiler's cargo, for work on the kernel programs.
    pub(crate) fn cargo(&self, workspace: &Workspace) -> Command {
        match self.origin {
            Origin::Toolchain(name) => {
                let mut rustup = workspace.command("rustup");
                rustup.args(["run", name, "cargo"]);
                rustup
            }
            Origin::Distribution => workspace.command(self.sysroot.join("bin/cargo")),
        }
    }

    /// Whether it came with clippy.
    pub(crate) fn has_clippy(&self) -> bool {
        self.sysroot.join("bin/cargo-clippy").exists()
    }

    /// The major version of its LLVM.
    pub(crate) fn llvm(&self) -> Option<u32> {
        let verbose = output(&self.sysroot.join("bin/rustc"), "-vV").ok()?;
        let version = verbose.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
        version.split('.').next()?.parse().ok()
    }

    /// Whether another program can load its LLVM.
    pub(crate) fn llvm_sharing(&self) -> Sharing {
        // Debian's compiler is built on the system's LLVM: that is no business of the linker's.
        if self.core == Core::Precompiled {
            return Sharing::Own;
        }
        let brought = std::fs::read_dir(self.sysroot.join("lib")).is_ok_and(|entries| {
            entries
                .flatten()
                .any(|entry| entry.file_name().to_string_lossy().starts_with("libLLVM"))
        });
        if brought { Sharing::Shared } else { Sharing::Own }
    }
}

impl fmt::Display for Compiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin {
            Origin::Toolchain(name) => write!(f, "toolchain {name}, {}", self.version),
            Origin::Distribution => write!(f, "the system's, {}", self.version),
        }
    }
}

/// Finds the compiler that the build will take, or says why it cannot.
pub(crate) fn find(source: Source) -> Result<Compiler, String> {
    if machine::program("rustup").is_none() {
        let rustc = machine::program("rustc").ok_or("there is no compiler on the search path")?;
        let sysroot = output(&rustc, "--print=sysroot")?;
        return examine(Origin::Distribution, Path::new(sysroot.trim()));
    }
    let toolchains = machine::toolchains().ok_or("rustup has no home directory")?;
    let linked = toolchains.join(LINKED);
    // A link that leads nowhere counts: the build prefers it all the same.
    if linked.symlink_metadata().is_ok() {
        let compiler = examine(Origin::Toolchain(LINKED), &linked)?;
        return match (source, compiler.core) {
            (Source::Rustup, Core::Precompiled) => Err(format!("{LINKED} is not rustup's")),
            (Source::Debian, Core::Source) => Err(format!("{LINKED} is not Debian's")),
            _ => Ok(compiler),
        };
    }
    match source {
        Source::Debian => Err(format!("no toolchain {LINKED} is linked")),
        Source::Any | Source::Rustup => {
            let nightly = ["gnu", "musl"]
                .map(|libc| format!("nightly-{}-unknown-linux-{libc}", std::env::consts::ARCH))
                .map(|name| toolchains.join(name))
                .into_iter()
                .find(|dir| dir.is_dir())
                .ok_or("no toolchain can compile for the BPF target")?;
            examine(Origin::Toolchain("nightly"), &nightly)
        }
    }
}

fn examine(origin: Origin, sysroot: &Path) -> Result<Compiler, String> {
    let rustlib = sysroot.join("lib/rustlib");
    let version = output(&sysroot.join("bin/rustc"), "--version")?.trim().to_owned();
    let core = if rustlib.join("bpfel-unknown-none/lib").is_dir() {
        Core::Precompiled
    } else if rustlib.join("src/rust/library/core").is_dir() && version.contains("nightly") {
        Core::Source
    } else {
        return Err(format!(
            "{} ({version}) has neither `core` for the BPF target nor, being nightly, its source",
            sysroot.display()
        ));
    };
    Ok(Compiler { origin, sysroot: sysroot.to_path_buf(), version, core })
}

/// What `program argument` prints.
pub(crate) fn output(program: &Path, argument: &str) -> Result<String, String> {
    let output = Command::new(program)
        .arg(argument)
        .output()
        .map_err(|error| format!("{} does not start: {error}", program.display()))?;
    if !output.status.success() {
        return Err(format!("{} does not work: {}", program.display(), output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_precompiled_core_is_enough_for_a_stable_compiler() {
        let found = check("rustc 1.96.0", &["lib/rustlib/bpfel-unknown-none/lib"]);
        assert_eq!(found.expect("suits"), Core::Precompiled);
    }

    #[test]
    fn the_source_of_core_needs_a_nightly_compiler() {
        let source = ["lib/rustlib/src/rust/library/core"];
        assert_eq!(check("rustc 1.97.0-nightly", &source).expect("suits"), Core::Source);
        let refused = check("rustc 1.96.0", &source).expect_err("stable");
        assert!(refused.contains("neither"), "{refused}");
    }

    #[test]
    fn a_compiler_that_is_gone_is_said_to_be() {
        let nowhere = examine(Origin::Toolchain(LINKED), Path::new("/nonexistent"));
        let reason = nowhere.map(|_| ()).expect_err("gone");
        assert!(reason.starts_with("/nonexistent/bin/rustc does not start"), "{reason}");
    }

    fn check(version: &str, dirs: &[&str]) -> Result<Core, String> {
        let sysroot = tempfile::tempdir().unwrap();
        let rustc = sysroot.path().join("bin/rustc");
        std::fs::create_dir_all(sysroot.path().join("bin")).unwrap();
        std::fs::write(&rustc, format!("#!/bin/sh\necho {version}\n")).unwrap();
        std::fs::set_permissions(&rustc, std::fs::Permissions::from_mode(0o755)).unwrap();
        for dir in dirs {
            std::fs::create_dir_all(sysroot.path().join(dir)).unwrap();
        }
        examine(Origin::Toolchain(LINKED), sysroot.path()).map(|compiler| compiler.core)
    }
}
