//! Cgroups that come and go, and who started what: for those that are gone before anybody could
//! look. Optional: without tracefs everything else works.

use core::ffi::c_void;

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_probe_read_kernel_str;
use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_probe_read_kernel,
};
use aya_ebpf::macros::tracepoint;
use aya_ebpf::programs::TracePointContext;
use monitor_common::{
    CGROUP_PATH_BYTES, EXECUTABLE_PATH_BYTES, Executable, Execution, Lineage, Loss, SHELL_BYTES,
    executable_id, is_own_file, is_shell, leads_through_itself, names_one_file,
};

use crate::emit;
use crate::maps::{EXECUTABLE_PATHS, EXECUTABLE_SEED, FORK_CHILD_PID_AT, PROCESSES};
use crate::note::note;
use crate::seen;

/// Where the fields of a cgroup event lie, unchanged since its id has 64 bits (5.5).
mod cgroup {
    pub(crate) const ROOT: usize = 8;
    pub(crate) const ID: usize = 16;
    pub(crate) const PATH: usize = 24;
    /// The version-2 hierarchy, the only one whose ids are told.
    pub(crate) const UNIFIED: i32 = 0;
}

/// Where the file name of an exec event lies, unchanged since 3.4.
const EXEC_FILENAME: usize = 8;

// cgroup:cgroup_mkdir, since 4.13 (64-bit id 5.5), process context: `root` 0 is the version-2 hierarchy.
#[tracepoint]
fn cgroup_mkdir(ctx: TracePointContext) -> u32 {
    note!(&ctx, "cgroup_mkdir");
    try_cgroup_mkdir(&ctx).unwrap_or_default()
}

// cgroup:cgroup_rmdir, since 4.13 (64-bit id 5.5), process context: as cgroup_mkdir.
#[tracepoint]
fn cgroup_rmdir(ctx: TracePointContext) -> u32 {
    note!(&ctx, "cgroup_rmdir");
    try_cgroup_rmdir(&ctx).unwrap_or_default()
}

// sched:sched_process_exec, since 3.4, process context: the name is the one given to execve.
#[tracepoint]
fn process_exec(ctx: TracePointContext) -> u32 {
    note!(&ctx, "process_exec");
    try_process_exec(&ctx).unwrap_or_default()
}

// sched:sched_process_fork, since 2.6.30, process context of the parent: where `child_pid` lies
// differs between kernels, so the agent looks it up.
#[tracepoint]
fn process_fork(ctx: TracePointContext) -> u32 {
    note!(&ctx, "process_fork");
    try_process_fork(&ctx).unwrap_or_default()
}

#[inline(always)]
fn try_cgroup_mkdir(ctx: &TracePointContext) -> Result<u32, i32> {
    if read::<i32>(ctx, cgroup::ROOT)? != cgroup::UNIFIED {
        return Ok(0);
    }
    let id = read::<u64>(ctx, cgroup::ID)?;
    let path = text_at(ctx, cgroup::PATH)?;
    emit::cgroup_created(id, seen::now_ns(), |record| {
        // SAFETY: `record` is reserved whole; the helper writes no further than it is told.
        let copied = unsafe {
            let into = (&raw mut (*record).path).cast();
            bpf_probe_read_kernel_str(into, CGROUP_PATH_BYTES as u32, path)
        };
        // The NUL counts; an error leaves nothing to read.
        u32::try_from(copied - 1).unwrap_or(0)
    });
    Ok(0)
}

#[inline(always)]
fn try_cgroup_rmdir(ctx: &TracePointContext) -> Result<u32, i32> {
    if read::<i32>(ctx, cgroup::ROOT)? == cgroup::UNIFIED {
        emit::cgroup_removed(read::<u64>(ctx, cgroup::ID)?, seen::now_ns());
    }
    Ok(0)
}

