//! From a sighting to what is said about it: learned, pending, told. Grouping and wording are the
//! incident's, the verdict is detection's; here they are put in order.

use crate::attribute::Sighting;
use crate::baseline::{Class, Counted, Phase, Place, Room, Told};
use crate::detect::{Context, Finding, Judgement, Kind, finding, judge};
use crate::engine::{Effect, Engine, Watched};
use crate::flow::Loss;
use crate::graph::Count;
use crate::ids::{Now, ServiceName};
use crate::incident::{About, Incident, State, dedup_key};

impl Engine {
    /// An edge happened.
    pub(crate) fn sighted(&mut self, now: Now, sighting: &Sighting, effects: &mut Vec<Effect>) {
        self.attribution.told(sighting);
        let room = self.baseline.room_for(&sighting.edge);
        match room {
            Room::Some => {}
            Room::NoneOfService => self.losses.add(Loss::ServiceFull, 1),
            Room::None => self.losses.add(Loss::TableFull, 1),
        }
        let (appeared, place) = self.baseline.see(sighting, room);
        if room == Room::Some {
            self.note_asker(&sighting.edge);
        }
        self.keys.stand_for(&sighting.keys, &sighting.edge, place);
        match self.judgement(now, sighting) {
            Judgement::Normal => {}
            // Nobody learns a flood.
            Judgement::Learnable if self.floods.may_hold(&sighting.edge) => {}
            Judgement::Learnable => {
                if place.is_some_and(|place| self.baseline.learn(sighting, place)) {
                    let due = now.boot.plus_millis(Self::LEARNED_MS);
                    self.learned_due.get_or_insert(due);
                }
            }
            Judgement::Odd { kind: Kind::Unbaselined, .. } => self.unbaselined(now, sighting),
            Judgement::Odd { kind, also } => self.odd(now, kind, also, sighting),
        }
        if appeared
            && self.settings.watched == Watched::Yes
            && let Some(view) = self.sighting_view(sighting, now.wall)
        {
            effects.push(Effect::Appeared(Box::new(view)));
        }
    }

    pub(crate) fn judgement(&self, now: Now, sighting: &Sighting) -> Judgement {
        if !sighting.edge.services().any(|it| self.is_ours(it)) {
            return Judgement::Normal;
        }
        judge(&self.baseline, self.settings.mode, sighting, now.wall)
    }

    /// Whether a service is one of those to judge.
    pub(crate) fn is_ours(&self, service: &ServiceName) -> bool {
        let only = &self.settings.only;
        only.is_empty() || only.iter().any(|pattern| pattern.matches(service.as_str()))
    }

    /// An odd edge is pending from now on; it is told if that says something new.
    pub(crate) fn odd(&mut self, now: Now, kind: Kind, also: Option<Kind>, sighting: &Sighting) {
        let executable = sighting.executable().map(str::to_owned);
        let told = Told { class: Class::of(sighting.outcome), executable };
        let is_open = |it: &ServiceName| {
            self.baseline.services.get(it).is_some_and(|it| it.is_open(now.wall))
        };
        let guarded = |it: &&ServiceName| self.baseline.phase(it) == Phase::Guarded;
        // A window at one end does not silence the other, which nobody opened.
        let mut ends = sighting.edge.services().filter(guarded).peekable();
        let open = ends.peek().is_some() && ends.all(is_open);
        if self.baseline.room_for(&sighting.edge) != Room::Some {
            // Told without being remembered as told: the incident's pace bounds the repeats.
            return self.tell(now, kind, also, sighting);
        }
        let pending = self.baseline.edge_mut(&sighting.edge).pending.get_or_insert_default();
        let repeat = kind == Kind::Forbidden
            && now.wall.seconds_apart(pending.last_told) >= Self::FORBIDDEN_REPEAT_S;
        if open && kind != Kind::Forbidden {
            // Listed for review and not alerted, also once the window is closed; what goes further
            // then (another executable, an answer) is.
            if pending.told.is_empty() || pending.unalerted {
                pending.unalerted = true;
                pending.told.insert(told);
            }
            return;
        }
        if pending.covers(&told) && !repeat {
            return;
        }
        pending.told.insert(told);
        pending.last_told = now.wall;
        pending.unalerted = false;
        self.tell(now, kind, also, sighting);
    }

