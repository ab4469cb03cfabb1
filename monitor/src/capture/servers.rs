//! Who serves at a listener that another opened, as under socket activation. The kernel's half knows who
//! made a socket listen; who accepts there it is not told. So whoever holds the listener open is looked
//! for, once something was accepted, by a thread that nobody waits for; from then on it is the server,
//! with whom the listener is from as its opener. What was accepted before that is the opener's.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use monitor_core::flow::{Direction, FlowKey, Protocol};
use monitor_core::ids::{CgroupId, NetnsCookie};

use crate::capture::Capture;
use crate::capture::decode::{Origin, SocketOwner};
use crate::capture::namespaces;
use crate::capture::netlink::OldSocket;
use crate::capture::procfs;

/// Where something was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Place {
    netns: NetnsCookie,
    local: IpAddr,
    port: u16,
}

/// A place of which it is asked who serves there.
#[derive(Debug, Clone, Copy)]
struct Question {
    place: Place,
    /// Who listens there as far as it is known, and one of its processes.
    cgroup: CgroupId,
    pid: u32,
    due: Instant,
    looks: u32,
}

/// A listener that serves somebody else than who opened it.
#[derive(Debug, Clone, Copy)]
struct Handed {
    listener: OldSocket,
    server: CgroupId,
    /// One of the opener's.
    pid: u32,
}

/// What a look brought.
struct Found {
    question: Question,
    /// None where nobody listens, or several do.
    listener: Option<OldSocket>,
    /// Processes that hold it and are no [manager](manages).
    holders: Vec<u32>,
}

#[derive(Default)]
pub(super) struct Servers {
    questions: BTreeMap<Place, Question>,
    /// Those are not asked about again.
    settled: HashSet<(Place, CgroupId)>,
    handed: HashMap<Place, Handed>,
    look: Option<JoinHandle<Vec<Found>>>,
    looked: Option<Instant>,
}

impl Servers {
    /// What is started for a socket starts when it is dialled.
    const STARTS_WITHIN: Duration = Duration::from_secs(1);
    /// Going through every process's files takes a while on a large machine.
    const EVERY: Duration = Duration::from_secs(10);
    /// Where nobody serves, each look is twice as long after the one before, up to five minutes.
    const DOUBLINGS: u32 = 5;
    const MAX_QUESTIONS: usize = 1024;
    /// Past this all are forgotten, and asked about again.
    const MAX_SETTLED: usize = 1 << 14;

    /// Takes note of a flow. Who opened the listener that accepted it, where it serves somebody else.
    pub(super) fn opener(&mut self, key: &FlowKey, origin: &Origin) -> Option<CgroupId> {
        if (key.protocol, key.direction) != (Protocol::Tcp, Direction::Inbound) {
            return None;
        }
        let place = Place { netns: origin.netns, local: key.local?, port: key.port };
        if let Some(handed) = self.handed.get(&place)
            && handed.server == key.cgroup
        {
            return Some(handed.listener.cgroup);
        }
        let pid = origin.process.as_ref()?.pid;
        if !self.settled.contains(&(place, key.cgroup))
            && self.questions.len() < Self::MAX_QUESTIONS
        {
            let due = Instant::now() + Self::STARTS_WITHIN;
            let question = Question { place, cgroup: key.cgroup, pid, due, looks: 0 };
            self.questions.entry(place).or_insert(question);
        }
        None
    }

    /// What a look brought that is over; begins the next where one is due.
    fn look(&mut self) -> Vec<Found> {
        let over = self.look.take_if(|it| it.is_finished());
        // One that panicked has said so, and found nothing.
        let found = over.and_then(|it| it.join().ok()).unwrap_or_default();
        let now = Instant::now();
        let rests = self.looked.is_some_and(|last| now - last < Self::EVERY);
        if self.look.is_some() || rests || !self.questions.values().any(|it| it.due <= now) {
            return found;
        }
        let due: Vec<Question> =
            self.questions.extract_if(.., |_, it| it.due <= now).map(|it| it.1).collect();
        self.looked = Some(now);
        let look = thread::Builder::new().name("servers".to_owned());
        // Where there can be no thread it is asked about again with the next that is new.
        self.look = look.spawn(|| find(due)).ok();
        found
    }

