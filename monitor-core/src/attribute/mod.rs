//! Whose flow is this: joins flows with the workloads at both ends and makes edges of them. A dial
//! waits a moment for its outcome and for the other end's own sighting of the same connection,
//! bounded in time and number; nothing here judges.

mod history;
mod names;
mod naming;
mod pairing;
mod safe;
mod shares;
mod sighting;
mod waiting;
mod workloads;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::directory::Directory;
use crate::edge::{Edge, Handover, Peer, Port};
use crate::flow::{Direction, Flow, FlowKey, KeyId, Outcome, Protocol, Remote, Traffic};
use crate::ids::{BootTime, CgroupId, NetnsCookie, Now, ServiceName};
use crate::socket::Socket;

use self::history::History;
use self::names::Names;
use self::naming::Holding;
use self::pairing::{Listening, Namespaces};
use self::safe::safe_process;
use self::waiting::{Waiting, WaitingRoom};
use self::workloads::Workloads;

pub use self::names::Disbelief;
pub use self::naming::{Learned, Places};
pub use self::sighting::{Heard, KeyIds, SeenFrom, Sighting, Workload};
pub use self::workloads::Renamed;

/// The state of attribution. Bounded: waiting flows by
/// [`Attribution::WAITING`], what is known of keys by the kernel's own table.
#[derive(Debug)]
pub struct Attribution {
    workloads: Workloads,
    directory: Directory,
    places: Places,
    holding: Holding,
    waiting: WaitingRoom,
    namespaces: Namespaces,
    history: History,
    names: Names,
    /// What keys did while they waited to be attributed.
    counted: BTreeMap<KeyId, Traffic>,
}

impl Attribution {
    /// How long a flow waits for its outcome and its other end, milliseconds.
    pub const PATIENCE_MS: u64 = 300;
    /// Flows that may wait at once; beyond it the oldest is released as it stands.
    pub const WAITING: usize = 8_192;
    /// Flows of one cgroup that may wait at once; a further one is told as it stands, so that others
    /// keep their time.
    pub const WAITING_OF_ONE: usize = Self::WAITING / 4;

    /// `seed` keys the hash table: its keys hold what strangers choose.
    #[must_use]
    pub fn new(seed: u64, places: Places, directory: Directory) -> Self {
        let hasher = foldhash::quality::FixedState::with_seed(seed);
        Self {
            workloads: Workloads::default(),
            directory,
            places,
            holding: Holding::default(),
            waiting: WaitingRoom::new(hasher),
            namespaces: Namespaces::default(),
            history: History::default(),
            names: Names::default(),
            counted: BTreeMap::new(),
        }
    }

    pub fn workload_appeared(&mut self, cgroup: CgroupId, workload: Workload) {
        self.names.forget(cgroup);
        self.workloads.appeared(cgroup, workload, &self.directory);
    }

    /// The cgroup is gone; it keeps its name for the flows that are still on their way.
    pub fn workload_vanished(&mut self, cgroup: CgroupId) {
        self.workloads.vanished(cgroup);
        self.namespaces.forget_cgroup(cgroup);
        self.names.vanished(cgroup);
    }

    pub fn namespace(&mut self, netns: NetnsCookie, addresses: &[IpAddr]) {
        self.namespaces.set(netns, addresses);
    }

    /// Puts back that dialling `dialled` was `edge`.
    pub fn remember(&mut self, edge: &Edge, dialled: SocketAddr) {
        self.history.remember(edge, dialled);
        self.names.recall(edge, dialled);
    }

    /// A flow was told under these names.
    pub fn told(&mut self, sighting: &Sighting) {
        self.names.seen(sighting);
    }

    /// Takes a flow in; returns what it makes certain at once.
    pub fn flow(&mut self, now: Now, flow: Flow) -> Vec<Sighting> {
        let ready = self.joined(now, flow);
        self.named(now, ready)
    }

