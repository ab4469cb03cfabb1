//! Network namespaces from inside: the sockets in them that are older than we are, and their
//! addresses. A namespace is entered by a thread of its own, which ends with it. Found is one that a
//! process is in, that is mounted somewhere or that a process holds open; one that nothing but a socket
//! keeps alive is not.

use std::collections::HashSet;
use std::ffi::CStr;
use std::fs::{self, File};
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use foldhash::{HashMap, HashMapExt as _};
use monitor_core::flow::Protocol;
use monitor_core::ids::{CgroupId, NetnsCookie};
use rustix::fs::{Mode, OFlags, RawDir, fstat, open, readlinkat_raw};
use rustix::net::{AddressFamily, SocketType, socket};
use rustix::path::DecInt;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::capture::mountinfo::mounts;
use crate::capture::netlink::{self, OldSocket, Sockets, Stage, Wanted};
use crate::capture::procfs::pids;
use crate::capture::shared::{PROCESSES, shared};

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
    /// UDP sockets that somebody bound, as far as can be told.
    pub(super) receivers: Vec<OldSocket>,
    /// The same of UDP-Lite.
    pub(super) lite_receivers: Vec<OldSocket>,
    /// None where they were not asked for.
    pub(super) connections: Option<OldConnections>,
}

/// The connections of one namespace that are there.
#[derive(Debug)]
pub(super) struct OldConnections {
    pub(super) netns: NetnsCookie,
    pub(super) tcp: Vec<OldSocket>,
    pub(super) udp: Vec<OldSocket>,
    /// Ports that are listened at, and those of UDP sockets that were chosen.
    pub(super) tcp_ports: HashSet<u16>,
    pub(super) udp_ports: HashSet<u16>,
}

impl OldSockets {
    fn all(&self) -> impl Iterator<Item = &OldSocket> {
        let connections = self.connections.iter().flat_map(|it| it.tcp.iter().chain(&it.udp));
        let open = self.listeners.iter().chain(&self.receivers).chain(&self.lite_receivers);
        open.chain(connections)
    }

    /// Leaves out the sockets of all other cgroups.
    pub(super) fn keep(&mut self, cgroups: &HashSet<CgroupId>) {
        self.listeners.retain(|it| cgroups.contains(&it.cgroup));
        self.receivers.retain(|it| cgroups.contains(&it.cgroup));
        self.lite_receivers.retain(|it| cgroups.contains(&it.cgroup));
        self.connections.iter_mut().for_each(|it| it.keep(cgroups));
    }
}

/// What a survey brought.
pub(super) struct Survey<T> {
    pub(super) found: Vec<T>,
    /// Namespaces that could not be looked into, and why the first could not.
    pub(super) refused: usize,
    pub(super) reason: Option<io::Error>,
}

/// The network namespaces of this machine, and who holds which socket.
pub(super) struct Census {
    namespaces: Vec<File>,
    known: HashSet<u64>,
    /// Process ids by the sockets' inodes.
    pub(super) holders: HashMap<u32, u32>,
    /// How long it took to find them.
    took: Duration,
}

/// What a process holds open.
struct Held {
    pid: u32,
    /// By their inodes.
    sockets: Vec<u32>,
    namespaces: Vec<PathBuf>,
}

impl Held {
    fn by(pid: u32) -> Self {
        let mut held = Self { pid, sockets: Vec::new(), namespaces: Vec::new() };
        // Gone meanwhile, or not ours to look at.
        let Ok(files) = open_directory(&format!("/proc/{pid}/fd")) else { return held };
        // How many are open, since 6.2. Most have the lowest numbers: to ask by number spares the kernel
        // the list, a fifth of the time.
        let mut left = fstat(&files).map_or(0, |it| it.st_size);
        for number in 0..2 * left {
            left -= i64::from(held.look(&files, DecInt::new(number).as_c_str()));
            if left == 0 {
                return held;
            }
        }
        (held.sockets, held.namespaces) = (Vec::new(), Vec::new());
        let mut directory = Vec::with_capacity(1 << 15);
        let mut entries = RawDir::new(&files, directory.spare_capacity_mut());
        while let Some(Ok(entry)) = entries.next() {
            held.look(&files, entry.file_name());
        }
        held
    }