    fn settle(&mut self, place: Place, server: CgroupId) {
        if self.settled.len() >= Self::MAX_SETTLED {
            self.settled.clear();
        }
        self.settled.insert((place, server));
    }

    /// Judges by the cgroups that hold the listener; the server, where it is one.
    fn judge(&mut self, found: &Found, holding: &BTreeSet<CgroupId>) -> Option<CgroupId> {
        let Question { place, cgroup, pid, looks, .. } = found.question;
        let listener = found.listener?;
        let Some(&server) = holding.first() else {
            let due = Instant::now() + Self::EVERY * (1 << looks.min(Self::DOUBLINGS));
            let again = Question { due, looks: looks + 1, ..found.question };
            self.questions.insert(place, again);
            return None;
        };
        // Where the opener holds it too, or several do, nothing says which of them accepts.
        if holding.len() > 1 || server == listener.cgroup {
            self.settle(place, cgroup);
            return None;
        }
        self.handed.insert(place, Handed { listener, server, pid });
        Some(server)
    }

    /// Takes out what served in a cgroup that is gone: its listener is its opener's, until it is found
    /// who serves next.
    fn vanished(&mut self, cgroup: CgroupId) -> Vec<(Place, Handed)> {
        let gone: Vec<_> = self.handed.extract_if(|_, it| it.server == cgroup).collect();
        for (place, Handed { listener, pid, .. }) in &gone {
            let due = Instant::now() + Self::STARTS_WITHIN;
            let cgroup = listener.cgroup;
            let question = Question { place: *place, cgroup, pid: *pid, due, looks: 0 };
            self.questions.insert(*place, question);
        }
        gone
    }
}

impl Capture {
    /// Tells the kernel who serves at listeners that were handed over.
    pub(super) fn look_for_servers(&mut self) {
        let vanished: Vec<CgroupId> = self.teller.vanished().collect();
        for cgroup in vanished {
            for (place, handed) in self.teller.servers.vanished(cgroup) {
                self.hand(place, &handed.listener, (handed.listener.cgroup, handed.pid));
            }
        }
        for found in self.teller.servers.look() {
            let cgroup_of = |pid: &u32| self.teller.cgroups.of(*pid).map(|it| (it.0, *pid));
            let holding: BTreeMap<CgroupId, u32> =
                found.holders.iter().filter_map(cgroup_of).collect();
            let cgroups = holding.keys().copied().collect();
            if let Some(server) = self.teller.servers.judge(&found, &cgroups)
                && let (Some(listener), Some(&pid)) = (found.listener, holding.get(&server))
            {
                self.hand(found.question.place, &listener, (server, pid));
            }
        }
    }

    fn hand(&mut self, place: Place, listener: &OldSocket, (cgroup, pid): (CgroupId, u32)) {
        let uid = fs::metadata(format!("/proc/{pid}")).map_or(0, |it| it.uid());
        let executable_id = self.teller.executable_id(pid);
        let owner = SocketOwner { cgroup, executable_id, pid, uid };
        if self.older.hand_over(place.netns, listener.local, owner) {
            self.older.tell_listeners(&mut self.teller);
        }
    }
}

/// Answers questions: asks each process that was named first, and all where that leaves one open.
fn find(questions: Vec<Question>) -> Vec<Found> {
    let mut listening: HashMap<NetnsCookie, Vec<OldSocket>> = HashMap::new();
    // A process that listens at thousands of ports is gone through once.
    let mut held: HashMap<u32, HashSet<u32>> = HashMap::new();
    let mut found = Vec::new();
    let mut open = HashSet::new();
    for question in questions {
        let Question { place, pid, .. } = question;
        let look = || namespaces::listeners_of(pid, place.netns).unwrap_or_default();
        let listener = one_at(listening.entry(place.netns).or_insert_with(look), place);
        let mut holders = Vec::new();
        if let Some(OldSocket { inode, .. }) = listener {
            let of = || if manages(pid) { HashSet::new() } else { namespaces::held_by(pid) };
            if held.entry(pid).or_insert_with(of).contains(&inode) {
                holders.push(pid);
            } else {
                open.insert(inode);
            }
        }
        found.push(Found { question, listener, holders });
    }
    let by_all = if open.is_empty() { Vec::new() } else { namespaces::all_holders(&open) };
    for Found { listener, holders, .. } in &mut found {
        if let Some(listener) = listener.filter(|it| open.contains(&it.inode)) {
            let its = by_all.iter().filter(|(inode, _)| *inode == listener.inode);
            holders.extend(its.map(|(_, pid)| *pid).filter(|pid| !manages(*pid)));
        }
    }
    found
}

