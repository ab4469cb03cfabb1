//! Sockets that are neither TCP's nor UDP's: what kind one is, and the one way to write it. Where they
//! send is for the flows to say, as far as it can be seen.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ids::NameError;

/// The kind of a socket, as somebody made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Socket {
    /// `AF_PACKET`: whole frames, past everything that looks at sockets.
    Packet,
    /// `AF_VSOCK`: between a virtual machine and its host.
    Vsock,
    /// ICMP echo without privileges.
    Ping,
    UdpLite,
    /// `SOCK_RAW`: packets of one IP protocol (255: of any) as the process writes them.
    Raw(u8),
    /// Another protocol above IP.
    Other(u8),
}

/// IP protocols that have a name here; the others are written as numbers.
const NAMES: [(u8, &str); 10] = [
    (1, "icmp"),
    (2, "igmp"),
    (6, "tcp"),
    (17, "udp"),
    (47, "gre"),
    (58, "icmpv6"),
    (89, "ospf"),
    (132, "sctp"),
    (136, "udplite"),
    (255, "any"),
];

impl Socket {
    /// Whether it can send what no other hook shows, to anybody: what is never ordinary.
    #[must_use]
    pub const fn is_grave(self) -> bool {
        match self {
            Self::Packet | Self::Vsock | Self::Raw(_) => true,
            Self::Ping | Self::UdpLite | Self::Other(_) => false,
        }
    }

    /// Whether what it sends passes where packets of a cgroup can be looked at.
    #[must_use]
    pub const fn sends_by_ip(self) -> bool {
        match self {
            Self::Raw(_) | Self::Ping | Self::UdpLite | Self::Other(_) => true,
            Self::Packet | Self::Vsock => false,
        }
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, protocol) = match self {
            Self::Packet => return f.write_str("packet"),
            Self::Vsock => return f.write_str("vsock"),
            Self::Ping => return f.write_str("ping"),
            Self::UdpLite => return f.write_str("udplite"),
            Self::Raw(protocol) => ("raw", protocol),
            Self::Other(protocol) => ("inet", protocol),
        };
        match NAMES.iter().find(|(number, _)| number == protocol) {
            Some((_, name)) => write!(f, "{kind}/{name}"),
            None => write!(f, "{kind}/{protocol}"),
        }
    }
}

impl FromStr for Socket {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError::Socket(text.to_owned());
        let (kind, protocol) = match text {
            "packet" => return Ok(Self::Packet),
            "vsock" => return Ok(Self::Vsock),
            "ping" => return Ok(Self::Ping),
            "udplite" => return Ok(Self::UdpLite),
            _ => text.split_once('/').ok_or_else(wrong)?,
        };
        let named = NAMES.iter().find(|(_, name)| *name == protocol).map(|(number, _)| *number);
        // Written in one way only: neither 01 nor a number that has a name.
        let number = || {
            let number = protocol.parse::<u8>().ok()?;
            let plain = number.to_string() == protocol && !NAMES.iter().any(|it| it.0 == number);
            plain.then_some(number)
        };
        let protocol = named.or_else(number).ok_or_else(wrong)?;
        match kind {
            "raw" => Ok(Self::Raw(protocol)),
            "inet" => Ok(Self::Other(protocol)),
            _ => Err(wrong()),
        }
    }
}

impl Serialize for Socket {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Socket {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::Socket;

    #[test]
    fn a_kind_is_read_as_it_is_written() {
        let each = (0..=255).flat_map(|protocol| [Socket::Raw(protocol), Socket::Other(protocol)]);
        let plain = [Socket::Packet, Socket::Vsock, Socket::Ping, Socket::UdpLite];
        for socket in each.chain(plain) {
            assert_eq!(socket.to_string().parse(), Ok(socket));
        }
        assert_eq!(Socket::Raw(1).to_string(), "raw/icmp");
    }

    #[test]
    fn what_is_no_kind_is_refused() {
        for text in ["", "raw", "raw/", "raw/256", "raw/1", "raw/099", "tcp/6", "packet/3"] {
            assert!(text.parse::<Socket>().is_err(), "{text}");
        }
    }
}
