//! Wire to core and back: the only place that reads or writes the kernel's bytes. What it cannot
//! read it refuses; nothing is guessed.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use monitor_common as wire;
use monitor_core::flow::{Direction, FlowKey, Loss, Outcome, Protocol, Remote};
use monitor_core::ids::{CgroupId, NetnsCookie};
use monitor_core::socket::Socket;
use zerocopy::{FromZeros as _, TryFromBytes};

/// Bytes of keys and values as the maps hold them.
pub(super) type KeyBytes = [u8; size_of::<wire::FlowKey>()];
pub(super) type StatsBytes = [u8; size_of::<wire::FlowStats>()];
pub(super) type ListenKeyBytes = [u8; size_of::<wire::ListenKey>()];
pub(super) type ListenerBytes = [u8; size_of::<wire::Listener>()];
pub(super) type BoundBytes = [u8; size_of::<wire::Bound>()];
pub(super) type LineageBytes = [u8; size_of::<wire::Lineage>()];
pub(super) type PayerBytes = [u8; size_of::<wire::Payer>()];
pub(super) type BudgetBytes = [u8; size_of::<wire::Budget>()];
pub(super) type FloodBytes = [u8; size_of::<wire::Flood>()];
pub(super) type StartedBytes = [u8; size_of::<wire::Executable>()];

/// The bytes are not what this program agreed upon with the kernel's half.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Undecodable;

/// A record of the ring.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record {
    Flow {
        news: wire::News,
        key: KeyBytes,
        at_ns: u64,
        /// Which entry of the map it came of, by its `first_seen_ns`; None where that is not known.
        entered_ns: Option<u64>,
        origin: Origin,
    },
    CgroupCreated {
        id: CgroupId,
        /// None where it was too long to be told.
        path: Option<String>,
    },
    CgroupRemoved {
        id: CgroupId,
    },
}

/// What is told of a first sighting beside its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) netns: NetnsCookie,
    pub(super) client: Option<SocketAddr>,
    /// None where no process is known.
    pub(super) process: Option<Caller>,
    /// Where the socket was opened, if the kernel knows.
    pub(super) opener: Option<CgroupId>,
}

/// A process as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Caller {
    pub(super) pid: u32,
    pub(super) uid: u32,
    pub(super) command: String,
    /// 0 where it is not known.
    pub(super) executable_id: u64,
}

pub(super) fn record(bytes: &[u8]) -> Result<Record, Undecodable> {
    let (kind, _) = wire::RecordKind::try_read_from_prefix(bytes).map_err(|_bytes| Undecodable)?;
    match kind {
        wire::RecordKind::Flow => {
            let record: wire::FlowRecord = read(bytes)?;
            Ok(Record::Flow {
                news: record.news,
                key: zerocopy::transmute!(record.key),
                at_ns: record.at_ns,
                entered_ns: Some(record.entered_ns).filter(|entered_ns| *entered_ns != 0),
                origin: origin(&record.origin),
            })
        }
        wire::RecordKind::CgroupCreated => {
            let record: wire::CgroupCreated = read(bytes)?;
            let length = usize::try_from(record.path_bytes).map_err(|_error| Undecodable)?;
            let path = record.path.get(..length).ok_or(Undecodable)?;
            let whole = length > 0 && length < wire::CGROUP_PATH_BYTES - 1;
            Ok(Record::CgroupCreated {
                id: CgroupId(record.id),
                path: whole.then(|| String::from_utf8_lossy(path).into_owned()),
            })
        }
        wire::RecordKind::CgroupRemoved => {
            let record: wire::CgroupRemoved = read(bytes)?;
            Ok(Record::CgroupRemoved { id: CgroupId(record.id) })
        }
    }
}

/// Who pays for a key that is new.
pub(super) fn payer(bytes: &KeyBytes) -> Result<PayerBytes, Undecodable> {
    let key: wire::FlowKey = read(bytes)?;
    Ok(zerocopy::transmute!(wire::Payer::of(&key)))
}

