//! A rehearsal: what would have been alerted. Runs recorded flows through the real engine, in the
//! recording's own time, and counts the messages; nothing is stored, nothing is sent. The same
//! recording and the same plan give the same alerts, byte for byte. Reads no file and no clock.

mod learn;
mod stand_in;
mod summary;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use monitor_core::attribute::{Heard, KeyIds, Places, SeenFrom, Sighting, Workload};
use monitor_core::baseline::document::{Document, DocumentError, Parsed, written};
use monitor_core::baseline::{LearnRule, Mode, Provenance};
use monitor_core::edge::{Edge, Peer};
use monitor_core::engine::{
    Actor, Command, Effect, Engine, Input, Selection, Settings, Snapshot, Watched,
};
use monitor_core::flow::{Begun, Process};
use monitor_core::ids::{BootTime, Now, WallTime};
use monitor_core::incident::{Alert, State};
use monitor_core::pattern::Pattern;

use crate::recording::{Direction, RecordedFlow};

use self::stand_in::{Key, StandIn};

pub use self::learn::{Learn, LearnEnd, LearnError};
pub use self::summary::{Learned, Rate, Span, Summary};

/// What is rehearsed.
pub struct Plan {
    /// What becomes of services that are not guarded.
    pub mode: Mode,
    pub rule: LearnRule,
    /// Services to judge; empty means all.
    pub only: Vec<Pattern>,
    /// Whether an address is none of the Internet.
    pub internal: Box<dyn Fn(IpAddr) -> bool>,
    /// Guarded as written, from the first flow on.
    pub baseline: Vec<Document>,
    /// Until when services that no document guards are learned; then all are guarded.
    pub learn: Option<LearnEnd>,
}

/// What it came to.
#[derive(Debug)]
pub struct Rehearsed {
    /// Each as it stands at the end: open ones first, each list newest first.
    pub alerts: Vec<Alert>,
    pub summary: Summary,
}

/// A rehearsal under way.
pub struct Rehearsal {
    engine: Engine,
    plan: Plan,
    /// The plan's documents, taken apart; until the first flow says when they begin to hold.
    parsed: Vec<Parsed>,
    now: Now,
    next_round: BootTime,
    /// When learning ends; None where it has ended, or never began.
    learning_until: Option<WallTime>,
    stand_in: StandIn,
    alerts: BTreeMap<String, Alert>,
    summary: Summary,
}

impl Rehearsal {
    /// The stand-in is swept, and time itself looked after, this often: as a live agent does.
    const ROUND_MS: u64 = 10_000;
    /// A silence of any length is crossed in at most so many rounds.
    const ROUNDS: u64 = 20_000;
    /// After the last flow what still waits gets this long to be told, seconds.
    const REST_S: i64 = 60;

    /// Nothing of a rehearsal is left to chance.
    const SEED: u64 = 0;

    /// Prepares one.
    ///
    /// # Errors
    /// A document that cannot be meant.
    pub fn new(plan: Plan) -> Result<Self, DocumentError> {
        let settings = Settings {
            required: BTreeSet::new(),
            places: Places::default(),
            node: String::new(),
            mode: if plan.learn.is_some() { Mode::Learn } else { plan.mode },
            learn: plan.rule,
            only: plan.only.clone(),
            sinks: Vec::new(),
            watched: Watched::No,
            seed: Self::SEED,
        };
        let documents = plan.baseline.iter();
        let parsed = documents.map(|it| it.parse(Provenance::File, WallTime::default()));
        Ok(Self {
            engine: Engine::restore(settings, Snapshot::default()),
            parsed: parsed.collect::<Result<_, _>>()?,
            plan,
            now: Now::default(),
            next_round: BootTime(0),
            learning_until: None,
            stand_in: StandIn::new(StandIn::BOUND),
            alerts: BTreeMap::new(),
            summary: Summary::default(),
        })
    }

    /// Takes the next flow in. Time never runs backwards: a flow that is older than the one before
    /// it happens now.
    pub fn take(&mut self, flow: &RecordedFlow) {
        if self.summary.flows == 0 {
            self.begin(flow.at);
        }
        self.reach(flow.at);
        self.summary.flow(flow);
        if self.learning_until.is_none() {
            self.summary.judged += 1;
        }
        if self.stand_in.is_full() {
            self.sweep();
        }
        let key = self.key_of(flow);
        if self.stand_in.is_news(&key, flow) {
            let sighting = sighting(&key, flow);
            self.step(Input::Sighting(Box::new(sighting)));
        }
    }

    /// Tells what it came to.
    #[must_use]
    pub fn finish(mut self) -> Rehearsed {
        if self.summary.flows > 0 {
            self.sweep();
            self.pass(self.now.wall.plus_seconds(Self::REST_S));
            let effects = self.engine.finish(self.now);
            self.perform(effects);
            // As they stand: what was counted since their last message, too.
            self.alerts.extend(
                self.engine.alerts(self.now.wall).into_iter().map(|it| (it.id.clone(), it)),
            );
        }
        let (mut alerts, closed): (Vec<Alert>, Vec<Alert>) =
            self.alerts.into_values().rev().partition(|it| it.state != State::Resolved);
        alerts.extend(closed);
        self.summary.incidents = alerts.len() as u64;
        self.summary.close();
        Rehearsed { alerts, summary: self.summary }
    }

