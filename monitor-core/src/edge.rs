//! An edge: who talks to whom, over what. The one key that the map, the baseline, the alerts and the
//! files share, and the one way to write it: `CLIENT -> SERVER PORT/PROTOCOL [with EXECUTABLE]`,
//! or where a port was opened `SERVICE listens PORT/PROTOCOL [with EXECUTABLE]`, where an unusual
//! socket was made `SERVICE opens KIND [with EXECUTABLE]`. The client's port never enters it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::flow::Protocol;
use crate::ids::{NameError, ServiceName, is_safe, percent_encode_into};
use crate::socket::Socket;

/// One end of an edge.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Peer {
    Service(ServiceName),
    /// A DNS name, safe text: `dns:api.stripe.com`.
    Name(Arc<str>),
    /// A network that the configuration names, safe text: `net:office`.
    Network(Arc<str>),
    /// `ip:203.0.113.9`
    Address(IpAddr),
    /// The Internet as a whole; a client only.
    World,
    /// Nobody: the server's place in what is no exchange but an unusual socket that was made.
    Socket(Socket),
    /// Nobody: the client's place in what is no exchange but a port that was opened.
    #[default]
    Nobody,
}

impl Peer {
    #[must_use]
    pub const fn service(&self) -> Option<&ServiceName> {
        match self {
            Self::Service(name) => Some(name),
            _ => None,
        }
    }

    #[must_use]
    pub const fn is_nobody(&self) -> bool {
        matches!(self, Self::Nobody)
    }

    /// Of a DNS name the part that somebody registered, as the public suffix list has it: whoever has it
    /// gives out the names below. None for what nobody can register, such as `com`.
    #[must_use]
    pub fn registered_domain(&self) -> Option<&str> {
        match self {
            Self::Name(name) => psl::domain_str(name),
            _ => None,
        }
    }

    /// Whether this end's name is not known for good: such an edge is shown, never exported.
    #[must_use]
    pub fn is_provisional(&self) -> bool {
        self.service().is_some_and(ServiceName::is_provisional)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => f.write_str(name.as_str()),
            Self::Name(name) => write!(f, "dns:{name}"),
            Self::Network(name) => write!(f, "net:{name}"),
            Self::Address(address) => write!(f, "ip:{address}"),
            Self::World => f.write_str("world"),
            Self::Socket(socket) => write!(f, "socket:{socket}"),
            Self::Nobody => f.write_str("nobody"),
        }
    }
}

impl FromStr for Peer {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError::Peer(text.to_owned());
        if text == "world" {
            return Ok(Self::World);
        }
        let (scheme, rest) = text.split_once(':').ok_or_else(wrong)?;
        match scheme {
            "dns" if !rest.is_empty() && is_executable_name(rest) => Ok(Self::Name(rest.into())),
            "net" => {
                let mut encoded = String::new();
                percent_encode_into(&mut encoded, rest);
                if rest.is_empty() || encoded != rest {
                    return Err(wrong());
                }
                Ok(Self::Network(encoded.into()))
            }
            // One for all ways to write it: no flow has a mapped one.
            "ip" => match rest.parse::<IpAddr>() {
                Ok(address) => Ok(Self::Address(address.to_canonical())),
                Err(_error) => Err(wrong()),
            },
            "socket" => rest.parse().map(Self::Socket),
            _ => text.parse().map(Self::Service).map_err(|_error| wrong()),
        }
    }
}

/// A server's port with its protocol: `443/tcp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    pub number: u16,
    pub protocol: Protocol,
}

impl Port {
    /// In place of one, where a socket was made and nothing sent yet.
    pub const NONE: Self = Self { number: 0, protocol: Protocol::Ip };
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.protocol)
    }
}

impl FromStr for Port {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError::Port(text.to_owned());
        let (number, protocol) = text.split_once('/').ok_or_else(wrong)?;
        let protocol = Protocol::ALL.into_iter().find(|it| it.to_string() == protocol);
        let protocol = protocol.ok_or_else(wrong)?;
        let number = number.parse().map_err(|_error| wrong())?;
        Ok(Self { number, protocol })
    }
}

/// Client, server, and the server's port. Canonical: seen from both ends it is still one edge. A
/// port that a service opened has nobody as its client: `SERVICE listens PORT/PROTOCOL`. An unusual
/// socket that it made stands in the server's place: `SERVICE opens KIND`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Edge {
    pub client: Peer,
    pub server: Peer,
    pub port: Port,
}