/// A budget, as it was if there was one, with `more` new keys that cost nothing, `most` at once.
pub(super) fn credited(budget: Option<&BudgetBytes>, more: u64, most: u64) -> BudgetBytes {
    let before = budget.and_then(|bytes| read::<wire::Budget>(bytes).ok());
    let before = before.unwrap_or(wire::Budget { whole_ns: 0, credit: 0 });
    let credit = before.credit.saturating_add(more).min(most);
    zerocopy::transmute!(wire::Budget { credit, ..before })
}

/// An entry of `FLOODS`: whose it is, what it counted. Of one whose writer is still at it, `first_ns`
/// is 0.
pub(super) fn flood(
    payer: &PayerBytes,
    flood: &FloodBytes,
) -> Result<((CgroupId, Direction), wire::Flood), Undecodable> {
    let payer: wire::Payer = read(payer)?;
    Ok(((CgroupId(payer.cgroup_id), direction(payer.direction)), read(flood)?))
}

pub(super) const fn direction(direction: wire::Direction) -> Direction {
    match direction {
        wire::Direction::Outbound => Direction::Outbound,
        wire::Direction::Inbound => Direction::Inbound,
        wire::Direction::Listening => Direction::Listening,
    }
}

pub(super) fn key(bytes: &KeyBytes) -> Result<FlowKey, Undecodable> {
    let key: wire::FlowKey = read(bytes)?;
    Ok(FlowKey {
        cgroup: CgroupId(key.cgroup_id),
        direction: direction(key.direction),
        protocol: protocol(key.protocol),
        remote: match key.remote_kind {
            wire::RemoteKind::Address => Remote::Address(ip(key.remote)),
            wire::RemoteKind::Cgroup => Remote::Cgroup(CgroupId(key.remote.cgroup())),
            wire::RemoteKind::World => Remote::World,
            wire::RemoteKind::Socket => Remote::Socket(socket(key.remote)?),
        },
        local: known_ip(key.local),
        port: key.port,
        outcome: match key.outcome {
            wire::Outcome::Attempted => Outcome::Attempted,
            wire::Outcome::Refused => Outcome::Refused,
            wire::Outcome::TimedOut => Outcome::TimedOut,
            wire::Outcome::Unreachable => Outcome::Unreachable,
            wire::Outcome::Sent => Outcome::Sent,
            wire::Outcome::Established => Outcome::Established,
        },
        executable_id: key.executable_id,
    })
}

pub(super) const fn protocol(protocol: wire::Protocol) -> Protocol {
    match protocol {
        wire::Protocol::Tcp => Protocol::Tcp,
        wire::Protocol::Udp => Protocol::Udp,
        wire::Protocol::UdpLite => Protocol::UdpLite,
        wire::Protocol::Icmp => Protocol::Icmp,
        wire::Protocol::Ip => Protocol::Ip,
    }
}

/// Whether it is no flow but that an unusual socket was made.
pub(super) fn opens(bytes: &KeyBytes) -> bool {
    bytes[std::mem::offset_of!(wire::FlowKey, remote_kind)] == wire::RemoteKind::Socket as u8
}

/// The inverse of [`key`].
pub(super) fn key_bytes(key: &FlowKey) -> KeyBytes {
    let (remote_kind, remote) = match key.remote {
        Remote::Address(ip) => (wire::RemoteKind::Address, address(ip)),
        Remote::Cgroup(id) => (wire::RemoteKind::Cgroup, wire::Address::of_cgroup(id.0)),
        Remote::World => (wire::RemoteKind::World, wire::Address::ZERO),
        Remote::Socket(socket) => (wire::RemoteKind::Socket, socket_address(socket)),
    };
    zerocopy::transmute!(wire::FlowKey {
        cgroup_id: key.cgroup.0,
        executable_id: key.executable_id,
        remote,
        local: key.local.map_or(wire::Address::ZERO, address),
        port: key.port,
        protocol: wire_protocol(key.protocol),
        direction: match key.direction {
            Direction::Outbound => wire::Direction::Outbound,
            Direction::Inbound => wire::Direction::Inbound,
            Direction::Listening => wire::Direction::Listening,
        },
        remote_kind,
        outcome: wire_outcome(key.outcome),
        _reserved: [0; 2],
    })
}

