//! What many edges cost: how long the agent takes to be ready with a large baseline, how much memory
//! it holds with edges learned and with edges alive, and what it does when nothing happens.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::bench::beside::Loads;
use crate::bench::figure::Figure;
use crate::bench::load::Load;
use crate::bench::report::Report;
use crate::bench::side::Sides;
use crate::bench::usage;
use crate::house::Agent;
use crate::interrupt::PAUSE;

const SIZES: [usize; 2] = [10_000, 100_000];
const SERVICES: usize = 200;
const STARTS: usize = 5;
/// Processes that hold older sockets: not everybody may have more than twenty thousand files open.
const HOLDERS: usize = 10;
/// How long it is left alone.
const QUIET: Duration = Duration::from_secs(10);
const SETTLE: Duration = Duration::from_secs(2);
/// Holds the most edges with room to spare, none of them a flood's.
pub(crate) const ROOM: &str = "seen = 262144\n[detect]\nbudget = 1048576\n";
/// How long so many edges may take to be known.
const LEARN: Duration = Duration::from_secs(60);

pub(crate) fn measure(
    sides: &Sides<'_>,
    loads: &mut Loads,
    report: &mut Report,
    load: &Path,
) -> anyhow::Result<()> {
    let mut figures = Vec::new();
    for edges in SIZES {
        let name = format!("scale-{edges}");
        let mut agent = Agent::new(sides.edgewatch, sides.house, &name, "mode = \"auto\"\n")?;
        agent.start(sides.interrupt)?;
        import(&agent, edges)?;
        agent.end()?;
        let (mut millis, mut resident) = (Vec::new(), Vec::new());
        for _ in 0..STARTS {
            sides.interrupt.check()?;
            let started = agent.start(sides.interrupt)?;
            millis.push(started.as_secs_f64() * 1e3);
            resident.push(usage::resident(agent.id()?)?);
            if edges == SIZES[0] && millis.len() == STARTS {
                rest(agent.id()?, &mut figures)?;
            }
            agent.end()?;
        }
        let name = |what: &str| format!("{what}, {edges} edges learned");
        let resident = Figure::of(&name("resident memory when ready"), "MiB", resident);
        figures.push(Figure::of(&name("start to ready"), "ms", millis));
        figures.push(if edges == SIZES[0] { resident.aim(20.0) } else { resident });
    }
    figures.push(alive(sides, loads)?);
    older(sides, load, &mut figures)?;
    report.figures("Many edges", "Resident memory includes the program itself.", &figures);
    Ok(())
}

/// What the agent does while nothing happens.
fn rest(agent: u32, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    std::thread::sleep(SETTLE);
    let (started, busy) = (Instant::now(), usage::busy(agent)?);
    let sleeps = usage::sleeps(agent)?;
    std::thread::sleep(QUIET);
    let seconds = started.elapsed().as_secs_f64();
    let share = (usage::busy(agent)? - busy) / seconds * 100.0;
    let sleeps = (usage::sleeps(agent)? - sleeps) / seconds;
    figures.push(Figure::once("at rest, of one processor", "%", share).aim(0.1));
    figures.push(Figure::once("at rest, wake-ups", "a second", sleeps));
    Ok(())
}

/// Memory with the larger number of edges seen at work.
fn alive(sides: &Sides<'_>, loads: &mut Loads) -> anyhow::Result<Figure> {
    let edges = SIZES[1];
    let mut agent = sides.agent("normal", ROOM)?;
    loads.plain.takes(&format!("addresses {edges} {edges}"))?;
    known(sides, &agent, edges)?;
    std::thread::sleep(SETTLE);
    let resident = usage::resident(agent.id()?)?;
    agent.end()?;
    let name = format!("resident memory, {edges} edges alive");
    Ok(Figure::once(&name, "MiB", resident).aim(64.0))
}

/// Started beside as many sockets, of a few processes, all of which are older: both ends of each
/// connection are here.
fn older(sides: &Sides<'_>, load: &Path, figures: &mut Vec<Figure>) -> anyhow::Result<()> {
    let sockets = SIZES[1];
    let mut holding = Vec::new();
    for number in 0..HOLDERS {
        sides.interrupt.check()?;
        let (service, at) =
            (format!("bench-old-{number}.service"), (9000 + 10 * number).to_string());
        let mut load = Load::start(load, sides.house, &service, &["--at", &at])?;
        load.answers(&format!("hold {}", sockets / 2 / HOLDERS))?;
        holding.push(load);
    }
    let (mut millis, mut resident) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        sides.interrupt.check()?;
        let lines = format!("mode = \"learn\"\n[capture]\n{ROOM}");
        let mut agent = Agent::new(sides.edgewatch, sides.house, "older", &lines)?;
        millis.push(agent.start(sides.interrupt)?.as_secs_f64() * 1e3);
        std::thread::sleep(SETTLE);
        resident.push(usage::resident(agent.id()?)?);
        agent.end()?;
    }
    let name = |what: &str| format!("{what}, {sockets} sockets older than it");
    figures.push(Figure::of(&name("start to ready"), "ms", millis).aim(1000.0));
    figures.push(Figure::of(&name("resident memory"), "MiB", resident));
    Ok(())
}

/// Waits until the agent knows so many edges.
pub(crate) fn known(sides: &Sides<'_>, agent: &Agent, edges: usize) -> anyhow::Result<()> {
    let what = format!("{edges} edges");
    sides.interrupt.until(&what, LEARN, PAUSE * 4, || Ok(count(agent)? >= edges as f64))
}

/// How many edges the agent knows.
pub(crate) fn count(agent: &Agent) -> anyhow::Result<f64> {
    let status: serde_json::Value =
        serde_json::from_str(&agent.text(&["status", "--format", "json"])?).context("status")?;
    status["edges"].as_f64().context("no number of edges")
}

/// Gives an agent a guarded baseline of so many edges.
fn import(agent: &Agent, edges: usize) -> anyhow::Result<()> {
    let mut text = String::from("format: edgewatch-baseline/1\nservices:\n");
    for service in 0..SERVICES {
        writeln!(text, "  systemd:service-{service}.service:\n    outbound:")?;
        for peer in 0..edges / SERVICES {
            let (third, fourth) = (peer / 250, peer % 250);
            writeln!(
                text,
                "      - {{to: \"ip:10.{service}.{third}.{fourth}\", ports: [443/tcp], by: [/usr/bin/app]}}"
            )?;
        }
    }
    let file = agent.path("baseline.yaml");
    std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
    agent.text(&["baseline", "import", "--guard", &file.to_string_lossy()]).map(drop)
}
