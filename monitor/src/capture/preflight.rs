//! Can capture work here? Cheap checks that load nothing: kernel, privileges, cgroup hierarchy. The
//! checks are pure; what they check is read at the bottom.

use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::capture::CaptureError;
use crate::capture::attach::Extra;
use crate::capture::machine::{self, Lockdown};
use crate::capture::mountinfo::{Mount, mounts};

/// What was found out before anything was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ground {
    pub kernel: KernelRelease,
    pub cgroup: CgroupRoot,
    pub privileges: Privileges,
    /// What will not be seen from where this process runs, and why.
    pub hidden: Vec<String>,
    /// Why the kernel will refuse programs on tracepoints, where that is known before it is tried.
    pub untraceable: Option<&'static str>,
}

impl Ground {
    /// What is known to be missing before anything is tried, and why.
    #[must_use]
    pub fn foreseen(&self) -> Vec<String> {
        let traced = self
            .untraceable
            .into_iter()
            .flat_map(|why| Extra::TRACED.iter().map(move |extra| format!("{extra}: {why}")));
        // Where there is no other namespace it is not missed: that is known once all were looked into.
        let elsewhere = self.privileges.lack(Capability::SysAdmin);
        self.hidden.iter().cloned().chain(traced).chain(elsewhere).collect()
    }
}

/// Checks kernel, privileges and cgroup hierarchy.
pub fn preflight() -> Result<Ground, CaptureError> {
    let kernel = kernel()?;
    let privileges = Privileges::own()?;
    if !privileges.suffice() {
        return Err(CaptureError::Unprivileged);
    }
    let cgroup = cgroup_root()?;
    let mut hidden = hidden();
    hidden.extend(privileges.lack(Capability::SysPtrace));
    let untraceable = check_tracing(privileges, machine::lockdown());
    Ok(Ground { kernel, cgroup, privileges, hidden, untraceable })
}

/// The running kernel, if it is new enough.
pub fn kernel() -> Result<KernelRelease, CaptureError> {
    check_kernel(rustix::system::uname().release().to_string_lossy().as_ref())
}

/// Where the version-2 hierarchy is.
pub fn cgroup_root() -> Result<CgroupRoot, CaptureError> {
    find_cgroup_root(&read("/proc/self/mountinfo")?)
}

/// What cannot be seen from the namespaces that this process is in.
#[must_use]
pub fn hidden() -> Vec<String> {
    // Whichever namespace this is: a cgroup without events is the root of them all.
    let part = cgroup_root().is_ok_and(|it| it.path.join("cgroup.events").exists());
    check_namespaces(namespace("cgroup").filter(|_| part), namespace("pid"))
}

/// The inode number of one of this process's namespaces.
pub(super) fn namespace(kind: &str) -> Option<u64> {
    fs::metadata(format!("/proc/self/ns/{kind}")).map(|it| it.ino()).ok()
}

/// Inode numbers that the kernel gives its initial namespaces.
const INITIAL_CGROUP_NAMESPACE: u64 = 0xEFFF_FFFB;
const INITIAL_PID_NAMESPACE: u64 = 0xEFFF_FFFC;

/// From within a container, only part of the machine is seen.
fn check_namespaces(cgroup: Option<u64>, pid: Option<u64>) -> Vec<String> {
    let mut hidden = Vec::new();
    if cgroup.is_some_and(|inode| inode != INITIAL_CGROUP_NAMESPACE) {
        hidden.push(
            "cgroups above this one: mount the host's /sys/fs/cgroup, or run it in the host's cgroup namespace (--cgroupns=host)"
                .to_owned(),
        );
    }
    if pid.is_some_and(|inode| inode != INITIAL_PID_NAMESPACE) {
        hidden.push(
            "processes outside this container: run it in the host's pid namespace (--pid=host)"
                .to_owned(),
        );
    }
    hidden
}

/// A kernel's release, such as `6.1.0-28-amd64`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelRelease {
    text: String,
    pub major: u32,
    pub minor: u32,
}