fn socket(address: wire::Address) -> Result<Socket, Undecodable> {
    let (kind, protocol) = address.socket().ok_or(Undecodable)?;
    Ok(match kind {
        wire::SocketKind::Raw => Socket::Raw(protocol),
        wire::SocketKind::Ping => Socket::Ping,
        wire::SocketKind::UdpLite => Socket::UdpLite,
        wire::SocketKind::Other => Socket::Other(protocol),
        wire::SocketKind::Packet => Socket::Packet,
        wire::SocketKind::Vsock => Socket::Vsock,
    })
}

/// The inverse of [`socket`].
const fn socket_address(socket: Socket) -> wire::Address {
    let (kind, protocol) = match socket {
        Socket::Raw(protocol) => (wire::SocketKind::Raw, protocol),
        Socket::Ping => (wire::SocketKind::Ping, 0),
        Socket::UdpLite => (wire::SocketKind::UdpLite, 0),
        Socket::Other(protocol) => (wire::SocketKind::Other, protocol),
        Socket::Packet => (wire::SocketKind::Packet, 0),
        Socket::Vsock => (wire::SocketKind::Vsock, 0),
    };
    wire::Address::of_socket(kind, protocol)
}

/// Whose an older socket is, as the kernel's half would have noted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SocketOwner {
    pub(super) cgroup: CgroupId,
    pub(super) executable_id: u64,
    /// 0 where it is not known.
    pub(super) pid: u32,
    pub(super) uid: u32,
}

impl SocketOwner {
    fn wire(self) -> wire::Owner {
        wire::Owner {
            cgroup_id: self.cgroup.0,
            executable_id: self.executable_id,
            process: wire::Process { pid: self.pid, uid: self.uid, comm: [0; wire::COMM_BYTES] },
        }
    }
}

/// An entry of `LISTENERS`; `netns` is 0 where `sock_ops` programs are not told it.
pub(super) fn listener(
    netns: NetnsCookie,
    local: SocketAddr,
    owner: SocketOwner,
) -> (ListenKeyBytes, ListenerBytes) {
    let key = listen_key(netns, local);
    let listener = wire::Listener { owner: owner.wire(), sockets: 1, shared: 0 };
    (zerocopy::transmute!(key), zerocopy::transmute!(listener))
}

/// A value of `LISTENERS` that is another's from now on; None where it is already, or where two listen
/// and their sockets say whose they are.
pub(super) fn handed_over(listener: &ListenerBytes, owner: SocketOwner) -> Option<ListenerBytes> {
    let listener: wire::Listener = read(listener).ok()?;
    let same = listener.owner.cgroup_id == owner.cgroup.0;
    let handed = wire::Listener { owner: owner.wire(), ..listener };
    (!same && listener.shared == 0).then_some(zerocopy::transmute!(handed))
}

/// A value of `SEEN` for connections that are there already, of which this came.
pub(super) fn counted(
    outcome: Outcome,
    origin: &Origin,
    connections: u64,
    now_ns: u64,
) -> StatsBytes {
    let caller = origin.process.as_ref();
    let process = caller.map_or(wire::Process::UNKNOWN, |it| wire::Process {
        pid: it.pid,
        uid: it.uid,
        comm: [0; wire::COMM_BYTES],
    });
    zerocopy::transmute!(wire::FlowStats {
        first_seen_ns: now_ns,
        last_seen_ns: now_ns,
        counts: counts(wire_outcome(outcome), connections),
        origin: wire::Origin {
            netns_cookie: origin.netns.0,
            executable_id: caller.map_or(0, |it| it.executable_id),
            client: origin.client.map_or(wire::Address::ZERO, |it| address(it.ip())),
            process,
            ends: wire::Origin::ends(origin.client.map_or(0, |it| it.port()), 0),
        },
        ..wire::FlowStats::NONE
    })
}

const fn counts(outcome: wire::Outcome, count: u64) -> [u64; wire::Outcome::SLOTS] {
    let mut counts = [0; wire::Outcome::SLOTS];
    counts[outcome.slot()] = count;
    counts
}

