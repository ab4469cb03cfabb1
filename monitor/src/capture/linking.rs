//! One program and its hook: a new link, or one that an agent before this one left pinned, its program
//! swapped in one moment. Which programs there are, and which can be done without, is `attach`'s.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::{Program, ProgramError};
use aya::sys::SyscallError;

use crate::capture::CaptureError;
use crate::capture::attach::{Attached, EGRESS, Hook, NET, Pinning, Programs, Spec};
use crate::capture::attachments::Attachment;
use crate::capture::bpf::{self, CgroupLink};
use crate::capture::foreign;

impl Attached {
    /// Loads one program and attaches it, or takes over a link that was kept.
    pub(super) fn attach_one(&mut self, spec: &Spec) -> Result<(), ProgramError> {
        match spec.hook {
            Hook::Cgroup { attach_type } => self.attach_to_cgroup(spec, attach_type),
            Hook::Tracepoint { .. } | Hook::RawTracepoint { .. } => self.attach_to_trace(spec),
        }
    }

    fn attach_to_cgroup(&mut self, spec: &Spec, attach_type: u32) -> Result<(), ProgramError> {
        let link = match self.taken_over(spec, attach_type)? {
            Some(link) => link,
            None => {
                self.load_one(spec)?;
                let link = self.link(spec, attach_type)?;
                if let Some(Pinning { set, .. }) = &self.pins {
                    let path = set.link(spec.program);
                    put_in_place(&path, |new| {
                        bpf::pin(link.as_fd(), new).map_err(|error| failed("bpf_obj_pin", error))
                    })?;
                }
                link
            }
        };
        let told = bpf::cgroup_link(link.as_fd());
        let told = told.map_err(|error| failed("bpf_obj_get_info_by_fd", error))?;
        let id = told.map_or(0, |link| link.program_id);
        self.attachments.push(Attachment { program: spec.program, attach_type, id });
        self.links.cgroup.push(link);
        Ok(())
    }

    /// The link that was kept for this hook, with the program that belongs into it now; None where
    /// there is none that works.
    fn taken_over(
        &mut self,
        spec: &Spec,
        attach_type: u32,
    ) -> Result<Option<OwnedFd>, ProgramError> {
        let Some(Pinning { set, programs }) = &self.pins else {
            return Ok(None);
        };
        let programs = *programs;
        let Ok(link) = bpf::get(&set.link(spec.program)) else {
            return Ok(None);
        };
        let cgroup_id = self.root.metadata().map_or(0, |it| it.ino());
        // One that somebody detached is pinned all the same, and of no cgroup.
        let works = bpf::cgroup_link(link.as_fd()).ok().flatten().is_some_and(|it| {
            let CgroupLink { cgroup_id: of, attach_type: at, .. } = it;
            (of, at) == (cgroup_id, attach_type)
        });
        if !works || programs == Programs::Same {
            return Ok(works.then_some(link));
        }
        self.load_one(spec)?;
        let program = self.loaded(spec)?.fd()?.as_fd();
        let swapped = bpf::swap(link.as_fd(), program);
        Ok(swapped.is_ok().then_some(link))
    }

    /// A new link of a loaded program. Before those of others where it dials: one that rewrites the
    /// address would hide what was dialled.
    fn link(&mut self, spec: &Spec, attach_type: u32) -> Result<OwnedFd, ProgramError> {
        let program = self.loaded(spec)?.fd()?.as_fd();
        let link = |flags| bpf::link(program, self.root.as_fd(), attach_type, flags);
        let first = if spec.sees_dialled() { bpf::PREORDER } else { 0 };
        let mut linked = link(first);
        let refused = linked.as_ref().is_err_and(|it| it.kind() == io::ErrorKind::InvalidInput);
        let behind = first != 0 && refused;
        if behind {
            linked = link(0);
        }
        self.behind_others |= behind;
        linked.map_err(|error| failed("bpf_link_create", error))
    }

