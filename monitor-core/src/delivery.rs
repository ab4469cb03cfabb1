//! The delivery queue as data: which message goes to which receiver, when it is tried next, what
//! became of it. Sends nothing itself. What is accepted here leaves only when a receiver took it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::detect::Severity;
use crate::ids::{BootTime, Now, ServiceName};
use crate::incident::Alert;
use crate::pattern::Pattern;

/// A receiver, as far as the queue must know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sink {
    pub name: String,
    pub min_severity: Severity,
    /// Services it wants to hear of; empty means all.
    pub services: Vec<Pattern>,
}

impl Sink {
    #[must_use]
    pub fn wants(&self, severity: Severity, service: &ServiceName) -> bool {
        severity >= self.min_severity
            && (self.services.is_empty()
                || self.services.iter().any(|pattern| pattern.matches(service.as_str())))
    }
}

/// Position in the queue: rises for ever, also across restarts.
pub type DeliveryId = u64;

/// One message for one receiver. Stored as one value, under its id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    pub id: DeliveryId,
    pub sink: String,
    pub alert: Alert,
    /// Tries so far.
    pub attempts: u32,
    /// Why the last try failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl Delivery {
    /// The `Idempotency-Key`: the same message sent twice is recognisable as one.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.alert.id, self.alert.revision)
    }
}

/// What became of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Accepted,
    Failed {
        why: String,
        /// What the receiver asked for with `Retry-After`, milliseconds.
        retry_after_ms: Option<u64>,
    },
}

#[derive(Debug)]
struct Queued {
    delivery: Delivery,
    due: BootTime,
    in_flight: bool,
}

/// The queue. A message for a receiver that is not configured (any more) stays and is not tried: the
/// receiver may come back. Per receiver one message is in flight at a time, so that a slow receiver delays only
/// itself; a message that a receiver will not take does not stand in the way of the next.
#[derive(Debug, Default)]
pub struct Queue {
    queued: BTreeMap<DeliveryId, Queued>,
    next_id: DeliveryId,
    receivers: BTreeSet<String>,
    /// Delivered since start, per receiver.
    pub delivered: BTreeMap<String, u64>,
}

impl Queue {
    /// First and longest pause between tries, milliseconds.
    pub const FIRST_PAUSE_MS: u64 = 1_000;
    pub const LONGEST_PAUSE_MS: u64 = 5 * 60 * 1_000;
    /// Messages of one receiver beyond which revisions of one incident no longer queue up.
    pub const ROOM: usize = 256;

    /// Puts back what was stored, for these receivers; all of it is due at once.
    #[must_use]
    pub fn restore(stored: Vec<Delivery>, receivers: BTreeSet<String>) -> Self {
        let next_id = stored.iter().map(|it| it.id + 1).max().unwrap_or(0);
        let queued = stored
            .into_iter()
            .map(|delivery| (delivery.id, Queued { delivery, due: BootTime(0), in_flight: false }))
            .collect();
        Self { queued, next_id, receivers, delivered: BTreeMap::new() }
    }

    /// Accepts a message for a receiver. Beyond [`Queue::ROOM`] messages of one receiver, a newer
    /// revision takes the place of an older one of the same incident, which it says all of: the id
    /// of that one, to be removed, comes second.
    pub fn push(&mut self, sink: &str, alert: Alert) -> (Delivery, Option<DeliveryId>) {
        debug_assert!(self.receivers.contains(sink));
        let waiting = || self.queued.values().filter(|it| it.delivery.sink == sink);
        let older = |it: &&Queued| !it.in_flight && it.delivery.alert.id == alert.id;
        let superseded = (waiting().count() >= Self::ROOM)
            .then(|| waiting().find(older).map(|it| it.delivery.id))
            .flatten();
        if let Some(older) = superseded {
            self.queued.remove(&older);
        }
        let id = self.next_id;
        self.next_id += 1;
        let delivery = Delivery { id, sink: sink.to_owned(), alert, attempts: 0, failure: None };
        let queued = Queued { delivery: delivery.clone(), due: BootTime(0), in_flight: false };
        self.queued.insert(id, queued);
        (delivery, superseded)
    }

