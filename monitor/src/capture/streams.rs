//! Messages of DNS over TCP: each has its length before it, and may come in pieces, late or twice. Bounded,
//! each cgroup by itself: what finds no room is dropped and said to be. Knows nothing of what is in a
//! message.

use std::collections::{BTreeMap, VecDeque};

use monitor_core::flow::Direction;
use monitor_core::ids::CgroupId;

/// One way of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StreamId {
    pub(super) cookie: u64,
    pub(super) direction: Direction,
}

/// The streams under way, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Streams(VecDeque<(CgroupId, StreamId, Stream)>);

#[derive(Debug, Default)]
struct Stream {
    /// The sequence number of the next byte that is missing.
    next: u32,
    /// In order, from the beginning of a message on.
    ready: Vec<u8>,
    /// What came before what it follows, by how far behind `next` it begins.
    early: BTreeMap<u32, Vec<u8>>,
}

/// A part of a message was given up, or there was no making sense of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dropped;

impl Streams {
    const MOST: usize = 32;
    const OF_ONE: usize = 4;
    /// A message at its longest, with its length.
    const BYTES: usize = 2 + u16::MAX as usize;

    /// Takes in a segment; the messages that are whole by that. Where nothing of a stream was seen before,
    /// it begins there.
    pub(super) fn take(
        &mut self,
        cgroup: CgroupId,
        id: StreamId,
        (sequence, payload): (u32, &[u8]),
    ) -> (Vec<Vec<u8>>, Result<(), Dropped>) {
        let mut dropped = Ok(());
        let at = self.0.iter().position(|(_, it, _)| *it == id);
        let at = at.unwrap_or_else(|| {
            dropped = self.make_room(cgroup);
            let stream = Stream { next: sequence, ..Stream::default() };
            self.0.push_back((cgroup, id, stream));
            self.0.len() - 1
        });
        let Some((_, _, stream)) = self.0.get_mut(at) else { return (Vec::new(), dropped) };
        if stream.add(sequence, payload).is_err() {
            self.0.remove(at);
            return (Vec::new(), Err(Dropped));
        }
        (stream.messages(), dropped)
    }

    /// The cgroup is gone.
    pub(super) fn vanished(&mut self, cgroup: CgroupId) {
        self.0.retain(|(of, ..)| *of != cgroup);
    }

    /// Gives up the oldest of this cgroup where it has as many as it may, else the oldest of all.
    fn make_room(&mut self, cgroup: CgroupId) -> Result<(), Dropped> {
        let own = |(of, ..): &(CgroupId, StreamId, Stream)| *of == cgroup;
        let oldest = if self.0.iter().filter(|it| own(it)).count() >= Self::OF_ONE {
            self.0.iter().position(own)
        } else {
            (self.0.len() >= Self::MOST).then_some(0)
        };
        let given_up = oldest.and_then(|at| self.0.remove(at));
        given_up.map_or(Ok(()), |(_, _, stream)| stream.end())
    }
}

impl Stream {
    /// Half of all sequence numbers lie ahead, half behind.
    const AHEAD: u32 = 1 << 31;

    fn add(&mut self, sequence: u32, payload: &[u8]) -> Result<(), Dropped> {
        let ahead = sequence.wrapping_sub(self.next);
        if ahead < Self::AHEAD && ahead > 0 {
            let held: usize = self.early.values().map(Vec::len).sum();
            if held + payload.len() + self.ready.len() > Streams::BYTES || self.early.len() >= 64 {
                return Err(Dropped);
            }
            // By the number itself: what it lies ahead of moves on.
            self.early.insert(sequence, payload.to_vec());
            return Ok(());
        }
        self.follow(sequence, payload)?;
        loop {
            let next = self.next;
            let fits = |(at, _): &(&u32, &Vec<u8>)| {
                let ahead = at.wrapping_sub(next);
                ahead == 0 || ahead >= Self::AHEAD
            };
            let Some(at) = self.early.iter().find(fits).map(|(at, _)| *at) else { return Ok(()) };
            let payload = self.early.remove(&at).unwrap_or_default();
            self.follow(at, &payload)?;
        }
    }

