//! Findings of one cause, grouped: what becomes one message. Decides when an incident has something
//! new to say; how it reads is `message`'s, and who hears it is decided elsewhere.

mod found;
mod message;
mod reported;
mod telling;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::detect::{Finding, Kind, Severity};
use crate::edge::Edge;
use crate::flow::{Direction, Ended, Flood};
use crate::ids::{BootTime, CgroupId, Now, ServiceName, WallTime};

use self::found::Found;
use self::message::cause;
pub use self::message::{Alert, AlertEdge, AlertFinding, dedup_key};
pub use self::reported::Reported;
pub use self::telling::{Others, Subject};

/// Where an incident stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    Firing,
    /// Later evidence came to it.
    Updated,
    /// Approved, or unseen for 24 hours.
    Resolved,
}

/// What an incident is about: findings of different kinds of cause are never one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum About {
    /// One service, by its baseline.
    #[default]
    Service,
    /// Services that nobody guards and that are odd in the same way: told together, in one message
    /// that waits a moment for the others.
    Unguarded(Kind),
    /// One service that shows more that is new than is told one by one.
    Flood,
    /// The agent itself.
    Agent,
}

/// Findings of one service that belong together. Stored as one value, under its id.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    #[serde(default)]
    pub about: About,
    /// A ULID: sorts by the time of the first finding.
    pub id: String,
    /// Rises with every message.
    pub revision: u32,
    pub state: State,
    pub service: ServiceName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    pub node: String,
    pub dedup_key: String,
    pub first_seen: WallTime,
    pub last_seen: WallTime,
    /// When its last finding came: what groups the next one with it.
    pub last_finding: WallTime,
    /// Exchanges on its edges as the kernel counted them, which may lag a few seconds. Of an edge that
    /// is known with another executable only what was told counts: the rest of it is as ever.
    pub count: u64,
    /// It has something to say that it has not said yet.
    #[serde(default)]
    pub unspoken: bool,
    pub findings: Vec<Arc<Reported>>,
    /// Findings beyond [`Incident::FINDINGS`].
    #[serde(default)]
    pub more: u64,
    /// How much of each flood that goes on `count` holds: stored with it, so that who comes after this
    /// agent counts on from there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub floods: Vec<Counted>,
}

/// How much of one flood was counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    pub cgroup: CgroupId,
    pub direction: Direction,
    /// As the kernel says it, nanoseconds since boot.
    pub began_ns: u64,
    pub count: u64,
}

impl Incident {
    /// Findings kept and sent; further ones are counted.
    pub const FINDINGS: usize = 50;
    /// A finding joins its service's incident within this time of the last one, seconds.
    pub const GROUPING_S: u64 = 15 * 60;
    /// An incident unseen for this long is resolved, seconds.
    pub const FORGOTTEN_S: u64 = 24 * 60 * 60;

    /// Something new came at `at`.
    fn heard(&mut self, at: WallTime) {
        self.last_seen = self.last_seen.max(at);
        self.last_finding = self.last_finding.max(at);
        if self.state == State::Firing && self.revision > 0 {
            self.state = State::Updated;
        }
    }

    /// Takes a finding in; a repeat of a known one replaces it with its better outcome.
    pub fn add(&mut self, finding: Finding) {
        self.heard(finding.at);
        let same = self.findings.iter().position(|known| {
            known.kind == finding.kind
                && known.edge == finding.edge
                && (known.edge.is_some() || cause(known) == cause(&finding))
                && (known.executable() == finding.executable() || finding.process.is_none())
        });
        if let Some(index) = same {
            let known = Arc::make_mut(&mut self.findings[index]).change();
            known.outcome = known.outcome.max(finding.outcome);
            known.process = finding.process.or_else(|| known.process.take());
            if known.edge.is_none() {
                known.reasons = finding.reasons;
            }
        } else if self.findings.len() < Self::FINDINGS {
            self.count += u64::from(finding.kind == Kind::NewExecutable);
            self.findings.push(Arc::new(Reported::new(finding)));
        } else {
            self.more += 1;
        }
    }

