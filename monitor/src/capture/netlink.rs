//! The two questions asked over netlink, of the network namespace that the thread is in: which
//! sockets there are and whose, and which addresses. Answers are parsed strictly: what does not fit
//! is left out.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use monitor_core::flow::Protocol;
use monitor_core::ids::CgroupId;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// A socket that was there before us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OldSocket {
    pub(super) local: SocketAddr,
    /// Unspecified where it is not connected.
    pub(super) remote: SocketAddr,
    pub(super) stage: Stage,
    pub(super) cookie: u64,
    pub(super) uid: u32,
    pub(super) inode: u32,
    pub(super) cgroup: CgroupId,
}

/// How far a socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It listens, or is not connected.
    Open,
    Dialling,
    Connected,
}

/// Which sockets are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    /// TCP sockets that listen, UDP and UDP-Lite sockets that are not connected.
    Open,
    /// And those that have a far end, and for TCP are not being closed by this one.
    All,
}

impl Wanted {
    /// The kernel's number of a protocol, and the states of `enum tcp_state`, one bit for each; None
    /// where it is not asked for.
    const fn asked(self, protocol: Protocol) -> Option<(i32, u32)> {
        let (number, open, connected) = match protocol {
            Protocol::Tcp => (
                libc::IPPROTO_TCP,
                1 << STATE_LISTEN,
                1 << STATE_ESTABLISHED | 1 << STATE_SYN_SENT | 1 << STATE_CLOSE_WAIT,
            ),
            Protocol::Udp => (libc::IPPROTO_UDP, 1 << STATE_CLOSE, 1 << STATE_ESTABLISHED),
            Protocol::UdpLite => (libc::IPPROTO_UDPLITE, 1 << STATE_CLOSE, 0),
            Protocol::Icmp | Protocol::Ip => return None,
        };
        match self {
            Self::Open => Some((number, open)),
            Self::All => Some((number, open | connected)),
        }
    }
}

/// Where one TCP socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SocketAt {
    Connected {
        local: SocketAddr,
        remote: SocketAddr,
    },
    /// At all addresses where none is given.
    Listening {
        address: Option<IpAddr>,
        port: u16,
    },
}

/// Asks about single sockets of the namespace that it was made in.
pub(super) struct Sockets(OwnedFd);

impl Sockets {
    pub(super) fn here() -> io::Result<Self> {
        let (family, flags) = (AddressFamily::NETLINK, SocketFlags::CLOEXEC);
        let protocol = Some(netlink::SOCK_DIAG);
        let socket = socket_with(family, SocketType::RAW, flags, protocol)?;
        // The kernel answers before it returns: what is not there by then will not come.
        let soon = Some(std::time::Duration::from_millis(10));
        rustix::net::sockopt::set_socket_timeout(
            &socket,
            rustix::net::sockopt::Timeout::Recv,
            soon,
        )?;
        Ok(Self(socket))
    }

    /// The cgroup that a socket was opened in; None where it is gone, or the kernel does not say.
    pub(super) fn opener(&self, at: &SocketAt) -> Option<CgroupId> {
        let (local, remote) = match *at {
            SocketAt::Connected { local, remote } => (local, remote),
            SocketAt::Listening { address, port } => {
                // At `::` an IPv4 address is listened at too, unless there is one of its own.
                let address = address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
                let nobody = match address {
                    IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                    IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
                };
                (SocketAddr::new(address, port), SocketAddr::new(nobody, 0))
            }
        };
        send(&self.0, &socket_request(local, remote), SendFlags::empty()).ok()?;
        let mut buffer = [0; 1 << 12];
        let (length, _) = recv(&self.0, &mut buffer[..], RecvFlags::empty()).ok()?;
        let mut found = None;
        let answered = each_message(&buffer[..length], &mut |kind, payload| {
            if kind == SOCK_DIAG_BY_FAMILY {
                found = old_socket(payload);
            }
        });
        answered.ok()?;
        found.filter(|it| it.local.port() == local.port()).map(|it| it.cgroup)
    }
}

