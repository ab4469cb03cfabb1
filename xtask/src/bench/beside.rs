//! The comparison: each side beside nothing, in turns and in an order that alternates, with all
//! traffic of a visit in one go; and the time inside of the kernel's programs, which the kernel takes
//! itself. Agents begin each visit with nothing learned.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::bench::figure::{Figure, Spread, written};
use crate::bench::load::{Load, Taken};
use crate::bench::report::Report;
use crate::bench::side::{EACH_TOLD, Peer, Side, Sides, Standing};
use crate::bench::usage;
use crate::machine;

/// How often each side is visited.
const ROUNDS: usize = 9;

/// What is measured: as the load is ordered, and by which of the two.
const TRAFFIC: [(Traffic, &str); 5] = [
    (Traffic::Known, "churn 6000"),
    (Traffic::New, "ports 2000"),
    (Traffic::Datagrams, "udp 20000"),
    (Traffic::RoundTrips, "rr 8000"),
    (Traffic::BesideRaw, "rr 8000"),
];
/// What makes all of it known, but for the ports.
const WARM: [&str; 3] = ["churn 500", "datagrams 500", "rr 500"];
const TIMED: f64 = 4000.0;
/// For what a side has not yet read.
const DRAIN: Duration = Duration::from_millis(200);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Traffic {
    Known,
    New,
    Datagrams,
    RoundTrips,
    BesideRaw,
}

/// The loads: one of them in a cgroup that has made a raw socket.
pub(crate) struct Loads {
    pub(crate) plain: Load,
    pub(crate) raw: Load,
}

/// What a visit found.
struct Visit {
    /// Beside nothing: processor time, and the call's median and 99th percentile.
    beside: BTreeMap<Traffic, [f64; 3]>,
    alone: Taken,
    /// Microseconds of a connection on a known edge beyond one beside nothing.
    beyond: f64,
    /// Microseconds inside of programs for a connection; absent where it has none.
    inside: Option<f64>,
    programs: Vec<Run>,
    /// Its own processor time for a connection, in microseconds.
    busy: f64,
    resident: f64,
    maps: f64,
    /// Of the connections made, those that it told of.
    seen: Option<f64>,
}

/// A program at work.
struct Run {
    name: String,
    traffic: Traffic,
    instructions: f64,
    verified: f64,
    nanos: f64,
    /// A connection or a datagram.
    runs: f64,
}

/// A side and its visits.
struct Column {
    side: Side,
    visits: Vec<Visit>,
}

pub(crate) fn measure(
    sides: &Sides<'_>,
    loads: &mut Loads,
    report: &mut Report,
) -> anyhow::Result<()> {
    let hooks = sides.hooks()?;
    let (installed, missing): (Vec<Peer>, Vec<Peer>) =
        Peer::ALL.into_iter().partition(|it| machine::program(it.program()).is_some());
    let own = [Side::Nothing, Side::Empty, Side::Normal, Side::Full];
    let all = own.into_iter().chain(installed.into_iter().map(Side::Peer));
    let mut columns: Vec<Column> =
        all.map(|side| Column { side, visits: Vec::with_capacity(ROUNDS) }).collect();
    loads.plain.answers("listen 2000")?;
    for round in 0..ROUNDS {
        eprintln!("  round {} of {ROUNDS}", round + 1);
        for column in &mut columns {
            sides.interrupt.check()?;
            let visit = if round % 2 == 0 {
                let without = traffic(loads)?;
                with(sides, loads, column.side, &hooks)?.beside(&without)
            } else {
                let with = with(sides, loads, column.side, &hooks)?;
                with.beside(&traffic(loads)?)
            };
            column.visits.push(visit);
        }
    }
    loads.plain.answers("listen 0")?;
    let missing: Vec<&str> = missing.into_iter().map(Peer::program).collect();
    tell(&columns, &missing, report);
    Ok(())
}

type Traffics = BTreeMap<Traffic, Taken>;

