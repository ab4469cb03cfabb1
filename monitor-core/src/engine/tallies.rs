//! How much the evidence holds of each of the kernel's keys, row after row as it is to be kept: what is
//! written later counts. A row says only how it differs from the one before, for a burst makes some
//! hundred thousand of them at once. Where and when they are kept is not known here.

use std::str::FromStr as _;

use serde::{Deserialize, Serialize};

use crate::edge::Edge;
use crate::flow::RttHistogram;

/// Of a key of the kernel's tables: which edge it is, and how much of its counters the edge's evidence
/// holds. Stored together with that evidence, so that neither is ever ahead of the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tallied {
    pub edge: Edge,
    /// When the kernel entered the key: entered again, it is another.
    pub first_seen_ns: u64,
    pub connections: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub rtt: RttHistogram,
    /// Its judgement has changed: it is to be told again.
    pub again: bool,
}

/// Rows, each a key by its bytes and what is held of it; None for nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tallies {
    /// Each can be read by itself.
    parts: Vec<Vec<u8>>,
    rows: usize,
    /// The last row of the last part.
    last: Last,
}

/// What the next row of a part is told apart from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Last {
    edge: Option<Edge>,
    text: String,
    key: Vec<u8>,
}

/// A row as it is written.
#[derive(Serialize, Deserialize)]
struct Row<'a> {
    /// The key's length, and [`differences`] from the last.
    key_len: u16,
    key: &'a [u8],
    held: Option<Held<'a>>,
}

#[derive(Serialize, Deserialize)]
struct Held<'a> {
    /// So many bytes of the edge's text are the last one's, then come others.
    shared: u32,
    text: &'a str,
    first_seen_ns: u64,
    connections: u64,
    bytes_sent: u64,
    bytes_received: u64,
    /// Buckets in which something was measured, and how often.
    rtt: Vec<(u8, u32)>,
    again: bool,
}

/// Bytes that are no rows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("row {row} cannot be read: {why}")]
pub struct TalliesError {
    row: usize,
    why: String,
}

impl Tallies {
    /// A part is no longer than this and a row: small beside what a page of memory costs whoever
    /// keeps it, large beside a row.
    const PART: usize = 32 << 10;

    #[must_use]
    pub const fn len(&self) -> usize {
        self.rows
    }

    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Adds a row.
    pub fn push(&mut self, key: &[u8], held: Option<&Tallied>) {
        if self.parts.last().is_none_or(|part| part.len() >= Self::PART) {
            self.parts.push(Vec::new());
            self.last = Last::default();
        }
        let Self { parts, last, .. } = self;
        let Some(part) = parts.last_mut() else { return };
        let differing = differences(&last.key, key);
        let held = held.map(|it| last.held(it));
        let key_len = u16::try_from(key.len()).unwrap_or(u16::MAX);
        let row = Row { key_len, key: &differing, held };
        // Into memory nothing can fail.
        if let Ok(longer) = postcard::to_extend(&row, std::mem::take(part)) {
            *part = longer;
        }
        key.clone_into(&mut last.key);
        self.rows += 1;
    }

    /// Adds the rows of `later`.
    pub fn append(&mut self, mut later: Self) {
        if later.parts.is_empty() {
            return;
        }
        self.parts.append(&mut later.parts);
        self.rows += later.rows;
        self.last = later.last;
    }

    /// Adds the rows of a part that was kept.
    ///
    /// # Errors
    /// It is none.
    pub fn take_up(&mut self, part: &[u8]) -> Result<(), TalliesError> {
        let mut rows = 0;
        for row in Rows::of(part) {
            row.map_err(|why| TalliesError { row: rows, why })?;
            rows += 1;
        }
        if rows > 0 {
            self.append(Self { parts: vec![part.to_vec()], rows, last: Last::default() });
            // No row can be told apart from what is not known.
            self.parts.push(Vec::new());
        }
        Ok(())
    }

