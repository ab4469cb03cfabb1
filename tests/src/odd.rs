//! What the peer program does with sockets that are neither TCP's nor UDP's: makes them, sends by them
//! what nothing else would, and exchanges datagrams by UDP-Lite.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::net::{AddressFamily, Protocol, SendFlags, SocketFlags, SocketType};

use crate::kernel;

/// The sockets of one peer.
#[derive(Debug, Default)]
pub struct Sockets {
    open: Vec<(Kind, OwnedFd)>,
}

/// What can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    RawIcmp,
    RawIcmp6,
    /// Whose packets come with their IP header.
    Headers,
    Ping,
    Ping6,
    UdpLite,
    UdpLite6,
    Packet,
    /// Past the queues of the interface.
    PacketBypass,
    Vsock,
}

impl Kind {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "raw-icmp" => Self::RawIcmp,
            "raw-icmp6" => Self::RawIcmp6,
            "headers" => Self::Headers,
            "ping" => Self::Ping,
            "ping6" => Self::Ping6,
            "udplite" => Self::UdpLite,
            "udplite6" => Self::UdpLite6,
            "packet" => Self::Packet,
            "packet-bypass" => Self::PacketBypass,
            "vsock" => Self::Vsock,
            _ => return None,
        })
    }

    fn open(self) -> anyhow::Result<OwnedFd> {
        let (inet, inet6) = (AddressFamily::INET, AddressFamily::INET6);
        let (raw, datagram) = (SocketType::RAW, SocketType::DGRAM);
        let (family, kind, protocol) = match self {
            Self::RawIcmp => (inet, raw, libc::IPPROTO_ICMP),
            Self::RawIcmp6 => (inet6, raw, libc::IPPROTO_ICMPV6),
            Self::Headers => (inet, raw, libc::IPPROTO_RAW),
            Self::Ping => (inet, datagram, libc::IPPROTO_ICMP),
            Self::Ping6 => (inet6, datagram, libc::IPPROTO_ICMPV6),
            Self::UdpLite => (inet, datagram, libc::IPPROTO_UDPLITE),
            Self::UdpLite6 => (inet6, datagram, libc::IPPROTO_UDPLITE),
            Self::Packet | Self::PacketBypass => (AddressFamily::PACKET, raw, 0),
            Self::Vsock => (AddressFamily::from_raw(VSOCK), SocketType::STREAM, 0),
        };
        let protocol = u32::try_from(protocol)?.try_into().ok().map(Protocol::from_raw);
        let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, protocol);
        socket.with_context(|| format!("make a socket: {self:?}"))
    }

    /// A packet of this kind for `to`.
    fn packet(self, to: SocketAddr) -> Vec<u8> {
        match (self, to) {
            (Self::RawIcmp | Self::Ping, _) => ECHO.to_vec(),
            (Self::RawIcmp6 | Self::Ping6, _) => [&[128], &ECHO[1..]].concat(),
            (Self::Headers, SocketAddr::V4(to)) => syn(*to.ip(), to.port()),
            _ => b"x".to_vec(),
        }
    }
}

const VSOCK: u16 = 40;

/// An ICMP echo request; the checksum is nobody's business here.
const ECHO: [u8; 8] = [8, 0, 0, 0, 0, 0, 0, 0];

/// An IPv4 header and a SYN behind it, as a scanner makes them.
fn syn(to: Ipv4Addr, port: u16) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 40, 0, 1, 0, 0, 64, 6, 0, 0, 0, 0, 0, 0];
    packet.extend(to.octets());
    packet.extend(40_000_u16.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 4, 0, 0, 0, 0, 0]);
    packet
}

impl Sockets {
    /// Carries out one order, and says what came of it.
    ///
    /// # Errors
    /// The order means nothing, or the kernel refused.
    pub fn obey(&mut self, words: &[&str]) -> anyhow::Result<&'static str> {
        match words {
            ["open", kind] => {
                let kind = Kind::named(kind).with_context(|| format!("{kind:?} is no kind"))?;
                self.open.push((kind, kind.open()?));
                Ok("open")
            }
            ["send", to] => {
                let (kind, socket) = self.open.last().context("nothing is open")?;
                send(*kind, socket, to.parse()?)?;
                Ok("sent")
            }
            ["connect", to] => {
                let (_, socket) = self.open.last().context("nothing is open")?;
                rustix::net::connect(socket, &to.parse::<SocketAddr>()?).context("connect")?;
                rustix::net::send(socket, b"x", SendFlags::empty()).context("send")?;
                Ok("sent")
            }
            ["exchange", to] => {
                exchange(to.parse()?)?;
                Ok("answered")
            }
            ["close"] => {
                self.open.clear();
                Ok("closed")
            }
            other => bail!("{other:?} is nothing to do with a socket"),
        }
    }
}

fn send(kind: Kind, socket: &OwnedFd, to: SocketAddr) -> anyhow::Result<()> {
    if kind == Kind::PacketBypass {
        kernel::bypass_queues(socket).context("pass by the queues")?;
    }
    if matches!(kind, Kind::Packet | Kind::PacketBypass) {
        return kernel::send_frame(socket).context("send a frame");
    }
    // A raw socket takes no port.
    let takes_port = matches!(kind, Kind::UdpLite | Kind::UdpLite6);
    let at = SocketAddr::new(to.ip(), if takes_port { to.port() } else { 0 });
    let sent = rustix::net::sendto(socket, &kind.packet(to), SendFlags::empty(), &at);
    sent.map(drop).with_context(|| format!("send to {to}"))
}

/// A UDP-Lite socket that serves `at`.
///
/// # Errors
/// The address is taken.
pub fn server(at: SocketAddr) -> anyhow::Result<UdpSocket> {
    let socket = udplite(at.ip())?;
    rustix::net::bind(&socket, &at).with_context(|| format!("bind {at}"))?;
    Ok(socket.into())
}

/// Sends a datagram and waits for the answer.
fn exchange(to: SocketAddr) -> anyhow::Result<()> {
    let socket = UdpSocket::from(udplite(to.ip())?);
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.send_to(b"x", to).context("send")?;
    socket.recv_from(&mut [0; 64]).context("receive")?;
    Ok(())
}

fn udplite(address: IpAddr) -> anyhow::Result<OwnedFd> {
    if address.is_ipv4() { Kind::UdpLite.open() } else { Kind::UdpLite6.open() }
}
