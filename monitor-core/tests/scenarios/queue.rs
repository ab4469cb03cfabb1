//! The delivery queue beside a model of what it owes its receivers, whatever happens: nothing is lost
//! without being counted, nobody is spoken to out of turn. How one message fares is told by the
//! queue's own tests.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use monitor_core::delivery::{Delivery, DeliveryId, Held, Kept, Message, Outcome, Queue, Sink};
use monitor_core::detect::Severity;
use monitor_core::ids::{BootTime, Now, WallTime};
use monitor_core::incident::Alert;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::TestCaseError;

use crate::properties::cases;
use crate::stage::check;

/// What happens to the queue.
#[derive(Debug, Clone)]
enum Op {
    /// Revisions of one incident, one after the other.
    Push {
        sink: &'static str,
        incident: u8,
        severity: Severity,
        revisions: u32,
    },
    Wait(u64),
    /// Until the queue says that something may go.
    Next,
    Settle {
        which: usize,
        outcome: Outcome,
    },
    Restart,
}

/// Each with its rate as text, its messages, their period, and its room.
const SINKS: [(&str, &str, usize, u64, usize); 3] =
    [("a", "1/s", 1, 1_000, 2), ("b", "3/min", 3, 60_000, 5), ("c", "20/s", 20, 1_000, 40)];

fn sinks() -> Vec<Sink> {
    let sink = |(name, rate, _, _, room): (&str, &str, usize, u64, usize)| Sink {
        name: name.to_owned(),
        min_severity: Severity::Low,
        services: Vec::new(),
        rate: rate.parse().unwrap(),
        room,
    };
    SINKS.map(sink).into()
}

fn op() -> impl Strategy<Value = Op> {
    use Severity::{Critical, High, Low, Medium};
    let failed = |retry_after_ms| Outcome::Failed { why: "503".to_owned(), retry_after_ms };
    let outcome = prop_oneof![
        3 => Just(Outcome::Accepted),
        1 => proptest::option::of(0_u64..90_000).prop_map(failed),
    ];
    let severity = select(vec![Low, Medium, High, Critical]);
    prop_oneof![
        6 => (select(vec!["a", "b", "c", "c", "c"]), 0_u8..12, severity, 1_u32..5)
            .prop_map(|(sink, incident, severity, revisions)| {
                Op::Push { sink, incident, severity, revisions }
            }),
        1 => (0_u64..2_000).prop_map(Op::Wait),
        1 => (0_u64..400_000).prop_map(Op::Wait),
        3 => Just(Op::Next),
        6 => (any::<usize>(), outcome).prop_map(|(which, outcome)| Op::Settle { which, outcome }),
        1 => Just(Op::Restart),
    ]
}

/// What is known of one receiver.
#[derive(Debug, Default)]
struct Receiver {
    pushed: u64,
    /// Of the pushed ones: taken by it, or counted in a digest that it took.
    accepted: u64,
    flying: Option<DeliveryId>,
    /// When each try since the start was answered; None while it flies. It may have arrived then.
    tries: Vec<Option<u64>>,
    /// It asked to be left alone until then.
    patient_until: u64,
    digest_at: Option<u64>,
}

/// The queue beside what it must not lose.
struct Model {
    queue: Queue,
    now_ms: u64,
    /// What the store holds.
    stored: BTreeMap<DeliveryId, Delivery>,
    held: BTreeMap<String, Held>,
    receivers: BTreeMap<&'static str, Receiver>,
    /// Of what failed: the first moment at which it may, the last by which it must be due again.
    again: BTreeMap<DeliveryId, (u64, u64)>,
    revisions: BTreeMap<String, u32>,
}

type Checked = Result<(), TestCaseError>;

/// The messages of the engine that this one tells.
fn weight(delivery: &Delivery) -> u64 {
    match &delivery.message {
        Message::Digest(digest) => digest.messages,
        Message::Alert(_) | Message::Test(_) => 1,
    }
}

