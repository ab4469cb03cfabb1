//! Performs what the engine asks for, in the order that keeps its promises: all that a step stores is
//! stored in one transaction before anything else of it is done. What cannot be stored now is kept
//! and tried again, and whoever waits for it is told so.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::FutureExt as _;
use monitor_core::delivery::{Delivery, DeliveryId, Outcome, Test};
use monitor_core::engine::{AuditEntry, Change, CommandError, Effect, Reply, Tallies};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::agent::audience::Audience;
use crate::agent::{Tell, Told, naming, trial};
use crate::capture::{self, Capture};
use crate::notify::{self, Notifier};
use crate::serve::{Feed, Request};
use crate::store::Store;

/// What a decision's author is told.
pub(crate) type Decided = Result<Reply, CommandError>;

pub(crate) struct Performer {
    store: Store,
    notifier: Arc<Notifier>,
    outcomes: mpsc::Sender<(DeliveryId, Outcome)>,
    flying: JoinSet<()>,
    audience: Audience,
    feed: Feed,
    /// Changes that the disk did not take yet.
    unstored: Vec<Change>,
    /// Why it did not, as last told.
    refusal: Option<String>,
    /// Changes, and what was taken in, since [`Performer::rest`].
    changes: usize,
    /// There was a burst of them, or a start.
    burst: bool,
}

impl Performer {
    /// Unstored changes beyond this are boiled down to the newest of each value.
    const UNSTORED: usize = 10_000;
    /// So many changes between two rests are a burst.
    const BURST: usize = 1_024;

    pub(crate) fn new(
        store: Store,
        notifier: Notifier,
        outcomes: mpsc::Sender<(DeliveryId, Outcome)>,
        tell: Option<Tell>,
        feed: Feed,
    ) -> Self {
        Self {
            store,
            notifier: Arc::new(notifier),
            outcomes,
            flying: JoinSet::new(),
            audience: Audience::new(tell),
            feed,
            unstored: Vec::new(),
            refusal: None,
            changes: 0,
            burst: true,
        }
    }

    /// Gives back what a burst took, once it is over. To be called every so often.
    pub(crate) fn rest(&mut self) {
        let goes_on = std::mem::take(&mut self.changes) >= Self::BURST;
        if !goes_on && self.burst {
            capture::give_back();
        }
        self.burst = goes_on;
    }

    /// Notes what takes memory for a moment though nothing of it may be new, as a whole list does.
    pub(crate) const fn took_in(&mut self, facts: usize) {
        self.changes += facts;
    }

    /// Tells whoever watches, if anybody does.
    pub(crate) fn tell(&mut self, told: Told) {
        self.audience.tell(told);
    }

    /// Ends when somebody watched and no longer does.
    pub(crate) async fn unheard(&self) {
        self.audience.gone().await;
    }

    /// Performs all of it; hands back what the author of a decision is to be told, once the decision
    /// is stored and the kernel knows of it.
    pub(crate) fn perform(
        &mut self,
        effects: Vec<Effect>,
        capture: &mut Capture,
    ) -> anyhow::Result<Option<Decided>> {
        let mut decided = None;
        let mut changes = Vec::new();
        let mut rest = Vec::new();
        for effect in effects {
            match effect {
                Effect::Store(stored) => changes.extend(stored),
                other => rest.push(other),
            }
        }
        self.store(changes);
        let mut moved = BTreeMap::new();
        for effect in rest {
            match effect {
                // The keys they mean were found before.
                Effect::Store(_) | Effect::Leave(_) => {}
                Effect::Unknow(addresses) => moved.extend(naming::moved(addresses)),
                Effect::Rearm(keys) => {
                    capture.rearm(&keys, &moved).context("re-arm the kernel's tables")?;
                }
                Effect::Hear(cgroup, path) => capture.asks(cgroup, &path),
                Effect::Deliver(delivery) => self.deliver(*delivery),
                Effect::Appeared(edge) => self.tell(Told::Edge(edge)),
                Effect::Alerted(alert) => {
                    tracing::info!(
                        id = alert.id, revision = alert.revision, severity = %alert.severity,
                        muted = alert.muted_until.is_some(), "{}", alert.title
                    );
                    self.feed.tell(&alert);
                    self.tell(Told::Alert(alert));
                }
                Effect::Reply(result) => decided = Some(self.told_if_unstored(result)),
            }
        }
        Ok(decided)
    }

    /// Stores what waits, and `changes` after it. A refusal is told once, and its end as well.
    pub(crate) fn store(&mut self, changes: Vec<Change>) {
        self.changes += changes.iter().map(values).sum::<usize>();
        self.unstored.extend(changes);
        if self.unstored.is_empty() {
            return;
        }
        match tokio::task::block_in_place(|| self.store.commit(&self.unstored)) {
            Ok(()) => {
                // With its room: after a burst that is as much as all edges take.
                self.unstored = Vec::new();
                if self.refusal.take().is_some() {
                    tracing::info!("the state is stored again; nothing was lost");
                }
            }
            Err(error) => {
                let why = format!("{:#}", anyhow::Error::new(error));
                if self.refusal.as_ref() != Some(&why) {
                    tracing::error!("{why}; kept in memory and tried again");
                    self.refusal = Some(why);
                }
                if self.unstored.iter().map(values).sum::<usize>() > Self::UNSTORED {
                    boil_down(&mut self.unstored);
                }
            }
        }
    }

