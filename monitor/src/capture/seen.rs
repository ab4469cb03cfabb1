//! The kernel's seen-map from this side, key by key, and what was told of it so far, so that every
//! change is told once. It is read whole elsewhere (`batch`).

use std::collections::VecDeque;
use std::io;

use aya::maps::{HashMap as BpfHashMap, MapData, MapError};
use monitor_core::edge::Edge;
use monitor_core::engine::Tallied;
use monitor_core::flow::{FlowKey, KeyId, Observation, RttHistogram, Traffic};

use crate::capture::batch::SeenBatch;
use crate::capture::clock::{self, Clock};
use crate::capture::config::Entries;
use crate::capture::decode::{self, KeyBytes, StatsBytes};
use crate::capture::entries::{self, Counters, Entry};
use crate::capture::ledger::Ledger;
use crate::capture::told_keys::ToldKeys;
use crate::capture::{CaptureError, IF_ABSENT};

/// The map itself, by the keys that everybody else has: those of one dial are one entry here.
pub(super) struct SeenMap {
    map: BpfHashMap<MapData, KeyBytes, StatsBytes>,
    entries: Entries,
}

impl SeenMap {
    pub(super) fn new(map: BpfHashMap<MapData, KeyBytes, StatsBytes>, entries: Entries) -> Self {
        Self { map, entries }
    }

    /// The kernel holds no more keys than this.
    pub(super) fn entries(&self) -> usize {
        usize::try_from(self.entries.get()).unwrap_or(usize::MAX)
    }

    /// The entry that a key belongs to; None where there is none, or its writer is still at it.
    pub(super) fn get(&self, key: &KeyBytes) -> Option<Entry> {
        let held = entries::held(key);
        entries::entry(&held, &self.map.get(&held, 0).ok()?).ok()?
    }

    /// Enters what is not there; false where its entry is, or finds no room.
    pub(super) fn enter(&mut self, key: &KeyBytes, stats: &StatsBytes) -> bool {
        self.map.insert(entries::held(key), stats, IF_ABSENT).is_ok()
    }

    /// Reads on in the map; false when all was read.
    pub(super) fn read(&self, batch: &mut SeenBatch) -> Result<bool, CaptureError> {
        batch.read(&self.map).map_err(CaptureError::Sweep)
    }

    /// Removes the entry that a key belongs to; it need not be there.
    pub(super) fn remove(&mut self, key: &KeyBytes) -> Result<(), MapError> {
        match self.map.remove(&entries::held(key)) {
            Err(MapError::SyscallError(error))
                if error.io_error.kind() == io::ErrorKind::NotFound =>
            {
                Ok(())
            }
            Err(MapError::KeyNotFound) => Ok(()),
            result => result,
        }
    }
}

/// What was told of each key.
pub(super) struct Told {
    pub(super) keys: ToldKeys,
    round: u8,
    /// When the last rounds began, nanoseconds since boot, the latest first.
    rounds: VecDeque<u64>,
    /// None where nothing outlives the agent.
    pub(super) ledger: Option<Ledger>,
    /// Told keys that the kernel dropped by itself, since that was last asked.
    evicted: u64,
}

/// What was told of one: there are many.
pub(super) struct ToldKey {
    first_seen_ns: u64,
    counted: Held,
    round: u8,
    /// Rounds since it counted a connection, as many as are remembered at most.
    idle: u8,
    pub(super) marks: Marks,
    /// As it stands in the key.
    pub(super) outcome: u8,
}

/// What is to be remembered of a key by a yes or no.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// It is to be told again although the kernel has not forgotten it.
    Again = 1,
    /// It waits to be stored.
    Queued = 2,
    /// The store holds something of it.
    Stored = 4,
}

#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Marks(u8);

impl Marks {
    pub(super) const fn has(self, mark: Mark) -> bool {
        self.0 & mark as u8 != 0
    }

    /// Returns whether it was there before.
    pub(super) const fn set(&mut self, mark: Mark) -> bool {
        let had = self.has(mark);
        self.0 |= mark as u8;
        had
    }

    /// Returns whether it was there.
    pub(super) const fn clear(&mut self, mark: Mark) -> bool {
        let had = self.has(mark);
        self.0 &= !(mark as u8);
        had
    }
}

/// A key's counters, as they are held.
enum Held {
    Few(Few),
    Many(Box<Counted>),
}

/// As most are: with round-trip times of one bucket, if any.
#[derive(Clone, Copy, Default)]
struct Few {
    connections: u32,
    bytes_sent: u32,
    bytes_received: u32,
    rtt_count: u16,
    rtt_bucket: u8,
    measured: bool,
}

