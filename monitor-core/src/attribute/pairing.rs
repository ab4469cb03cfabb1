//! Which two sightings are the two ends of one exchange on this machine, where the kernel could not
//! say so itself: by connections paired before, and for datagrams by who listens in the namespace
//! that owns the dialled address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::flow::{Flow, FlowKey, Protocol, Remote};
use crate::ids::{CgroupId, NetnsCookie};

use crate::attribute::client_address;
use crate::attribute::shares::Shares;

/// A server as a dial found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listening {
    pub(crate) cgroup: CgroupId,
    /// Its own port, which need not be the dialled one where a port is published.
    pub(crate) port: u16,
}

impl Listening {
    pub(crate) const fn of(accepted: &Flow) -> Self {
        Self { cgroup: accepted.key.cgroup, port: accepted.key.port }
    }
}

/// Whom a cgroup dialled: what a paired connection says of the next one like it.
type Dial = (CgroupId, Protocol, IpAddr, u16);

/// A datagram service as its own side saw it: the namespace, its port, and the client's address.
type Served = (NetnsCookie, Protocol, u16, IpAddr);

/// A datagram dial: the client's namespace, the dialled address and port.
type Dialled = (NetnsCookie, Protocol, IpAddr, u16);

/// A service on a loopback address of its own: where a namespace leads another port to it, as Docker
/// does with 53 to its resolver of names, the address is what the two ends have in common.
type Answering = (NetnsCookie, Protocol, IpAddr, CgroupId);

/// What is known of addresses on this machine. In each table every cgroup has its share; what is
/// forgotten costs a pairing and never invents one.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    addresses: BTreeMap<NetnsCookie, BTreeSet<IpAddr>>,
    /// The same the other way round.
    owners: BTreeMap<IpAddr, BTreeSet<NetnsCookie>>,
    pairs: Shares<CgroupId, Dial, Listening>,
    served: Shares<CgroupId, Served, CgroupId>,
    answering: Shares<CgroupId, Answering, ()>,
    dialled: Shares<CgroupId, Dialled, ()>,
    /// Whom `pairs` may lead to.
    servers: BTreeSet<CgroupId>,
}

impl Namespaces {
    const BOUND: usize = 65_536;

    pub(crate) fn set(&mut self, netns: NetnsCookie, addresses: &[IpAddr]) {
        if self.addresses.len() >= Self::BOUND {
            self.addresses.clear();
            self.owners.clear();
        }
        let now: BTreeSet<IpAddr> = addresses.iter().copied().collect();
        for address in &now {
            self.owners.entry(*address).or_default().insert(netns);
        }
        for address in self.addresses.insert(netns, now.clone()).unwrap_or_default() {
            if !now.contains(&address)
                && let Some(owners) = self.owners.get_mut(&address)
            {
                owners.remove(&netns);
                if owners.is_empty() {
                    self.owners.remove(&address);
                }
            }
        }
    }

    pub(crate) fn forget_cgroup(&mut self, cgroup: CgroupId) {
        self.pairs.forget(&cgroup);
        self.served.forget(&cgroup);
        self.answering.forget(&cgroup);
        self.dialled.forget(&cgroup);
        if self.servers.remove(&cgroup) {
            self.pairs.retain(|server| server.cgroup != cgroup);
        }
    }

    /// Remembers that this dial reached that server.
    pub(crate) fn pair(&mut self, dial: &FlowKey, server: Listening) {
        let Remote::Address(address) = dial.remote else {
            return;
        };
        if self.servers.len() >= Self::BOUND {
            self.servers.clear();
            self.pairs = Shares::default();
        }
        self.servers.insert(server.cgroup);
        let key = (dial.cgroup, dial.protocol, address, dial.port);
        self.pairs.insert(dial.cgroup, key, server);
    }

    /// Remembers who answers datagrams where.
    pub(crate) fn serves(&mut self, inbound: &Flow) {
        let Remote::Address(client) = inbound.key.remote else {
            return;
        };
        let FlowKey { protocol, port, cgroup, local, .. } = inbound.key;
        self.served.insert(cgroup, (inbound.netns, protocol, port, client), cgroup);
        if let Some(own) = local.filter(is_own_loopback) {
            self.answering.insert(cgroup, (inbound.netns, protocol, own, cgroup), ());
        }
    }

    /// Remembers whom datagrams were sent to, and from which namespace.
    pub(crate) fn dials(&mut self, outbound: &Flow) {
        let Remote::Address(address) = outbound.key.remote else {
            return;
        };
        let FlowKey { protocol, port, cgroup, .. } = outbound.key;
        if protocol.serves_datagrams() {
            self.dialled.insert(cgroup, (outbound.netns, protocol, address, port), ());
        }
    }

