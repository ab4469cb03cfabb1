//! The map: every edge seen, with its evidence. Says what happened, never whether it is right.

use std::borrow::Cow;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize, Serializer};

use crate::attribute::{SeenFrom, Sighting};
use crate::executables::{Executables, Names};
use crate::flow::{Direction, Outcome, RttHistogram, Traffic};
use crate::ids::{ServiceName, WallTime};
use crate::instances::{Instance, Instances};
use crate::rtt::Rtts;

/// What is known of an edge from having seen it. Connections, not requests: payloads are not read.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Stored<'static>")]
pub struct Evidence {
    pub first_seen: WallTime,
    pub last_seen: WallTime,
    /// The best outcome so far: once established, always established.
    pub outcome: Outcome,
    pub seen_from: SeenFrom,
    connections: u64,
    to_server: u64,
    to_client: u64,
    /// As many as fit; `rare` has the rest.
    failures: u32,
    pub rtt: Rtts,
    /// Dialling executables, at most [`Evidence::EXECUTABLES`].
    pub executables: Executables,
    /// The containers that its owner ran as.
    pub instances: Instances,
    rare: Option<Box<Rare>>,
}

/// What most edges have nothing of: their servers are elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Rare {
    from_server: Tally,
    failures: u64,
    dialled: Vec<SocketAddr>,
    opened_by: Option<ServiceName>,
}

/// [`Evidence`] as it is stored.
#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    first_seen: WallTime,
    last_seen: WallTime,
    outcome: Outcome,
    seen_from: SeenFrom,
    from_client: Tally,
    #[serde(default, skip_serializing_if = "Tally::is_nothing")]
    from_server: Tally,
    #[serde(default, skip_serializing_if = "Rtts::is_empty")]
    rtt: Cow<'a, Rtts>,
    #[serde(default)]
    executables: Cow<'a, Executables>,
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    dialled: Cow<'a, [SocketAddr]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    opened_by: Option<Cow<'a, ServiceName>>,
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    images: Cow<'a, [Instance]>,
}

/// What one end counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Tally {
    #[serde(default, skip_serializing_if = "is_none")]
    pub connections: u64,
    /// Dials that came to nothing.
    #[serde(default, skip_serializing_if = "is_none")]
    pub failures: u64,
    /// Payload bytes of closed connections.
    #[serde(default, skip_serializing_if = "is_none")]
    pub to_server: u64,
    #[serde(default, skip_serializing_if = "is_none")]
    pub to_client: u64,
}

impl Tally {
    const fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.failures += other.failures;
        self.to_server += other.to_server;
        self.to_client += other.to_client;
    }

    fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
const fn is_none(count: &u64) -> bool {
    *count == 0
}

/// What one end of an edge counted since it was last asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Which end, and how the exchanges went.
    pub direction: Direction,
    pub outcome: Outcome,
    pub last_seen: WallTime,
    pub connections: u64,
    /// Payload bytes that this end sent and received.
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub rtt: RttHistogram,
}

impl From<&Traffic> for Count {
    fn from(traffic: &Traffic) -> Self {
        Self {
            direction: traffic.key.direction,
            outcome: if traffic.key.protocol.serves_datagrams() {
                // A dial is all that is seen of a connected datagram socket: it is what is counted.
                traffic.key.outcome.max(Outcome::Sent)
            } else {
                traffic.key.outcome
            },
            last_seen: traffic.last_seen,
            connections: traffic.connections,
            bytes_sent: traffic.bytes_sent,
            bytes_received: traffic.bytes_received,
            rtt: traffic.rtt,
        }
    }
}

impl Evidence {
    /// Executables remembered per edge; more are counted by nobody and remembered by nobody.
    pub const EXECUTABLES: usize = 32;
    pub const DIALLED: usize = 8;