    /// Takes in one file; false where there is none.
    fn look(&mut self, files: &OwnedFd, name: &CStr) -> bool {
        let mut room = [MaybeUninit::<u8>::uninit(); 64];
        let Ok((link, _)) = readlinkat_raw(files, name, &mut room) else { return false };
        if let Some(inode) = numbered(link, b"socket:[") {
            self.sockets.push(inode);
        } else if numbered(link, b"net:[").is_some() {
            let (pid, name) = (self.pid, name.to_string_lossy());
            self.namespaces.push(format!("/proc/{pid}/fd/{name}").into());
        }
        true
    }
}

impl Census {
    const SOON: Duration = Duration::from_millis(50);

    /// One pass over every process and every file it has open.
    pub(super) fn take() -> Self {
        let mut census = Self::empty();
        census.find_namespaces();
        census.find_holders();
        census
    }

    /// The same, while the caller does something else.
    pub(super) fn begin() -> Looking {
        Looking(thread::Builder::new().name("census".to_owned()).spawn(Self::take))
    }

    /// Looks once more where a socket's holder was not found, since it may have been opened meanwhile:
    /// unless that takes a while, on a machine of very many sockets.
    pub(super) fn find_missed(&mut self, found: &[Namespace]) {
        let is_missed = |it: &OldSocket| it.inode != 0 && !self.holders.contains_key(&it.inode);
        let sockets = || found.iter().filter_map(|it| it.sockets.as_ref().ok());
        if self.took < Self::SOON && sockets().flat_map(OldSockets::all).any(is_missed) {
            self.find_holders();
        }
    }

    /// Adds who holds which socket, and the namespaces that somebody holds open.
    fn find_holders(&mut self) {
        let started = Instant::now();
        let pids: Vec<u32> = pids().collect();
        // Of a socket that several hold, it is the first one's, however the processes were shared.
        for Held { pid, sockets, namespaces } in shared(&pids, 1, |&pid| Held::by(pid)) {
            for inode in sockets {
                self.holders.entry(inode).or_insert(pid);
            }
            namespaces.iter().for_each(|path| self.add(path));
        }
        self.took = started.elapsed();
    }

    fn empty() -> Self {
        let (namespaces, known, holders) = (Vec::new(), HashSet::new(), HashMap::new());
        Self { namespaces, known, holders, took: Duration::ZERO }
    }

    /// Adds the namespaces that a process is in or that are mounted, as far as they are not known yet.
    pub(super) fn find_namespaces(&mut self) {
        for pid in inhabited() {
            self.add(Path::new(&format!("/proc/{pid}/ns/net")));
        }
        // Those of the machine, where we have mounts of our own.
        for (mountinfo, root) in
            [("/proc/self/mountinfo", "/"), ("/proc/1/mountinfo", "/proc/1/root")]
        {
            let text = fs::read_to_string(mountinfo).unwrap_or_default();
            for point in mounted_namespaces(&text) {
                let below = point.strip_prefix("/").unwrap_or(&point);
                self.add(&Path::new(root).join(below));
            }
        }
    }

    /// Adds a namespace, once; nothing where it is gone meanwhile.
    fn add(&mut self, path: &Path) {
        // Asked first: to open a file is dearer, and most processes share a namespace.
        let inode = fs::metadata(path).map(|it| it.ino());
        if inode.is_ok_and(|inode| self.known.insert(inode))
            && let Ok(file) = File::open(path)
        {
            self.namespaces.push(file);
        }
    }

    /// The sockets that are wanted, everywhere.
    pub(super) fn survey(&self, wanted: Wanted) -> Survey<Namespace> {
        self.each(match wanted {
            Wanted::Open => || look(Wanted::Open),
            Wanted::All => || look(Wanted::All),
        })
    }

    fn each<T: Send + 'static>(&self, look: fn() -> io::Result<T>) -> Survey<T> {
        let mut survey = Survey { found: Vec::new(), refused: 0, reason: None };
        for looked in shared(&self.namespaces, 1, |it| inside(it.try_clone()?, look)) {
            match looked {
                Ok(namespace) => survey.found.push(namespace),
                Err(error) => {
                    survey.refused += 1;
                    survey.reason.get_or_insert(error);
                }
            }
        }
        survey
    }
}