    fn joined(&mut self, now: Now, flow: Flow) -> Vec<Sighting> {
        let mut ready = Vec::new();
        match (flow.key.direction, flow.key.remote) {
            (_, Remote::Socket(socket)) => ready.push(self.opens(&flow, socket)),
            (Direction::Inbound, Remote::Cgroup(client)) => {
                self.accepted(now, client, flow, &mut ready);
            }
            (Direction::Inbound, Remote::World) => ready.push(self.inbound(&flow, Peer::World)),
            (Direction::Inbound, Remote::Address(_)) if flow.key.protocol.serves_datagrams() => {
                self.namespaces.serves(&flow);
                self.wait(now, flow, &mut ready);
            }
            (Direction::Inbound, Remote::Address(address)) => {
                ready.push(self.inbound(&flow, Peer::Address(address)));
            }
            (Direction::Outbound, _) => self.dialled(now, flow, &mut ready),
            (Direction::Listening, _) => ready.push(self.listens(&flow)),
        }
        ready
    }

    /// Takes up what an agent before this one knew of a flow that it had attributed.
    pub fn resume(&mut self, flow: &Flow) {
        match (flow.key.direction, flow.key.remote) {
            (Direction::Inbound, Remote::Cgroup(client)) => self.answers(client, flow),
            (Direction::Inbound, Remote::Address(_)) if flow.key.protocol == Protocol::Udp => {
                self.namespaces.serves(flow);
            }
            (Direction::Outbound, _) => {
                self.namespaces.dials(flow);
                self.names.dials(flow);
            }
            (Direction::Inbound | Direction::Listening, _) => {}
        }
    }

    /// Releases the flows whose time is up.
    pub fn due(&mut self, now: Now) -> Vec<Sighting> {
        let mut ready = Vec::new();
        while let Some(waiting) = self.waiting.take_due(now.boot) {
            ready.extend(self.release(waiting));
        }
        let mut ready = self.named(now, ready);
        ready.extend(self.nameless(now.boot));
        ready
    }

    /// When [`Attribution::due`] has something to do next.
    #[must_use]
    pub fn next_due(&self) -> Option<BootTime> {
        self.waiting.next_due().into_iter().chain(self.next_nameless()).min()
    }

    /// Keeps what a key did whose edge is not known, for as long as the key waits for it.
    pub fn hold(&mut self, traffic: &Traffic) {
        if self.waiting.of_dial(&traffic.key).is_some() {
            let kept = self.counted.entry(traffic.id);
            kept.and_modify(|kept| kept.add(traffic)).or_insert(*traffic);
        }
    }

    /// What was held of keys that wait no longer.
    #[must_use]
    pub fn take_counted(&mut self) -> Vec<Traffic> {
        let Self { counted, waiting, .. } = self;
        let ready = counted.extract_if(.., |_, it| waiting.of_dial(&it.key).is_none());
        ready.map(|(_, traffic)| traffic).collect()
    }

    /// The kernel forgot `key`: what waits must not bring it back, for nobody would forget it again.
    pub fn forgotten(&mut self, id: KeyId, key: &FlowKey) {
        if let Some((_, waiting)) = self.waiting.of_dial(key) {
            waiting.keys.retain(|it| *it != id);
        }
        self.holding.forgotten(id);
        // Its number may be another's next.
        self.counted.remove(&id);
    }

    #[must_use]
    pub fn workload_of(&self, cgroup: CgroupId) -> Option<&Arc<Workload>> {
        self.workloads.get(cgroup)
    }

    #[must_use]
    pub const fn directory(&self) -> &Directory {
        &self.directory
    }

    /// A dial: joins what already waits for the same peer, else waits itself.
    fn dialled(&mut self, now: Now, flow: Flow, ready: &mut Vec<Sighting>) {
        let (key, client) = (flow.key, flow.client);
        self.names.dials(&flow);
        self.join(now, flow, ready);
        if let Some(own) = client {
            self.waiting.settle(&key, own);
            let accept = self.waiting.take_accept(key.cgroup, own);
            ready.extend(accept.and_then(|accept| self.release(accept)));
        }
    }

    fn join(&mut self, now: Now, flow: Flow, ready: &mut Vec<Sighting>) {
        let Some((number, waiting)) = self.waiting.of_dial(&flow.key) else {
            return self.wait(now, flow, ready);
        };
        let (outcome, before) = (flow.key.outcome, waiting.flow.key.outcome);
        if outcome != before && outcome.is_final() && before.is_final() {
            // A dial ends once: this is the next one.
            let ended = self.waiting.take(number);
            ready.extend(ended.and_then(|ended| self.release(ended)));
            return self.join(now, flow, ready);
        }
        waiting.keys.extend(flow.id);
        waiting.flow.begun = waiting.flow.begun.min(flow.begun);
        waiting.flow.opener = waiting.flow.opener.or(flow.opener);
        waiting.flow.key.outcome = waiting.flow.key.outcome.max(outcome);
        if waiting.flow.process.is_none() {
            waiting.flow.process = flow.process;
        }
        // A failed dial has no other end that could still report it.
        if outcome.is_final() && !outcome.reached() {
            let failed = self.waiting.take(number);
            ready.extend(failed.and_then(|waiting| self.release(waiting)));
        }
    }