/// All traffic, once.
fn traffic(loads: &mut Loads) -> anyhow::Result<Traffics> {
    let takes = |(traffic, order): (Traffic, &str)| {
        let load = match traffic {
            Traffic::BesideRaw => &mut loads.raw,
            _ => &mut loads.plain,
        };
        Ok((traffic, load.takes(order)?))
    };
    TRAFFIC.into_iter().map(takes).collect()
}

/// A visit to a side, not yet beside nothing.
struct With {
    traffics: Traffics,
    visit: Visit,
}

fn with(
    sides: &Sides<'_>,
    loads: &mut Loads,
    side: Side,
    hooks: &[(u32, u32)],
) -> anyhow::Result<With> {
    let standing = sides.start_with(side, hooks, EACH_TOLD)?;
    // News to whoever stands, who has the time of the first churn to look after it.
    loads.raw.answers("raw")?;
    for order in WARM {
        loads.plain.takes(order)?;
        loads.raw.takes(order)?;
    }
    let busy = standing.busy()?;
    let known = loads.plain.takes("churn 6000")?;
    std::thread::sleep(DRAIN);
    let busy = (standing.busy()? - busy) * 1e6 / known.count;
    let busy = if standing.id().is_some() { busy } else { f64::NAN };
    let traffics = traffic(loads)?;
    let resident = standing.id().map_or(Ok(f64::NAN), usage::resident)?;
    let maps = standing.held()?.maps;
    let (inside, programs) = timed(sides, loads, &standing)?;
    std::thread::sleep(DRAIN);
    // Both churns, what made it known, the timed ones, and the round trips' own connections.
    let made = 500.0 + known.count + traffics[&Traffic::Known].count + TIMED + 2.0;
    let seen = standing.end()?.map(|seen| seen / made);
    let alone = traffics[&Traffic::Known];
    let beside = BTreeMap::new();
    Ok(With {
        traffics,
        visit: Visit {
            beside,
            alone,
            beyond: f64::NAN,
            inside,
            programs,
            busy,
            resident,
            maps,
            seen,
        },
    })
}

/// What the kernel says of each run of a side's programs.
fn timed(
    sides: &Sides<'_>,
    loads: &mut Loads,
    standing: &Standing,
) -> anyhow::Result<(Option<f64>, Vec<Run>)> {
    let loaded = usage::loaded(sides.programs)?;
    let timed = sides.timed()?;
    let mut programs = Vec::new();
    let mut inside = None;
    for (traffic, order) in [(Traffic::Known, "churn"), (Traffic::Datagrams, "datagrams")] {
        let before = standing.held()?;
        loads.plain.takes(&format!("{order} {TIMED}"))?;
        let since = standing.held()?.since(&before);
        if traffic == Traffic::Known && !since.is_empty() {
            inside = Some(since.values().map(|it| it.seconds).sum::<f64>() * 1e6 / TIMED);
        }
        for (id, program) in since {
            let (name, instructions) = loaded.get(&id).cloned().unwrap_or_default();
            programs.push(Run {
                name,
                traffic,
                instructions,
                verified: program.verified,
                nanos: program.seconds * 1e9 / program.runs,
                runs: program.runs / TIMED,
            });
        }
    }
    drop(timed);
    Ok((inside, programs))
}

impl With {
    fn beside(mut self, nothing: &Traffics) -> Visit {
        let ratio = |traffic: &Traffic, with: &Taken| {
            let without = nothing[traffic];
            [with.cpu / without.cpu, with.p50 / without.p50, with.p99 / without.p99]
        };
        let ratios = self.traffics.iter().map(|(traffic, with)| (*traffic, ratio(traffic, with)));
        self.visit.beside = ratios.collect();
        self.visit.beyond = self.traffics[&Traffic::Known].cpu - nothing[&Traffic::Known].cpu;
        if self.visit.inside.is_none() {
            self.visit.alone = nothing[&Traffic::Known];
        }
        self.visit
    }
}

impl Column {
    fn values(&self, of: impl Fn(&Visit) -> f64) -> Vec<f64> {
        self.visits.iter().map(of).collect()
    }

    fn spread(&self, of: impl Fn(&Visit) -> f64) -> Spread {
        Spread::of(self.values(of))
    }