/// The sockets of this namespace.
pub(super) fn sockets(protocol: Protocol, wanted: Wanted) -> io::Result<Vec<OldSocket>> {
    let mut sockets = Vec::new();
    let Some((protocol, states)) = wanted.asked(protocol) else {
        return Ok(sockets);
    };
    for family in [libc::AF_INET, libc::AF_INET6] {
        let request = sockets_request(protocol, states, family);
        dump(Some(netlink::SOCK_DIAG), &request, |kind, payload| {
            if kind == SOCK_DIAG_BY_FAMILY {
                sockets.extend(old_socket(payload));
            }
        })?;
    }
    Ok(sockets)
}

/// Addresses, loopback left out.
pub(super) fn addresses() -> io::Result<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    // struct ifaddrmsg: all families, all interfaces.
    let request = message(libc::RTM_GETADDR, &[0; 8]);
    dump(None, &request, |kind, payload| {
        if kind == libc::RTM_NEWADDR {
            addresses.extend(address(payload).filter(|address| !address.is_loopback()));
        }
    })?;
    addresses.sort_unstable();
    addresses.dedup();
    Ok(addresses)
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const STATE_ESTABLISHED: u8 = 1;
const STATE_SYN_SENT: u8 = 2;
const STATE_CLOSE: u8 = 7;
const STATE_CLOSE_WAIT: u8 = 8;
const STATE_LISTEN: u8 = 10;

/// struct inet_diag_req_v2
fn sockets_request(protocol: i32, states: u32, family: i32) -> Vec<u8> {
    let mut request = [0; 56];
    request[0] = family.to_ne_bytes()[low_byte()];
    request[1] = protocol.to_ne_bytes()[low_byte()];
    request[4..8].copy_from_slice(&states.to_ne_bytes());
    message(SOCK_DIAG_BY_FAMILY, &request)
}

/// struct inet_diag_req_v2, for one socket.
fn socket_request(local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let family = if local.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let mut request = [0; 56];
    request[0] = family.to_ne_bytes()[low_byte()];
    request[1] = libc::IPPROTO_TCP.to_ne_bytes()[low_byte()];
    request[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
    request[8..10].copy_from_slice(&local.port().to_be_bytes());
    request[10..12].copy_from_slice(&remote.port().to_be_bytes());
    for (at, address) in [(12, local.ip()), (28, remote.ip())] {
        match address {
            IpAddr::V4(v4) => request[at..at + 4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => request[at..at + 16].copy_from_slice(&v6.octets()),
        }
    }
    // INET_DIAG_NOCOOKIE: it is not known.
    request[48..56].copy_from_slice(&[0xff; 8]);
    typed(SOCK_DIAG_BY_FAMILY, REQUEST, &request)
}

/// Where the lowest byte of an `i32` lies.
const fn low_byte() -> usize {
    if cfg!(target_endian = "little") { 0 } else { 3 }
}

const REQUEST: u16 = 0x1;
const REQUEST_AND_DUMP: u16 = 0x301;

/// A request for all there is.
fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
    typed(kind, REQUEST_AND_DUMP, payload)
}

/// struct nlmsghdr and what follows it.
fn typed(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + payload.len()).unwrap_or(u32::MAX);
    let mut message = Vec::with_capacity(HEADER + payload.len());
    message.extend_from_slice(&length.to_ne_bytes());
    message.extend_from_slice(&kind.to_ne_bytes());
    message.extend_from_slice(&flags.to_ne_bytes());
    message.extend_from_slice(&[0; 8]);
    message.extend_from_slice(payload);
    message
}

const HEADER: usize = 16;