    /// Counts findings that are not kept.
    pub fn count_more(&mut self, at: WallTime, findings: u64) {
        self.heard(at);
        self.more += findings;
    }

    /// How much of this flood was counted before.
    #[must_use]
    pub fn counted_of(&self, flood: &Flood) -> Option<u64> {
        self.floods.iter().find(|it| it.is_of(flood)).map(|it| it.count)
    }

    /// Counts so many `more` of a flood.
    pub fn count_flood(&mut self, flood: &Flood, more: u64) {
        self.count += more;
        self.floods.retain(|it| !it.is_of(flood));
        if flood.ended == Ended::No {
            let Flood { cgroup, direction, began: BootTime(began_ns), count, .. } = *flood;
            self.floods.push(Counted { cgroup, direction, began_ns, count });
        }
    }

    #[must_use]
    pub fn touches(&self, edge: &Edge) -> bool {
        self.findings.iter().any(|finding| finding.edge.as_ref() == Some(edge))
    }

    /// Whether what goes on over `edge` is what it tells of; false where the edge is known, and only
    /// an executable of it was not.
    #[must_use]
    pub fn counts(&self, edge: &Edge) -> bool {
        let mut about = self.findings.iter().filter(|it| it.edge.as_ref() == Some(edge));
        about.any(|it| it.kind != Kind::NewExecutable)
    }

    #[must_use]
    pub fn severity(&self) -> Severity {
        self.findings.iter().map(|it| it.severity).max().unwrap_or(Severity::Low)
    }
}

impl Counted {
    fn is_of(&self, flood: &Flood) -> bool {
        let Flood { cgroup, direction, began, .. } = *flood;
        (self.cgroup, self.direction, self.began_ns) == (cgroup, direction, began.0)
    }
}

/// The incidents, by id.
#[derive(Debug, Default)]
pub struct Incidents {
    pub open: BTreeMap<String, Incident>,
    /// Resolved ones, the newest [`Incidents::CLOSED`] of them.
    pub closed: BTreeMap<String, Incident>,
    found: Found,
    pace: BTreeMap<String, Pace>,
    /// Before this no further message about unguarded services.
    next_unguarded: BootTime,
    /// Changed since they were last stored.
    dirty: BTreeSet<String>,
}

/// How fast an incident may speak.
#[derive(Debug, Clone, Copy, Default)]
struct Pace {
    sent: u32,
    next: BootTime,
}

impl Incidents {
    /// Resolved incidents kept for `alerts`.
    pub const CLOSED: usize = 1_000;
    /// Messages of one incident that go out at once; after them one every [`Incidents::PACE_MS`].
    pub const BURST: u32 = 10;
    pub const PACE_MS: u64 = 10_000;
    /// What nobody guards waits this long for what is like it, and is told at most once in
    /// [`Incidents::PACE_MS`].
    pub const BATCH_MS: u64 = 1_000;

    /// The incident that a finding of `service` joins now, if one is fresh enough; what nobody guards
    /// joins what was not told yet.
    #[must_use]
    pub fn joining(
        &mut self,
        service: &ServiceName,
        about: About,
        at: WallTime,
    ) -> Option<&mut Incident> {
        let joins = |incident: &Incident| {
            incident.about == about
                && match about {
                    About::Unguarded(_) => incident.revision == 0,
                    About::Service | About::Flood | About::Agent => {
                        at.seconds_apart(incident.last_finding) < Incident::GROUPING_S
                    }
                }
        };
        let is_joined = |id: &&String| self.open.get(*id).is_some_and(joins);
        let id = match about {
            // What was not told yet has something to say.
            About::Unguarded(_) => self.found.speakers().find(is_joined),
            About::Service | About::Flood | About::Agent => {
                self.found.of_service(service).find(is_joined)
            }
        };
        let id = id?.clone();
        self.found.handed_out(&id);
        let joined = self.open.get_mut(&id);
        self.dirty.insert(id);
        joined
    }

    /// Adds a new incident.
    pub fn open(&mut self, now: Now, incident: Incident) {
        if matches!(incident.about, About::Unguarded(_)) {
            let next = self.next_batch(now);
            self.pace.insert(incident.id.clone(), Pace { sent: 0, next });
        }
        self.dirty.insert(incident.id.clone());
        self.found.open(&incident);
        self.open.insert(incident.id.clone(), incident);
    }