/// An entry of `LISTENERS` for a socket that is about to listen.
pub(super) fn expected_listener(
    netns: NetnsCookie,
    local: SocketAddr,
    cgroup: CgroupId,
) -> (ListenKeyBytes, ListenerBytes) {
    let owner = wire::Owner { cgroup_id: cgroup.0, ..wire::Owner::UNKNOWN };
    let key = listen_key(netns, local);
    let listener = wire::Listener { owner, sockets: 0, shared: 0 };
    (zerocopy::transmute!(key), zerocopy::transmute!(listener))
}

fn listen_key(netns: NetnsCookie, local: SocketAddr) -> wire::ListenKey {
    wire::ListenKey {
        netns_cookie: netns.0,
        address: address(local.ip()),
        port: local.port(),
        _reserved: [0; 6],
    }
}

/// What an entry of `LISTENERS` is in `SEEN`.
pub(super) struct Listening {
    pub(super) key: KeyBytes,
    origin: wire::Origin,
}

/// Reads an entry of `LISTENERS`.
pub(super) fn listening(
    key: &ListenKeyBytes,
    listener: &ListenerBytes,
) -> Result<Listening, Undecodable> {
    let key: wire::ListenKey = read(key)?;
    let listener: wire::Listener = read(listener)?;
    let origin = wire::Origin::without_client(&listener.owner, key.netns_cookie);
    let key = wire::FlowKey::listening(&listener.owner, &key);
    Ok(Listening { key: zerocopy::transmute!(key), origin })
}

impl Listening {
    /// Its value where it is entered at `now_ns`, and what is told of it beside the key.
    pub(super) fn entered(&self, now_ns: u64) -> (StatsBytes, Origin) {
        let stats = wire::FlowStats {
            first_seen_ns: now_ns,
            last_seen_ns: now_ns,
            counts: counts(wire::Outcome::Established, 1),
            origin: self.origin,
            ..wire::FlowStats::NONE
        };
        (zerocopy::transmute!(stats), origin(&self.origin))
    }
}

/// The key and the value in `SEEN` of an unusual socket that is there, entered at `now_ns`; and what
/// is told of it beside the key.
pub(super) fn opening(
    socket: Socket,
    owner: SocketOwner,
    now_ns: u64,
) -> (KeyBytes, StatsBytes, Origin) {
    let owner = owner.wire();
    let wire_origin = wire::Origin::without_client(&owner, 0);
    let stats = wire::FlowStats {
        first_seen_ns: now_ns,
        last_seen_ns: now_ns,
        counts: counts(wire::Outcome::Established, 1),
        origin: wire_origin,
        ..wire::FlowStats::NONE
    };
    let key = wire::FlowKey {
        remote: socket_address(socket),
        ..wire::FlowKey::opening(&owner, wire::SocketKind::Raw, 0)
    };
    (zerocopy::transmute!(key), zerocopy::transmute!(stats), origin(&wire_origin))
}

const fn wire_protocol(protocol: Protocol) -> wire::Protocol {
    match protocol {
        Protocol::Tcp => wire::Protocol::Tcp,
        Protocol::Udp => wire::Protocol::Udp,
        Protocol::UdpLite => wire::Protocol::UdpLite,
        Protocol::Icmp => wire::Protocol::Icmp,
        Protocol::Ip => wire::Protocol::Ip,
    }
}

const fn wire_outcome(outcome: Outcome) -> wire::Outcome {
    match outcome {
        Outcome::Attempted => wire::Outcome::Attempted,
        Outcome::Refused => wire::Outcome::Refused,
        Outcome::TimedOut => wire::Outcome::TimedOut,
        // The kernel holds no key with it: there is nothing to find under this one.
        Outcome::Unreachable | Outcome::Denied => wire::Outcome::Unreachable,
        Outcome::Sent => wire::Outcome::Sent,
        Outcome::Established => wire::Outcome::Established,
    }
}

/// A value of `BOUND`: a socket of UDP or UDP-Lite.
pub(super) fn bound(protocol: Protocol, local: SocketAddr, owner: SocketOwner) -> BoundBytes {
    let unspecified = local.ip().is_unspecified();
    zerocopy::transmute!(wire::Bound {
        owner: owner.wire(),
        address: if unspecified { wire::Address::ZERO } else { address(local.ip()) },
        port: local.port(),
        protocol: wire_protocol(protocol),
        _reserved: [0; 5],
    })
}

