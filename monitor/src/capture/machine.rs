//! What else of the machine bears on capture: lockdown, the compiler of kernel programs, memory
//! limits, namespaces, version-1 controllers. Looks and judges nothing; what it cannot read is None.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use monitor_core::flow::Protocol;
use monitor_core::ids::WallTime;
use rustix::process::{Resource, getrlimit};

use crate::capture::clock::Clock;
use crate::capture::hierarchy::children;
use crate::capture::mountinfo::mounts;
use crate::capture::netlink::{self, Wanted};
use crate::capture::preflight;
use crate::capture::procfs;
use crate::capture::tracefs;

/// How much the kernel hides from root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lockdown {
    Off,
    Integrity,
    Confidentiality,
}

/// What this machine is like.
#[derive(Debug, Clone)]
pub struct Machine {
    /// None where securityfs is not mounted or lockdown not built.
    pub lockdown: Option<Lockdown>,
    /// Kernel programs are compiled (1), with debugging (2), or interpreted (0).
    pub jit: Option<u32>,
    /// Bytes this process may lock, where that is limited; kernels before 5.11 count maps in.
    pub lockable: Option<u64>,
    /// Whether it runs as the machine's root and its users do.
    pub user_namespace: Home,
    /// A version-1 hierarchy that marks sockets, in use, on a kernel where that matters (before 5.15).
    pub socket_marker: Option<PathBuf>,
    /// When the machine was started, by both clocks.
    pub booted_at: WallTime,
    /// Sockets that wait for peers in this network namespace, as capture looks them up; the kernel's
    /// refusal else.
    pub listeners: Result<usize, String>,
    /// Processes whose executable can be read, and those whose cannot.
    pub executables: Insight,
    /// What capture does without, and whether it is here.
    pub not_needed: Vec<(&'static str, bool)>,
}

/// How many processes show their executable.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Insight {
    pub readable: usize,
    pub refused: usize,
}

/// Whose a namespace is that this process is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    Machines,
    /// A container's.
    Own,
}

/// The inode number of the initial namespace, as in `linux/proc_ns.h`.
const INITIAL_USER: u64 = 0xEFFF_FFFD;

impl Machine {
    /// Looks around.
    #[must_use]
    pub fn look() -> Self {
        Self {
            lockdown: lockdown(),
            jit: number("/proc/sys/net/core/bpf_jit_enable"),
            lockable: getrlimit(Resource::Memlock).current,
            user_namespace: user_namespace(),
            socket_marker: loses_sockets().then(marker_here).flatten(),
            booted_at: Clock::read().wall(0),
            listeners: listeners().map_err(|error| error.to_string()),
            executables: executables(),
            not_needed: vec![
                ("kprobes", kprobes()),
                ("BTF", Path::new("/sys/kernel/btf/vmlinux").exists()),
                ("connection tracking", Path::new("/proc/sys/net/netfilter").exists()),
                ("BPF for ordinary users", unprivileged_bpf()),
            ],
        }
    }
}

fn user_namespace() -> Home {
    // Where this kernel has none, it is everybody's.
    let inode = preflight::namespace("user");
    if inode.is_none_or(|inode| inode == INITIAL_USER) { Home::Machines } else { Home::Own }
}

/// How far the kernel is locked down; where nobody mounted what says so, what it was told at its start.
pub(super) fn lockdown() -> Option<Lockdown> {
    let now = text("/sys/kernel/security/lockdown");
    now.as_deref().and_then(chosen).or_else(|| told(&text("/proc/cmdline")?))
}

/// Of `none [integrity] confidentiality`.
fn chosen(text: &str) -> Option<Lockdown> {
    level(text.split_once('[')?.1.split_once(']')?.0)
}

fn told(command_line: &str) -> Option<Lockdown> {
    level(command_line.split_whitespace().find_map(|word| word.strip_prefix("lockdown="))?)
}

fn level(name: &str) -> Option<Lockdown> {
    match name {
        "none" => Some(Lockdown::Off),
        "integrity" => Some(Lockdown::Integrity),
        "confidentiality" => Some(Lockdown::Confidentiality),
        _ => None,
    }
}

fn kprobes() -> bool {
    let events = tracefs::mounted().map(|at| Path::new(at).join("kprobe_events"));
    Path::new("/sys/kernel/debug/kprobes").exists() || events.is_some_and(|it| it.exists())
}

