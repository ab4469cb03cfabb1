//! What the agent itself takes: for a connection on a known edge, for a new edge and for the first at a
//! listener, beyond what it takes at rest in the same time; how often it is woken; and its kernel maps in
//! a small profile.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::bench::beside::Loads;
use crate::bench::figure::Figure;
use crate::bench::report::Report;
use crate::bench::side::{EACH_TOLD, Sides};
use crate::bench::usage::{self, Held};

const ROUNDS: usize = 3;
const KNOWN: &str = "churn 60000";
/// To one server, which nobody watches, at as many addresses.
const NEW: &str = "addresses 6000 6000";
/// To as many servers, both ends watched: what is asked once of a listener is asked at each. So many that
/// the keys of all, three for each, find room in the kernel's table: what it forgets is told again.
const FIRST: &str = "ports 4000";
const LISTENERS: &str = "listen 4000";
/// As long as it may take until news of a burst are worked off.
const SETTLE: Duration = Duration::from_millis(1500);
/// How long it is looked at before and after.
const REST: Duration = Duration::from_secs(3);
/// The agent goes through its tables, and looks at new listeners, this often. What there is to be gone
/// through is more after new edges than before: so long is looked at them, and at rest, that each has one
/// of these.
const ROUND: Duration = Duration::from_secs(10);
/// The documentation of the configuration, and what stands before the sizes for a small machine in it.
const DOCUMENTED: &str = include_str!("../../../docs/configuration.md");
const SMALL: &str = "within 3 MiB:\n\n```toml\n[capture]\n";

/// What an agent took during an order and a while after it, beyond the same time at rest.
struct Extra {
    micros: f64,
    wakes: f64,
}

/// How long it is looked at: from the order on, and at rest before and after.
#[derive(Clone, Copy)]
struct Spans {
    order: Duration,
    rest: Duration,
}

const SHORT: Spans = Spans { order: SETTLE, rest: REST };
const WHOLE: Spans = Spans { order: ROUND, rest: ROUND };

pub(crate) fn measure(
    sides: &Sides<'_>,
    loads: &mut Loads,
    report: &mut Report,
) -> anyhow::Result<()> {
    let mut figures = Vec::new();
    for detail in ["normal", "full"] {
        let (mut known, mut wakes) = (Vec::new(), Vec::new());
        let (mut new, mut first) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            sides.interrupt.check()?;
            let mut agent = sides.agent(detail, EACH_TOLD)?;
            let id = agent.id()?;
            loads.plain.takes("churn 500")?;
            std::thread::sleep(SETTLE);
            let extra = extra(id, loads, KNOWN, SHORT)?;
            known.push(extra.micros);
            wakes.push(extra.wakes);
            new.push(self::extra(id, loads, NEW, WHOLE)?.micros);
            agent.end()?;
            // Another, which knows nothing: what is gone through every so often is what came of this.
            let mut agent = sides.agent(detail, EACH_TOLD)?;
            // To look after so many listeners is more than rest.
            loads.plain.answers(LISTENERS)?;
            std::thread::sleep(SETTLE);
            first.push(self::extra(agent.id()?, loads, FIRST, WHOLE)?.micros);
            loads.plain.answers("listen 0")?;
            agent.end()?;
        }
        let name = |what: &str| format!("{what}, `detail = {detail:?}`");
        figures.push(Figure::of(&name("a connection on a known edge"), "µs", known).aim(0.1));
        figures.push(
            Figure::of(&name("a connection on a new edge, one end watched"), "µs", new).aim(5.0),
        );
        let name_of_first = name("a connection on a new edge at a new listener, both ends watched");
        figures.push(Figure::of(&name_of_first, "µs", first).aim(5.0));
        figures.push(Figure::of(&name("wake-ups a connection on a known edge"), "", wakes));
    }
    let mut agent = sides.agent("normal", small()?)?;
    let maps = Held::by(agent.id()?)?.maps;
    agent.end()?;
    figures.push(Figure::once("kernel maps of a small profile", "MiB", maps).aim(3.0));
    let about = "Processor time and wake-ups of the agent, beyond what it takes at rest in the same time; \
                 of new edges during the ten seconds that begin with them, in which it stores them and goes \
                 through its tables once.";
    report.figures("The agent itself", about, &figures);
    Ok(())
}

/// The sizes that are documented for a small machine.
fn small() -> anyhow::Result<&'static str> {
    let (_, sizes) = DOCUMENTED.split_once(SMALL).context("no sizes for a small machine")?;
    let (sizes, _) = sizes.split_once("```").context("their end")?;
    Ok(sizes)
}

fn extra(agent: u32, loads: &mut Loads, order: &str, spans: Spans) -> anyhow::Result<Extra> {
    let before = rest(agent, spans.rest)?;
    let started = Instant::now();
    let (busy, sleeps) = (usage::busy(agent)?, usage::sleeps(agent)?);
    let count = loads.plain.takes(order)?.count;
    // What the order itself took is part of the span, unless it was longer.
    std::thread::sleep(spans.order.saturating_sub(started.elapsed()).max(SETTLE));
    let during = started.elapsed();
    let (busy, sleeps) = (usage::busy(agent)? - busy, usage::sleeps(agent)? - sleeps);
    let after = rest(agent, spans.rest)?;
    // What it does now and then falls into one of them or another.
    let rest = |before: f64, after: f64| (before + after) / 2.0 * during.as_secs_f64();
    Ok(Extra {
        micros: (busy - rest(before.0, after.0)) * 1e6 / count,
        wakes: (sleeps - rest(before.1, after.1)) / count,
    })
}

/// Processor time and sleeps a second while nothing happens.
fn rest(agent: u32, during: Duration) -> anyhow::Result<(f64, f64)> {
    let (busy, sleeps) = (usage::busy(agent)?, usage::sleeps(agent)?);
    std::thread::sleep(during);
    let a_second = |used: f64| used / during.as_secs_f64();
    Ok((a_second(usage::busy(agent)? - busy), a_second(usage::sleeps(agent)? - sleeps)))
}
