//! Names that become known: what was seen under a provisional one goes on under the lasting one, with
//! its evidence, and is judged there as if it had had that name from the beginning.

use crate::attribute::{Disbelief, Renamed};
use crate::baseline::{Moved, Phase};
use crate::directory::Fact;
use crate::dns::Lookup;
use crate::edge::Edge;
use crate::engine::{Change, Effect, Engine};
use crate::flow::Loss;
use crate::ids::{CgroupId, Now, WallTime};

impl Engine {
    /// The kernel says of what it knows when it was seen last by its tick, which is this long at most,
    /// microseconds.
    const TICK_US: i64 = 10_000;

    /// Takes in what a source says of who is who.
    pub(crate) fn fact(&mut self, now: Now, fact: Fact, effects: &mut Vec<Effect>) {
        let came = match &fact {
            Fact::Present(source) => Some(*source),
            _ => None,
        };
        let refused = self.attribution.directory().refused();
        let learned = self.attribution.learn(now, fact);
        let refused = self.attribution.directory().refused() - refused;
        if refused > 0 {
            self.losses.add(Loss::Untaken, refused);
        }
        if let Some(source) = came {
            self.source_came(now, source, effects);
        }
        for renamed in &learned.renamed {
            self.renamed(now, renamed, effects);
        }
        for sighting in learned.ready {
            self.sighted(now, &sighting, effects);
        }
        if !learned.addresses.is_empty() {
            effects.push(Effect::Unknow(learned.addresses));
        }
        if !learned.stored.is_empty() {
            let known = learned.stored.into_iter();
            let known = known.map(|(key, it)| Change::Known(key, it.map(Box::new)));
            effects.push(Effect::Store(known.collect()));
        }
    }

    /// Takes in what a cgroup asked or was answered. Whom a guarded service may not ask tells it no names.
    pub(crate) fn looked_up(&mut self, now: Now, lookup: &Lookup, effects: &mut Vec<Effect>) {
        let baseline = &self.baseline;
        let may_ask = |edge: &Edge| {
            let guarded =
                edge.client.service().map(|it| baseline.phase(it)) == Some(Phase::Guarded);
            let is_allowed = || baseline.allowances(edge, now.wall).next().is_some();
            baseline.prohibition(edge, now.wall).is_none() && (!guarded || is_allowed())
        };
        match self.attribution.looked_up(lookup, may_ask) {
            // What the kernel knows of them was dialled under another name.
            Ok(renamed) if !renamed.is_empty() => {
                let since = Some(WallTime(lookup.at.0.saturating_sub(Self::TICK_US)));
                effects.push(Effect::Unknow(renamed.into_iter().map(|it| (it, since)).collect()))
            }
            Ok(_none) => {}
            Err(Disbelief::Unasked | Disbelief::Untrusted) => self.losses.add(Loss::Unasked, 1),
        }
    }

    /// Has what a cgroup is answered heard where its service is known to ask.
    pub(crate) fn hear(&self, cgroup: CgroupId, effects: &mut Vec<Effect>) {
        let workload = self.attribution.workload_of(cgroup);
        if let Some(workload) = workload.filter(|it| self.askers.contains(&it.service)) {
            effects.push(Effect::Hear(cgroup, workload.cgroup.clone()));
        }
    }

    /// Remembers who asks for names.
    pub(crate) fn note_asker(&mut self, edge: &Edge) {
        if edge.asks_for_names()
            && let Some(service) = edge.client.service()
            && !self.askers.contains(service)
        {
            self.askers.insert(service.clone());
        }
    }

    /// Only what was provisional was ever another name of the same: a service that is called otherwise
    /// from now on is another.
    fn renamed(&mut self, now: Now, renamed: &Renamed, effects: &mut Vec<Effect>) {
        let Renamed { from, to, cgroup } = renamed;
        if from.is_provisional() && self.askers.remove(from) {
            self.askers.insert(to.clone());
        }
        self.hear(*cgroup, effects);
        if !from.is_provisional() {
            effects.push(Effect::Leave(*cgroup));
            return;
        }
        let moved = self.baseline.rename(from, to, now.wall);
        for Moved { from, to, .. } in &moved {
            self.keys.moved(*from, *to);
        }
        effects.push(Effect::Store(self.save()));
        let workload = self.attribution.workload_of(*cgroup).cloned();
        for mut sighting in moved.into_iter().flat_map(|it| it.sightings) {
            sighting.workload.clone_from(&workload);
            self.sighted(now, &sighting, effects);
        }
    }
}
