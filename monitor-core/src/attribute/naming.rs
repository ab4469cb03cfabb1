//! What the ends of an edge are called that no cgroup of this machine is: by the directory, by the
//! names of networks, and where nobody can tell (yet) by the address. What may still be told better is
//! held for a moment, bounded in time and number, each owner by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::attribute::workloads::Renamed;
use crate::attribute::{Attribution, Heard, Sighting};
use crate::directory::{Fact, Key, Source, Subject};
use crate::edge::{Peer, Port};
use crate::flow::{KeyId, Protocol};
use crate::ids::{BootTime, Now, ServiceName, WallTime};
use crate::network::{Named, Network, is_metadata};

/// What the configuration says of addresses.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// Networks that are not the Internet.
    pub internal: Vec<Network>,
    pub named: Named,
}

impl Places {
    fn is_internal(&self, address: IpAddr) -> bool {
        self.internal.iter().any(|network| network.contains(address))
    }
}

/// What followed from a [`Fact`] for edges.
#[derive(Debug, Default)]
pub struct Learned {
    /// Those of which edges may be known under the name that they had.
    pub renamed: Vec<Renamed>,
    /// Held sightings whose ends have their names now.
    pub ready: Vec<Sighting>,
    /// Addresses that mean somebody else from now on, and since when they may: what the kernel knows of them
    /// is old.
    pub addresses: BTreeMap<IpAddr, Option<WallTime>>,
    pub stored: Vec<(Key, Option<Subject>)>,
}

/// Sightings that wait for a name.
#[derive(Debug, Default)]
pub(crate) struct Holding {
    /// By when they are due, and in the order in which they came.
    held: BTreeMap<(BootTime, u64), Sighting>,
    came: u64,
    /// How many each owner has here.
    by_owner: BTreeMap<ServiceName, usize>,
    /// That stand for one of them.
    keys: BTreeSet<KeyId>,
    /// Whose names are waited for; some are not any more.
    addresses: BTreeSet<IpAddr>,
}

impl Holding {
    const BOUND: usize = 8_192;
    /// Of one owner; a further one is told as it stands, so that others keep their time.
    const OF_ONE: usize = Self::BOUND / 4;

    /// Gives a sighting back that finds no room, or the one that it takes the place of.
    fn push(&mut self, until: BootTime, sighting: Sighting) -> Option<Sighting> {
        let owner = sighting.edge.owner();
        let count = owner.and_then(|it| self.by_owner.get(it)).copied().unwrap_or(0);
        if count >= Self::OF_ONE {
            return Some(sighting);
        }
        let oldest = (self.held.len() >= Self::BOUND).then(|| self.held.pop_first()).flatten();
        let oldest = oldest.map(|(_, oldest)| oldest);
        if let Some(oldest) = &oldest {
            self.count_off(oldest);
        }
        if let Some(owner) = owner {
            *self.by_owner.entry(owner.clone()).or_default() += 1;
        }
        self.keys.extend(&sighting.keys);
        self.addresses.extend(addresses(&sighting));
        self.came += 1;
        self.held.insert((until, self.came), sighting);
        oldest
    }

    fn count_off(&mut self, sighting: &Sighting) {
        for key in &sighting.keys {
            self.keys.remove(key);
        }
        let Some(owner) = sighting.edge.owner() else { return };
        if let Some(count) = self.by_owner.get_mut(owner) {
            *count -= 1;
            if *count == 0 {
                self.by_owner.remove(owner);
            }
        }
    }

    /// Takes out those that are due.
    fn due(&mut self, boot: BootTime) -> Vec<Sighting> {
        let mut due = Vec::new();
        while self.next_due().is_some_and(|until| until <= boot)
            && let Some((_, sighting)) = self.held.pop_first()
        {
            self.count_off(&sighting);
            due.push(sighting);
        }
        if self.held.is_empty() {
            self.addresses.clear();
        }
        due
    }

    fn take_all(&mut self) -> BTreeMap<(BootTime, u64), Sighting> {
        self.by_owner.clear();
        self.keys.clear();
        self.addresses.clear();
        std::mem::take(&mut self.held)
    }

    fn next_due(&self) -> Option<BootTime> {
        self.held.first_key_value().map(|((until, _), _)| *until)
    }

    pub(crate) fn forgotten(&mut self, key: KeyId) {
        if !self.keys.remove(&key) {
            return;
        }
        for sighting in self.held.values_mut() {
            sighting.keys.retain(|it| *it != key);
        }
    }
}