    /// The first flow sets the clock.
    fn begin(&mut self, at: WallTime) {
        self.now = Now { boot: BootTime(0), wall: at };
        self.next_round = BootTime(0).plus_millis(Self::ROUND_MS);
        self.learning_until = self.plan.learn.map(|it| it.of(at));
        let mut files = written(&std::mem::take(&mut self.parsed));
        files.allowed.values_mut().flatten().for_each(|it| it.since = at);
        files.forbidden.values_mut().for_each(|it| it.since = at);
        self.step(Input::Files(files));
    }

    /// Lets time pass until `wall`, learning's end included.
    fn reach(&mut self, wall: WallTime) {
        if let Some(end) = self.learning_until.filter(|end| *end <= wall) {
            self.pass(end);
            self.guard();
        }
        self.pass(wall);
    }

    /// From now on everything is guarded, as `baseline guard --all` does it.
    fn guard(&mut self) {
        self.sweep();
        self.learning_until = None;
        let status = self.engine.status(self.now.wall);
        self.summary.learned = Some(Learned {
            until: self.now.wall,
            flows: self.summary.flows,
            services: status.services,
            edges: status.edges,
        });
        let command = Command::Guard { services: Selection::All };
        self.step(Input::Command { actor: Actor::agent(), command });
        self.engine.set_mode(self.plan.mode);
        self.stand_in.forget();
    }

    /// Lets time pass: what falls due is done when it is due.
    fn pass(&mut self, wall: WallTime) {
        let Ok(left) = u64::try_from(wall.0.saturating_sub(self.now.wall.0)) else { return };
        let from = self.now;
        let end = BootTime(from.boot.0.saturating_add(left.saturating_mul(1_000)));
        let round_ms = Self::ROUND_MS.max(left / 1_000 / Self::ROUNDS);
        loop {
            let due = self.engine.next_tick().filter(|due| *due > self.now.boot);
            let next = due.map_or(self.next_round, |due| due.min(self.next_round));
            if next > end || next <= self.now.boot {
                break;
            }
            let passed = i64::try_from((next.0 - from.boot.0) / 1_000).unwrap_or(i64::MAX);
            self.now = Now { boot: next, wall: WallTime(from.wall.0.saturating_add(passed)) };
            if next == self.next_round {
                self.next_round = next.plus_millis(round_ms);
                self.sweep();
            }
            self.step(Input::Tick);
        }
        self.now = Now { boot: end, wall };
        // The long rounds were the silence's.
        self.next_round = self.next_round.min(end.plus_millis(Self::ROUND_MS));
    }

    /// Hands over what known flows did.
    fn sweep(&mut self) {
        for (edge, count) in self.stand_in.sweep() {
            self.step(Input::Counted { edge, count: Box::new(count) });
        }
    }

    fn step(&mut self, input: Input) {
        let effects = self.engine.step(self.now, input);
        self.perform(effects);
    }

    /// What a live agent would perform is counted, or noted for the next flow.
    fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Alerted(alert) => {
                    self.summary.message(&alert);
                    self.alerts.insert(alert.id.clone(), *alert);
                }
                Effect::Rearm(_) | Effect::Unknow(_) | Effect::Leave(_) => self.stand_in.forget(),
                Effect::Store(_)
                | Effect::Hear(..)
                | Effect::Deliver(_)
                | Effect::Appeared(_)
                | Effect::Reply(_) => {}
            }
        }
    }

    fn key_of(&self, flow: &RecordedFlow) -> Key {
        let mut edge = flow.edge();
        // As the kernel programs have it: the Internet is one client.
        if let Peer::Address(address) = edge.client
            && !(self.plan.internal)(address)
        {
            edge.client = Peer::World;
        }
        // The accepting process says nothing about the dial.
        let dialled = flow.direction == Direction::Outbound;
        let executable = flow.executable.clone().filter(|_| dialled);
        Key { edge, direction: flow.direction, outcome: flow.outcome, executable }
    }
}

/// The sighting that the engine would have had of it.
fn sighting(key: &Key, flow: &RecordedFlow) -> Sighting {
    let process = match flow.direction {
        Direction::Outbound => process(flow),
        Direction::Inbound => None,
    };
    Sighting {
        edge: key.edge.clone(),
        outcome: flow.outcome,
        seen_from: match flow.direction {
            Direction::Outbound => SeenFrom::Client,
            Direction::Inbound => SeenFrom::Server,
        },
        at: flow.at,
        process: process.map(Arc::new),
        workload: Some(Arc::new(workload(&key.edge, flow))),
        dialled: None,
        begun: Begun::Seen,
        asker: None,
        heard: Heard::Itself,
        opened_by: None,
        keys: KeyIds::new(),
    }
}

fn process(flow: &RecordedFlow) -> Option<Process> {
    if flow.executable.is_none() && flow.pid.is_none() && flow.uid.is_none() {
        return None;
    }
    Some(Process {
        executable: flow.executable.clone(),
        pid: flow.pid.unwrap_or(Process::UNKNOWN),
        uid: flow.uid.unwrap_or(Process::UNKNOWN),
        ..Process::default()
    })
}

/// Where the edge's owner ran: of the far end no more is known than the node that saw it.
fn workload(edge: &Edge, flow: &RecordedFlow) -> Workload {
    let source = &flow.source;
    let owned = edge.owner().is_none_or(|owner| *owner == source.service);
    let of_source = |value: &Option<String>| value.clone().filter(|_| owned);
    Workload {
        service: edge.owner().unwrap_or(&source.service).clone(),
        container: of_source(&source.container),
        container_name: None,
        pod: of_source(&source.pod),
        image: of_source(&source.image).map(Arc::from),
        cgroup: of_source(&source.cgroup).unwrap_or_default(),
        node: Some(flow.node.clone()),
    }
}

#[cfg(test)]
mod tests;
