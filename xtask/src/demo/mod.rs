//! `demo`: three real services in cgroups and namespaces of their own, learned, then hijacked. All
//! traffic stays in the demo's namespaces; nothing of it is left behind, also when interrupted.

mod act;
mod cast;

use std::process::ExitCode;

use crate::build;
use crate::house::House;
use crate::interrupt::Interrupt;
use crate::machine;
use crate::setup;
use crate::workspace::Workspace;

/// Sets up, builds, and plays the demo.
pub(crate) fn run(workspace: &Workspace) -> anyhow::Result<ExitCode> {
    machine::require_root(
        "the demo loads kernel programs and makes network namespaces: it needs root",
        "demo",
    )?;
    setup::ensure(workspace)?;
    build::release(workspace)?;
    let interrupt = Interrupt::watch()?;
    let at = workspace.target().join("demo");
    let cast = cast::find(workspace, &at.join("packages"))?;
    let house = House::build(&at)?;
    let played = act::play(workspace, &house, &cast, &interrupt);
    let left = house.take_down();
    played?;
    left?;
    println!("\nThe demo's cgroups, namespaces and processes are gone; nothing was pinned.");
    Ok(ExitCode::SUCCESS)
}