#[inline(always)]
fn try_process_exec(ctx: &TracePointContext) -> Result<u32, i32> {
    let filename = text_at(ctx, EXEC_FILENAME)?;
    let mut executable = Executable { path: [0; EXECUTABLE_PATH_BYTES], shell_id: 0 };
    // SAFETY: the helper writes no further than it is told.
    let copied = unsafe {
        let into = executable.path.as_mut_ptr().cast();
        bpf_probe_read_kernel_str(into, EXECUTABLE_PATH_BYTES as u32, filename)
    };
    if copied <= 0 {
        return Ok(0);
    }
    let pid = pid();
    if is_own_file(&executable.path) && PROCESSES.get_ptr(pid).is_some() {
        return Ok(0);
    }
    // Before the NUL. Of a short path this takes in what lies before it in the record.
    let end_at = copied as isize - 1 - SHELL_BYTES as isize;
    // SAFETY: the helper reads kernel memory and fails where there is none.
    let end = unsafe {
        bpf_probe_read_kernel::<[u8; SHELL_BYTES]>(filename.cast::<u8>().offset(end_at).cast())?
    };
    let mut id = executable_id(EXECUTABLE_SEED.load(), &executable.path);
    if !names_one_file(&executable.path) {
        // Every start is its own: else `./server` would pass for any other `./server`.
        id ^= seen::now_ns();
    }
    let execution = Execution {
        executable_id: id,
        cgroup_id: cgroup_id(),
        shell: u32::from(is_shell(end)),
        itself: u32::from(leads_through_itself(&executable.path)),
    };
    let lineage = start(pid, &execution);
    executable.shell_id = lineage.under();
    let is_known = EXECUTABLE_PATHS.get_ptr(lineage.executable_id).is_some();
    if !is_known && EXECUTABLE_PATHS.insert(lineage.executable_id, &executable, 0).is_err() {
        emit::lost(Loss::MapFull);
    }
    Ok(0)
}

/// Notes what a process runs from now on.
#[inline(always)]
fn start(pid: u32, execution: &Execution) -> Lineage {
    if let Some(lineage) = PROCESSES.get_ptr_mut(pid) {
        // SAFETY: a valid map value. Entries are recycled in place, so at worst another process's
        // is overwritten, which makes for news too many.
        let lineage = unsafe { &mut *lineage };
        lineage.executes(execution);
        return *lineage;
    }
    let mut lineage = Lineage::UNKNOWN;
    lineage.executes(execution);
    if PROCESSES.insert(pid, &lineage, 0).is_err() {
        emit::lost(Loss::MapFull);
    }
    lineage
}

#[inline(always)]
fn try_process_fork(ctx: &TracePointContext) -> Result<u32, i32> {
    // A thread's id is entered as well: nobody asks for it.
    let child = read::<u32>(ctx, FORK_CHILD_PID_AT.load() as usize)?;
    let parent = pid();
    // SAFETY: the value is copied at once, as in `owner::current`.
    let inherited = unsafe { PROCESSES.get(parent) }.copied().unwrap_or(Lineage::UNKNOWN);
    // Entered also where nothing is known of the parent: ids of processes are used again, and what
    // the last one ran is not what this one runs.
    let lineage = inherited.forks(parent, seen::now_ns());
    if PROCESSES.insert(child, &lineage, 0).is_err() {
        emit::lost(Loss::MapFull);
    }
    Ok(0)
}

#[inline(always)]
fn cgroup_id() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_current_cgroup_id() }
}

#[inline(always)]
fn pid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

#[inline(always)]
fn read<T>(ctx: &TracePointContext, offset: usize) -> Result<T, i32> {
    // SAFETY: the helper reads kernel memory and fails where there is none.
    unsafe { bpf_probe_read_kernel(ctx.as_ptr().cast::<u8>().add(offset).cast()) }
}

/// A text field says in its lower half where in the record the text lies.
#[inline(always)]
fn text_at(ctx: &TracePointContext, offset: usize) -> Result<*const c_void, i32> {
    let location = read::<u32>(ctx, offset)?;
    // SAFETY: within the record; only the helper follows it.
    Ok(unsafe { ctx.as_ptr().cast::<u8>().add((location & 0xffff) as usize) }.cast())
}
