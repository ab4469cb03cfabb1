//! Loads the kernel programs and attaches them: which there are, where each goes, which of them can
//! be done without. What is attached goes with the process, unless there is a set of pins to keep it
//! in: then what is there already is taken over, its programs swapped without a gap.

use std::fmt;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use aya::programs::links::FdLink;
use aya::programs::{Program, ProgramError, ProgramType};
use aya::sys::{BpfHelper, is_helper_supported};
use aya::{Ebpf, EbpfLoader};
use monitor_common::{digest, global};
use monitor_core::flow::Influence;

use crate::capture::CaptureError;
use crate::capture::attachments::{Attachment, Attachments};
use crate::capture::clock;
use crate::capture::config::{Budget, Config, Detail, Dns};
use crate::capture::makers;
use crate::capture::pins::Set;
use crate::capture::preflight::Ground;
use crate::capture::shape::{Shapes, sizes};
use crate::capture::strangers::Strangers;
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

impl Spec {
    const fn is_of_cgroup(&self) -> bool {
        matches!(self.hook, Hook::Cgroup { .. })
    }

    /// Whether it is told an address that others may change: `connect` and `sendmsg`.
    pub(super) const fn sees_dialled(&self) -> bool {
        matches!(self.hook, Hook::Cgroup { attach_type: 10 | 11 | 14 | 15 })
    }
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
    Lookups,
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
                "packet sockets as they are made (they are looked for every 10 s), and vsock sockets, which \
                 detail = \"full\" shows"
            }
            Self::Destinations => "where sockets that are neither TCP's nor UDP's send",
            Self::Lookups => "the names that services ask for",
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

/// `BPF_CGROUP_INET_INGRESS`
const INGRESS: u32 = 0;
/// `BPF_CGROUP_INET_EGRESS`
pub(super) const EGRESS: u32 = 1;

/// Loaded, and attached where it is wanted, see `nets`.
pub(super) static NET: Spec = of_packets("net", EGRESS, Extra::Destinations);

/// The same; of no use one without the other.
pub(super) static LOOKUPS: [Spec; 2] =
    [of_packets("asked", EGRESS, Extra::Lookups), of_packets("answered", INGRESS, Extra::Lookups)];

const fn of_packets(program: &'static str, attach_type: u32, extra: Extra) -> Spec {
    Spec { program, hook: Hook::Cgroup { attach_type }, optional: Some(extra) }
}

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

/// What is loaded and, so far, attached; what is not pinned is detached when this is dropped.
#[expect(clippy::struct_excessive_bools, reason = "two things that a kernel can or cannot")]
pub(super) struct Attached {
    pub(super) ebpf: Ebpf,
    pub(super) root: File,
    /// The program that stands for `STREAM` on this kernel.
    stream: &'static str,
    pub(super) pins: Option<Pinning>,
    /// Whether links of tracepoints can be pinned.
    pub(super) perf_links: bool,
    /// Whether this kernel runs no program before those of others.
    pub(super) behind_others: bool,
    pub(super) attachments: Vec<Attachment>,
    pub(super) links: Links,
    specs: Vec<&'static Spec>,
    /// What is not had, and why.
    missing: Vec<(Extra, String)>,
}

/// Links are open as long as this is: those that are not pinned go with it.
#[derive(Default)]
pub(super) struct Links {
    pub(super) cgroup: Vec<OwnedFd>,
    pub(super) traced: Vec<FdLink>,
}

/// Where links and maps are kept.
pub(super) struct Pinning {
    pub(super) set: Set,
    pub(super) programs: Programs,
}

/// What is in links that were kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Programs {
    /// The very programs that would be loaded now, with the same settings.
    Same,
    Others,
}

/// What the programs are told when they are loaded.
#[derive(Debug)]
pub(super) struct Settings {
    seed: [u64; 2],
    command_in_cgroup: u8,
    netns_in_sock_ops: u8,
    full: u8,
    dns: u8,
    interval_ns: u64,
    watched: [u64; 2],
    socket_bits: u32,
    dials_bits: u32,
    tick_ns: u64,
    fork_child_pid_at: u32,
    stream: &'static str,
}

