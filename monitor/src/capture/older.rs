//! Sockets that are older than the kernel programs: the kernel is told whose they are, as it would
//! have noted itself.

use aya::Ebpf;
use aya::maps::{HashMap as BpfHashMap, MapData};
use monitor_common::map;
use monitor_core::ids::NetnsCookie;

use super::decode::{self, BoundBytes, ListenKeyBytes, ListenerBytes, SocketOwner};
use super::namespaces::{self, Namespace};
use super::netlink::OldSocket;
use super::preflight::Ground;
use super::tell::Teller;
use super::{Result, attach, take};

/// The kernel's maps of sockets' owners.
pub(super) struct OlderSockets {
    listeners: BpfHashMap<MapData, ListenKeyBytes, ListenerBytes>,
    bound: BpfHashMap<MapData, u64, BoundBytes>,
    netns_in_sock_ops: bool,
}

impl OlderSockets {
    pub(super) fn new(ebpf: &mut Ebpf, ground: &Ground) -> Result<Self> {
        Ok(Self {
            listeners: take(ebpf, map::LISTENERS)?,
            bound: take(ebpf, map::BOUND)?,
            netns_in_sock_ops: attach::netns_in_sock_ops(ground),
        })
    }

    /// Enters every socket that can be found; says what could not be looked into.
    pub(super) fn enter(&mut self, teller: &mut Teller) -> Option<String> {
        let survey = namespaces::survey();
        let inodes = survey
            .found
            .iter()
            .flat_map(|namespace| namespace.listeners.iter().chain(&namespace.receivers))
            .map(|socket| socket.inode)
            .collect();
        let holders = namespaces::holders(&inodes);
        for namespace in survey.found {
            self.enter_namespace(&namespace, |socket| {
                let pid = holders.get(&socket.inode).copied().unwrap_or(0);
                SocketOwner {
                    cgroup: socket.cgroup,
                    executable_id: teller.executable_id(pid),
                    pid,
                    uid: socket.uid,
                }
            });
            teller.addresses(namespace.cookie, namespace.addresses);
        }
        let refused = survey.refused;
        survey.reason.map(|reason| {
            format!("sockets older than this in {refused} network namespaces: {reason}")
        })
    }

    /// What is there already was written by the kernel, and is right. What finds no room is counted
    /// by the kernel when it accepts.
    fn enter_namespace(
        &mut self,
        namespace: &Namespace,
        owner: impl Fn(&OldSocket) -> SocketOwner,
    ) {
        const IF_ABSENT: u64 = 1;
        let netns = if self.netns_in_sock_ops { namespace.cookie } else { NetnsCookie(0) };
        for socket in &namespace.listeners {
            let (key, value) = decode::listener(netns, socket.local, owner(socket));
            drop(self.listeners.insert(key, value, IF_ABSENT));
        }
        for socket in &namespace.receivers {
            let value = decode::bound(socket.local, owner(socket));
            drop(self.bound.insert(socket.cookie, value, IF_ABSENT));
        }
    }
}
