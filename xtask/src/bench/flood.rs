//! A neighbour of a flood: how long its round trips take while another cgroup sends datagrams to
//! addresses and ports that nobody ever saw, as fast as it can, with the agent and without.

use crate::bench::beside::Loads;
use crate::bench::figure::Figure;
use crate::bench::report::Report;
use crate::bench::side::{Side, Sides};

const ROUNDS: usize = 5;
/// The flood outlasts the round trips; both are bounded.
const FLOOD: &str = "flood 2";
const ROUND_TRIPS: &str = "rr 40000";

pub(crate) fn measure(
    sides: &Sides<'_>,
    loads: &mut Loads,
    report: &mut Report,
) -> anyhow::Result<()> {
    let (mut p99, mut with, mut without) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        sides.interrupt.check()?;
        let order = if round % 2 == 0 {
            [Side::Nothing, Side::Normal]
        } else {
            [Side::Normal, Side::Nothing]
        };
        let mut both = [(0.0, 0.0); 2];
        for side in order {
            let standing = sides.start(side, &[])?;
            loads.raw.begin(FLOOD)?;
            let taken = loads.plain.takes(ROUND_TRIPS);
            let flood = loads.raw.answer()?;
            let rate =
                flood["sent"].as_f64().unwrap_or(0.0) / flood["seconds"].as_f64().unwrap_or(1.0);
            both[usize::from(side == Side::Normal)] = (taken?.p99, rate);
            standing.end()?;
        }
        let [nothing, normal] = both;
        p99.push(normal.0 / nothing.0);
        without.push(nothing.1);
        with.push(normal.1);
    }
    let figures = [
        Figure::of(
            "a neighbour's round trip, 99th percentile, to that without the agent",
            "ratio",
            p99,
        )
        .aim(2.0),
        Figure::of("the flood itself, without the agent", "datagrams/s", without),
        Figure::of("the flood itself, with it", "datagrams/s", with),
    ];
    let about = "One cgroup sends datagrams to random addresses and ports on one processor, another \
                 exchanges 64 bytes there and back on the other.";
    report.figures("A flood next door", about, &figures);
    Ok(())
}