    /// What a first sighting is entered into.
    #[must_use]
    pub fn of(sighting: &Sighting) -> Self {
        Self {
            first_seen: sighting.at,
            last_seen: sighting.at,
            outcome: sighting.outcome,
            seen_from: sighting.seen_from,
            connections: 0,
            to_server: 0,
            to_client: 0,
            failures: 0,
            rtt: Rtts::default(),
            executables: Executables::default(),
            instances: Instances::default(),
            rare: None,
        }
    }

    /// Takes a sighting in. Its connection is counted by [`Evidence::count`] alone.
    pub fn see(&mut self, sighting: &Sighting, names: &mut Names) {
        self.last_seen = self.last_seen.max(sighting.at);
        self.seen_from = self.seen_from.and(sighting.seen_from);
        self.outcome = self.outcome.max(sighting.outcome);
        if let Some(executable) = sighting.executable()
            && self.executables.len() < Self::EXECUTABLES
            && !self.executables.contains(executable)
        {
            self.executables.insert(names.share(executable));
        }
        if let Some(instance) = sighting.instance() {
            self.instances.add(&instance);
            names.share_list(&mut self.instances);
        }
        if let Some(handover) = &sighting.opened_by {
            self.rare.get_or_insert_default().opened_by = Some(handover.opener.clone());
        }
        if let Some(dialled) = sighting.dialled.filter(|it| self.dialled().last() != Some(it)) {
            let all = &mut self.rare.get_or_insert_default().dialled;
            all.retain(|it| *it != dialled);
            all.drain(..(all.len() + 1).saturating_sub(Self::DIALLED));
            all.reserve_exact(1);
            all.push(dialled);
        }
    }

    /// Adds what was counted.
    pub fn count(&mut self, count: &Count) {
        self.last_seen = self.last_seen.max(count.last_seen);
        let outbound = count.direction == Direction::Outbound;
        let mut tally = if outbound { self.from_client() } else { self.from_server() };
        if count.outcome.reached() {
            tally.connections += count.connections;
        } else if count.outcome.is_final() {
            tally.failures += count.connections;
        }
        let (to_server, to_client) = if outbound {
            (count.bytes_sent, count.bytes_received)
        } else {
            (count.bytes_received, count.bytes_sent)
        };
        tally.to_server += to_server;
        tally.to_client += to_client;
        if outbound {
            self.set_from_client(tally);
        } else {
            self.rare.get_or_insert_default().from_server = tally;
        }
        // Both ends measure the same path: one of them is enough.
        let measures = outbound || self.seen_from == SeenFrom::Server;
        if measures && count.rtt != RttHistogram::default() {
            self.rtt.add(&count.rtt);
        }
    }

    /// Takes in what was known of the same edge under another name.
    pub fn join(&mut self, other: Self) {
        self.first_seen = self.first_seen.min(other.first_seen);
        self.last_seen = self.last_seen.max(other.last_seen);
        self.outcome = self.outcome.max(other.outcome);
        self.seen_from = self.seen_from.and(other.seen_from);
        let mut from_client = self.from_client();
        from_client.add(&other.from_client());
        self.set_from_client(from_client);
        self.rtt.add(&other.rtt.whole());
        for executable in other.executables.iter() {
            if self.executables.len() < Self::EXECUTABLES && !self.executables.contains(executable)
            {
                self.executables.insert(executable.into());
            }
        }
        for instance in other.instances.all() {
            self.instances.add(instance);
        }
        if let Some(theirs) = other.rare {
            let rare = self.rare.get_or_insert_default();
            rare.from_server.add(&theirs.from_server);
            if rare.dialled.is_empty() {
                rare.dialled = theirs.dialled;
            }
            rare.opened_by = rare.opened_by.take().or(theirs.opened_by);
        }
    }

    /// Connections as each end counted them: two views of the same connections, never a sum.
    #[must_use]
    pub fn from_client(&self) -> Tally {
        let more = self.rare.as_ref().map_or(0, |it| it.failures);
        Tally {
            connections: self.connections,
            failures: more + u64::from(self.failures),
            to_server: self.to_server,
            to_client: self.to_client,
        }
    }

