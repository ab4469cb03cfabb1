//! What a connection on a known edge costs the program that makes it: the same churn with and without
//! the kernel programs attached, alternating, and the spread of like against like beside it.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, bail};

use crate::bench::figure::Figure;
use crate::house::{House, Running};
use crate::interrupt::Interrupt;

const PAIRS: usize = 12;
const CONNECTIONS: &str = "20000";

pub(crate) fn measure(
    program: &Path,
    house: &House,
    interrupt: &Interrupt,
    figures: &mut Vec<Figure>,
) -> anyhow::Result<()> {
    let configuration = house.at.join("churn.toml");
    std::fs::write(&configuration, house.capture())
        .with_context(|| format!("write {}", configuration.display()))?;
    let (mut alike, mut attached) = (Vec::new(), Vec::new());
    let (mut plain, mut woken) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        interrupt.check()?;
        let (first, second) = (churn(house)?, churn(house)?);
        let mut watching = watch(program, house, &configuration, interrupt)?;
        // Known before it is measured.
        churn(house)?;
        let (with, wakes) = with_wakes(house, watching.id()?)?;
        watching.end()?;
        alike.push(second / first);
        attached.push(with / second);
        plain.push(second);
        woken.push(wakes);
    }
    let name = "connect, accept, close on loopback, both ends";
    figures.extend([
        Figure::of(&format!("{name}: nothing attached"), "µs of processor time", plain),
        Figure::of(&format!("{name}: nothing against nothing, the noise"), "ratio", alike),
        Figure::of(&format!("{name}: attached against nothing"), "ratio", attached),
        Figure::of("wake-ups of the agent for a connection on a known edge", "a connection", woken),
    ]);
    Ok(())
}

/// The churn with the agent attached, and how often each connection woke it beyond what it does at
/// rest in the same time.
fn with_wakes(house: &House, agent: u32) -> anyhow::Result<(f64, f64)> {
    let started = Instant::now();
    let before = switches(agent)?;
    let cost = churn(house)?;
    let busy = switches(agent)? - before;
    std::thread::sleep(started.elapsed());
    let rest = switches(agent)? - before - busy;
    let connections: f64 = CONNECTIONS.parse().context("a number")?;
    Ok((cost, (busy - rest) / connections))
}

/// How often the threads of a process went to sleep by themselves: each wake begins with one.
fn switches(process: u32) -> anyhow::Result<f64> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).context("list its threads")?;
    let mut switches = 0.0;
    for thread in threads {
        let path = thread.context("list its threads")?.path().join("status");
        let status = std::fs::read_to_string(&path).unwrap_or_default();
        let line = status.lines().find_map(|it| it.strip_prefix("voluntary_ctxt_switches:"));
        switches += line.and_then(|it| it.trim().parse::<f64>().ok()).unwrap_or(0.0);
    }
    Ok(switches)
}

/// Microseconds of processor time a connection.
fn churn(house: &House) -> anyhow::Result<f64> {
    let mut perl = house.service("web", "bench-churn.service", Path::new("/usr/bin/perl"))?;
    let output =
        perl.args(["-e", include_str!("churn.pl"), CONNECTIONS]).output().context("start perl")?;
    if !output.status.success() {
        bail!("churn: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    text.parse().with_context(|| format!("churn said {text:?}"))
}

/// Starts `edgewatch watch` and waits until its programs are attached.
fn watch(
    program: &Path,
    house: &House,
    configuration: &Path,
    interrupt: &Interrupt,
) -> anyhow::Result<Running> {
    let mut command = Command::new(program);
    command.args(["watch", "--config"]).arg(configuration);
    let watching = Running::start(command, house.at.join("watch.log"))?;
    watching.says("attached", interrupt)?;
    Ok(watching)
}
