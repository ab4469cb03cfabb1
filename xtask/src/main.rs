//! The repository's own tool: what is built, checked, tested and run, by a person and by CI, is one
//! verb here. It names none of the product's crates; it starts `cargo` on them.
#![forbid(unsafe_code)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a developer's tool speaks to its terminal"
)]

mod bench;
mod build;
mod check;
mod demo;
mod fuzz;
mod house;
mod interrupt;
mod kernels;
mod lab;
mod machine;
mod setup;
mod stage;
mod test;
mod tidy;
mod tools;
mod workspace;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::setup::Source;
use crate::test::Scope;
use crate::workspace::Workspace;

/// Builds, checks, tests and runs Edgewatch.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Find, or install, what building the kernel programs needs
    Setup {
        /// Where a missing compiler comes from
        #[arg(long, value_enum, default_value_t = Source::Any)]
        from: Source,
    },
    /// Set up and build the program: target/release/edgewatch
    Build,
    /// Set up, build and run the agent on this machine; needs root
    Run {
        /// Passed on to `edgewatch run`
        #[arg(last = true)]
        args: Vec<OsString>,
    },
    /// What a connection costs beside nothing and beside other programs, how fast news come, what
    /// many edges weigh, here; needs root
    Bench {
        /// Only these; all where none is named
        scenarios: Vec<bench::Scenario>,
        /// Write docs/benchmarks.md and its drawing as well
        #[arg(long, conflicts_with = "scenarios")]
        save: bool,
    },
    /// Three real services learned, then hijacked, in about a minute; needs root
    Demo,
    /// The agent beside a real container runtime that restarts, rescales and renames: every name must
    /// be right all the while; needs root
    Lab(lab::Options),
    /// Set up, then formatting, architecture and lints
    Check,
    /// Set up, check, then every test; those on the running kernel need root
    Test {
        /// Leave out the tests that need root
        #[arg(long)]
        unprivileged: bool,
        /// Leave out the other kernels
        #[arg(long, conflicts_with = "unprivileged")]
        this_kernel: bool,
    },
    /// The end-to-end tests on other kernels, in virtual machines, with kprobes and CAP_PERFMON and
    /// without
    TestKernel {
        /// Such as 6.1; all where none is named
        kernels: Vec<String>,
    },
    /// Run the fuzz targets, each for a while
    Fuzz {
        /// Only this one
        target: Option<String>,
        /// How long each runs
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
    /// Hold the repository to its architecture: imports, ceilings, opening lines, documents
    Tidy,
}

fn main() -> ExitCode {
    match run(Cli::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    let workspace = Workspace::find();
    match verb {
        Verb::Setup { from } => setup::run(&workspace, from),
        Verb::Build => build::build(&workspace),
        Verb::Run { args } => build::run(&workspace, &args),
        Verb::Bench { save: true, .. } => bench::run(&workspace, bench::Keep::Saved, &[]),
        Verb::Bench { scenarios, .. } => bench::run(&workspace, bench::Keep::Printed, &scenarios),
        Verb::Demo => demo::run(&workspace),
        Verb::Lab(options) => lab::run(&workspace, &options),
        Verb::Check => check::run(&workspace),
        Verb::Test { unprivileged: true, .. } => test::run(&workspace, Scope::Unprivileged),
        Verb::Test { this_kernel: true, .. } => test::run(&workspace, Scope::ThisKernel),
        Verb::Test { .. } => test::run(&workspace, Scope::Everything),
        Verb::TestKernel { kernels } => kernels::run(&workspace, &kernels),
        Verb::Fuzz { target, seconds } => fuzz::run(&workspace, target.as_deref(), seconds),
        Verb::Tidy => tidy::run(&workspace),
    }
}
