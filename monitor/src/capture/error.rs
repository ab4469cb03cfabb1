//! What capture fails with, in words that name the mend. It raises nothing itself.

use std::io;
use std::path::PathBuf;

use aya::EbpfError;
use aya::maps::MapError;
use aya::programs::ProgramError;

use crate::capture::preflight::KernelRelease;

/// Why capture cannot work here, and what would mend it.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error(
        "edgewatch needs root (or CAP_BPF and CAP_NET_ADMIN) to load kernel programs: run it with sudo"
    )]
    Unprivileged,
    #[error("this kernel is {0}; the oldest that edgewatch can watch is {major}.{minor}", major = KernelRelease::OLDEST.0, minor = KernelRelease::OLDEST.1)]
    KernelTooOld(KernelRelease),
    #[error("{0:?} is not a kernel release")]
    KernelUnreadable(String),
    #[error(
        "no cgroup v2 hierarchy is mounted: mount one with `mount -t cgroup2 none /sys/fs/cgroup/unified`"
    )]
    NoCgroup2,
    #[error("read {path}")]
    Read { path: &'static str, source: io::Error },
    #[error("capture.cgroup is {}, which is not below {}, where cgroup v2 is mounted", path.display(), hierarchy.display())]
    NotInHierarchy { path: PathBuf, hierarchy: PathBuf },
    #[error("open the cgroup hierarchy {}", path.display())]
    OpenCgroup { path: PathBuf, source: io::Error },
    #[error(
        "attach {program}: the watched cgroup was removed meanwhile; choose another for capture.cgroup"
    )]
    CgroupGone { program: &'static str },
    #[error("create the kernel programs")]
    Load(#[source] Box<EbpfError>),
    #[error("the kernel refused the program {program}:\n{log}")]
    Refused { program: &'static str, source: io::Error, log: String },
    #[error(
        "attach {program}: {by} is attached to the cgroup for itself alone; `bpftool cgroup tree` shows it, its owner must attach it with BPF_F_ALLOW_MULTI"
    )]
    Exclusive { program: &'static str, by: String },
    #[error("{}: {source}: what edgewatch keeps there cannot be used", path.display())]
    Pins { path: PathBuf, source: io::Error },
    #[error("{} is not edgewatch's: choose another directory for capture.pins, or see what `edgewatch doctor --clean` can remove", path.display())]
    StrangePins { path: PathBuf },
    #[error("{} is held by another agent{}: one watches a machine", path.display(), of_pid(*pid))]
    PinsHeld { path: PathBuf, pid: Option<u32> },
    #[error("attach {program}")]
    Attach { program: &'static str, source: Box<ProgramError> },
    #[error("use the kernel map {name}")]
    Map { name: &'static str, source: Box<MapError> },
    #[error("ask the kernel which programs are attached")]
    Neighbours(#[source] io::Error),
    #[error("read the seen-map")]
    Sweep(#[source] io::Error),
    #[error("wait for news from the kernel")]
    Wait(#[source] io::Error),
}

fn of_pid(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}