    /// What is to be kept: each by itself, in this order.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().filter(|part| !part.is_empty()).map(Vec::as_slice)
    }

    /// In the order in which they were added.
    pub fn rows(&self) -> impl Iterator<Item = (Vec<u8>, Option<Tallied>)> {
        // They were written here, or read once before.
        self.parts().flat_map(Rows::of).map_while(Result::ok)
    }
}

impl Extend<(Vec<u8>, Option<Tallied>)> for Tallies {
    fn extend<I: IntoIterator<Item = (Vec<u8>, Option<Tallied>)>>(&mut self, rows: I) {
        rows.into_iter().for_each(|(key, held)| self.push(&key, held.as_ref()));
    }
}

impl Last {
    fn held<'l>(&'l mut self, tallied: &Tallied) -> Held<'l> {
        let Tallied { edge, first_seen_ns, connections, bytes_sent, bytes_received, rtt, again } =
            tallied;
        let mut shared = self.text.len();
        // The keys of an edge come one after the other.
        if self.edge.as_ref() != Some(edge) {
            let text = edge.to_string();
            let same = |(a, b): &(u8, u8)| a == b;
            shared = self.text.bytes().zip(text.bytes()).take_while(same).count();
            while !text.is_char_boundary(shared) {
                shared -= 1;
            }
            (self.edge, self.text) = (Some(edge.clone()), text);
        }
        let measured = (0_u8..).zip(rtt.0).filter(|(_, count)| *count != 0);
        Held {
            shared: u32::try_from(shared).unwrap_or(0),
            text: &self.text[shared..],
            first_seen_ns: *first_seen_ns,
            connections: *connections,
            bytes_sent: *bytes_sent,
            bytes_received: *bytes_received,
            rtt: measured.collect(),
            again: *again,
        }
    }
}

/// How a key differs from the last: for each eight bytes one that says which of them do, then these.
fn differences(last: &[u8], key: &[u8]) -> Vec<u8> {
    let mut differing = Vec::with_capacity(key.len());
    for (group, bytes) in key.chunks(8).enumerate() {
        let mark = differing.len();
        differing.push(0);
        for (bit, byte) in bytes.iter().enumerate() {
            if last.get(8 * group + bit).copied().unwrap_or(0) != *byte {
                differing[mark] |= 1 << bit;
                differing.push(*byte);
            }
        }
    }
    differing
}

/// The key that differs so from the last; None where nothing does.
fn apply(last: &[u8], differing: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut key = last.to_vec();
    key.resize(len, 0);
    let mut differing = differing.iter();
    for bytes in key.chunks_mut(8) {
        let mark = *differing.next()?;
        for (bit, byte) in bytes.iter_mut().enumerate() {
            if mark & (1 << bit) != 0 {
                *byte = *differing.next()?;
            }
        }
    }
    Some(key)
}

/// Reads a part; ends after the first row that is none.
struct Rows<'p> {
    left: &'p [u8],
    last: Last,
}

impl<'p> Rows<'p> {
    fn of(part: &'p [u8]) -> Self {
        Self { left: part, last: Last::default() }
    }

    fn row(&mut self) -> Result<(Vec<u8>, Option<Tallied>), String> {
        let (row, left) =
            postcard::take_from_bytes::<Row<'_>>(self.left).map_err(|error| error.to_string())?;
        self.left = left;
        let key = apply(&self.last.key, row.key, row.key_len.into());
        let key = key.ok_or("a key is too short")?;
        key.clone_into(&mut self.last.key);
        Ok((key, row.held.map(|held| self.held(&held)).transpose()?))
    }

