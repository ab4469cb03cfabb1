//! What time and files bring about: what runs out is taken back, what is complete is proposed, what
//! the baseline files say is judged anew.

use std::collections::BTreeSet;

use crate::baseline::{Mode, Phase, Promote, Written};
use crate::detect::Trouble;
use crate::edge::Edge;
use crate::engine::{Actor, Effect, Engine};
use crate::ids::{BootTime, Now, ServiceName, WallTime};
use crate::incident::Incident;

impl Engine {
    /// Takes back what has run out: approvals, prohibitions, windows, incidents nobody saw again.
    pub(crate) fn expire(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let touched = self.expired(now);
        for edge in &touched {
            let holding: Vec<_> = self.baseline.allowances(edge, now.wall).cloned().collect();
            if let Some(record) = self.baseline.known_edge_mut(edge) {
                record.allowed.retain(|it| !it.grounds.expired(now.wall));
                record.forbidden.take_if(|it| it.grounds.expired(now.wall));
                // What was told before is told again after it, and is still not learned.
                let waits = record.pending.take().and_then(|it| it.left_by(&holding)).is_some();
                let undecided = record.evidence.is_some() && (holding.is_empty() || waits);
                record.pending = undecided.then(Box::default);
            }
            let what = format!("expired: {edge}");
            let audit = self.audit(now.wall, &Actor::agent(), what);
            effects.push(Effect::Store(vec![audit]));
        }
        let closed: Vec<ServiceName> = self
            .baseline
            .services
            .iter()
            .filter(|(_, it)| it.open_until.is_some_and(|until| until <= now.wall))
            .map(|(name, _)| name.clone())
            .collect();
        for service in &closed {
            self.baseline.service_mut(service, now.wall).open_until = None;
        }
        if !touched.is_empty() || !closed.is_empty() {
            effects.push(Effect::Store(self.save()));
        }
        let mut touched: BTreeSet<Edge> = touched.into_iter().collect();
        self.forget(now, &mut touched, effects);
        let is_touched = |edge: &Edge| {
            touched.contains(edge) || closed.iter().any(|service| edge.touches(service))
        };
        if !touched.is_empty() || !closed.is_empty() {
            self.rearm(is_touched, effects);
        }
    }

    /// Ends the incidents that nobody saw again; their edges are `touched`.
    fn forget(&mut self, now: Now, touched: &mut BTreeSet<Edge>, effects: &mut Vec<Effect>) {
        let forgotten: Vec<String> = self
            .incidents
            .open
            .values()
            .filter(|it| now.wall.seconds_since(it.last_seen) >= Incident::FORGOTTEN_S)
            .map(|it| it.id.clone())
            .collect();
        for id in forgotten {
            let findings = self.incidents.open.get(&id).map(|it| it.findings.clone());
            // Whoever comes back after that is told again: stored together with its end.
            for edge in findings.into_iter().flatten().filter_map(|finding| finding.edge.clone()) {
                let record = self.baseline.known_edge_mut(&edge);
                if let Some(pending) = record.and_then(|record| record.pending.as_mut()) {
                    pending.told.clear();
                }
                touched.insert(edge);
            }
            self.resolve(now, &id, effects);
        }
    }

    /// The edges of which something ran out. They are walked only when something can have: the next
    /// end is remembered, and any decision makes it unknown again.
    fn expired(&mut self, now: Now) -> Vec<Edge> {
        let mut touched = Vec::new();
        // The clock was set back: what a file lets end holds again, and will end again.
        if let Some(seen) = self.ends_seen.as_mut().filter(|seen| now.wall < **seen) {
            *seen = now.wall;
            self.next_end = None;
        }
        if self.next_end.is_some_and(|end| now.wall < end) {
            return touched;
        }
        let mut next = WallTime(i64::MAX);
        for (edge, record) in self.baseline.edges.iter() {
            let allowed = record.allowed.iter().map(|it| &*it.grounds);
            let forbidden = record.forbidden.iter().map(|it| &it.grounds);
            let ends = allowed.chain(forbidden).filter_map(|it| it.until);
            if let Some(first) = ends.min() {
                if first <= now.wall {
                    touched.push(edge.clone());
                } else {
                    next = next.min(first);
                }
            }
        }
        // The files' own ends: nothing is taken away, only judged anew, once.
        let seen = self.ends_seen.replace(now.wall).or(self.started).unwrap_or(now.wall);
        let written = self.baseline.files.allowed.iter();
        let written = written.flat_map(|(edge, it)| it.iter().map(move |it| (edge, &*it.grounds)));
        let forbidden = self.baseline.files.forbidden.iter().map(|(edge, it)| (edge, &it.grounds));
        for (edge, until) in
            written.chain(forbidden).filter_map(|(edge, it)| Some((edge, it.until?)))
        {
            if until > now.wall {
                next = next.min(until);
            } else if until > seen {
                touched.push(edge.clone());
            }
        }
        touched.sort_unstable();
        // What runs out now is taken away now, and with it nothing that ends later is hidden: the
        // edges that were touched are looked at again.
        self.next_end = touched.is_empty().then_some(next);
        touched
    }

