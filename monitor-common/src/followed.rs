//! TCP connections that the kernel programs follow, and who dialled from where: slots of plain arrays,
//! several to a set, since entering and removing costs next to nothing there. CPUs write them at the
//! same time and without a lock: every slot carries a sum of its words, so that what two writers left
//! of each other passes for nothing at all.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, TryFromBytes};

use crate::Address;
use crate::FlowKey;
use crate::Process;

/// A TCP connection under way.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Tracked {
    /// As `SEEN` holds it, whatever has happened so far.
    pub key: FlowKey,
    pub netns_cookie: u64,
    pub process: Process,
}
const _: () = assert!(size_of::<Tracked>() == 88);

impl Tracked {
    #[inline(always)]
    fn folded(&self) -> u64 {
        folded::<{ size_of::<Self>() / 8 }>(zerocopy::transmute_ref!(self))
    }
}

/// Element of `SOCKETS`: a slot. There are `1 << bits` places for newcomers, and then as many sets of
/// [`Followed::WAYS`] slots each. A newcomer takes its place, and who still stands there moves to a
/// slot of his set: so those that come and go use the same few slots again, which are at hand, and
/// those that stay do not get in their way. Cookies are handed out one after another, 4,096 to each
/// CPU, hence both are filled evenly.
#[derive(TryFromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Followed {
    /// The socket's; 0 where the slot is free.
    pub cookie: u64,
    sum: u64,
    pub tracked: Tracked,
    /// [`Followed::NEWS`], [`Followed::TIMED_OUT`], [`Followed::UNTOLD`] and [`Followed::DIALLING`].
    pub flags: u32,
    /// Lower half of the bytes received when this end's FIN was acknowledged: whether more came
    /// after it tells whether the far end's did.
    pub received_at_fin: u32,
}
const _: () = assert!(size_of::<Followed>() == 112);

impl Followed {
    /// It was dialled on an edge that was not known to be established.
    pub const NEWS: u32 = 1;
    /// The kernel gave up dialling.
    pub const TIMED_OUT: u32 = 2;
    /// It was dialled beyond the cgroup's budget: followed only until its dial is noted.
    pub const UNTOLD: u32 = 4;
    /// Its dial has not gone out yet, and may never: there may be no way to the far end, or no port left.
    pub const DIALLING: u32 = 8;

    pub const WAYS: u32 = 8;

    /// Fills the slot for a socket, but for its flags. In place: on its way it would stand on the
    /// stack.
    #[inline(always)]
    pub fn fill(&mut self, cookie: u64, key: &FlowKey, netns_cookie: u64, process: &Process) {
        self.cookie = cookie;
        self.tracked.key = *key;
        self.tracked.netns_cookie = netns_cookie;
        self.tracked.process = *process;
        self.flags = 0;
        self.received_at_fin = 0;
        let key: &[u64; 7] = zerocopy::transmute_ref!(key);
        let process: [u64; 3] = zerocopy::transmute!(*process);
        self.sum = cookie ^ folded(key) ^ netns_cookie ^ folded(&process);
    }

    /// Whether one writer wrote all of it.
    #[inline(always)]
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.sum == self.cookie ^ self.tracked.folded()
    }

    /// How many slots there are.
    #[must_use]
    pub const fn slots(bits: u32) -> u32 {
        (1 + Self::WAYS) << bits
    }

    /// A newcomer's place.
    #[inline(always)]
    #[must_use]
    pub const fn place(cookie: u64, bits: u32) -> u32 {
        lowest((cookie >> 12 << 7) | (cookie & 0x7f), bits)
    }

    /// The first slot of a socket's set.
    #[inline(always)]
    #[must_use]
    pub const fn set(cookie: u64, bits: u32) -> u32 {
        (1 << (bits & 31)) + lowest(cookie, bits) * Self::WAYS
    }

    /// Which of the set is given up for a socket where none is free.
    #[inline(always)]
    #[must_use]
    pub const fn given_up(cookie: u64, bits: u32) -> u32 {
        lowest(cookie >> (bits & 31), Self::WAYS.ilog2())
    }
}

/// Element of `OPENERS`, of which there are `1 << bits`: in which cgroup a socket was opened. A newcomer
/// takes its place from whoever stands there: what counts is the time until it is used.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Opened {
    cookie: u64,
    cgroup_id: u64,
    sum: u64,
}
const _: () = assert!(size_of::<Opened>() == 24);

impl Opened {
    /// Takes note of a socket.
    #[inline(always)]
    pub const fn fill(&mut self, cookie: u64, cgroup_id: u64) {
        self.cookie = cookie;
        self.cgroup_id = cgroup_id;
        self.sum = !(cookie ^ cgroup_id);
    }

