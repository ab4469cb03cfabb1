//! The one owner of all state: one enum in, one enum out. Same inputs, same outputs. It asks for
//! everything it wants done and does nothing itself.

mod canary;
mod command;
mod flooding;
mod judging;
mod keys;
mod latency;
mod naming;
mod quiet;
mod record;
mod sources;
mod tallies;
mod trouble;
mod upkeep;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::attribute::{Attribution, Places, Sighting, Workload};
use crate::baseline::{Baseline, LearnRule, Mode, Written};
use crate::delivery::{Delivery, DeliveryId, Outcome as DeliveryOutcome, Queue, Sink};
use crate::detect::Trouble;
use crate::directory::{Directory, Fact, Source};
use crate::dns::Lookup;
use crate::edge::Edge;
use crate::flow::{Begun, Canary, Flood, Flow, FlowKey, KeyId, Loss, Traffic};
use crate::graph::Count;
use crate::ids::{BootTime, CgroupId, NetnsCookie, Now, ServiceName, WallTime};
use crate::incident::{Alert, Incidents};
use crate::mute::Mutes;
use crate::pattern::Pattern;

use self::canary::Canaries;
use self::flooding::Floods;
use self::keys::Keys;
use self::latency::Latencies;
use self::trouble::{Gap, Losses};

pub use self::canary::CanaryView;
pub use self::command::{Actor, Command, CommandError, Guarding, Reply, Selection};
pub use self::latency::Latency;
pub use self::record::{AuditEntry, Change, Snapshot};
pub use self::sources::{Lookups, SourceView};
pub use self::tallies::{Tallied, Tallies, TalliesError};
pub use self::view::{
    BaselineRow, Difference, EdgeView, EvidenceView, MuteView, Rtt, ServiceView, SinkView,
    Standing, Status,
};

/// How the engine is to behave: all of it known before anything is opened.
#[derive(Debug, Clone)]
pub struct Settings {
    /// This machine's name in alerts.
    pub node: String,
    pub mode: Mode,
    pub learn: LearnRule,
    /// Services to judge; empty means all.
    pub only: Vec<Pattern>,
    pub places: Places,
    /// Sources of names that are told when they are away.
    pub required: BTreeSet<Source>,
    pub sinks: Vec<Sink>,
    pub watched: Watched,
    /// Keys the hash tables and draws the jitter: fresh at every start, given in tests.
    pub seed: u64,
}

/// Whether anybody is told of edges as they appear: where nobody is, no step says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    No,
    Yes,
}

/// Everything that can happen.
#[derive(Debug)]
pub enum Input {
    Workload {
        cgroup: CgroupId,
        workload: Workload,
    },
    WorkloadVanished {
        cgroup: CgroupId,
    },
    Addresses {
        netns: NetnsCookie,
        addresses: Vec<IpAddr>,
    },
    /// What a source says of who is who.
    Fact(Fact),
    /// A cgroup asked for a name, or was answered.
    LookedUp(Lookup),
    Flow(Flow),
    /// A flow that was taken in by an agent before this one, as this edge: nothing new.
    Resumed {
        flow: Box<Flow>,
        edge: Edge,
    },
    /// A flow whose ends are known already: out of a recording.
    Sighting(Box<Sighting>),
    Traffic(Traffic),
    /// What an edge did, whose ends are known already.
    Counted {
        edge: Edge,
        count: Box<Count>,
    },
    Forgotten {
        id: KeyId,
        key: FlowKey,
    },
    /// A cgroup shows more that is new than is told one by one.
    Flooded(Box<Flood>),
    Lost {
        loss: Loss,
        count: u64,
    },
    /// The agent itself is in trouble.
    Trouble(Trouble),
    /// What became of the agent's own connection.
    Canary(Canary),
    /// The baseline files were read again: this is what they say now.
    Files(Written),
    Delivered {
        id: DeliveryId,
        outcome: DeliveryOutcome,
    },
    /// Somebody asks for a change; answered with [`Effect::Reply`] in the same step.
    Command {
        actor: Actor,
        command: Command,
    },
    /// Time passed.
    Tick,
}

