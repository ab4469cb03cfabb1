//! Sockets that are neither TCP's nor UDP's and were there before us, or that the kernel does not tell
//! of: found by what `/proc` lists of each network namespace, and by who holds them open.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use monitor_core::socket::Socket;

use crate::capture::namespaces;

/// A socket that somebody holds open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) socket: Socket,
    pub(super) pid: u32,
}

/// Which of them are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sought {
    All,
    /// The others are told by the kernel.
    Packets,
}

/// The sockets that were found so far.
#[derive(Debug, Default)]
pub(super) struct Unusual {
    /// By inode, as of the last look: who holds them is not asked again.
    known: BTreeSet<u32>,
}

impl Unusual {
    /// Finds those that a process holds, in every network namespace that a process is in, and that
    /// were not found before.
    pub(super) fn held(&mut self, sought: Sought) -> Vec<Held> {
        let sockets = open(sought);
        let new = sockets.keys().copied().filter(|inode| !self.known.contains(inode)).collect();
        let holders = namespaces::holders(&new);
        self.known = sockets.keys().copied().collect();
        let held = holders
            .into_iter()
            .filter_map(|(inode, pid)| sockets.get(&inode).map(|&socket| Held { socket, pid }));
        held.collect()
    }
}

/// Those that are open, by inode.
fn open(sought: Sought) -> BTreeMap<u32, Socket> {
    let mut sockets = BTreeMap::new();
    for pid in namespaces::inhabited() {
        for list in LISTS.iter().filter(|it| sought == Sought::All || it.name == PACKETS) {
            // Not there where the kernel has no such protocol.
            let text = fs::read_to_string(format!("/proc/{pid}/net/{}", list.name));
            sockets.extend(listed(list, &text.unwrap_or_default()));
        }
    }
    sockets
}

const PACKETS: &str = "packet";

/// One of the kernel's lists.
struct List {
    name: &'static str,
    /// The column of the socket's inode.
    inode: usize,
    kind: fn(&str) -> Option<Socket>,
}

/// Those of protocols above IP have the protocol's number where others have a port, and the inode in
/// the tenth column.
const LISTS: [List; 7] = [
    List { name: PACKETS, inode: 8, kind: |_| Some(Socket::Packet) },
    List { name: "raw", inode: 9, kind: raw },
    List { name: "raw6", inode: 9, kind: raw },
    List { name: "icmp", inode: 9, kind: |_| Some(Socket::Ping) },
    List { name: "icmp6", inode: 9, kind: |_| Some(Socket::Ping) },
    List { name: "udplite", inode: 9, kind: |_| Some(Socket::UdpLite) },
    List { name: "udplite6", inode: 9, kind: |_| Some(Socket::UdpLite) },
];

/// `0: 00000000:0001 …`: a raw socket of ICMP.
fn raw(line: &str) -> Option<Socket> {
    let (_, protocol) = line.split_ascii_whitespace().nth(1)?.rsplit_once(':')?;
    u8::try_from(u16::from_str_radix(protocol, 16).ok()?).ok().map(Socket::Raw)
}

/// The inodes of a list, without its head and without what the kernel itself has.
fn listed(list: &List, text: &str) -> BTreeMap<u32, Socket> {
    let socket = |line: &str| {
        let inode = line.split_ascii_whitespace().nth(list.inode)?.parse().ok()?;
        Some((inode, (list.kind)(line)?)).filter(|_| inode != 0)
    };
    text.lines().skip(1).filter_map(socket).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(name: &str) -> &'static List {
        LISTS.iter().find(|list| list.name == name).unwrap()
    }

    #[test]
    fn inodes_are_read_with_their_kind() {
        let packet = "sk               RefCnt Type Proto  Iface R Rmem   User   Inode\n\
            0000000000000000 3      3    0003   0     1 0      0      4711\n";
        assert_eq!(listed(list("packet"), packet), [(4711, Socket::Packet)].into());
        let raw = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops\n\
            \u{20}  1: 00000000:0001 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 99 2 0000000000000000 0\n\
            \u{20} 255: 00000000:00FF 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 0 2 0000000000000000 0\n";
        assert_eq!(listed(list("raw"), raw), [(99, Socket::Raw(1))].into());
        assert_eq!(listed(list("icmp"), raw), [(99, Socket::Ping)].into());
        assert_eq!(listed(list("raw6"), "cut off\n 1: x"), BTreeMap::new());
    }
}