/// A census under way.
pub(super) struct Looking(io::Result<JoinHandle<Census>>);

impl Looking {
    /// Waits for its end.
    pub(super) fn end(self) -> Census {
        let taken = self.0.ok().and_then(|thread| thread.join().ok());
        taken.unwrap_or_else(Census::take)
    }
}

fn open_directory(path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}

/// The first process in each network namespace that one is in.
pub(super) fn inhabited() -> Vec<u32> {
    let pids: Vec<u32> = pids().collect();
    let inode = |pid: &u32| fs::metadata(format!("/proc/{pid}/ns/net")).map(|it| it.ino());
    let inodes = shared(&pids, PROCESSES, inode);
    let mut seen = HashSet::new();
    // None of what is gone meanwhile.
    let is_first = |inode: io::Result<u64>| inode.is_ok_and(|inode| seen.insert(inode));
    pids.into_iter()
        .zip(inodes.into_iter().map(is_first))
        .filter(|it| it.1)
        .map(|it| it.0)
        .collect()
}

/// Where namespaces are mounted; of what kind they are is seen when they are opened.
fn mounted_namespaces(mountinfo: &str) -> Vec<PathBuf> {
    let namespaces =
        mounts(mountinfo).filter(|it| it.kind == "nsfs" && it.root.starts_with("net:"));
    namespaces.map(|mount| mount.point()).collect()
}

/// Which processes hold the sockets of these inodes.
pub(super) fn holders(inodes: &HashSet<u32>) -> HashMap<u32, u32> {
    let mut census = Census::empty();
    if !inodes.is_empty() {
        census.find_holders();
    }
    census.holders.retain(|inode, _| inodes.contains(inode));
    census.holders
}

/// Every process that holds one of the sockets of these inodes, with its inode. By one thread: nobody
/// waits for it.
pub(super) fn all_holders(inodes: &HashSet<u32>) -> Vec<(u32, u32)> {
    let of = |pid| Held::by(pid).sockets.into_iter().map(move |inode| (inode, pid));
    pids().flat_map(of).filter(|(inode, _)| inodes.contains(inode)).collect()
}

/// The inodes of the sockets that a process holds.
pub(super) fn held_by(pid: u32) -> HashSet<u32> {
    Held::by(pid).sockets.into_iter().collect()
}

/// Only the addresses of every namespace that a process is in, or that is mounted.
pub(super) fn survey_addresses() -> Vec<(NetnsCookie, Vec<IpAddr>)> {
    let mut census = Census::empty();
    census.find_namespaces();
    census.each(|| Ok((own_cookie()?, netlink::addresses()?))).found
}

/// The addresses of a process's namespace, if it is still the one of this cookie.
pub(super) fn addresses_of(pid: u32, cookie: NetnsCookie) -> io::Result<Vec<IpAddr>> {
    inside_of(pid, cookie, netlink::addresses)
}

/// Where to ask about the sockets of a process's namespace, as [`addresses_of`].
pub(super) fn sockets_of(pid: u32, cookie: NetnsCookie) -> io::Result<Sockets> {
    inside_of(pid, cookie, Sockets::here)
}

/// The sockets of a process's namespace that listen, as [`addresses_of`].
pub(super) fn listeners_of(pid: u32, cookie: NetnsCookie) -> io::Result<Vec<OldSocket>> {
    inside_of(pid, cookie, || netlink::sockets(Protocol::Tcp, Wanted::Open))
}

fn inside_of<T: Send + 'static>(
    pid: u32,
    cookie: NetnsCookie,
    look: fn() -> io::Result<T>,
) -> io::Result<T> {
    let file = File::open(format!("/proc/{pid}/ns/net"))?;
    inside(
        file,
        move || {
            if own_cookie()? == cookie { look() } else { Err(io::ErrorKind::NotFound.into()) }
        },
    )
}

