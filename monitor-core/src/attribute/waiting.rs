//! Flows that wait a moment for their outcome or their other end: first in, first out, found by what
//! was dialled and by the client's own end, without a walk over all of them. By Fast Open an accept may
//! be told before its dialler's own end is known: then the accept waits for the dial.

use std::collections::VecDeque;
use std::net::SocketAddr;

use foldhash::quality::FixedState;
use hashbrown::HashMap;

use crate::attribute::KeyIds;
use crate::flow::{Direction, Flow, FlowKey, Protocol, Remote};
use crate::ids::{BootTime, CgroupId};

/// A dial that may still learn its outcome or its other end, an inbound datagram, or what was accepted
/// from a dial that is about to say who it is.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) flow: Flow,
    pub(crate) keys: KeyIds,
    pub(crate) until: BootTime,
}

/// All of them. Times never fall, so the order of arrival is the order in which they are due.
#[derive(Debug)]
pub(crate) struct WaitingRoom {
    /// None where one was taken out before its time.
    places: VecDeque<Option<Waiting>>,
    /// The number of the first place; numbers rise for ever.
    first: u64,
    present: usize,
    by_dial: HashMap<FlowKey, u64, FixedState>,
    by_client: HashMap<(CgroupId, SocketAddr), u64, FixedState>,
    /// What was accepted from a client.
    by_accept: HashMap<(CgroupId, SocketAddr), u64, FixedState>,
    /// How many TCP dials of a cgroup to a port do not know their own end yet.
    unsettled: HashMap<(CgroupId, u16), usize, FixedState>,
    /// How many each cgroup has here.
    by_cgroup: HashMap<CgroupId, usize, FixedState>,
    hasher: FixedState,
}

/// Who dials which port, where a TCP dial does not know its own end yet.
fn unsettled(flow: &Flow) -> Option<(CgroupId, u16)> {
    let is_dial = flow.key.direction == Direction::Outbound && flow.key.protocol == Protocol::Tcp;
    (is_dial && flow.client.is_none()).then_some((flow.key.cgroup, flow.key.port))
}

impl WaitingRoom {
    pub(crate) fn new(hasher: FixedState) -> Self {
        Self {
            places: VecDeque::new(),
            first: 0,
            present: 0,
            by_dial: HashMap::with_hasher(hasher.clone()),
            by_client: HashMap::with_hasher(hasher.clone()),
            by_accept: HashMap::with_hasher(hasher.clone()),
            unsettled: HashMap::with_hasher(hasher.clone()),
            by_cgroup: HashMap::with_hasher(hasher.clone()),
            hasher,
        }
    }

    pub(crate) const fn len(&self) -> usize {
        self.present
    }

    pub(crate) fn len_of(&self, cgroup: CgroupId) -> usize {
        self.by_cgroup.get(&cgroup).copied().unwrap_or(0)
    }

    pub(crate) fn push(&mut self, waiting: Waiting) {
        *self.by_cgroup.entry(waiting.flow.key.cgroup).or_default() += 1;
        let number = self.first + self.places.len() as u64;
        self.by_dial.insert(waiting.flow.key.dial(), number);
        if let Some(dial) = unsettled(&waiting.flow) {
            *self.unsettled.entry(dial).or_default() += 1;
        }
        match (waiting.flow.client, waiting.flow.key.remote) {
            (Some(own), Remote::Cgroup(client)) => {
                self.by_accept.insert((client, own), number);
            }
            (Some(own), _) => {
                self.by_client.insert((waiting.flow.key.cgroup, own), number);
            }
            (None, _) => {}
        }
        self.places.push_back(Some(waiting));
        self.present += 1;
    }

    /// The one that waits for the same dial as `key` tells of, and its number.
    pub(crate) fn of_dial(&mut self, key: &FlowKey) -> Option<(u64, &mut Waiting)> {
        let number = *self.by_dial.get(&key.dial())?;
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.places.get_mut(index)?.as_mut().map(|waiting| (number, waiting))
    }

    /// Tells the dial of this key its own end, if it waits and does not know it.
    pub(crate) fn settle(&mut self, key: &FlowKey, own: SocketAddr) {
        let Some((number, waiting)) = self.of_dial(key) else {
            return;
        };
        let dial = unsettled(&waiting.flow);
        if waiting.flow.client.is_none() {
            waiting.flow.client = Some(own);
            self.by_client.insert((key.cgroup, own), number);
            self.is_settled(dial);
        }
    }

    /// Whether a dial of `client` to `port` waits that does not know its own end yet, and none that has
    /// this one.
    pub(crate) fn may_tell(&self, client: CgroupId, own: SocketAddr, port: u16) -> bool {
        self.unsettled.contains_key(&(client, port)) && !self.by_client.contains_key(&(client, own))
    }

    /// Takes out what was accepted from this client.
    pub(crate) fn take_accept(&mut self, client: CgroupId, own: SocketAddr) -> Option<Waiting> {
        let number = *self.by_accept.get(&(client, own))?;
        self.take(number)
    }

    /// Takes out the one whose client's own end this is.
    pub(crate) fn take_client(&mut self, cgroup: CgroupId, client: SocketAddr) -> Option<Waiting> {
        let number = *self.by_client.get(&(cgroup, client))?;
        self.take(number)
    }

    pub(crate) fn take(&mut self, number: u64) -> Option<Waiting> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let waiting = self.places.get_mut(index)?.take()?;
        self.forget(number, &waiting);
        self.close_up();
        Some(waiting)
    }

    /// Takes out the one that has waited longest.
    pub(crate) fn take_oldest(&mut self) -> Option<Waiting> {
        self.close_up();
        self.take(self.first)
    }

    /// Takes out the oldest, if its time is up.
    pub(crate) fn take_due(&mut self, now: BootTime) -> Option<Waiting> {
        self.next_due().filter(|until| *until <= now)?;
        self.take_oldest()
    }

    pub(crate) fn next_due(&self) -> Option<BootTime> {
        self.places.iter().flatten().next().map(|waiting| waiting.until)
    }

    fn forget(&mut self, number: u64, waiting: &Waiting) {
        self.present -= 1;
        if let Some(count) = self.by_cgroup.get_mut(&waiting.flow.key.cgroup) {
            *count -= 1;
            if *count == 0 {
                self.by_cgroup.remove(&waiting.flow.key.cgroup);
            }
        }
        let dial = waiting.flow.key.dial();
        if self.by_dial.get(&dial) == Some(&number) {
            self.by_dial.remove(&dial);
        }
        self.is_settled(unsettled(&waiting.flow));
        match (waiting.flow.client, waiting.flow.key.remote) {
            (Some(own), Remote::Cgroup(client)) => self.by_accept.remove(&(client, own)),
            (Some(own), _) => self.by_client.remove(&(waiting.flow.key.cgroup, own)),
            (None, _) => None,
        };
    }

    fn is_settled(&mut self, dial: Option<(CgroupId, u16)>) {
        let Some(dial) = dial else {
            return;
        };
        if let Some(count) = self.unsettled.get_mut(&dial) {
            *count -= 1;
            if *count == 0 {
                self.unsettled.remove(&dial);
            }
        }
    }

    /// So many are kept room for without looking whether that is needed.
    const ROOM: usize = 1_024;

    /// Gives up the empty places at the front.
    fn close_up(&mut self) {
        while let Some(None) = self.places.front() {
            self.places.pop_front();
            self.first += 1;
        }
        // A burst is over: its room is worth more than growing again.
        if self.present == 0 && self.places.capacity() > Self::ROOM {
            *self = Self { first: self.first, ..Self::new(self.hasher.clone()) };
        }
    }
}
