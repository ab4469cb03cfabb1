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
use rustix::time::{ClockId, clock_gettime};

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

/// What a look took of a processor, and what it brought.
struct Looked {
    took: Duration,
    found: Vec<Found>,
}

/// Of one place.
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
    look: Option<JoinHandle<Looked>>,
    /// There is no look before.
    rests_until: Option<Instant>,
}

impl Servers {
    /// What is started for a socket starts when it is dialled.
    const STARTS_WITHIN: Duration = Duration::from_secs(1);
    const EVERY: Duration = Duration::from_secs(10);
    /// Going through every process's files takes a while on a large machine: so many times as long as a
    /// look took there is none, and at most so long.
    const RESTS: u32 = 1000;
    const RESTS_AT_MOST: Duration = Duration::from_secs(300);
    /// Questions answered by one look: what it takes is bounded, however many listeners a burst meets.
    const AT_ONCE: usize = 128;
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
        let looked = over.and_then(|it| it.join().ok());
        let now = Instant::now();
        if let Some(Looked { took, .. }) = &looked {
            let rests = took.saturating_mul(Self::RESTS).min(Self::RESTS_AT_MOST);
            self.rests_until = self.rests_until.max(Some(now + rests));
        }
        let rests = self.rests_until.is_some_and(|until| now < until);
        if self.look.is_none() && !rests {
            let due = self.take_due(now);
            if !due.is_empty() {
                self.rests_until = Some(now + Self::EVERY);
                let look = thread::Builder::new().name("servers".to_owned());
                // Where there can be no thread it is asked about again with the next that is new.
                self.look = look.spawn(|| find(due)).ok();
            }
        }
        looked.map_or_else(Vec::new, |it| it.found)
    }

    /// Takes out as many questions as one look answers: no process keeps another's waiting, at however
    /// many ports it listens.
    fn take_due(&mut self, now: Instant) -> Vec<Question> {
        let mut of: HashMap<u32, usize> = HashMap::new();
        let mut due: Vec<(usize, Place)> = Vec::new();
        for question in self.questions.values().filter(|it| it.due <= now) {
            let before = of.entry(question.pid).or_default();
            due.push((*before, question.place));
            *before += 1;
        }
        due.sort_unstable();
        due.truncate(Self::AT_ONCE);
        due.iter().filter_map(|(_, place)| self.questions.remove(place)).collect()
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
fn find(questions: Vec<Question>) -> Looked {
    let began = used();
    let (listeners, listed) = listeners(&questions);
    let mut found: Vec<Found> = questions
        .into_iter()
        .zip(listeners)
        .map(|(question, listener)| Found { question, listener, holders: Vec::new() })
        .collect();
    // A process that listens at thousands of ports is gone through once, and no further than needed.
    let mut named: HashMap<u32, HashSet<u32>> = HashMap::new();
    for Found { question, listener, .. } in &found {
        named.entry(question.pid).or_default().extend(listener.map(|it| it.inode));
    }
    let mut open = HashSet::new();
    for (pid, sought) in &mut named {
        let held = if manages(*pid) { HashSet::new() } else { namespaces::held_by(*pid, sought) };
        open.extend(sought.extract_if(|inode| !held.contains(inode)));
    }
    let by_all = if open.is_empty() { Vec::new() } else { namespaces::all_holders(&open) };
    for Found { question, listener, holders } in &mut found {
        let Some(OldSocket { inode, .. }) = *listener else { continue };
        if named[&question.pid].contains(&inode) {
            holders.push(question.pid);
        } else {
            let its = by_all.iter().filter(|(held, _)| *held == inode);
            holders.extend(its.map(|(_, pid)| *pid).filter(|pid| !manages(*pid)));
        }
    }
    Looked { took: used().saturating_sub(began) + listed, found }
}

/// Who listens at each place that is asked about; and how long others took to list them, for they may be
/// those of a namespace that only a thread of its own goes to.
fn listeners(questions: &[Question]) -> (Vec<Option<OldSocket>>, Duration) {
    let asked: HashSet<u16> = questions.iter().map(|it| it.place.port).collect();
    let mut listening: HashMap<(NetnsCookie, u16), Vec<OldSocket>> = HashMap::new();
    let mut listed = HashSet::new();
    let began = Instant::now();
    for Question { place, pid, .. } in questions {
        if !listed.insert(place.netns) {
            continue;
        }
        let all = namespaces::listeners_of(*pid, place.netns).unwrap_or_default();
        for listener in all.into_iter().filter(|it| asked.contains(&it.local.port())) {
            listening.entry((place.netns, listener.local.port())).or_default().push(listener);
        }
    }
    let took = began.elapsed();
    let at = |place: Place| one_at(listening.get(&(place.netns, place.port))?, place);
    (questions.iter().map(|it| at(it.place)).collect(), took)
}

/// What this thread has used of a processor.
fn used() -> Duration {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(used).unwrap_or_default()
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
    fn a_look_is_bounded_and_no_process_keeps_another_waiting() {
        let mut servers = Servers::default();
        let now = Instant::now();
        let mut ask = |pid: u32, port: u16, due: Instant| {
            let place = Place { port, ..place() };
            let question = Question { place, cgroup: OPENER, pid, due, looks: 0 };
            servers.questions.insert(place, question);
        };
        (1..=1000).for_each(|port| ask(7, port, now));
        ask(8, 2000, now);
        ask(9, 2001, now + Servers::STARTS_WITHIN);
        let due = servers.take_due(now);
        assert_eq!(due.len(), Servers::AT_ONCE);
        assert!(due.iter().any(|it| it.pid == 8), "it has one question");
        assert!(due.iter().all(|it| it.pid != 9), "not yet");
        assert_eq!(servers.questions.len(), 1002 - Servers::AT_ONCE, "the others wait");
        while servers.questions.len() > 1 {
            assert!(!servers.take_due(now).is_empty());
        }
        assert!(servers.take_due(now).is_empty());
    }

    #[test]
    fn who_listens_is_found_with_who_holds_it() {
        let listeners = [(); 2].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let netns = namespaces::own_cookie().unwrap();
        let ask = |local: SocketAddr, pid| {
            let place = Place { netns, local: local.ip(), port: local.port() };
            Question { place, cgroup: OPENER, pid, due: Instant::now(), looks: 0 }
        };
        let own = std::process::id();
        let [first, second] = listeners.each_ref().map(|it| it.local_addr().unwrap());
        let third = SocketAddr::from(([127, 0, 0, 9], first.port()));
        // The second is asked of a process that does not hold it, and all are.
        let Looked { found, .. } = find(vec![ask(first, own), ask(second, 1), ask(third, own)]);
        let holders: Vec<&[u32]> = found.iter().map(|it| it.holders.as_slice()).collect();
        assert_eq!(holders, [&[own][..], &[own], &[]]);
        assert!(found[0].listener.is_some_and(|it| it.local == first));
        assert_eq!(found[2].listener, None, "nobody listens there");
        drop(listeners);
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