impl Held {
    const NONE: Self = Self::Few(Few {
        connections: 0,
        bytes_sent: 0,
        bytes_received: 0,
        rtt_count: 0,
        rtt_bucket: 0,
        measured: false,
    });

    fn of(counted: Counted) -> Self {
        Few::of(&counted).map_or_else(|| Self::Many(Box::new(counted)), Self::Few)
    }

    fn counted(&self) -> Counted {
        match self {
            Self::Few(few) => few.counted(),
            Self::Many(counted) => Counted::clone(counted),
        }
    }
}

impl Few {
    /// None where they are more than fit.
    fn of(counted: &Counted) -> Option<Self> {
        let mut measured = (0_u8..).zip(counted.rtt.0).filter(|(_, count)| *count != 0);
        let (first, second) = (measured.next(), measured.next());
        let (rtt_bucket, rtt_count) = first.unwrap_or_default();
        if second.is_some() {
            return None;
        }
        Some(Self {
            connections: counted.connections.try_into().ok()?,
            bytes_sent: counted.bytes_sent.try_into().ok()?,
            bytes_received: counted.bytes_received.try_into().ok()?,
            rtt_count: rtt_count.try_into().ok()?,
            rtt_bucket,
            measured: first.is_some(),
        })
    }

    fn counted(self) -> Counted {
        let mut rtt = RttHistogram::default();
        let bucket = rtt.0.get_mut(usize::from(self.rtt_bucket)).filter(|_| self.measured);
        if let Some(count) = bucket {
            *count = self.rtt_count.into();
        }
        Counted {
            connections: self.connections.into(),
            bytes_sent: self.bytes_sent.into(),
            bytes_received: self.bytes_received.into(),
            rtt,
        }
    }
}

/// A key's counters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Counted {
    connections: u64,
    bytes_sent: u64,
    bytes_received: u64,
    rtt: RttHistogram,
}

impl ToldKey {
    pub(super) const NONE: Self = Self {
        first_seen_ns: 0,
        counted: Held::NONE,
        round: 0,
        idle: 0,
        marks: Marks(0),
        outcome: 0,
    };

    /// Of a key that an agent before this one told.
    fn before(tallied: &Tallied) -> Self {
        let Tallied { first_seen_ns, connections, bytes_sent, bytes_received, rtt, .. } = *tallied;
        let counted = Held::of(Counted { connections, bytes_sent, bytes_received, rtt });
        let mut told = Self { first_seen_ns, counted, idle: u8::MAX, ..Self::NONE };
        told.marks.set(Mark::Stored);
        if tallied.again {
            told.marks.set(Mark::Again);
        }
        told
    }

    pub(super) fn tallied(&self, edge: Edge) -> Tallied {
        let Counted { connections, bytes_sent, bytes_received, rtt } = self.counted.counted();
        Tallied {
            edge,
            first_seen_ns: self.first_seen_ns,
            connections,
            bytes_sent,
            bytes_received,
            rtt,
            again: self.marks.has(Mark::Again),
        }
    }

    fn seen_once(&self, id: KeyId, key: FlowKey, clock: Clock) -> Traffic {
        Traffic {
            key,
            id,
            last_seen: clock.wall(self.first_seen_ns),
            connections: 1,
            bytes_sent: 0,
            bytes_received: 0,
            rtt: RttHistogram::default(),
        }
    }
}

/// Whether a sighting is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sighting {
    New,
    /// Forgotten by the kernel and seen again.
    Again,
    Known,
}

impl Told {
    /// The kernel's note begins anew a little later.
    const BUSY_NS: u64 = 60_000_000_000;

    pub(super) fn new() -> Self {
        Self {
            keys: ToldKeys::default(),
            round: 0,
            rounds: VecDeque::new(),
            ledger: None,
            evicted: 0,
        }
    }

    /// What was told by an agent before this one; from now on the store is to know.
    pub(super) fn keeping(rows: impl Iterator<Item = (KeyBytes, Option<Tallied>)>) -> Self {
        let mut keys = ToldKeys::default();
        for (bytes, tallied) in rows {
            match (keys.find(&bytes), tallied.as_ref().map(ToldKey::before)) {
                (None, Some(told)) => {
                    keys.insert(&bytes, told);
                }
                (Some(id), Some(later)) => {
                    if let Some(told) = keys.get_mut(id) {
                        *told = ToldKey { outcome: told.outcome, ..later };
                    }
                }
                (Some(id), None) => drop(keys.remove(id)),
                (None, None) => {}
            }
        }
        // Nobody knows a number yet.
        keys.handed_over();
        Self { keys, ledger: Some(Ledger::default()), ..Self::new() }
    }

