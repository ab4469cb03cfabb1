//! `fuzz`: the targets of `fuzz/` under libFuzzer, each for a while. The flags are those of
//! `cargo fuzz`, and any toolchain takes them: without the address sanitizer, which finds nothing in
//! safe code, no nightly is needed and nothing is to be installed but a C++ compiler.

use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail};

use crate::machine;
use crate::setup;
use crate::stage::Stages;
use crate::workspace::Workspace;

/// Tells libFuzzer which parts of the code an input reached.
const FLAGS: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cllvm-args=-simplifycfg-branch-fold-threshold=0",
];

/// Builds all targets and runs `only`, or each of them, for so many seconds.
pub(crate) fn run(
    workspace: &Workspace,
    only: Option<&str>,
    seconds: u32,
) -> anyhow::Result<ExitCode> {
    if machine::program("c++").is_none() {
        bail!("libFuzzer is written in C++ and there is no `c++`: install g++ or clang");
    }
    let fuzz = Fuzz { workspace, targets: targets(workspace)? };
    if let Some(unknown) = only.filter(|only| !fuzz.targets.iter().any(|it| it == only)) {
        bail!("there is no fuzz target {unknown:?}: {}", fuzz.targets.join(", "));
    }
    setup::ensure(workspace)?;
    let stages = Stages::start();
    fuzz.lock()?;
    stages.run("build the fuzz targets", &mut fuzz.build())?;
    for target in fuzz.targets.iter().filter(|target| only.is_none_or(|only| only == **target)) {
        let mut command = fuzz.command(target, seconds)?;
        // What it found is said by the target itself, with the file that shows it again.
        stages.run(&format!("fuzz {target}"), &mut command)?;
    }
    stages.finish("fuzz");
    Ok(ExitCode::SUCCESS)
}

/// The names of the files in `fuzz/targets`.
fn targets(workspace: &Workspace) -> anyhow::Result<Vec<String>> {
    let dir = workspace.root().join("fuzz/targets");
    let entries = std::fs::read_dir(&dir).with_context(|| format!("read {}", dir.display()))?;
    let paths = entries.flatten().map(|entry| entry.path());
    let mut names: Vec<String> = paths
        .filter_map(|path| path.file_stem().map(|name| name.to_string_lossy().into_owned()))
        .collect();
    names.sort();
    Ok(names)
}

struct Fuzz<'a> {
    workspace: &'a Workspace,
    targets: Vec<String>,
}

impl Fuzz<'_> {
    /// Everything of one run: programs, found inputs, what made a target fail.
    fn place(&self) -> PathBuf {
        self.workspace.target().join("fuzz")
    }

    fn host() -> String {
        format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
    }

    /// Tries what is shipped: the versions are those of the main workspace, which cargo completes with
    /// what only the targets use.
    fn lock(&self) -> anyhow::Result<()> {
        let (from, to) = ("Cargo.lock", "fuzz/Cargo.lock");
        let root = self.workspace.root();
        std::fs::copy(root.join(from), root.join(to))
            .with_context(|| format!("copy {from} to {to}"))?;
        Ok(())
    }

    fn build(&self) -> Command {
        let mut cargo = self.workspace.cargo();
        // Named, so that build scripts and macros are compiled without the flags.
        cargo.args(["build", "--release", "--bins", "--target", &Self::host()]);
        cargo.arg("--manifest-path").arg(self.workspace.root().join("fuzz/Cargo.toml"));
        cargo.arg("--target-dir").arg(self.place());
        cargo.env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\u{1f}"));
        cargo
    }

    fn command(&self, target: &str, seconds: u32) -> anyhow::Result<Command> {
        let below = |kind: &str| -> anyhow::Result<PathBuf> {
            let dir = self.place().join(kind).join(target);
            std::fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
            Ok(dir)
        };
        let (corpus, failures) = (below("corpus")?, below("failures")?);
        let program = self.place().join(Self::host()).join("release").join(target);
        let mut command = self.workspace.command(program);
        command.arg(format!("-max_total_time={seconds}"));
        command.args(["-timeout=10", "-verbosity=0", "-print_funcs=0"]);
        command.arg(format!("-artifact_prefix={}/", failures.display()));
        let ours = self.workspace.root().join("fuzz");
        let dictionary = ours.join("dictionaries").join(format!("{target}.dict"));
        if dictionary.exists() {
            command.arg(format!("-dict={}", dictionary.display()));
        }
        // What is found goes into the first; what is in the others is where it starts from.
        command.arg(corpus).arg(ours.join("seeds").join(target));
        Ok(command)
    }
}