fn alert_of(delivery: &Delivery) -> Option<&Alert> {
    match &delivery.message {
        Message::Alert(alert) => Some(alert),
        Message::Digest(_) | Message::Test(_) => None,
    }
}

/// What goes before what: digests, then by severity, then by age.
fn rank(delivery: &Delivery) -> (bool, Severity, Reverse<DeliveryId>) {
    let (is_digest, severity) = match &delivery.message {
        Message::Alert(alert) => (false, alert.severity),
        Message::Digest(digest) => (true, digest.severity),
        Message::Test(test) => (false, test.severity),
    };
    (is_digest, severity, Reverse(delivery.id))
}

impl Model {
    fn new() -> Self {
        Self {
            queue: Queue::restore(Vec::new(), Vec::new(), &sinks()),
            now_ms: 0,
            stored: BTreeMap::new(),
            held: BTreeMap::new(),
            receivers: SINKS.map(|(name, ..)| (name, Receiver::default())).into(),
            again: BTreeMap::new(),
            revisions: BTreeMap::new(),
        }
    }

    fn now(&self) -> Now {
        let wall = WallTime(i64::try_from(self.now_ms * 1_000).unwrap());
        Now { boot: BootTime(self.now_ms * 1_000_000), wall }
    }

    fn play(&mut self, template: &Alert, op: &Op) -> Checked {
        match op {
            Op::Push { sink, incident, severity, revisions } => {
                for _ in 0..*revisions {
                    let id = format!("incident-{incident}");
                    let revision = self.revisions.entry(id.clone()).or_default();
                    *revision += 1;
                    let alert =
                        Alert { id, revision: *revision, severity: *severity, ..template.clone() };
                    self.push(sink, alert)?;
                }
            }
            Op::Wait(millis) => self.now_ms += millis,
            Op::Next => self.next(),
            Op::Settle { which, outcome } => {
                let flying: Vec<_> = self.flying().collect();
                if !flying.is_empty() {
                    self.settle(flying[which % flying.len()], outcome.clone())?;
                }
            }
            Op::Restart => {
                let stored = self.stored.values().cloned().collect();
                let held = self.held.clone().into_iter().collect();
                self.queue = Queue::restore(stored, held, &sinks());
                self.again.clear();
                for receiver in self.receivers.values_mut() {
                    receiver.flying = None;
                    receiver.patient_until = 0;
                    receiver.tries.clear();
                }
            }
        }
        self.check()
    }

    fn next(&mut self) {
        if let Some(BootTime(at)) = self.queue.next_due() {
            self.now_ms = self.now_ms.max(at.div_ceil(1_000_000));
        }
    }