    /// When a new incident about unguarded services is told: with those that wait already, if any.
    fn next_batch(&mut self, now: Now) -> BootTime {
        let speakers = self.found.speakers().filter_map(|id| self.open.get(id));
        let mut waiting =
            speakers.filter(|it| matches!(it.about, About::Unguarded(_)) && it.revision == 0);
        if let Some(pace) = waiting.find_map(|it| self.pace.get(&it.id)) {
            return pace.next;
        }
        let next = now.boot.plus_millis(Self::BATCH_MS).max(self.next_unguarded);
        self.next_unguarded = next.plus_millis(Self::PACE_MS);
        next
    }

    /// Puts back a stored incident.
    pub fn restore(&mut self, incident: Incident) {
        if incident.state == State::Resolved {
            self.closed.insert(incident.id.clone(), incident);
        } else {
            self.found.open(&incident);
            self.open.insert(incident.id.clone(), incident);
        }
    }

    /// Hands `change` every open incident that holds a finding about `edge`; tells whether there was
    /// one.
    pub fn update_about(&mut self, edge: &Edge, mut change: impl FnMut(&mut Incident)) -> bool {
        let mut found = false;
        for id in self.found.of_edge(&self.open, edge) {
            let Some(incident) = self.open.get_mut(&id) else {
                continue;
            };
            found = true;
            let before = (incident.count, incident.last_seen, incident.unspoken);
            change(incident);
            if before != (incident.count, incident.last_seen, incident.unspoken) {
                self.found.handed_out(&id);
                self.dirty.insert(id);
            }
        }
        found
    }

    /// The incidents that say something now: each gets its next revision.
    pub fn speaking(&mut self, now: Now) -> Vec<Incident> {
        let mut speaking = Vec::new();
        let speakers: Vec<String> = self.found.speakers().cloned().collect();
        for id in speakers {
            let Some(incident) = self.open.get_mut(&id).filter(|it| it.unspoken) else {
                self.found.has_nothing_to_say(&id);
                continue;
            };
            let pace = self.pace.entry(id.clone()).or_default();
            if pace.next > now.boot {
                continue;
            }
            pace.sent += 1;
            if pace.sent >= Self::BURST {
                pace.next = now.boot.plus_millis(Self::PACE_MS);
            }
            incident.revision += 1;
            incident.unspoken = false;
            speaking.push(incident.clone());
            self.found.has_nothing_to_say(&id);
            self.dirty.insert(id);
        }
        speaking
    }

    /// When [`Incidents::speaking`] has something to say next.
    #[must_use]
    pub fn next_due(&self) -> Option<BootTime> {
        let speakers = self.found.speakers().filter_map(|id| self.open.get(id));
        let unspoken = speakers.filter(|it| it.unspoken);
        unspoken.map(|it| self.pace.get(&it.id).map_or(BootTime(0), |pace| pace.next)).min()
    }

    /// Resolves an incident: its last revision, moved to the closed ones.
    pub fn resolve(&mut self, id: &str) -> Option<Incident> {
        let mut incident = self.open.remove(id)?;
        self.found.close(&incident);
        self.pace.remove(id);
        incident.state = State::Resolved;
        incident.unspoken = false;
        incident.revision += 1;
        self.closed.insert(incident.id.clone(), incident.clone());
        self.dirty.insert(incident.id.clone());
        while self.closed.len() > Self::CLOSED
            && let Some((oldest, _)) = self.closed.pop_first()
        {
            self.dirty.insert(oldest);
        }
        Some(incident)
    }

    /// What changed since the last call; None for the forgotten.
    pub fn take_dirty(&mut self) -> Vec<(String, Option<Incident>)> {
        let ids = std::mem::take(&mut self.dirty);
        ids.into_iter()
            .map(|id| {
                let incident = self.open.get(&id).or_else(|| self.closed.get(&id)).cloned();
                (id, incident)
            })
            .collect()
    }
}
