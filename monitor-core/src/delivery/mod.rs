//! The delivery queue as data: which message goes to which receiver, when it is tried next, what
//! became of it. Sends nothing itself. What is accepted here leaves only when a receiver took it, or
//! counted, for a digest that tells it.

mod digest;
mod rate;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::detect::Severity;
use crate::ids::{BootTime, Now, ServiceName, WallTime};
use crate::incident::Alert;
use crate::pattern::Pattern;

pub use self::digest::{
    Brief, Cause, Digest, DigestIncident, EndedMute, KindCount, Ledger, ServiceCount,
};
use self::rate::Bucket;
pub use self::rate::{Rate, RateError};

/// A receiver, as far as the queue must know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sink {
    pub name: String,
    pub min_severity: Severity,
    /// Services it wants to hear of; empty means all.
    pub services: Vec<Pattern>,
    /// How fast it may be spoken to.
    pub rate: Rate,
    /// Messages that may wait for it; beyond them the least of them are held back for a digest.
    pub room: usize,
}

impl Sink {
    #[must_use]
    pub fn wants(&self, severity: Severity, service: &ServiceName) -> bool {
        severity >= self.min_severity
            && (self.services.is_empty()
                || self.services.iter().any(|pattern| pattern.matches(service.as_str())))
    }
}

/// What a receiver can be sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    Alert(Box<Alert>),
    Digest(Box<Digest>),
    /// Sent when somebody asks for it, never queued.
    Test(Box<Test>),
}

/// A message that says that messages arrive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Test {
    pub schema: String,
    pub id: String,
    pub revision: u32,
    pub severity: Severity,
    pub title: String,
    pub node: String,
    pub at: WallTime,
}

impl Test {
    #[must_use]
    pub fn new(id: String, node: &str, at: WallTime) -> Self {
        Self {
            schema: "edgewatch-test/1".to_owned(),
            id,
            revision: 1,
            severity: Severity::Low,
            title: "this is a test: nothing happened".to_owned(),
            node: node.to_owned(),
            at,
        }
    }
}

/// What became of a test message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tested {
    /// The receiver's name.
    pub receiver: String,
    /// Why it was not accepted; it was where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
}

impl Message {
    /// The `Idempotency-Key`: the same message sent twice is recognisable as one.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Self::Alert(alert) => format!("{}/{}", alert.id, alert.revision),
            Self::Digest(digest) => format!("{}/{}", digest.id, digest.revision),
            Self::Test(test) => format!("{}/{}", test.id, test.revision),
        }
    }

    /// What is sent before what: a digest, of which there are few, then by severity.
    fn rank(&self) -> (bool, Severity) {
        match self {
            Self::Alert(alert) => (false, alert.severity),
            Self::Digest(digest) => (true, digest.severity),
            Self::Test(test) => (false, test.severity),
        }
    }

    fn alert(&self) -> Option<&Alert> {
        match self {
            Self::Alert(alert) => Some(alert),
            Self::Digest(_) | Self::Test(_) => None,
        }
    }
}

/// Position in the queue: rises for ever, also across restarts.
pub type DeliveryId = u64;

/// One message for one receiver. Stored as one value, under its id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    pub id: DeliveryId,
    pub sink: String,
    #[serde(flatten)]
    pub message: Message,
    /// Tries so far.
    pub attempts: u32,
    /// Why the last try failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
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

/// What one receiver was not sent, until a digest tells it. Stored as one value, under its name.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Held {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<Ledger>,
    /// Mutes that ended and were not told yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mutes: Vec<EndedMute>,
    /// When the digest is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<WallTime>,
    /// When the last one was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<WallTime>,
}

/// What is to be stored of the queue; None removes it.
#[derive(Debug, Clone, PartialEq)]
pub enum Kept {
    Delivery(DeliveryId, Option<Box<Delivery>>),
    Held(String, Box<Held>),
}

#[derive(Debug)]
struct Queued {
    delivery: Delivery,
    due: BootTime,
}

/// What is known of a receiver that is configured.
#[derive(Debug)]
struct Line {
    bucket: Bucket,
    room: usize,
    /// It asked to be left alone until then.
    quiet_until: BootTime,
    /// What is in flight to it, and since when.
    flying: Option<(DeliveryId, BootTime)>,
}

