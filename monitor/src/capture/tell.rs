//! What the kernel says, as observations in an order that can be relied on: a cgroup and the
//! addresses of a network namespace are told before the first flow of it.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Instant;

use monitor_common as wire;
use monitor_core::flow::{
    Begun, Canary as News, Direction, Flood, Flow, FlowKey, KeyId, Loss, Observation, Remote,
};
use monitor_core::ids::{CgroupId, NetnsCookie};
use monitor_core::socket::Socket;

use crate::capture::attachments::Gone;
use crate::capture::batch::SeenBatch;
use crate::capture::canary::Canary;
use crate::capture::cgroups::Cgroups;
use crate::capture::clock::{self, Clock};
use crate::capture::connections::OldFlow;
use crate::capture::decode::{
    self, Caller, KeyBytes, ListenKeyBytes, ListenerBytes, Origin, Record, SocketOwner, Undecodable,
};
use crate::capture::entries::{self, Entry};
use crate::capture::floods::Floods;
use crate::capture::lookups::Lookups;
use crate::capture::losses::Losses;
use crate::capture::nets::Wanted;
use crate::capture::openers::Openers;
use crate::capture::processes::Processes;
use crate::capture::seen::{SeenMap, Sighting, Told};
use crate::capture::servers::Servers;
use crate::capture::told_addresses::Addresses;
use crate::capture::unusual::{Held, Sought, Unusual};
use crate::capture::{Result, map_error};

/// Everything needed to tell, and what is to be told.
pub(super) struct Teller {
    pub(super) seen: SeenMap,
    pub(super) told: Told,
    pub(super) floods: Floods,
    pub(super) cgroups: Cgroups,
    processes: Processes,
    addresses: Addresses,
    pub(super) losses: Losses,
    canary: Canary,
    openers: Openers,
    pub(super) servers: Servers,
    pub(super) clock: Clock,
    pub(super) sweeps: u32,
    pub(super) pending: Vec<Observation>,
    unusual: Unusual,
    /// Where packets are to be looked at.
    wanted: Vec<Wanted>,
    pub(super) lookups: Lookups,
    /// Where names were asked for.
    pub(super) asking: Vec<Wanted>,
}

impl Teller {
    pub(super) fn new(
        seen: SeenMap,
        told: Told,
        floods: Floods,
        losses: Losses,
        cgroups: Cgroups,
        processes: Processes,
        canary: Canary,
    ) -> Self {
        Self {
            seen,
            told,
            floods,
            cgroups,
            processes,
            addresses: Addresses::default(),
            losses,
            canary,
            openers: Openers::new(),
            servers: Servers::default(),
            clock: Clock::read(),
            sweeps: 0,
            pending: Vec::new(),
            unusual: Unusual::default(),
            wanted: Vec::new(),
            lookups: Lookups::default(),
            asking: Vec::new(),
        }
    }

    /// Tells of every cgroup there is.
    pub(super) fn walk_cgroups(&mut self) {
        self.cgroups.walk(&mut self.pending);
    }

    /// What is to be told, in order.
    pub(super) fn take(&mut self) -> Vec<Observation> {
        self.told.handed_over();
        std::mem::take(&mut self.pending)
    }

    /// The cgroups in which an unusual socket was made since it was last asked.
    pub(super) fn wanted(&mut self) -> Vec<Wanted> {
        std::mem::take(&mut self.wanted)
    }

    /// The cgroups in which names were asked for since it was last asked.
    pub(super) fn asking(&mut self) -> Vec<Wanted> {
        std::mem::take(&mut self.asking)
    }

    /// The cgroups that are told to be gone.
    pub(super) fn vanished(&self) -> impl Iterator<Item = CgroupId> {
        self.pending.iter().filter_map(|told| match told {
            Observation::CgroupVanished { id } => Some(*id),
            _ => None,
        })
    }

    /// Tells of unusual sockets that somebody in or below the `watched` cgroup holds, unless they were
    /// told.
    pub(super) fn unusual(&mut self, sought: Sought, watched: &Path) {
        let now_ns = clock::boot_ns();
        for Held { socket, pid } in self.unusual.held(sought) {
            // Gone meanwhile.
            let Some((cgroup, path)) = self.cgroups.of(pid) else { continue };
            if !path.starts_with(watched) {
                continue;
            }
            let uid = fs::metadata(format!("/proc/{pid}")).map_or(0, |it| it.uid());
            let executable_id = self.executable_id(pid);
            let owner = SocketOwner { cgroup, executable_id, pid, uid };
            let (key, stats, origin) = decode::opening(socket, owner, now_ns);
            if self.seen.enter(&key, &stats) {
                self.sighting(key, now_ns, now_ns, &origin);
            }
        }
    }

