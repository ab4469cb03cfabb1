//! How many of the kernel's bytes the agent turns into values a second, on one core. Prints one JSON
//! object a line for `cargo xtask bench`, as `monitor-core/benches/steps.rs` does.
#![expect(clippy::print_stdout, reason = "a bench speaks to whoever runs it")]

use std::hint::black_box;
use std::time::Instant;

use monitor::capture::fuzzing;

const ROUNDS: usize = 15;
const COUNT: usize = 200_000;

/// As the kernel lays them out: a ring's record, and a key of the seen-map with its value.
const RECORD: &[u8] = include_bytes!("../../fuzz/seeds/decode/flow-out");
const ENTRY: &[u8] = include_bytes!("../../fuzz/seeds/decode/entry");

fn main() {
    let record = |bytes: &[u8]| fuzzing::record(bytes).is_some();
    let entry = |bytes: &[u8]| fuzzing::entry(bytes).is_some();
    measure("decode, a record of the ring and its key back", RECORD, record);
    measure("decode, an entry of the seen-map and its key back", ENTRY, entry);
}

fn measure(name: &str, bytes: &[u8], decode: impl Fn(&[u8]) -> bool) {
    assert!(decode(bytes), "{name}: the seed is none");
    let round = || {
        let start = Instant::now();
        for _ in 0..COUNT {
            black_box(decode(black_box(bytes)));
        }
        COUNT as f64 / start.elapsed().as_secs_f64()
    };
    // The first is to warm up.
    round();
    let rates: Vec<f64> = (0..ROUNDS).map(|_| round()).collect();
    println!("{{\"name\":{name:?},\"unit\":\"a second\",\"values\":{rates:?}}}");
}