impl Line {
    fn is_flying(&self, id: DeliveryId) -> bool {
        self.flying.is_some_and(|(flying, _)| flying == id)
    }

    /// When it may be spoken to next; None while a message is in flight.
    fn free_at(&self) -> Option<BootTime> {
        self.flying.is_none().then(|| self.quiet_until.max(self.bucket.next()))
    }
}

/// The queue. A message for a receiver that is not configured (any more) stays and is not tried: the
/// receiver may come back. Per receiver one message is in flight at a time, so that a slow receiver
/// delays only itself; a message that a receiver will not take does not stand in the way of the next.
/// What waits goes in order of severity, then of age.
#[derive(Debug, Default)]
pub struct Queue {
    queued: BTreeMap<DeliveryId, Queued>,
    next_id: DeliveryId,
    lines: BTreeMap<String, Line>,
    held: BTreeMap<String, Held>,
    /// Delivered since start, per receiver.
    pub delivered: BTreeMap<String, u64>,
}

impl Queue {
    /// First and longest pause between tries, milliseconds.
    pub const FIRST_PAUSE_MS: u64 = 1_000;
    pub const LONGEST_PAUSE_MS: u64 = 5 * 60 * 1_000;
    /// A receiver gets at most one digest in this time, seconds.
    pub const DIGEST_S: u64 = 10 * 60;
    /// Ended mutes that a digest names.
    const MUTES: usize = 20;

    /// Puts back what was stored, for these receivers; all of it is due at once.
    #[must_use]
    pub fn restore(stored: Vec<Delivery>, held: Vec<(String, Held)>, sinks: &[Sink]) -> Self {
        let next_id = stored.iter().map(|it| it.id + 1).max().unwrap_or(0);
        let queued = stored
            .into_iter()
            .map(|delivery| (delivery.id, Queued { delivery, due: BootTime(0) }))
            .collect();
        let line = |sink: &Sink| {
            let bucket = Bucket::new(sink.rate);
            (
                sink.name.clone(),
                Line { bucket, room: sink.room, quiet_until: BootTime(0), flying: None },
            )
        };
        let lines = sinks.iter().map(line).collect();
        let held = held.into_iter().collect();
        Self { queued, next_id, lines, held, delivered: BTreeMap::new() }
    }

    /// Accepts an alert for a receiver. Where there is no room for it, a newer revision takes the
    /// place of one of the same incident that waits; else the youngest of the least severe is held
    /// back, which may be the new one. Either is counted for a digest.
    pub fn push(&mut self, now: Now, sink: &str, alert: Alert) -> Vec<Kept> {
        let Some(line) = self.lines.get(sink) else {
            return Vec::new();
        };
        let waiting = || {
            let mine = self.queued.iter().filter(|(_, it)| it.delivery.sink == sink);
            mine.filter(|(id, it)| !line.is_flying(**id) && it.delivery.message.alert().is_some())
        };
        if waiting().count() < line.room {
            return vec![self.enqueue(sink, Message::Alert(Box::new(alert)))];
        }
        let of = |it: &Queued, id: &str| it.delivery.message.alert().is_some_and(|it| it.id == id);
        if let Some(id) = waiting().find(|(_, it)| of(it, &alert.id)).map(|(id, _)| *id) {
            return self.replace(now, id, alert);
        }
        let least = waiting().min_by_key(|(id, it)| (it.delivery.message.rank(), Reverse(**id)));
        match least.map(|(id, it)| (*id, it.delivery.message.rank().1)) {
            Some((id, severity)) if severity < alert.severity => {
                let mut kept = vec![self.enqueue(sink, Message::Alert(Box::new(alert)))];
                if let Some(gone) = self.queued.remove(&id)
                    && let Message::Alert(gone) = gone.delivery.message
                {
                    kept.push(Kept::Delivery(id, None));
                    kept.push(self.hold(now, sink, &gone, Cause::Suppressed));
                }
                kept
            }
            _ => vec![self.hold(now, sink, &alert, Cause::Suppressed)],
        }
    }

