//! The names of things: time, cgroups, services. What a value means is in its type, so that a
//! cgroup id cannot stand for a port. No parsing of the outside world beyond a single name.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The kernel's id of a version-2 cgroup: the inode number of its directory, never reused before
/// the next boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CgroupId(pub u64);

/// The kernel's cookie of a network namespace (`SO_NETNS_COOKIE`), never reused before the next
/// boot; 0 where the kernel gave none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NetnsCookie(pub u64);

/// Nanoseconds since boot, suspended time included: never steps, so deadlines are made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BootTime(pub u64);

impl BootTime {
    /// This moment and `millis` milliseconds more.
    #[must_use]
    pub const fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis.saturating_mul(1_000_000)))
    }
}

/// Microseconds since the Unix epoch, UTC: what people read and what is stored. It may step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct WallTime(pub i64);

impl WallTime {
    /// This time and `seconds` more (or less, when negative).
    #[must_use]
    pub const fn plus_seconds(self, seconds: i64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1_000_000)))
    }

    /// Seconds from `earlier` to this time; 0 where the clock stepped back between them.
    #[must_use]
    pub fn seconds_since(self, earlier: Self) -> u64 {
        (self.0.saturating_sub(earlier.0) / 1_000_000).max(0).unsigned_abs()
    }

    /// Seconds between two times, whichever came first: the clock may have been set in between.
    #[must_use]
    pub const fn seconds_apart(self, other: Self) -> u64 {
        self.0.abs_diff(other.0) / 1_000_000
    }

    /// This time without its fraction: nobody reads microseconds.
    #[must_use]
    pub const fn to_second(self) -> Self {
        Self(self.0.saturating_sub(self.0.rem_euclid(1_000_000)))
    }

    /// Milliseconds since the Unix epoch, 0 for times before it.
    #[must_use]
    pub const fn unix_millis(self) -> u64 {
        let millis = self.0 / 1000;
        if millis < 0 { 0 } else { millis.unsigned_abs() }
    }
}

/// RFC 3339 in UTC, with the fraction only where there is one.
impl fmt::Display for WallTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(time) => write!(f, "{time}"),
            Err(_) => f.write_str("9999-12-31T23:59:59Z"),
        }
    }
}

impl std::str::FromStr for WallTime {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        text.parse::<jiff::Timestamp>()
            .map(|time| Self(time.as_microsecond()))
            .map_err(|_error| NameError::Time(text.to_owned()))
    }
}

impl Serialize for WallTime {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            serializer.serialize_i64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for WallTime {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if !deserializer.is_human_readable() {
            return i64::deserialize(deserializer).map(Self);
        }
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Both clocks at one moment, read by the caller: the core has no clock of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// For deadlines.
    pub boot: BootTime,
    /// For records.
    pub wall: WallTime,
}

/// What a name from outside was refused for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error(
        "{0:?} is not a service name: write one as `edgewatch services` shows it, like systemd:nginx.service"
    )]
    Service(String),
    #[error("{0:?} is not a peer: a service, dns:NAME, net:NAME, ip:ADDRESS or world")]
    Peer(String),
    #[error(
        "{0:?} is not an edge: write 'CLIENT -> SERVER PORT/PROTOCOL [with EXECUTABLE]', like 'systemd:nginx.service -> ip:192.0.2.7 443/tcp', or for a port that is opened 'SERVICE listens PORT/PROTOCOL', for an unusual socket 'SERVICE opens KIND'"
    )]
    Edge(String),
    #[error("{0:?} is not an executable: write its whole path, as `edgewatch baseline show` does")]
    Executable(String),
    #[error("{0:?} is not a port and protocol: write one like 443/tcp")]
    Port(String),
    #[error(
        "{0:?} is not a kind of socket: write packet, vsock, ping, udplite, raw/PROTOCOL or inet/PROTOCOL, like raw/icmp"
    )]
    Socket(String),
    #[error("{0:?} is not a time: write RFC 3339 in UTC, like 2026-11-21T10:00:00Z")]
    Time(String),
}

