//! What people decide: approve, forbid, guard, learn, import. Every decision is recorded with who made
//! it, and what it touches is re-armed before it is acknowledged.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::baseline::document::Document;
use crate::baseline::{Allowance, Allowances, Grounds, Phase, Prohibition, Provenance};
use crate::edge::{Edge, EdgeWith};
use crate::engine::quiet::Wish;
use crate::engine::{Change, Effect, Engine};
use crate::executables::Executables;
use crate::ids::{Now, ServiceName};
use crate::mute::Mutes;
use crate::pattern::Pattern;

/// Who asks, as the kernel says it (`SO_PEERCRED`), whatever they claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    pub uid: u32,
    pub pid: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub executable: Option<String>,
}

impl Actor {
    /// The agent itself, for what time brings about.
    #[must_use]
    pub const fn agent() -> Self {
        Self { uid: 0, pid: 0, executable: None }
    }
}

/// Which services a decision is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selection {
    /// All whose name is known for good.
    All,
    /// Those that match; each pattern must match one.
    Matching(Vec<Pattern>),
}

/// A decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "do")]
pub enum Command {
    /// `ttl_s` in seconds; without one the approval stays.
    Approve {
        edge: EdgeWith,
        ttl_s: Option<u64>,
        grounds: Grounds,
    },
    Forbid {
        edge: Edge,
        ttl_s: Option<u64>,
        grounds: Grounds,
    },
    Guard {
        services: Selection,
    },
    /// Back to learning; with `for_s` a guarded service is only opened for that many seconds.
    Learn {
        services: Selection,
        for_s: Option<u64>,
    },
    /// Replaces the services that the document names, and touches no other.
    Import {
        document: Document,
        guard: Guarding,
    },
    /// Sends no alerts of the services that match for that many seconds; changes nothing else.
    Mute {
        services: Pattern,
        for_s: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        approver: Option<String>,
        reason: String,
    },
    Unmute {
        services: Pattern,
    },
}

/// How an import lands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guarding {
    Proposed,
    Guarded,
}

/// What a decision changed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Reply {
    pub services: Vec<ServiceName>,
    pub added: Vec<EdgeWith>,
    pub removed: Vec<EdgeWith>,
    /// Edges that are forbidden from now on, and that no longer are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forbidden: Vec<Edge>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_longer_forbidden: Vec<Edge>,
    /// What the person should know beside it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Why a decision was not carried out; nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    #[error("no service matches {0}: `edgewatch services` lists them")]
    NoSuchService(Pattern),
    #[error("only an id is known of {0} yet: it cannot be guarded before it has a lasting name")]
    Provisional(ServiceName),
    #[error("{0} is guarded by a baseline file: change the file")]
    InFile(String),
    #[error("{0}")]
    Document(#[from] crate::baseline::document::DocumentError),
    #[error(
        "{0} is not guarded: --for opens guarded services, plain `baseline learn` does the rest"
    )]
    NotGuarded(ServiceName),
    #[error("nothing is muted as {0}: `edgewatch alerts mutes` lists what is")]
    NotMuted(Pattern),
    #[error("a mute lasts at most 30 days: what is to be silent for good is approved instead")]
    MuteTooLong,
    #[error("{max} mutes hold already: end some with `edgewatch alerts unmute`", max = Mutes::ROOM)]
    TooManyMutes,
}

impl Engine {
    pub(crate) fn command(
        &mut self,
        now: Now,
        actor: &Actor,
        command: Command,
        effects: &mut Vec<Effect>,
    ) {
        let result = match command {
            Command::Approve { edge, ttl_s, grounds } => {
                self.approve(now, actor, edge, until(now, ttl_s, grounds), effects)
            }
            Command::Forbid { edge, ttl_s, grounds } => {
                self.forbid(now, actor, edge, until(now, ttl_s, grounds), effects)
            }
            Command::Guard { services } => self.guard(now, actor, &services, effects),
            Command::Learn { services, for_s } => self.learn(now, actor, &services, for_s, effects),
            Command::Import { document, guard } => {
                self.import(now, actor, &document, guard, effects)
            }
            Command::Mute { services, for_s, approver, reason } => {
                self.mute(now, actor, Wish { services, for_s, approver, reason }, effects)
            }
            Command::Unmute { services } => self.unmute(now, actor, &services, effects),
        };
        effects.push(Effect::Reply(result));
    }