    fn wait(&mut self, now: Now, flow: Flow, ready: &mut Vec<Sighting>) {
        if self.waiting.len() >= Self::WAITING {
            let oldest = self.waiting.take_oldest();
            ready.extend(oldest.and_then(|oldest| self.release(oldest)));
        }
        let until = now.boot.plus_millis(Self::PATIENCE_MS);
        let is_one_of_many = self.waiting.len_of(flow.key.cgroup) >= Self::WAITING_OF_ONE;
        let waiting = Waiting { keys: flow.id.into_iter().collect(), flow, until };
        if is_one_of_many {
            ready.extend(self.release(waiting));
        } else {
            self.waiting.push(waiting);
        }
    }

    /// The kernel matched both ends. By Fast Open that may be before the dialler's end is told, which
    /// says who dialled: it is on its way.
    fn accepted(&mut self, now: Now, client: CgroupId, flow: Flow, ready: &mut Vec<Sighting>) {
        let port = flow.key.port;
        if flow.client.is_some_and(|own| self.waiting.may_tell(client, own, port)) {
            // Whoever dials there need not wait to know whom.
            self.answers(client, &flow);
            return self.wait(now, flow, ready);
        }
        let keys = flow.id.into_iter().collect();
        ready.push(self.accepted_from(client, &flow, keys));
    }

    /// The accepting side names the client's cgroup; `keys` stand for it.
    fn accepted_from(&mut self, client: CgroupId, flow: &Flow, mut keys: KeyIds) -> Sighting {
        let dial = flow.client.and_then(|own| self.waiting.take_client(client, own));
        self.answers(client, flow);
        let dialled = dial.as_ref().and_then(|dial| dial.flow.key.dialled());
        let server = pairing::reached(dialled, flow);
        let edge = Edge {
            client: self.peer_of(client),
            server: self.peer_of(server.cgroup),
            port: Port { number: server.port, protocol: flow.key.protocol },
        };
        let opened_by = dial.as_ref().and_then(|dial| self.opener_of(&dial.flow));
        let opened_by = opened_by.or_else(|| self.opener_of(flow));
        let process = dial.map(|dial| {
            self.namespaces.pair(&dial.flow.key, server);
            keys.extend(dial.keys);
            dial.flow.process
        });
        if let Some(dialled) = dialled {
            self.history.remember(&edge, dialled);
        }
        Sighting {
            workload: self.workloads.get(client).cloned(),
            edge,
            outcome: flow.key.outcome,
            seen_from: SeenFrom::Both,
            at: flow.at,
            process: process.flatten().map(safe_process),
            dialled,
            begun: flow.begun,
            asker: Some(client),
            heard: Heard::Itself,
            opened_by,
            keys,
        }
    }

    /// Without address translation a client dials what it reached, and so does its next dial.
    fn answers(&mut self, client: CgroupId, accepted: &Flow) {
        if let Some(local) = accepted.key.local {
            let remote = Remote::Address(local);
            let same = FlowKey { cgroup: client, remote, ..accepted.key };
            self.namespaces.pair(&same, Listening::of(accepted));
        }
    }

    /// A port was opened: nothing to wait for, and nobody at the other end.
    fn listens(&mut self, flow: &Flow) -> Sighting {
        let process = flow.process.clone().map(safe_process);
        Sighting { process, ..self.inbound(flow, Peer::Nobody) }
    }

    /// An unusual socket was made: nothing to wait for either.
    fn opens(&mut self, flow: &Flow, socket: Socket) -> Sighting {
        let edge = Edge::opening(self.peer_of(flow.key.cgroup), socket);
        Sighting {
            workload: self.workloads.get(flow.key.cgroup).cloned(),
            edge,
            outcome: flow.key.outcome,
            seen_from: SeenFrom::Client,
            at: flow.at,
            process: flow.process.clone().map(safe_process),
            dialled: None,
            begun: flow.begun,
            asker: None,
            heard: Heard::Itself,
            opened_by: self.opener_of(flow),
            keys: flow.id.into_iter().collect(),
        }
    }

