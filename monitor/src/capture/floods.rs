//! What cgroups show beyond their budgets: the kernel counts it and keeps a sketch of the far ends; here
//! the figures are read while they grow, and the examples that it told are kept beside them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aya::maps::{HashMap as BpfHashMap, MapData, MapError};
use monitor_common::SKETCH_REGISTERS;
use monitor_core::flow::{Ended, Flood, FlowKey, Process};
use monitor_core::ids::{BootTime, WallTime};

use crate::capture::clock::Clock;
use crate::capture::decode::{self, BudgetBytes, FloodBytes, PayerBytes, Undecodable};

pub(super) struct Floods {
    map: BpfHashMap<MapData, PayerBytes, FloodBytes>,
    budgets: BpfHashMap<MapData, PayerBytes, BudgetBytes>,
    /// Those that go on: no more than the kernel's map holds.
    known: HashMap<PayerBytes, Known>,
    /// When the map is to be read next (boot time).
    next_ns: u64,
}

/// What was told of a flood.
#[derive(Default)]
struct Known {
    count: u64,
    /// As it was told first: the offset between the clocks is read anew each time.
    since: Option<WallTime>,
    examples: Vec<FlowKey>,
    process: Option<Arc<Process>>,
}

impl Floods {
    /// Between two readings.
    const EVERY: Duration = Duration::from_millis(500);
    /// A flood that brought nothing for this long is over.
    const OVER_AFTER: Duration = Duration::from_secs(10);
    const EXAMPLES: usize = 3;

    pub(super) fn new(
        map: BpfHashMap<MapData, PayerBytes, FloodBytes>,
        budgets: BpfHashMap<MapData, PayerBytes, BudgetBytes>,
    ) -> Self {
        Self { map, budgets, known: HashMap::new(), next_ns: 0 }
    }

    /// Lets `payer` show so many new keys for nothing, `most` at once: we have them forgotten.
    pub(super) fn credit(&mut self, payer: PayerBytes, keys: u64, most: u64) {
        let before = self.budgets.get(&payer, 0).ok();
        let budget = decode::credited(before.as_ref(), keys, most);
        // No room: then it is not limited.
        drop(self.budgets.insert(payer, budget, 0));
    }

    /// Keeps an example. The first of a flood has its figures read at once.
    pub(super) fn example(
        &mut self,
        payer: PayerBytes,
        key: FlowKey,
        process: Option<Arc<Process>>,
    ) {
        let known = self.known.entry(payer).or_insert_with(|| {
            self.next_ns = 0;
            Known::default()
        });
        if known.examples.len() >= Self::EXAMPLES {
            known.examples.remove(0);
        }
        known.examples.push(key);
        known.process = process.or(known.process.take());
    }

    /// Tells what grew and what is over, if it is time to look; how many entries could not be read.
    pub(super) fn read(
        &mut self,
        clock: Clock,
        now_ns: u64,
        out: &mut Vec<Flood>,
    ) -> Result<u64, MapError> {
        if now_ns < self.next_ns {
            return Ok(0);
        }
        self.next_ns = now_ns.saturating_add(nanoseconds(Self::EVERY));
        let payers: Vec<PayerBytes> = self.map.keys().collect::<Result<_, _>>()?;
        // Those that the kernel does not hold (any more) have nothing to come.
        self.known.retain(|payer, _| payers.contains(payer));
        let mut unread = 0;
        for payer in payers {
            // Nobody else removes any.
            let bytes = self.map.get(&payer, 0)?;
            match self.tell(payer, &bytes, clock, now_ns) {
                Ok(flood) => out.extend(flood),
                Err(Undecodable) => unread += 1,
            }
        }
        Ok(unread)
    }

