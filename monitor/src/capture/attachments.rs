//! Whether what was attached still is. Whoever may load programs may also detach ours, by their
//! links' ids, or put others into their links; then nothing is heard any more, and that is to be
//! heard. A tracepoint's link knows neither.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

/// A program attached to a cgroup.
struct Attachment {
    program: &'static str,
    attach_type: u32,
    id: u32,
}

/// The programs attached to one cgroup that are still there as of the last look.
pub(super) struct Attachments {
    cgroup: File,
    present: Vec<Attachment>,
    looked: Instant,
}

impl Attachments {
    const LOOK_EVERY: Duration = Duration::from_secs(2);

    pub(super) fn new(cgroup: File) -> Self {
        Self { cgroup, present: Vec::new(), looked: Instant::now() }
    }

    /// Takes note of a program of this id.
    pub(super) fn add(&mut self, program: &'static str, attach_type: u32, id: u32) {
        self.present.push(Attachment { program, attach_type, id });
    }

    /// The programs that went since the last look; nothing where that was a moment ago.
    pub(super) fn gone(&mut self) -> Vec<&'static str> {
        if self.looked.elapsed() < Self::LOOK_EVERY {
            return Vec::new();
        }
        self.looked = Instant::now();
        let cgroup = &self.cgroup;
        let gone = self.present.extract_if(.., |it| !it.is_attached_to(cgroup));
        gone.map(|it| it.program).collect()
    }
}

impl Attachment {
    fn is_attached_to(&self, cgroup: &File) -> bool {
        match attached(cgroup, self.attach_type) {
            Ok(ids) => ids.contains(&self.id),
            // With the cgroup went what was attached to it.
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
    }
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

/// The ids of the programs attached to a cgroup itself (`BPF_PROG_QUERY`, since 4.15), which the
/// library asks for other kinds only.
fn attached(cgroup: &File, attach_type: u32) -> io::Result<Vec<u32>> {
    /// A cgroup takes no more of one kind.
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
    Ok(ids.into_iter().take(attr.prog_cnt as usize).collect())
}