    /// What is to be sent now: for each receiver with nothing in flight its oldest due message.
    pub fn due(&mut self, now: Now) -> Vec<Delivery> {
        let mut busy = self.busy();
        let mut due = Vec::new();
        for queued in self.queued.values_mut() {
            let known = self.receivers.contains(&queued.delivery.sink);
            if known && queued.due <= now.boot && busy.insert(queued.delivery.sink.clone()) {
                queued.in_flight = true;
                queued.delivery.attempts += 1;
                due.push(queued.delivery.clone());
            }
        }
        due
    }

    /// When the next message of a receiver with nothing in flight becomes due.
    #[must_use]
    pub fn next_due(&self) -> Option<BootTime> {
        let busy = self.busy();
        let idle = self.queued.values().filter(|it| {
            let sink = &it.delivery.sink;
            self.receivers.contains(sink) && !busy.contains(sink)
        });
        idle.map(|it| it.due).min()
    }

    /// The receivers with a message in flight.
    fn busy(&self) -> BTreeSet<String> {
        let flying = self.queued.values().filter(|it| it.in_flight);
        flying.map(|it| it.delivery.sink.clone()).collect()
    }

    /// Records what became of a try; `jitter` is in `[0, 1)`. Returns the delivery as it is to be
    /// stored, or None when it is done and to be removed.
    pub fn settle(
        &mut self,
        now: Now,
        id: DeliveryId,
        outcome: Outcome,
        jitter: f64,
    ) -> Option<Delivery> {
        match outcome {
            Outcome::Accepted => {
                let queued = self.queued.remove(&id)?;
                *self.delivered.entry(queued.delivery.sink).or_default() += 1;
                None
            }
            Outcome::Failed { why, retry_after_ms } => {
                let queued = self.queued.get_mut(&id)?;
                queued.in_flight = false;
                queued.delivery.failure = Some(why);
                let pause = pause_ms(queued.delivery.attempts, jitter);
                queued.due =
                    now.boot.plus_millis(retry_after_ms.map_or(pause, |asked| asked.max(pause)));
                Some(queued.delivery.clone())
            }
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.queued.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }

    /// What waits, oldest first.
    pub fn waiting(&self) -> impl Iterator<Item = &Delivery> {
        self.queued.values().map(|queued| &queued.delivery)
    }
}

/// Doubles with every try and is spread over its upper half, so that many agents do not come back
/// to a restarted receiver in one wave.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 300,000")]
fn pause_ms(attempts: u32, jitter: f64) -> u64 {
    let doubled = Queue::FIRST_PAUSE_MS << attempts.saturating_sub(1).min(16);
    let pause = doubled.min(Queue::LONGEST_PAUSE_MS) as f64;
    (pause * (0.5 + 0.5 * jitter)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::WallTime;
    use crate::incident::State;

    fn alert(id: &str) -> Alert {
        Alert {
            schema: "edgewatch-alert/1".to_owned(),
            id: id.to_owned(),
            revision: 1,
            dedup_key: String::new(),
            state: State::Firing,
            severity: Severity::High,
            score: 3.0,
            title: String::new(),
            owner: None,
            node: "n1".to_owned(),
            service: ServiceName::new("systemd", "web.service"),
            first_seen: WallTime(0),
            last_seen: WallTime(0),
            count: 1,
            findings: Vec::new(),
            more: 0,
            inspect: None,
            allow: String::new(),
        }
    }

    fn at(millis: u64) -> Now {
        Now { boot: BootTime(millis * 1_000_000), wall: WallTime(0) }
    }

    fn due(queue: &mut Queue, millis: u64) -> Vec<String> {
        queue.due(at(millis)).iter().map(|it| format!("{} {}", it.sink, it.key())).collect()
    }

    fn queue() -> Queue {
        Queue::restore(Vec::new(), BTreeSet::from(["a".to_owned(), "b".to_owned()]))
    }

    fn failed(retry_after_ms: Option<u64>) -> Outcome {
        Outcome::Failed { why: "503".to_owned(), retry_after_ms }
    }

    #[test]
    fn one_receiver_has_one_message_in_flight_and_another_does_not_wait_for_it() {
        let mut queue = queue();
        for (sink, id) in [("a", "1"), ("a", "2"), ("b", "1")] {
            queue.push(sink, alert(id));
        }
        assert_eq!(due(&mut queue, 0), ["a 1/1", "b 1/1"]);
        assert_eq!(due(&mut queue, 0), [""; 0]);
        assert_eq!(queue.next_due(), None, "everything waits for an answer, nothing for time");
        assert_eq!(queue.settle(at(0), 0, Outcome::Accepted, 0.0), None);
        assert_eq!(due(&mut queue, 0), ["a 2/1"]);
    }

    #[test]
    fn a_message_nobody_takes_does_not_stand_in_the_way() {
        let mut queue = queue();
        queue.push("a", alert("1"));
        queue.push("a", alert("2"));
        assert_eq!(due(&mut queue, 0), ["a 1/1"]);
        let stored = queue.settle(at(0), 0, failed(None), 0.0);
        assert_eq!(stored.and_then(|it| it.failure).as_deref(), Some("503"));
        assert_eq!(due(&mut queue, 0), ["a 2/1"]);
        assert_eq!(queue.len(), 2, "a failure is no delivery");
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_are_jittered() {
        let pauses: Vec<u64> = (1..=12).map(|attempts| pause_ms(attempts, 1.0)).collect();
        assert_eq!(pauses[..4], [1_000, 2_000, 4_000, 8_000]);
        assert_eq!(pauses[11], Queue::LONGEST_PAUSE_MS);
        assert_eq!(pause_ms(3, 0.0), 2_000);
        assert_eq!(pause_ms(u32::MAX, 0.0), Queue::LONGEST_PAUSE_MS / 2);
    }

    #[test]
    fn a_receiver_that_asks_for_patience_gets_it() {
        let mut queue = queue();
        queue.push("a", alert("1"));
        assert_eq!(due(&mut queue, 0).len(), 1);
        queue.settle(at(0), 0, failed(Some(60_000)), 0.0);
        assert_eq!(queue.next_due(), Some(at(60_000).boot));
        assert_eq!(due(&mut queue, 59_999), [""; 0]);
        assert_eq!(due(&mut queue, 60_000), ["a 1/1"]);
    }

    #[test]
    fn what_was_stored_is_due_at_once_and_its_numbers_go_on() {
        let mut queue = queue();
        let stored = vec![queue.push("a", alert("1")).0, queue.push("a", alert("2")).0];
        let receivers = BTreeSet::from(["b".to_owned()]);
        let mut elsewhere = Queue::restore(stored.clone(), receivers);
        assert_eq!(due(&mut elsewhere, 0), [""; 0], "its receiver is gone, it is not");
        assert_eq!((elsewhere.next_due(), elsewhere.len()), (None, 2));
        let mut restored = Queue::restore(stored, queue.receivers);
        assert_eq!(due(&mut restored, 0), ["a 1/1"]);
        assert_eq!(restored.push("b", alert("3")).0.id, 2);
    }

    #[test]
    fn a_long_queue_keeps_the_newest_revision_of_each_incident() {
        let mut queue = queue();
        for index in 0..Queue::ROOM {
            let (_, superseded) = queue.push("a", alert(&index.to_string()));
            assert_eq!(superseded, None, "there is room");
        }
        assert_eq!(due(&mut queue, 0), ["a 0/1"]);
        let revision = |revision| Alert { revision, ..alert("7") };
        assert_eq!(queue.push("a", revision(2)).1, Some(7));
        assert_eq!(queue.push("a", alert("new")).1, None, "no incident is ever dropped");
        assert_eq!(queue.push("a", Alert { revision: 2, ..alert("0") }).1, None, "it is in flight");
        assert_eq!(queue.push("b", revision(2)).1, None, "another receiver's queue is short");
    }
}