    /// Stores what changed with who changed it, and re-arms the kernel's keys of `touched`.
    fn decided(
        &mut self,
        now: Now,
        actor: &Actor,
        what: String,
        touched: impl Fn(&Edge) -> bool,
        effects: &mut Vec<Effect>,
    ) {
        self.next_end = None;
        let mut changes: Vec<Change> = self.save();
        changes.push(self.audit(now.wall, actor, what));
        effects.push(Effect::Store(changes));
        self.rearm(touched, effects);
    }

    fn approve(
        &mut self,
        now: Now,
        actor: &Actor,
        approved: EdgeWith,
        grounds: Grounds,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, CommandError> {
        let edge = &approved.edge;
        if self.baseline.files.forbidden.contains_key(edge) {
            return Err(CommandError::InFile(edge.to_string()));
        }
        let mut reply = Reply { added: vec![approved.clone()], ..Reply::default() };
        let record = self.baseline.edge_mut(edge);
        let executables: Executables = approved.executable.iter().cloned().collect();
        // A newer approval of the same thing replaces the older one.
        record
            .allowed
            .retain(|it| it.provenance != Provenance::Approved || it.executables != executables);
        let allowance = Allowance {
            provenance: Provenance::Approved,
            since: now.wall,
            executables,
            attempted_only: false,
            grounds: grounds.clone().into(),
        };
        // What another executable did there still waits.
        record.pending = record.pending.take().and_then(|it| it.left_by([&allowance]));
        record.allowed.push(allowance);
        // For a while means for a while: what was forbidden before is forbidden again after.
        match (grounds.until, &mut record.forbidden) {
            (Some(until), Some(forbidden)) => {
                forbidden.lifted_until = Some(until);
                reply.notes.push(format!("it is forbidden again from {}", until.to_second()));
            }
            (Some(until), None) => reply.notes.push(format!("until {}", until.to_second())),
            (None, forbidden) => {
                reply.no_longer_forbidden.extend(forbidden.take().map(|_| edge.clone()));
            }
        }
        reply.notes.extend(self.unseen(edge));
        let what = format!("approved {approved}{}", grounds_text(&grounds));
        let edge = edge.clone();
        self.decided(now, actor, what, |it| *it == edge, effects);
        self.resolve_allowed(now, effects);
        reply.services = edge.services().cloned().collect();
        Ok(reply)
    }

    /// Resolves the incidents whose findings are all allowed by now.
    pub(crate) fn resolve_allowed(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let allowed = |finding: &std::sync::Arc<crate::incident::Reported>| {
            let executable = finding.executable();
            let Some(edge) = &finding.edge else {
                return false;
            };
            self.baseline.prohibition(edge, now.wall).is_none()
                && self.baseline.allowances(edge, now.wall).any(|it| {
                    !it.attempted_only && executable.is_none_or(|path| it.permits_executable(path))
                })
        };
        let done: Vec<String> = self
            .incidents
            .open
            .values()
            .filter(|it| it.more == 0 && it.findings.iter().all(allowed))
            .map(|it| it.id.clone())
            .collect();
        for id in done {
            self.resolve(now, &id, effects);
        }
    }

    fn forbid(
        &mut self,
        now: Now,
        actor: &Actor,
        edge: Edge,
        grounds: Grounds,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, CommandError> {
        let record = self.baseline.edge_mut(&edge);
        let what = format!("forbade {edge}{}", grounds_text(&grounds));
        // For good means for good; for a while, what was allowed before is allowed again after.
        let removed = if grounds.until.is_none() {
            std::mem::take(&mut record.allowed)
        } else {
            Allowances::new()
        };
        let forbidden = Prohibition { since: now.wall, lifted_until: None, grounds };
        record.forbidden = Some(Box::new(forbidden));
        // What was told of it as merely new is told again as forbidden.
        record.pending = None;
        let with = |executable| EdgeWith { edge: edge.clone(), executable };
        let removed = removed
            .into_iter()
            .flat_map(|it| {
                if it.executables.is_empty() {
                    vec![with(None)]
                } else {
                    it.executables
                        .iter()
                        .map(|path| with(Some(path.to_owned())))
                        .collect::<Vec<_>>()
                }
            })
            .collect();
        let services = edge.services().cloned().collect();
        let notes = self.unseen(&edge);
        self.decided(now, actor, what, |it| *it == edge, effects);
        Ok(Reply { services, removed, forbidden: vec![edge], notes, ..Reply::default() })
    }

    /// Says which services of an edge were never seen: written in advance, or mistyped.
    fn unseen(&self, edge: &Edge) -> Vec<String> {
        let known = |name: &&ServiceName| {
            self.baseline.services.contains_key(*name)
                || self.baseline.files.guarded.contains(*name)
        };
        let unseen = edge.services().filter(|name| !known(name));
        unseen
            .map(|name| format!("{name} was never seen: `edgewatch services` lists who was"))
            .collect()
    }

    /// The services a selection means.
    pub(crate) fn select(&self, selection: &Selection) -> Result<Vec<ServiceName>, CommandError> {
        let known = || self.baseline.services.keys().chain(&self.baseline.files.guarded);
        let mut selected = BTreeSet::new();
        match selection {
            Selection::All => {
                selected.extend(known().filter(|name| !name.is_provisional()).cloned());
            }
            Selection::Matching(patterns) => {
                for pattern in patterns {
                    let before = selected.len();
                    let matching: BTreeSet<_> =
                        known().filter(|name| pattern.matches(name.as_str())).cloned().collect();
                    if matching.is_empty() && before == selected.len() {
                        return Err(CommandError::NoSuchService(pattern.clone()));
                    }
                    selected.extend(matching);
                }
            }
        }
        Ok(selected.into_iter().collect())
    }

    fn guard(
        &mut self,
        now: Now,
        actor: &Actor,
        selection: &Selection,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, CommandError> {
        let services = self.select(selection)?;
        if let Some(name) = services.iter().find(|name| name.is_provisional()) {
            return Err(CommandError::Provisional(name.clone()));
        }
        let unfinished = services.iter().filter(|name| {
            let record = self.baseline.services.get(*name);
            record.is_some_and(|it| {
                it.phase == Phase::Learning && !it.is_complete(&self.settings.learn, now.wall)
            })
        });
        let unfinished = unfinished.count();
        let notes = (unfinished > 0).then(|| {
            format!(
                "{unfinished} of them had not learned for long: what they do rarely will alert once"
            )
        });
        for service in &services {
            self.set_phase(now, service, Phase::Guarded);
        }
        let what = format!("guarded {}", names(&services));
        let touched = |edge: &Edge| services.iter().any(|service| edge.touches(service));
        self.decided(now, actor, what, touched, effects);
        let notes = notes.into_iter().collect();
        Ok(Reply { services, notes, ..Reply::default() })
    }

    fn learn(
        &mut self,
        now: Now,
        actor: &Actor,
        selection: &Selection,
        for_s: Option<u64>,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, CommandError> {
        let services = self.select(selection)?;
        let mut what = format!("back to learning: {}", names(&services));
        if for_s.is_none()
            && let Some(name) = services.iter().find(|it| self.baseline.files.guarded.contains(*it))
        {
            return Err(CommandError::InFile(name.to_string()));
        }
        if let Some(seconds) = for_s {
            let guarded = |name: &&ServiceName| self.baseline.phase(name) == Phase::Guarded;
            if let Some(name) = services.iter().find(|name| !guarded(name)) {
                return Err(CommandError::NotGuarded(name.clone()));
            }
            let until = now.wall.plus_seconds(seconds.try_into().unwrap_or(i64::MAX));
            what = format!("opened until {until}: {}", names(&services));
            for service in &services {
                self.baseline.service_mut(service, now.wall).open_until = Some(until);
            }
        } else {
            for service in &services {
                self.set_phase(now, service, Phase::Learning);
                self.baseline.service_mut(service, now.wall).last_new_edge = now.wall;
            }
        }
        let touched = |edge: &Edge| services.iter().any(|service| edge.touches(service));
        self.decided(now, actor, what, touched, effects);
        Ok(Reply { services, ..Reply::default() })
    }

    fn set_phase(&mut self, now: Now, service: &ServiceName, phase: Phase) {
        let record = self.baseline.service_mut(service, now.wall);
        if record.phase != phase {
            record.phase = phase;
            record.since = now.wall;
        }
        record.open_until = None;
    }

    fn import(
        &mut self,
        now: Now,
        actor: &Actor,
        document: &Document,
        guarding: Guarding,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, CommandError> {
        let parsed = document.parse(Provenance::Imported, now.wall)?;
        let services: Vec<ServiceName> = parsed.services.keys().cloned().collect();
        if let Some(name) = services.iter().find(|it| self.baseline.files.guarded.contains(*it)) {
            return Err(CommandError::InFile(name.to_string()));
        }
        let mut reply = self.difference_to(document)?;
        // As an export writes it: every edge of a named service, whoever is at its other end.
        let named = |edge: &Edge| edge.services().any(|it| services.binary_search(it).is_ok());
        let old: Vec<Edge> =
            self.baseline.edges.keys().filter(|edge| named(edge)).cloned().collect();
        for edge in &old {
            let record = self.baseline.edge_mut(edge);
            record.allowed.clear();
            record.forbidden = None;
        }
        for (edge, allowed) in parsed.allowed {
            let record = self.baseline.edge_mut(&edge);
            record.pending = record.pending.take().and_then(|it| it.left_by(&allowed));
            record.allowed = allowed.into();
        }
        for (edge, prohibition) in parsed.forbidden {
            let record = self.baseline.edge_mut(&edge);
            record.forbidden = Some(Box::new(prohibition));
            record.pending = None;
        }
        let phase = match guarding {
            Guarding::Proposed => Phase::Proposed,
            Guarding::Guarded => Phase::Guarded,
        };
        // Reviewing a guarded service's file again does not open it to learning.
        let mut stayed = 0;
        for (service, entry) in parsed.services {
            if phase == Phase::Guarded || self.baseline.phase(&service) != Phase::Guarded {
                self.set_phase(now, &service, phase);
            } else {
                stayed += 1;
            }
            let record = self.baseline.service_mut(&service, now.wall);
            record.owner = entry.owner;
            record.about = entry.about;
        }
        let mut what = format!("imported {} as {phase}", names(&services));
        if stayed > 0 {
            let note = format!("{stayed} guarded before, and still");
            what.push_str(&format!("; {note}"));
            reply.notes.push(note);
        }
        let touched = |edge: &Edge| services.iter().any(|service| edge.touches(service));
        self.decided(now, actor, what, touched, effects);
        self.resolve_allowed(now, effects);
        reply.services = services;
        Ok(reply)
    }
}

fn until(now: Now, ttl_s: Option<u64>, grounds: Grounds) -> Grounds {
    let end = |ttl: u64| now.wall.plus_seconds(ttl.try_into().unwrap_or(i64::MAX));
    Grounds { until: ttl_s.map(end).or(grounds.until), ..grounds }
}

fn grounds_text(grounds: &Grounds) -> String {
    let until = grounds.until.map(|it| format!(" until {it}")).unwrap_or_default();
    let by = grounds.approver.as_ref().map(|it| format!(" by {it}")).unwrap_or_default();
    let why = grounds.reason.as_ref().map(|it| format!(": {it}")).unwrap_or_default();
    format!("{until}{by}{why}")
}

fn names(services: &[ServiceName]) -> String {
    services.iter().map(ServiceName::as_str).collect::<Vec<_>>().join(", ")
}
