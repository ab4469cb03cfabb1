//! An IP address as the kernel programs hold it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::SocketKind;

/// An IPv6 address, or an IPv4 one as `::ffff:a.b.c.d`: four words whose bytes lie in network
/// order, as the kernel hands them out.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Address(pub [u32; 4]);

impl Address {
    /// No address, and `::`.
    pub const ZERO: Self = Self([0; 4]);

    const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

    /// An IPv4 address whose bytes lie in network order.
    #[inline(always)]
    #[must_use]
    pub const fn v4(word: u32) -> Self {
        Self([0, 0, Self::MAPPED, word])
    }

    /// The same in two words, as it lies in memory on little-endian machines.
    #[inline(always)]
    #[must_use]
    pub const fn words(&self) -> [u64; 2] {
        let [a, b, c, d] = self.0;
        [a as u64 | ((b as u64) << 32), c as u64 | ((d as u64) << 32)]
    }

    /// A cgroup in place of an address.
    #[inline(always)]
    #[must_use]
    pub const fn of_cgroup(id: u64) -> Self {
        let [a, b, c, d, e, f, g, h] = id.to_ne_bytes();
        Self([u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]), 0, 0])
    }

    /// The cgroup of [`Address::of_cgroup`].
    #[must_use]
    pub const fn cgroup(self) -> u64 {
        let [a, b, c, d] = self.0[0].to_ne_bytes();
        let [e, f, g, h] = self.0[1].to_ne_bytes();
        u64::from_ne_bytes([a, b, c, d, e, f, g, h])
    }

    /// A kind of socket, and the IP protocol where it has one, in place of an address.
    #[inline(always)]
    #[must_use]
    pub const fn of_socket(kind: SocketKind, protocol: u8) -> Self {
        Self([kind as u32, protocol as u32, 0, 0])
    }

    /// What [`Address::of_socket`] was made of; None where it was not.
    #[must_use]
    pub fn socket(self) -> Option<(SocketKind, u8)> {
        let kind = SocketKind::ALL.into_iter().find(|it| *it as u32 == self.0[0])?;
        Some((kind, u8::try_from(self.0[1]).ok()?)).filter(|_| self.0[2] == 0 && self.0[3] == 0)
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_v4(self) -> bool {
        self.0[0] == 0 && self.0[1] == 0 && self.0[2] == Self::MAPPED
    }

    /// `0.0.0.0` or `::`.
    #[inline(always)]
    #[must_use]
    pub const fn is_unspecified(self) -> bool {
        self.0[0] == 0
            && self.0[1] == 0
            && (self.0[2] == 0 || self.0[2] == Self::MAPPED)
            && self.0[3] == 0
    }

    /// Whether it means nothing outside its network namespace: `127.0.0.0/8` and `::1`.
    #[inline(always)]
    #[must_use]
    pub const fn is_loopback(self) -> bool {
        if self.is_v4() {
            self.0[3].to_ne_bytes()[0] == 127
        } else {
            self.0[0] == 0
                && self.0[1] == 0
                && self.0[2] == 0
                && self.0[3] == u32::from_ne_bytes([0, 0, 0, 1])
        }
    }

    /// Its sixteen bytes in network order.
    #[must_use]
    pub fn bytes(self) -> [u8; 16] {
        zerocopy::transmute!(self.0)
    }

    /// From sixteen bytes in network order.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(zerocopy::transmute!(bytes))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::Address;
    use crate::SocketKind;

    fn address(text: &str) -> Address {
        let v6 = text
            .parse::<Ipv4Addr>()
            .map_or_else(|_| text.parse().unwrap(), |v4| v4.to_ipv6_mapped());
        Address::from_bytes(Ipv6Addr::octets(&v6))
    }

    #[test]
    fn kinds_of_addresses_are_told_apart() {
        let cases = [
            ("127.0.0.1", true, true, false),
            ("127.200.0.9", true, true, false),
            ("128.0.0.1", true, false, false),
            ("0.0.0.0", true, false, true),
            ("::", false, false, true),
            ("::1", false, true, false),
            ("::2", false, false, false),
            ("fd00::1", false, false, false),
            ("::ffff:127.0.0.1", true, true, false),
        ];
        for (text, v4, loopback, unspecified) in cases {
            let address = address(text);
            assert_eq!(address.is_v4(), v4, "{text}");
            assert_eq!(address.is_loopback(), loopback, "{text}");
            assert_eq!(address.is_unspecified(), unspecified, "{text}");
        }
    }

    #[test]
    fn cgroups_and_bytes_survive_the_trip() {
        assert_eq!(Address::of_cgroup(u64::MAX - 7).cgroup(), u64::MAX - 7);
        for kind in SocketKind::ALL {
            assert_eq!(Address::of_socket(kind, 58).socket(), Some((kind, 58)));
        }
        assert_eq!((Address::ZERO.socket(), Address([1, 256, 0, 0]).socket()), (None, None));
        let word = u32::from_ne_bytes([192, 0, 2, 7]);
        assert_eq!(Address::v4(word), address("192.0.2.7"));
        assert_eq!(Address::from_bytes(address("fd00::1").bytes()), address("fd00::1"));
    }
}