/// The index of a loss's counter and what it means.
pub(super) fn losses() -> [(u32, Loss); wire::Loss::ALL.len()] {
    wire::Loss::ALL.map(|loss| {
        let meaning = match loss {
            wire::Loss::RingFull => Loss::RingFull,
            wire::Loss::MapFull => Loss::MapFull,
            wire::Loss::Unattributed => Loss::Unattributed,
            wire::Loss::Untracked => Loss::Untracked,
            wire::Loss::Unwatched => Loss::Unwatched,
            wire::Loss::OverBudget => Loss::OverBudget,
            wire::Loss::Unheard => Loss::Unheard,
        };
        (loss.index(), meaning)
    })
}

/// A path as the kernel hashes it: cut, and padded with NULs.
pub(super) fn executable_path(path: &[u8]) -> [u8; wire::EXECUTABLE_PATH_BYTES] {
    let mut bytes = <[u8; wire::EXECUTABLE_PATH_BYTES]>::new_zeroed();
    let length = path.len().min(bytes.len() - 1);
    bytes[..length].copy_from_slice(&path[..length]);
    bytes
}

/// What a process runs and who started it.
pub(super) fn lineage(bytes: &LineageBytes) -> Result<wire::Lineage, Undecodable> {
    read(bytes)
}

pub(super) fn lineage_bytes(lineage: &wire::Lineage) -> LineageBytes {
    zerocopy::transmute!(*lineage)
}

/// How an executable was started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Started {
    pub(super) path: String,
    /// The service's shell that stands behind it; 0 for none.
    pub(super) shell_id: u64,
}

pub(super) fn started(bytes: &StartedBytes) -> Result<Started, Undecodable> {
    let executable: wire::Executable = read(bytes)?;
    Ok(Started { path: text(&executable.path), shell_id: executable.shell_id })
}

pub(super) fn started_bytes(started: &Started) -> StartedBytes {
    let path = executable_path(started.path.as_bytes());
    zerocopy::transmute!(wire::Executable { path, shell_id: started.shell_id })
}

pub(super) fn read<T: TryFromBytes>(bytes: &[u8]) -> Result<T, Undecodable> {
    T::try_read_from_bytes(bytes).map_err(|_bytes| Undecodable)
}

pub(super) fn origin(origin: &wire::Origin) -> Origin {
    let process = (origin.process.pid != 0).then(|| Caller {
        pid: origin.process.pid,
        uid: origin.process.uid,
        command: text(&origin.process.comm),
        executable_id: origin.executable_id,
    });
    Origin {
        netns: NetnsCookie(origin.netns_cookie),
        client: known_ip(origin.client).map(|ip| SocketAddr::new(ip, origin.client_port())),
        process,
        opener: Some(origin.opener()).filter(|id| *id != 0).map(CgroupId),
    }
}

/// Text up to its NUL.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

pub(super) fn ip(address: wire::Address) -> IpAddr {
    Ipv6Addr::from(address.bytes()).to_canonical()
}

fn known_ip(address: wire::Address) -> Option<IpAddr> {
    (address != wire::Address::ZERO).then(|| ip(address))
}