    /// That a key need not be told again, whatever its judgement.
    pub(super) fn leave(&mut self, bytes: &KeyBytes) {
        let id = self.keys.find(bytes);
        if let Some(told) = id.and_then(|id| self.keys.get_mut(id)) {
            told.marks.clear(Mark::Again);
        }
    }

    /// How many there are but for their outcomes: about as many entries of the map that is.
    pub(super) fn dials(&self) -> usize {
        self.keys.dials()
    }

    /// The number of a key that was told, whenever it was entered.
    pub(super) fn id_of(&self, bytes: &KeyBytes) -> Option<KeyId> {
        self.keys.find(bytes)
    }

    /// Whether a key was told, whenever it was entered.
    pub(super) fn holds(&self, bytes: &KeyBytes) -> bool {
        self.id_of(bytes).is_some()
    }

    /// The number of a key that was told, if that was when it was entered at `first_seen_ns` or since.
    pub(super) fn knows(&self, bytes: &KeyBytes, first_seen_ns: u64) -> Option<KeyId> {
        let id = self.keys.find(bytes)?;
        let told = self.keys.get(id)?;
        let same = told.first_seen_ns >= first_seen_ns;
        (same && !told.marks.has(Mark::Again)).then_some(id)
    }

    /// Takes note of a key entered into the map at `first_seen_ns`; its number from now on.
    pub(super) fn see(&mut self, bytes: &KeyBytes, first_seen_ns: u64) -> (KeyId, Sighting) {
        let told = ToldKey { first_seen_ns, round: self.round, ..ToldKey::NONE };
        let known = self.keys.find(bytes).and_then(|id| Some((id, self.keys.get_mut(id)?)));
        let (id, sighting) = match known {
            None => (self.keys.insert(bytes, told), Sighting::New),
            Some((id, before)) if before.first_seen_ns >= first_seen_ns => {
                // What it counted was told; only its judgement may not have been.
                if !before.marks.clear(Mark::Again) {
                    return (id, Sighting::Known);
                }
                (id, Sighting::New)
            }
            Some((id, before)) => {
                let (mut marks, outcome) = (before.marks, before.outcome);
                marks.clear(Mark::Again);
                *before = ToldKey { marks, outcome, ..told };
                self.evicted += 1;
                (id, Sighting::Again)
            }
        };
        if let Some(ledger) = &mut self.ledger {
            ledger.told(id, clock::boot_ms());
        }
        (id, sighting)
    }

    /// That a round over the whole map came by a key.
    pub(super) fn came_by(&mut self, id: KeyId) {
        if let Some(told) = self.keys.get_mut(id) {
            told.round = self.round;
        }
    }

    /// What a told key did since it was last asked for; None where nothing.
    pub(super) fn traffic(&mut self, id: KeyId, now: &Counters, clock: Clock) -> Option<Traffic> {
        let told = self.keys.get_mut(id)?;
        let is_another_round = told.round != self.round;
        told.round = self.round;
        let before = told.counted.counted();
        let connections = now.connections.saturating_sub(before.connections);
        told.idle = match connections {
            0 => told.idle.saturating_add(is_another_round.into()),
            _ => 0,
        };
        let bytes_sent = now.bytes_sent.saturating_sub(before.bytes_sent);
        let bytes_received = now.bytes_received.saturating_sub(before.bytes_received);
        let mut rtt = now.rtt;
        for (now, before) in rtt.0.iter_mut().zip(before.rtt.0) {
            *now = now.wrapping_sub(before);
        }
        let closed = rtt != RttHistogram::default();
        if connections == 0 && bytes_sent == 0 && bytes_received == 0 && !closed {
            return None;
        }
        told.counted = Held::of(Counted {
            connections: now.connections,
            bytes_sent: now.bytes_sent,
            bytes_received: now.bytes_received,
            rtt: now.rtt,
        });
        if let Some(ledger) = &mut self.ledger {
            ledger.changed(id, told);
        }
        Some(Traffic {
            key: decode::key(&self.keys.bytes_of(id)?).ok()?,
            id,
            last_seen: clock.wall(now.last_seen_ns),
            connections,
            bytes_sent,
            bytes_received,
            rtt,
        })
    }