    /// The server that a dial reached, if it is on this machine and known.
    pub(crate) fn server_of(&self, dial: &Flow) -> Option<Listening> {
        let Remote::Address(address) = dial.key.remote else {
            return None;
        };
        let key = &dial.key;
        if let Some(paired) = self.pairs.get(&(key.cgroup, key.protocol, address, key.port)) {
            return Some(*paired);
        }
        if !key.protocol.serves_datagrams() {
            return None;
        }
        let at = self.owners_of(address, dial.netns);
        let mut servers: Vec<CgroupId> = at.flat_map(|netns| self.serving(netns, dial)).collect();
        servers.dedup();
        if servers.is_empty() {
            servers = self.answering_at(dial.netns, key.protocol, address);
        }
        match servers.as_slice() {
            [server] => Some(Listening { cgroup: *server, port: key.port }),
            _ => None,
        }
    }

    /// Who answers in this namespace at a loopback address, whichever port leads there.
    fn answering_at(
        &self,
        netns: NetnsCookie,
        protocol: Protocol,
        address: IpAddr,
    ) -> Vec<CgroupId> {
        let keys = (netns, protocol, address, CgroupId(0));
        let keys = keys..=(netns, protocol, address, CgroupId(u64::MAX));
        self.answering.range(keys).map(|((.., server), ())| *server).collect()
    }

    /// Who in this namespace answered datagrams at the dialled port, to one who may be this client.
    fn serving(&self, netns: NetnsCookie, dial: &Flow) -> Vec<CgroupId> {
        let FlowKey { protocol, port, .. } = dial.key;
        let mine = client_address(dial);
        let clients = |from: IpAddr, to: IpAddr| {
            let keys = (netns, protocol, port, from)..=(netns, protocol, port, to);
            let found = self.served.range(keys);
            let found = found.filter(move |((.., client), _)| mine.is_none_or(|it| it == *client));
            found.map(|(_, server)| *server)
        };
        let own = self.addresses.get(&dial.netns).into_iter().flatten();
        let mut servers: Vec<CgroupId> = own.flat_map(|own| clients(*own, *own)).collect();
        if netns == dial.netns {
            servers.extend(LOOPBACK.into_iter().flat_map(|(from, to)| clients(from, to)));
        }
        servers
    }

    /// Whether a client on this machine has dialled what this inbound datagram reached.
    pub(crate) fn has_client(&self, inbound: &Flow) -> bool {
        let Remote::Address(client) = inbound.key.remote else {
            return false;
        };
        let FlowKey { protocol, port, local, .. } = inbound.key;
        if let Some(own) = local.filter(is_own_loopback) {
            let keys = (inbound.netns, protocol, own, 0)..=(inbound.netns, protocol, own, u16::MAX);
            if self.dialled.range(keys).next().is_some() {
                return true;
            }
        }
        let own = self.addresses.get(&inbound.netns);
        self.owners_of(client, inbound.netns).any(|netns| {
            let mut own = own.into_iter().flatten();
            own.any(|own| self.dialled.contains(&(netns, protocol, *own, port)))
                || netns == inbound.netns && self.has_dialled_itself(netns, protocol, port)
        })
    }

    /// Whether somebody in this namespace has dialled it by an address of loopback.
    fn has_dialled_itself(&self, netns: NetnsCookie, protocol: Protocol, port: u16) -> bool {
        LOOPBACK.into_iter().any(|(from, to)| {
            let keys = (netns, protocol, from, 0)..=(netns, protocol, to, u16::MAX);
            self.dialled.range(keys).any(|((.., dialled), ())| *dialled == port)
        })
    }

    /// Whether somebody in namespace `user` who dials `address` stays within it.
    pub(crate) fn is_own(&self, user: NetnsCookie, address: IpAddr) -> bool {
        address.is_loopback() || self.addresses.get(&user).is_some_and(|it| it.contains(&address))
    }

    /// The namespaces that `address`, used by somebody in namespace `user`, may mean: loopback addresses
    /// mean the user's own.
    fn owners_of(
        &self,
        address: IpAddr,
        user: NetnsCookie,
    ) -> impl Iterator<Item = NetnsCookie> + '_ {
        let own = address.is_loopback().then_some(user);
        let owners = self.owners.get(&address).filter(|_| own.is_none());
        own.into_iter().chain(owners.into_iter().flatten().copied())
    }
}

/// An address of loopback that somebody chose: at the usual one everybody listens.
pub(crate) fn is_own_loopback(address: &IpAddr) -> bool {
    address.is_loopback() && *address != Ipv4Addr::LOCALHOST && *address != Ipv6Addr::LOCALHOST
}

/// The server that answered a dial, at the port that was dialled where one leads to the other at the
/// same loopback address: the port that it was given means nothing, and is another the next time.
pub(crate) fn reached(dialled: Option<SocketAddr>, accepted: &Flow) -> Listening {
    let own = accepted.key.local.filter(is_own_loopback);
    let led = dialled.filter(|dialled| own == Some(dialled.ip()));
    let port = led.map_or(accepted.key.port, |dialled| dialled.port());
    Listening { port, ..Listening::of(accepted) }
}

/// Addresses that every namespace has, from and to.
const LOOPBACK: [(IpAddr, IpAddr); 2] = [
    (IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), IpAddr::V4(Ipv4Addr::new(127, 255, 255, 255))),
    (IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)),
];