    /// Begins reading records: they share one reading of the clocks.
    pub(super) fn begin_batch(&mut self) {
        self.clock = Clock::read();
        self.processes.refresh();
    }

    /// Tells of one record of the ring.
    pub(super) fn record(&mut self, bytes: &[u8]) {
        match decode::record(bytes) {
            Ok(Record::Flow { news, key, at_ns, entered_ns, origin }) => {
                self.tell_lookups(at_ns);
                match news {
                    wire::News::Entered => {
                        // Entered at the same moment by another processor, which is done by now.
                        let entered_ns =
                            entered_ns.or_else(|| Some(self.seen.get(&key)?.first_seen_ns));
                        self.sighting(key, entered_ns.unwrap_or(at_ns), at_ns, &origin);
                    }
                    wire::News::OtherEnd => self.repeated(&key, at_ns, &origin),
                    wire::News::OverBudget => self.example(&key, at_ns, &origin),
                }
            }
            Ok(Record::CgroupCreated { id, path: Some(path) }) => {
                self.cgroups.appeared(id, path, &mut self.pending);
            }
            // Too long to be told: the tree is walked when a flow comes from it.
            Ok(Record::CgroupCreated { path: None, .. }) => {}
            Ok(Record::CgroupRemoved { id }) => self.cgroups.vanished(id, &mut self.pending),
            Err(Undecodable) => self.losses.count(Loss::Undecodable, 1),
        }
    }

    /// Ends reading records. Far more told than the kernel can hold: most are forgotten there, and
    /// only a look at the whole map says which.
    pub(super) fn end_batch(&mut self) -> Result<()> {
        let mut floods = Vec::new();
        let unread = self.floods.read(self.clock, clock::boot_ns(), &mut floods);
        let undecodable =
            unread.map_err(|source| map_error(monitor_common::map::FLOODS, source))?;
        self.losses.count(Loss::Undecodable, undecodable);
        floods.into_iter().for_each(|flood| self.flooded(flood));
        if self.told.dials() > self.seen.entries().saturating_mul(2) {
            self.read_seen(|_| false)?;
        }
        Ok(())
    }

    /// Tells the addresses of a namespace where they changed.
    pub(super) fn addresses(&mut self, netns: NetnsCookie, addresses: Vec<IpAddr>) {
        self.addresses.told(netns, addresses, &mut self.pending);
    }

    /// When there is something to do about the canary next.
    pub(super) fn next_canary(&self) -> Instant {
        self.canary.next()
    }

    /// Sends a canary off where one is due; `prepare` is told where it will land and whose it is.
    pub(super) fn fly(
        &mut self,
        prepare: impl FnOnce(SocketAddr, CgroupId) -> std::result::Result<(), String>,
    ) {
        if !self.canary.is_due() {
            return;
        }
        for bytes in self.canary.take_keys() {
            // One that stays is found by a sweep, and known for a canary's.
            drop(self.seen.remove(&bytes));
        }
        let own = self.cgroups.own();
        let flown = self.canary.fly(own, |at| own.map_or(Ok(()), |own| prepare(at, own)));
        if let Err(why) = flown {
            self.pending.push(Observation::Canary(News::Grounded { why }));
        }
    }

    /// Says that the canary did not come back, once all that there was to read was read.
    pub(super) fn judge_canary(&mut self) {
        self.pending.extend(self.canary.judge());
    }

    /// From now on every accept is seen with its listener known. What was accepted before is older
    /// than the watch, and nothing that was lost.
    pub(super) fn begin_counting(&mut self) -> Result<()> {
        self.losses.forget(&[Loss::Unattributed, Loss::Untracked])
    }

    /// Counts programs that could not be attached.
    pub(super) fn unattached(&mut self, programs: usize) {
        self.losses.count(Loss::HookMissing, programs as u64);
    }

    /// Tells what became of what is attached and pinned.
    pub(super) fn gone(&mut self, gone: Gone) {
        self.unattached(gone.programs.len());
        self.pending.extend(gone.told());
    }

    /// The kernel's id of what a process runs; 0 where it has none.
    pub(super) fn executable_id(&self, pid: u32) -> u64 {
        self.processes.executable_id(pid)
    }

    /// Tells of a listener that is there at `now_ns`, unless it was told: one that is older than the
    /// kernel programs, or whose key was forgotten since, for it will not be seen to begin again.
    pub(super) fn listener(&mut self, key: &ListenKeyBytes, listener: &ListenerBytes, now_ns: u64) {
        match decode::listening(key, listener) {
            Ok(listening) if !self.told.holds(&listening.key) => {
                let (stats, origin) = listening.entered(now_ns);
                // Else entered by the kernel: told by the ring, or by the next sweep.
                if self.seen.enter(&listening.key, &stats) {
                    self.sighting(listening.key, now_ns, now_ns, &origin);
                }
            }
            Ok(_told) => {}
            Err(Undecodable) => self.losses.count(Loss::Undecodable, 1),
        }
    }

