//! Network namespaces from inside: the sockets in them that are older than we are, and their
//! addresses. A namespace is entered by a thread of its own, which ends with it; one that no process
//! is in is not found.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::MetadataExt as _;
use std::thread;

use monitor_core::flow::Protocol;
use monitor_core::ids::{CgroupId, NetnsCookie};
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::capture::netlink::{self, OldSocket};
use crate::capture::procfs::pids;

/// What was found in one network namespace.
#[derive(Debug)]
pub(super) struct Namespace {
    pub(super) cookie: NetnsCookie,
    pub(super) addresses: Vec<IpAddr>,
    /// Refused where the kernel has no `inet_diag`.
    pub(super) sockets: io::Result<OldSockets>,
}

/// Whose sockets were there before us.
#[derive(Debug)]
pub(super) struct OldSockets {
    /// TCP sockets that listen.
    pub(super) listeners: Vec<OldSocket>,
    /// UDP sockets on a port that was chosen: one out of the ephemeral range.
    pub(super) receivers: Vec<OldSocket>,
}

impl OldSockets {
    /// Leaves out the sockets of all other cgroups.
    pub(super) fn keep(&mut self, cgroups: &HashSet<CgroupId>) {
        self.listeners.retain(|it| cgroups.contains(&it.cgroup));
        self.receivers.retain(|it| cgroups.contains(&it.cgroup));
    }

    pub(super) fn inodes(&self) -> impl Iterator<Item = u32> {
        let sockets = self.listeners.iter().chain(&self.receivers);
        sockets.map(|socket| socket.inode)
    }
}

/// What a survey brought.
pub(super) struct Survey<T> {
    pub(super) found: Vec<T>,
    /// Namespaces that could not be looked into, and why the first could not.
    pub(super) refused: usize,
    pub(super) reason: Option<io::Error>,
}

/// Looks into every namespace that a process is in.
pub(super) fn survey() -> Survey<Namespace> {
    each_namespace(look)
}

/// Only the addresses of every namespace that a process is in.
pub(super) fn survey_addresses() -> Vec<(NetnsCookie, Vec<IpAddr>)> {
    each_namespace(|| Ok((own_cookie()?, netlink::addresses()?))).found
}

fn each_namespace<T: Send + 'static>(look: fn() -> io::Result<T>) -> Survey<T> {
    let mut seen = HashSet::new();
    let mut survey = Survey { found: Vec::new(), refused: 0, reason: None };
    for pid in pids() {
        // Gone meanwhile, or a kernel thread.
        let Ok(file) = File::open(format!("/proc/{pid}/ns/net")) else {
            continue;
        };
        if !file.metadata().is_ok_and(|metadata| seen.insert(metadata.ino())) {
            continue;
        }
        match inside(file, look) {
            Ok(namespace) => survey.found.push(namespace),
            Err(error) => {
                survey.refused += 1;
                survey.reason.get_or_insert(error);
            }
        }
    }
    survey
}

/// The addresses of a process's namespace, if it is still the one of this cookie.
pub(super) fn addresses_of(pid: u32, cookie: NetnsCookie) -> io::Result<Vec<IpAddr>> {
    let file = File::open(format!("/proc/{pid}/ns/net"))?;
    inside(file, move || {
        if own_cookie()? == cookie {
            netlink::addresses()
        } else {
            Err(io::ErrorKind::NotFound.into())
        }
    })
}

/// Which processes hold the sockets of these inodes: one pass over every open file.
pub(super) fn holders(inodes: &HashSet<u32>) -> HashMap<u32, u32> {
    let mut holders = HashMap::new();
    if inodes.is_empty() {
        return holders;
    }
    for pid in pids() {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        for file in files {
            let target = fs::read_link(file.path()).unwrap_or_default();
            let inode = target.to_str().and_then(socket_inode);
            if let Some(inode) = inode.filter(|inode| inodes.contains(inode)) {
                holders.entry(inode).or_insert(pid);
            }
        }
    }
    holders
}

/// Of `socket:[123]`.
fn socket_inode(link: &str) -> Option<u32> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Runs `look` in a namespace. A thread that went there is not used again: it cannot be trusted to
/// be back. To look at home needs neither thread nor privilege.
fn inside<T: Send + 'static>(
    namespace: File,
    look: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let home = fs::metadata("/proc/self/ns/net")?.ino();
    if namespace.metadata()?.ino() == home {
        return look();
    }
    let thread = thread::Builder::new().name("namespace".to_owned()).spawn(move || {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), kind)?;
        look()
    })?;
    thread.join().unwrap_or_else(|_panic| Err(io::ErrorKind::Other.into()))
}

fn look() -> io::Result<Namespace> {
    Ok(Namespace {
        cookie: own_cookie()?,
        addresses: netlink::addresses()?,
        sockets: old_sockets(),
    })
}

fn old_sockets() -> io::Result<OldSockets> {
    let first_ephemeral = first_ephemeral_port();
    let mut receivers = netlink::sockets(Protocol::Udp)?;
    receivers.retain(|socket| (1..first_ephemeral).contains(&socket.local.port()));
    Ok(OldSockets { listeners: netlink::sockets(Protocol::Tcp)?, receivers })
}

/// Of this thread's namespace.
fn first_ephemeral_port() -> u16 {
    const DEFAULT: u16 = 32_768;
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let first = range.ok().and_then(|range| range.split_whitespace().next()?.parse().ok());
    first.unwrap_or(DEFAULT)
}

/// The cookie of this thread's namespace (since 5.14).
pub(super) fn own_cookie() -> io::Result<NetnsCookie> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    let mut cookie: u64 = 0;
    let mut length: libc::socklen_t = 8;
    // SAFETY: the option is a `u64`, and `length` says that there is room for one.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(NetnsCookie(cookie)) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    #[test]
    fn only_sockets_have_a_sockets_inode() {
        assert_eq!(socket_inode("socket:[123]"), Some(123));
        for link in ["pipe:[123]", "socket:[]", "socket:[x]", "/dev/null", ""] {
            assert_eq!(socket_inode(link), None, "{link}");
        }
    }

    #[test]
    fn a_socket_has_its_holder() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inode = socket_inode(link.to_str().unwrap()).unwrap();
        let holders = holders(&HashSet::from([inode]));
        assert_eq!(holders.get(&inode), Some(&std::process::id()));
    }
}