    fn ratios(&self, traffic: Traffic, which: usize) -> Vec<f64> {
        self.values(|visit| visit.beside[&traffic][which])
    }

    fn ratio(&self, traffic: Traffic, which: usize) -> String {
        Spread::of(self.ratios(traffic, which)).written()
    }

    /// Nanoseconds of a program's run with this traffic, in each visit where it ran.
    fn runs(&self, name: &str, traffic: Traffic, of: impl Fn(&Run) -> f64) -> Vec<f64> {
        let runs = self.visits.iter().flat_map(|it| &it.programs);
        runs.filter(|it| it.name == name && it.traffic == traffic).map(of).collect()
    }
}

fn tell(columns: &[Column], missing: &[&str], report: &mut Report) {
    let column = |side: Side| columns.iter().find(|it| it.side == side);
    let missing = match missing {
        [] => String::new(),
        missing => format!(" Not installed here: {}.", missing.join(", ")),
    };
    connections(columns, &missing, report);
    others(columns, report);
    if let (Some(normal), Some(full)) = (column(Side::Normal), column(Side::Full)) {
        programs(normal, full, report);
        report.aims(&aims(normal, full));
        report.aims(&cheapest(columns, normal, full));
    }
}

fn connections(columns: &[Column], missing: &str, report: &mut Report) {
    let rows = columns.iter().map(|column| {
        let of = |of: fn(&Visit) -> f64| written(column.spread(of).median);
        vec![
            column.side.name(),
            column.ratio(Traffic::Known, 0),
            column.ratio(Traffic::Known, 1),
            column.ratio(Traffic::Known, 2),
            column.spread(|visit| visit.inside.unwrap_or(f64::NAN)).written(),
            of(|visit| visit.busy),
            of(|visit| visit.resident),
            of(|visit| visit.maps),
            column
                .visits
                .first()
                .and_then(|it| it.seen)
                .map_or_else(|| "–".to_owned(), |_| of(|visit| visit.seen.unwrap_or(f64::NAN))),
        ]
    });
    let alone = columns.iter().flat_map(|it| it.visits.iter());
    let alone = alone.filter(|it| it.inside.is_none()).map(|it| it.alone.cpu).collect();
    let about = format!(
        "Connect, accept and close on loopback, both ends in one watched cgroup, one thread: {} µs of \
         processor time with nothing attached. Ratios are to that, of the thread's processor \
         time and of how long `connect()` took. Then microseconds a connection: inside of kernel \
         programs as the kernel takes it (which adds about 0.04 µs to each run), and of the \
         program's own processor time, what it does at rest included. Memory in MiB. Last, which \
         share of the connections it told of, where it tells.{missing}",
        Spread::of(alone).written()
    );
    let head = [
        "attached",
        "time",
        "`connect()` p50",
        "p99",
        "in the kernel",
        "own",
        "resident",
        "maps",
        "told",
    ];
    report.table("A connection on a known edge", &about, &head, rows.collect());
}

fn others(columns: &[Column], report: &mut Report) {
    let rows = columns.iter().map(|column| {
        let ratio = |traffic| column.ratio(traffic, 0);
        vec![
            column.side.name(),
            ratio(Traffic::New),
            ratio(Traffic::Datagrams),
            ratio(Traffic::RoundTrips),
            ratio(Traffic::BesideRaw),
        ]
    });
    let about = "Processor time, as a ratio to that with nothing attached: connections that are each a \
                 new edge; a datagram of an unconnected socket, sent and taken; 64 bytes there and \
                 back on an established connection, in a cgroup that never made a raw socket and in \
                 one that did.";
    let head = ["attached", "all edges new", "UDP", "round trip", "beside a raw socket"];
    report.table("Other traffic", about, &head, rows.collect());
}