fn address(ip: IpAddr) -> wire::Address {
    let v6 = match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    wire::Address::from_bytes(v6.octets())
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes as _;

    use super::*;
    use crate::capture::entries::{entry, held};

    fn flow_key() -> FlowKey {
        FlowKey {
            cgroup: CgroupId(7),
            direction: Direction::Outbound,
            protocol: Protocol::Tcp,
            remote: Remote::Address("192.0.2.7".parse().unwrap()),
            local: None,
            port: 443,
            outcome: Outcome::Established,
            executable_id: 9,
        }
    }

    fn flow_record() -> Vec<u8> {
        let key: wire::FlowKey = read(&key_bytes(&flow_key())).unwrap();
        let record = wire::FlowRecord {
            kind: wire::RecordKind::Flow,
            news: wire::News::Entered,
            at_ns: 5,
            entered_ns: 4,
            key,
            origin: wire::Origin {
                netns_cookie: 3,
                executable_id: 9,
                client: address("2001:db8::1".parse().unwrap()),
                process: wire::Process { pid: 1, uid: 2, comm: *b"curl\0garbage\xff\xff\0\0" },
                ends: wire::Origin::ends(4, 0xffff_ffff_ffff),
            },
        };
        record.as_bytes().to_vec()
    }

    #[test]
    fn keys_survive_the_trip() {
        let mut keys = Vec::new();
        for remote in [
            Remote::Address("192.0.2.7".parse().unwrap()),
            Remote::Address("2001:db8::1".parse().unwrap()),
            Remote::Address("::".parse().unwrap()),
            Remote::Cgroup(CgroupId(u64::MAX)),
            Remote::World,
        ] {
            for (direction, protocol, outcome) in [
                (Direction::Outbound, Protocol::Tcp, Outcome::Attempted),
                (Direction::Outbound, Protocol::Tcp, Outcome::Refused),
                (Direction::Outbound, Protocol::Tcp, Outcome::TimedOut),
                (Direction::Outbound, Protocol::Tcp, Outcome::Unreachable),
                (Direction::Inbound, Protocol::Udp, Outcome::Sent),
                (Direction::Inbound, Protocol::Tcp, Outcome::Established),
                (Direction::Listening, Protocol::Tcp, Outcome::Established),
            ] {
                let reached = direction != Direction::Outbound;
                keys.push(FlowKey {
                    direction,
                    protocol,
                    remote,
                    outcome,
                    local: reached.then(|| "10.0.0.1".parse().unwrap()),
                    ..flow_key()
                });
            }
        }
        for flow_key in keys {
            assert_eq!(key(&key_bytes(&flow_key)), Ok(flow_key));
        }
    }

    #[test]
    fn a_flow_record_is_read() {
        let Ok(Record::Flow { news, key: bytes, at_ns, entered_ns, origin }) =
            record(&flow_record())
        else {
            panic!("not read");
        };
        assert_eq!((news, key(&bytes)), (wire::News::Entered, Ok(flow_key())));
        assert_eq!((at_ns, entered_ns), (5, Some(4)));
        assert_eq!(origin.client, Some("[2001:db8::1]:4".parse().unwrap()));
        let caller = Caller { pid: 1, uid: 2, command: "curl".to_owned(), executable_id: 9 };
        assert_eq!(origin.process, Some(caller));
    }

    #[test]
    fn wrong_lengths_and_kinds_are_refused() {
        let good = flow_record();
        for length in 0..good.len() {
            assert_eq!(record(&good[..length]), Err(Undecodable), "{length}");
        }
        let longer = [&good[..], &[0]].concat();
        assert_eq!(record(&longer), Err(Undecodable));
        for kind in [0, 4, 255] {
            let mut wrong = good.clone();
            wrong[0] = kind;
            assert_eq!(record(&wrong), Err(Undecodable), "{kind}");
        }
    }

    /// Of every kind of record, every wrong length; and of every byte that names something, every value
    /// that names nothing. Each is refused, and so counted once.
    #[test]
    fn of_wrong_records_not_one_is_read() {
        let removed =
            wire::CgroupRemoved { kind: wire::RecordKind::CgroupRemoved, _reserved: 0, id: 5 };
        let created = wire::CgroupCreated {
            kind: wire::RecordKind::CgroupCreated,
            path_bytes: 1,
            id: 5,
            path: [b'/'; wire::CGROUP_PATH_BYTES],
        };
        let whole = [flow_record(), removed.as_bytes().to_vec(), created.as_bytes().to_vec()];
        let (mut wrong, mut refused) = (0, 0);
        let mut check = |bytes: &[u8]| {
            wrong += 1;
            refused += usize::from(record(bytes) == Err(Undecodable));
        };
        for good in &whole {
            assert!(record(good).is_ok(), "{good:?}");
            let twice = [good.as_slice(), good.as_slice()].concat();
            (0..twice.len()).filter(|it| *it != good.len()).for_each(|it| check(&twice[..it]));
        }
        // The kind of record and why it is told, then protocol, direction, far end, outcome.
        let protocols = [0, 1, 6, 17, 136];
        let named: [(usize, &[u8]); 6] = [
            (0, &[1, 2, 3]),
            (4, &[1, 2, 3]),
            (74, &protocols),
            (75, &[1, 2, 3]),
            (76, &[1, 2, 3, 4]),
            (77, &[1, 2, 3, 4, 5, 6]),
        ];
        for (at, known) in named {
            for byte in (0..=u8::MAX).filter(|byte| !known.contains(byte)) {
                let mut bytes = flow_record();
                bytes[at] = byte;
                check(&bytes);
            }
        }
        assert_eq!(refused, wrong);
        assert!(wrong > 2_500, "{wrong} tried");
    }

    #[test]
    fn garbage_never_passes_for_an_enum() {
        let good = key_bytes(&flow_key());
        for at in 50..54 {
            // At the first of them, 0 is a protocol like others.
            for byte in [0, 7, 8, 200, 255].into_iter().skip(usize::from(at == 50)) {
                let mut wrong = good;
                wrong[at] = byte;
                assert_eq!(key(&wrong), Err(Undecodable), "byte {at} = {byte}");
            }
        }
        // A flow whose key is garbage is refused as a record.
        let mut wrong = flow_record();
        wrong[24 + 50] = 99;
        assert_eq!(record(&wrong), Err(Undecodable));
    }

    #[test]
    fn all_that_came_of_a_dial_is_one_entry() {
        let of = |outcome| key_bytes(&FlowKey { outcome, ..flow_key() });
        let mut counts = counts(wire::Outcome::Attempted, 2);
        counts[wire::Outcome::Established.slot()] = 7;
        counts[wire::Outcome::Refused.slot()] = 1;
        let stats = wire::FlowStats {
            first_seen_ns: 5,
            last_seen_ns: 6,
            counts,
            bytes_sent: 100,
            ..wire::FlowStats::NONE
        };
        let held = held(&of(Outcome::Established));
        assert_eq!(held, of(Outcome::Attempted));
        let entry = entry(&held, &zerocopy::transmute!(stats)).unwrap().unwrap();
        let flow = |outcome| {
            let (_, it) = entry.flows().find(|(bytes, _)| *bytes == of(outcome))?;
            Some((it.first_seen_ns, it.connections, it.bytes_sent))
        };
        assert_eq!(flow(Outcome::Attempted), Some((5, 2, 0)));
        assert_eq!(flow(Outcome::Established), Some((5, 7, 100)));
        assert_eq!(flow(Outcome::Refused), Some((5, 1, 0)));
        assert_eq!((flow(Outcome::TimedOut), entry.flows().count()), (None, 3));
    }

    #[test]
    fn any_other_key_is_its_own_entry() {
        let others = [
            FlowKey { protocol: Protocol::Udp, outcome: Outcome::Sent, ..flow_key() },
            FlowKey { protocol: Protocol::Udp, outcome: Outcome::Attempted, ..flow_key() },
            FlowKey { direction: Direction::Inbound, ..flow_key() },
            FlowKey { direction: Direction::Listening, remote: Remote::World, ..flow_key() },
        ];
        for key in others {
            let bytes = key_bytes(&key);
            assert_eq!(held(&bytes), bytes);
            let stats =
                wire::FlowStats { first_seen_ns: 5, counts: [3; 5], ..wire::FlowStats::NONE };
            let entry = entry(&bytes, &zerocopy::transmute!(stats)).unwrap().unwrap();
            let flows = entry.flows().map(|(bytes, it)| (bytes, it.connections));
            assert!(flows.eq([(bytes, 3)]), "{key:?}");
        }
        let unread = [0xff; size_of::<KeyBytes>()];
        assert_eq!(held(&unread), unread);
        let unwritten = zerocopy::transmute!(wire::FlowStats::NONE);
        assert!(matches!(entry(&key_bytes(&flow_key()), &unwritten), Ok(None)));
    }

    #[test]
    fn a_listener_is_told_as_the_kernel_would() {
        let owner = SocketOwner { cgroup: CgroupId(7), executable_id: 9, pid: 1, uid: 2 };
        for (at, local) in
            [("10.0.0.1:80", Some("10.0.0.1")), ("0.0.0.0:80", None), ("[::]:80", None)]
        {
            let (listen_key, value) = listener(NetnsCookie(3), at.parse().unwrap(), owner);
            let listening = listening(&listen_key, &value).unwrap();
            let (stats_bytes, origin) = listening.entered(5);
            let bytes = listening.key;
            let expected = FlowKey {
                direction: Direction::Listening,
                remote: Remote::World,
                local: local.map(|it| it.parse().unwrap()),
                port: 80,
                ..flow_key()
            };
            assert_eq!(key(&bytes), Ok(expected), "{at}");
            let entry = entry(&bytes, &stats_bytes).unwrap().unwrap();
            let (_, counters) = entry.flows().next().unwrap();
            assert_eq!((entry.first_seen_ns, counters.connections), (5, 1));
            assert_eq!(entry.origin(), origin);
            assert_eq!((origin.netns, origin.client), (NetnsCookie(3), None));
            assert_eq!(origin.process.map(|it| (it.pid, it.executable_id)), Some((1, 9)));
        }
    }

    #[test]
    fn cgroup_paths_are_cut_where_they_say_and_left_out_where_too_long() {
        let created = |path_bytes: u32| {
            let mut path = [b'x'; wire::CGROUP_PATH_BYTES];
            path[0] = b'/';
            let record = wire::CgroupCreated {
                kind: wire::RecordKind::CgroupCreated,
                path_bytes,
                id: 5,
                path,
            };
            record_path(record.as_bytes())
        };
        assert_eq!(created(3), Ok(Some("/xx".to_owned())));
        assert_eq!(created(511), Ok(None));
        assert_eq!(created(0), Ok(None));
        assert_eq!(created(513), Err(Undecodable));
        assert_eq!(created(u32::MAX), Err(Undecodable));
    }

    fn record_path(bytes: &[u8]) -> Result<Option<String>, Undecodable> {
        match record(bytes)? {
            Record::CgroupCreated { path, .. } => Ok(path),
            other => panic!("{other:?}"),
        }
    }

    /// They are read by nobody else unless somebody fuzzes.
    #[test]
    fn the_fuzzers_seeds_are_what_they_are_called() {
        let seeds = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/seeds/decode");
        let mut names = Vec::new();
        for seed in std::fs::read_dir(seeds).unwrap() {
            let seed = seed.unwrap();
            let name = seed.file_name().into_string().unwrap();
            is_what_it_is_called(&name, &std::fs::read(seed.path()).unwrap());
            names.push(name);
        }
        assert_eq!(names.len(), 6, "{names:?}");
    }

    #[track_caller]
    fn is_what_it_is_called(name: &str, bytes: &[u8]) {
        if name == "entry" {
            let (bytes, value) = bytes.split_first_chunk().unwrap();
            assert!(entry(bytes, value.try_into().unwrap()).unwrap().is_some(), "{name}");
            return;
        }
        let read = record(bytes);
        let flow = match &read {
            Ok(Record::Flow { key: bytes, .. }) => {
                let key = key(bytes).unwrap();
                Some((key.direction, key.remote))
            }
            _ => None,
        };
        let is_so = match name {
            "cgroup-created" => matches!(read, Ok(Record::CgroupCreated { path: Some(_), .. })),
            "cgroup-removed" => matches!(read, Ok(Record::CgroupRemoved { .. })),
            "flow-out" => matches!(flow, Some((Direction::Outbound, _))),
            "flow-from-world" => flow == Some((Direction::Inbound, Remote::World)),
            "flow-from-cgroup" => matches!(flow, Some((Direction::Inbound, Remote::Cgroup(_)))),
            _ => panic!("{name}: say here what it is"),
        };
        assert!(is_so, "{name}: {read:?}");
    }

    #[test]
    fn random_bytes_are_refused_or_read_but_never_panic() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut bytes = vec![0; 600];
        for round in 0..20_000 {
            for byte in &mut bytes {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                *byte = state.to_le_bytes()[3];
            }
            let length = [16, 128, 528, round % 600][round % 4];
            bytes[..4].copy_from_slice(&u32::to_ne_bytes(state.to_le_bytes()[0].into()));
            drop(record(&bytes[..length]));
            bytes[0] = state.to_le_bytes()[1] % 4;
            bytes[1..4].fill(0);
            drop(record(&bytes[..length]));
        }
    }
}