    /// Takes in what begins where the last ended, or before: then what is known of it is left out.
    fn follow(&mut self, sequence: u32, payload: &[u8]) -> Result<(), Dropped> {
        let known = usize::try_from(self.next.wrapping_sub(sequence)).unwrap_or(usize::MAX);
        let news = payload.get(known..).unwrap_or_default();
        if self.ready.len() + news.len() > 2 * Streams::BYTES {
            return Err(Dropped);
        }
        self.ready.extend_from_slice(news);
        self.next = self.next.wrapping_add(u32::try_from(news.len()).unwrap_or(0));
        Ok(())
    }

    /// Takes out what is whole.
    fn messages(&mut self) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        while let Some((length, rest)) = self.ready.split_first_chunk() {
            let length = usize::from(u16::from_be_bytes(*length));
            let Some(message) = rest.get(..length) else { break };
            messages.push(message.to_vec());
            self.ready.drain(..2 + length);
        }
        messages
    }

    fn end(&self) -> Result<(), Dropped> {
        let is_whole = self.ready.is_empty() && self.early.is_empty();
        if is_whole { Ok(()) } else { Err(Dropped) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: StreamId = StreamId { cookie: 1, direction: Direction::Outbound };
    const CGROUP: CgroupId = CgroupId(1);

    fn framed(messages: &[&[u8]]) -> Vec<u8> {
        let framed = messages.iter().map(|it| {
            let length = u16::try_from(it.len()).unwrap().to_be_bytes();
            [&length, *it].concat()
        });
        framed.collect::<Vec<_>>().concat()
    }

    #[test]
    fn what_is_never_whole_is_dropped_and_said_to_be() {
        let mut streams = Streams::default();
        let id = |cookie| StreamId { cookie, direction: Direction::Inbound };
        for cookie in 0..4 {
            assert_eq!(streams.take(CGROUP, id(cookie), (0, &[0])), (Vec::new(), Ok(())));
        }
        // Another cgroup's are its own.
        assert_eq!(streams.take(CgroupId(2), id(9), (0, &[0])), (Vec::new(), Ok(())));
        assert_eq!(streams.take(CGROUP, id(4), (0, &[0])), (Vec::new(), Err(Dropped)));
        assert_eq!(streams.take(CgroupId(2), id(9), (1, &[1, 7])), (vec![vec![7]], Ok(())));
        // Whole, it may go unheard.
        for cookie in 10..200 {
            let (told, went) = streams.take(CgroupId(cookie), id(cookie), (5, &[0, 1, 7]));
            assert_eq!(told, vec![vec![7]]);
            assert!(went.is_ok() || cookie < 45, "{cookie}");
        }
        // Room is bounded, however it is sent.
        let mut streams = Streams::default();
        let gap = [7; 4096];
        drop(streams.take(CGROUP, ID, (0, &[0])));
        let went = (1..64).map(|at| streams.take(CGROUP, ID, (4096 * at, &gap)).1);
        assert!(went.collect::<Vec<_>>().contains(&Err(Dropped)));
    }

    proptest! {
        #[test]
        fn whatever_the_pieces_and_their_order_the_messages_are_the_same(
            messages in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..300), 1..6
            ),
            start in any::<u32>(),
            sizes in proptest::collection::vec(1..400_usize, 1..40),
            swaps in proptest::collection::vec((0..40_usize, 0..40_usize), 0..20),
            twice in 0..40_usize,
        ) {
            let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
            let bytes = framed(&messages);
            let (mut at, mut pieces) = (0, Vec::new());
            for size in sizes.iter().cycle() {
                let end = (at + size).min(bytes.len());
                pieces.push((start.wrapping_add(u32::try_from(at).unwrap()), &bytes[at..end]));
                at = end;
                if at == bytes.len() {
                    break;
                }
            }
            // The first one says where it begins.
            let count = pieces.len();
            pieces.push(pieces[twice % count]);
            for (one, other) in swaps {
                let (one, other) = (one % count, other % count);
                if one != 0 && other != 0 {
                    pieces.swap(one, other);
                }
            }
            let mut streams = Streams::default();
            let mut told = Vec::new();
            let mut whole = true;
            for (sequence, piece) in pieces {
                let (some, went) = streams.take(CGROUP, ID, (sequence, piece));
                whole &= went.is_ok();
                told.extend(some);
            }
            prop_assert!(!whole || told == messages);
        }
    }
}
