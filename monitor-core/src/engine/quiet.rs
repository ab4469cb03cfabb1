//! What is said to whom, and what is not: each message goes to the receivers that want it, unless a
//! person muted it or there is no room for it. What is not sent is counted, and told in a digest.

use crate::engine::{Actor, Change, CommandError, Effect, Engine, MuteView, Reply};
use crate::ids::{Now, WallTime};
use crate::incident::Incident;
use crate::mute::{Mute, Mutes, passes};
use crate::pattern::Pattern;

/// What is asked of a mute.
pub(crate) struct Wish {
    pub(crate) services: Pattern,
    pub(crate) for_s: u64,
    pub(crate) approver: Option<String>,
    pub(crate) reason: String,
}

impl Engine {
    /// Puts one message into the queue of every receiver that wants it, or counts it where it is
    /// muted.
    pub(crate) fn send(&mut self, now: Now, incident: &Incident, effects: &mut Vec<Effect>) {
        let mut alert = incident.alert();
        let mut changes = self.save();
        let sinks = &self.settings.sinks;
        let wanting = sinks.iter().filter(|sink| sink.wants(alert.severity, &alert.service));
        let mute = self.mutes.covering(incident, now.wall);
        if let Some(mute) = mute.filter(|mute| !passes(mute, &alert)) {
            alert.muted_until = Some(mute.until);
            mute.hold(now.wall, &alert, wanting);
            changes.push(Change::Mute(mute.pattern.to_string(), Some(Box::new(mute.clone()))));
        } else {
            for sink in wanting {
                let kept = self.queue.push(now, &sink.name, alert.clone());
                changes.extend(kept.into_iter().map(Change::from));
            }
        }
        if !changes.is_empty() {
            effects.push(Effect::Store(changes));
        }
        effects.push(Effect::Alerted(Box::new(alert)));
    }

    pub(crate) fn mute(
        &mut self,
        now: Now,
        actor: &Actor,
        wish: Wish,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, CommandError> {
        let Wish { services: pattern, for_s, approver, reason } = wish;
        if for_s > Mutes::LONGEST_S {
            return Err(CommandError::MuteTooLong);
        }
        if self.mutes.is_full() && self.mutes.get(&pattern).is_none() {
            return Err(CommandError::TooManyMutes);
        }
        let until = now.wall.plus_seconds(for_s.try_into().unwrap_or(i64::MAX));
        let by = approver.as_ref().map(|who| format!(" by {who}")).unwrap_or_default();
        let what = format!("muted {pattern} until {}{by}: {reason}", until.to_second());
        let mute = Mute {
            pattern: pattern.clone(),
            since: now.wall,
            until,
            approver,
            reason,
            messages: 0,
            held: std::collections::BTreeMap::new(),
        };
        let mute = self.mutes.insert(mute).clone();
        self.noted(
            now,
            actor,
            what,
            Change::Mute(pattern.to_string(), Some(Box::new(mute))),
            effects,
        );
        let known = self.baseline.services.keys();
        let mut services: Vec<_> =
            known.filter(|it| pattern.matches(it.as_str())).cloned().collect();
        services.sort_unstable();
        let mut notes = vec![format!(
            "until {}; what is critical is muted too, and everything is listed by `edgewatch alerts`",
            until.to_second()
        )];
        if services.is_empty() {
            notes
                .push("no service matches yet: `edgewatch services` lists who was seen".to_owned());
        }
        Ok(Reply { services, notes, ..Reply::default() })
    }

    pub(crate) fn unmute(
        &mut self,
        now: Now,
        actor: &Actor,
        pattern: &Pattern,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, CommandError> {
        let mute =
            self.mutes.remove(pattern).ok_or_else(|| CommandError::NotMuted(pattern.clone()))?;
        let note = kept_back(&mute);
        self.unmuted(now, actor, mute, effects);
        Ok(Reply { notes: vec![note], ..Reply::default() })
    }

    /// Ends what is over.
    pub(crate) fn end_mutes(&mut self, now: Now, effects: &mut Vec<Effect>) {
        for mute in self.mutes.take_ended(now.wall) {
            self.unmuted(now, &Actor::agent(), mute, effects);
        }
    }

    /// What a mute kept back is left to the digests.
    fn unmuted(&mut self, now: Now, actor: &Actor, mute: Mute, effects: &mut Vec<Effect>) {
        let pattern = mute.pattern.to_string();
        let what = format!("unmuted {pattern}: {}", kept_back(&mute));
        self.noted(now, actor, what, Change::Mute(pattern, None), effects);
        let left = mute.ended(now.wall);
        let kept: Vec<Change> = left
            .map(|(sink, ledger, ended)| self.queue.unmuted(now, &sink, ledger, ended).into())
            .collect();
        if !kept.is_empty() {
            effects.push(Effect::Store(kept));
        }
    }

    /// Writes the digests that are due.
    pub(crate) fn digest(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while let Some(sink) = self.queue.digest_due(now) {
            let id = self.new_id(now.wall);
            let kept = self.queue.digest(now, sink, &self.settings.node, id);
            effects.push(Effect::Store(kept.into_iter().map(Change::from).collect()));
        }
    }

    fn noted(
        &mut self,
        now: Now,
        actor: &Actor,
        what: String,
        change: Change,
        effects: &mut Vec<Effect>,
    ) {
        let audit = self.audit(now.wall, actor, what);
        effects.push(Effect::Store(vec![change, audit]));
    }

    /// Until when the messages of `incident` are kept back.
    pub(crate) fn muted_until(&self, incident: &Incident, wall: WallTime) -> Option<WallTime> {
        let covering = self.mutes.iter().filter(|it| it.until > wall && it.covers(incident));
        covering.map(|it| it.until).max()
    }

    /// The mutes that hold.
    #[must_use]
    pub fn mutes(&self, wall: WallTime) -> Vec<MuteView> {
        let holding = self.mutes.iter().filter(|mute| mute.until > wall);
        let view = |mute: &Mute| MuteView {
            pattern: mute.pattern.clone(),
            since: mute.since,
            until: mute.until,
            approver: mute.approver.clone(),
            reason: mute.reason.clone(),
            incidents: self.incidents.open.values().filter(|it| mute.covers(it)).count(),
            messages: mute.messages,
        };
        holding.map(view).collect()
    }
}

fn kept_back(mute: &Mute) -> String {
    match mute.messages {
        1 => "1 message was not sent".to_owned(),
        messages => format!("{messages} messages were not sent"),
    }
}