    fn set_from_client(&mut self, tally: Tally) {
        let Tally { connections, failures, to_server, to_client } = tally;
        (self.connections, self.to_server, self.to_client) = (connections, to_server, to_client);
        self.failures = u32::try_from(failures).unwrap_or(u32::MAX);
        let more = failures - u64::from(self.failures);
        if more > 0 {
            self.rare.get_or_insert_default().failures = more;
        }
    }

    #[must_use]
    pub fn from_server(&self) -> Tally {
        self.rare.as_ref().map(|it| it.from_server).unwrap_or_default()
    }

    /// What was dialled to reach a server on this machine, the last at most [`Evidence::DIALLED`] of
    /// them.
    #[must_use]
    pub fn dialled(&self) -> &[SocketAddr] {
        self.rare.as_ref().map_or(&[], |it| &it.dialled)
    }

    /// Who opened the socket, the last time it was somebody else than who used it.
    #[must_use]
    pub fn opened_by(&self) -> Option<&ServiceName> {
        self.rare.as_ref()?.opened_by.as_ref()
    }

    /// The fuller of the two ends' views, field by field: an end that came late missed some.
    #[must_use]
    pub fn totals(&self) -> Tally {
        let (a, b) = (self.from_client(), self.from_server());
        Tally {
            connections: a.connections.max(b.connections),
            failures: a.failures.max(b.failures),
            to_server: a.to_server.max(b.to_server),
            to_client: a.to_client.max(b.to_client),
        }
    }
}

impl Serialize for Evidence {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let stored = Stored {
            first_seen: self.first_seen,
            last_seen: self.last_seen,
            outcome: self.outcome,
            seen_from: self.seen_from,
            from_client: self.from_client(),
            from_server: self.from_server(),
            rtt: Cow::Borrowed(&self.rtt),
            executables: Cow::Borrowed(&self.executables),
            dialled: Cow::Borrowed(self.dialled()),
            opened_by: self.opened_by().map(Cow::Borrowed),
            images: Cow::Borrowed(self.instances.all()),
        };
        stored.serialize(serializer)
    }
}

impl From<Stored<'_>> for Evidence {
    fn from(stored: Stored<'_>) -> Self {
        let rare = Rare {
            from_server: stored.from_server,
            failures: 0,
            dialled: stored.dialled.into_owned(),
            opened_by: stored.opened_by.map(Cow::into_owned),
        };
        let mut evidence = Self {
            first_seen: stored.first_seen,
            last_seen: stored.last_seen,
            outcome: stored.outcome,
            seen_from: stored.seen_from,
            connections: 0,
            to_server: 0,
            to_client: 0,
            failures: 0,
            rtt: stored.rtt.into_owned(),
            executables: stored.executables.into_owned(),
            instances: stored.images.into_owned().into(),
            rare: (rare != Rare::default()).then(|| Box::new(rare)),
        };
        evidence.set_from_client(stored.from_client);
        evidence
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evidence_reads_as_it_is_written_however_much_it_is() {
        assert_eq!(size_of::<Evidence>(), 104);
        let tally = r#"{"connections":1,"failures":2,"to_server":3,"to_client":4}"#;
        let much = tally.replace('2', "18446744073709551615");
        for (from_client, from_server, rest) in [
            (tally, tally, r#""executables":[]"#),
            (&much, tally, r#""executables":["/bin/x"],"dialled":["192.0.2.1:80"]"#),
            (&much, &much, r#""executables":[],"opened_by":"systemd:a.service""#),
            (tally, tally, r#""executables":[],"images":[{"container":"web","image":"sha256:1"}]"#),
        ] {
            let text = format!(
                r#"{{"first_seen":"2026-01-01T00:00:00Z","last_seen":"2026-01-01T00:00:01Z","outcome":"established","seen_from":"both","from_client":{from_client},"from_server":{from_server},{rest}}}"#
            );
            let evidence: Evidence = serde_json::from_str(&text).unwrap();
            assert_eq!(serde_json::to_string(&evidence).unwrap(), text);
        }
    }
}
