//! Loads the kernel programs and attaches them: which there are, where each goes, which of them can
//! be done without. Nothing is pinned: what is attached goes with the process.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use aya::programs::{CgroupAttachMode, CgroupSkbAttachType, Program, ProgramError, ProgramType};
use aya::sys::{BpfHelper, is_helper_supported};
use aya::{Ebpf, EbpfLoader};
use monitor_common::{Followed, global, map};

use crate::capture::CaptureError;
use crate::capture::attachments::{Attachment, Attachments};
use crate::capture::clock;
use crate::capture::config::{Budget, Config, Detail};
use crate::capture::makers;
use crate::capture::nets;
use crate::capture::preflight::Ground;
use crate::capture::tracefs;

/// Where a program goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// The root of the version-2 hierarchy; `enum bpf_attach_type` says at what.
    Cgroup {
        attach_type: u32,
    },
    Tracepoint {
        category: &'static str,
        name: &'static str,
    },
    RawTracepoint {
        name: &'static str,
    },
}

pub(super) struct Spec {
    pub(super) program: &'static str,
    pub(super) hook: Hook,
    /// What it is for where it can be done without; the others are required.
    pub(super) optional: Option<Extra>,
}

const fn cgroup(program: &'static str, attach_type: u32) -> Spec {
    Spec { program, hook: Hook::Cgroup { attach_type }, optional: None }
}

const fn tracepoint(
    program: &'static str,
    category: &'static str,
    name: &'static str,
    extra: Extra,
) -> Spec {
    Spec { program, hook: Hook::Tracepoint { category, name }, optional: Some(extra) }
}

/// What optional programs add.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extra {
    CgroupNames,
    Executables,
    OpenedSockets,
    Destinations,
}

impl Extra {
    /// Those that take CAP_PERFMON.
    pub(super) const TRACED: [Self; 3] =
        [Self::CgroupNames, Self::Executables, Self::OpenedSockets];
}

impl fmt::Display for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CgroupNames => "names of cgroups that live less than a second",
            Self::Executables => {
                "executables of processes that are gone, and the shells that processes came from"
            }
            Self::OpenedSockets => {
                "packet sockets as they are made (they are looked for every 10 s), and vsock sockets"
            }
            Self::Destinations => "where sockets that are neither TCP's nor UDP's send",
        })
    }
}

/// Attached first: names before what is named, binds before what is received.
pub(super) static NAMES_AND_BINDS: [Spec; 6] = [
    tracepoint("cgroup_mkdir", "cgroup", "cgroup_mkdir", Extra::CgroupNames),
    tracepoint("cgroup_rmdir", "cgroup", "cgroup_rmdir", Extra::CgroupNames),
    tracepoint("process_fork", "sched", "sched_process_fork", Extra::Executables),
    tracepoint("process_exec", "sched", "sched_process_exec", Extra::Executables),
    cgroup("post_bind4", 12),
    cgroup("post_bind6", 13),
];

const STREAM: &str = "stream";
/// Stands for it on kernels whose `sock_ops` programs may not ask for the caller (up to 6.1).
pub(super) const STREAM_UNASKED: &str = "stream_unasked";

const CAP_CAPABLE: &str = "cap_capable";

/// Loaded, and attached where it is wanted, see `nets`.
pub(super) static NET: Spec = Spec {
    program: nets::NET,
    hook: Hook::Cgroup { attach_type: 1 },
    optional: Some(Extra::Destinations),
};

/// Attached when the owners of older sockets are known. Dials before what came of them: else the end of
/// one that nobody noted would pass for a loss.
pub(super) static FLOWS: [Spec; 9] = [
    cgroup("sock_create", 2),
    Spec {
        program: CAP_CAPABLE,
        hook: Hook::RawTracepoint { name: "cap_capable" },
        optional: Some(Extra::OpenedSockets),
    },
    cgroup("connect4", 10),
    cgroup("connect6", 11),
    cgroup(STREAM, 3),
    cgroup("sendmsg4", 14),
    cgroup("sendmsg6", 15),
    cgroup("recvmsg4", 19),
    cgroup("recvmsg6", 20),
];

