//! Sockets that are older than the kernel programs: the kernel is told whose they are, as it would
//! have noted itself, and their connections are told as flows. And all listeners, which begin once and are told again where they were
//! forgotten.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::maps::{HashMap as BpfHashMap, MapData};
use foldhash::HashMap;
use monitor_common::map;
use monitor_core::flow::Protocol;
use monitor_core::ids::{CgroupId, NetnsCookie};
use monitor_core::network::Network;

use crate::capture::batch::Batch;
use crate::capture::clock;
use crate::capture::connections::{self, Holders};
use crate::capture::decode::{self, BoundBytes, ListenKeyBytes, ListenerBytes, SocketOwner};
use crate::capture::hierarchy::children;
use crate::capture::namespaces::{self, Census, OldConnections, OldSockets};
use crate::capture::netlink::{OldSocket, Wanted};
use crate::capture::preflight::Ground;
use crate::capture::tell::Teller;
use crate::capture::{CaptureError, IF_ABSENT, IF_PRESENT, attach, take};

/// The kernel's maps of sockets' owners.
pub(super) struct OlderSockets {
    listeners: BpfHashMap<MapData, ListenKeyBytes, ListenerBytes>,
    bound: BpfHashMap<MapData, u64, BoundBytes>,
    netns_in_sock_ops: bool,
    /// The part of the hierarchy that is watched, where that is not all of it.
    part: Option<PathBuf>,
    entered: Option<Instant>,
}

impl OlderSockets {
    /// Going through every process's files takes a while on a large machine.
    const ENTER_AGAIN_EVERY: Duration = Duration::from_secs(30);

    pub(super) fn new(
        ebpf: &mut Ebpf,
        ground: &Ground,
        part: Option<PathBuf>,
    ) -> Result<Self, CaptureError> {
        Ok(Self {
            listeners: take(ebpf, map::LISTENERS)?,
            bound: take(ebpf, map::BOUND)?,
            netns_in_sock_ops: attach::netns_in_sock_ops(ground),
            part: part.filter(|part| *part != ground.cgroup.path),
            entered: None,
        })
    }

    /// Enters what the kernel could not attribute by itself: a socket that listens without having
    /// been bound, where `sock_ops` programs may not ask who listens; or one that found no room.
    pub(super) fn enter_again(&mut self, teller: &mut Teller) {
        let due = self.entered.is_none_or(|last| last.elapsed() >= Self::ENTER_AGAIN_EVERY);
        if due {
            // What is refused was told at the start.
            drop(self.enter(&mut Census::take(), teller));
        }
    }

    /// Whether what a cgroup does is seen at all.
    fn watches(&self, cgroup: CgroupId) -> bool {
        self.part.as_ref().is_none_or(|part| cgroups_of(part).contains(&cgroup))
    }

    /// Makes room for a listener of our own, before it listens: where there is none it would be
    /// counted as a loss.
    pub(super) fn expect(&mut self, local: SocketAddr, cgroup: CgroupId) -> Result<(), String> {
        if !self.watches(cgroup) {
            return Err("the agent's own cgroup is outside of capture.cgroup".to_owned());
        }
        let netns = namespaces::own_cookie().map_err(|error| error.to_string())?;
        let netns = if self.netns_in_sock_ops { netns } else { NetnsCookie(0) };
        let (key, value) = decode::expected_listener(netns, local, cgroup);
        let entered = self.listeners.insert(key, value, IF_ABSENT);
        entered.map_err(|error| format!("the table of listeners has no room: {error}"))
    }

    /// Enters every server's socket that can be found; says what could not be looked into.
    pub(super) fn enter(&mut self, census: &mut Census, teller: &mut Teller) -> Option<String> {
        self.look(census, Wanted::Open, teller).1
    }

    /// The same, and finds every connection that is there.
    pub(super) fn enter_and_find(
        &mut self,
        census: &mut Census,
        teller: &mut Teller,
    ) -> Vec<OldConnections> {
        // What is refused was told before.
        self.look(census, Wanted::All, teller).0
    }