    fn held(&mut self, held: &Held<'_>) -> Result<Tallied, String> {
        let shared = usize::try_from(held.shared).unwrap_or(usize::MAX);
        let edge = match &self.last.edge {
            Some(edge) if shared == self.last.text.len() && held.text.is_empty() => edge.clone(),
            _ => {
                let shared = self.last.text.get(..shared).ok_or("an edge is too short")?;
                let text = format!("{shared}{}", held.text);
                let edge = Edge::from_str(&text).map_err(|error| error.to_string())?;
                (self.last.edge, self.last.text) = (Some(edge.clone()), text);
                edge
            }
        };
        let mut rtt = RttHistogram::default();
        for (bucket, count) in &held.rtt {
            *rtt.0.get_mut(usize::from(*bucket)).ok_or("there is no such bucket")? = *count;
        }
        Ok(Tallied {
            edge,
            first_seen_ns: held.first_seen_ns,
            connections: held.connections,
            bytes_sent: held.bytes_sent,
            bytes_received: held.bytes_received,
            rtt,
            again: held.again,
        })
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<(Vec<u8>, Option<Tallied>), String>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left.is_empty() {
            return None;
        }
        let row = self.row();
        if row.is_err() {
            self.left = &[];
        }
        Some(row)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tallied(edge: &str, connections: u64) -> Tallied {
        let mut rtt = RttHistogram::default();
        rtt.0[usize::from(connections > 2)] = u32::MAX;
        Tallied {
            edge: edge.parse().unwrap(),
            first_seen_ns: u64::MAX - connections,
            connections,
            bytes_sent: 0,
            bytes_received: 1 << 40,
            rtt,
            again: connections == 3,
        }
    }

    fn rows() -> Vec<(Vec<u8>, Option<Tallied>)> {
        let port = |number: u16| {
            let edge = format!("systemd:a.service -> systemd:b.service {number}/tcp");
            let [low, high] = number.to_le_bytes();
            let key = |last| [[7; 20].as_slice(), &[low, high, last]].concat();
            let tallied = |connections| Some(tallied(&edge, connections));
            [(key(0), tallied(1)), (key(1), tallied(3)), (key(0), None)]
        };
        let odd = (vec![1], Some(tallied("world -> systemd:b.service 1/tcp", 0)));
        (1..2_000).flat_map(port).chain([odd, (Vec::new(), None)]).collect()
    }

    #[test]
    fn rows_are_read_as_they_were_written() {
        let rows = rows();
        let mut written = Tallies::default();
        written.extend(rows.clone());
        assert_eq!((written.len(), written.rows().collect::<Vec<_>>()), (rows.len(), rows.clone()));
        let parts: Vec<&[u8]> = written.parts().collect();
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        assert!(parts.len() > 1, "one part only");
        assert!(bytes < 40 * rows.len(), "{bytes} bytes for {} rows", rows.len());

        let mut kept = Tallies::default();
        parts.iter().for_each(|part| kept.take_up(part).unwrap());
        // More is added to what was read.
        kept.push(b"more", Some(&tallied("world -> systemd:b.service 2/tcp", 1)));
        let mut more = Tallies::default();
        more.extend(rows[..3].to_vec());
        kept.append(more);
        kept.append(Tallies::default());
        kept.push(b"last", None);
        let read: Vec<_> = kept.rows().collect();
        assert_eq!((kept.len(), read.len()), (rows.len() + 5, rows.len() + 5));
        assert_eq!((&read[..rows.len()], &read[rows.len() + 1..][..3]), (&rows[..], &rows[..3]));
        assert_eq!(
            (&read[rows.len()].0[..], read[rows.len() + 4].clone()),
            (&b"more"[..], (b"last".to_vec(), None))
        );
    }

    #[test]
    fn bytes_that_are_no_rows_are_refused() {
        let mut written = Tallies::default();
        written.extend(rows()[..9].to_vec());
        let part = written.parts().next().unwrap();
        let mut kept = Tallies::default();
        let error = kept.take_up(&part[..part.len() - 1]).unwrap_err().to_string();
        assert!(error.starts_with("row 8 cannot be read: "), "{error}");
        for at in 0..part.len() {
            let mut changed = part.to_vec();
            changed[at] ^= 0xff;
            // Whatever comes of it: nothing breaks.
            drop(kept.take_up(&changed));
        }
        assert!(kept.rows().count() <= kept.len());
    }
}