    /// Writes the findings of an odd edge out and reports them.
    fn tell(&mut self, now: Now, kind: Kind, also: Option<Kind>, sighting: &Sighting) {
        let Some(service) = sighting.edge.owner() else {
            return;
        };
        if self.is_of_flood(now, kind, sighting) {
            return;
        }
        let guarded = |it: &ServiceName| self.baseline.phase(it) == Phase::Guarded;
        // What nobody guards is asked about together with the others like it.
        let about = if kind == Kind::Forbidden || sighting.edge.services().any(guarded) {
            About::Service
        } else {
            About::Unguarded(kind)
        };
        // A full incident only counts: nobody would read the words.
        if let Some(incident) = self.incidents.joining(service, about, now.wall)
            && incident.findings.len() >= Incident::FINDINGS
            && !incident.touches(&sighting.edge)
            && kind.severity() <= incident.severity()
        {
            incident.count_more(sighting.at, 1 + u64::from(also.is_some()));
            incident.unspoken = true;
            return;
        }
        let context = self.context(now);
        let findings: Vec<Finding> = std::iter::once(kind)
            .chain(also)
            .map(|kind| finding(&context, kind, sighting))
            .collect();
        self.report(now, service, about, findings);
    }

    /// What is known around a finding that is written now.
    fn context(&self, now: Now) -> Context<'_> {
        let gap = self.gap.filter(|gap| now.boot < gap.matters_until).map(|gap| gap.since);
        Context { baseline: &self.baseline, node: &self.settings.node, wall: now.wall, gap }
    }

    /// Puts findings into their service's incident, a new one if none is fresh.
    pub(crate) fn report(
        &mut self,
        now: Now,
        service: &ServiceName,
        about: About,
        findings: Vec<Finding>,
    ) {
        let Some(first) = findings.first() else {
            return;
        };
        if self.incidents.joining(service, about, now.wall).is_none() {
            let id = self.new_id(now.wall);
            let incident = self.new_incident(now, id, about, service, first);
            self.incidents.open(now, incident);
        }
        let Some(incident) = self.incidents.joining(service, about, now.wall) else {
            return;
        };
        for finding in findings {
            incident.add(finding);
        }
        incident.unspoken = true;
    }

    /// An incident without findings or messages yet; `lead` gives it its cause and its time.
    fn new_incident(
        &self,
        now: Now,
        id: String,
        about: About,
        service: &ServiceName,
        lead: &Finding,
    ) -> Incident {
        Incident {
            about,
            id,
            revision: 0,
            state: State::Firing,
            service: service.clone(),
            owner: self.baseline.owner_of(service),
            node: lead.place.node.clone(),
            dedup_key: dedup_key(service, lead),
            first_seen: lead.at,
            last_seen: lead.at,
            last_finding: now.wall,
            count: 0,
            unspoken: true,
            findings: Vec::new(),
            more: 0,
            floods: Vec::new(),
        }
    }

    /// A service talks that has no baseline while nothing is learned: loud once.
    fn unbaselined(&mut self, now: Now, sighting: &Sighting) {
        let Some(service) = sighting.edge.owner() else {
            return;
        };
        let record = self.baseline.service_mut(service, now.wall);
        if !std::mem::replace(&mut record.unbaselined_told, true) {
            self.tell(now, Kind::Unbaselined, None, sighting);
        }
    }

    /// What keys did while they waited, now that they stand for an edge.
    pub(crate) fn held_counted(&mut self, now: Now, effects: &mut Vec<Effect>) {
        for traffic in self.attribution.take_counted() {
            if let Some(place) = self.keys.place_of(traffic.id, &self.baseline.edges) {
                self.counted(now, place, &Count::from(&traffic), effects);
            }
        }
    }

    /// Known keys went on: evidence, and the hourly repetition of what is forbidden.
    pub(crate) fn counted(
        &mut self,
        now: Now,
        place: Place,
        count: &Count,
        effects: &mut Vec<Effect>,
    ) {
        let Some(Counted { exchanges, last_told }) = self.baseline.count(place, count) else {
            return;
        };
        let Some(last_told) = last_told else { return };
        let Some((edge, _)) = self.baseline.edges.at(place) else { return };
        let edge = edge.clone();
        let forbidden = self.baseline.prohibition(&edge, now.wall).is_some();
        let repeat = forbidden && now.wall.seconds_apart(last_told) >= Self::FORBIDDEN_REPEAT_S;
        let said = self.incidents.update_about(&edge, |incident| {
            if incident.counts(&edge) {
                incident.count += exchanges;
                incident.last_seen = incident.last_seen.max(count.last_seen);
            }
            if repeat {
                incident.state = State::Updated;
                incident.unspoken = true;
            }
        });
        if repeat && said {
            self.baseline.edge_mut(&edge).pending.get_or_insert_default().last_told = now.wall;
        } else if repeat {
            // No open incident holds it (any more): its next connection is to be judged anew.
            self.rearm(|it| *it == edge, effects);
        }
    }
}
