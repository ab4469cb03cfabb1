//! What is on a hook of a cgroup, as the kernel lists it (`BPF_PROG_QUERY`, since 4.15), which the
//! library asks for other kinds of hook only. Attaches nothing.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

/// The programs on one hook.
pub(super) struct Hooked {
    pub(super) ids: Vec<u32>,
    /// `BPF_F_*` of include/uapi/linux/bpf.h, as they were attached.
    pub(super) flags: u32,
}

/// The part of `union bpf_attr` that this command reads and writes.
#[repr(C)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    _reserved: u32,
}

const BPF_PROG_QUERY: libc::c_long = 16;

/// What is attached to `cgroup` itself at `attach_type` (`enum bpf_attach_type`).
///
/// # Errors
/// `NotFound` where the cgroup is gone, `InvalidInput` where this kernel has no such hook, or we may
/// not ask.
pub(super) fn on(cgroup: &File, attach_type: u32) -> io::Result<Hooked> {
    /// A hook of a cgroup takes no more.
    const MOST: usize = 64;
    let mut ids = [0_u32; MOST];
    let mut attr = QueryAttr {
        target_fd: cgroup.as_raw_fd().cast_unsigned(),
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr().addr() as u64,
        prog_cnt: u32::try_from(MOST).unwrap_or(0),
        _reserved: 0,
    };
    // SAFETY: the attribute and the buffer it points to outlive the call, and the buffer holds
    // `prog_cnt` ids.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut attr, size_of::<QueryAttr>())
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let ids = ids.into_iter().take(attr.prog_cnt as usize).collect();
    Ok(Hooked { ids, flags: attr.attach_flags })
}