impl KernelRelease {
    /// The first that has all that capture cannot do without.
    pub const OLDEST: (u32, u32) = (5, 10);

    #[must_use]
    pub fn is_at_least(&self, major: u32, minor: u32) -> bool {
        (self.major, self.minor) >= (major, minor)
    }
}

impl fmt::Display for KernelRelease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn check_kernel(release: &str) -> Result<KernelRelease, CaptureError> {
    let number = |text: &str| {
        let digits = text.trim_start_matches(|c: char| c.is_ascii_digit());
        text[..text.len() - digits.len()].parse().ok()
    };
    let mut parts = release.splitn(3, '.').map(number);
    let (Some(Some(major)), Some(Some(minor))) = (parts.next(), parts.next()) else {
        return Err(CaptureError::KernelUnreadable(release.to_owned()));
    };
    let kernel = KernelRelease { text: release.to_owned(), major, minor };
    let (major, minor) = KernelRelease::OLDEST;
    if kernel.is_at_least(major, minor) {
        Ok(kernel)
    } else {
        Err(CaptureError::KernelTooOld(kernel))
    }
}

fn check_tracing(privileges: Privileges, lockdown: Option<Lockdown>) -> Option<&'static str> {
    if lockdown == Some(Lockdown::Confidentiality) {
        Some("the kernel is locked down (confidentiality)")
    } else if privileges.has(Capability::Perfmon) {
        None
    } else {
        Some("CAP_PERFMON is missing")
    }
}

/// What only some processes may, as far as capture asks for it; the numbers are bits of `CapEff`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    NetAdmin = 12,
    SysPtrace = 19,
    SysAdmin = 21,
    Perfmon = 38,
    Bpf = 39,
}

impl Capability {
    pub const ALL: [Self; 5] =
        [Self::Bpf, Self::NetAdmin, Self::Perfmon, Self::SysPtrace, Self::SysAdmin];

    /// As people grant it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::SysPtrace => "CAP_SYS_PTRACE",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        }
    }

    /// What is not had without it.
    #[must_use]
    pub fn gives(self) -> String {
        match self {
            Self::Bpf => "kernel programs at all".to_owned(),
            Self::NetAdmin => "kernel programs on cgroups".to_owned(),
            Self::Perfmon => Extra::TRACED.map(|extra| extra.to_string()).join("; "),
            Self::SysPtrace => {
                "what other processes run, and their sockets older than edgewatch".to_owned()
            }
            Self::SysAdmin => {
                "addresses, and sockets older than edgewatch, in other network namespaces; among many \
                 cgroups, programs that others attach beside its own are noticed late"
                    .to_owned()
            }
        }
    }
}

/// What this process may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Privileges {
    effective: u64,
}

impl Privileges {
    /// Of this process, in the user namespace it is in.
    pub fn own() -> Result<Self, CaptureError> {
        Ok(Self::of(&read("/proc/self/status")?))
    }

    fn of(status: &str) -> Self {
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let effective = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
        Self { effective: effective.unwrap_or(0) }
    }

    /// Whether it may; CAP_SYS_ADMIN is what BPF and PERFMON were split from.
    #[must_use]
    pub const fn has(self, capability: Capability) -> bool {
        let includes_it = match capability {
            Capability::Bpf | Capability::Perfmon => Capability::SysAdmin,
            Capability::NetAdmin | Capability::SysPtrace | Capability::SysAdmin => capability,
        };
        let wanted = 1_u64 << capability as u32 | 1 << includes_it as u32;
        self.effective & wanted != 0
    }

    /// What is not had for want of a capability, for people; None where it is held.
    #[must_use]
    pub fn lack(self, capability: Capability) -> Option<String> {
        let missing = !self.has(capability);
        missing.then(|| format!("{}: {} is missing", capability.gives(), capability.name()))
    }

