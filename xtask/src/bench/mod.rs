//! `bench`: what the capture costs the programs that it watches, beside nothing, beside empty
//! programs and beside other programs; what the agent takes; how fast and how surely news come; and
//! what grows. Real processes on the real kernel, compared within one run. Prints; whether an aim is
//! met is said beside each figure, and nothing hangs on it.

mod beside;
mod core;
mod figure;
mod flood;
mod growth;
mod latency;
mod load;
mod news;
mod own;
mod plot;
mod report;
mod scale;
mod side;
pub(crate) mod usage;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::ValueEnum;

use crate::bench::beside::Loads;
use crate::bench::load::Load;
use crate::bench::report::Report;
use crate::bench::side::Sides;
use crate::build;
use crate::house::House;
use crate::interrupt::Interrupt;
use crate::machine;
use crate::setup;
use crate::stage::Stages;
use crate::workspace::Workspace;

/// Where the results stand.
const DOCUMENT: &str = "docs/benchmarks.md";

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// Traffic beside nothing, empty programs and other programs
    Beside,
    /// What the agent itself takes
    Own,
    /// How fast an edge is news, and a burst of them
    News,
    /// The neighbour of a flood
    Flood,
    /// From a dial to its alert
    Alert,
    /// Many edges: memory, start, rest
    Scale,
    /// The pure parts, on one core
    Core,
    /// Against edges, cgroups and processors
    Growth,
}

/// What becomes of the figures.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keep {
    Printed,
    /// Written into the repository's documents as well.
    Saved,
}

/// Sets up, builds and measures; all where no scenario is named.
pub(crate) fn run(
    workspace: &Workspace,
    keep: Keep,
    scenarios: &[Scenario],
) -> anyhow::Result<ExitCode> {
    machine::require_root(
        "the bench loads kernel programs and makes network namespaces: it needs root",
        "bench",
    )?;
    setup::ensure(workspace)?;
    build::release(workspace)?;
    tools(workspace)?;
    let interrupt = Interrupt::watch()?;
    let mut report = Report::default();
    let house = House::build(&workspace.target().join("bench"))?;
    let mut plot = None;
    let scenarios = if scenarios.is_empty() { Scenario::value_variants() } else { scenarios };
    let measured = measure(workspace, &house, &interrupt, scenarios, &mut report, &mut plot);
    let left = house.take_down();
    println!("{}", report.text());
    measured?;
    left?;
    let plotted = match keep {
        Keep::Saved => workspace.root().join(growth::PLOT),
        Keep::Printed => workspace.target().join("bench/growth.svg"),
    };
    if let Some(plot) = plot {
        std::fs::write(&plotted, plot).with_context(|| format!("write {}", plotted.display()))?;
        println!("\ndrawn: {}", plotted.display());
    }
    if keep == Keep::Saved {
        report.save(&workspace.root().join(DOCUMENT))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the load and what speaks to the kernel.
fn tools(workspace: &Workspace) -> anyhow::Result<()> {
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", "tests", "--bin", "load", "--bin", "programs"]);
    Stages::start().run("build the load", &mut cargo)
}

fn measure(
    workspace: &Workspace,
    house: &House,
    interrupt: &Interrupt,
    scenarios: &[Scenario],
    report: &mut Report,
    plot: &mut Option<String>,
) -> anyhow::Result<()> {
    let release = workspace.target().join("release");
    let (edgewatch, programs) = (release.join("edgewatch"), release.join("programs"));
    let sides = Sides { house, edgewatch: &edgewatch, programs: &programs, interrupt };
    load::lay_addresses(house)?;
    let mut loads = loads(house, &release.join("load"))?;
    for scenario in scenarios {
        interrupt.check()?;
        eprintln!("{}", scenario.to_possible_value().context("it is shown")?.get_name());
        match scenario {
            Scenario::Beside => beside::measure(&sides, &mut loads, report)?,
            Scenario::Own => own::measure(&sides, &mut loads, report)?,
            Scenario::News => news::measure(&sides, &mut loads, report)?,
            Scenario::Flood => flood::measure(&sides, &mut loads, report)?,
            Scenario::Alert => latency::measure(&edgewatch, house, interrupt, report)?,
            Scenario::Scale => {
                scale::measure(&sides, &mut loads, report, &release.join("load"))?;
            }
            Scenario::Core => core::measure(workspace, interrupt, report)?,
            Scenario::Growth => {
                let load = release.join("load");
                *plot = Some(growth::measure(&sides, &mut loads, report, &load)?);
            }
        }
    }
    Ok(())
}

/// The last processor for the load that is measured, the first for the other.
fn loads(house: &House, load: &Path) -> anyhow::Result<Loads> {
    let cores = std::thread::available_parallelism().context("count the processors")?.get();
    let last = (cores - 1).to_string();
    let plain = ["--cpu", &last];
    let raw = ["--cpu", "0", "--at", "7110"];
    Ok(Loads {
        plain: Load::start(load, house, "bench-load.service", &plain)?,
        raw: Load::start(load, house, "bench-raw.service", &raw)?,
    })
}