/// Of `socket:[123]`, where `kind` is all before the number.
fn numbered(link: &[u8], kind: &[u8]) -> Option<u32> {
    let digits = link.strip_prefix(kind)?.strip_suffix(b"]")?;
    std::str::from_utf8(digits).ok()?.parse().ok()
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

fn look(wanted: Wanted) -> io::Result<Namespace> {
    let cookie = own_cookie()?;
    let (addresses, sockets) = (netlink::addresses()?, old_sockets(cookie, wanted));
    Ok(Namespace { cookie, addresses, sockets })
}

fn old_sockets(netns: NetnsCookie, wanted: Wanted) -> io::Result<OldSockets> {
    let first_ephemeral = first_ephemeral_port();
    let (mut receivers, udp) = divided(netlink::sockets(Protocol::Udp, wanted)?);
    // Refused where the kernel has no such protocol.
    let lite = netlink::sockets(Protocol::UdpLite, wanted).unwrap_or_default();
    let (mut lite_receivers, _) = divided(lite);
    for sockets in [&mut receivers, &mut lite_receivers] {
        sockets.retain(|socket| may_serve(socket.local, first_ephemeral));
    }
    let (listeners, tcp) = divided(netlink::sockets(Protocol::Tcp, wanted)?);
    let ports = |sockets: &[OldSocket]| sockets.iter().map(|it| it.local.port()).collect();
    let (tcp_ports, udp_ports) = (ports(&listeners), ports(&receivers));
    let connections = OldConnections { netns, tcp, udp, tcp_ports, udp_ports };
    let connections = (wanted == Wanted::All).then_some(connections);
    Ok(OldSockets { listeners, receivers, lite_receivers, connections })
}

/// A port that somebody chose, or an address: whoever only sends is given both by the kernel. Docker's
/// resolver of names has an address of its own and a port that is given.
const fn may_serve(local: SocketAddr, first_ephemeral: u16) -> bool {
    let chosen = local.port() < first_ephemeral || !local.ip().is_unspecified();
    local.port() != 0 && chosen
}

/// Those that have no far end, and those that have one.
fn divided(mut sockets: Vec<OldSocket>) -> (Vec<OldSocket>, Vec<OldSocket>) {
    let open = sockets.extract_if(.., |it| it.stage == Stage::Open).collect();
    (open, sockets)
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
    fn a_socket_serves_where_its_port_or_its_address_was_chosen() {
        let serves = |local: &str| may_serve(local.parse().unwrap(), 32_768);
        let local = ["0.0.0.0:53", "[::]:53", "127.0.0.11:40000", "[::1]:40000"];
        assert!(local.into_iter().all(serves));
        assert!(!["0.0.0.0:40000", "[::]:40000", "127.0.0.11:0"].into_iter().any(serves));
    }

    #[test]
    fn only_sockets_have_a_sockets_inode() {
        assert_eq!(numbered(b"socket:[123]", b"socket:["), Some(123));
        for link in ["pipe:[123]", "socket:[]", "socket:[x]", "/dev/null", ""] {
            assert_eq!(numbered(link.as_bytes(), b"socket:["), None, "{link}");
        }
    }

    #[test]
    fn a_socket_has_its_holder_and_a_namespace_is_found_once() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap();
        let inode = numbered(link.to_str().unwrap().as_bytes(), b"socket:[").unwrap();
        let census = Census::take();
        assert_eq!(census.holders.get(&inode), Some(&std::process::id()));
        // Its number is far from those of all other files.
        let far = rustix::io::fcntl_dupfd_cloexec(&socket, 900).unwrap();
        drop(socket);
        assert_eq!(Census::take().holders.get(&inode), Some(&std::process::id()));
        drop(far);
        let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
        let found = census.namespaces.iter().map(|it| it.metadata().unwrap().ino());
        assert_eq!(found.filter(|inode| *inode == own).count(), 1);
    }

    #[test]
    fn namespaces_are_found_where_they_are_mounted() {
        let text = "1 2 0:4 net:[4026532] /run/netns/a\\040b rw - nsfs nsfs rw\n\
            1 2 0:4 mnt:[4026533] /run/snapd/ns/x rw - nsfs nsfs rw\n\
            1 2 0:4 / /proc rw - proc proc rw\n";
        assert_eq!(mounted_namespaces(text), [Path::new("/run/netns/a b")]);
    }
}