    /// Whether kernel programs can be loaded and attached to cgroups.
    #[must_use]
    pub const fn suffice(self) -> bool {
        self.has(Capability::NetAdmin) && self.has(Capability::Bpf)
    }
}

/// Where the version-2 hierarchy is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CgroupRoot {
    pub path: PathBuf,
    /// How far the mount's root lies above our cgroup namespace's.
    pub height: usize,
    pub layout: Layout,
}

/// How cgroups are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Version 2 alone.
    Unified,
    /// Version-1 controllers beside a version-2 hierarchy.
    Hybrid,
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unified => "unified",
            Self::Hybrid => "hybrid",
        })
    }
}

/// The mount of the whole hierarchy, where several show it the topmost last one. From within a cgroup
/// namespace, as in a pod, a mount of the host's hierarchy has a root above our own: `/../..`; then
/// the highest counts.
fn find_cgroup_root(mountinfo: &str) -> Result<CgroupRoot, CaptureError> {
    let mut found: Option<(usize, Mount<'_>)> = None;
    let mut layout = Layout::Unified;
    for mount in mounts(mountinfo) {
        match mount.kind {
            "cgroup2" => {
                if let Some(height) = height(mount.root)
                    && found.as_ref().is_none_or(|(highest, _)| height >= *highest)
                {
                    found = Some((height, mount));
                }
            }
            "cgroup" => layout = Layout::Hybrid,
            _ => {}
        }
    }
    let (height, mount) = found.ok_or(CaptureError::NoCgroup2)?;
    Ok(CgroupRoot { path: mount.point(), height, layout })
}

/// How far a mount's root lies above our cgroup namespace's; none for a part of it.
fn height(root: &str) -> Option<usize> {
    let mut steps = root.split('/').filter(|step| !step.is_empty());
    steps.try_fold(0, |height, step| (step == "..").then_some(height + 1))
}

fn read(path: &'static str) -> Result<String, CaptureError> {
    let bytes = fs::read(Path::new(path)).map_err(|source| CaptureError::Read { path, source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_read_whatever_follows_the_numbers() {
        for release in ["5.10.0", "5.15", "6.1.0-28-amd64", "6.18.44-fc-v669", "7.0-rc1", "10.2+"] {
            assert!(check_kernel(release).is_ok(), "{release}");
        }
        for release in ["5.9.16-1", "4.19.0-27-amd64", "3.10.0-1160.el7"] {
            let refused = check_kernel(release).unwrap_err().to_string();
            assert!(refused.contains(release) && refused.contains("5.10"), "{refused}");
        }
        for release in ["", "6", "linux", "6.x", ".."] {
            assert!(
                matches!(check_kernel(release), Err(CaptureError::KernelUnreadable(_))),
                "{release}"
            );
        }
    }

    #[test]
    fn two_capabilities_are_enough() {
        use Capability::{Bpf, NetAdmin, Perfmon, SysAdmin, SysPtrace};
        let of = |capabilities: &[Capability]| {
            let bits: u64 = capabilities.iter().map(|&capability| 1 << capability as u32).sum();
            let status = format!("CapPrm:\t000001ffffffffff\nCapEff:\t{bits:016x}\n");
            Privileges::of(&status)
        };
        assert!(of(&[NetAdmin, Bpf]).suffice());
        assert!(of(&[NetAdmin, SysAdmin]).suffice());
        for few in [&[][..], &[Bpf], &[NetAdmin], &[Bpf, SysAdmin]] {
            assert!(!of(few).suffice(), "{few:?}");
        }
        assert!(of(&[SysAdmin]).has(Perfmon) && !of(&[Bpf]).has(Perfmon));
        assert!(of(&[SysPtrace]).has(SysPtrace) && !of(&[SysAdmin]).has(SysPtrace));
        assert!(!Privileges::of("").suffice());
    }

    #[test]
    fn what_will_be_refused_is_known_before_it_is_tried() {
        use Capability::{Bpf, Perfmon, SysAdmin, SysPtrace};
        let with = |capability: Capability| Privileges { effective: 1 << capability as u32 };
        assert_eq!(check_tracing(with(Perfmon), None), None);
        assert_eq!(check_tracing(with(SysAdmin), Some(Lockdown::Integrity)), None);
        let refused = |privileges, lockdown| check_tracing(privileges, lockdown).unwrap();
        assert!(refused(with(Bpf), Some(Lockdown::Off)).contains("CAP_PERFMON"));
        let closed = Some(Lockdown::Confidentiality);
        assert!(refused(with(Perfmon), closed).contains("locked down"));
        let check_sight = |privileges: Privileges| privileges.lack(SysPtrace);
        assert_eq!(check_sight(with(SysPtrace)), None);
        assert!(check_sight(with(SysAdmin)).unwrap().contains("CAP_SYS_PTRACE"));
    }

    #[test]
    fn what_is_foreseen_names_every_right_that_lacks() {
        let foreseen = |privileges: Privileges| {
            let cgroup = CgroupRoot { path: "/x".into(), height: 0, layout: Layout::Unified };
            let kernel = check_kernel("6.1").unwrap();
            let (hidden, untraceable) = (Vec::new(), check_tracing(privileges, None));
            Ground { kernel, cgroup, privileges, hidden, untraceable }.foreseen().join("\n")
        };
        let told = foreseen(Privileges { effective: 0 });
        assert!(told.contains("CAP_PERFMON") && told.contains("CAP_SYS_ADMIN"), "{told}");
        assert_eq!(foreseen(Privileges { effective: u64::MAX }), "");
    }

    #[test]
    fn a_container_sees_less() {
        let initial = (Some(INITIAL_CGROUP_NAMESPACE), Some(INITIAL_PID_NAMESPACE));
        assert!(check_namespaces(initial.0, initial.1).is_empty());
        assert!(check_namespaces(None, None).is_empty());
        assert!(check_namespaces(Some(1), initial.1)[0].contains("--cgroupns=host"));
        assert!(check_namespaces(initial.0, Some(1))[0].contains("--pid=host"));
    }

    #[test]
    fn the_version_2_hierarchy_is_found_wherever_it_is() {
        let unified =
            "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        let escaped = "9 1 0:9 / /mnt/my\\040groups\\134 rw - cgroup2 none rw";
        let part = "9 1 0:9 /docker/1 /sys/fs/cgroup rw - cgroup2 none rw";
        check(unified, Some(("/sys/fs/cgroup", Layout::Unified)));
        check(hybrid, Some(("/sys/fs/cgroup/unified", Layout::Hybrid)));
        check(escaped, Some(("/mnt/my groups\\", Layout::Unified)));
        check(&format!("{part}\n{unified}"), Some(("/sys/fs/cgroup", Layout::Unified)));
        let own = "30 23 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup rw";
        let host = "31 23 0:26 /../../.. /host/sys/fs/cgroup ro - cgroup2 cgroup2 rw";
        let pod = "32 23 0:26 /.. /pod ro - cgroup2 cgroup2 rw";
        check(&format!("{host}\n{pod}\n{own}"), Some(("/host/sys/fs/cgroup", Layout::Unified)));
        assert_eq!(find_cgroup_root(&format!("{host}\n{own}")).unwrap().height, 3);
        assert_eq!(find_cgroup_root(own).unwrap().height, 0);
        check(part, None);
        check("31 23 0:28 / /sys/fs/cgroup rw - cgroup cgroup rw,cpu", None);
        check("", None);
        check("garbage\n - \n1 2 - cgroup2", None);
    }

    #[track_caller]
    fn check(mountinfo: &str, expected: Option<(&str, Layout)>) {
        let found = find_cgroup_root(mountinfo).ok().map(|it| (it.path, it.layout));
        let expected = expected.map(|(path, layout)| (PathBuf::from(path), layout));
        assert_eq!(found, expected);
    }
}
