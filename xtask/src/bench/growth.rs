//! What a connection costs inside of the kernel's programs against what there is more of on a larger
//! machine: edges known, cgroups watched, processors that dial at once; and the agent beside it.

use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;

use crate::bench::beside::Loads;
use crate::bench::figure::{Figure, Spread};
use crate::bench::load::Load;
use crate::bench::plot::{self, Panel, Series};
use crate::bench::report::Report;
use crate::bench::scale;
use crate::bench::side::{Side, Sides, Standing};
use crate::bench::usage;

/// Where the drawing stands.
pub(crate) const PLOT: &str = "docs/benchmarks.svg";

const EDGES: [usize; 5] = [10, 100, 1000, 10_000, 100_000];
const CGROUPS: [usize; 5] = [1, 10, 100, 1000, 10_000];
const CONNECTIONS: usize = 6000;
const ROUNDS: usize = 6;
/// The floor, and the agent's two configurations.
const SIDES: [(Side, &str); 3] =
    [(Side::Empty, "empty programs"), (Side::Normal, "normal"), (Side::Full, "full")];

/// Measures all three and draws them.
pub(crate) fn measure(
    sides: &Sides<'_>,
    loads: &mut Loads,
    report: &mut Report,
    load: &Path,
) -> anyhow::Result<String> {
    let mut figures = Vec::new();
    let hooks = sides.hooks()?;
    let panels = [
        edges(sides, loads, &hooks)?,
        processors(sides, load, &hooks)?,
        cgroups(sides, loads, &hooks, &mut figures)?,
    ];
    let mut rows = Vec::new();
    for panel in &panels {
        for series in &panel.series {
            for (at, spread) in panel.at.iter().zip(&series.points) {
                let what = format!("{at} {}, {}", panel.axis, series.name);
                rows.push(vec![what, spread.written()]);
            }
        }
    }
    let about = "Microseconds inside of kernel programs for a connection on a known edge, as the kernel \
                 takes them. Edges: one connection after the other to addresses far apart, \
                 of which the other end is not watched; else both ends are.";
    report.table("Growth", about, &["with", "µs a connection"], rows);
    let about = "The agent with many cgroups in the part of the hierarchy that it watches.";
    report.figures("Many cgroups", about, &figures);
    plot::draw(&panels)
}

fn edges(sides: &Sides<'_>, loads: &mut Loads, hooks: &[(u32, u32)]) -> anyhow::Result<Panel> {
    let mut panel = Panel::new("Edges known", "edges", &EDGES);
    for (side, name) in SIDES {
        let standing = sides.start_with(side, hooks, scale::ROOM)?;
        let mut points = Vec::new();
        for edges in EDGES {
            loads.plain.takes(&format!("addresses {edges} {edges}"))?;
            if let Some(agent) = standing.agent() {
                scale::known(sides, agent, edges)?;
            }
            points.push(inside(sides, &standing, &mut || among(loads, edges))?);
        }
        standing.end()?;
        panel.series.push(Series { name, points });
    }
    Ok(panel)
}

fn among(loads: &mut Loads, edges: usize) -> anyhow::Result<f64> {
    Ok(loads.plain.takes(&format!("addresses {CONNECTIONS} {edges}"))?.count)
}

fn processors(sides: &Sides<'_>, load: &Path, hooks: &[(u32, u32)]) -> anyhow::Result<Panel> {
    let cores = std::thread::available_parallelism().context("count the processors")?.get();
    let mut counts: Vec<usize> = (0..).map(|it| 1 << it).take_while(|it| *it < cores).collect();
    counts.push(cores);
    let mut loads = Vec::new();
    for cpu in 0..cores {
        let (service, at) = (format!("bench-cpu-{cpu}.service"), (8000 + 10 * cpu).to_string());
        let options = ["--cpu", &cpu.to_string(), "--at", &at];
        loads.push(Load::start(load, sides.house, &service, &options)?);
    }
    let mut panel = Panel::new("Processors that dial at once", "processors", &counts);
    for (side, name) in SIDES {
        let standing = sides.start(side, hooks)?;
        let mut points = Vec::new();
        for count in &counts {
            let loads = &mut loads[..*count];
            together(loads)?;
            points.push(inside(sides, &standing, &mut || together(loads))?);
        }
        standing.end()?;
        panel.series.push(Series { name, points });
    }
    Ok(panel)
}

fn together(loads: &mut [Load]) -> anyhow::Result<f64> {
    for load in &mut *loads {
        load.begin(&format!("churn {CONNECTIONS}"))?;
    }
    let mut count = 0.0;
    for load in loads {
        count += Load::taken(&load.answer()?).context("what it took")?.count;
    }
    Ok(count)
}

fn cgroups(
    sides: &Sides<'_>,
    loads: &mut Loads,
    hooks: &[(u32, u32)],
    figures: &mut Vec<Figure>,
) -> anyhow::Result<Panel> {
    let mut panel = Panel::new("Cgroups watched", "cgroups", &CGROUPS);
    panel.series.extend(SIDES.map(|(_, name)| Series { name, points: Vec::new() }));
    let many = sides.house.node().join("bench-many.slice");
    let mut made = 0;
    for cgroups in CGROUPS {
        for cgroup in made..cgroups {
            let at = many.join(format!("bench-{cgroup}.service"));
            std::fs::create_dir_all(&at).with_context(|| format!("create {}", at.display()))?;
        }
        made = cgroups;
        for ((side, _), series) in SIDES.into_iter().zip(&mut panel.series) {
            let started = Instant::now();
            let standing = sides.start(side, hooks)?;
            let started = started.elapsed().as_secs_f64() * 1e3;
            churn(loads)?;
            series.points.push(inside(sides, &standing, &mut || churn(loads))?);
            if side == Side::Normal && cgroups == CGROUPS[CGROUPS.len() - 1] {
                let name = |what: &str| format!("{what}, {cgroups} cgroups");
                let resident = usage::resident(standing.id().context("it stands")?)?;
                figures.push(Figure::once(&name("start to ready"), "ms", started));
                figures.push(Figure::once(&name("resident memory"), "MiB", resident));
            }
            standing.end()?;
        }
    }
    Ok(panel)
}

fn churn(loads: &mut Loads) -> anyhow::Result<f64> {
    Ok(loads.plain.takes(&format!("churn {CONNECTIONS}"))?.count)
}

/// Microseconds inside of the programs of a side, for a connection; `act` makes some and says how
/// many.
fn inside(
    sides: &Sides<'_>,
    standing: &Standing,
    act: &mut dyn FnMut() -> anyhow::Result<f64>,
) -> anyhow::Result<Spread> {
    let timed = sides.timed()?;
    let mut values = Vec::new();
    for _ in 0..ROUNDS {
        sides.interrupt.check()?;
        let before = standing.held()?;
        let count = act()?;
        let since = standing.held()?.since(&before);
        values.push(since.values().map(|it| it.seconds).sum::<f64>() * 1e6 / count);
    }
    drop(timed);
    Ok(Spread::of(values))
}
