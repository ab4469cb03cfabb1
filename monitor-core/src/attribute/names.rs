//! What the names of addresses outside are, by the answers that each cgroup was given to what it asked.
//! Believes no answer that nobody asked for, and none of a resolver that may be the asker itself; what
//! other cgroups were told is a weaker hint. Bounded, each cgroup by itself: what is forgotten costs a
//! name and never invents one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::attribute::shares::Shares;
use crate::attribute::{Attribution, Heard, Sighting};
use crate::dns::{Lookup, Name, Near, Question, Said};
use crate::edge::{Edge, Peer};
use crate::flow::{Begun, Direction, Flow, FlowKey, Outcome, Protocol, Remote};
use crate::ids::{CgroupId, NetnsCookie, ServiceName, WallTime};

/// A question that awaits its answer.
#[derive(Debug)]
struct Asked {
    at: WallTime,
    id: u16,
    question: Question,
    client: SocketAddr,
    resolver: SocketAddr,
}

/// A name that an answer gave an address.
#[derive(Debug, Clone)]
struct Given {
    name: Name,
    asked: WallTime,
    until: WallTime,
}

/// Why an answer gives no names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disbelief {
    /// It answers no question that this cgroup asked of this resolver of late.
    Unasked,
    /// The resolver may be the asker itself, or is none that it may ask.
    Untrusted,
}

/// What a cgroup asked.
#[derive(Debug, Default)]
struct Asker {
    /// What awaits its answer, the oldest first.
    asked: VecDeque<Asked>,
    /// Until then no more of its addresses change their names.
    rests_until: WallTime,
}

#[derive(Debug, Default)]
pub(crate) struct Names {
    askers: BTreeMap<CgroupId, Asker>,
    own: Shares<CgroupId, (CgroupId, IpAddr), Given>,
    /// What any cgroup was told, by whoever was told last.
    shared: Shares<CgroupId, IpAddr, Given>,
    /// What services called addresses before this agent started.
    before: Shares<ServiceName, (ServiceName, IpAddr), Name>,
    /// Under which name an address was dialled, if any: what the kernel knows by now.
    dialled: Shares<CgroupId, (CgroupId, IpAddr), Option<Arc<str>>>,
    /// From which namespace a resolver is asked, and how: by UDP where that was ever tried.
    resolvers: Shares<CgroupId, (CgroupId, SocketAddr), (NetnsCookie, Protocol)>,
}

impl Names {
    /// Questions of one cgroup that may await their answers.
    const OUTSTANDING: usize = 64;
    /// For so long, seconds.
    const PATIENCE_S: u64 = 10;
    /// Cgroups that asked and are remembered to have.
    const ASKERS: usize = 8_192;
    /// One cgroup's addresses change their names this often at most, microseconds: the kernel's keys are gone
    /// through for it.
    const REST_US: i64 = 100_000;
    /// No answer holds longer, seconds.
    const LONGEST_S: u32 = 86_400;

    /// Remembers from where a resolver is asked.
    pub(crate) fn dials(&mut self, flow: &Flow) {
        if let Some(to) = flow.key.dialled().filter(|to| to.port() == 53) {
            let (cgroup, protocol) = (flow.key.cgroup, flow.key.protocol);
            let before = self.resolvers.get(&(cgroup, to)).map(|(_, protocol)| *protocol);
            let protocol = before.filter(|it| *it == Protocol::Udp).unwrap_or(protocol);
            self.resolvers.insert(cgroup, (cgroup, to), (flow.netns, protocol));
        }
    }

    /// Remembers under which name an address outside was dialled.
    pub(crate) fn seen(&mut self, sighting: &Sighting) {
        let named = match &sighting.edge.server {
            Peer::Address(address) => Some((*address, None)),
            Peer::Name(name) => {
                sighting.dialled.map(|dialled| (dialled.ip(), Some(Arc::clone(name))))
            }
            Peer::Network(_) => sighting.dialled.map(|dialled| (dialled.ip(), None)),
            Peer::Service(_) | Peer::World | Peer::Socket(_) | Peer::Nobody => None,
        };
        if let (Some(asker), Some((address, name))) = (sighting.asker, named) {
            self.dialled.insert(asker, (asker, address), name);
        }
    }

    /// Puts back how a service called an address.
    pub(crate) fn recall(&mut self, edge: &Edge, dialled: SocketAddr) {
        if let (Peer::Service(client), Peer::Name(name)) = (&edge.client, &edge.server)
            && let Some(name) = Name::read(name)
        {
            self.before.insert(client.clone(), (client.clone(), dialled.ip()), name);
        }
    }

    /// The cgroup is gone; what it was told stays for the flows that are still on their way.
    pub(crate) fn vanished(&mut self, cgroup: CgroupId) {
        self.askers.remove(&cgroup);
        self.resolvers.forget(&cgroup);
        self.dialled.forget(&cgroup);
    }

    /// Nothing is known of it: its id may have been another's.
    pub(crate) fn forget(&mut self, cgroup: CgroupId) {
        self.vanished(cgroup);
        self.own.forget(&cgroup);
    }

    fn asks(&mut self, lookup: &Lookup) {
        if self.askers.len() >= Self::ASKERS && !self.askers.contains_key(&lookup.cgroup) {
            self.askers.pop_first();
        }
        let asked = &mut self.askers.entry(lookup.cgroup).or_default().asked;
        if asked.len() >= Self::OUTSTANDING {
            asked.pop_front();
        }
        asked.push_back(Asked {
            at: lookup.at,
            id: lookup.message.id,
            question: lookup.message.question.clone(),
            client: lookup.client,
            resolver: lookup.resolver,
        });
    }