impl Settings {
    pub(super) fn new(config: &Config, ground: &Ground, budget: Budget, seed: [u64; 2]) -> Self {
        let hierarchy = &ground.cgroup.path;
        let path = config.cgroup.as_ref().unwrap_or(hierarchy);
        let fork_child_pid_at = tracefs::field_offset("sched", "sched_process_fork", "child_pid");
        Self {
            seed,
            command_in_cgroup: u8::from(command_in_cgroup()),
            netns_in_sock_ops: u8::from(netns_in_sock_ops(ground)),
            full: u8::from(config.detail == Detail::Full),
            dns: u8::from(config.dns == Dns::Auto),
            interval_ns: budget.interval_ns(),
            watched: watched(path, hierarchy),
            socket_bits: config.socket_bits(),
            dials_bits: config.dials_bits(),
            tick_ns: clock::tick_ns(),
            fork_child_pid_at: fork_child_pid_at.unwrap_or(0),
            stream: if current_in_sock_ops() { STREAM } else { STREAM_UNASKED },
        }
    }

    /// Tells these programs with these settings from others.
    pub(super) fn digest(&self) -> u64 {
        digest(OBJECT) ^ digest(format!("{self:?}").as_bytes()).rotate_left(1)
    }
}

/// The kernel programs, as they were built.
pub(super) static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/edgewatch-bpf"));

/// Creates maps and programs, or opens the maps that `pins` hold; nothing is attached yet.
pub(super) fn load(
    config: &Config,
    ground: &Ground,
    settings: &Settings,
    pins: Option<Pinning>,
) -> Result<Attached, CaptureError> {
    let root = open_root(config, ground)?;
    let shapes = shapes(config)?;
    let mut loader = EbpfLoader::new();
    // Nothing here is relocated against the kernel's types, and reading all of them takes a while.
    loader.btf(None);
    loader
        .override_global(global::EXECUTABLE_SEED, &settings.seed, true)
        .override_global(global::COMMAND_IN_CGROUP, &settings.command_in_cgroup, true)
        .override_global(global::NETNS_IN_SOCK_OPS, &settings.netns_in_sock_ops, true)
        .override_global(global::BUDGET_INTERVAL_NS, &settings.interval_ns, true)
        .override_global(global::FULL, &settings.full, true)
        .override_global(global::DNS, &settings.dns, true)
        .override_global(global::WATCHED, &settings.watched, true)
        .override_global(global::SOCKET_BITS, &settings.socket_bits, true)
        .override_global(global::DIALS_BITS, &settings.dials_bits, true)
        .override_global(global::TICK_NS, &settings.tick_ns, true)
        .override_global(global::FORK_CHILD_PID_AT, &settings.fork_child_pid_at, true);
    for (name, entries) in sizes(config) {
        loader.map_max_entries(name, entries);
    }
    if let Some(pins) = &pins {
        for name in shapes.names() {
            loader.map_pin_path(name, pins.set.map(name));
        }
    }
    let ebpf = loader.load(OBJECT).map_err(|source| CaptureError::Load(Box::new(source)))?;
    let why = "cap_capable is not a raw tracepoint of this kernel";
    let missing = (!asks_visibly(ground)).then(|| (Extra::OpenedSockets, why.to_owned()));
    Ok(Attached {
        ebpf,
        root,
        stream: settings.stream,
        pins,
        perf_links: ground.kernel.is_at_least(5, 15),
        behind_others: false,
        attachments: Vec::new(),
        links: Links::default(),
        specs: Vec::new(),
        missing: missing.into_iter().collect(),
    })
}

/// Opens the cgroup that is watched.
pub(super) fn open_root(config: &Config, ground: &Ground) -> Result<File, CaptureError> {
    let path = config.cgroup.as_ref().unwrap_or(&ground.cgroup.path);
    if !path.starts_with(&ground.cgroup.path) {
        let hierarchy = ground.cgroup.path.clone();
        return Err(CaptureError::NotInHierarchy { path: path.clone(), hierarchy });
    }
    File::open(path).map_err(|source| CaptureError::OpenCgroup { path: path.clone(), source })
}

