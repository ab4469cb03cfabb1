//! Capture: loads the kernel programs, hears their news and keeps their maps. It turns bytes into
//! observations at one door (`decode`) and judges nothing. Only this module names the loader or the
//! wire. What it attached goes when it does, unless it is pinned: then it goes on counting for the
//! next one, which takes it up.

mod config;
mod entries;
mod error;
mod preflight;
mod tracefs;

mod clock;
mod decode;
mod dns;
mod streams;
mod lookups;
mod hierarchy;
mod mountinfo;
mod pace;
mod procfs;
mod shared;

mod bpf;
mod canary;
mod cgroups;
mod executables;
mod floods;
mod namespaces;
mod netlink;
mod ledger;
mod openers;
mod servers;
mod pins;
mod processes;
mod rounds;
mod batch;
mod seen;
mod shape;
mod strangers;
mod unusual;

mod makers;
mod nets;
mod losses;
mod hearing;
mod rearming;
mod tell;
mod told_addresses;
mod told_keys;

mod resuming;
mod sweeping;

mod attach;
mod beginning;
mod attachments;
#[doc(hidden)]
pub mod fuzzing;
mod keep;
mod kernel_log;
mod linking;
mod connections;
mod older;

mod foreign;
mod hooked;
mod machine;
mod memory;
mod trial;

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{Map, MapData, MapError, RingBuf};
use monitor_common::map;
use monitor_core::edge::Edge;
use monitor_core::engine::Tallies;
use monitor_core::flow::{Flow, KeyId, Observation, Remote};
use monitor_core::ids::CgroupId;
use monitor_core::network::Network;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use self::attach::{Extra, Links};
use self::attachments::Attachments;
use self::beginning::{Sight, begin_flows, begin_telling, fill_internal};
use self::hierarchy::Hierarchy;
use self::keep::{Kept, Plan};
use self::kernel_log::KernelLog;
use self::namespaces::Census;
use self::nets::{Nets, Wanted};
use self::older::OlderSockets;
use self::rounds::Rounds;
use self::tell::Teller;
use self::unusual::Sought;

pub use self::clock::boot_ns;
pub use self::config::{Budget, Config, ConfigError, Detail, Dns, Entries, Every, RingSize};
pub use self::error::CaptureError;
pub use self::foreign::{Neighbour, Neighbours, Sharing, neighbours};
pub use self::keep::{Before, Cleaned, Pinned, clean, pinned};
pub use self::machine::{Home, Insight, Lockdown, Machine};
pub use self::memory::give_back;
pub use self::preflight::{
    Capability, CgroupRoot, Ground, KernelRelease, Layout, Privileges, cgroup_root, hidden, kernel,
    preflight,
};
pub use self::rearming::Moved;
pub use self::strangers::below;
pub use self::sweeping::Sweep;
pub use self::tracefs::{Tracing, prepare_mounts};
pub use self::trial::{Ability, Trial, Tried, try_out};

type Result<T> = std::result::Result<T, CaptureError>;

/// `BPF_NOEXIST`: what the kernel has entered is right and stays.
const IF_ABSENT: u64 = 1;
/// `BPF_EXIST`: what is gone meanwhile stays gone.
const IF_PRESENT: u64 = 2;

/// What is watched, how, and what is not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub kernel: KernelRelease,
    pub cgroup: CgroupRoot,
    /// Kernel programs attached.
    pub programs: usize,
    /// What is not seen here, and why.
    pub missing: Vec<String>,
    /// Where it is pinned; None where it ends with this agent.
    pub pins: Option<PathBuf>,
    /// Whether an agent before this one left it attached.
    pub adopted: bool,
}

/// What an agent before this one knew and the kernel still holds.
#[derive(Debug, Default)]
pub struct Resumed {
    /// Cgroups and addresses.
    pub surroundings: Vec<Observation>,
    pub flows: Vec<(Flow, Edge)>,
}

/// What is not seen where nothing can be pinned.
const UNPINNED: &str = "what happens between the end of this agent and the next one's start";

/// The running capture. Dropping it detaches every program that is not pinned.
pub struct Capture {
    ring: AsyncFd<RingBuf<MapData>>,
    /// Of what is asked of resolvers and answered.
    lookups: AsyncFd<RingBuf<MapData>>,
    teller: Teller,
    older: OlderSockets,
    nets: Nets,
    /// Where names are asked for.
    askers: Nets,
    /// Packet sockets are looked for, since nothing tells of them.
    polled: bool,
    /// In and below this cgroup.
    watched: PathBuf,
    attachments: Attachments,
    kernel_log: KernelLog,
    summary: Summary,
    rounds: Rounds,
    heard: Instant,
    resumed: Resumed,
    /// None where nothing is pinned.
    kept: Option<Kept>,
    /// What is not pinned is gone when these are.
    _links: Links,
    ebpf: Ebpf,
}

impl Capture {
    /// A record whose writer was held up between reading the clock and writing it may go without a
    /// wake: it is found this much later at worst.
    const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(1);
    /// News handed over at once.
    const MAX_RECORDS: usize = 4096;