    /// Enters what is wanted, and hands back the connections among it and what could not be looked into.
    fn look(
        &mut self,
        census: &mut Census,
        wanted: Wanted,
        teller: &mut Teller,
    ) -> (Vec<OldConnections>, Option<String>) {
        self.entered = Some(Instant::now());
        let namespaces::Survey { found, mut refused, mut reason } = census.survey(wanted);
        census.find_missed(&found);
        let watched = self.part.as_deref().map(cgroups_of);
        let mut connections = Vec::new();
        for namespace in found {
            teller.addresses(namespace.cookie, namespace.addresses);
            match namespace.sockets {
                Ok(mut sockets) => {
                    // Of the others no program of ours will ever hear.
                    watched.iter().for_each(|watched| sockets.keep(watched));
                    self.enter_namespace(namespace.cookie, &sockets, |socket| {
                        let pid = census.holders.get(&socket.inode).copied().unwrap_or(0);
                        SocketOwner {
                            cgroup: socket.cgroup,
                            executable_id: teller.executable_id(pid),
                            pid,
                            uid: socket.uid,
                        }
                    });
                    connections.extend(sockets.connections);
                }
                Err(error) => {
                    refused += 1;
                    reason.get_or_insert(error);
                }
            }
        }
        let refused = reason.map(|reason| {
            format!("sockets that were there before, in {refused} network namespaces: {reason}")
        });
        (connections, refused)
    }

    /// Tells of connections that the kernel did not see begin: of how many.
    pub(super) fn tell_connections(
        found: Vec<OldConnections>,
        census: Census,
        internal: &[Network],
        teller: &mut Teller,
    ) -> usize {
        let count = found.iter().map(|it| it.tcp.len() + it.udp.len()).sum();
        let holding: HashSet<u32> = census.holders.values().copied().collect();
        let executables = holding.into_iter().map(|pid| (pid, teller.executable_id(pid))).collect();
        let noted = Noted { holders: census.holders, executables };
        let flows = connections::flows(&found, internal, &noted);
        drop((found, noted));
        teller.pre_existing(flows);
        count
    }

    /// Tells of every listener that is not told.
    pub(super) fn tell_listeners(&self, teller: &mut Teller) {
        let now_ns = clock::boot_ns();
        let mut batch = Batch::new();
        // Where it cannot be read it is read the next time.
        while batch.read(&self.listeners).unwrap_or(false) {
            for (key, listener) in batch.rows() {
                teller.listener(key, listener, now_ns);
            }
        }
    }

    /// Makes another the owner of a listener; false where nothing changed.
    pub(super) fn hand_over(
        &mut self,
        netns: NetnsCookie,
        local: SocketAddr,
        owner: SocketOwner,
    ) -> bool {
        let netns = if self.netns_in_sock_ops { netns } else { NetnsCookie(0) };
        let (key, _) = decode::listener(netns, local, owner);
        let held = self.listeners.get(&key, 0).ok();
        let handed = held.and_then(|held| decode::handed_over(&held, owner));
        handed.is_some_and(|value| self.listeners.insert(key, value, IF_PRESENT).is_ok())
    }

    /// What is there already was written by the kernel, and is right. What finds no room is counted
    /// by the kernel when it accepts.
    fn enter_namespace(
        &mut self,
        netns: NetnsCookie,
        sockets: &OldSockets,
        owner: impl Fn(&OldSocket) -> SocketOwner,
    ) {
        let netns = if self.netns_in_sock_ops { netns } else { NetnsCookie(0) };
        for socket in &sockets.listeners {
            let (key, value) = decode::listener(netns, socket.local, owner(socket));
            drop(self.listeners.insert(key, value, IF_ABSENT));
        }
        let receivers = sockets.receivers.iter().map(|it| (Protocol::Udp, it));
        let lite = sockets.lite_receivers.iter().map(|it| (Protocol::UdpLite, it));
        for (protocol, socket) in receivers.chain(lite) {
            let value = decode::bound(protocol, socket.local, owner(socket));
            drop(self.bound.insert(socket.cookie, value, IF_ABSENT));
        }
    }
}

/// What is noted of the processes that hold sockets.
struct Noted {
    /// By inode.
    holders: HashMap<u32, u32>,
    /// By process: each holds many.
    executables: HashMap<u32, u64>,
}

impl Holders for Noted {
    fn pid(&self, inode: u32) -> Option<u32> {
        self.holders.get(&inode).copied()
    }

    fn executable_id(&self, pid: u32) -> u64 {
        self.executables.get(&pid).copied().unwrap_or(0)
    }
}

/// A directory of the hierarchy and all below it, by their ids.
fn cgroups_of(part: &Path) -> HashSet<CgroupId> {
    let mut found: HashSet<CgroupId> =
        fs::metadata(part).into_iter().map(|it| CgroupId(it.ino())).collect();
    let mut left = vec![part.to_owned()];
    while let Some(directory) = left.pop() {
        for child in children(&directory) {
            found.insert(CgroupId(child.ino()));
            left.push(child.path());
        }
    }
    found
}
