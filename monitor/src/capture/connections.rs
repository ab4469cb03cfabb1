//! Connections that are older than the kernel programs, as the flows that those would have told: by
//! whether their local port is listened at, with both ends where both are on this machine. Sockets of
//! one key are one flow. Pure; what is found where is for others.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use foldhash::{HashMap, HashMapExt as _};
use monitor_core::flow::{Direction, FlowKey, Outcome, Protocol, Remote};
use monitor_core::ids::{CgroupId, NetnsCookie};
use monitor_core::network::Network;

use crate::capture::namespaces::OldConnections;
use crate::capture::netlink::{OldSocket, Stage};

/// A flow that was there before us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OldFlow {
    pub(super) key: FlowKey,
    pub(super) netns: NetnsCookie,
    /// Of the first of its connections.
    pub(super) client: SocketAddr,
    /// Who holds it; None for a connection that nobody took yet.
    pub(super) pid: Option<u32>,
    pub(super) uid: u32,
    /// What its process runs; 0 where that is not known.
    pub(super) executable_id: u64,
    pub(super) connections: u64,
}

/// What is known of processes.
pub(super) trait Holders {
    fn pid(&self, inode: u32) -> Option<u32>;
    fn executable_id(&self, pid: u32) -> u64;
}

/// The flows of all connections, each dial followed by the other end of its first connection.
pub(super) fn flows(
    found: &[OldConnections],
    internal: &[Network],
    holders: &impl Holders,
) -> Vec<OldFlow> {
    let (mut dials, mut accepts) = (Vec::new(), Vec::new());
    for namespace in found {
        namespace.each(|connection| {
            if namespace.is_served(&connection) {
                accepts.push(connection);
            } else {
                dials.push(connection);
            }
        });
    }
    let pairs = Pairs::of(&dials, &accepts);
    let count = dials.len() + accepts.len();
    let mut teller = Flows {
        internal,
        holders,
        flows: Vec::with_capacity(count),
        known: HashMap::with_capacity(count),
    };
    for (dial, other) in dials.iter().zip(&pairs.accepted) {
        let is_first = teller.dialled(dial);
        if let Some((accept, from)) = other.filter(|_| is_first).and_then(|at| pairs.accept(at)) {
            teller.accepted(accept, from, Repeat::Told);
        }
    }
    for (accept, from) in accepts.iter().zip(&pairs.clients) {
        teller.accepted(accept, *from, Repeat::Counted);
    }
    teller.flows
}

/// A socket that has a far end.
#[derive(Debug, Clone, Copy)]
struct Connection<'a> {
    netns: NetnsCookie,
    protocol: Protocol,
    socket: &'a OldSocket,
}

impl OldConnections {
    fn each<'a>(&'a self, mut take: impl FnMut(Connection<'a>)) {
        for (protocol, sockets) in [(Protocol::Tcp, &self.tcp), (Protocol::Udp, &self.udp)] {
            sockets
                .iter()
                .for_each(|socket| take(Connection { netns: self.netns, protocol, socket }));
        }
    }

    /// Whether the far end dialled.
    fn is_served(&self, connection: &Connection<'_>) -> bool {
        let ports: &HashSet<u16> = match connection.protocol {
            Protocol::Tcp => &self.tcp_ports,
            // Of the others none is asked for.
            Protocol::Udp | Protocol::UdpLite | Protocol::Icmp | Protocol::Ip => &self.udp_ports,
        };
        let OldSocket { local, stage, .. } = connection.socket;
        *stage != Stage::Dialling && ports.contains(&local.port())
    }

    /// Leaves out the sockets of all other cgroups.
    pub(super) fn keep(&mut self, cgroups: &HashSet<CgroupId>) {
        self.tcp.retain(|it| cgroups.contains(&it.cgroup));
        self.udp.retain(|it| cgroups.contains(&it.cgroup));
    }
}

/// Where an address means something: everywhere, but for loopback.
fn place(netns: NetnsCookie, address: SocketAddr) -> NetnsCookie {
    if address.ip().is_loopback() { netns } else { NetnsCookie(0) }
}

/// Which dial and which accept are the two ends of one connection. Of loopback addresses every
/// namespace has its own.
struct Pairs<'a> {
    accepts: &'a [Connection<'a>],
    /// The other end of each dial, by its place among the accepts.
    accepted: Vec<Option<usize>>,
    /// Whose the client of each accept is.
    clients: Vec<Option<CgroupId>>,
}