    /// Asks whether programs run before those of others on this kernel: with what is no cgroup, so that
    /// nothing is attached.
    pub(super) fn ask_for_order(&mut self) {
        let Some(Ok(program)) = self.ebpf.program(NET.program).map(Program::fd) else { return };
        let asked = bpf::link(program.as_fd(), program.as_fd(), EGRESS, bpf::PREORDER);
        self.behind_others |= asked.is_err_and(|it| it.kind() == io::ErrorKind::InvalidInput);
    }

    fn attach_to_trace(&mut self, spec: &Spec) -> Result<(), ProgramError> {
        let pins = self.pins.as_ref().filter(|_| self.perf_links);
        let path = pins.map(|pins| (pins.set.link(spec.program), pins.programs));
        if let Some((path, Programs::Same)) = &path
            && let Ok(link) = PinnedLink::from_pin(path)
        {
            self.links.traced.push(link.into());
            return Ok(());
        }
        self.load_one(spec)?;
        let program = self.ebpf.program_mut(self.name_of(spec)).ok_or(ProgramError::NotLoaded)?;
        let link = match (program, spec.hook) {
            (Program::TracePoint(program), Hook::Tracepoint { category, name }) => {
                let id = program.attach(category, name)?;
                let link = path.is_some().then(|| program.take_link(id)).transpose()?;
                let link = link.map(FdLink::try_from).transpose();
                link.map_err(|error| failed("bpf_link_create", io::Error::other(error)))?
            }
            (Program::RawTracePoint(program), Hook::RawTracepoint { name }) => {
                let id = program.attach(name)?;
                path.is_some().then(|| program.take_link(id)).transpose()?.map(FdLink::from)
            }
            _ => return Err(ProgramError::UnexpectedProgramType),
        };
        if let Some((path, _)) = path {
            let mut link = link;
            // A link of this kind keeps its program: for a moment there are two of them, which note
            // the same twice.
            put_in_place(&path, |new| {
                let Some(unpinned) = link.take() else { return Ok(()) };
                let pinned = unpinned
                    .pin(new)
                    .map_err(|error| failed("bpf_obj_pin", io::Error::other(error)))?;
                link = Some(pinned.into());
                Ok(())
            })?;
            self.links.traced.extend(link);
        }
        Ok(())
    }

    /// As [`refusal`], with the name of who is in the way.
    pub(super) fn refusal(&self, spec: &Spec, source: ProgramError) -> CaptureError {
        match (refusal(spec.program, source), spec.hook) {
            (CaptureError::Exclusive { program, by }, Hook::Cgroup { attach_type }) => {
                let named = foreign::named_on(&self.root, attach_type);
                CaptureError::Exclusive { program, by: named.unwrap_or(by) }
            }
            (other, _) => other,
        }
    }

    fn loaded(&self, spec: &Spec) -> Result<&Program, ProgramError> {
        self.ebpf.program(self.name_of(spec)).ok_or(ProgramError::NotLoaded)
    }
}

/// Pins something new and gives it the name of what it takes the place of.
fn put_in_place(
    path: &Path,
    pin: impl FnOnce(&Path) -> Result<(), ProgramError>,
) -> Result<(), ProgramError> {
    let name = path.file_name().unwrap_or_default().display();
    // A bpffs takes no dot in a name.
    let new = path.with_file_name(format!("{name}-new"));
    // Of an agent that was killed here.
    drop(fs::remove_file(&new));
    pin(&new)?;
    fs::rename(&new, path).map_err(|error| failed("rename", error))
}

fn failed(call: &'static str, io_error: io::Error) -> ProgramError {
    ProgramError::SyscallError(SyscallError { call, io_error })
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
            CaptureError::Exclusive { program, by: "another program".to_owned() }
        }
        ProgramError::SyscallError(syscall)
            if syscall.call == "bpf_link_create"
                && syscall.io_error.kind() == io::ErrorKind::NotFound =>
        {
            CaptureError::CgroupGone { program }
        }
        source => CaptureError::Attach { program, source: Box::new(source) },
    }
}

/// The end of the verifier's log is where it says why.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.trim_end().lines().rev().take(12).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join("\n")
}