/// Everything the engine may ask for. All that one step stores is stored in one transaction before
/// anything else of that step is done; the rest in this order, so that what is re-armed is re-armed
/// before it is acknowledged.
#[derive(Debug)]
pub enum Effect {
    Store(Vec<Change>),
    /// The kernel is to forget these keys: seen again, they are news again.
    Rearm(Vec<KeyId>),
    /// These addresses are others' now: the kernel is to forget what was dialled there. What was dialled
    /// since then, where that is known, is told at once: the kernel took it for what it knew.
    Unknow(BTreeMap<IpAddr, Option<WallTime>>),
    /// Something else runs in this cgroup than it was called: the kernel is to forget what it did.
    Leave(CgroupId),
    /// The service that runs in this cgroup, whose path this is, is known to ask for names: what it is
    /// answered is to be heard from the beginning.
    Hear(CgroupId, String),
    Deliver(Box<Delivery>),
    /// An edge that is new to the map, or a port that was opened; for those who watch.
    Appeared(Box<EdgeView>),
    /// A message was accepted; for those who watch.
    Alerted(Box<Alert>),
    Reply(Result<Reply, CommandError>),
}

/// The engine.
#[derive(Debug)]
pub struct Engine {
    settings: Settings,
    attribution: Attribution,
    keys: Keys,
    baseline: Baseline,
    incidents: Incidents,
    queue: Queue,
    mutes: Mutes,
    losses: Losses,
    canaries: Canaries,
    /// From the kernel's stamp of a flow to its step.
    latencies: Latencies,
    floods: Floods,
    /// Services that asked for names.
    askers: BTreeSet<ServiceName>,
    gap: Option<Gap>,
    /// Required sources that are away, and were told to be.
    absent: BTreeSet<Source>,
    next_audit: u64,
    random: u64,
    started: Option<WallTime>,
    next_save: BootTime,
    /// What was learned is to be stored by then.
    learned_due: Option<BootTime>,
    next_alive: BootTime,
    next_upkeep: BootTime,
    /// When the next approval or prohibition ends; None where that must be looked for.
    next_end: Option<WallTime>,
    /// The files were read at least once.
    files_known: bool,
    /// What the files let end until then was judged anew; None for since the start, when all that
    /// the kernel sees is told anyway.
    ends_seen: Option<WallTime>,
}

impl Engine {
    /// Evidence is stored at most this often, milliseconds; what is told or decided is stored at once.
    pub const SAVE_MS: u64 = 30_000;
    /// What was learned is stored this much later, milliseconds, together with what is learned meanwhile.
    /// Until then nobody was told of it, and the kernel's tables tell it to the next agent. So much later
    /// than [`Attribution::PATIENCE_MS`] that most often what the kernel's keys hold of it goes with it.
    pub const LEARNED_MS: u64 = 1_000;
    /// That somebody looks is stored with everything else, and at least this often, milliseconds.
    const ALIVE_MS: u64 = 300_000;
    /// What has run out is looked for at most this often, milliseconds.
    const UPKEEP_MS: u64 = 500;
    /// A forbidden edge that goes on repeats itself after this time, seconds.
    const FORBIDDEN_REPEAT_S: u64 = 3_600;

