//! What a cgroup and a resolver said to each other, as structured values: a question, or an answer with
//! its records. Values alone: who may be believed is attribution's.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::ids::{CgroupId, WallTime, is_safe, percent_encode_into};

/// A domain name as safe text: lower case, without the dot at its end, every byte that is not of a
/// name's own letters as `%XX` (also a dot within a label), at most [`Name::MAX_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    pub const MAX_BYTES: usize = 253;

    /// None for the root, an empty label, and what is too long as safe text.
    #[must_use]
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> Option<Self> {
        let mut text = String::new();
        for label in labels {
            if label.is_empty() {
                return None;
            }
            if !text.is_empty() {
                text.push('.');
            }
            for &byte in label {
                push(&mut text, byte.to_ascii_lowercase());
            }
            if text.len() > Self::MAX_BYTES {
                return None;
            }
        }
        (!text.is_empty()).then(|| Self(text.into()))
    }

    /// A name as people write it; None where it is none.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        Self::from_labels(text.strip_suffix('.').unwrap_or(text).split('.').map(str::as_bytes))
    }

    /// Reads what was written; None where it was not a name.
    #[must_use]
    pub fn read(text: &Arc<str>) -> Option<Self> {
        let is_safe = text.bytes().all(|byte| byte == b'%' || is_safe(byte));
        let fits = !text.is_empty() && text.len() <= Self::MAX_BYTES;
        (is_safe && fits).then(|| Self(Arc::clone(text)))
    }

    #[must_use]
    pub const fn text(&self) -> &Arc<str> {
        &self.0
    }
}

fn push(text: &mut String, byte: u8) {
    match char::from(byte) {
        // No separators of ours, and no end of a label that is none.
        '.' => text.push_str("%2E"),
        '/' => text.push_str("%2F"),
        ':' => text.push_str("%3A"),
        letter if is_safe(byte) => text.push(letter),
        letter if letter.is_ascii() => percent_encode_into(text, letter.encode_utf8(&mut [0; 4])),
        _ => text.push_str(&format!("%{byte:02X}")),
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A message of a cgroup's, and whom it was sent to or came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    pub cgroup: CgroupId,
    pub at: WallTime,
    /// The cgroup's own end.
    pub client: SocketAddr,
    pub resolver: SocketAddr,
    pub near: Near,
    pub message: Message,
}

/// How near to its asker a resolver is, as its packets alone say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Near {
    Unknown,
    /// At an address of the asker's own.
    SameAddress,
}

/// What was said. One question a message: nobody asks otherwise, and nobody answers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub id: u16,
    pub question: Question,
    pub said: Said,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    pub name: Name,
    /// The type of the records that are asked for, by its number.
    pub kind: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// The cgroup asks.
    Asked,
    /// The resolver answers with these.
    Answered(Vec<Record>),
}

/// A record of an answer that has to do with addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub owner: Name,
    pub ttl_s: u32,
    pub data: Data,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    Address(IpAddr),
    /// The owner is another name for this one (CNAME).
    Alias(Name),
}

impl Message {
    /// Records of one answer that are looked at; the others say nothing.
    pub const RECORDS: usize = 1_000;
    /// Other names that a name may lead to, one after the other.
    pub const CHAIN: usize = 16;

    /// The addresses that the question's name has by this answer, and for how long, seconds: its own, or
    /// those that a chain of other names leads to. Records of other owners say nothing.
    #[must_use]
    pub fn addresses(&self) -> Vec<(IpAddr, u32)> {
        let Said::Answered(records) = &self.said else {
            return Vec::new();
        };
        let records = &records[..records.len().min(Self::RECORDS)];
        let (mut name, mut ttl_s) = (&self.question.name, u32::MAX);
        for _ in 0..=Self::CHAIN {
            let of_name = || records.iter().filter(|it| it.owner == *name);
            let address = |it: &Record| match it.data {
                Data::Address(address) => Some((address.to_canonical(), it.ttl_s.min(ttl_s))),
                Data::Alias(_) => None,
            };
            let addresses: Vec<(IpAddr, u32)> = of_name().filter_map(address).collect();
            if !addresses.is_empty() {
                return addresses;
            }
            let alias = of_name().find_map(|it| match &it.data {
                Data::Alias(next) => Some((next, it.ttl_s)),
                Data::Address(_) => None,
            });
            let Some((next, its_ttl_s)) = alias else { break };
            (name, ttl_s) = (next, ttl_s.min(its_ttl_s));
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_text() {
        let of = |labels: &[&[u8]]| Name::from_labels(labels.iter().copied()).map(|it| it.0);
        assert_eq!(of(&[b"API", b"Stripe", b"com"]).as_deref(), Some("api.stripe.com"));
        assert_eq!(of(&[b"a.b", b"c"]).as_deref(), Some("a%2Eb.c"));
        assert_eq!(of(&[b"a\"'\x1b", b"\xff"]).as_deref(), Some("a%22%27%1B.%FF"));
        assert_eq!(of(&[b"a%2Eb"]).as_deref(), Some("a%252eb"));
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[b"a", b""]), None);
        assert_eq!(of(&[&[b'a'; 63][..]; 4]), None);
        assert_eq!(Name::from_text("Example.ORG.").unwrap().to_string(), "example.org");
        assert_eq!(Name::from_text("."), None);
    }
}