    /// Loads on a ground that was checked, tells the kernel what is older than its programs, attaches;
    /// or takes up what an agent before this one left attached, of which it stored `before`.
    ///
    /// Must be called within a tokio runtime.
    pub fn start(
        ground: Ground,
        config: &Config,
        internal: &[Network],
        budget: Budget,
        before: Before,
    ) -> Result<Self> {
        // While the programs are loaded: neither waits for the other.
        let looking = Census::begin();
        let plan = Plan::make(config, &ground, internal, budget)?;
        let (pinning, draft) = plan.begin()?;
        let mut attached = attach::load(config, &ground, &plan.settings, pinning)?;
        let ebpf = &mut attached.ebpf;
        let kernel_log = KernelLog::of(ebpf);
        fill_internal(ebpf, internal)?;
        let ring = register(take(ebpf, map::EVENTS)?)?;
        let lookups = register(take(ebpf, map::LOOKUPS)?)?;
        let mut older = OlderSockets::new(ebpf, &ground, config.cgroup.clone())?;
        attached.load_nets(config.dns);
        let hierarchy = || Hierarchy::of(&ground.cgroup);
        let mut nets = Nets::of_sockets(&mut attached.ebpf, hierarchy())?;
        let heard = config.dns == Dns::Auto && attached.has(Extra::Lookups);
        let mut askers =
            if heard { Nets::of_lookups(hierarchy()) } else { Nets::of_nothing(hierarchy()) };
        let mut teller = begin_telling(&mut attached, config, &ground, &plan, &before)?;
        if let Some(pinning) = &attached.pins {
            nets.adopt(&attached.ebpf, pinning, &teller.pending);
            askers.adopt(&attached.ebpf, pinning, &teller.pending);
        }
        let adopts = plan.adopts();
        let adopted = adopts.then_some(before);
        attached.load(&attach::FLOWS);
        let sight = Sight { older: &mut older, teller: &mut teller, looking };
        let started = begin_flows(&mut attached, config, internal, sight, adopted)?;
        let watched = config.cgroup.clone().unwrap_or_else(|| ground.cgroup.path.clone());
        teller.unusual(Sought::All, &watched);
        let polled = !attached.has(Extra::OpenedSockets);
        let mut missing = ground.hidden;
        missing.extend(attached.missing(ground.untraceable));
        missing.extend(started.refused);
        missing.extend(plan.unpinned.as_ref().map(|why| format!("{UNPINNED}: {why}")));
        missing.extend(attached.unkept());
        let programs = attached.count();
        // Before what an agent before this one attached may go.
        nets.want(&attached.ebpf, teller.wanted());
        askers.want(&attached.ebpf, teller.asking());
        let set = plan.set(draft)?;
        nets.kept_in(set.as_ref());
        askers.kept_in(set.as_ref());
        attached.drop_others(set.as_ref())?;
        let (ebpf, links, attachments) = attached.attachments(&watched, set.as_ref());
        let kept = plan.done(set)?;
        let pins = kept.as_ref().map(|kept| kept.dir().to_owned());
        let (kernel, cgroup) = (ground.kernel, ground.cgroup);
        let mut capture = Self {
            ring,
            lookups,
            teller,
            older,
            nets,
            askers,
            polled,
            watched,
            attachments,
            kernel_log,
            summary: Summary { kernel, cgroup, programs, missing, pins, adopted: adopts },
            rounds: Rounds::default(),
            heard: Instant::now(),
            resumed: started.resumed,
            kept,
            _links: links,
            ebpf,
        };
        if adopts {
            // Records first: they name the cgroups that are gone.
            while capture.hear()? {}
            capture.teller.catch_up()?;
        }
        Ok(capture)
    }

    /// What an agent before this one knew, once: to be taken in before anything else.
    pub fn resumed(&mut self) -> Resumed {
        std::mem::take(&mut self.resumed)
    }

    /// A name for the kernel's tables that no others have; None where they end with this agent.
    #[must_use]
    pub fn tables(&self) -> Option<String> {
        self.kept.as_ref().map(Kept::tables)
    }

