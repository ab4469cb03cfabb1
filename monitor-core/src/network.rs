//! Networks: what is internal, and what the configuration calls by a name. Values alone.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A network in prefix notation, such as `10.0.0.0/8`; an address alone is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// What is internal unless configured otherwise: RFC 1918, RFC 6598, unique-local, link-local
    /// and loopback.
    pub const INTERNAL: [Self; 9] = [
        Self::v4(10, 0, 8),
        Self::v4(172, 16, 12),
        Self::v4(192, 168, 16),
        Self::v4(100, 64, 10),
        Self::v4(169, 254, 16),
        Self::v4(127, 0, 8),
        Self::v6(0xfc00, 7),
        Self::v6(0xfe80, 10),
        Self { address: IpAddr::V6(Ipv6Addr::LOCALHOST), prefix: 128 },
    ];

    const fn v4(a: u8, b: u8, prefix: u8) -> Self {
        Self { address: IpAddr::V4(Ipv4Addr::new(a, b, 0, 0)), prefix }
    }

    const fn v6(first: u16, prefix: u8) -> Self {
        Self { address: IpAddr::V6(Ipv6Addr::new(first, 0, 0, 0, 0, 0, 0, 0)), prefix }
    }

    /// Refuses a prefix that is longer than the address and bits set beyond the prefix.
    pub fn new(address: IpAddr, prefix: u8) -> Result<Self, NetworkError> {
        let network = Self { address, prefix };
        let width = if address.is_ipv4() { 32 } else { 128 };
        if prefix > width {
            return Err(NetworkError::Text(format!("{address}/{prefix}")));
        }
        let bits = u128::from_be_bytes(network.mapped().0);
        let host = u128::MAX.checked_shr(network.mapped().1.into()).unwrap_or(0);
        if bits & host == 0 { Ok(network) } else { Err(NetworkError::HostBits(network)) }
    }

    /// Whether `address` lies in it.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        let (network, prefix) = self.mapped();
        let bits = Self { address, prefix: 0 }.mapped().0;
        let differing = u128::from_be_bytes(network) ^ u128::from_be_bytes(bits);
        u32::from(prefix) <= differing.leading_zeros()
    }

    /// As an IPv6 network, IPv4 ones mapped: the kernel knows no other.
    #[must_use]
    pub fn mapped(self) -> ([u8; 16], u8) {
        match self.address {
            IpAddr::V4(address) => {
                (address.to_ipv6_mapped().octets(), self.prefix.saturating_add(96))
            }
            IpAddr::V6(address) => (address.octets(), self.prefix),
        }
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let wrong = || NetworkError::Text(text.to_owned());
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_error| wrong())?;
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_error| wrong())?,
            None if address.is_ipv4() => 32,
            None => 128,
        };
        Self::new(address, prefix)
    }
}

impl TryFrom<String> for Network {
    type Error = NetworkError;

    fn try_from(text: String) -> Result<Self, NetworkError> {
        text.parse()
    }
}

impl From<Network> for String {
    fn from(network: Network) -> Self {
        network.to_string()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// What a network's text was refused for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    #[error("{0:?} is not a network: write one like 10.0.0.0/8 or fd00::/8")]
    Text(String),
    #[error("{0} has bits set beyond its prefix")]
    HostBits(Network),
}

/// The instance metadata services of AWS, Azure and GCP, AWS's for ECS tasks, and Alibaba's; AWS's over
/// IPv6.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// Whether a machine of a cloud is told there who it is, and given the keys to be it.
#[must_use]
pub fn is_metadata(address: IpAddr) -> bool {
    METADATA.contains(&address)
}

/// Networks that have a name; of those that hold an address the longest prefix is meant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Named {
    /// The longest prefix first.
    networks: Vec<(Network, Arc<str>)>,
}

impl Named {
    /// `networks` with their names, which are safe text.
    #[must_use]
    pub fn new(mut networks: Vec<(Network, Arc<str>)>) -> Self {
        networks.sort_by_key(|(network, name)| {
            (std::cmp::Reverse(network.mapped().1), *network, Arc::clone(name))
        });
        Self { networks }
    }

    /// The name of the network that `address` lies in.
    #[must_use]
    pub fn of(&self, address: IpAddr) -> Option<&Arc<str>> {
        self.networks.iter().find(|(network, _)| network.contains(address)).map(|(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_strictly() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "::/0", "fd00::/8", "192.0.2.7/32"] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
        }
        assert_eq!("192.0.2.7".parse::<Network>().unwrap().to_string(), "192.0.2.7/32");
        for text in ["10.0.0.1/8", "10.0.0.0/33", "fd00::1/8", "::/129", "10/8", "x", "1.2.3.4/-1"]
        {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_lies_in_a_network_or_not() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("192.0.2.7/32", "192.0.2.7", "192.0.2.6"),
            ("0.0.0.0/0", "203.0.113.9", "::1"),
            ("fd00::/8", "fdff::1", "fc00::1"),
            ("172.16.0.0/12", "172.31.255.255", "::ac1f:ffff"),
        ] {
            let network: Network = network.parse().unwrap();
            assert!(network.contains(inside.parse().unwrap()), "{network}");
            assert!(!network.contains(outside.parse().unwrap()), "{network}");
        }
    }

    #[test]
    fn the_default_networks_are_networks() {
        for network in Network::INTERNAL {
            assert_eq!(network.to_string().parse(), Ok(network));
        }
    }

    #[test]
    fn of_several_networks_the_longest_prefix_is_meant() {
        let network = |text: &str, name: &str| (text.parse().unwrap(), Arc::from(name));
        let named = Named::new(vec![
            network("198.51.0.0/16", "campus"),
            network("198.51.100.0/24", "office"),
            network("0.0.0.0/0", "outside"),
        ]);
        let of = |text: &str| named.of(text.parse().unwrap()).map(|it| &**it);
        assert_eq!(of("198.51.100.7"), Some("office"));
        assert_eq!(of("198.51.101.7"), Some("campus"));
        assert_eq!(of("203.0.113.7"), Some("outside"));
        assert_eq!(of("2001:db8::1"), None);
    }
}