/// A table of the programs that ran, and how large all of them are.
fn programs(normal: &Column, full: &Column, report: &mut Report) {
    let Some(last) = normal.visits.last() else { return };
    let mut rows: Vec<Vec<String>> = Vec::new();
    for run in &last.programs {
        let Run { name, traffic, instructions, verified, .. } = run;
        let median = |column: &Column, of: fn(&Run) -> f64| {
            written(Spread::of(column.runs(name, *traffic, of)).median)
        };
        let ran = run.runs > 0.01;
        // What never ran is said once.
        if !ran && (*traffic == Traffic::Datagrams || last.ran(name)) {
            continue;
        }
        let each = if *traffic == Traffic::Known { "a connection" } else { "a datagram" };
        let mut row =
            vec![format!("`{name}`"), format!("{instructions:.0}"), format!("{verified:.0}")];
        if ran {
            let runs = |column| median(column, |it| it.runs);
            let nanos = |column| median(column, |it| it.nanos);
            row.extend([each.to_owned(), runs(normal), nanos(normal), nanos(full)]);
        } else {
            row.extend([const { String::new() }; 4]);
        }
        rows.push(row);
    }
    rows.sort();
    let about = "Instructions as the kernel holds them, and as many as the verifier went through. Runs, \
                 and nanoseconds of each, on a known edge, where it runs at all.";
    let head =
        ["program", "instructions", "verified", "runs for", "runs", "ns, normal", "ns, full"];
    report.table("The kernel programs", about, &head, rows);
}

impl Visit {
    fn ran(&self, name: &str) -> bool {
        self.programs.iter().any(|it| it.name == name && it.runs > 0.01)
    }
}

fn aims(normal: &Column, full: &Column) -> Vec<Figure> {
    let mut aims = Vec::new();
    let mut ratio = |name: &str, column: &Column, traffic, which, most: f64| {
        aims.push(Figure::of(name, "ratio", column.ratios(traffic, which)).aim(most));
    };
    ratio("a connection on a known edge", normal, Traffic::Known, 0, 1.06);
    ratio("the same, full", full, Traffic::Known, 0, 1.10);
    ratio("`connect()`, median", normal, Traffic::Known, 1, 1.10);
    ratio("`connect()`, 99th percentile", normal, Traffic::Known, 2, 1.20);
    ratio("a connection on a new edge", normal, Traffic::New, 0, 1.10);
    ratio("an established round trip", normal, Traffic::RoundTrips, 0, 1.01);
    ratio("the same beside a raw socket", normal, Traffic::BesideRaw, 0, 1.03);
    ratio("a datagram of an unconnected socket", normal, Traffic::Datagrams, 0, 1.12);
    let inside = |column: &Column| column.values(|it| it.inside.unwrap_or(f64::NAN));
    let hit = normal.runs("sendmsg4", Traffic::Datagrams, |it| it.nanos / 1e3);
    let kernel = [
        Figure::of("in the kernel, a connection, both ends", "µs", inside(normal)).aim(2.2),
        Figure::of("the same, full", "µs", inside(full)).aim(3.3),
        Figure::of("in the kernel, a known edge without a connection's state", "µs", hit).aim(0.6),
        Figure::of("memory of the kernel's maps", "MiB", normal.values(|it| it.maps)).aim(12.0),
    ];
    kernel.into_iter().chain(aims).collect()
}

/// What a connection costs with ours attached, to what it costs with the cheapest of the others that
/// tells of each: beyond what it takes alone, and with what the program itself takes to tell of it.
fn cheapest(columns: &[Column], normal: &Column, full: &Column) -> Vec<Figure> {
    let costs = |column: &Column| column.spread(|it| it.beyond + it.busy).median;
    let tells = |side: Side| matches!(side, Side::Peer(peer) if peer.tells_each());
    let peers = columns.iter().filter(|it| tells(it.side));
    let Some(peer) = peers.min_by(|a, b| costs(a).total_cmp(&costs(b))) else { return Vec::new() };
    let figure = |what: &str, column: &Column| {
        let name = format!(
            "what a connection costs more with {what}, the program's own time included, to the same \
             with {}, the cheapest that tells of each ({} µs)",
            peer.side.name(),
            written(costs(peer))
        );
        Figure::once(&name, "ratio", costs(column) / costs(peer)).aim(1.0)
    };
    vec![figure("edgewatch", normal), figure("edgewatch in full", full)]
}
