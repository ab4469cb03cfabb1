//! What of capture can be configured. Plain values, checked when they are read; nothing here opens
//! anything.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use monitor_common::{
    Bound, Dials, Executable, FlowKey, FlowStats, Followed, Lineage, ListenKey, Listener, Opened,
};
use serde::{Deserialize, Serialize};

/// What is watched, and the sizes of what the kernel holds for us, all of it allocated at start.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The part of the version-2 hierarchy to watch, as a directory; else all of it. What runs
    /// outside it counts as another machine.
    pub cgroup: Option<PathBuf>,
    /// Whether what was attached stays when the agent ends, and goes on counting for the next one.
    pub pin: bool,
    /// Where it is kept meanwhile: a directory of its own on a bpffs.
    pub pins: PathBuf,
    /// How much is noted of connections on edges that are known.
    pub detail: Detail,
    /// Flow keys held (about 290 bytes each). More are told again when seen again.
    pub seen: Entries,
    /// TCP connections followed at once (about 280 bytes each). Of more, the bytes are missing.
    pub connections: Entries,
    /// TCP addresses listened at. What is accepted at more is nobody's.
    pub listeners: Entries,
    /// Sockets bound to a port, for who serves by UDP.
    pub bound: Entries,
    /// Processes whose executable is known to the kernel; of an eighth as many executables it keeps
    /// the path.
    pub processes: Entries,
    /// Room for news that the agent has not yet read: a power of two, at least a page.
    pub ring: RingSize,
    /// Whether the names that services ask for are heard; a setting of `[identity]`.
    #[serde(skip)]
    pub dns: Dns,
    /// So often the agent makes a connection of its own over loopback, to see whether it sees it.
    pub canary: Every,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cgroup: None,
            pin: true,
            pins: PathBuf::from(Self::PINS),
            detail: Detail::Normal,
            seen: Entries(16_384),
            connections: Entries(4096),
            listeners: Entries(4096),
            bound: Entries(4096),
            processes: Entries(12_288),
            ring: RingSize(1 << 20),
            dns: Dns::Auto,
            canary: Every(Duration::from_secs(30)),
        }
    }
}

impl Config {
    const PINS: &str = "/sys/fs/bpf/edgewatch";

    /// The same for a look: all that can be noted, and nothing that stays.
    #[must_use]
    pub fn for_a_look(&self) -> Self {
        Self { detail: Detail::Full, pin: false, ..self.clone() }
    }

    /// What the sizes may take in all, in bytes of the kernel's memory: more is a slip of the pen.
    pub const MOST_BYTES: u64 = 1 << 30;

    /// What each size takes of the kernel's memory, in bytes, by its key.
    #[must_use]
    pub fn takes(&self) -> [(&'static str, u64); 6] {
        let slots = size_of::<Followed>() * Followed::slots(self.socket_bits()) as usize;
        let dials = size_of::<Dials>() << self.dials_bits();
        let openers = size_of::<Opened>() << self.socket_bits();
        let paths = entries::<u64, Executable>(self.executables());
        [
            ("seen", entries::<FlowKey, FlowStats>(self.seen)),
            ("connections", (slots + dials + openers) as u64),
            ("listeners", entries::<ListenKey, Listener>(self.listeners)),
            ("bound", entries::<u64, Bound>(self.bound)),
            ("processes", entries::<u64, Lineage>(self.processes) + paths),
            ("ring", self.ring.bytes().into()),
        ]
    }

    /// The power of two that says how many connections there is room for: in sets with twice as many
    /// slots as connections are to be followed, so that hardly any is full before they all are there.
    pub(super) fn socket_bits(&self) -> u32 {
        (2 * self.connections.get()).div_ceil(Followed::WAYS).next_power_of_two().ilog2()
    }

    /// As much for dials, of which few wait to be accepted: half as many sets, of half as many slots.
    pub(super) fn dials_bits(&self) -> u32 {
        self.socket_bits() - 1
    }

    /// How many executables the kernel keeps the path of.
    pub(super) fn executables(&self) -> Entries {
        Entries((self.processes.get() / 8).max(Entries::MIN))
    }
}

/// What a kernel's hash map of so many entries takes: its keys and values, what it keeps beside each,
/// and a list for each power of two of them.
fn entries<K, V>(entries: Entries) -> u64 {
    let (count, beside, list) = (u64::from(entries.get()), 48, 16);
    count * (size_of::<K>() + size_of::<V>() + beside) as u64 + count.next_power_of_two() * list
}

/// How much the kernel notes of what is known already. What is new is noted the same in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Detail {
    /// As much as costs next to nothing.
    #[default]
    Normal,
    /// Bytes, round-trip time and outcome of every connection.
    Full,
}

/// Whether what services ask of resolvers is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Dns {
    /// Where something asks.
    #[default]
    Auto,
    Off,
}

/// How many entries a kernel map has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u32")]
pub struct Entries(u32);

