//! The kernel's seen-map from this side: read whole in few system calls, and what was told of it so
//! far, so that every change is told once.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};

use aya::maps::{HashMap as BpfHashMap, IterableMap as _, MapData, MapError};
use monitor_core::edge::Edge;
use monitor_core::engine::Tallied;
use monitor_core::flow::{FlowKey, Observation, RttHistogram, Traffic};
use monitor_core::rtt::Rtts;

use crate::capture::IF_ABSENT;
use crate::capture::clock::{self, Clock};
use crate::capture::config::Entries;
use crate::capture::decode::{self, Counters, Entry, KeyBytes, StatsBytes, Undecodable};
use crate::capture::ledger::Ledger;
use crate::capture::told_keys::ToldKeys;

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
        let held = decode::held(key);
        decode::entry(&held, &self.map.get(&held, 0).ok()?).ok()?
    }

    /// Enters what is not there; false where its entry is, or finds no room.
    pub(super) fn enter(&mut self, key: &KeyBytes, stats: &StatsBytes) -> bool {
        self.map.insert(decode::held(key), stats, IF_ABSENT).is_ok()
    }

    /// Removes the entry that a key belongs to; it need not be there.
    pub(super) fn remove(&mut self, key: &KeyBytes) -> Result<(), MapError> {
        match self.map.remove(&decode::held(key)) {
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

/// A walk over every entry there is; one that stays in the map throughout is never left out.
///
/// `BPF_MAP_LOOKUP_BATCH` (since 5.6), which the library lacks: a thousand entries a call, bucket by
/// bucket, where a walk key by key starts over whenever its key is forgotten.
pub(super) struct Batch {
    cursor: Cursor,
    count: usize,
    keys: Vec<KeyBytes>,
    values: Vec<StatsBytes>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cursor {
    Start,
    /// The kernel's own mark of where to go on.
    At(u32),
    End,
}

/// The part of `union bpf_attr` that this command reads.
#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;

impl Batch {
    const SIZE: usize = 1024;

    pub(super) fn new() -> Self {
        Self {
            cursor: Cursor::Start,
            count: 0,
            keys: vec![[0; size_of::<KeyBytes>()]; Self::SIZE],
            values: vec![[0; size_of::<StatsBytes>()]; Self::SIZE],
        }
    }

    /// Reads on; false when all was read.
    pub(super) fn read(&mut self, map: &SeenMap) -> io::Result<bool> {
        if self.cursor != Cursor::End {
            self.read_on(map.map.map().fd().as_fd())?;
            return Ok(true);
        }
        Ok(false)
    }

    /// What was read last: each with the key that the kernel holds it under.
    pub(super) fn entries(
        &self,
    ) -> impl Iterator<Item = (&KeyBytes, Result<Option<Entry>, Undecodable>)> {
        let read = self.keys.iter().zip(&self.values).take(self.count);
        read.map(|(key, stats)| (key, decode::entry(key, stats)))
    }

    fn read_on(&mut self, map: BorrowedFd<'_>) -> io::Result<()> {
        let mut next: u32 = 0;
        let cursor = match &self.cursor {
            Cursor::At(cursor) => std::ptr::from_ref(cursor).addr() as u64,
            Cursor::Start | Cursor::End => 0,
        };
        let mut attr = BatchAttr {
            in_batch: cursor,
            out_batch: (&raw mut next).addr() as u64,
            keys: self.keys.as_mut_ptr().addr() as u64,
            values: self.values.as_mut_ptr().addr() as u64,
            count: u32::try_from(self.keys.len()).unwrap_or(0),
            map_fd: map.as_raw_fd().cast_unsigned(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the attribute and the buffers it points to outlive the call; the buffers hold
        // `count` keys and values of the sizes that the map was checked to have when it was opened,
        // and a hash map's cursor is a `u32`.
        let result = unsafe {
            let size = size_of::<BatchAttr>();
            libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_BATCH, &raw mut attr, size)
        };
        // Read before anything else can set it.
        let error = io::Error::last_os_error();
        self.count = 0;
        match error.raw_os_error() {
            _ if result == 0 => self.cursor = Cursor::At(next),
            Some(libc::ENOENT) => self.cursor = Cursor::End,
            Some(libc::ENOSPC) => {
                // A bucket of more than fit: as good as never, but no reason to give up.
                let room = self.keys.len() * 2;
                self.keys.resize(room, [0; size_of::<KeyBytes>()]);
                self.values.resize(room, [0; size_of::<StatsBytes>()]);
                return Ok(());
            }
            _ => return Err(error),
        }
        self.count = attr.count as usize;
        Ok(())
    }
}

/// What was told of each key.
pub(super) struct Told {
    pub(super) keys: ToldKeys,
    round: u8,
    /// None where nothing outlives the agent.
    pub(super) ledger: Option<Ledger>,
    /// Told keys that the kernel dropped by itself, since that was last asked.
    evicted: u64,
}

#[expect(clippy::struct_excessive_bools, reason = "marks of their own, in the room of one word")]
pub(super) struct ToldKey {
    first_seen_ns: u64,
    connections: u64,
    /// Most keys never have any: datagrams, failures, connections that are still open.
    closed: Option<Box<Closed>>,
    /// When it was told, milliseconds since boot; they wrap.
    told_ms: u32,
    round: u8,
    /// It is to be told again although the kernel has not forgotten it.
    again: bool,
    /// It waits to be stored.
    pub(super) queued: bool,
    /// The store holds something of it.
    pub(super) stored: bool,
}

/// What is counted when connections close.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Closed {
    bytes_sent: u64,
    bytes_received: u64,
    rtt: Rtts,
}

impl Closed {
    fn kept(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}

impl ToldKey {
    /// Of a key that an agent before this one told.
    fn before(tallied: &Tallied) -> Self {
        let Tallied { bytes_sent, bytes_received, .. } = *tallied;
        let closed = Closed { bytes_sent, bytes_received, rtt: Rtts::from(&tallied.rtt) };
        Self {
            first_seen_ns: tallied.first_seen_ns,
            connections: tallied.connections,
            closed: closed.kept(),
            round: 0,
            told_ms: clock::boot_ms().wrapping_sub(Ledger::FRESH_MS),
            again: tallied.again,
            queued: false,
            stored: true,
        }
    }

    pub(super) fn tallied(&self, edge: Edge) -> Tallied {
        let closed = self.closed.as_deref().cloned();
        let Closed { bytes_sent, bytes_received, rtt } = closed.unwrap_or_default();
        Tallied {
            edge,
            first_seen_ns: self.first_seen_ns,
            connections: self.connections,
            bytes_sent,
            bytes_received,
            rtt: rtt.whole(),
            again: self.again,
        }
    }

    /// Whether it was told a moment ago.
    pub(super) fn is_fresh(&self, now_ms: u32) -> bool {
        now_ms.wrapping_sub(self.told_ms) < Ledger::FRESH_MS
    }

    fn seen_once(&self, key: FlowKey, clock: Clock) -> Traffic {
        Traffic {
            key,
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
    pub(super) fn new() -> Self {
        Self { keys: ToldKeys::default(), round: 0, ledger: None, evicted: 0 }
    }

    /// What was told by an agent before this one; from now on the store is to know.
    pub(super) fn keeping(rows: impl Iterator<Item = (KeyBytes, Tallied)>) -> Self {
        let mut keys = ToldKeys::default();
        for (bytes, tallied) in rows {
            keys.insert(&bytes, ToldKey::before(&tallied));
        }
        Self { keys, round: 0, ledger: Some(Ledger::default()), evicted: 0 }
    }

    /// That a key need not be told again, whatever its judgement.
    pub(super) fn leave(&mut self, bytes: &KeyBytes) {
        if let Some(told) = self.keys.get_mut(bytes) {
            told.again = false;
        }
    }

    /// How many there are but for their outcomes: about as many entries of the map that is.
    pub(super) fn dials(&self) -> usize {
        self.keys.dials()
    }

    /// Whether a key was told, whenever it was entered.
    pub(super) fn holds(&self, bytes: &KeyBytes) -> bool {
        self.keys.contains(bytes)
    }

    /// Whether a key entered at `first_seen_ns` was told.
    pub(super) fn knows(&self, bytes: &KeyBytes, first_seen_ns: u64) -> bool {
        let told = self.keys.get(bytes);
        told.is_some_and(|told| told.first_seen_ns >= first_seen_ns && !told.again)
    }

    /// Takes note of a key entered into the map at `first_seen_ns`.
    pub(super) fn see(&mut self, bytes: KeyBytes, first_seen_ns: u64) -> Sighting {
        let told_ms = clock::boot_ms();
        let before = self.keys.get_mut(&bytes);
        let stored = before.as_ref().is_some_and(|told| told.stored);
        let same = before.filter(|told| told.first_seen_ns >= first_seen_ns);
        if same.as_ref().is_some_and(|told| !told.again) {
            return Sighting::Known;
        }
        if let Some(ledger) = &mut self.ledger {
            ledger.told(bytes);
        }
        if let Some(told) = same {
            // What it counted was told; only its judgement was not.
            (told.again, told.told_ms) = (false, told_ms);
            return Sighting::New;
        }
        let told = ToldKey {
            first_seen_ns,
            connections: 0,
            closed: None,
            round: self.round,
            told_ms,
            again: false,
            queued: false,
            stored,
        };
        match self.keys.insert(&bytes, told) {
            None => Sighting::New,
            Some(_) => {
                self.evicted += 1;
                Sighting::Again
            }
        }
    }

    /// That a round over the whole map came by a key.
    pub(super) fn came_by(&mut self, bytes: &KeyBytes) {
        if let Some(told) = self.keys.get_mut(bytes) {
            told.round = self.round;
        }
    }

    /// What a told key did since it was last asked for; None where nothing.
    pub(super) fn traffic(
        &mut self,
        bytes: &KeyBytes,
        now: &Counters,
        clock: Clock,
    ) -> Option<Traffic> {
        let told = self.keys.get_mut(bytes)?;
        told.round = self.round;
        let connections = now.connections.saturating_sub(told.connections);
        let before = told.closed.as_deref();
        let (sent, received) = before.map_or((0, 0), |it| (it.bytes_sent, it.bytes_received));
        let bytes_sent = now.bytes_sent.saturating_sub(sent);
        let bytes_received = now.bytes_received.saturating_sub(received);
        let mut rtt = now.rtt;
        let measured = before.map(|it| it.rtt.whole()).unwrap_or_default();
        for (now, before) in rtt.0.iter_mut().zip(measured.0) {
            *now = now.wrapping_sub(before);
        }
        let closed = rtt != RttHistogram::default();
        if connections == 0 && bytes_sent == 0 && bytes_received == 0 && !closed {
            return None;
        }
        told.connections = now.connections;
        let Counters { bytes_sent: sent, bytes_received: received, .. } = *now;
        told.closed =
            Closed { bytes_sent: sent, bytes_received: received, rtt: Rtts::from(&now.rtt) }.kept();
        if let Some(ledger) = &mut self.ledger {
            ledger.changed(*bytes, told);
        }
        Some(Traffic {
            key: decode::key(bytes).ok()?,
            last_seen: clock.wall(now.last_seen_ns),
            connections,
            bytes_sent,
            bytes_received,
            rtt,
        })
    }

    /// Begins a round over the whole map: keys that it does not come by are gone.
    pub(super) fn begin_round(&mut self) {
        self.round = self.round.wrapping_add(1);
    }

    /// Ends the round: forgets what is gone and tells so. What a key did since it was last asked for
    /// went with it, but that it was seen once is known.
    pub(super) fn end_round(&mut self, clock: Clock, out: &mut Vec<Observation>) {
        let round = self.round;
        for (bytes, told) in self.keys.take(|told| told.round != round) {
            if let Some(ledger) = &mut self.ledger {
                ledger.gone(bytes, &told);
            }
            // It was read when it was told.
            let Ok(key) = decode::key(&bytes) else {
                continue;
            };
            if told.connections == 0 {
                out.push(Observation::Traffic(told.seen_once(key, clock)));
            }
            out.push(Observation::Forgotten(key));
            self.evicted += 1;
        }
        self.tidy_ledger();
    }

    /// How many told keys the kernel dropped since this was last asked. Those that were removed from
    /// here are none of them.
    pub(super) fn take_evicted(&mut self) -> u64 {
        std::mem::take(&mut self.evicted)
    }

    /// Forgets a key.
    pub(super) fn remove(&mut self, bytes: &KeyBytes) {
        if let Some(told) = self.keys.remove(bytes)
            && let Some(ledger) = &mut self.ledger
        {
            ledger.gone(*bytes, &told);
        }
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
        assert_eq!(told.see(bytes, 10), Sighting::New);
        assert_eq!(told.see(bytes, 10), Sighting::Known);
        assert_eq!(told.see(bytes, 20), Sighting::Again);
        // The ring's record of the first entry, read late.
        assert_eq!(told.see(bytes, 10), Sighting::Known);
        told.remove(&bytes);
        assert_eq!(told.see(bytes, 30), Sighting::New);
        assert_eq!(told.take_evicted(), 1, "the one that was seen again, not the one removed");
        assert_eq!(told.take_evicted(), 0);
    }

    #[test]
    fn each_outcome_of_a_dial_is_a_key() {
        let mut told = Told::new();
        let outcomes = [Outcome::Attempted, Outcome::Established, Outcome::Refused];
        let keys = outcomes.map(|outcome| key_bytes(&FlowKey { outcome, ..key(1) }));
        for (at_ns, bytes) in (1..).zip(&keys) {
            assert_eq!(told.see(*bytes, at_ns), Sighting::New);
        }
        assert_eq!(told.see(keys[0], 1), Sighting::Known);
        told.remove(&keys[1]);
        assert_eq!(told.dials(), 1);
        assert_eq!(keys.map(|it| told.holds(&it)), [true, false, true]);
        told.begin_round();
        told.came_by(&keys[2]);
        let mut out = Vec::new();
        told.end_round(Clock::read(), &mut out);
        assert!(matches!(&out[..], [_, Observation::Forgotten(gone)]
            if gone.outcome == Outcome::Attempted));
        assert_eq!(keys.map(|it| told.holds(&it)), [false, false, true]);
    }

    #[test]
    fn counters_are_told_as_differences() {
        let mut told = Told::new();
        let bytes = key_bytes(&key(1));
        let clock = Clock::read();
        let mut counters = Counters { connections: 3, bytes_sent: 100, ..Counters::default() };
        assert_eq!(told.traffic(&bytes, &counters, clock), None, "never told");
        told.see(bytes, 0);
        let traffic = told.traffic(&bytes, &counters, clock).unwrap();
        assert_eq!((traffic.connections, traffic.bytes_sent), (3, 100));
        assert_eq!(told.traffic(&bytes, &counters, clock), None);
        counters.rtt.0[2] += 1;
        let traffic = told.traffic(&bytes, &counters, clock).unwrap();
        assert_eq!((traffic.connections, traffic.rtt.0[2]), (0, 1));
    }

    #[test]
    fn what_a_round_does_not_come_by_is_gone() {
        let mut told = Told::new();
        let (one, two) = (key_bytes(&key(1)), key_bytes(&key(2)));
        told.see(one, 0);
        told.see(two, 0);
        told.begin_round();
        told.traffic(&one, &Counters::default(), Clock::read());
        let mut out = Vec::new();
        told.end_round(Clock::read(), &mut out);
        let [Observation::Traffic(traffic), Observation::Forgotten(gone)] = &out[..] else {
            panic!("{out:?}");
        };
        assert_eq!((traffic.key, traffic.connections, *gone), (key(2), 1, key(2)));
        assert_eq!((told.dials(), told.take_evicted()), (1, 1));
    }
}
