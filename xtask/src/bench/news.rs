//! How fast an edge is news, and whether it is at all: from the kernel's stamp of a dial to the engine's
//! step that takes it in; from the dial to the line that `edgewatch watch` writes of it, the writing
//! and the reading included; and a burst of new edges while the agent stands still.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use serde_json::Value;

use crate::bench::beside::Loads;
use crate::bench::figure::{Figure, quantile};
use crate::bench::report::Report;
use crate::bench::scale;
use crate::bench::side::Sides;

const DIALS: u16 = 200;
/// As many as the agent remembers, or more.
const STEPS: u16 = 600;
const GAP: Duration = Duration::from_millis(10);
const WAIT: Duration = Duration::from_secs(10);
/// A port of the house `world`, where nobody listens, and those after it.
const FIRST: u16 = 30_000;

/// As many as the machine makes within the second, or more.
const BURST: usize = 24_000;
const STILL: Duration = Duration::from_secs(1);
const FOUND: Duration = Duration::from_secs(15);

pub(crate) fn measure(
    sides: &Sides<'_>,
    loads: &mut Loads,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut figures = stepped(sides, loads)?;
    figures.extend(watched(sides, loads)?);
    figures.push(starved(sides, loads)?);
    let about = "A dial that is refused, one every 10 ms: its outcome is known at once, and the kernel \
                 stamps it then.";
    report.figures("News", about, &figures);
    Ok(())
}

/// What the agent itself says of the news that came to it.
fn stepped(sides: &Sides<'_>, loads: &mut Loads) -> anyhow::Result<Vec<Figure>> {
    let mut agent = sides.agent("normal", "")?;
    for port in FIRST..FIRST + STEPS {
        sides.interrupt.check()?;
        loads.plain.answers(&format!("dial 10.77.0.254:{port}"))?;
        std::thread::sleep(GAP);
    }
    let status = agent.text(&["status", "--format", "json"])?;
    agent.end()?;
    let status: Value = serde_json::from_str(&status).context("read the status")?;
    let millis = |quantile: &str| -> anyhow::Result<f64> {
        let micros = status["news_us"][quantile].as_f64();
        Ok(micros.with_context(|| format!("no news in {status}"))? / 1e3)
    };
    let name = |what: &str| format!("from the kernel's stamp to the engine, {what}");
    Ok(vec![
        Figure::once(&name("median"), "ms", millis("p50")?).aim(1.0),
        Figure::once(&name("99th percentile"), "ms", millis("p99")?).aim(5.0),
    ])
}

fn watched(sides: &Sides<'_>, loads: &mut Loads) -> anyhow::Result<Vec<Figure>> {
    let configuration = sides.house.at.join("watch.toml");
    std::fs::write(&configuration, sides.house.capture())
        .with_context(|| format!("write {}", configuration.display()))?;
    let log = std::fs::File::create(sides.house.at.join("watch.log")).context("create its log")?;
    let mut watch = Command::new(sides.edgewatch);
    watch.args(["watch", "--format", "json", "--config"]).arg(&configuration);
    let mut watch = watch.stdout(Stdio::piped()).stderr(log).spawn().context("start edgewatch")?;
    let (said, lines) = mpsc::channel();
    let out = BufReader::new(watch.stdout.take().context("its lines")?);
    std::thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            if said.send((at.as_secs_f64(), line)).is_err() {
                return;
            }
        }
    });
    let heard = heard(sides, loads, &lines);
    Command::new("kill").args(["-TERM", &watch.id().to_string()]).status().context("end it")?;
    watch.wait().context("wait for its end")?;
    let mut millis = heard?;
    millis.sort_by(f64::total_cmp);
    let p99 = quantile(&millis, 0.99);
    Ok(vec![
        Figure::of("from a dial to its line of `watch`, median", "ms", millis),
        Figure::once("from a dial to its line of `watch`, 99th percentile", "ms", p99),
    ])
}

fn heard(
    sides: &Sides<'_>,
    loads: &mut Loads,
    lines: &mpsc::Receiver<(f64, String)>,
) -> anyhow::Result<Vec<f64>> {
    // It watches from the first dial on that it tells of.
    let mut probe = FIRST;
    sides.interrupt.until("edgewatch watch", WAIT, GAP, || {
        probe -= 1;
        loads.plain.answers(&format!("dial 10.77.0.254:{probe}"))?;
        Ok(lines.recv_timeout(GAP).is_ok())
    })?;
    let mut millis = Vec::new();
    for port in FIRST..FIRST + DIALS {
        sides.interrupt.check()?;
        let answer = loads.plain.answers(&format!("dial 10.77.0.254:{port}"))?;
        let dialled = answer["at"].as_f64().context("when it dialled")?;
        let is_it = format!("\"port\":{port}");
        let at = loop {
            let (at, line) =
                lines.recv_timeout(WAIT).with_context(|| format!("no line of {port}"))?;
            if line.contains(&is_it) {
                break at;
            }
        };
        millis.push((at - dialled) * 1e3);
        std::thread::sleep(GAP);
    }
    Ok(millis)
}

/// The share of the edges of a burst that the agent misses which stood still meanwhile.
fn starved(sides: &Sides<'_>, loads: &mut Loads) -> anyhow::Result<Figure> {
    let mut agent = sides.agent("normal", scale::ROOM)?;
    let id = agent.id()?.to_string();
    let signal = |name: &str| Command::new("kill").args([name, &id]).status().context("signal it");
    signal("-STOP")?;
    let burst = loads.plain.takes(&format!("addresses {BURST} {BURST}"));
    std::thread::sleep(STILL);
    signal("-CONT")?;
    let took = burst?;
    let all = BURST as f64;
    // What is missing after that is the figure.
    drop(sides.interrupt.until("the burst", FOUND, GAP, || Ok(scale::count(&agent)? >= all)));
    sides.interrupt.check()?;
    let lost = (all - scale::count(&agent)?).max(0.0);
    agent.end()?;
    let rate = 1e6 / took.cpu;
    let name = format!(
        "edges lost of {BURST} new ones, {rate:.0} a second of processor time, the agent stopped"
    );
    Ok(Figure::once(&name, "edges", lost).aim(0.0))
}
