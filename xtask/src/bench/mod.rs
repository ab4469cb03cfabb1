//! `bench`: how long it takes from a dial to its alert, and what a connection costs. Real processes on
//! the real kernel; compared within one run, with the spread beside each figure. Prints, judges
//! nothing.

mod churn;
mod latency;

use std::process::ExitCode;

use crate::build;
use crate::house::House;
use crate::interrupt::Interrupt;
use crate::machine;
use crate::setup;
use crate::workspace::Workspace;

/// Sets up, builds and measures.
pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<ExitCode> {
    machine::require_root(
        "the bench loads kernel programs and makes network namespaces: it needs root",
        "bench",
    )?;
    setup::ensure(workspace)?;
    build::release(workspace)?;
    let interrupt = Interrupt::watch()?;
    let house = House::build(&workspace.target().join("bench"))?;
    let program = workspace.target().join("release/edgewatch");
    let measured = latency::measure(&program, &house, &interrupt)
        .and_then(|()| churn::measure(&program, &house, &interrupt));
    let left = house.take_down();
    measured?;
    left?;
    Ok(ExitCode::SUCCESS)
}

/// The value below which `share` (0 to 1) of `sorted` lies.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1) as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index below the length"
    )]
    let index = (last * share).round() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}
