//! What a connection costs inside of the kernel's programs against what there is more of on a larger
//! machine: edges known, cgroups watched, processors that dial at once; and the agent beside it.

use std::path::Path;

use anyhow::Context as _;

use crate::bench::beside::Loads;
use crate::bench::figure::{Figure, Spread, written};
use crate::bench::load::Load;
use crate::bench::plot::{self, Panel, Series};
use crate::bench::report::Report;
use crate::bench::scale;
use crate::bench::side::{Side, Sides};
use crate::bench::usage::{self, Held};
use crate::house::Agent;

/// Where the drawing stands.
pub(crate) const PLOT: &str = "docs/benchmarks.svg";

const EDGES: [usize; 5] = [10, 100, 1000, 10_000, 100_000];
const CGROUPS: [usize; 5] = [1, 10, 100, 1000, 10_000];
/// Holds the most edges with room to spare.
const ROOM: &str = "seen = 262144\n";
const CONNECTIONS: usize = 6000;
const ROUNDS: usize = 6;
const DETAILS: [&str; 2] = ["normal", "full"];

/// Measures all three and draws them.
pub(crate) fn measure(
    sides: &Sides<'_>,
    loads: &mut Loads,
    report: &mut Report,
    load: &Path,
) -> anyhow::Result<String> {
    let mut figures = Vec::new();
    let panels =
        [edges(sides, loads)?, processors(sides, load)?, cgroups(sides, loads, &mut figures)?];
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

fn edges(sides: &Sides<'_>, loads: &mut Loads) -> anyhow::Result<Panel> {
    let mut panel = Panel::new("Edges known", "edges", &EDGES);
    let hooks = sides.hooks()?;
    let standing = sides.start(Side::Empty, &hooks)?;
    let id = standing.id().context("it stands")?;
    let mut points = Vec::new();
    for edges in EDGES {
        points.push(inside(sides, id, &mut || among(loads, edges))?);
    }
    standing.end()?;
    panel.series.push(Series { name: "empty programs", points });
    for detail in DETAILS {
        let mut agent = sides.agent(detail, ROOM)?;
        let mut points = Vec::new();
        for edges in EDGES {
            loads.plain.takes(&format!("addresses {edges} {edges}"))?;
            scale::known(sides, &agent, edges)?;
            points.push(inside(sides, agent.id()?, &mut || among(loads, edges))?);
        }
        agent.end()?;
        panel.series.push(Series { name: detail, points });
    }
    Ok(panel)
}

fn among(loads: &mut Loads, edges: usize) -> anyhow::Result<f64> {
    Ok(loads.plain.takes(&format!("addresses {CONNECTIONS} {edges}"))?.count)
}

fn processors(sides: &Sides<'_>, load: &Path) -> anyhow::Result<Panel> {
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
    for detail in DETAILS {
        let mut agent = sides.agent(detail, "")?;
        let mut points = Vec::new();
        for count in &counts {
            let loads = &mut loads[..*count];
            together(loads)?;
            points.push(inside(sides, agent.id()?, &mut || together(loads))?);
        }
        agent.end()?;
        panel.series.push(Series { name: detail, points });
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
    figures: &mut Vec<Figure>,
) -> anyhow::Result<Panel> {
    let mut panel = Panel::new("Cgroups watched", "cgroups", &CGROUPS);
    let many = sides.house.node().join("bench-many.slice");
    let (mut normal, mut full) = (Vec::new(), Vec::new());
    for (index, cgroups) in CGROUPS.into_iter().enumerate() {
        let made = index.checked_sub(1).map_or(0, |it| CGROUPS[it]);
        for cgroup in made..cgroups {
            let at = many.join(format!("bench-{cgroup}.service"));
            std::fs::create_dir_all(&at).with_context(|| format!("create {}", at.display()))?;
        }
        for (detail, points) in DETAILS.into_iter().zip([&mut normal, &mut full]) {
            sides.interrupt.check()?;
            let lines = format!("mode = \"learn\"\n[capture]\ndetail = {detail:?}\n");
            let mut agent = Agent::new(sides.edgewatch, sides.house, "cgroups", &lines)?;
            let started = agent.start(sides.interrupt)?;
            churn(loads)?;
            points.push(inside(sides, agent.id()?, &mut || churn(loads))?);
            if detail == DETAILS[0] && cgroups == CGROUPS[CGROUPS.len() - 1] {
                let name = |what: &str| format!("{what}, {cgroups} cgroups");
                let resident = usage::resident(agent.id()?)?;
                figures.push(Figure::once(
                    &name("start to ready"),
                    "ms",
                    started.as_secs_f64() * 1e3,
                ));
                figures.push(Figure::once(&name("resident memory"), "MiB", resident));
            }
            agent.end()?;
        }
    }
    panel.series.push(Series { name: DETAILS[0], points: normal });
    panel.series.push(Series { name: DETAILS[1], points: full });
    Ok(panel)
}

fn churn(loads: &mut Loads) -> anyhow::Result<f64> {
    Ok(loads.plain.takes(&format!("churn {CONNECTIONS}"))?.count)
}

/// Microseconds inside of the programs that a process holds, for a connection; `act` makes some and
/// says how many.
fn inside(
    sides: &Sides<'_>,
    process: u32,
    act: &mut dyn FnMut() -> anyhow::Result<f64>,
) -> anyhow::Result<Spread> {
    let timed = sides.timed()?;
    let mut values = Vec::new();
    for _ in 0..ROUNDS {
        sides.interrupt.check()?;
        let before = Held::by(process)?;
        let count = act()?;
        let since = Held::by(process)?.since(&before);
        values.push(since.values().map(|it| it.seconds).sum::<f64>() * 1e6 / count);
    }
    drop(timed);
    let spread = Spread::of(values);
    eprintln!("  {} µs", written(spread.median));
    Ok(spread)
}
