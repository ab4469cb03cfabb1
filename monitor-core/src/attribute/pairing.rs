//! Which two sightings are the two ends of one exchange on this machine, where the kernel could not
//! say so itself: by connections paired before, and for datagrams by who listens in the namespace
//! that owns the dialled address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::flow::{Flow, FlowKey, Protocol, Remote};
use crate::ids::{CgroupId, NetnsCookie};

use crate::attribute::client_address;

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

/// What is known of addresses on this machine. Each table is bounded by [`Namespaces::BOUND`]; a
/// full one starts anew, which costs a pairing and never invents one.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    addresses: BTreeMap<NetnsCookie, BTreeSet<IpAddr>>,
    pairs: BTreeMap<Dial, Listening>,
    served: BTreeMap<Served, CgroupId>,
    /// Datagram dials: the client's namespace, the dialled address and port.
    dialled: BTreeSet<(NetnsCookie, Protocol, IpAddr, u16)>,
}

impl Namespaces {
    const BOUND: usize = 65_536;

    pub(crate) fn set(&mut self, netns: NetnsCookie, addresses: &[IpAddr]) {
        if self.addresses.len() >= Self::BOUND {
            self.addresses.clear();
        }
        self.addresses.insert(netns, addresses.iter().copied().collect());
    }

    pub(crate) fn forget_cgroup(&mut self, cgroup: CgroupId) {
        self.pairs.retain(|dial, server| dial.0 != cgroup && server.cgroup != cgroup);
        self.served.retain(|_, server| *server != cgroup);
    }

    /// Remembers that this dial reached that server.
    pub(crate) fn pair(&mut self, dial: &FlowKey, server: Listening) {
        let Remote::Address(address) = dial.remote else {
            return;
        };
        if self.pairs.len() >= Self::BOUND {
            self.pairs.clear();
        }
        self.pairs.insert((dial.cgroup, dial.protocol, address, dial.port), server);
    }

    /// Remembers who answers datagrams where.
    pub(crate) fn serves(&mut self, inbound: &Flow) {
        let Remote::Address(client) = inbound.key.remote else {
            return;
        };
        if self.served.len() >= Self::BOUND {
            self.served.clear();
        }
        let FlowKey { protocol, port, cgroup, .. } = inbound.key;
        self.served.insert((inbound.netns, protocol, port, client), cgroup);
    }

    /// Remembers whom datagrams were sent to, and from which namespace.
    pub(crate) fn dials(&mut self, outbound: &Flow) {
        let Remote::Address(address) = outbound.key.remote else {
            return;
        };
        if !outbound.key.protocol.serves_datagrams() {
            return;
        }
        if self.dialled.len() >= Self::BOUND {
            self.dialled.clear();
        }
        self.dialled.insert((outbound.netns, outbound.key.protocol, address, outbound.key.port));
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
        let mut servers: Vec<CgroupId> = self
            .served
            .iter()
            .filter(|((netns, protocol, port, client), _)| {
                *port == key.port
                    && *protocol == key.protocol
                    && self.owns(*netns, address, dial.netns)
                    && client_address(dial).is_none_or(|mine| mine == *client)
                    && self.owns(dial.netns, *client, *netns)
            })
            .map(|(_, server)| *server)
            .collect();
        servers.dedup();
        match servers.as_slice() {
            [server] => Some(Listening { cgroup: *server, port: key.port }),
            _ => None,
        }
    }

    /// Whether a client on this machine has dialled what this inbound datagram reached.
    pub(crate) fn has_client(&self, inbound: &Flow) -> bool {
        let Remote::Address(client) = inbound.key.remote else {
            return false;
        };
        self.dialled.iter().any(|(netns, protocol, address, port)| {
            *port == inbound.key.port
                && *protocol == inbound.key.protocol
                && self.owns(inbound.netns, *address, *netns)
                && self.owns(*netns, client, inbound.netns)
        })
    }

    /// Whether `address`, used by somebody in namespace `user`, means namespace `netns`: loopback
    /// addresses mean the user's own.
    fn owns(&self, netns: NetnsCookie, address: IpAddr, user: NetnsCookie) -> bool {
        if address.is_loopback() {
            return netns == user;
        }
        self.addresses.get(&netns).is_some_and(|mine| mine.contains(&address))
    }
}