/// The socket that accepts there: one at that address, else one at all addresses.
fn one_at(listening: &[OldSocket], place: Place) -> Option<OldSocket> {
    let here = || listening.iter().filter(|it| it.local.port() == place.port);
    let mut exact = here().filter(|it| it.local.ip() == place.local).peekable();
    if exact.peek().is_some() {
        return exact.next().filter(|_| exact.next().is_none()).copied();
    }
    let mut anywhere = here().filter(|it| it.local.ip().is_unspecified());
    anywhere.next().filter(|_| anywhere.next().is_none()).copied()
}

/// Whether a process is a service manager: it keeps the sockets that it hands to services, and leaves
/// accepting to them.
fn manages(pid: u32) -> bool {
    procfs::command(pid).is_some_and(|it| it == b"systemd")
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::capture::netlink::Stage;

    const OPENER: CgroupId = CgroupId(1);

    fn listener(local: &str) -> OldSocket {
        let remote = SocketAddr::new(IpAddr::from([0; 4]), 0);
        let local = local.parse().unwrap();
        OldSocket { local, remote, stage: Stage::Open, cookie: 1, uid: 0, inode: 7, cgroup: OPENER }
    }

    fn place() -> Place {
        Place { netns: NetnsCookie(1), local: IpAddr::from([10, 0, 0, 1]), port: 80 }
    }

    fn found() -> Found {
        let due = Instant::now();
        let question = Question { place: place(), cgroup: OPENER, pid: 1, due, looks: 0 };
        Found { question, listener: Some(listener("0.0.0.0:80")), holders: Vec::new() }
    }

    #[test]
    fn the_socket_at_the_address_is_before_one_at_all() {
        let [exact, all, other] = ["10.0.0.1:80", "0.0.0.0:80", "10.0.0.1:81"].map(listener);
        assert_eq!(one_at(&[all, exact, other], place()), Some(exact));
        assert_eq!(one_at(&[all, other], place()), Some(all));
        assert_eq!(one_at(&[exact, exact], place()), None, "which of them is not known");
        assert_eq!(one_at(&[other], place()), None);
    }

    #[test]
    fn only_who_alone_holds_it_is_its_server() {
        let mut servers = Servers::default();
        let [server, other] = [CgroupId(2), CgroupId(3)];
        assert_eq!(servers.judge(&found(), &[OPENER, server].into()), None);
        assert_eq!(servers.judge(&found(), &[server, other].into()), None);
        assert!(servers.handed.is_empty() && servers.questions.is_empty());
        assert_eq!(servers.judge(&found(), &[server].into()), Some(server));
        assert_eq!(servers.handed[&place()].server, server);
        assert_eq!(servers.vanished(other).len(), 0);
        assert_eq!(servers.vanished(server).len(), 1);
        assert!(servers.handed.is_empty() && servers.questions.contains_key(&place()));
    }

    #[test]
    fn where_nobody_serves_it_is_asked_again_and_ever_less_often() {
        let mut servers = Servers::default();
        let mut found = found();
        for looks in 0..100 {
            found.question.looks = looks;
            assert_eq!(servers.judge(&found, &BTreeSet::new()), None);
            let question = servers.questions[&place()];
            assert_eq!(question.looks, looks + 1);
            let wait = question.due - Instant::now();
            let longest = Servers::EVERY * (1 << looks.min(5));
            assert!(wait <= longest && wait * 2 > longest, "{wait:?}");
        }
        found.listener = None;
        servers.questions.clear();
        assert_eq!(servers.judge(&found, &BTreeSet::new()), None);
        assert!(servers.questions.is_empty(), "nobody listens there any more");
    }
}
