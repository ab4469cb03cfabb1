//! What services show beyond their budgets: told as one finding a direction, again as its figures double
//! and once it is over; and meanwhile nothing of it is learned. The kernel keeps it from crowding out
//! what others show; here it is kept from crowding out what others were learned by.

use std::collections::BTreeMap;

use crate::attribute::Sighting;
use crate::baseline::Phase;
use crate::detect::{FanOut, Finding, Kind, Severity, fan_out_finding};
use crate::edge::Edge;
use crate::engine::{Effect, Engine};
use crate::flow::{Direction, Ended, Flood, FlowKey, Remote};
use crate::ids::{BootTime, CgroupId, Now, ServiceName, WallTime};
use crate::incident::About;

/// The floods that go on: no more than the kernel follows at once.
#[derive(Debug, Default)]
pub(crate) struct Floods {
    going: BTreeMap<(CgroupId, Direction), Going>,
    /// What the figures of an incident were when it last spoke of them, by its id.
    said: BTreeMap<String, u64>,
}

#[derive(Debug, Clone)]
struct Going {
    service: ServiceName,
    began: BootTime,
    since: WallTime,
    count: u64,
    peers: u64,
}

/// The floods of one service in one direction, together.
#[derive(Debug, Clone, Copy)]
struct Figures {
    since: WallTime,
    count: u64,
    peers: u64,
}

impl Floods {
    /// Takes in how far a flood has come; how much that is more than was known of it: by this agent,
    /// or by one before it, which `counted` so much.
    fn note(&mut self, service: &ServiceName, flood: &Flood, counted: Option<u64>) -> u64 {
        let Flood { began, since, count, peers, .. } = *flood;
        let going = Going { service: service.clone(), began, since, count, peers };
        let before = self.going.insert((flood.cgroup, flood.direction), going);
        let known = before.filter(|it| it.began == began).map(|it| it.count);
        count.saturating_sub(known.or(counted).unwrap_or(0))
    }

    /// Several cgroups may be one service.
    fn figures(&self, service: &ServiceName, direction: Direction) -> Option<Figures> {
        let same = self.going.iter().filter(|((_, it), _)| *it == direction);
        let mine = same.map(|(_, going)| going).filter(|going| going.service == *service);
        mine.map(|it| Figures { since: it.since, count: it.count, peers: it.peers }).reduce(
            |one, other| Figures {
                since: one.since.min(other.since),
                count: one.count + other.count,
                peers: one.peers + other.peers,
            },
        )
    }

    /// Whether an edge may be part of one. Between two services of this machine it is the client's.
    pub(crate) fn may_hold(&self, edge: &Edge) -> bool {
        let outbound = edge.client.service().is_some();
        let belongs = |direction: Direction| outbound == (direction == Direction::Outbound);
        let is_owner = |going: &Going| edge.owner() == Some(&going.service);
        self.going.iter().any(|((_, direction), going)| belongs(*direction) && is_owner(going))
    }
}

impl Engine {
    /// What a flood showed in the time before it was one, seconds: the time in which a whole budget comes
    /// back, and the moment until it is told.
    const BEGINS_S: i64 = 5;

    /// A cgroup shows more that is new than its budget.
    pub(crate) fn flooded(&mut self, now: Now, flood: &Flood, effects: &mut Vec<Effect>) {
        let service = self.attribution.service_of(flood.cgroup);
        if !self.is_ours(&service) {
            return;
        }
        let begins = !self.floods.going.contains_key(&(flood.cgroup, flood.direction));
        let incident = self.incidents.joining(&service, About::Flood, now.wall);
        let counted = incident.and_then(|incident| {
            // Who told it before this agent has said as much.
            let counted = incident.counted_of(flood)?;
            self.floods.said.entry(incident.id.clone()).or_insert(incident.count);
            Some(counted)
        });
        let more = self.floods.note(&service, flood, counted);
        if begins && self.baseline.phase(&service) != Phase::Guarded {
            let since = flood.since.plus_seconds(-Self::BEGINS_S);
            self.baseline.unlearn(&service, since, now.wall);
            effects.push(Effect::Store(self.save()));
        }
        if let Some(figures) = self.floods.figures(&service, flood.direction) {
            let finding = self.flood_finding(&service, flood, figures);
            self.tell_flood(now, &service, flood, more, finding);
        }
        if flood.ended == Ended::Yes {
            self.floods.going.remove(&(flood.cgroup, flood.direction));
            self.floods.said.retain(|id, _| self.incidents.open.contains_key(id));
            self.learns_again(&service, effects);
        }
    }