    /// What is to be stored of the kernel's keys, in one transaction with all evidence there is now.
    pub fn tallied<'e>(&mut self, edge_of: impl Fn(KeyId) -> Option<&'e Edge>) -> Tallies {
        self.teller.tallied(edge_of)
    }

    /// The same where nothing of what was stored before counts any longer.
    pub fn tallied_anew<'e>(&mut self, edge_of: impl Fn(KeyId) -> Option<&'e Edge>) -> Tallies {
        self.teller.tallied_anew(edge_of)
    }

    /// How many keys there is something to be stored of.
    #[must_use]
    pub fn told_keys(&self) -> usize {
        self.teller.told_keys()
    }

    /// What is to be stored together with what makes a re-arming of these keys necessary: whoever
    /// starts after this agent was killed in between re-arms them.
    pub fn tallied_again<'e>(
        &self,
        keys: &[KeyId],
        edge_of: impl Fn(KeyId) -> Option<&'e Edge>,
    ) -> Tallies {
        self.teller.tallied_again(keys, edge_of)
    }

    /// Ends for good: nothing stays attached or pinned.
    ///
    /// # Errors
    /// The pins cannot be removed.
    pub fn leave_nothing(self) -> Result<()> {
        self.kept.map_or(Ok(()), |kept| kept.remove().map(drop))
    }

    /// What is watched here.
    #[must_use]
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// Waits for news. Cancellation-safe: nothing is taken before it is returned.
    pub async fn next(&mut self) -> Result<Vec<Observation>> {
        loop {
            let pending = self.teller.take();
            if !pending.is_empty() {
                return Ok(pending);
            }
            let older = &mut self.older;
            self.teller.fly(|at, cgroup| older.expect(at, cgroup));
            self.sleep().await?;
            if self.hear()? {
                self.rounds.news(Instant::now());
            } else {
                self.teller.judge_canary();
                self.rounds.silence(Instant::now());
            }
        }
    }

    /// Sleeps until the kernel wakes us, or it is time for a look.
    async fn sleep(&self) -> Result<()> {
        let at_rest = || {
            // Not from now on: whoever waits here may be called away again and again.
            let next = self.heard + Self::LOOK_AT_LEAST_EVERY;
            next.min(self.teller.next_canary().into())
        };
        let next = self.rounds.next().unwrap_or_else(at_rest);
        let woken = async {
            tokio::select! {
                ready = self.ring.readable() => ready,
                ready = self.lookups.readable() => ready,
            }
        };
        if let Ok(ready) = tokio::time::timeout_at(next, woken).await {
            // Cleared before the rings are read: a wake that comes while they are read counts.
            ready.map_err(CaptureError::Wait)?.clear_ready();
        }
        Ok(())
    }

    /// Reads what is in the rings; false where nothing was.
    fn hear(&mut self) -> Result<bool> {
        self.heard = Instant::now();
        self.teller.begin_batch();
        let mut records = 0;
        while records < Self::MAX_RECORDS {
            match self.teller.read(self.ring.get_mut(), self.lookups.get_mut()) {
                0 => break,
                some => records += some,
            }
        }
        self.teller.end_batch()?;
        self.look_at_packets();
        self.look_for_servers();
        let gone = self.attachments.look([&mut self.nets, &mut self.askers]);
        self.summary.missing.extend(gone.missing());
        self.teller.gone(gone);
        self.kernel_log.flush();
        Ok(records != 0)
    }

    fn look_at_packets(&mut self) {
        self.nets.want(&self.ebpf, self.teller.wanted());
        self.askers.want(&self.ebpf, self.teller.asking());
        for cgroup in self.teller.vanished().collect::<Vec<_>>() {
            self.nets.vanished(cgroup);
            self.askers.vanished(cgroup);
            self.teller.lookups.vanished(cgroup);
        }
    }

    /// What runs in this cgroup, at this path below the hierarchy's root, is known to ask for names: they are
    /// heard from now on.
    pub fn asks(&mut self, cgroup: CgroupId, path: &str) {
        let path = Some(self.teller.cgroups.path_of(path));
        self.askers.want(&self.ebpf, vec![Wanted { cgroup, pid: None, path }]);
    }

    /// In how many cgroups the names that are asked for are heard, and in how many there was no room for
    /// that.
    #[must_use]
    pub fn askers(&self) -> (usize, usize) {
        self.askers.counts()
    }

    /// The keys that were told of cgroups and their far ends that `concerns` picks.
    pub fn keys_of(&self, concerns: impl Fn(CgroupId, Remote) -> bool) -> Vec<KeyId> {
        self.teller.keys_of(|key| concerns(key.cgroup, key.remote))
    }

    /// Makes the kernel forget keys, so that each is told again when it is seen again: from the
    /// moment this returns. What they counted comes with the next observations, and so do listeners
    /// that still listen. What was dialled at a `moved` address since it moved is told at once.
    pub fn rearm(&mut self, keys: &[KeyId], moved: &Moved) -> Result<()> {
        if self.teller.rearm(keys, moved)? {
            // They go on listening: nothing else would tell of them.
            self.older.tell_listeners(&mut self.teller);
        }
        Ok(())
    }
}

fn take<T: TryFrom<Map, Error = MapError>>(ebpf: &mut Ebpf, name: &'static str) -> Result<T> {
    let map = ebpf.take_map(name).ok_or_else(|| absent(name))?;
    T::try_from(map).map_err(|source| map_error(name, source))
}

fn absent(name: &'static str) -> CaptureError {
    map_error(name, MapError::InvalidName { name: name.into() })
}

fn register(ring: RingBuf<MapData>) -> Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: the ring owns its file descriptor, is not taken apart, and gives no other.
    let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
    ring.map_err(|error| CaptureError::Wait(error.into()))
}

fn map_error(name: &'static str, source: MapError) -> CaptureError {
    CaptureError::Map { name, source: Box::new(source) }
}

/// Fresh from the operating system at every start.
fn random_seed() -> Result<[u64; 2]> {
    let path = "/dev/urandom";
    let mut bytes = [0; 16];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|source| CaptureError::Read { path, source })?;
    Ok(zerocopy::transmute!(bytes))
}