/// Sends one request (to the routing protocol, where none is named) and hands each answer to `take`.
fn dump(
    protocol: Option<rustix::net::Protocol>,
    request: &[u8],
    mut take: impl FnMut(u16, &[u8]),
) -> io::Result<()> {
    let family = AddressFamily::NETLINK;
    let flags = SocketFlags::CLOEXEC;
    let socket: OwnedFd = socket_with(family, SocketType::RAW, flags, protocol)?;
    send(&socket, request, SendFlags::empty())?;
    // As much as the kernel ever puts into one answer.
    let mut buffer = vec![0; 1 << 16];
    loop {
        let (length, _) = recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        if length == 0 || each_message(&buffer[..length], &mut take)? == Dump::Done {
            return Ok(());
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Dump {
    More,
    Done,
}

/// Splits one datagram into its messages.
fn each_message(mut datagram: &[u8], take: &mut impl FnMut(u16, &[u8])) -> io::Result<Dump> {
    const ERROR: u16 = 2;
    const DONE: u16 = 3;
    while datagram.len() >= HEADER {
        let length = usize::try_from(u32_at(datagram, 0)).unwrap_or(usize::MAX);
        if length < HEADER || length > datagram.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let payload = &datagram[HEADER..length];
        match u16_at(datagram, 4) {
            DONE => return Ok(Dump::Done),
            ERROR if payload.len() >= 4 => {
                let code = u32_at(payload, 0).cast_signed();
                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
            }
            kind => take(kind, payload),
        }
        datagram = &datagram[length.next_multiple_of(4).min(datagram.len())..];
    }
    Ok(Dump::More)
}

/// struct inet_diag_msg and its attributes.
fn old_socket(payload: &[u8]) -> Option<OldSocket> {
    const MESSAGE: usize = 72;
    const INET_DIAG_CGROUP_ID: u16 = 21;
    let attributes = payload.get(MESSAGE..)?;
    let cgroup = attribute(attributes, INET_DIAG_CGROUP_ID)?;
    let (local, remote) = match i32::from(payload[0]) {
        libc::AF_INET => (ipv4(&payload[8..12])?, ipv4(&payload[24..28])?),
        libc::AF_INET6 => (ipv6(&payload[8..24])?, ipv6(&payload[24..40])?),
        _ => return None,
    };
    let stage = match payload[1] {
        STATE_LISTEN | STATE_CLOSE => Stage::Open,
        STATE_SYN_SENT => Stage::Dialling,
        _ => Stage::Connected,
    };
    let cookie = u64::from(u32_at(payload, 44)) | u64::from(u32_at(payload, 48)) << 32;
    Some(OldSocket {
        local: SocketAddr::new(local, u16::from_be_bytes([payload[4], payload[5]])),
        remote: SocketAddr::new(remote, u16::from_be_bytes([payload[6], payload[7]])),
        stage,
        cookie,
        uid: u32_at(payload, 64),
        inode: u32_at(payload, 68),
        cgroup: CgroupId(u64::from_ne_bytes(cgroup.try_into().ok()?)),
    })
}

/// struct ifaddrmsg and its attributes.
fn address(payload: &[u8]) -> Option<IpAddr> {
    const MESSAGE: usize = 8;
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    let attributes = payload.get(MESSAGE..)?;
    // On a point-to-point interface the first is the far end.
    let bytes = attribute(attributes, IFA_LOCAL).or_else(|| attribute(attributes, IFA_ADDRESS))?;
    match i32::from(payload[0]) {
        libc::AF_INET => ipv4(bytes),
        libc::AF_INET6 => ipv6(bytes),
        _ => None,
    }
}

/// The payload of the first attribute of a kind: struct rtattr, padded to four bytes.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while attributes.len() >= 4 {
        let length = usize::from(u16_at(attributes, 0));
        let payload = attributes.get(4..length)?;
        if u16_at(attributes, 2) == wanted {
            return Some(payload);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn ipv4(bytes: &[u8]) -> Option<IpAddr> {
    let octets: [u8; 4] = bytes.try_into().ok()?;
    Some(Ipv4Addr::from(octets).into())
}

/// IPv4-mapped addresses stay: `::ffff:0.0.0.0` is not `::`.
fn ipv6(bytes: &[u8]) -> Option<IpAddr> {
    let octets: [u8; 16] = bytes.try_into().ok()?;
    Some(Ipv6Addr::from(octets).to_canonical())
}

/// The caller has checked that it is there.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The caller has checked that it is there.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(list: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, payload) in list {
            let length = u16::try_from(4 + payload.len()).unwrap();
            bytes.extend_from_slice(&length.to_ne_bytes());
            bytes.extend_from_slice(&kind.to_ne_bytes());
            bytes.extend_from_slice(payload);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    fn socket() -> Vec<u8> {
        let mut payload = vec![0; 72];
        payload[0] = 2;
        payload[1] = 10;
        payload[4..6].copy_from_slice(&443_u16.to_be_bytes());
        payload[6..8].copy_from_slice(&5000_u16.to_be_bytes());
        payload[8..12].copy_from_slice(&[127, 0, 0, 1]);
        payload[24..28].copy_from_slice(&[10, 0, 0, 9]);
        payload[44..48].copy_from_slice(&7_u32.to_ne_bytes());
        payload[48..52].copy_from_slice(&1_u32.to_ne_bytes());
        payload[64..68].copy_from_slice(&33_u32.to_ne_bytes());
        payload[68..72].copy_from_slice(&99_u32.to_ne_bytes());
        payload.extend(attributes(&[(8, &[1]), (21, &5_u64.to_ne_bytes())]));
        payload
    }

    #[test]
    fn a_socket_is_read() {
        let expected = OldSocket {
            local: "127.0.0.1:443".parse().unwrap(),
            remote: "10.0.0.9:5000".parse().unwrap(),
            stage: Stage::Open,
            cookie: 7 | 1 << 32,
            uid: 33,
            inode: 99,
            cgroup: CgroupId(5),
        };
        assert_eq!(old_socket(&socket()), Some(expected));
    }

    #[test]
    fn cut_off_answers_are_left_out() {
        let payload = socket();
        for length in 0..payload.len() {
            assert_eq!(old_socket(&payload[..length]), None, "{length}");
            assert_eq!(address(&payload[..length.min(8)]), None);
        }
    }

    #[test]
    fn the_near_end_of_an_interface_is_its_address() {
        let mut payload = vec![2, 24, 0, 0, 0, 0, 0, 0];
        payload.extend(attributes(&[(1, &[10, 0, 0, 1]), (2, &[10, 0, 0, 2])]));
        assert_eq!(address(&payload), Some("10.0.0.2".parse().unwrap()));
        payload[0] = 10;
        assert_eq!(address(&payload), None);
    }

    #[test]
    fn datagrams_are_split_and_errors_are_errors() {
        let mut seen = Vec::new();
        let two = [message(20, &[1, 2, 3, 4, 5]), vec![0; 3], message(21, &[])].concat();
        let mut take = |kind, payload: &[u8]| seen.push((kind, payload.len()));
        assert_eq!(each_message(&two, &mut take).unwrap(), Dump::More);
        assert_eq!(each_message(&message(3, &[0; 4]), &mut take).unwrap(), Dump::Done);
        let denied = message(2, &(-libc::EPERM).to_ne_bytes());
        let error = each_message(&denied, &mut take).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(each_message(&[1; 20], &mut take).is_err(), "length beyond the datagram");
        assert!(each_message(&[0; 16], &mut take).is_err(), "length of nothing");
        assert_eq!(seen, [(20, 5), (21, 0)]);
    }

    #[test]
    fn this_namespace_answers() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        // A kernel before 5.8 does not tell the cgroup: then there is nothing to find.
        let found = sockets(Protocol::Tcp, Wanted::Open).unwrap();
        let client = std::net::TcpStream::connect(local).unwrap();
        let near = client.local_addr().unwrap();
        let all = sockets(Protocol::Tcp, Wanted::All).unwrap();
        let is_it = |it: &&OldSocket| (it.local, it.remote) == (near, local);
        let its = all.iter().find(is_it).map(|it| it.stage);
        assert!(found.is_empty() || its == Some(Stage::Connected), "{all:?}");
        let sockets = Sockets::here().unwrap();
        let own = all.iter().find(is_it).map(|it| it.cgroup);
        assert_eq!(sockets.opener(&SocketAt::Connected { local: near, remote: local }), own);
        let at = SocketAt::Listening { address: Some(local.ip()), port: local.port() };
        assert_eq!(sockets.opener(&at), own);
        assert_eq!(sockets.opener(&SocketAt::Listening { address: None, port: 0 }), None);
        assert!(found.is_empty() || found.iter().any(|socket| socket.local == local));
        assert!(addresses().unwrap().iter().all(|address| !address.is_loopback()));
    }
}
