//! `bench`: what the engine and the decoder take, how long it takes from a dial to its alert, what a
//! connection costs, what a large baseline weighs. Real processes on the real kernel; compared within
//! one run, with the spread beside each figure. Prints, judges nothing.

mod churn;
mod core;
mod figure;
mod latency;
mod scale;

use std::process::ExitCode;

use crate::build;
use crate::house::House;
use crate::interrupt::Interrupt;
use crate::machine;
use crate::setup;
use crate::workspace::Workspace;

/// Where the results stand.
const DOCUMENT: &str = "docs/benchmarks.md";

/// What becomes of the figures.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    Printed,
    /// Written into the repository's documents as well.
    Saved,
}

/// Sets up, builds and measures.
pub(crate) fn run(workspace: &Workspace, keep: Keep) -> anyhow::Result<ExitCode> {
    machine::require_root(
        "the bench loads kernel programs and makes network namespaces: it needs root",
        "bench",
    )?;
    setup::ensure(workspace)?;
    build::release(workspace)?;
    let interrupt = Interrupt::watch()?;
    let mut figures = Vec::new();
    core::measure(workspace, &interrupt, &mut figures)?;
    let house = House::build(&workspace.target().join("bench"))?;
    let program = workspace.target().join("release/edgewatch");
    let measured = latency::measure(&program, &house, &interrupt, &mut figures)
        .and_then(|()| churn::measure(&program, &house, &interrupt, &mut figures))
        .and_then(|()| scale::measure(&program, &house, &interrupt, &mut figures));
    let left = house.take_down();
    println!("\n{}", figure::table(&figures)?);
    measured?;
    left?;
    if keep == Keep::Saved {
        figure::save(&workspace.root().join(DOCUMENT), &figures)?;
    }
    Ok(ExitCode::SUCCESS)
}