    /// Takes out the question that this answers, and when it was asked.
    fn take_asked(&mut self, answer: &Lookup) -> Option<WallTime> {
        let asked = &mut self.askers.get_mut(&answer.cgroup)?.asked;
        asked.retain(|it| answer.at.seconds_apart(it.at) <= Self::PATIENCE_S);
        let index = asked.iter().position(|it| {
            it.id == answer.message.id
                && it.question == answer.message.question
                && (it.client, it.resolver) == (answer.client, answer.resolver)
        })?;
        asked.remove(index).map(|it| it.at)
    }

    /// Gives addresses their names; tells which of them were dialled under another.
    fn give(&mut self, asked: WallTime, answer: &Lookup) -> BTreeSet<IpAddr> {
        let mut renamed = BTreeSet::new();
        for (address, ttl_s) in answer.message.addresses() {
            let given = Given {
                name: answer.message.question.name.clone(),
                asked,
                until: answer.at.plus_seconds(ttl_s.min(Self::LONGEST_S).into()),
            };
            // Of several names the one asked for last, in whatever order the answers come.
            let is_last = |before: Option<&Given>| before.is_none_or(|it| it.asked <= asked);
            let cgroup = answer.cgroup;
            if is_last(self.own.get(&(cgroup, address))) {
                let dialled = self.dialled.get(&(cgroup, address));
                if dialled.is_some_and(|it| it.as_ref() != Some(given.name.text())) {
                    renamed.insert(address);
                }
                self.own.insert(cgroup, (cgroup, address), given.clone());
            }
            if is_last(self.shared.get(&address)) {
                self.shared.insert(cgroup, address, given);
            }
        }
        if renamed.is_empty() || !self.may_rename(answer) {
            return BTreeSet::new();
        }
        for address in &renamed {
            self.dialled.insert(answer.cgroup, (answer.cgroup, *address), None);
        }
        renamed
    }

    fn may_rename(&mut self, answer: &Lookup) -> bool {
        let Some(asker) = self.askers.get_mut(&answer.cgroup) else {
            return false;
        };
        let may = asker.rests_until <= answer.at;
        if may {
            asker.rests_until = WallTime(answer.at.0.saturating_add(Self::REST_US));
        }
        may
    }

    /// The name by which `asker` means this address at `moment`. One whose own answers are seen is told no
    /// other's: else whoever asks for a name could give it to whom another dials.
    pub(crate) fn of(
        &self,
        (asker, service): (CgroupId, &ServiceName),
        address: IpAddr,
        moment: WallTime,
    ) -> Option<(&Name, Heard)> {
        if let Some(own) = self.own.get(&(asker, address)) {
            let is_stale = moment.seconds_since(own.until) > 0;
            return Some((&own.name, if is_stale { Heard::Stale } else { Heard::Itself }));
        }
        if let Some(name) = self.before.get(&(service.clone(), address)) {
            return Some((name, Heard::Stale));
        }
        let shared = self.shared.get(&address).filter(|_| !self.askers.contains_key(&asker));
        shared.map(|it| (&it.name, Heard::Shared))
    }
}

impl Attribution {
    /// Docker's resolver within a container's namespace. Nobody there can take its place: what is sent
    /// there is turned to Docker.
    const DOCKER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));

    /// Takes in what a cgroup asked or was answered; `may_ask` says whether it may talk to its resolver.
    /// Tells of which addresses that it dialled the name is another now.
    ///
    /// # Errors
    /// The answer is not believed.
    pub fn looked_up(
        &mut self,
        lookup: &Lookup,
        may_ask: impl Fn(&Edge) -> bool,
    ) -> Result<BTreeSet<IpAddr>, Disbelief> {
        match lookup.message.said {
            Said::Asked => {
                self.names.asks(lookup);
                Ok(BTreeSet::new())
            }
            Said::Answered(_) => {
                let asked = self.names.take_asked(lookup).ok_or(Disbelief::Unasked)?;
                let resolver = self.resolver_edge(lookup).ok_or(Disbelief::Untrusted)?;
                if !may_ask(&resolver) {
                    return Err(Disbelief::Untrusted);
                }
                Ok(self.names.give(asked, lookup))
            }
        }
    }

    /// The edge from the asker to its resolver; None where that may be the asker itself.
    fn resolver_edge(&self, lookup: &Lookup) -> Option<Edge> {
        let (cgroup, resolver) = (lookup.cgroup, lookup.resolver);
        let (netns, protocol) = match self.names.resolvers.get(&(cgroup, resolver)) {
            Some((netns, protocol)) => (*netns, *protocol),
            None => (NetnsCookie(0), Protocol::Udp),
        };
        let flow = Flow {
            key: FlowKey {
                cgroup,
                direction: Direction::Outbound,
                protocol,
                remote: Remote::Address(resolver.ip()),
                local: None,
                port: resolver.port(),
                outcome: Outcome::Sent,
                executable_id: 0,
            },
            id: None,
            at: lookup.at,
            netns,
            client: Some(lookup.client),
            process: None,
            begun: Begun::Seen,
            opener: None,
        };
        let (mut edge, _) = self.dialled_edge(&flow, resolver.ip());
        if let Peer::Address(address) = edge.server {
            (edge.server, edge.port) = self.server_at(address, edge.port, lookup.at);
        }
        let is_known = edge.server.service().is_some();
        let is_near =
            lookup.near == Near::SameAddress || self.namespaces.is_own(flow.netns, resolver.ip());
        let is_itself = edge.server == edge.client;
        let may_be_itself = !is_known && is_near && resolver.ip() != Self::DOCKER;
        (!is_itself && !may_be_itself).then_some(edge)
    }
}