/// What is loaded and, so far, attached; it is detached when this is dropped.
pub(super) struct Attached {
    pub(super) ebpf: Ebpf,
    root: File,
    /// The program that stands for `STREAM` on this kernel.
    stream: &'static str,
    specs: Vec<&'static Spec>,
    /// What is not had, and why.
    missing: Vec<(Extra, String)>,
}

/// Creates maps and programs; nothing is attached yet.
pub(super) fn load(
    config: &Config,
    ground: &Ground,
    seed: [u64; 2],
    budget: Budget,
) -> Result<Attached, CaptureError> {
    let path = config.cgroup.as_ref().unwrap_or(&ground.cgroup.path);
    if !path.starts_with(&ground.cgroup.path) {
        let hierarchy = ground.cgroup.path.clone();
        return Err(CaptureError::NotInHierarchy { path: path.clone(), hierarchy });
    }
    let root = File::open(path)
        .map_err(|source| CaptureError::OpenCgroup { path: path.clone(), source })?;
    let command_in_cgroup = u8::from(command_in_cgroup());
    let stream = if current_in_sock_ops() { STREAM } else { STREAM_UNASKED };
    let netns_in_sock_ops = u8::from(netns_in_sock_ops(ground));
    let fork_child_pid_at = tracefs::field_offset("sched", "sched_process_fork", "child_pid");
    let fork_child_pid_at = fork_child_pid_at.unwrap_or(0);
    let interval_ns = budget.interval_ns();
    let full = u8::from(config.detail == Detail::Full);
    let watched = watched(path, &ground.cgroup.path);
    let (socket_bits, dials_bits) = (config.socket_bits(), config.dials_bits());
    let tick_ns = clock::tick_ns();
    let mut loader = EbpfLoader::new();
    // Nothing here is relocated against the kernel's types, and reading all of them takes a while.
    loader.btf(None);
    loader
        .override_global(global::EXECUTABLE_SEED, &seed, true)
        .override_global(global::COMMAND_IN_CGROUP, &command_in_cgroup, true)
        .override_global(global::NETNS_IN_SOCK_OPS, &netns_in_sock_ops, true)
        .override_global(global::BUDGET_INTERVAL_NS, &interval_ns, true)
        .override_global(global::FULL, &full, true)
        .override_global(global::WATCHED, &watched, true)
        .override_global(global::SOCKET_BITS, &socket_bits, true)
        .override_global(global::DIALS_BITS, &dials_bits, true)
        .override_global(global::TICK_NS, &tick_ns, true)
        .override_global(global::FORK_CHILD_PID_AT, &fork_child_pid_at, true)
        .map_max_entries(map::SEEN, config.seen.get())
        .map_max_entries(map::BUDGETS, config.seen.get().min(BUDGETS))
        .map_max_entries(map::SOCKETS, Followed::slots(socket_bits))
        .map_max_entries(map::DIALS, 1 << dials_bits)
        .map_max_entries(map::ASKED, config.connections.get())
        .map_max_entries(map::LISTENERS, config.listeners.get())
        .map_max_entries(map::BOUND, config.bound.get())
        .map_max_entries(map::PROCESSES, config.processes.get())
        .map_max_entries(map::EXECUTABLE_PATHS, config.executables().get())
        .map_max_entries(map::EVENTS, config.ring.bytes());
    let ebpf = loader
        .load(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/edgewatch-bpf")))
        .map_err(|source| CaptureError::Load(Box::new(source)))?;
    let mut missing = Vec::new();
    if !asks_visibly(ground) {
        let why = "cap_capable is not a raw tracepoint of this kernel";
        missing.push((Extra::OpenedSockets, why.to_owned()));
    }
    Ok(Attached { ebpf, root, stream, specs: Vec::new(), missing })
}

/// The id of the watched cgroup and its level; zeros where that is the whole hierarchy, or where what is
/// mounted is itself below the root.
fn watched(path: &Path, hierarchy: &Path) -> [u64; 2] {
    // The root has none.
    let is_root = !hierarchy.join("cgroup.events").exists();
    let below = path.strip_prefix(hierarchy).map_or(0, |below| below.components().count());
    match fs::metadata(path) {
        Ok(cgroup) if is_root && below > 0 => [cgroup.ino(), below as u64],
        _ => [0, 0],
    }
}

/// Whether what asks for a capability can be seen: since 6.14.
fn asks_visibly(ground: &Ground) -> bool {
    ground.kernel.is_at_least(6, 14)
}

/// Cgroups whose budgets are known, each way; others have all of theirs.
const BUDGETS: u32 = 4096;

/// Whether cgroup programs are told the command name.
pub(super) fn command_in_cgroup() -> bool {
    may_call(ProgramType::CgroupSock, BpfHelper::BPF_FUNC_get_current_comm)
        && may_call(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_get_current_comm)
}

/// Whether `sock_ops` programs are told the caller.
pub(super) fn current_in_sock_ops() -> bool {
    may_call(ProgramType::SockOps, BpfHelper::BPF_FUNC_get_current_cgroup_id)
        && may_call(ProgramType::SockOps, BpfHelper::BPF_FUNC_get_current_pid_tgid)
}

/// Whether `sock_ops` programs are told the network namespace.
pub(super) fn netns_in_sock_ops(ground: &Ground) -> bool {
    ground.kernel.is_at_least(5, 15)
}

fn may_call(program: ProgramType, helper: BpfHelper) -> bool {
    is_helper_supported(program, helper).unwrap_or(false)
}

impl Attached {
    /// Loads and attaches `programs`, the optional ones as far as they go.
    pub(super) fn attach(&mut self, programs: &'static [Spec]) -> Result<(), CaptureError> {
        for spec in programs {
            // Known to be of no use here, and why.
            if spec.optional.is_some_and(|extra| extra == Extra::OpenedSockets && !self.has(extra))
            {
                continue;
            }
            match (self.attach_one(spec), spec.optional) {
                (Ok(()), _) => self.specs.push(spec),
                (Err(source), None) => return Err(refusal(spec.program, source)),
                (Err(error), Some(extra)) => self.missing.push((extra, brief(&error))),
            }
        }
        Ok(())
    }

    /// How many programs are attached.
    pub(super) fn count(&self) -> usize {
        self.specs.len()
    }

    /// The programs, which are detached when they are dropped, and what can be looked after of them
    /// from now on.
    pub(super) fn attachments(self) -> Result<(Ebpf, Attachments), CaptureError> {
        let mut present = Vec::new();
        for spec in &self.specs {
            if let Hook::Cgroup { attach_type } = spec.hook
                && let Some(program) = self.ebpf.program(self.name_of(spec))
            {
                let program = program.info().map_err(|source| refusal(spec.program, source))?;
                present.push(Attachment { program: spec.program, attach_type, id: program.id() });
            }
        }
        Ok((self.ebpf, Attachments::new(self.root, present)))
    }

    /// How many programs are not.
    pub(super) fn lacking(&self) -> usize {
        self.missing.len()
    }

    /// Whether every program of this kind is attached.
    pub(super) fn has(&self, extra: Extra) -> bool {
        self.missing.iter().all(|(missing, _)| *missing != extra)
    }

    /// What is not had, and why, for people; `known` is the reason, where it was foreseen.
    pub(super) fn missing(&self, known: Option<&str>) -> Vec<String> {
        let told = |(extra, why): &(Extra, String)| {
            let known = known.filter(|_| Extra::TRACED.contains(extra));
            format!("{extra}: {}", known.unwrap_or(why))
        };
        let mut missing: Vec<String> = self.missing.iter().map(told).collect();
        missing.dedup();
        missing
    }

    /// Learns how to know who makes packet sockets, where that is attached.
    pub(super) fn find_makers(&mut self, detail: Detail) -> Result<(), CaptureError> {
        let extra = Extra::OpenedSockets;
        if self.has(extra) && !makers::find(&mut self.ebpf, detail)? {
            let why = "this process could not try to make one (seccomp, RestrictAddressFamilies)";
            self.missing.push((extra, why.to_owned()));
        }
        Ok(())
    }

    /// Loads what is attached later, as far as that goes.
    pub(super) fn load_net(&mut self) {
        if let Err(error) = self.load_one(&NET) {
            self.missing.push((Extra::Destinations, brief(&error)));
        }
    }

    fn name_of(&self, spec: &Spec) -> &'static str {
        if spec.program == STREAM { self.stream } else { spec.program }
    }

    /// Loads one program and attaches it.
    pub(super) fn attach_one(&mut self, spec: &Spec) -> Result<(), ProgramError> {
        self.load_one(spec)?;
        let root = &self.root;
        let mode = CgroupAttachMode::Single;
        let name = self.name_of(spec);
        let program = self.ebpf.program_mut(name);
        match (program.ok_or(ProgramError::NotLoaded)?, spec.hook) {
            (Program::CgroupSockAddr(program), Hook::Cgroup { .. }) => {
                program.attach(root, mode).map(drop)
            }
            (Program::CgroupSock(program), Hook::Cgroup { .. }) => {
                program.attach(root, mode).map(drop)
            }
            (Program::SockOps(program), Hook::Cgroup { .. }) => {
                program.attach(root, mode).map(drop)
            }
            (Program::CgroupSkb(program), Hook::Cgroup { .. }) => {
                program.attach(root, CgroupSkbAttachType::Egress, mode).map(drop)
            }
            (Program::RawTracePoint(program), Hook::RawTracepoint { name }) => {
                program.attach(name).map(drop)
            }
            (Program::TracePoint(program), Hook::Tracepoint { category, name }) => {
                program.attach(category, name).map(drop)
            }
            _ => Err(ProgramError::UnexpectedProgramType),
        }
    }

    /// Has one program verified without attaching it.
    pub(super) fn load_one(&mut self, spec: &Spec) -> Result<(), ProgramError> {
        let name = self.name_of(spec);
        match self.ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)? {
            Program::CgroupSockAddr(program) => program.load(),
            Program::CgroupSock(program) => program.load(),
            Program::SockOps(program) => program.load(),
            Program::CgroupSkb(program) => program.load(),
            Program::RawTracePoint(program) => program.load(),
            Program::TracePoint(program) => program.load(),
            _ => Err(ProgramError::UnexpectedProgramType),
        }
    }
}

/// Says what stands in the way where that can be told from the error.
pub(super) fn refusal(program: &'static str, source: ProgramError) -> CaptureError {
    match source {
        ProgramError::LoadError { io_error, verifier_log } => CaptureError::Refused {
            program,
            source: io_error,
            log: tail(&verifier_log.to_string()),
        },
        ProgramError::SyscallError(syscall)
            if syscall.call == "bpf_link_create"
                && syscall.io_error.kind() == io::ErrorKind::PermissionDenied =>
        {
            CaptureError::Exclusive { program }
        }
        source => CaptureError::Attach { program, source: Box::new(source) },
    }
}

/// An error without the verifier's log, which is long.
fn brief(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, .. } => format!("load: {io_error}"),
        ProgramError::SyscallError(syscall) => format!("{}: {}", syscall.call, syscall.io_error),
        error => error.to_string(),
    }
}

/// The end of the verifier's log is where it says why.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.trim_end().lines().rev().take(12).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