    /// Tells of connections that are older than the kernel programs, unless those saw one like them.
    pub(super) fn pre_existing(&mut self, flows: Vec<OldFlow>) {
        let now_ns = clock::boot_ns();
        self.pending.reserve(flows.len());
        for flow in flows {
            if self.canary.owns(&flow.key) {
                continue;
            }
            let process = flow.pid.map(|pid| Caller {
                pid,
                uid: flow.uid,
                command: String::new(),
                executable_id: flow.executable_id,
            });
            // A dialling socket's own cgroup is its opener's: nobody else is to be asked for.
            let is_dial = flow.key.direction == Direction::Outbound;
            let opener = is_dial.then_some(flow.key.cgroup);
            let origin = Origin { netns: flow.netns, client: Some(flow.client), process, opener };
            if flow.connections == 0 {
                // The other end of a dial that is told: it is counted by itself.
                self.tell((flow.key, None), now_ns, &origin, Begun::Before);
                continue;
            }
            let bytes = decode::key_bytes(&flow.key);
            if self.told.holds(&bytes) {
                continue;
            }
            let stats = decode::counted(flow.key.outcome, &origin, flow.connections, now_ns);
            let entered = self.seen.enter(&bytes, &stats).then(|| self.told.see(&bytes, now_ns).0);
            // Where something else came of the same dial meanwhile, it is not counted.
            let lacks = || self.seen.get(&bytes).is_some_and(|entry| entry.lacks(&bytes));
            if entered.is_some() || lacks() {
                self.tell((flow.key, entered), now_ns, &origin, Begun::Before);
            }
        }
    }

    /// Goes through the whole seen-map: keys that were never told (the ring was full), what the others
    /// did, and which are gone. Of those that `counts` does not pick, that is told the next time.
    pub(super) fn read_seen(&mut self, counts: impl Fn(KeyId) -> bool) -> Result<()> {
        self.told.begin_round();
        let mut batch = SeenBatch::new();
        while self.read_batch(&mut batch, &counts)? {}
        self.told.end_round(self.clock, &mut self.pending);
        Ok(())
    }

    /// Reads on; false where all was read.
    pub(super) fn read_batch(
        &mut self,
        batch: &mut SeenBatch,
        counts: impl Fn(KeyId) -> bool,
    ) -> Result<bool> {
        let more = self.seen.read(batch)?;
        if more {
            for (bytes, stats) in batch.rows() {
                match entries::entry(bytes, stats) {
                    Ok(Some(entry)) => self.read_entry(&entry, &counts),
                    // Being entered at this moment: told by the ring, or the next time.
                    Ok(None) => {}
                    Err(Undecodable) => self.undecodable(bytes),
                }
            }
        }
        Ok(more)
    }

    fn read_entry(&mut self, entry: &Entry, counts: impl Fn(KeyId) -> bool) {
        let mut came_at = None;
        for (bytes, counters) in entry.flows() {
            let known = self.told.knows(&bytes, entry.first_seen_ns);
            let id = known.or_else(|| {
                let at_ns = *came_at.get_or_insert_with(|| self.came_at(entry));
                self.sighting(bytes, entry.first_seen_ns, at_ns, &entry.origin());
                self.told.id_of(&bytes)
            });
            match id {
                Some(id) if counts(id) => {
                    let traffic = self.told.traffic(id, &counters, self.clock);
                    self.pending.extend(traffic.map(Observation::Traffic));
                }
                Some(id) => self.told.came_by(id),
                // A canary's, or removed.
                None => {}
            }
            self.want(&bytes, entry.pid());
        }
    }

    /// When what was not told of an entry came: as it was made, or since, where it is known; then at the
    /// latest when it was last seen.
    pub(super) fn came_at(&self, entry: &Entry) -> u64 {
        let known =
            entry.flows().any(|(key, _)| self.told.knows(&key, entry.first_seen_ns).is_some());
        if known { entry.last_seen_ns } else { entry.first_seen_ns }
    }

    /// Counts an entry that cannot be read, once: it is removed, and makes room for one that can.
    fn undecodable(&mut self, bytes: &KeyBytes) {
        self.losses.count(Loss::Undecodable, 1);
        // Where it stays it is counted again, which is what happened.
        drop(self.seen.remove(bytes));
    }