    /// The cgroup that the socket was opened in; 0 where that is not known. Without a branch: every one is
    /// another way for the verifier to follow.
    #[inline(always)]
    #[must_use]
    pub fn by(&self, cookie: u64) -> u64 {
        let Self { cookie: held, cgroup_id, sum } = *self;
        let differs = (held ^ cookie) | (sum ^ !(held ^ cgroup_id));
        // Out of the compiler's sight, or it would branch; all ones where nothing differs.
        let negated = core::hint::black_box(differs.wrapping_neg());
        let known = core::hint::black_box(((differs | negated) >> 63).wrapping_sub(1));
        cgroup_id & known
    }
}

/// The client's end of a TCP connection.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ClientKey {
    /// Set only where the address means nothing outside its namespace (loopback).
    pub netns_cookie: u64,
    pub address: Address,
    pub port: u64,
}
const _: () = assert!(size_of::<ClientKey>() == 32);

/// Who dialled.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Dialler {
    pub cgroup_id: u64,
    /// 1 where the dial was news: then the accept is told too, known or not, since only both
    /// together say who answers at the address dialled.
    pub news: u64,
}
const _: () = assert!(size_of::<Dialler>() == 16);

/// A dial.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
struct Dial {
    client: ClientKey,
    dialler: Dialler,
    at_ns: u64,
    sum: u64,
}

/// Element of `DIALS`: the latest dials of the clients that fall into one set. They are wanted only
/// until they are accepted, which is next to no time, unless the accept waits for data or for room.
#[derive(IntoBytes, Immutable, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Dials {
    /// How many were entered.
    entered: u64,
    slots: [Dial; 4],
}
const _: () = assert!(size_of::<Dials>() == 264);

impl Dials {
    /// How long a dial is remembered: a client with the same address and port that comes later is
    /// another, on another machine.
    const REMEMBERED_NS: u64 = 60_000_000_000;

