//! Who else is on our hooks: the programs attached to the watched cgroup, as the kernel lists them.
//! Attaches nothing and opens no program: their names come from the list of all that are loaded.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::path::Path;

use crate::capture::attach::{FLOWS, NAMES_AND_BINDS};
use crate::capture::{CaptureError, cgroup_root};

/// The programs on one hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbours {
    /// Our program for this hook.
    pub program: &'static str,
    pub sharing: Sharing,
    pub attached: Vec<Neighbour>,
}

/// One attached program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    pub id: u32,
    /// None where the kernel does not tell us.
    pub name: Option<String>,
}

/// Whether there is room beside them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// Attached for many, or nothing is attached.
    Shared,
    /// Attached for itself alone: nobody else can attach to this cgroup.
    Exclusive,
}

impl Neighbour {
    /// Whether it has the name of one of our programs, as another agent's have.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        // The kernel keeps 15 bytes of a name.
        let cut = |name: &'static str| name.get(..15).unwrap_or(name);
        let mut ours = NAMES_AND_BINDS.iter().chain(&FLOWS);
        self.name.as_deref().is_some_and(|name| ours.any(|spec| cut(spec.program) == name))
    }
}

/// Asks the kernel who is attached to `cgroup` where we would attach; to the root, where it is None.
/// Needs CAP_NET_ADMIN; hooks that this kernel does not have are left out.
///
/// # Errors
/// The cgroup cannot be opened, or the kernel refuses to tell.
pub fn neighbours(cgroup: Option<&Path>) -> Result<Vec<Neighbours>, CaptureError> {
    let path = match cgroup {
        Some(path) => path.to_owned(),
        None => cgroup_root()?.path,
    };
    let root = File::open(&path).map_err(|source| CaptureError::OpenCgroup { path, source })?;
    let mut names = None;
    let mut found = Vec::new();
    for spec in NAMES_AND_BINDS.iter().chain(&FLOWS) {
        let Some(kind) = attach_type(spec.program) else { continue };
        let (ids, flags) = match query(root.as_raw_fd(), kind) {
            Ok(answer) => answer,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => continue,
            Err(source) => return Err(CaptureError::Neighbours(source)),
        };
        let named = |id| {
            let names = names.get_or_insert_with(names_of_all);
            let name = names.iter().find(|(other, _)| *other == id).map(|(_, name)| name.clone());
            Neighbour { id, name }
        };
        let attached: Vec<Neighbour> = ids.into_iter().map(named).collect();
        let alone = flags & BPF_F_ALLOW_MULTI == 0 && !attached.is_empty();
        let sharing = if alone { Sharing::Exclusive } else { Sharing::Shared };
        found.push(Neighbours { program: spec.program, sharing, attached });
    }
    Ok(found)
}

/// Ids and names of every program there is; empty where we may not ask (that takes CAP_SYS_ADMIN).
fn names_of_all() -> Vec<(u32, String)> {
    let programs = aya::programs::loaded_programs().map_while(Result::ok);
    let named = programs.map(|program| {
        let name = program.name_as_str().unwrap_or_default();
        (program.id(), name.to_owned())
    });
    named.filter(|(_, name)| !name.is_empty()).collect()
}

const BPF_PROG_QUERY: libc::c_int = 16;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// `enum bpf_attach_type`; None for what does not go to a cgroup.
fn attach_type(program: &str) -> Option<u32> {
    Some(match program {
        "stream" => 3,
        "connect4" => 10,
        "connect6" => 11,
        "post_bind4" => 12,
        "post_bind6" => 13,
        "sendmsg4" => 14,
        "sendmsg6" => 15,
        "recvmsg4" => 19,
        "recvmsg6" => 20,
        _ => return None,
    })
}

/// The part of `union bpf_attr` that is for BPF_PROG_QUERY, as of 4.15.
#[repr(C)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    _reserved: u32,
}

/// Ids of the programs attached, and the flags they are attached with.
fn query(cgroup: RawFd, attach_type: u32) -> io::Result<(Vec<u32>, u32)> {
    // The kernel attaches no more than 64 to one hook of one cgroup.
    let mut ids = [0_u32; 64];
    let mut query = Query {
        target_fd: cgroup.cast_unsigned(),
        attach_type,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr() as u64,
        count: 64,
        _reserved: 0,
    };
    // SAFETY: the attribute is as long as we say, and `ids` points to room for `count` ids; both
    // outlive the call.
    let answered =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Query>()) };
    if answered != 0 {
        return Err(io::Error::last_os_error());
    }
    let count = usize::try_from(query.count).unwrap_or(usize::MAX).min(ids.len());
    Ok((ids[..count].to_vec(), query.attach_flags))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cgroup_program_has_its_attach_type() {
        for spec in NAMES_AND_BINDS.iter().chain(&FLOWS) {
            let goes_to_a_cgroup = spec.hook == crate::capture::attach::Hook::Cgroup;
            assert_eq!(attach_type(spec.program).is_some(), goes_to_a_cgroup, "{}", spec.program);
        }
    }

    #[test]
    fn ours_are_known_by_name() {
        let named = |name: &str| Neighbour { id: 1, name: Some(name.to_owned()) };
        assert!(named("connect4").is_ours());
        assert!(!named("cil_sock4_conne").is_ours());
        assert!(!Neighbour { id: 1, name: None }.is_ours());
    }
}