    fn inbound(&mut self, flow: &Flow, client: Peer) -> Sighting {
        let edge = Edge {
            client,
            server: self.peer_of(flow.key.cgroup),
            port: Port { number: flow.key.port, protocol: flow.key.protocol },
        };
        Sighting {
            workload: self.workloads.get(flow.key.cgroup).cloned(),
            edge,
            outcome: flow.key.outcome,
            seen_from: SeenFrom::Server,
            at: flow.at,
            process: None,
            dialled: None,
            begun: flow.begun,
            asker: None,
            heard: Heard::Itself,
            opened_by: self.opener_of(flow),
            keys: flow.id.into_iter().collect(),
        }
    }

    /// The wait is over: what is known by now is what is told.
    fn release(&mut self, waiting: Waiting) -> Option<Sighting> {
        let Waiting { flow, keys, .. } = waiting;
        if let Remote::Cgroup(client) = flow.key.remote {
            return Some(self.accepted_from(client, &flow, keys));
        }
        let Remote::Address(address) = flow.key.remote else {
            return None;
        };
        if flow.key.direction == Direction::Inbound {
            // A client on this machine tells this edge itself, with its name and its process.
            if self.namespaces.has_client(&flow) {
                return None;
            }
            return Some(self.inbound(&flow, Peer::Address(address)));
        }
        self.namespaces.dials(&flow);
        let (edge, seen_from) = self.dialled_edge(&flow, address);
        let opened_by = self.opener_of(&flow);
        let dialled = flow.key.dialled().filter(|_| seen_from == SeenFrom::Both);
        if let Some(dialled) = dialled {
            self.history.remember(&edge, dialled);
        }
        Some(Sighting {
            workload: self.workloads.get(flow.key.cgroup).cloned(),
            edge,
            outcome: match (seen_from, flow.key.protocol) {
                // What a connected socket sends is not seen; that it came in is.
                (SeenFrom::Both, protocol) if protocol.serves_datagrams() => {
                    flow.key.outcome.max(Outcome::Sent)
                }
                _ => flow.key.outcome,
            },
            seen_from,
            at: flow.at,
            process: flow.process.map(safe_process),
            dialled,
            begun: flow.begun,
            asker: Some(flow.key.cgroup),
            heard: Heard::Itself,
            opened_by,
            keys,
        })
    }

    /// The edge of a dial whose other end did not tell it.
    fn dialled_edge(&self, flow: &Flow, address: IpAddr) -> (Edge, SeenFrom) {
        let client = self.peer_of(flow.key.cgroup);
        let protocol = flow.key.protocol;
        let edge = |server, number| Edge {
            client: client.clone(),
            server,
            port: Port { number, protocol },
        };
        if let Some(server) = self.namespaces.server_of(flow) {
            return (edge(self.peer_of(server.cgroup), server.port), SeenFrom::Both);
        }
        // Nobody answered, or a datagram that nobody saw come in: it is meant for whom it reached
        // before.
        let unanswered = protocol != Protocol::Tcp || !flow.key.outcome.reached();
        let before = client.service().zip(flow.key.dialled()).filter(|_| unanswered);
        let before =
            before.and_then(|(client, to)| self.history.edge_of(client, protocol, to)).cloned();
        (before.unwrap_or_else(|| edge(Peer::Address(address), flow.key.port)), SeenFrom::Client)
    }

    /// The same service in another cgroup of its own is nobody else.
    fn opener_of(&self, flow: &Flow) -> Option<Handover> {
        let (opener, user) = (self.service_of(flow.opener?), self.service_of(flow.key.cgroup));
        (opener != user).then_some(Handover { opener, user })
    }

    /// The service that runs in a cgroup; a provisional name where it is not known.
    #[must_use]
    pub fn service_of(&self, cgroup: CgroupId) -> ServiceName {
        match self.workloads.get(cgroup) {
            Some(workload) => workload.service.clone(),
            None => ServiceName::new("cgroup", &format!("id/{}", cgroup.0)),
        }
    }

    fn peer_of(&self, cgroup: CgroupId) -> Peer {
        Peer::Service(self.service_of(cgroup))
    }
}

/// The client's own address, without its port.
fn client_address(flow: &Flow) -> Option<IpAddr> {
    flow.client.as_ref().map(SocketAddr::ip)
}