impl Attribution {
    /// How long an edge waits for the names of its ends, milliseconds.
    pub const NAMELESS_MS: u64 = 10_000;
    /// How long it waits where only a runtime may tell whose an address is: that of a container which is
    /// dialled before its start was told.
    pub const STARTING_MS: u64 = 3_000;

    /// Takes in what a source says.
    pub fn learn(&mut self, now: Now, fact: Fact) -> Learned {
        let changed = self.directory.take(now.wall, fact);
        let renamed = self.workloads.learn(&changed.workloads, &self.directory);
        for Renamed { from, to, .. } in &renamed {
            self.history.rename(from, to);
        }
        let is_awaited = |it: &IpAddr| self.holding.addresses.contains(it);
        let news = !renamed.is_empty() || changed.addresses.iter().any(is_awaited);
        let ready = if news { self.name_held(&renamed) } else { Vec::new() };
        let since = |address| (address, self.directory.held_since(address));
        let addresses = changed.addresses.into_iter().map(since).collect();
        Learned { renamed, ready, addresses, stored: changed.stored }
    }

    /// The sightings whose ends have their names; the others are held until they do.
    pub(crate) fn named(&mut self, now: Now, sightings: Vec<Sighting>) -> Vec<Sighting> {
        let mut ready = Vec::with_capacity(sightings.len());
        for mut sighting in sightings {
            let patience_ms = match self.name_ends(&mut sighting, Patience::Left) {
                Certainty::Final => {
                    ready.push(sighting);
                    continue;
                }
                Certainty::Soon => Self::STARTING_MS,
                Certainty::Unsure => Self::NAMELESS_MS,
            };
            ready.extend(self.holding.push(now.boot.plus_millis(patience_ms), sighting));
        }
        ready
    }

    /// Those that have waited long enough, by what is known now.
    pub(crate) fn nameless(&mut self, boot: BootTime) -> Vec<Sighting> {
        let mut due = self.holding.due(boot);
        for sighting in &mut due {
            self.name_ends(sighting, Patience::Over);
            self.name_left(sighting);
        }
        due
    }

    /// What was dialled in vain where somebody just was is meant for them: clients hear late that a
    /// service has moved.
    fn name_left(&self, sighting: &mut Sighting) {
        let Peer::Address(address) = sighting.edge.server else { return };
        let port = sighting.edge.port;
        let in_vain = port.protocol == Protocol::Tcp && !sighting.outcome.reached();
        if let Some(left) = self.directory.left_by(address, sighting.at).filter(|_| in_vain) {
            sighting.dialled.get_or_insert(SocketAddr::new(address, port.number));
            sighting.edge.server = Peer::Service(left);
        }
    }

    pub(crate) fn next_nameless(&self) -> Option<BootTime> {
        self.holding.next_due()
    }

    /// Names those that are held anew; tells which have their names now.
    fn name_held(&mut self, renamed: &[Renamed]) -> Vec<Sighting> {
        let mut ready = Vec::new();
        for ((until, _), mut sighting) in self.holding.take_all() {
            for Renamed { cgroup, from, to } in renamed {
                rename(&mut sighting, from, to);
                if let Some(own) = sighting.workload.as_mut().filter(|it| it.service == *from)
                    && let Some(named) = self.workloads.get(*cgroup)
                {
                    own.clone_from(named);
                }
            }
            match self.name_ends(&mut sighting, Patience::Left) {
                Certainty::Final => ready.push(sighting),
                Certainty::Soon | Certainty::Unsure => {
                    ready.extend(self.holding.push(until, sighting));
                }
            }
        }
        ready
    }