impl Entries {
    const MIN: u32 = 64;
    const MAX: u32 = 1 << 22;

    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<u32> for Entries {
    type Error = ConfigError;

    fn try_from(count: u32) -> Result<Self, ConfigError> {
        if (Self::MIN..=Self::MAX).contains(&count) {
            Ok(Self(count))
        } else {
            Err(ConfigError::Entries(count))
        }
    }
}

/// How many new edges one cgroup may show at once, each way, before the rest is told as a whole. A
/// quarter of it comes back every second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "u32")]
pub struct Budget(u32);

impl Budget {
    const MIN: u32 = 16;
    const MAX: u32 = 1 << 20;

    /// The time in which one more comes back, in nanoseconds.
    pub(super) fn interval_ns(self) -> u64 {
        monitor_common::BUDGET_SPAN_NS / u64::from(self.0)
    }
}

impl Default for Budget {
    fn default() -> Self {
        Self(1024)
    }
}

impl TryFrom<u32> for Budget {
    type Error = ConfigError;

    fn try_from(count: u32) -> Result<Self, ConfigError> {
        if (Self::MIN..=Self::MAX).contains(&count) {
            Ok(Self(count))
        } else {
            Err(ConfigError::Budget(count))
        }
    }
}

/// Size of the ring buffer in bytes, written as `"1MiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct RingSize(u32);

impl RingSize {
    const MIN: u32 = 1 << 12;
    const MAX: u32 = 1 << 28;

    #[must_use]
    pub const fn bytes(self) -> u32 {
        self.0
    }
}

impl FromStr for RingSize {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let unit = match unit.trim_start() {
            "KiB" => 1_u32 << 10,
            "MiB" => 1 << 20,
            _ => return Err(ConfigError::Ring(text.to_owned())),
        };
        number
            .parse::<u32>()
            .ok()
            .and_then(|number| number.checked_mul(unit))
            .filter(|bytes| bytes.is_power_of_two() && (Self::MIN..=Self::MAX).contains(bytes))
            .map(Self)
            .ok_or_else(|| ConfigError::Ring(text.to_owned()))
    }
}

impl TryFrom<String> for RingSize {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        text.parse()
    }
}

impl From<RingSize> for String {
    fn from(size: RingSize) -> Self {
        size.to_string()
    }
}

impl fmt::Display for RingSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= 1 << 20 {
            write!(f, "{}MiB", self.0 >> 20)
        } else {
            write!(f, "{}KiB", self.0 >> 10)
        }
    }
}

/// A pause between two of a kind, written as `"30s"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Every(Duration);

impl Every {
    const MIN: Duration = Duration::from_millis(20);
    const MAX: Duration = Duration::from_secs(3_600);

    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl TryFrom<String> for Every {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        let pause = humantime::parse_duration(&text).ok();
        let fits = |it: &Duration| (Self::MIN..=Self::MAX).contains(it);
        pause.filter(fits).map(Self).ok_or(ConfigError::Every(text))
    }
}

/// What a value was refused for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    #[error("{0} is out of range: a number of entries is {min} to {max}", min = Entries::MIN, max = Entries::MAX)]
    Entries(u32),
    #[error("{0} is out of range: a budget is {min} to {max} new edges", min = Budget::MIN, max = Budget::MAX)]
    Budget(u32),
    #[error("{0:?} is not a ring size: a power of two from 4KiB to 256MiB, written like \"1MiB\"")]
    Ring(String),
    #[error("{0:?} is not a pause: 20ms to 1h, written like \"30s\"")]
    Every(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_two_with_a_unit() {
        let good = [("1MiB", 1 << 20), ("64 KiB", 1 << 16), ("256MiB", 1 << 28)];
        for (text, bytes) in good {
            assert_eq!(text.parse::<RingSize>().map(RingSize::bytes), Ok(bytes));
        }
        for text in ["", "1", "1MB", "3MiB", "MiB", "1KiB", "512MiB", "99999999MiB", "-1MiB"] {
            assert!(text.parse::<RingSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_budget_comes_back_whole_in_four_seconds() {
        for (count, interval_ns) in [(16, 250_000_000), (1024, 3_906_250), (1 << 20, 3_814)] {
            assert_eq!(Budget::try_from(count).map(Budget::interval_ns), Ok(interval_ns));
        }
        for count in [0, 15, (1 << 20) + 1, u32::MAX] {
            assert_eq!(Budget::try_from(count), Err(ConfigError::Budget(count)));
        }
    }

    #[test]
    fn the_default_sizes_leave_room_within_twelve_mebibytes() {
        let taken: u64 = Config::default().takes().iter().map(|(_, bytes)| bytes).sum();
        assert!((9 << 20..11 << 20).contains(&taken), "{taken}");
    }

    #[test]
    fn unknown_keys_and_wild_sizes_are_refused() {
        let read = toml::from_str::<Config>;
        assert_eq!(read(""), Ok(Config::default()));
        assert_eq!(read("ring = \"2MiB\"\nseen = 64").unwrap().seen.get(), 64);
        assert_eq!(read("canary = \"1m\"").unwrap().canary.get(), Duration::from_secs(60));
        for text in ["canary = \"1ms\"", "canary = \"2h\"", "canary = 30", "canary = \"off\""] {
            assert!(read(text).is_err(), "{text}");
        }
        for text in ["sene = 64", "seen = 1", "seen = -1", "ring = 4096", "ring = \"5MiB\""] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