    /// The newer revision waits where the older one did, so that what goes on is not put off by it.
    fn replace(&mut self, now: Now, id: DeliveryId, alert: Alert) -> Vec<Kept> {
        let Some(queued) = self.queued.get_mut(&id) else {
            return Vec::new();
        };
        let sink = queued.delivery.sink.clone();
        let older =
            std::mem::replace(&mut queued.delivery.message, Message::Alert(Box::new(alert)));
        let mut kept = vec![Kept::Delivery(id, Some(Box::new(queued.delivery.clone())))];
        if let Message::Alert(older) = older {
            kept.push(self.hold(now, &sink, &older, Cause::Replaced));
        }
        kept
    }

    fn enqueue(&mut self, sink: &str, message: Message) -> Kept {
        let id = self.next_id;
        self.next_id += 1;
        let delivery = Delivery { id, sink: sink.to_owned(), message, attempts: 0, failure: None };
        let queued = Queued { delivery: delivery.clone(), due: BootTime(0) };
        self.queued.insert(id, queued);
        Kept::Delivery(id, Some(Box::new(delivery)))
    }

    /// Counts an alert that this receiver is not sent.
    fn hold(&mut self, now: Now, sink: &str, alert: &Alert, cause: Cause) -> Kept {
        let held = self.held.entry(sink.to_owned()).or_default();
        held.ledger.get_or_insert_with(|| Ledger::new(now.wall)).add(now.wall, alert, cause);
        held.due.get_or_insert(now.wall.plus_seconds(DIGEST));
        Kept::Held(sink.to_owned(), Box::new(held.clone()))
    }

    /// Takes in what a mute kept from this receiver: a digest tells it as soon as one may go.
    pub fn unmuted(&mut self, now: Now, sink: &str, ledger: Ledger, mute: EndedMute) -> Kept {
        let held = self.held.entry(sink.to_owned()).or_default();
        match &mut held.ledger {
            Some(known) => known.merge(ledger),
            None => held.ledger = Some(ledger),
        }
        held.mutes.push(mute);
        if held.mutes.len() > Self::MUTES {
            held.mutes.remove(0);
        }
        let next = held.told.map_or(now.wall, |told| now.wall.max(told.plus_seconds(DIGEST)));
        held.due = Some(held.due.map_or(next, |due| due.min(next)));
        Kept::Held(sink.to_owned(), Box::new(held.clone()))
    }

    /// The first receiver to which a digest is due.
    #[must_use]
    pub fn digest_due(&self, now: Now) -> Option<String> {
        // A clock that was set back must not put it off for ever.
        let is_due = |due: WallTime| due <= now.wall || due > now.wall.plus_seconds(DIGEST);
        let due = self
            .held
            .iter()
            .find(|(sink, held)| held.due.is_some_and(is_due) && self.lines.contains_key(*sink));
        due.map(|(sink, _)| sink.clone())
    }

    /// Writes the digest of one receiver.
    pub fn digest(&mut self, now: Now, sink: String, node: &str, id: String) -> Vec<Kept> {
        let told = Held { told: Some(now.wall), ..Held::default() };
        let held = self.held.insert(sink.clone(), told.clone()).unwrap_or_default();
        let mut kept = Vec::new();
        if let Some(ledger) = held.ledger {
            let digest = Digest::new(id, node, now.wall, ledger, held.mutes);
            kept.push(self.enqueue(&sink, Message::Digest(Box::new(digest))));
        }
        kept.push(Kept::Held(sink, Box::new(told)));
        kept
    }