    /// Whether a key counted a connection of late: so lately that the kernel's note of when it came means
    /// that one.
    pub(super) fn is_busy(&self, id: KeyId, now_ns: u64) -> bool {
        let Some(told) = self.keys.get(id) else { return false };
        // Before the first round it was told, a moment before that.
        let began = self.rounds.get(usize::from(told.idle)).or(self.rounds.back());
        let is_lately = |began: &u64| now_ns.saturating_sub(*began) < Self::BUSY_NS;
        told.idle == 0 || told.idle < u8::MAX && began.is_some_and(is_lately)
    }

    /// Begins a round over the whole map: keys that it does not come by are gone.
    pub(super) fn begin_round(&mut self) {
        self.round = self.round.wrapping_add(1);
        self.rounds.push_front(clock::boot_ns());
        self.rounds.truncate(u8::MAX.into());
    }

    /// Ends the round: forgets what is gone and tells so. What a key did since it was last asked for
    /// went with it, but that it was seen once is known.
    pub(super) fn end_round(&mut self, clock: Clock, out: &mut Vec<Observation>) {
        let round = self.round;
        for (id, bytes, told) in self.keys.take(|told| told.round != round) {
            if let Some(ledger) = &mut self.ledger {
                ledger.gone(bytes, &told);
            }
            // It was read when it was told.
            let Ok(key) = decode::key(&bytes) else {
                continue;
            };
            if told.counted.counted().connections == 0 {
                out.push(Observation::Traffic(told.seen_once(id, key, clock)));
            }
            out.push(Observation::Forgotten { id, key });
            self.evicted += 1;
        }
        self.tidy_ledger();
    }

    /// How many told keys the kernel dropped since this was last asked. Those that were removed from
    /// here are none of them.
    pub(super) fn take_evicted(&mut self) -> u64 {
        std::mem::take(&mut self.evicted)
    }

    /// Forgets a key, and tells so.
    pub(super) fn remove(&mut self, id: KeyId, out: &mut Vec<Observation>) {
        let Some((bytes, told)) = self.keys.remove(id) else { return };
        if let Some(ledger) = &mut self.ledger {
            ledger.gone(bytes, &told);
        }
        out.extend(decode::key(&bytes).map(|key| Observation::Forgotten { id, key }));
    }

    /// What was told so far has been taken.
    pub(super) fn handed_over(&mut self) {
        self.keys.handed_over();
    }
}

#[cfg(test)]
mod tests {
    use monitor_core::flow::{Direction, Outcome, Protocol, Remote};
    use monitor_core::ids::CgroupId;

    use super::*;
    use crate::capture::decode::key_bytes;

    fn key(port: u16) -> FlowKey {
        FlowKey {
            cgroup: CgroupId(1),
            direction: Direction::Outbound,
            protocol: Protocol::Tcp,
            remote: Remote::World,
            local: None,
            port,
            outcome: Outcome::Established,
            executable_id: 0,
        }
    }

    #[test]
    fn a_key_is_told_once_until_it_is_forgotten() {
        let mut told = Told::new();
        let bytes = key_bytes(&key(1));
        assert_eq!(told.see(&bytes, 10).1, Sighting::New);
        assert_eq!(told.see(&bytes, 10).1, Sighting::Known);
        assert_eq!(told.see(&bytes, 20).1, Sighting::Again);
        // The ring's record of the first entry, read late.
        assert_eq!(told.see(&bytes, 10).1, Sighting::Known);
        let (id, _) = told.see(&bytes, 10);
        let mut out = Vec::new();
        told.remove(id, &mut out);
        assert_eq!(out, [Observation::Forgotten { id, key: key(1) }]);
        assert_eq!(told.see(&bytes, 30).1, Sighting::New);
        assert_eq!(told.take_evicted(), 1, "the one that was seen again, not the one removed");
        assert_eq!(told.take_evicted(), 0);
    }

    #[test]
    fn each_outcome_of_a_dial_is_a_key() {
        let mut told = Told::new();
        let outcomes = [Outcome::Attempted, Outcome::Established, Outcome::Refused];
        let keys = outcomes.map(|outcome| key_bytes(&FlowKey { outcome, ..key(1) }));
        for (at_ns, bytes) in (1..).zip(&keys) {
            assert_eq!(told.see(bytes, at_ns).1, Sighting::New);
        }
        assert_eq!(told.see(&keys[0], 1).1, Sighting::Known);
        told.remove(told.id_of(&keys[1]).unwrap(), &mut Vec::new());
        assert_eq!(told.dials(), 1);
        assert_eq!(keys.map(|it| told.holds(&it)), [true, false, true]);
        told.begin_round();
        told.came_by(told.id_of(&keys[2]).unwrap());
        let mut out = Vec::new();
        told.end_round(Clock::read(), &mut out);
        assert!(matches!(&out[..], [_, Observation::Forgotten { key: gone, .. }]
            if gone.outcome == Outcome::Attempted));
        assert_eq!(keys.map(|it| told.holds(&it)), [false, false, true]);
    }