impl<'a> Pairs<'a> {
    fn of(dials: &[Connection<'_>], accepts: &'a [Connection<'a>]) -> Self {
        let mut by_ends = HashMap::with_capacity(dials.len());
        for (at, Connection { netns, protocol, socket }) in dials.iter().enumerate() {
            let ends = (place(*netns, socket.local), *protocol, socket.local, socket.remote);
            by_ends.insert(ends, at);
        }
        let mut pairs =
            Self { accepts, accepted: vec![None; dials.len()], clients: vec![None; accepts.len()] };
        let mut alone = Vec::new();
        for (at, Connection { netns, protocol, socket }) in accepts.iter().enumerate() {
            let ends = (place(*netns, socket.remote), *protocol, socket.remote, socket.local);
            let dial = by_ends.get(&ends).copied();
            match dial.and_then(|dial| Some((dials.get(dial)?, pairs.accepted.get_mut(dial)?))) {
                Some((dial, accepted)) => {
                    *accepted = Some(at);
                    pairs.clients[at] = Some(dial.socket.cgroup);
                }
                None => alone.push(at),
            }
        }
        drop(by_ends);
        pairs.match_alone(&alone, dials);
        pairs
    }

    /// Whose the client is by its own end alone, for what was dialled under another address; nobody's
    /// where several cgroups could be meant.
    fn match_alone(&mut self, alone: &[usize], dials: &[Connection<'_>]) {
        if alone.is_empty() {
            return;
        }
        let mut clients = HashMap::with_capacity(dials.len());
        for Connection { netns, protocol, socket } in dials {
            let at = (place(*netns, socket.local), *protocol, socket.local);
            let client = clients.entry(at).or_insert(Some(socket.cgroup));
            *client = client.filter(|cgroup| *cgroup == socket.cgroup);
        }
        for &at in alone {
            let Connection { netns, protocol, socket } = self.accepts[at];
            let client = (place(netns, socket.remote), protocol, socket.remote);
            self.clients[at] = clients.get(&client).copied().flatten();
        }
    }

    /// An accept, and whose its client is.
    fn accept(&self, at: usize) -> Option<(&'a Connection<'a>, Option<CgroupId>)> {
        Some((self.accepts.get(at)?, *self.clients.get(at)?))
    }
}

/// What to do with a flow that is known already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Counted,
    /// Told once more without being counted: the other end of a dial that is told.
    Told,
}

struct Flows<'a, H> {
    internal: &'a [Network],
    holders: &'a H,
    flows: Vec<OldFlow>,
    /// Where in `flows` a key is.
    known: HashMap<FlowKey, usize>,
}

impl<H: Holders> Flows<'_, H> {
    /// Whether it is the first connection of its key.
    fn dialled(&mut self, connection: &Connection<'_>) -> bool {
        let Connection { protocol, socket, .. } = *connection;
        let (pid, executable_id) = self.holder(socket);
        let key = FlowKey {
            cgroup: socket.cgroup,
            direction: Direction::Outbound,
            protocol,
            remote: Remote::Address(socket.remote.ip()),
            local: None,
            port: socket.remote.port(),
            outcome: if protocol == Protocol::Tcp && socket.stage == Stage::Connected {
                Outcome::Established
            } else {
                // For UDP as its connect is told: of what it sends nothing is seen.
                Outcome::Attempted
            },
            executable_id,
        };
        let (netns, client, uid) = (connection.netns, socket.local, socket.uid);
        let flow = OldFlow { key, netns, client, pid, uid, executable_id, connections: 1 };
        self.add(flow, Repeat::Counted)
    }

    fn accepted(&mut self, connection: &Connection<'_>, from: Option<CgroupId>, repeat: Repeat) {
        let Connection { netns, protocol, socket } = *connection;
        let client = socket.remote;
        let key = FlowKey {
            cgroup: socket.cgroup,
            direction: Direction::Inbound,
            protocol,
            remote: match from.filter(|_| protocol == Protocol::Tcp) {
                Some(cgroup) => Remote::Cgroup(cgroup),
                None => self.collapsed(client.ip()),
            },
            local: Some(socket.local.ip()),
            port: socket.local.port(),
            outcome: if protocol == Protocol::Tcp { Outcome::Established } else { Outcome::Sent },
            executable_id: 0,
        };
        let (pid, executable_id) = self.holder(socket);
        let connections = u64::from(repeat == Repeat::Counted);
        let uid = socket.uid;
        self.add(OldFlow { key, netns, client, pid, uid, executable_id, connections }, repeat);
    }

    /// Who holds a socket, and what that runs.
    fn holder(&self, socket: &OldSocket) -> (Option<u32>, u64) {
        let pid = self.holders.pid(socket.inode);
        (pid, pid.map_or(0, |pid| self.holders.executable_id(pid)))
    }