    /// Takes up what was stored.
    #[must_use]
    pub fn restore(settings: Settings, snapshot: Snapshot) -> Self {
        let baseline = Baseline::restore(snapshot.services, snapshot.edges, settings.seed);
        let mut incidents = Incidents::default();
        for incident in snapshot.incidents {
            incidents.restore(incident);
        }
        let queue = Queue::restore(snapshot.deliveries, snapshot.held, &settings.sinks);
        let mut directory = Directory::default();
        directory.restore(snapshot.alive.unwrap_or_default(), snapshot.known);
        let asked = baseline.edges.keys().filter(|it| it.asks_for_names());
        let askers = asked.filter_map(|it| it.client.service().cloned()).collect();
        let mut attribution = Attribution::new(settings.seed, settings.places.clone(), directory);
        for (edge, record) in baseline.edges.iter() {
            for dialled in record.evidence.iter().flat_map(|it| it.dialled()) {
                attribution.remember(edge, *dialled);
            }
        }
        Self {
            attribution,
            keys: Keys::default(),
            random: settings.seed,
            settings,
            baseline,
            incidents,
            queue,
            mutes: Mutes::restore(snapshot.mutes),
            losses: Losses::default(),
            canaries: Canaries::default(),
            latencies: Latencies::default(),
            floods: Floods::default(),
            askers,
            gap: None,
            absent: BTreeSet::new(),
            next_audit: snapshot.next_audit,
            started: None,
            next_save: BootTime(0),
            learned_due: None,
            next_alive: BootTime(0),
            next_upkeep: BootTime(0),
            next_end: None,
            files_known: false,
            ends_seen: None,
        }
    }

    /// One step: takes in what happened, tells what is to be done.
    pub fn step(&mut self, now: Now, input: Input) -> Vec<Effect> {
        self.started.get_or_insert(now.wall);
        let mut effects = Vec::new();
        match input {
            Input::Workload { cgroup, workload } => {
                self.attribution.workload_appeared(cgroup, workload);
                self.hear(cgroup, &mut effects);
            }
            Input::WorkloadVanished { cgroup } => self.attribution.workload_vanished(cgroup),
            Input::Addresses { netns, addresses } => {
                self.attribution.namespace(netns, &addresses);
            }
            Input::Fact(fact) => self.fact(now, fact, &mut effects),
            Input::LookedUp(lookup) => self.looked_up(now, &lookup, &mut effects),
            Input::Flow(flow) => {
                if flow.begun == Begun::Seen {
                    let took_us = now.wall.0.saturating_sub(flow.at.0);
                    self.latencies.add(took_us.try_into().unwrap_or(0));
                }
                for sighting in self.attribution.flow(now, flow) {
                    self.sighted(now, &sighting, &mut effects);
                }
            }
            Input::Resumed { flow, edge } => {
                self.attribution.resume(&flow);
                let place = self.baseline.seen_at(&edge);
                self.keys.stand_for(flow.id.as_slice(), &edge, place);
            }
            Input::Sighting(sighting) => self.sighted(now, &sighting, &mut effects),
            Input::Traffic(traffic) => match self.keys.place_of(traffic.id, &self.baseline.edges) {
                Some(place) => self.counted(now, place, &Count::from(&traffic), &mut effects),
                None => self.attribution.hold(&traffic),
            },
            Input::Counted { edge, count } => {
                if let Some(place) = self.baseline.edges.place_of(&edge) {
                    self.counted(now, place, &count, &mut effects);
                }
            }
            Input::Forgotten { id, key } => {
                self.attribution.forgotten(id, &key);
                self.keys.forget(id);
            }
            Input::Flooded(flood) => self.flooded(now, &flood, &mut effects),
            Input::Lost { loss, count } => self.losses.add(loss, count),
            Input::Trouble(trouble) => self.trouble(now, &trouble),
            Input::Canary(canary) => self.canary(now, canary, &mut effects),
            Input::Files(written) => self.files(now, written, &mut effects),
            Input::Delivered { id, outcome } => self.delivered(now, id, outcome, &mut effects),
            Input::Command { actor, command } => {
                self.command(now, &actor, command, &mut effects);
            }
            Input::Tick => self.tick(now, &mut effects),
        }
        self.held_counted(now, &mut effects);
        self.speak(now, &mut effects);
        self.deliver(now, &mut effects);
        effects
    }

    /// From now on services that are not guarded are treated as `mode` says.
    pub const fn set_mode(&mut self, mode: Mode) {
        self.settings.mode = mode;
    }

    /// When time alone will have something to do next, if nothing else happens before.
    #[must_use]
    pub fn next_tick(&self) -> Option<BootTime> {
        let (waiting, incident) = (self.attribution.next_due(), self.incidents.next_due());
        [waiting, incident, self.queue.next_due(), self.learned_due].into_iter().flatten().min()
    }