    fn name_ends(&self, sighting: &mut Sighting, patience: Patience) -> Certainty {
        let (port, at) = (sighting.edge.port, sighting.at);
        let mut certainty = Certainty::Final;
        // Whoever takes an address is told after who left it: until then it is called by nobody's name.
        let open = |address| {
            let may_be = patience == Patience::Left && self.directory.may_be_another_s(address, at);
            self.awaited().filter(|_| may_be)
        };
        if let Peer::Address(address) = sighting.edge.client {
            if let Some(open) = open(address) {
                certainty = open;
            } else {
                let holder = self.directory.client(address, at);
                certainty = self.certainty(holder.as_ref(), address);
                sighting.edge.client = holder.map_or_else(|| self.outside(address), Peer::Service);
            }
        }
        // What is called by a name or a network's may turn out to be somebody's.
        let outside = match &sighting.edge.server {
            Peer::Address(address) => Some(*address),
            Peer::Name(_) | Peer::Network(_) => sighting.dialled.map(|it| it.ip()),
            Peer::Service(_) | Peer::World | Peer::Socket(_) | Peer::Nobody => None,
        };
        if let Some(open) = outside.and_then(open) {
            certainty = certainty.max(open);
        } else if let Some(address) = outside.filter(|it| !is_metadata(*it)) {
            let (mut named, served) = self.server_at(address, port, at);
            let is_held = named.service().is_some();
            certainty = certainty.max(self.certainty(named.service(), address));
            sighting.edge.port = served;
            sighting.heard = Heard::Itself;
            let asker = sighting.asker.zip(sighting.edge.client.service());
            if let Some(asker) = asker.filter(|_| !is_held && has_names(address))
                && let Some((name, heard)) = self.names.of(asker, address, sighting.at)
            {
                (named, sighting.heard) = (Peer::Name(Arc::clone(name.text())), heard);
            }
            if !matches!(named, Peer::Address(_)) {
                sighting.dialled.get_or_insert(SocketAddr::new(address, port.number));
            }
            sighting.edge.server = named;
        } else if let Some(dialled) = sighting.dialled
            && let Some(service) =
                self.directory.shared(dialled.ip(), Port { number: dialled.port(), ..port })
        {
            // Whoever of them answered here, another does elsewhere.
            sighting.edge.server = Peer::Service(service);
            sighting.edge.port.number = dialled.port();
        }
        let may_be_named = |it: &ServiceName| it.is_provisional() && self.directory.may_name(it);
        if sighting.edge.services().any(may_be_named) {
            certainty = Certainty::Unsure;
        }
        certainty
    }

    /// Who is dialled at an address by what is known of addresses alone, and the port that is meant.
    pub(crate) fn server_at(&self, address: IpAddr, port: Port, at: WallTime) -> (Peer, Port) {
        match self.directory.server(address, port, at) {
            Some(holder) => (Peer::Service(holder.service), holder.port),
            None => (self.outside(address), port),
        }
    }

    /// Whether an address may still be told better than by this `holder`.
    fn certainty(&self, holder: Option<&ServiceName>, address: IpAddr) -> Certainty {
        let may_be = holder.is_none()
            && self.places.is_internal(address)
            && !address.is_loopback()
            && !address.is_multicast();
        self.awaited().filter(|_| may_be).unwrap_or(Certainty::Final)
    }

    /// How long to wait for whose an address is, where somebody may tell.
    fn awaited(&self) -> Option<Certainty> {
        Some(match self.directory.telling_addresses()? {
            Source::Kubernetes => Certainty::Unsure,
            Source::Cri | Source::Docker | Source::Podman => Certainty::Soon,
        })
    }

    /// What is called by no service's name: the network's, else the address, one for all that mean the
    /// same.
    fn outside(&self, address: IpAddr) -> Peer {
        if let Some(name) = self.places.named.of(address) {
            return Peer::Network(Arc::clone(name));
        }
        if address.is_multicast() {
            return Peer::Network(Arc::from("multicast"));
        }
        if address == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return Peer::Network(Arc::from("broadcast"));
        }
        if address.is_loopback() {
            return Peer::Address(IpAddr::V4(Ipv4Addr::LOCALHOST));
        }
        Peer::Address(address)
    }
}

/// Whose holders are waited for.
fn addresses(sighting: &Sighting) -> impl Iterator<Item = IpAddr> {
    let edge = &sighting.edge;
    let ends = [&edge.client, &edge.server].into_iter().filter_map(|peer| match peer {
        Peer::Address(address) => Some(*address),
        _ => None,
    });
    ends.chain(sighting.dialled.map(|it| it.ip()))
}

/// Whether it is somebody's place rather than this machine, everybody, or who hands out its keys.
fn has_names(address: IpAddr) -> bool {
    !is_metadata(address)
        && !address.is_loopback()
        && !address.is_multicast()
        && !address.is_unspecified()
        && address != IpAddr::V4(Ipv4Addr::BROADCAST)
}

/// Whether the names of a sighting may still become better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Certainty {
    Final,
    /// As soon as a runtime tells of a container that it starts.
    Soon,
    Unsure,
}

/// Whether a sighting may wait for its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    Left,
    Over,
}

/// Calls a service by its new name.
pub(crate) fn rename(sighting: &mut Sighting, from: &ServiceName, to: &ServiceName) {
    sighting.edge.rename(from, to);
    if let Some(handover) = &mut sighting.opened_by {
        for end in [&mut handover.opener, &mut handover.user] {
            if end == from {
                *end = to.clone();
            }
        }
    }
}