    /// The set of a client, of which there are `1 << bits`. Clients with neighbouring ports have
    /// neighbouring sets, for these are at hand when the next one dials; where they lie, nobody who
    /// does not know the key can choose.
    #[inline(always)]
    #[must_use]
    pub const fn set(client: &ClientKey, key: [u64; 2], bits: u32) -> u32 {
        let [a, b, c, d] = client.address.0;
        let mut hash = key[0] ^ client.netns_cookie ^ (client.port >> 7 << 48);
        hash = (hash ^ a as u64 ^ ((b as u64) << 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash = hash ^ (hash >> 32) ^ key[1] ^ c as u64 ^ ((d as u64) << 32);
        hash = hash.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        // Clients of one program mostly have either even ports or odd ones.
        let near = (client.port >> 1) ^ (client.port & 1);
        lowest((hash >> 33 << 5) | (near & 31), bits)
    }

    /// Takes note of a dial, in place of the oldest.
    #[inline(always)]
    pub fn enter(&mut self, client: &ClientKey, dialler: Dialler, at_ns: u64) {
        let entered = self.entered;
        self.entered = entered.wrapping_add(1);
        let client: &[u64; 4] = zerocopy::transmute_ref!(client);
        let sum = folded(client) ^ dialler.cgroup_id ^ dialler.news ^ at_ns;
        let [a, b, c, d] = *client;
        let dial = [a, b, c, d, dialler.cgroup_id, dialler.news, at_ns, sum];
        let [one, two, three, four] = &mut self.slots;
        one.replace(&dial, entered & 3);
        two.replace(&dial, (entered & 3) ^ 1);
        three.replace(&dial, (entered & 3) ^ 2);
        four.replace(&dial, (entered & 3) ^ 3);
    }

    /// Who dialled as this client last; where nobody did, a cgroup of 0. Without a branch: before 6.9
    /// the verifier refuses, without CAP_PERFMON, a pointer that depends on one.
    #[inline(always)]
    #[must_use]
    pub fn find(&self, client: &ClientKey, now_ns: u64) -> Dialler {
        let [a, b, c, d] = &self.slots;
        let mut found = Found { dialler: Dialler { cgroup_id: 0, news: 0 }, at_ns: 0 };
        found.take(a, client, now_ns);
        found.take(b, client, now_ns);
        found.take(c, client, now_ns);
        found.take(d, client, now_ns);
        found.dialler
    }
}

impl Dial {
    /// Becomes another where `differs` is 0. Without an index that is known only when it runs: see
    /// [`Dials::find`].
    #[inline(always)]
    fn replace(&mut self, by: &[u64; 8], differs: u64) {
        // All ones where it stays as it is, else 0; out of the compiler's sight, or it would branch.
        let stays = 0_u64.wrapping_sub((differs | differs.wrapping_neg()) >> 63);
        let stays = core::hint::black_box(stays);
        let words: &mut [u64; 8] = zerocopy::transmute_mut!(self);
        let mut word = 0;
        while word < 8 {
            words[word] = (words[word] & stays) | (by[word] & !stays);
            word += 1;
        }
    }

    /// With the right sum it is 0.
    #[inline(always)]
    fn folded(&self) -> u64 {
        folded::<{ size_of::<Self>() / 8 }>(zerocopy::transmute_ref!(self))
    }
}

struct Found {
    dialler: Dialler,
    at_ns: u64,
}

impl Found {
    /// Takes the dial in place of what was found, where it was the client's, whole, and later.
    #[inline(always)]
    fn take(&mut self, dial: &Dial, client: &ClientKey, now_ns: u64) {
        let dial = *dial;
        let ours: &[u64; 4] = zerocopy::transmute_ref!(&dial.client);
        let theirs: &[u64; 4] = zerocopy::transmute_ref!(client);
        // Another CPU's clock may be ahead: then the age is below zero, and not too great.
        let age_ns = now_ns.wrapping_sub(dial.at_ns);
        let differs = dial.folded()
            | (ours[0] ^ theirs[0])
            | (ours[1] ^ theirs[1])
            | (ours[2] ^ theirs[2])
            | (ours[3] ^ theirs[3])
            | (Dials::REMEMBERED_NS.wrapping_sub(age_ns) >> 63)
            | (dial.at_ns.wrapping_sub(self.at_ns) >> 63);
        // All ones where nothing differs, else 0.
        let mine = ((differs | differs.wrapping_neg()) >> 63).wrapping_sub(1);
        let merged = |mine_is: u64, was: u64| (mine_is & mine) | (was & !mine);
        self.dialler.cgroup_id = merged(dial.dialler.cgroup_id, self.dialler.cgroup_id);
        self.dialler.news = merged(dial.dialler.news, self.dialler.news);
        self.at_ns = merged(dial.at_ns, self.at_ns);
    }
}

/// The lowest `bits` of a word, of which there are fewer than 32.
#[inline(always)]
const fn lowest(word: u64, bits: u32) -> u32 {
    (word & ((1 << (bits & 31)) - 1) & 0xffff_ffff) as u32
}

/// The words of a slot, added up without carrying.
#[inline(always)]
fn folded<const WORDS: usize>(words: &[u64; WORDS]) -> u64 {
    let mut sum = 0;
    let mut word = 0;
    while word < WORDS {
        sum ^= words[word];
        word += 1;
    }
    sum
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::Direction;
    use crate::Outcome;
    use crate::Protocol;
    use crate::RemoteKind;

    const KEY: [u64; 2] = [0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321];
    const SECOND_NS: u64 = 1_000_000_000;

    fn followed(cookie: u64, cgroup_id: u64) -> Followed {
        let key = FlowKey {
            cgroup_id,
            executable_id: 7,
            remote: Address::v4(9),
            local: Address::ZERO,
            port: 80,
            protocol: Protocol::Tcp,
            direction: Direction::Outbound,
            remote_kind: RemoteKind::Address,
            outcome: Outcome::Established,
            _reserved: [0; 2],
        };
        let tracked = Tracked { key, netns_cookie: 0, process: Process::UNKNOWN };
        let mut slot = Followed { cookie: 1, sum: 2, tracked, flags: 3, received_at_fin: 4 };
        slot.fill(cookie, &key, 6, &Process { pid: 7, uid: 8, comm: *b"a command name \0" });
        slot
    }

    fn client(port: u64) -> ClientKey {
        ClientKey { netns_cookie: 0, address: Address::v4(0x0100_007f), port }
    }

    fn by(cgroup_id: u64) -> Dialler {
        Dialler { cgroup_id, news: cgroup_id & 1 }
    }

    fn no_dials() -> Dials {
        let empty = Dial {
            client: ClientKey { netns_cookie: 0, address: Address::ZERO, port: 0 },
            dialler: Dialler { cgroup_id: 0, news: 0 },
            at_ns: 0,
            sum: 0,
        };
        Dials { entered: 0, slots: [empty; 4] }
    }

    #[test]
    fn a_socket_has_its_opener_as_long_as_its_place_is_its_own() {
        let mut slot = Opened { cookie: 0, cgroup_id: 0, sum: 0 };
        assert_eq!(slot.by(5), 0);
        slot.fill(5, 2);
        assert_eq!((slot.by(5), slot.by(6)), (2, 0));
        // Of two writers, half and half.
        slot.cgroup_id = 3;
        assert_eq!(slot.by(5), 0);
    }

    #[test]
    fn what_two_writers_left_of_each_other_is_not_whole() {
        let (one, two) = (followed(5, 1), followed(13, 2));
        assert!(one.is_whole() && two.is_whole());
        assert!(Followed { flags: 1, received_at_fin: 9, ..one }.is_whole());
        assert!(!Followed { cookie: two.cookie, ..one }.is_whole());
        assert!(!Followed { tracked: two.tracked, ..one }.is_whole());
        let mixed = FlowKey { cgroup_id: 2, ..one.tracked.key };
        assert!(!Followed { tracked: Tracked { key: mixed, ..one.tracked }, ..one }.is_whole());
    }

    #[test]
    fn cookies_in_a_row_use_few_places_again_and_fill_all_sets_evenly() {
        for bits in [4, 8, 11] {
            let sets = 1_u32 << bits;
            let cookies = 5 * 4096..6 * 4096;
            let places: BTreeSet<u32> =
                cookies.clone().map(|cookie| Followed::place(cookie, bits)).collect();
            assert_eq!(places.len(), 128.min(1 << bits));
            assert!(places.last() < Some(&sets));
            let mut filled = BTreeMap::new();
            for cookie in cookies.take(8 * sets as usize) {
                *filled.entry(Followed::set(cookie, bits)).or_insert(0) += 1;
                assert!(Followed::given_up(cookie, bits) < Followed::WAYS);
            }
            assert_eq!(filled.first_key_value().map(|it| *it.0), Some(sets));
            let (&last, _) = filled.last_key_value().unwrap();
            assert_eq!(last + Followed::WAYS, Followed::slots(bits));
            assert_eq!(filled.len(), sets as usize);
            if sets < 4096 / 8 {
                assert!(filled.values().all(|&sockets| sockets == 8), "{filled:?}");
            }
        }
    }

    #[test]
    fn a_client_is_who_dialled_last_as_it_within_a_minute() {
        let mut dials = no_dials();
        let now_ns = 1_000 * SECOND_NS;
        assert_eq!(dials.find(&client(1), now_ns), by(0));
        dials.enter(&client(1), by(11), now_ns);
        dials.enter(&client(2), by(12), now_ns);
        dials.enter(&client(1), by(13), now_ns + 1);
        assert_eq!(dials.find(&client(1), now_ns + 2), by(13));
        assert_eq!(dials.find(&client(2), now_ns + 2), by(12));
        assert_eq!(dials.find(&client(3), now_ns + 2), by(0));
        // Another CPU's clock is behind.
        assert_eq!(dials.find(&client(2), now_ns - SECOND_NS), by(12));
        assert_eq!(dials.find(&client(2), now_ns + 60 * SECOND_NS), by(12));
        assert_eq!(dials.find(&client(2), now_ns + 61 * SECOND_NS), by(0));
    }

    #[test]
    fn the_oldest_dial_makes_room() {
        let mut dials = no_dials();
        for port in 1..=5 {
            dials.enter(&client(port), by(port), port);
        }
        let found: std::vec::Vec<u64> =
            (1..=5).map(|port| dials.find(&client(port), 6).cgroup_id).collect();
        assert_eq!(found, [0, 2, 3, 4, 5]);
    }

    #[test]
    fn what_two_writers_left_of_two_dials_is_nobody() {
        let (mut one, mut two) = (no_dials(), no_dials());
        one.enter(&client(1), by(1), 1);
        two.enter(&client(1), by(2), 1);
        one.slots[0].dialler = two.slots[0].dialler;
        assert_eq!(one.find(&client(1), 2), by(0));
    }

    #[test]
    fn clients_are_spread_over_the_sets_by_the_key() {
        const BITS: u32 = 8;
        let spread = |key| {
            let mut sets = [0_u32; 1 << BITS];
            for port in 0..65_536 {
                sets[Dials::set(&client(port), key, BITS) as usize] += 1;
            }
            sets
        };
        let sets = spread(KEY);
        assert!(sets.iter().all(|&clients| (120..400).contains(&clients)), "{sets:?}");
        assert_ne!(sets, spread([KEY[0] ^ 1, KEY[1]]));
        assert_ne!(sets, spread([KEY[0], KEY[1] ^ 1]));
    }
}