impl Edge {
    /// That `service` made an unusual socket.
    #[must_use]
    pub const fn opening(service: Peer, socket: Socket) -> Self {
        Self { client: service, server: Peer::Socket(socket), port: Port::NONE }
    }

    /// The services at its ends, the client first.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.client.service().into_iter().chain(self.server.service())
    }

    /// The service that an incident about this edge belongs to, and under which it is written.
    #[must_use]
    pub const fn owner(&self) -> Option<&ServiceName> {
        match self.client.service() {
            Some(client) => Some(client),
            None => self.server.service(),
        }
    }

    /// An opened port instead of an exchange: judged like an edge, and none on the map.
    #[must_use]
    pub const fn is_listener(&self) -> bool {
        self.client.is_nobody()
    }

    /// The unusual socket that was made, where it is no exchange but that.
    #[must_use]
    pub const fn opens(&self) -> Option<Socket> {
        match self.server {
            Peer::Socket(socket) => Some(socket),
            _ => None,
        }
    }

    /// Whether it leads to where names are asked for.
    #[must_use]
    pub const fn asks_for_names(&self) -> bool {
        self.port.number == 53 && matches!(self.port.protocol, Protocol::Udp | Protocol::Tcp)
    }

    /// Whether anybody talked to anybody: what the map shows.
    #[must_use]
    pub const fn is_exchange(&self) -> bool {
        !self.is_listener() && self.opens().is_none()
    }

    #[must_use]
    pub fn touches(&self, service: &ServiceName) -> bool {
        self.services().any(|end| end == service)
    }

    #[must_use]
    pub fn is_provisional(&self) -> bool {
        self.client.is_provisional() || self.server.is_provisional()
    }

    /// Calls the service `from`, where it is at an end, by its new name.
    pub fn rename(&mut self, from: &ServiceName, to: &ServiceName) {
        for peer in [&mut self.client, &mut self.server] {
            if peer.service() == Some(from) {
                *peer = Peer::Service(to.clone());
            }
        }
    }
}

impl fmt::Display for Edge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_listener() {
            return write!(f, "{} listens {}", self.server, self.port);
        }
        if let Some(socket) = self.opens() {
            return write!(f, "{} opens {socket}", self.client);
        }
        write!(f, "{} -> {} {}", self.client, self.server, self.port)
    }
}

impl FromStr for Edge {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let with = text.parse::<EdgeWith>()?;
        match with.executable {
            None => Ok(with.edge),
            Some(_) => Err(NameError::Edge(text.to_owned())),
        }
    }
}

/// An edge, and with which executable: what `approve` takes and an alert's `allow` gives.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct EdgeWith {
    pub edge: Edge,
    /// Safe text, as [`executable_name`] writes it.
    pub executable: Option<String>,
}

impl fmt::Display for EdgeWith {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.edge.fmt(f)?;
        match &self.executable {
            Some(executable) => write!(f, " with {executable}"),
            None => Ok(()),
        }
    }
}

impl FromStr for EdgeWith {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let wrong = || NameError::Edge(text.to_owned());
        let words: Vec<&str> = text.split_whitespace().collect();
        let (words, executable) = match words.as_slice() {
            [edge @ .., "with", executable] if executable.contains('/') => {
                (edge, Some(executable_name(executable)))
            }
            [.., "with", executable] => {
                return Err(NameError::Executable((*executable).to_owned()));
            }
            edge => (edge, None),
        };
        let edge = match words {
            [client, "->" | "→", server, port] => {
                let edge =
                    Edge { client: client.parse()?, server: server.parse()?, port: port.parse()? };
                let ends = [&edge.client, &edge.server];
                if ends.iter().any(|it| matches!(it, Peer::Socket(_))) {
                    return Err(wrong());
                }
                edge
            }
            [server, "listens", port] => {
                Edge { client: Peer::Nobody, server: server.parse()?, port: port.parse()? }
            }
            [client, "opens", socket] => Edge::opening(client.parse()?, socket.parse()?),
            _ => return Err(wrong()),
        };
        let listens_elsewhere = edge.is_listener() && edge.server.service().is_none();
        let opens_elsewhere = edge.opens().is_some() && edge.client.service().is_none();
        let elsewhere = listens_elsewhere || opens_elsewhere;
        if edge.owner().is_none() || edge.server == Peer::World || elsewhere {
            return Err(wrong());
        }
        Ok(Self { edge, executable })
    }
}

