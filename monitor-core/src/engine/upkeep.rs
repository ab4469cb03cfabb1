//! What time and files bring about: what runs out is taken back, what is complete is proposed, what
//! the baseline files say is judged anew.

use crate::baseline::{Mode, Phase, Promote, Written};
use crate::edge::Edge;
use crate::engine::{Actor, Effect, Engine};
use crate::ids::{Now, ServiceName, WallTime};
use crate::incident::Incident;

impl Engine {
    /// Takes back what has run out: approvals, prohibitions, windows, incidents nobody saw again.
    pub(crate) fn expire(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let touched = self.expired(now);
        for edge in &touched {
            let record = self.baseline.edge_mut(edge);
            record.allowed.retain(|it| !it.grounds.expired(now.wall));
            record.forbidden.take_if(|it| it.grounds.expired(now.wall));
            // What was told before the approval is told again after it.
            record.pending = None;
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
            let keys = self.attribution.keys_of(|edge| {
                touched.contains(edge) || closed.iter().any(|service| edge.touches(service))
            });
            effects.push(Effect::Store(self.save()));
            effects.push(Effect::Rearm(keys));
        }
        let forgotten: Vec<String> = self
            .incidents
            .open
            .values()
            .filter(|it| now.wall.seconds_since(it.last_seen) >= Incident::FORGOTTEN_S)
            .map(|it| it.id.clone())
            .collect();
        for id in forgotten {
            self.resolve(&id, effects);
        }
    }

    /// The edges of which something ran out. They are walked only when something can have: the next
    /// end is remembered, and any decision makes it unknown again.
    fn expired(&mut self, now: Now) -> Vec<Edge> {
        let mut touched = Vec::new();
        if self.next_end.is_some_and(|end| now.wall < end) {
            return touched;
        }
        let mut next = WallTime(i64::MAX);
        for (edge, record) in &self.baseline.edges {
            let allowed = record.allowed.iter().map(|it| &it.grounds);
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
        for (service, phase) in ready {
            let record = self.baseline.service_mut(&service, now.wall);
            record.phase = phase;
            record.since = now.wall;
        }
    }

    /// The baseline files changed: what they touch is judged anew.
    pub(crate) fn files(&mut self, now: Now, written: Written, effects: &mut Vec<Effect>) {
        if written == self.baseline.files {
            return;
        }
        let before = std::mem::replace(&mut self.baseline.files, written);
        let now_written = &self.baseline.files;
        let touched = |edge: &Edge| {
            edge.services()
                .any(|it| before.guarded.contains(it) || now_written.guarded.contains(it))
        };
        let keys = self.attribution.keys_of(touched);
        let names = |names: Vec<&ServiceName>| {
            let names: Vec<&str> = names.into_iter().map(ServiceName::as_str).collect();
            if names.is_empty() { "none".to_owned() } else { names.join(", ") }
        };
        let what = format!(
            "baseline files: guarded as written: {}; no longer: {}",
            names(now_written.guarded.iter().collect()),
            names(before.guarded.difference(&now_written.guarded).collect())
        );
        let audit = self.audit(now.wall, &Actor::agent(), what);
        effects.push(Effect::Store(vec![audit]));
        effects.push(Effect::Rearm(keys));
    }

    /// Ends an incident with a last message.
    pub(crate) fn resolve(&mut self, id: &str, effects: &mut Vec<Effect>) {
        if let Some(incident) = self.incidents.resolve(id) {
            self.send(&incident, effects);
        }
    }
}