    #[test]
    fn counters_are_told_as_differences() {
        let mut told = Told::new();
        let bytes = key_bytes(&key(1));
        let clock = Clock::read();
        let mut counters = Counters { connections: 3, bytes_sent: 100, ..Counters::default() };
        assert_eq!(told.traffic(KeyId(0), &counters, clock), None, "never told");
        let (id, _) = told.see(&bytes, 0);
        let traffic = told.traffic(id, &counters, clock).unwrap();
        assert_eq!((traffic.connections, traffic.bytes_sent), (3, 100));
        assert_eq!(told.traffic(id, &counters, clock), None);
        counters.rtt.0[2] += 1;
        let traffic = told.traffic(id, &counters, clock).unwrap();
        assert_eq!((traffic.connections, traffic.rtt.0[2]), (0, 1));
        // More than most.
        let much = u64::from(u32::MAX);
        counters.rtt.0[2] += u32::from(u16::MAX);
        for (connections, bytes, buckets) in [(much, 1, 2), (1, much, 16), (1, 1, 1)] {
            counters.connections += connections;
            counters.bytes_received += bytes;
            counters.rtt.0[..buckets].iter_mut().for_each(|it| *it += 1);
            let traffic = told.traffic(id, &counters, clock).unwrap();
            let told = (traffic.connections, traffic.bytes_sent, traffic.bytes_received);
            assert_eq!(told, (connections, 0, bytes));
            assert!(traffic.rtt.0[..buckets].iter().all(|it| *it >= 1));
            assert!(traffic.rtt.0[buckets.max(3)..].iter().all(|it| *it == 0));
        }
        assert_eq!(told.traffic(id, &counters, clock), None);
    }

    #[test]
    fn a_key_is_busy_for_as_long_as_the_kernel_tells_when_its_last_connection_came() {
        let mut told = Told::new();
        let (id, _) = told.see(&key_bytes(&key(1)), 0);
        let mut counters = Counters { connections: 1, ..Counters::default() };
        let clock = Clock::read();
        told.traffic(id, &counters, clock);
        assert!(told.is_busy(id, clock::boot_ns()), "before any round");
        let minute = clock::boot_ns() + Told::BUSY_NS;
        for _ in 0..5 {
            told.begin_round();
            // Asked twice in a round, it is idle no longer.
            for _ in 0..2 {
                assert_eq!(told.traffic(id, &counters, clock), None);
            }
        }
        assert!(told.is_busy(id, clock::boot_ns()) && !told.is_busy(id, minute + 1_000_000_000));
        counters.connections += 1;
        told.traffic(id, &counters, clock);
        assert!(told.is_busy(id, minute));
        // Adopted: nobody knows when.
        let before = Tallied {
            edge: "systemd:a.service -> systemd:b.service 1/tcp".parse().unwrap(),
            first_seen_ns: 0,
            connections: 2,
            bytes_sent: 0,
            bytes_received: 0,
            rtt: RttHistogram::default(),
            again: false,
        };
        let mut told = Told::keeping([(key_bytes(&key(1)), Some(before))].into_iter());
        let id = told.id_of(&key_bytes(&key(1))).unwrap();
        assert!(!told.is_busy(id, 0));
        counters.connections += 1;
        told.traffic(id, &counters, clock);
        assert!(told.is_busy(id, 0));
    }

    #[test]
    fn what_a_round_does_not_come_by_is_gone() {
        let mut told = Told::new();
        let (one, two) = (key_bytes(&key(1)), key_bytes(&key(2)));
        let (one, _) = told.see(&one, 0);
        told.see(&two, 0);
        told.begin_round();
        told.traffic(one, &Counters::default(), Clock::read());
        let mut out = Vec::new();
        told.end_round(Clock::read(), &mut out);
        let [Observation::Traffic(traffic), Observation::Forgotten { key: gone, .. }] = &out[..]
        else {
            panic!("{out:?}");
        };
        assert_eq!((traffic.key, traffic.connections, *gone), (key(2), 1, key(2)));
        assert_eq!((told.dials(), told.take_evicted()), (1, 1));
    }
}
