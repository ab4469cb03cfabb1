//! `setup`: what building the kernel programs needs beside cargo, found or installed. They need a
//! compiler with `core` for the BPF target, and `bpf-linker` on the same LLVM as that compiler.
//! Where nothing is missing it asks both for their version and no network, so that every verb can
//! begin with it.

pub(crate) mod apt;
mod compiler;
mod install;
mod linker;
mod progress;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::anyhow;

use crate::machine;
pub(crate) use crate::setup::compiler::{Compiler, Core};
use crate::setup::install::Install;
pub(crate) use crate::setup::progress::Log;
use crate::workspace::Workspace;

/// Where a missing compiler comes from.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Source {
    /// rustup; where that cannot download, Debian's packages
    Any,
    /// A nightly toolchain of rustup's
    Rustup,
    /// Debian's packages
    Debian,
}

/// The verb: installs what is missing and says what is there.
pub(crate) fn run(workspace: &Workspace, source: Source) -> anyhow::Result<ExitCode> {
    let tools = look(source).or_else(|missing| install(workspace, source, &missing))?;
    println!("compiler    {}", tools.compiler);
    println!("bpf-linker  {}", tools.linker.display());
    // rustup's cargo looks among cargo's own programs by itself.
    if machine::program("rustup").is_none() && !machine::is_on_path(&tools.linker) {
        let dir = tools.linker.parent().unwrap_or(&tools.linker);
        println!("note: a plain `cargo build` needs {} on PATH", dir.display());
    }
    println!("ready; next: cargo xtask build");
    Ok(ExitCode::SUCCESS)
}

/// What a verb that builds begins with; silent where nothing is missing.
pub(crate) fn ensure(workspace: &Workspace) -> anyhow::Result<Compiler> {
    let tools = look(Source::Any).or_else(|missing| install(workspace, Source::Any, &missing))?;
    Ok(tools.compiler)
}

/// All that building the kernel programs needs.
struct Tools {
    compiler: Compiler,
    linker: PathBuf,
}

/// What is there and, where something is not, the reason.
struct Missing {
    compiler: Result<Compiler, String>,
    linker: Result<PathBuf, String>,
}

impl Missing {
    fn reasons(&self) -> Vec<&str> {
        let compiler = self.compiler.as_ref().err();
        compiler.into_iter().chain(self.linker.as_ref().err()).map(String::as_str).collect()
    }
}

fn look(source: Source) -> Result<Tools, Missing> {
    let compiler = compiler::find(source);
    let linker = linker::find(compiler.as_ref().ok());
    match (compiler, linker) {
        (Ok(compiler), Ok(linker)) => Ok(Tools { compiler, linker }),
        (compiler, linker) => Err(Missing { compiler, linker }),
    }
}

fn install(workspace: &Workspace, source: Source, missing: &Missing) -> anyhow::Result<Tools> {
    println!("setup: what building the kernel programs needs is not all here:");
    for reason in missing.reasons() {
        println!("  - {reason}");
    }
    Install::new(workspace, source)?.run(missing)?;
    look(source).map_err(|missing| {
        anyhow!("everything was installed, yet {}", missing.reasons().join("; "))
    })
}