    /// What is to be sent now: for each receiver that may be spoken to and has nothing in flight, the
    /// most severe and then oldest of its due messages.
    pub fn due(&mut self, now: Now) -> Vec<Delivery> {
        let free = |line: &Line| line.free_at().is_some_and(|at| at <= now.boot);
        // Asked at every step: most find every receiver busy, or nothing to say.
        if self.queued.is_empty() || !self.lines.values().any(free) {
            return Vec::new();
        }
        let mut first: BTreeMap<&str, (&DeliveryId, &Queued)> = BTreeMap::new();
        for (id, queued) in self.queued.iter().filter(|(_, it)| it.due <= now.boot) {
            let sink = queued.delivery.sink.as_str();
            if self.lines.get(sink).is_some_and(free) {
                let best = first.entry(sink).or_insert((id, queued));
                if queued.delivery.message.rank() > best.1.delivery.message.rank() {
                    *best = (id, queued);
                }
            }
        }
        let ids: Vec<DeliveryId> =
            first.into_values().map(|(id, it)| self.oldest_of(now, *id, it)).collect();
        let mut due = Vec::new();
        for id in ids {
            if let Some(queued) = self.queued.get_mut(&id)
                && let Some(line) = self.lines.get_mut(&queued.delivery.sink)
                && line.bucket.take(now.boot)
            {
                line.flying = Some((id, now.boot));
                queued.delivery.attempts += 1;
                due.push(queued.delivery.clone());
            }
        }
        due
    }

    /// The oldest due revision of the same incident: an incident is told in its order, also where a
    /// newer revision took the place of an older one.
    fn oldest_of(&self, now: Now, id: DeliveryId, queued: &Queued) -> DeliveryId {
        let Some(mine) = queued.delivery.message.alert() else { return id };
        let due = self.queued.iter().filter(|(_, it)| it.due <= now.boot);
        let same = due.filter(|(_, it)| it.delivery.sink == queued.delivery.sink);
        let alerts = same.filter_map(|(id, it)| Some((id, it.delivery.message.alert()?)));
        let revisions = alerts.filter(|(_, it)| it.id == mine.id);
        let oldest = revisions.min_by_key(|(id, it)| (it.revision, **id));
        oldest.map_or(id, |(id, _)| *id)
    }

    /// When the next message of a receiver with nothing in flight may go.
    #[must_use]
    pub fn next_due(&self) -> Option<BootTime> {
        let idle = self
            .queued
            .values()
            .filter_map(|it| Some(it.due.max(self.lines.get(&it.delivery.sink)?.free_at()?)));
        idle.min()
    }

    /// Records what became of a try; `jitter` is in `[0, 1)`. Returns the delivery as it is to be
    /// stored, or None when it is done and to be removed. A receiver that asks for patience gets it
    /// from all messages.
    pub fn settle(
        &mut self,
        now: Now,
        id: DeliveryId,
        outcome: Outcome,
        jitter: f64,
    ) -> Option<Delivery> {
        let queued = self.queued.get_mut(&id)?;
        if let Some(line) = self.lines.get_mut(&queued.delivery.sink)
            && let Some((_, sent_at)) = line.flying.take_if(|(flying, _)| *flying == id)
        {
            line.bucket.flew(sent_at, now.boot);
        }
        match outcome {
            Outcome::Accepted => {
                let queued = self.queued.remove(&id)?;
                *self.delivered.entry(queued.delivery.sink).or_default() += 1;
                None
            }
            Outcome::Failed { why, retry_after_ms } => {
                queued.delivery.failure = Some(why);
                let pause = pause_ms(queued.delivery.attempts, jitter);
                let asked = retry_after_ms.unwrap_or(0);
                queued.due = now.boot.plus_millis(asked.max(pause));
                if let Some(line) = self.lines.get_mut(&queued.delivery.sink) {
                    line.quiet_until = line.quiet_until.max(now.boot.plus_millis(asked));
                }
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

    /// Messages that this receiver was not sent and no digest has told yet.
    #[must_use]
    pub fn held_back(&self, sink: &str) -> u64 {
        let ledger = self.held.get(sink).and_then(|held| held.ledger.as_ref());
        ledger.map_or(0, |ledger| ledger.messages)
    }
}

const DIGEST: i64 = Queue::DIGEST_S.cast_signed();

/// Doubles with every try and is spread over its upper half, so that many agents do not come back
/// to a restarted receiver in one wave.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 300,000")]
fn pause_ms(attempts: u32, jitter: f64) -> u64 {
    let doubled = Queue::FIRST_PAUSE_MS << attempts.saturating_sub(1).min(16);
    let pause = doubled.min(Queue::LONGEST_PAUSE_MS) as f64;
    (pause * (0.5 + 0.5 * jitter)) as u64
}