    /// Whether its key is new.
    fn add(&mut self, flow: OldFlow, repeat: Repeat) -> bool {
        let next = self.flows.len();
        let at = *self.known.entry(flow.key).or_insert(next);
        match self.flows.get_mut(at) {
            Some(known) if repeat == Repeat::Counted => known.connections += 1,
            _ => self.flows.push(flow),
        }
        at == next
    }

    fn collapsed(&self, address: IpAddr) -> Remote {
        let inside = self.internal.iter().any(|network| network.contains(address));
        if inside { Remote::Address(address) } else { Remote::World }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Holders for Nobody {
        fn pid(&self, inode: u32) -> Option<u32> {
            (inode != 0).then_some(inode)
        }

        fn executable_id(&self, pid: u32) -> u64 {
            u64::from(pid) * 10
        }
    }

    fn socket(cgroup: u64, local: &str, remote: &str) -> OldSocket {
        OldSocket {
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            stage: Stage::Connected,
            cookie: 0,
            uid: 0,
            inode: 1,
            cgroup: CgroupId(cgroup),
        }
    }

    fn namespace(netns: u64, tcp: Vec<OldSocket>, port: u16) -> OldConnections {
        let tcp_ports = HashSet::from([port]);
        let (udp, udp_ports) = (Vec::new(), HashSet::new());
        OldConnections { netns: NetnsCookie(netns), tcp, udp, tcp_ports, udp_ports }
    }

    /// `CGROUP in|out FAR-END PORT × COUNT`, in order.
    fn told(found: &[OldConnections]) -> Vec<String> {
        let flow = |it: OldFlow| {
            let way = if it.key.direction == Direction::Inbound { "in" } else { "out" };
            let far = match it.key.remote {
                Remote::Address(address) => address.to_string(),
                Remote::Cgroup(id) => format!("cgroup {}", id.0),
                Remote::World | Remote::Socket(_) => "world".to_owned(),
            };
            format!("{} {way} {far} {} × {}", it.key.cgroup.0, it.key.port, it.connections)
        };
        flows(found, &Network::INTERNAL, &Nobody).into_iter().map(flow).collect()
    }

    #[test]
    fn both_ends_on_one_machine_are_one_connection() {
        let client = namespace(
            1,
            vec![
                socket(7, "10.0.0.1:40000", "10.0.0.2:80"),
                socket(7, "10.0.0.1:40001", "10.0.0.2:80"),
            ],
            9,
        );
        let server = namespace(
            2,
            vec![
                socket(8, "10.0.0.2:80", "10.0.0.1:40001"),
                socket(8, "10.0.0.2:80", "10.0.0.1:40000"),
                socket(8, "10.0.0.2:80", "203.0.113.9:5000"),
                socket(8, "10.0.0.2:80", "10.9.9.9:5000"),
            ],
            80,
        );
        let expected = [
            "7 out 10.0.0.2 80 × 2",
            // So that whoever reads it finds both ends of the first of them.
            "8 in cgroup 7 80 × 2",
            "8 in world 80 × 1",
            "8 in 10.9.9.9 80 × 1",
        ];
        assert_eq!(told(&[server, client]), expected);
    }

    #[test]
    fn loopback_is_every_namespaces_own() {
        let of = |netns, client, server| {
            let dial = socket(client, "127.0.0.1:40000", "127.0.0.1:80");
            let accept = socket(server, "127.0.0.1:80", "127.0.0.1:40000");
            namespace(netns, vec![accept, dial], 80)
        };
        let expected = [
            "1 out 127.0.0.1 80 × 1",
            "2 in cgroup 1 80 × 1",
            "3 out 127.0.0.1 80 × 1",
            "4 in cgroup 3 80 × 1",
        ];
        assert_eq!(told(&[of(1, 1, 2), of(2, 3, 4)]), expected);
    }

    #[test]
    fn behind_a_virtual_address_the_clients_own_end_tells_who_dialled() {
        let dial = namespace(1, vec![socket(7, "10.0.0.1:40000", "10.96.0.1:80")], 9);
        let accept = namespace(2, vec![socket(8, "10.0.0.2:8080", "10.0.0.1:40000")], 8080);
        assert_eq!(told(&[dial, accept]), ["7 out 10.96.0.1 80 × 1", "8 in cgroup 7 8080 × 1"]);
        // Two could be meant: then nobody is.
        let one = socket(7, "10.0.0.1:40000", "10.96.0.1:80");
        let other = socket(9, "10.0.0.1:40000", "10.96.0.2:80");
        let dials = namespace(1, vec![one, other], 9);
        let accept = namespace(2, vec![socket(8, "10.0.0.2:8080", "10.0.0.1:40000")], 8080);
        assert!(told(&[dials, accept]).contains(&"8 in 10.0.0.1 8080 × 1".to_owned()));
    }
}
