//! What a large baseline costs: how long the agent takes to be ready with it, and how much memory it
//! holds.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context as _;

use crate::bench::figure::Figure;
use crate::house::{Agent, House};
use crate::interrupt::Interrupt;

const SIZES: [usize; 2] = [10_000, 100_000];
const SERVICES: usize = 200;
const STARTS: usize = 5;

pub(crate) fn measure(
    program: &Path,
    house: &House,
    interrupt: &Interrupt,
    figures: &mut Vec<Figure>,
) -> anyhow::Result<()> {
    for edges in SIZES {
        let name = format!("scale-{edges}");
        let mut agent = Agent::new(program, house, &name, "mode = \"auto\"\n")?;
        agent.start(interrupt)?;
        import(&agent, edges)?;
        agent.end()?;
        let (mut millis, mut resident) = (Vec::new(), Vec::new());
        for _ in 0..STARTS {
            interrupt.check()?;
            let started = agent.start(interrupt)?;
            millis.push(started.as_secs_f64() * 1e3);
            resident.push(resident_mib(agent.id()?)?);
            agent.end()?;
        }
        let name = |what: &str| format!("{what}, baseline of {edges} edges");
        figures.push(Figure::of(&name("start to ready"), "ms", millis));
        figures.push(Figure::of(&name("resident memory when ready"), "MiB", resident));
    }
    Ok(())
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

fn resident_mib(process: u32) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"));
    let status = status.context("read status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.context("no VmRSS")? / 1024.0)
}