    fn flying(&self) -> impl Iterator<Item = &'static str> {
        self.receivers.iter().filter(|(_, it)| it.flying.is_some()).map(|(sink, _)| *sink)
    }

    /// The alerts that wait for a receiver, with their severity.
    fn waiting(&self, sink: &str) -> BTreeMap<(String, u32), Severity> {
        let flying = self.receivers[sink].flying;
        let mine = self.stored.values().filter(|it| it.sink == sink && Some(it.id) != flying);
        mine.filter_map(alert_of).map(|it| ((it.id.clone(), it.revision), it.severity)).collect()
    }

    /// What gives way to an alert is counted, and is the one that may.
    fn push(&mut self, sink: &'static str, alert: Alert) -> Checked {
        let (_, _, _, _, room) = SINKS.into_iter().find(|it| it.0 == sink).unwrap();
        let mut before = self.waiting(sink);
        let was_full = before.len() >= room;
        let counted = self.queue.held_back(sink);
        let incident = alert.id.clone();
        let older = before.keys().any(|(id, _)| *id == incident);
        before.insert((alert.id.clone(), alert.revision), alert.severity);
        for kept in self.queue.push(self.now(), sink, alert) {
            self.keep(kept)?;
        }
        self.receivers.get_mut(sink).unwrap().pushed += 1;
        let after = self.waiting(sink);
        let mut gone = before.iter().filter(|(key, _)| !after.contains_key(*key));
        let first = gone.next();
        prop_assert_eq!(gone.next(), None, "more than one gave way");
        prop_assert_eq!(first.is_some(), was_full, "{} of {}", after.len(), room);
        prop_assert_eq!(self.queue.held_back(sink) - counted, u64::from(first.is_some()));
        if let Some(((id, revision), severity)) = first {
            let newer = after.keys().any(|(other, newer)| other == id && newer > revision);
            let is_least = after.values().all(|it| it >= severity);
            let rightly = if older { *id == incident && newer } else { is_least };
            prop_assert!(rightly, "{id}/{revision} gave way to {incident}");
        }
        Ok(())
    }

    /// Stores what the queue wants stored.
    fn keep(&mut self, kept: Kept) -> Checked {
        match kept {
            Kept::Delivery(id, delivery) => {
                let flies = self.receivers.values().any(|it| it.flying == Some(id));
                prop_assert!(!flies, "{id} is in flight");
                if let Some(delivery) = delivery {
                    self.stored.insert(id, *delivery);
                } else {
                    self.again.remove(&id);
                    prop_assert!(self.stored.remove(&id).is_some(), "{id} was not stored");
                }
            }
            Kept::Held(sink, held) => drop(self.held.insert(sink, *held)),
        }
        Ok(())
    }

    fn settle(&mut self, sink: &'static str, outcome: Outcome) -> Checked {
        let receiver = self.receivers.get_mut(sink).unwrap();
        let id = receiver.flying.take().unwrap();
        *receiver.tries.last_mut().unwrap() = Some(self.now_ms);
        let asked = match &outcome {
            Outcome::Accepted => None,
            Outcome::Failed { retry_after_ms, .. } => Some(retry_after_ms.unwrap_or(0)),
        };
        if let Some(asked) = asked {
            let until = self.now_ms + asked;
            receiver.patient_until = receiver.patient_until.max(until);
            let latest = self.now_ms + asked.max(Queue::LONGEST_PAUSE_MS);
            self.again.insert(id, (until, latest));
        }
        let kept = self.queue.settle(self.now(), id, outcome, 0.5);
        prop_assert_eq!(kept.is_some(), asked.is_some());
        match kept {
            Some(delivery) => drop(self.stored.insert(id, delivery)),
            None => {
                self.again.remove(&id);
                let done = self.stored.remove(&id).unwrap();
                self.receivers.get_mut(sink).unwrap().accepted += weight(&done);
            }
        }
        Ok(())
    }

    /// Takes out what is due, and holds the queue to its promises.
    fn check(&mut self) -> Checked {
        while let Some(sink) = self.queue.digest_due(self.now()) {
            let last = self.receivers.get_mut(sink.as_str()).unwrap();
            let last = last.digest_at.replace(self.now_ms);
            let soonest = last.map_or(0, |it| it + Queue::DIGEST_S * 1_000);
            prop_assert!(self.now_ms >= soonest, "a digest too soon");
            for kept in self.queue.digest(self.now(), sink, "n1", format!("D{}", self.now_ms)) {
                self.keep(kept)?;
            }
        }
        let asked = self.queue.next_due();
        let due = self.queue.due(self.now());
        prop_assert_eq!(asked.is_some_and(|at| at <= self.now().boot), !due.is_empty());
        for delivery in due {
            self.sent(&delivery)?;
        }
        let waiting: BTreeMap<_, _> =
            self.queue.waiting().map(|delivery| (delivery.id, delivery.clone())).collect();
        let flying: BTreeSet<_> = self.receivers.values().filter_map(|it| it.flying).collect();
        let mut stored = self.stored.clone();
        for id in flying {
            // That it flies is stored when it is known what became of it.
            stored.get_mut(&id).unwrap().attempts += 1;
        }
        prop_assert_eq!(waiting, stored, "lost, or not stored");
        for (sink, receiver) in &self.receivers {
            let ledger = self.held.get(*sink).and_then(|it| it.ledger.as_ref());
            let held = ledger.map_or(0, |it| it.messages);
            prop_assert_eq!(self.queue.held_back(sink), held, "counted, and not stored");
            let waiting = self.stored.values().filter(|it| it.sink == *sink).map(weight);
            let all = receiver.accepted + waiting.sum::<u64>() + held;
            prop_assert_eq!(receiver.pushed, all, "lost and not counted: {}", sink);
        }
        Ok(())
    }

    /// A message goes to its receiver: it may, and it is its turn.
    fn sent(&mut self, delivery: &Delivery) -> Checked {
        let now = self.now_ms;
        let sink = delivery.sink.as_str();
        let (.., most, period, _) = SINKS.into_iter().find(|it| it.0 == sink).unwrap();
        let receiver = self.receivers.get_mut(sink).unwrap();
        prop_assert_eq!(receiver.flying.replace(delivery.id), None, "two in flight for {}", sink);
        prop_assert!(receiver.patient_until <= now, "{sink} had asked for patience");
        receiver.tries.push(None);
        let recent = receiver.tries.iter().filter(|it| it.is_none_or(|at| at + period > now));
        prop_assert!(recent.count() <= most, "{sink} is spoken to too fast");
        let again = |id| self.again.get(id).copied().unwrap_or_default();
        prop_assert!(again(&delivery.id).0 <= now, "{} was not due", delivery.id);

        // It goes in the place of its incident, which is that of the most urgent of its messages.
        let alert = alert_of(delivery);
        let of_same = |it: &&Delivery| alert_of(it).map(|it| &it.id) == alert.map(|it| &it.id);
        let mine = || self.stored.values().filter(|it| it.sink == sink);
        let place = match alert {
            Some(_) => mine().filter(of_same).map(rank).max(),
            None => Some(rank(delivery)),
        };
        for other in mine().filter(|it| again(&it.id).1 <= now) {
            prop_assert!(Some(rank(other)) <= place, "{} was passed over", other.id);
            if let (Some(other), Some(alert), true) = (alert_of(other), alert, of_same(&other)) {
                prop_assert!(alert.revision <= other.revision, "{} out of order", alert.id);
            }
        }
        Ok(())
    }

    /// Whatever happened: what waits is delivered, and what was held back is told.
    fn drain(&mut self) -> Checked {
        for _ in 0..10_000 {
            let flying: Vec<_> = self.flying().collect();
            if !flying.is_empty() {
                for sink in flying {
                    self.settle(sink, Outcome::Accepted)?;
                }
            } else if !self.queue.is_empty() {
                self.next();
            } else if SINKS.iter().any(|(sink, ..)| self.queue.held_back(sink) > 0) {
                self.now_ms += Queue::DIGEST_S * 1_000;
            } else {
                for (sink, receiver) in &self.receivers {
                    prop_assert_eq!(receiver.pushed, receiver.accepted, "{}", sink);
                }
                return Ok(());
            }
            self.check()?;
        }
        Err(TestCaseError::fail("it never ends"))
    }
}

/// An alert as the engine makes it.
fn template() -> Alert {
    let stage = check(
        "0 a => b 80/tcp\n 5 guard a\n 10 a -> 192.0.2.1 443/tcp established with /bin/sh",
        "firing high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/sh;",
    );
    stage.engine.alerts(stage.now.wall)[0].clone()
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn the_queue_loses_nothing_uncounted_and_keeps_its_order(
        ops in prop::collection::vec(op(), 1..150),
    ) {
        let template = template();
        let mut model = Model::new();
        for op in &ops {
            model.play(&template, op)?;
        }
        model.drain()?;
    }
}