    /// A service whose learning has what it needs is proposed, and guarded where that is automatic.
    pub(crate) fn promote(&mut self, now: Now) {
        if self.settings.mode != Mode::Auto && self.settings.mode != Mode::Learn {
            return;
        }
        let rule = self.settings.learn;
        let promotes = self.settings.mode == Mode::Auto && rule.promote == Promote::Auto;
        let ready: Vec<(ServiceName, Phase)> = self
            .baseline
            .services
            .iter()
            .filter(|(name, record)| !name.is_provisional() && record.is_complete(&rule, now.wall))
            .filter_map(|(name, record)| match record.phase {
                Phase::Learning => Some((name.clone(), Phase::Proposed)),
                Phase::Proposed if promotes => Some((name.clone(), Phase::Guarded)),
                _ => None,
            })
            .collect();
        if !ready.is_empty() {
            // A change of phase is stored with this tick.
            self.next_save = BootTime(0);
        }
        for (service, phase) in ready {
            let record = self.baseline.service_mut(&service, now.wall);
            record.phase = phase;
            record.since = now.wall;
        }
    }

    /// The baseline files changed: what they touch is judged anew.
    pub(crate) fn files(&mut self, now: Now, written: Written, effects: &mut Vec<Effect>) {
        self.mended(now, Trouble::is_about_files, effects);
        // At the start it is not known what they said before: only what they forbid is told anew.
        let first = !std::mem::replace(&mut self.files_known, true);
        if written == self.baseline.files {
            return;
        }
        let before = self.baseline.set_files(written);
        let now_written = &self.baseline.files;
        let names = |names: Vec<&ServiceName>| {
            let names: Vec<&str> = names.into_iter().map(ServiceName::as_str).collect();
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        };
        let what = format!(
            "baseline files: guarded as written: {}; no longer: {}",
            names(now_written.guarded.iter().collect()),
            names(before.guarded.difference(&now_written.guarded).collect())
        );
        // What a file decides otherwise than before is no longer waiting, and told anew if it is odd.
        let decided = |edge: &Edge| {
            (!first && before.allowed.get(edge) != now_written.allowed.get(edge))
                || before.forbidden.get(edge) != now_written.forbidden.get(edge)
        };
        let decided: Vec<Edge> = self
            .baseline
            .edges
            .iter()
            .filter(|(edge, record)| record.pending.is_some() && decided(edge))
            .map(|(edge, _)| edge.clone())
            .collect();
        for edge in &decided {
            let allowed = self.baseline.files.allowed.get(edge).cloned();
            let pending = &mut self.baseline.edge_mut(edge).pending;
            *pending = allowed.and_then(|allowed| pending.take()?.left_by(&allowed));
        }
        self.next_end = None;
        let mut changes = self.save();
        changes.push(self.audit(now.wall, &Actor::agent(), what));
        effects.push(Effect::Store(changes));
        let now_written = &self.baseline.files;
        let touched = |edge: &Edge| {
            edge.services()
                .any(|it| before.guarded.contains(it) || now_written.guarded.contains(it))
        };
        self.rearm(touched, effects);
        self.resolve_allowed(now, effects);
    }

    /// Ends an incident, with a last message where there was a first.
    pub(crate) fn resolve(&mut self, now: Now, id: &str, effects: &mut Vec<Effect>) {
        let told = self.incidents.open.get(id).is_some_and(|it| it.revision > 0);
        match self.incidents.resolve(id) {
            Some(incident) if told => self.send(now, &incident, effects),
            Some(_) => effects.push(Effect::Store(self.save())),
            None => {}
        }
    }
}
