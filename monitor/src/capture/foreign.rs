//! Who else is on our hooks: the programs attached to the watched cgroup, as the kernel lists them.
//! Attaches nothing and opens no program: their names come from the list of all that are loaded.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::capture::attach::{FLOWS, Hook, LOOKUPS, NAMES_AND_BINDS, NET, STREAM_UNASKED};
use crate::capture::hooked::{self, Hooked};
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
    /// None where the kernel does not tell us, or its loader gave none: ours gives them only with
    /// CAP_PERFMON.
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
        self.name.as_deref().is_some_and(is_our_name)
    }
}

/// Whether one of our programs has this name.
pub(super) fn is_our_name(name: &str) -> bool {
    // The kernel keeps 15 bytes of a name.
    let cut = |name: &'static str| name.get(..15).unwrap_or(name);
    let specs = NAMES_AND_BINDS.iter().chain(&FLOWS).chain([&NET]).chain(&LOOKUPS);
    let mut ours = specs.map(|spec| spec.program).chain([STREAM_UNASKED]);
    ours.any(|program| cut(program) == name)
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
        let Hook::Cgroup { attach_type } = spec.hook else { continue };
        let Hooked { ids, flags } = match hooked::on(&root, attach_type) {
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

/// Who is attached to `cgroup` at this hook, for people; None where that cannot be told.
pub(super) fn named_on(cgroup: &File, attach_type: u32) -> Option<String> {
    let id = hooked::on(cgroup, attach_type).ok()?.ids.first().copied()?;
    let names = names_of_all();
    let name = names.iter().find(|(other, _)| *other == id);
    Some(match name {
        Some((_, name)) => format!("{name} (program {id})"),
        None => format!("program {id}"),
    })
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

const BPF_F_ALLOW_MULTI: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_are_known_by_name() {
        let named = |name: &str| Neighbour { id: 1, name: Some(name.to_owned()) };
        assert!(named("connect4").is_ours());
        assert!(named("stream").is_ours() && named("stream_unasked").is_ours());
        assert!(!named("cil_sock4_conne").is_ours());
        assert!(!Neighbour { id: 1, name: None }.is_ours());
    }
}