fn unprivileged_bpf() -> bool {
    number("/proc/sys/kernel/unprivileged_bpf_disabled") == Some(0)
}

fn executables() -> Insight {
    let mut counted = Insight::default();
    for pid in procfs::pids() {
        match fs::read_link(format!("/proc/{pid}/exe")) {
            Ok(_) => counted.readable += 1,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => counted.refused += 1,
            // A kernel thread, or gone meanwhile.
            Err(_) => {}
        }
    }
    counted
}

fn listeners() -> io::Result<usize> {
    let sockets = [
        netlink::sockets(Protocol::Tcp, Wanted::Open)?,
        netlink::sockets(Protocol::Udp, Wanted::Open)?,
    ];
    Ok(sockets.iter().map(Vec::len).sum())
}

/// Whether a socket that is marked loses its version-2 cgroup.
fn loses_sockets() -> bool {
    preflight::kernel().is_ok_and(|kernel| !kernel.is_at_least(5, 15))
}

fn marker_here() -> Option<PathBuf> {
    socket_marker(&text("/proc/self/mountinfo")?)
}

/// The mount of a version-1 hierarchy in which a cgroup marks its sockets.
fn socket_marker(mountinfo: &str) -> Option<PathBuf> {
    let marking = mounts(mountinfo).filter(|mount| {
        let mut options = mount.options.split(',');
        mount.kind == "cgroup" && options.any(|it| it == "net_cls" || it == "net_prio")
    });
    let mut points = marking.map(|mount| mount.point());
    points.find(|point| is_marked(point, &mut MOST_CGROUPS.clone()))
}

/// Cgroups looked at.
const MOST_CGROUPS: usize = 10_000;

/// Whether this cgroup or one below it has a class or a priority.
fn is_marked(cgroup: &Path, left: &mut usize) -> bool {
    *left = left.saturating_sub(1);
    if *left == 0 {
        return false;
    }
    let set = |file: &str, column: usize| {
        let text = fs::read_to_string(cgroup.join(file)).unwrap_or_default();
        let mut values = text.lines().filter_map(|line| line.split_whitespace().nth(column));
        values.any(|value| value != "0")
    };
    if set("net_cls.classid", 0) || set("net_prio.ifpriomap", 1) {
        return true;
    }
    children(cgroup).any(|child| is_marked(&child.path(), left))
}

fn text(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn number(path: &str) -> Option<u32> {
    text(path)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chosen_lockdown_stands_in_brackets() {
        assert_eq!(chosen("[none] integrity confidentiality\n"), Some(Lockdown::Off));
        assert_eq!(chosen("none [integrity] confidentiality\n"), Some(Lockdown::Integrity));
        assert_eq!(chosen("none integrity [confidentiality]"), Some(Lockdown::Confidentiality));
        assert_eq!(told("quiet lockdown=integrity ro"), Some(Lockdown::Integrity));
        assert_eq!(told("quiet"), None);
        for unknown in ["", "none", "[", "[new]"] {
            assert_eq!(chosen(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn a_hierarchy_that_marks_sockets_is_found_only_in_use() {
        let dir = tempfile::tempdir().unwrap();
        let (mount, below) = (dir.path().join("net cls"), dir.path().join("net cls/a/b"));
        fs::create_dir_all(&below).unwrap();
        let shown = mount.to_str().unwrap().replace(' ', "\\040");
        let mountinfo = format!(
            "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
             42 31 0:39 / {shown} rw shared:9 - cgroup cgroup rw,net_cls,net_prio\n"
        );
        assert_eq!(socket_marker(&mountinfo), None);
        fs::write(below.join("net_cls.classid"), "0\n").unwrap();
        fs::write(below.join("net_prio.ifpriomap"), "lo 0\neth0 0\n").unwrap();
        assert_eq!(socket_marker(&mountinfo), None);
        fs::write(below.join("net_prio.ifpriomap"), "lo 0\neth0 5\n").unwrap();
        assert_eq!(socket_marker(&mountinfo), Some(mount.clone()));
        fs::write(below.join("net_prio.ifpriomap"), "lo 0\neth0 0\n").unwrap();
        fs::write(below.join("net_cls.classid"), "1048577\n").unwrap();
        assert_eq!(socket_marker(&mountinfo), Some(mount));
        assert_eq!(socket_marker(&mountinfo.replace("net_cls,net_prio", "cpu")), None);
    }
}