/// An executable's path as safe text: whoever names a file must not write into our terminals.
/// What is encoded already stays as it is.
#[must_use]
pub fn executable_name(path: &str) -> String {
    let mut name = String::with_capacity(path.len());
    for (index, part) in path.split('%').enumerate() {
        if index > 0 {
            name.push('%');
        }
        percent_encode_into(&mut name, part);
    }
    name
}

/// Whether it is as [`executable_name`] writes it.
#[must_use]
pub fn is_executable_name(text: &str) -> bool {
    text.bytes().all(|byte| byte == b'%' || is_safe(byte))
}

/// Serialises as the text that [`fmt::Display`] writes and [`FromStr`] reads.
macro_rules! serde_as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    )*};
}
serde_as_text!(Peer, Port, Edge, EdgeWith);

/// A socket that one opened and another uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover {
    pub opener: ServiceName,
    pub user: ServiceName,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_read_as_they_are_written() {
        for text in [
            "systemd:nginx.service -> compose:shop/api 8080/tcp with /usr/sbin/nginx",
            "world -> systemd:nginx.service 443/tcp",
            "user:1000/session -> ip:2001:db8::1 53/udp",
            "compose:shop/api -> dns:api.stripe.com 443/tcp with /usr/bin/py%20thon",
            "compose:shop/api -> dns:a%2Eb.example.org 443/tcp",
            "compose:shop/api -> ip:192.0.2.1 443/tcp with /bin/sh:/usr/bin/python3",
            "compose:shop/api listens 4444/tcp with /memfd:x",
            "systemd:a.service listens 80/tcp",
            "systemd:a.service -> ip:192.0.2.1 8/icmp",
            "systemd:a.service -> ip:192.0.2.1 47/ip",
            "systemd:a.service -> ip:192.0.2.1 53/udplite with /usr/bin/x",
            "systemd:a.service opens packet",
            "systemd:a.service opens raw/icmp with /usr/bin/nmap",
        ] {
            assert_eq!(text.parse::<EdgeWith>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn an_address_is_one_peer_however_it_is_written() {
        let peer = |text: &str| text.parse::<Peer>().unwrap().to_string();
        assert_eq!(peer("ip:::ffff:192.0.2.1"), "ip:192.0.2.1");
        assert_eq!(peer("ip:2001:DB8:0:0::1"), "ip:2001:db8::1");
    }

    #[test]
    fn a_name_lies_in_what_somebody_registered() {
        for (name, domain) in [
            ("dns:api.stripe.com", Some("stripe.com")),
            ("dns:stripe.com", Some("stripe.com")),
            ("dns:a.b.example.co.uk", Some("example.co.uk")),
            // Where everybody has names of their own.
            ("dns:x.evil.github.io", Some("evil.github.io")),
            ("dns:com", None),
            ("dns:co.uk", None),
            // What no list knows is as if anybody could register below it.
            ("dns:db.prod.internal", Some("prod.internal")),
            ("dns:localhost", None),
            ("dns:a%2Eb.example.org", Some("example.org")),
            ("compose:stripe.com/a", None),
        ] {
            assert_eq!(name.parse::<Peer>().unwrap().registered_domain(), domain, "{name}");
        }
    }

    #[test]
    fn what_is_no_edge_is_refused() {
        for text in [
            "",
            "systemd:a.service",
            "systemd:a.service -> ip:1.2.3.4",
            "systemd:a.service -> ip:1.2.3.4 80",
            "systemd:a.service -> ip:1.2.3 80/tcp",
            "systemd:a.service -> world 80/tcp",
            "world -> ip:1.2.3.4 80/tcp",
            "systemd:a.service -> ip:1.2.3.4 80/sctp",
            "systemd:a.service -> ip:1.2.3.4 80/tcp with",
            "systemd:a.service -> ip:1.2.3.4 80/tcp with bash",
            "systemd:a.service -> ip:1.2.3.4 80/tcp by /bin/sh",
            "ip:1.2.3.4 listens 80/tcp",
            "world listens 80/tcp",
            "nobody -> systemd:a.service 80/tcp",
            "ip:1.2.3.4 opens packet",
            "systemd:a.service opens",
            "systemd:a.service opens tcp",
            "systemd:a.service -> socket:packet 0/ip",
            "socket:packet -> systemd:a.service 80/tcp",
        ] {
            assert!(text.parse::<EdgeWith>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_executable_cannot_write_into_a_terminal() {
        assert_eq!(executable_name("/tmp/a b\u{1b}[2J'"), "/tmp/a%20b%1B%5B2J%27");
        assert_eq!(executable_name("/tmp/a%20b"), "/tmp/a%20b");
    }
}