/// A stable logical workload, such as `systemd:nginx.service`. Always safe text: only
/// `[A-Za-z0-9._:/@+%-]`, at most [`ServiceName::MAX_BYTES`] long.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// A longer name is cut and closed with `%2E%2E`, so that no name can fill a screen.
    pub const MAX_BYTES: usize = 253;

    /// The schemes a service's name can begin with.
    pub const SCHEMES: [&'static str; 10] =
        ["systemd", "compose", "docker", "podman", "k8s", "lxc", "nomad", "user", "host", "cgroup"];

    /// Builds `SCHEME:REST`, percent-encoding every byte of `rest` that is not safe text.
    #[must_use]
    pub fn new(scheme: &'static str, rest: &str) -> Self {
        debug_assert!(Self::SCHEMES.contains(&scheme));
        let mut name = String::with_capacity(scheme.len() + 1 + rest.len());
        name.push_str(scheme);
        name.push(':');
        percent_encode_into(&mut name, rest);
        if name.len() > Self::MAX_BYTES {
            let mut end = Self::MAX_BYTES - 6;
            // Never cut an escape in two.
            while name.as_bytes()[end.saturating_sub(2)..end].contains(&b'%') {
                end -= 1;
            }
            name.truncate(end);
            name.push_str("%2E%2E");
        }
        Self(name.into())
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What kind of thing it is: one of [`ServiceName::SCHEMES`].
    #[must_use]
    pub fn scheme(&self) -> &str {
        self.0.split_once(':').map_or("", |(scheme, _)| scheme)
    }

    /// Whether only an id is known yet: shown on the map, never promoted, never exported.
    #[must_use]
    pub fn is_provisional(&self) -> bool {
        let name = self.as_str();
        name.split_once(':').is_some_and(|(scheme, rest)| match scheme {
            "docker" | "podman" => rest.starts_with("id/"),
            "k8s" => rest.starts_with("uid/"),
            "cgroup" => rest.starts_with("id/"),
            _ => false,
        })
    }
}

/// Appends `text` with every byte outside `[A-Za-z0-9._:/@+-]` as `%XX`.
pub fn percent_encode_into(out: &mut String, text: &str) {
    for &byte in text.as_bytes() {
        if is_safe(byte) {
            out.push(char::from(byte));
        } else {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
}

/// What moves the cursor, or reorders or hides other text.
#[must_use]
pub fn is_unprintable(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

pub(crate) const fn is_safe(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'/' | b'@' | b'+' | b'-')
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for ServiceName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let known = text
            .split_once(':')
            .is_some_and(|(scheme, rest)| Self::SCHEMES.contains(&scheme) && !rest.is_empty());
        let safe = text.bytes().all(|byte| is_safe(byte) || byte == b'%');
        if known && safe && text.len() <= Self::MAX_BYTES {
            Ok(Self(text.into()))
        } else {
            Err(NameError::Service(text.to_owned()))
        }
    }
}

impl TryFrom<String> for ServiceName {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<ServiceName> for String {
    fn from(name: ServiceName) -> Self {
        name.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_text_whatever_a_cgroup_is_called() {
        let name = ServiceName::new("cgroup", "/a b\u{1b}[31m\n'$(x)");
        assert_eq!(name.as_str(), "cgroup:/a%20b%1B%5B31m%0A%27%24%28x%29");
        assert_eq!(name.as_str().parse(), Ok(name));
    }

    #[test]
    fn a_long_name_is_cut_between_escapes() {
        for length in 200..300 {
            let name = ServiceName::new("cgroup", &" ".repeat(length));
            assert!(name.as_str().len() <= ServiceName::MAX_BYTES);
            let rest = name.as_str().trim_start_matches("cgroup:");
            assert!(rest.replace("%20", "").replace("%2E", "").is_empty(), "{rest}");
        }
    }

    #[test]
    fn a_name_of_no_known_scheme_is_refused() {
        for text in ["nginx", "systemd:", "web:nginx", "systemd:a b", ""] {
            assert!(text.parse::<ServiceName>().is_err(), "{text}");
        }
    }

    #[test]
    fn times_read_as_they_are_written() {
        let time: WallTime = "2026-11-21T10:00:00.123456Z".parse().unwrap();
        assert_eq!(time.to_string(), "2026-11-21T10:00:00.123456Z");
        assert_eq!(WallTime(0).to_string(), "1970-01-01T00:00:00Z");
    }
}
