//! The two rings read as one story: what was answered before a dial is told before it, since a name that
//! came first is meant by it. What the records say is for others to read.

use aya::maps::{MapData, RingBuf};
use monitor_core::dns::Lookup;
use monitor_core::flow::{Loss, Observation};

use crate::capture::lookups::Told;
use crate::capture::tell::Teller;

impl Teller {
    /// Records of flows that are read before those of lookups are, and told after them.
    const READ_AHEAD: usize = 64;
    /// Records of lookups that are read at once: more than the ring holds.
    const LOOKUPS: usize = 512;

    /// Reads some of both rings and tells of it; how many records there were.
    pub(super) fn read(
        &mut self,
        flows: &mut RingBuf<MapData>,
        lookups: &mut RingBuf<MapData>,
    ) -> usize {
        let mut ahead: Vec<Vec<u8>> = Vec::new();
        while ahead.len() < Self::READ_AHEAD
            && let Some(record) = flows.next()
        {
            ahead.push(record.to_vec());
        }
        // Whatever preceded one of those is here by now.
        let mut heard = 0;
        while heard < Self::LOOKUPS
            && let Some(record) = lookups.next()
        {
            let read = self.lookups.hear(&record);
            self.losses.count(Loss::Undecodable, u64::from(read.is_err()));
            heard += 1;
        }
        for record in &ahead {
            self.record(record);
        }
        self.tell_lookups(u64::MAX);
        ahead.len() + heard
    }

    /// Tells what was asked and answered up to that moment.
    pub(super) fn tell_lookups(&mut self, at_ns: u64) {
        for came in self.lookups.until(at_ns) {
            match came {
                Ok(told) => self.tell_lookup(told),
                Err(loss) => self.losses.count(loss, 1),
            }
        }
    }

    fn tell_lookup(&mut self, told: Told) {
        let Told { at_ns, cgroup, client, resolver, near, message } = told;
        self.cgroups.ensure(cgroup, None, &mut self.pending);
        let at = self.clock.wall(at_ns);
        let lookup = Lookup { cgroup, at, client, resolver, near, message };
        self.pending.push(Observation::LookedUp(lookup));
    }
}
