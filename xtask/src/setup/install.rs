//! Installs what is missing: a pinned nightly by rustup, or Debian's compiler where rustup cannot
//! download; then `bpf-linker`. It says first what it will do and asks where somebody can answer.
//! The user's default toolchain stays as it is.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::machine;
use crate::setup::apt;
use crate::setup::compiler::{self, Compiler, LINKED};
use crate::setup::linker::{self, Recipe};
use crate::setup::progress::Log;
use crate::setup::{Missing, Source};
use crate::workspace::Workspace;

/// Pinned, because its LLVM decides which `bpf-linker` reads its bitcode.
const NIGHTLY: &str = "nightly-2026-05-20";

/// A compiler with `core` for the BPF target and a linter for it, and what `bpf-linker` is built on.
const PACKAGES: &[&str] = &[
    "rustc-web",
    "cargo-web",
    "libstd-rust-web-dev-bpf",
    "rust-web-clippy",
    "llvm-22-dev",
    "libpolly-22-dev",
];

/// One installation.
pub(crate) struct Install<'a> {
    workspace: &'a Workspace,
    source: Source,
    log: Log,
}

impl<'a> Install<'a> {
    pub(crate) fn new(workspace: &'a Workspace, source: Source) -> anyhow::Result<Self> {
        Ok(Self { workspace, source, log: Log::create(&workspace.target())? })
    }

    /// Says what will happen, asks, and makes it happen.
    pub(crate) fn run(mut self, missing: &Missing) -> anyhow::Result<()> {
        // A compiler for which no linker can be built here is as good as none.
        let kept = missing
            .compiler
            .as_ref()
            .ok()
            .filter(|compiler| missing.linker.is_ok() || Recipe::find(compiler).is_some());
        self.announce(kept)?;
        let installed;
        let compiler = match kept {
            Some(compiler) => compiler,
            None => {
                installed = self.compiler()?;
                &installed
            }
        };
        if linker::find(Some(compiler)).is_err() {
            self.linker(compiler)?;
        }
        Ok(())
    }

    fn announce(&self, kept: Option<&Compiler>) -> anyhow::Result<()> {
        if kept.is_none() && !self.rustup_may_serve() && !self.debian_may_serve() {
            bail!("{}", advice());
        }
        println!("setup: it will");
        if kept.is_none() {
            if self.rustup_may_serve() {
                println!("  - let rustup install {NIGHTLY} with rust-src, linked as {LINKED};");
                println!("    your default toolchain stays as it is");
            }
            if self.debian_may_serve() {
                let when =
                    if self.rustup_may_serve() { "where rustup cannot download, " } else { "" };
                println!(
                    "  - {when}as root: apt-get update; apt-get install {}",
                    PACKAGES.join(" ")
                );
            }
        }
        println!("  - cargo install bpf-linker, unless the one here suits the compiler");
        if !machine::is_attended() {
            return Ok(());
        }
        print!("Proceed? [Y/n] ");
        std::io::stdout().flush().context("ask whether to proceed")?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).context("read the answer")?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "" | "y" | "yes" => Ok(()),
            _ => bail!("stopped as you wished; nothing was changed"),
        }
    }

    fn rustup_may_serve(&self) -> bool {
        self.source != Source::Debian && machine::program("rustup").is_some()
    }

    fn debian_may_serve(&self) -> bool {
        self.source != Source::Rustup && apt::is_here()
    }

    fn compiler(&mut self) -> anyhow::Result<Compiler> {
        if self.rustup_may_serve() {
            match self.rustup() {
                Ok(compiler) => return Ok(compiler),
                Err(error) if self.debian_may_serve() => {
                    println!("setup: rustup could not: {}", reason(&error));
                    println!("setup: falling back on Debian's packages");
                }
                Err(error) => return Err(error.context(advice())),
            }
        }
        if self.debian_may_serve() {
            return self.debian();
        }
        bail!("{}", advice())
    }

    fn rustup(&mut self) -> anyhow::Result<Compiler> {
        let mut install = self.outside("rustup");
        install.args(["toolchain", "install", NIGHTLY, "--no-self-update", "--profile", "minimal"]);
        install.args(["--component", "rust-src", "--component", "clippy"]);
        self.log.step(&format!("rustup installs {NIGHTLY}"), &mut install)?;
        let host = format!("{NIGHTLY}-{}-unknown-linux-gnu", std::env::consts::ARCH);
        let toolchains = machine::toolchains().context("rustup has no home directory")?;
        self.link(toolchains.join(host))?;
        let compiler = compiler::find(Source::Rustup).map_err(anyhow::Error::msg)?;
        if Recipe::find(&compiler).is_none() {
            bail!("no bpf-linker can be built here for the LLVM of {NIGHTLY}");
        }
        Ok(compiler)
    }

    fn debian(&mut self) -> anyhow::Result<Compiler> {
        apt::install(self.workspace, &mut self.log, PACKAGES)
            .context("Debian 12's security archive has these packages; another system may not")?;
        if machine::program("rustup").is_some() {
            self.link("/usr".into())?;
        }
        compiler::find(Source::Debian).map_err(anyhow::Error::msg)
    }

    /// Names `sysroot` as the compiler of the kernel programs.
    fn link(&mut self, sysroot: PathBuf) -> anyhow::Result<()> {
        let mut link = self.outside("rustup");
        link.args(["toolchain", "link", LINKED]).arg(sysroot);
        self.log.step(&format!("rustup links {LINKED}"), &mut link)
    }

    fn linker(&mut self, compiler: &Compiler) -> anyhow::Result<()> {
        let recipe = Recipe::find(compiler).with_context(|| {
            format!("bpf-linker for {compiler}: the development files of its LLVM are not here")
        })?;
        let mut cargo = self.outside(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["install", "--force"]).args(recipe.arguments());
        if let Recipe::SystemLlvm { prefix, .. } = &recipe {
            let mut path = vec![prefix.join("bin")];
            path.extend(std::env::split_paths(&machine::search_path()));
            cargo.env("PATH", std::env::join_paths(path).context("extend the search path")?);
            cargo.env("LLVM_PREFIX", prefix);
        }
        self.log.step("cargo install bpf-linker", &mut cargo)
    }

    /// A program that is to know nothing of this repository.
    fn outside(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        apt::outside(self.workspace, program)
    }
}

/// What a person can do where nothing here can.
fn advice() -> String {
    format!(
        "no way to a compiler for the BPF target was found: install rustup (https://rustup.rs), \
         or on Debian 12 `apt-get install {}`, and run this again",
        PACKAGES.join(" ")
    )
}

/// The line on which a failed step says why; its first line where none does.
fn reason(error: &anyhow::Error) -> String {
    let said = error.to_string();
    let why = said.lines().map(str::trim).find(|line| line.starts_with("error"));
    why.or(said.lines().next()).unwrap_or_default().to_owned()
}