    /// Where an unusual socket was made, and where names are asked for, packets are to be looked at, as long
    /// as the cgroup is there.
    pub(super) fn want(&mut self, bytes: &KeyBytes, pid: Option<u32>) {
        let wanted = if decode::opens(bytes) {
            &mut self.wanted
        } else if entries::asks(bytes) {
            &mut self.asking
        } else {
            return;
        };
        let Ok(key) = decode::key(bytes) else { return };
        let sends = |socket: Socket| socket.sends_by_ip();
        let is_seen = !matches!(key.remote, Remote::Socket(socket) if !sends(socket));
        if is_seen && self.cgroups.is_present(key.cgroup) {
            wanted.push(Wanted { cgroup: key.cgroup, pid, path: None });
        }
    }

    /// Tells of a flow key of the entry made at `entered_ns`, unless it was told.
    pub(super) fn sighting(
        &mut self,
        bytes: KeyBytes,
        entered_ns: u64,
        at_ns: u64,
        origin: &Origin,
    ) {
        let Ok(key) = decode::key(&bytes) else {
            return self.undecodable(&bytes);
        };
        if self.canary.owns(&key) {
            return self.pending.extend(self.canary.came(bytes, &key));
        }
        let (id, sighting) = self.told.see(&bytes, entered_ns);
        match sighting {
            Sighting::Known => return,
            Sighting::Again => self.pending.push(Observation::Forgotten { id, key }),
            Sighting::New => {}
        }
        self.tell((key, Some(id)), at_ns, origin, Begun::Seen);
        self.want(&bytes, origin.process.as_ref().map(|process| process.pid));
    }

    /// Tells of a flow key whether or not it was told.
    fn repeated(&mut self, bytes: &KeyBytes, at_ns: u64, origin: &Origin) {
        match decode::key(bytes) {
            Ok(key) if self.canary.owns(&key) => {
                self.pending.extend(self.canary.came(*bytes, &key));
            }
            Ok(key) => self.tell((key, self.told.id_of(bytes)), at_ns, origin, Begun::Seen),
            Err(Undecodable) => self.undecodable(bytes),
        }
    }

    /// Tells of a flood, before what belongs to it.
    fn flooded(&mut self, flood: Flood) {
        let first = |it: &Observation| matches!(it, Observation::Flow(flow) if flow.key.cgroup == flood.cgroup);
        let at = self.pending.iter().position(first).unwrap_or(self.pending.len());
        self.pending.insert(at, Observation::Flooded(Box::new(flood)));
    }

    /// Takes in one of many flows beyond a budget: it is told with their figures.
    fn example(&mut self, bytes: &KeyBytes, at_ns: u64, origin: &Origin) {
        let (Ok(key), Ok(payer)) = (decode::key(bytes), decode::payer(bytes)) else {
            self.losses.count(Loss::Undecodable, 1);
            return;
        };
        let pid = origin.process.as_ref().map(|process| process.pid);
        self.cgroups.ensure(key.cgroup, pid, &mut self.pending);
        if let Remote::Cgroup(id) = key.remote {
            self.cgroups.ensure(id, None, &mut self.pending);
        }
        // What a dial beyond the budget reached here is told by its server: the process is that one's.
        let shown_by = |_: &&Caller| !matches!(key.remote, Remote::Cgroup(_));
        let process = origin.process.as_ref().filter(shown_by);
        let process = process.map(|caller| self.processes.describe(caller, at_ns));
        self.floods.example(payer, key, process);
    }

    /// Tells of a flow, and of all that must be known before it.
    pub(super) fn tell(
        &mut self,
        (key, id): (FlowKey, Option<KeyId>),
        at_ns: u64,
        origin: &Origin,
        begun: Begun,
    ) {
        let pid = origin.process.as_ref().map(|process| process.pid);
        self.cgroups.ensure(key.cgroup, pid, &mut self.pending);
        if let Remote::Cgroup(id) = key.remote {
            self.cgroups.ensure(id, None, &mut self.pending);
        }
        self.addresses.ensure(origin.netns, pid, &mut self.pending);
        let opener = origin.opener.or_else(|| self.servers.opener(&key, origin));
        let opener = opener.or_else(|| self.openers.of(&key, origin));
        let opener = opener.filter(|opener| *opener != key.cgroup);
        if let Some(opener) = opener {
            self.cgroups.ensure(opener, None, &mut self.pending);
        }
        let process = origin.process.as_ref().map(|caller| self.processes.describe(caller, at_ns));
        self.pending.push(Observation::Flow(Flow {
            key,
            id,
            at: self.clock.wall(at_ns),
            netns: origin.netns,
            client: origin.client,
            process,
            begun,
            opener,
        }));
    }
}