    /// Takes in what still waits, as it stands: the last step before the end.
    pub fn finish(&mut self, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        for sighting in self.attribution.due(Now { boot: BootTime(u64::MAX), ..now }) {
            self.sighted(now, &sighting, &mut effects);
        }
        self.held_counted(now, &mut effects);
        self.speak(now, &mut effects);
        let mut changes = self.save();
        changes.push(Change::Alive(now.wall));
        effects.push(Effect::Store(changes));
        self.deliver(now, &mut effects);
        effects
    }

    /// Makes the kernel forget the keys of the edges that `touched` picks: seen again, they are news.
    /// Asked for also where no key is known: a replay's edges have none, and are to be forgotten too.
    fn rearm(&self, touched: impl Fn(&Edge) -> bool, effects: &mut Vec<Effect>) {
        effects.push(Effect::Rearm(self.keys.of(&self.baseline.edges, touched)));
    }

    /// The edge that a key of the kernel's is counted for, once that is known.
    #[must_use]
    pub fn edge_of(&self, key: KeyId) -> Option<&Edge> {
        self.keys.edge_of(key, &self.baseline.edges)
    }

    /// All evidence and judgements that no step has asked to store yet.
    #[must_use]
    pub fn unsaved(&mut self) -> Vec<Change> {
        self.save()
    }

    /// Everything not yet stored.
    fn save(&mut self) -> Vec<Change> {
        self.learned_due = None;
        record::changes(self.baseline.take_dirty(), self.incidents.take_dirty())
    }

    fn tick(&mut self, now: Now, effects: &mut Vec<Effect>) {
        for sighting in self.attribution.due(now) {
            self.sighted(now, &sighting, effects);
        }
        if self.next_upkeep <= now.boot {
            self.next_upkeep = now.boot.plus_millis(Self::UPKEEP_MS);
            self.expire(now, effects);
            self.promote(now);
            self.end_mutes(now, effects);
            self.digest(now, effects);
            self.tell_losses(now);
            self.tell_absent(now);
        }
        if self.learned_due.is_some_and(|due| due <= now.boot) {
            effects.push(Effect::Store(self.save()));
        }
        if self.next_save <= now.boot {
            self.next_save = now.boot.plus_millis(Self::SAVE_MS);
            let mut changes = self.save();
            if !changes.is_empty() || self.next_alive <= now.boot {
                self.next_alive = now.boot.plus_millis(Self::ALIVE_MS);
                changes.push(Change::Alive(now.wall));
                effects.push(Effect::Store(changes));
            }
        }
    }

    /// Incidents that have something new to say become messages.
    fn speak(&mut self, now: Now, effects: &mut Vec<Effect>) {
        for incident in self.incidents.speaking(now) {
            self.send(now, &incident, effects);
        }
    }

    fn deliver(&mut self, now: Now, effects: &mut Vec<Effect>) {
        effects.extend(self.queue.due(now).into_iter().map(|it| Effect::Deliver(Box::new(it))));
    }

    fn delivered(
        &mut self,
        now: Now,
        id: DeliveryId,
        outcome: DeliveryOutcome,
        effects: &mut Vec<Effect>,
    ) {
        let jitter = self.draw();
        let stored = self.queue.settle(now, id, outcome, jitter);
        effects.push(Effect::Store(vec![Change::Delivery(id, stored.map(Box::new))]));
    }

    fn audit(&mut self, at: WallTime, actor: &Actor, what: String) -> Change {
        let number = self.next_audit;
        self.next_audit += 1;
        Change::Audit(number, AuditEntry { at, actor: actor.clone(), what })
    }

    /// A ULID: sortable by time, unique by chance.
    fn new_id(&mut self, wall: WallTime) -> String {
        let random = u128::from(self.next_random()) << 64 | u128::from(self.next_random());
        ulid::Ulid::from_parts(wall.unix_millis(), random).to_string()
    }

    /// A number in `[0, 1)`.
    fn draw(&mut self) -> f64 {
        (self.next_random() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): enough for jitter and ids, and the same in every replay.
    const fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