    /// Counts what is odd about an edge as part of the flood that it may belong to: what the service does
    /// otherwise is not to be lost among a thousand of these. False where there is none, or where it is
    /// odd in a way that no flood explains.
    pub(crate) fn is_of_flood(&mut self, now: Now, kind: Kind, sighting: &Sighting) -> bool {
        let common =
            matches!(kind, Kind::NewPeer | Kind::NewPort | Kind::NewClient | Kind::NewListener);
        let edge = &sighting.edge;
        let Some(service) = edge.owner().filter(|_| common && self.floods.may_hold(edge)) else {
            return false;
        };
        let Some(incident) = self.incidents.joining(service, About::Flood, now.wall) else {
            return false;
        };
        incident.count_more(sighting.at, 1);
        true
    }

    /// What of a service was not learned because it flooded is news again.
    fn learns_again(&self, service: &ServiceName, effects: &mut Vec<Effect>) {
        let goes_on = self.floods.going.values().any(|it| it.service == *service);
        if goes_on || self.baseline.phase(service) == Phase::Guarded {
            return;
        }
        let unknown = |edge: &Edge| {
            let record = self.baseline.edges.get(edge);
            let undecided = |it: &crate::baseline::EdgeRecord| it.is_undecided();
            edge.touches(service) && record.is_none_or(undecided)
        };
        self.rearm(unknown, effects);
    }

    fn flood_finding(&self, service: &ServiceName, flood: &Flood, figures: Figures) -> Finding {
        let guarded = self.baseline.phase(service) == Phase::Guarded;
        let fan_out = FanOut {
            service,
            direction: flood.direction,
            severity: if guarded { Severity::High } else { Severity::Medium },
            since: figures.since,
            at: flood.last_seen,
            count: figures.count,
            peers: figures.peers,
            examples: flood.examples.iter().rev().map(|it| self.far_end(it)).collect(),
            process: flood.process.clone(),
            workload: self.attribution.workload_of(flood.cgroup),
        };
        fan_out_finding(&self.settings.node, fan_out)
    }

    fn far_end(&self, key: &FlowKey) -> String {
        let who = match key.remote {
            Remote::Address(address) => address.to_string(),
            // Seen from the end that was dialled.
            Remote::Cgroup(_) => self.attribution.service_of(key.cgroup).to_string(),
            Remote::World => "world".to_owned(),
            Remote::Socket(socket) => return socket.to_string(),
        };
        format!("{who} {}/{}", key.port, key.protocol)
    }

    /// Puts a flood into its service's incident, which speaks of it when its figures have doubled.
    fn tell_flood(
        &mut self,
        now: Now,
        service: &ServiceName,
        flood: &Flood,
        more: u64,
        finding: Finding,
    ) {
        let known = |it: &crate::incident::Incident| it.findings.len();
        let before = self
            .incidents
            .joining(service, About::Flood, now.wall)
            .map(|it| (it.unspoken, known(it)));
        self.report(now, service, About::Flood, vec![finding]);
        let Some(incident) = self.incidents.joining(service, About::Flood, now.wall) else {
            return;
        };
        incident.count_flood(flood, more);
        let said = self.floods.said.get(&incident.id).copied().unwrap_or(0);
        let doubled = incident.count >= said.saturating_mul(2);
        let last_word = flood.ended == Ended::Yes && incident.count > said;
        let (unspoken, findings) = before.unwrap_or_default();
        if doubled || last_word || known(incident) > findings {
            self.floods.said.insert(incident.id.clone(), incident.count);
        } else {
            incident.unspoken = unspoken;
        }
    }
}