pub(super) fn shapes(config: &Config) -> Result<Shapes, CaptureError> {
    let shapes = Shapes::of(OBJECT, config);
    shapes.map_err(|error| CaptureError::Load(Box::new(error.into())))
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
                (Err(source), None) => return Err(self.refusal(spec, source)),
                (Err(error), Some(extra)) => self.missing.push((extra, brief(&error))),
            }
        }
        Ok(())
    }

    /// How many programs are attached.
    pub(super) fn count(&self) -> usize {
        self.specs.len()
    }

    /// The links, and what can be looked after of them from now on. The programs are kept by their
    /// links; those whose links cannot be pinned, by the loader.
    pub(super) fn attachments(
        self,
        watched: &Path,
        set: Option<&Set>,
    ) -> (Ebpf, Links, Attachments) {
        let pinned = set.into_iter().flat_map(|set| {
            let pinnable = |spec: &&&Spec| self.perf_links || spec.is_of_cgroup();
            let links = self.specs.iter().filter(pinnable).map(|spec| set.link(spec.program));
            links.chain(
                set.maps().into_iter().flatten().filter_map(|it| Some(set.map(it.to_str()?))),
            )
        });
        let pinned = pinned.collect();
        let own = self.attachments.iter().map(|it| it.id);
        let watched = watched.to_owned();
        let influence = if self.behind_others { Influence::MayHide } else { Influence::None };
        let strangers = Strangers::new(watched.clone(), own, influence);
        let attachments = Attachments::new(self.root, watched, self.attachments, pinned, strangers);
        (self.ebpf, self.links, attachments)
    }

    /// Removes links of programs that are no longer wanted.
    pub(super) fn drop_others(&self, set: Option<&Set>) -> Result<(), CaptureError> {
        let Some(set) = set else {
            return Ok(());
        };
        let failed = |source| CaptureError::Pins { path: set.dir_of_links(), source };
        for name in set.links().map_err(failed)? {
            if !self.specs.iter().any(|spec| name == spec.program) {
                fs::remove_file(set.dir_of_links().join(name)).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// How many programs are not, and nothing stands for them: packet sockets are looked for instead.
    pub(super) fn lacking(&self) -> usize {
        self.missing.iter().filter(|(extra, _)| *extra != Extra::OpenedSockets).count()
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
    pub(super) fn load_nets(&mut self, dns: Dns) {
        let lookups = if dns == Dns::Auto { &LOOKUPS[..] } else { &[] };
        for spec in std::iter::once(&NET).chain(lookups) {
            if let (Err(error), Some(extra)) = (self.load_one(spec), spec.optional) {
                self.missing.push((extra, brief(&error)));
            }
        }
        self.ask_for_order();
    }

    pub(super) fn name_of(&self, spec: &Spec) -> &'static str {
        if spec.program == STREAM { self.stream } else { spec.program }
    }

    /// What is not kept for the next agent although all else is.
    pub(super) fn unkept(&self) -> Option<String> {
        let lacking = self.pins.is_some() && !self.perf_links;
        let why = "tracepoints cannot be pinned before Linux 5.15";
        lacking.then(|| format!("executables while no agent runs: {why}"))
    }

    /// Has programs verified that are attached later, as far as that goes: why not is said then.
    pub(super) fn load(&mut self, programs: &[Spec]) {
        let kept = self.pins.as_ref().is_some_and(|it| it.programs == Programs::Same);
        for spec in programs.iter().filter(|it| !kept && it.optional.is_none()) {
            drop(self.load_one(spec));
        }
    }

    /// Has one program verified without attaching it, once.
    pub(super) fn load_one(&mut self, spec: &Spec) -> Result<(), ProgramError> {
        let name = self.name_of(spec);
        let program = self.ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?;
        if program.fd().is_ok() {
            return Ok(());
        }
        match program {
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

/// An error without the verifier's log, which is long.
fn brief(error: &ProgramError) -> String {
    match error {
        ProgramError::LoadError { io_error, .. } => format!("load: {io_error}"),
        ProgramError::SyscallError(syscall) => format!("{}: {}", syscall.call, syscall.io_error),
        error => error.to_string(),
    }
}
