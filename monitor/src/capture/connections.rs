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
    pub(super) connections: u64,
}

/// What is known of processes.
pub(super) trait Holders {
    fn pid(&self, inode: u32) -> Option<u32>;
    fn executable_id(&self, pid: u32) -> u64;
}

/// Whose a connection's client is, by its own end and by the server's. Of loopback addresses every
/// namespace has its own.
type Dials = HashMap<(NetnsCookie, SocketAddr, SocketAddr), CgroupId>;
/// The same by the client's end alone, for what was dialled under another address; None where several
/// cgroups could be meant.
type Clients = HashMap<(NetnsCookie, SocketAddr), Option<CgroupId>>;

/// The flows of all connections, each dial followed by the other end of its first connection.
pub(super) fn flows(
    found: &[OldConnections],
    internal: &[Network],
    holders: &impl Holders,
) -> Vec<OldFlow> {
    let mut teller = Flows {
        internal,
        holders,
        dials: HashMap::new(),
        clients: HashMap::new(),
        flows: Vec::new(),
        known: HashMap::new(),
    };
    for namespace in found {
        namespace.each(|socket| {
            if !namespace.is_served(socket) {
                teller.note_dial(namespace.netns, socket.1);
            }
        });
    }
    let mut accepted = HashMap::new();
    for namespace in found {
        namespace.each(|socket| {
            if namespace.is_served(socket) {
                let at = (place(namespace.netns, socket.1.remote), socket.1.remote, socket.1.local);
                accepted.insert(at, (namespace.netns, socket));
            }
        });
    }
    for namespace in found {
        namespace.each(|socket| {
            if namespace.is_served(socket) {
                return;
            }
            let is_first = teller.dialled(namespace.netns, socket);
            let ends = (place(namespace.netns, socket.1.local), socket.1.local, socket.1.remote);
            if let Some((netns, other)) = accepted.get(&ends).filter(|_| is_first) {
                teller.accepted(*netns, *other, Repeat::Told);
            }
        });
    }
    for namespace in found {
        namespace.each(|socket| {
            if namespace.is_served(socket) {
                teller.accepted(namespace.netns, socket, Repeat::Counted);
            }
        });
    }
    teller.flows
}

/// A socket and its protocol.
type Connection<'a> = (Protocol, &'a OldSocket);

impl OldConnections {
    fn each<'a>(&'a self, mut take: impl FnMut(Connection<'a>)) {
        self.tcp.iter().for_each(|it| take((Protocol::Tcp, it)));
        self.udp.iter().for_each(|it| take((Protocol::Udp, it)));
    }

    /// Whether the far end dialled.
    fn is_served(&self, (protocol, socket): Connection<'_>) -> bool {
        let ports: &HashSet<u16> = match protocol {
            Protocol::Tcp => &self.tcp_ports,
            // Of the others none is asked for.
            Protocol::Udp | Protocol::UdpLite | Protocol::Icmp | Protocol::Ip => &self.udp_ports,
        };
        ports.contains(&socket.local.port()) && socket.stage != Stage::Dialling
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
    dials: Dials,
    clients: Clients,
    flows: Vec<OldFlow>,
    /// Where in `flows` a key is.
    known: HashMap<FlowKey, usize>,
}

impl<H: Holders> Flows<'_, H> {
    fn note_dial(&mut self, netns: NetnsCookie, socket: &OldSocket) {
        let netns = place(netns, socket.local);
        self.dials.insert((netns, socket.local, socket.remote), socket.cgroup);
        let client = self.clients.entry((netns, socket.local)).or_insert(Some(socket.cgroup));
        *client = client.filter(|cgroup| *cgroup == socket.cgroup);
    }

    /// Whether it is the first connection of its key.
    fn dialled(&mut self, netns: NetnsCookie, (protocol, socket): Connection<'_>) -> bool {
        let pid = self.holders.pid(socket.inode);
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
            executable_id: pid.map_or(0, |pid| self.holders.executable_id(pid)),
        };
        self.add(key, netns, socket.local, socket, pid)
    }

    fn accepted(&mut self, netns: NetnsCookie, (protocol, socket): Connection<'_>, repeat: Repeat) {
        let client = socket.remote;
        let at = place(netns, client);
        let exact = self.dials.get(&(at, client, socket.local)).copied();
        let from = exact.or_else(|| self.clients.get(&(at, client)).copied().flatten());
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
        let pid = self.holders.pid(socket.inode);
        match repeat {
            Repeat::Counted => drop(self.add(key, netns, client, socket, pid)),
            Repeat::Told => {
                let (uid, connections) = (socket.uid, 0);
                self.known.entry(key).or_insert(self.flows.len());
                self.flows.push(OldFlow { key, netns, client, pid, uid, connections });
            }
        }
    }

    /// Counts a connection; true where its key is new.
    fn add(
        &mut self,
        key: FlowKey,
        netns: NetnsCookie,
        client: SocketAddr,
        socket: &OldSocket,
        pid: Option<u32>,
    ) -> bool {
        if let Some(flow) = self.known.get(&key).and_then(|at| self.flows.get_mut(*at)) {
            flow.connections += 1;
            return false;
        }
        self.known.insert(key, self.flows.len());
        let (uid, connections) = (socket.uid, 1);
        self.flows.push(OldFlow { key, netns, client, pid, uid, connections });
        true
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