    /// What there is to be told of one flood; one that is over is forgotten.
    fn tell(
        &mut self,
        payer: PayerBytes,
        bytes: &FloodBytes,
        clock: Clock,
        now_ns: u64,
    ) -> Result<Option<Flood>, Undecodable> {
        let ((cgroup, direction), flood) = decode::flood(&payer, bytes)?;
        if flood.first_ns == 0 {
            return Ok(None);
        }
        let quiet_ns = now_ns.saturating_sub(flood.last_ns);
        let over = quiet_ns >= nanoseconds(Self::OVER_AFTER);
        let known = self.known.entry(payer).or_default();
        if flood.count == known.count && !over {
            return Ok(None);
        }
        known.count = flood.count;
        let told = Flood {
            cgroup,
            direction,
            since: *known.since.get_or_insert_with(|| clock.wall(flood.first_ns)),
            began: BootTime(flood.first_ns),
            last_seen: clock.wall(flood.last_ns),
            count: flood.count,
            peers: estimate(&flood.registers),
            examples: known.examples.clone(),
            process: known.process.clone(),
            ended: if over { Ended::Yes } else { Ended::No },
        };
        if over {
            self.known.remove(&payer);
            // Gone already: then it is as it should be.
            drop(self.map.remove(&payer));
        }
        Ok(Some(told))
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// About how many different hashes a sketch has seen (Flajolet and others 2007; of 64-bit hashes, so
/// there is nothing to correct at the upper end).
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positive, and a count"
)]
fn estimate(registers: &[u8; SKETCH_REGISTERS]) -> u64 {
    let size = SKETCH_REGISTERS as f64;
    let bias = 0.7213 / (1.0 + 1.079 / size);
    let sum: f64 = registers.iter().map(|&it| f64::from(it).exp2().recip()).sum();
    let raw = bias * size * size / sum;
    let empty = registers.iter().filter(|&&it| it == 0).count();
    // While many registers are empty, their number says more.
    let few = raw <= 2.5 * size && empty > 0;
    let estimate = if few { size * (size / empty as f64).ln() } else { raw };
    estimate.round() as u64
}

#[cfg(test)]
mod tests {
    use monitor_common::{Address, FlowKey, peer_hash, register_of};

    use super::*;

    /// The sketch of so many different peers.
    fn sketch(seed: u64, peers: u32) -> [u8; SKETCH_REGISTERS] {
        let mut registers = [0; SKETCH_REGISTERS];
        for peer in 0..peers {
            let key = FlowKey { remote: Address::v4(peer), ..listening() };
            let (index, least) = register_of(peer_hash([seed, 7], &key));
            registers[index] = registers[index].max(least);
        }
        registers
    }

    fn listening() -> FlowKey {
        let key = monitor_common::ListenKey {
            netns_cookie: 0,
            address: Address::ZERO,
            port: 80,
            _reserved: [0; 6],
        };
        FlowKey::listening(&monitor_common::Owner::UNKNOWN, &key)
    }

    #[test]
    fn a_sketch_tells_about_how_many_peers_there_were() {
        assert_eq!(estimate(&[0; SKETCH_REGISTERS]), 0);
        for peers in [1, 10, 300, 2_000, 3_500, 20_000, 300_000] {
            for seed in 0..8 {
                let told = estimate(&sketch(seed, peers));
                let off = (told as f64 - f64::from(peers)).abs() / f64::from(peers);
                // Four times the standard error of 1.04 over the root of 1,024.
                assert!(off < 0.13, "{peers} with seed {seed}: {told}");
            }
        }
    }

    #[test]
    fn peers_are_told_apart_by_address_port_and_protocol() {
        let key = listening();
        let hash = |key: &FlowKey| peer_hash([1, 2], key);
        assert_eq!(hash(&key), hash(&FlowKey { cgroup_id: 9, executable_id: 9, ..key }));
        let others = [
            FlowKey { port: 81, ..key },
            FlowKey { protocol: monitor_common::Protocol::Udp, ..key },
            FlowKey { remote: Address([0, 0, 0, 1]), ..key },
        ];
        for other in others {
            assert_ne!(hash(&key), hash(&other), "{other:?}");
        }
        assert_ne!(hash(&key), peer_hash([1, 3], &key));
        assert_eq!(register_of(0), (0, 55));
        assert_eq!(register_of(u64::MAX), (SKETCH_REGISTERS - 1, 1));
    }
}