    /// Who changed what: the newest `limit` entries.
    pub(crate) fn audit_log(&mut self, limit: usize) -> anyhow::Result<Vec<serde_json::Value>> {
        let entries = tokio::task::block_in_place(|| self.store.audit_log(limit))?;
        let numbered = |(number, entry): (u64, AuditEntry)| {
            let mut value = serde_json::to_value(entry)?;
            if let Some(fields) = value.as_object_mut() {
                fields.insert("number".to_owned(), number.into());
            }
            Ok(value)
        };
        entries.into_iter().map(numbered).collect()
    }

    /// Adds to the reply that the disk has not taken the decision yet, if it has not.
    fn told_if_unstored(&self, decided: Decided) -> Decided {
        let mut reply = decided?;
        if let Some(why) = &self.refusal {
            reply.notes.push(format!(
                "done, but not stored yet ({why}): a restart would undo it; the agent keeps trying"
            ));
        }
        Ok(reply)
    }

    /// Sends a test message to `receivers`, beside the queue, and answers with what became of it.
    pub(crate) fn test(&mut self, receivers: Vec<String>, message: Test, request: Request) {
        let notifier = Arc::clone(&self.notifier);
        self.flying.spawn(async move {
            request.answer(Ok(trial::run(notifier, receivers, message).await));
        });
    }

    fn deliver(&mut self, delivery: Delivery) {
        while self.flying.try_join_next().is_some() {}
        let (notifier, outcomes) = (Arc::clone(&self.notifier), self.outcomes.clone());
        self.flying.spawn(async move {
            let flight = AssertUnwindSafe(attempt(&notifier, &delivery)).catch_unwind();
            // A delivery that breaks off is one that failed: it is tried again.
            let outcome = flight.await.unwrap_or_else(|_panic| Outcome::Failed {
                why: "the delivery broke off: the log says where".to_owned(),
                retry_after_ms: None,
            });
            if let Outcome::Failed { why, .. } = &outcome {
                tracing::warn!(sink = delivery.sink, attempts = delivery.attempts, "{why}");
            }
            // Nobody listens any more once the agent ends: then it is still stored, and sent again.
            drop(outcomes.send((delivery.id, outcome)).await);
        });
    }

    /// Gives what is in flight `grace` to end.
    pub(crate) async fn finish(
        mut self,
        grace: Duration,
        mut settled: mpsc::Receiver<(DeliveryId, Outcome)>,
    ) -> anyhow::Result<()> {
        let all = async { while self.flying.join_next().await.is_some() {} };
        if tokio::time::timeout(grace, all).await.is_err() {
            tracing::warn!("deliveries were still under way; they stay queued");
        }
        settled.close();
        let mut done = Vec::new();
        while let Ok((id, outcome)) = settled.try_recv() {
            if outcome == Outcome::Accepted {
                done.push(Change::Delivery(id, None));
            }
        }
        self.store(done);
        self.audience.finish(LAST_LINES);
        match self.refusal {
            Some(why) => anyhow::bail!("the state could not be stored: {why}"),
            None => Ok(()),
        }
    }
}

/// What a watcher gets to read the last lines in.
pub(crate) const LAST_LINES: Duration = Duration::from_secs(1);

async fn attempt(notifier: &Notifier, delivery: &Delivery) -> Outcome {
    let message =
        notify::Delivery { sink: delivery.sink.clone(), message: delivery.message.clone() };
    match notifier.deliver(&message).await {
        notify::Outcome::Accepted => Outcome::Accepted,
        notify::Outcome::Retry { after, why } => {
            let millis = |after: Duration| u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            Outcome::Failed { why, retry_after_ms: after.map(millis) }
        }
        notify::Outcome::NoSuchSink => {
            let why = format!("no receiver is called {:?}", delivery.sink);
            Outcome::Failed { why, retry_after_ms: None }
        }
    }
}

/// Keeps the newest change of each value.
fn boil_down(changes: &mut Vec<Change>) {
    let mut tallied = BTreeMap::new();
    let key = |change: &Change| match change {
        Change::Service(name, _) => format!("s{name}"),
        Change::Edge(edge, _) => format!("e{edge}"),
        Change::Incident(id, _) => format!("i{id}"),
        Change::Delivery(id, _) => format!("d{id}"),
        Change::Held(sink, _) => format!("h{sink}"),
        Change::Mute(pattern, _) => format!("m{pattern}"),
        Change::Known(known, _) => format!("n{known:?}"),
        Change::Audit(number, _) => format!("a{number}"),
        Change::Alive(_) => "z".to_owned(),
        // Before what is tallied of them.
        Change::Tables(_) => "k".to_owned(),
        Change::Tallied(_) => "t".to_owned(),
    };
    let mut newest = BTreeMap::new();
    for change in changes.drain(..) {
        match &change {
            Change::Tallied(tallies) => tallied.extend(tallies.rows()),
            // What was tallied of others is void.
            Change::Tables(_) => tallied.clear(),
            _ => {}
        }
        newest.insert(key(&change), change);
    }
    let mut tallies = Tallies::default();
    tallies.extend(tallied);
    if let Some(change) = newest.get_mut("t") {
        *change = Change::Tallied(tallies);
    }
    changes.extend(newest.into_values());
}

/// How many values a change is of.
fn values(change: &Change) -> usize {
    match change {
        Change::Tallied(tallies) => tallies.len(),
        _ => 1,
    }
}
