//! Programs of others that come to our hooks while we look, in the watched cgroup or below it. Ours run
//! all the same: what is attached to a child is added to them. But it may change an address before
//! ours is told it, and somebody wanted it there. Who was there before us is `foreign`'s to tell.
//!
//! Looks only at what is new: the ids of links and programs rise, and a link says where it leads. What is
//! attached without one (`BPF_PROG_ATTACH`) says it only in the cgroup itself: as long as there is a
//! program of which nobody knows where it is, all cgroups are asked.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use monitor_core::flow::{Influence, Joined};

use crate::capture::attach::{FLOWS, Hook, NAMES_AND_BINDS, Spec};
use crate::capture::bpf::{self, CgroupLink, LoadedProgram};
use crate::capture::foreign;
use crate::capture::hierarchy::children;
use crate::capture::hooked;
use crate::capture::{Result, cgroup_root};

pub(super) struct Strangers {
    /// In and below this one.
    watched: PathBuf,
    /// What they can do where ours are told an address.
    influence: Influence,
    /// The highest ids that were looked at; None where we may not ask for them.
    seen: Option<Ids>,
    /// Programs that fit our hooks and are in no link that we know of.
    loose: BTreeMap<u32, LoadedProgram>,
    /// What was told, or was there before us.
    known: BTreeSet<Place>,
    walked: Option<Walk>,
    /// Programs like these are ours, or another agent's of the same version.
    own: BTreeSet<[u8; 8]>,
}

#[derive(Debug, Clone, Copy)]
struct Ids {
    link: u32,
    program: u32,
}

/// A program on a hook of a cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    program: u32,
    attach_type: u32,
    cgroup: u64,
}

/// When all cgroups were asked last, and what that took of a processor.
struct Walk {
    ended: Instant,
    took: Duration,
    /// How many in a row, this one included, left a program without a place.
    in_vain: u32,
}

impl Walk {
    /// With the time between two looks and a walk's own it stays within the promised 5 s.
    const EVERY: Duration = Duration::from_secs(2);
    /// At most this part of the time is spent on walks. In ten thousand cgroups one takes a tenth of a
    /// second; there is none unless somebody has loaded what he has not attached.
    const SHARE: u32 = 12;
    /// The same where he goes on to hold what he does not attach.
    const SHARE_IN_VAIN: u32 = 100;
    /// So many walks it may take until it is attached.
    const PATIENCE: u32 = 8;
    /// Where nobody says what is new, walks go on for ever, and must not be felt.
    const SHARE_UNTOLD: u32 = 1_000;

    fn is_due_again(&self, sought: Sought) -> bool {
        let share = match sought {
            Sought::Loose if self.in_vain < Self::PATIENCE => Self::SHARE,
            Sought::Loose => Self::SHARE_IN_VAIN,
            Sought::Anybody => Self::SHARE_UNTOLD,
        };
        self.ended.elapsed() >= self.took.saturating_mul(share).max(Self::EVERY)
    }
}

/// What cgroups are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sought {
    /// Programs of which nobody knows where they are.
    Loose,
    /// Any, where nobody says which there are.
    Anybody,
}

/// Programs by the kinds that our hooks take, `enum bpf_prog_type`: `CGROUP_SOCK`, `SOCK_OPS`,
/// `CGROUP_SOCK_ADDR`.
const KINDS: [u32; 3] = [9, 13, 18];

/// Hooks of the same kinds that are not ours, on which nobody is in our way: `bind`, `getpeername`,
/// `getsockname`, the release of a socket.
const OTHER_HOOKS: [u32; 7] = [8, 9, 29, 30, 31, 32, 34];

impl Strangers {
    /// More are not remembered: then they are told again.
    const KNOWN: usize = 4096;

    /// Takes note of who is there; `own` are programs of ours.
    pub(super) fn new(
        watched: PathBuf,
        own: impl Iterator<Item = u32>,
        influence: Influence,
    ) -> Self {
        let mut strangers = Self::empty(watched, influence);
        strangers.own = own.filter_map(|id| Some(bpf::program(id).ok()?.tag)).collect();
        drop(strangers.come());
        strangers
    }

    const fn empty(watched: PathBuf, influence: Influence) -> Self {
        Self {
            watched,
            influence,
            seen: Some(Ids { link: 0, program: 0 }),
            loose: BTreeMap::new(),
            known: BTreeSet::new(),
            walked: None,
            own: BTreeSet::new(),
        }
    }

    /// Who came since this was last asked.
    pub(super) fn come(&mut self) -> Vec<Joined> {
        let mut found = BTreeSet::new();
        // Not ours to ask: then the cgroups are.
        let sought = self.linked(&mut found).map_or(Sought::Anybody, |()| Sought::Loose);
        self.loose.retain(|id, _| bpf::program(*id).is_ok());
        let due = self.walked.as_ref().is_none_or(|walk| walk.is_due_again(sought));
        let mut paths = BTreeMap::new();
        if due && (sought == Sought::Anybody || !self.loose.is_empty()) {
            self.walk(sought, &mut found, &mut paths);
        }
        found.retain(|place| !self.known.contains(place));
        if found.is_empty() {
            return Vec::new();
        }
        let sought = found.iter().map(|it| it.cgroup).filter(|id| !paths.contains_key(id));
        let sought: BTreeSet<u64> = sought.collect();
        if !sought.is_empty() {
            let note = |path: &Path, _: &File, id: u64| {
                if sought.contains(&id) {
                    paths.insert(id, path.to_owned());
                }
            };
            each_cgroup(&self.watched, note);
        }
        self.known.retain(|place| bpf::program(place.program).is_ok());
        if self.known.len() < Self::KNOWN {
            self.known.extend(&found);
        }
        self.tell(&found, &paths)
    }

    /// Looks at the programs and links that are new: where those lead that fit our hooks.
    fn linked(&mut self, found: &mut BTreeSet<Place>) -> io::Result<()> {
        let Some(mut seen) = self.seen.take() else {
            return Err(io::ErrorKind::PermissionDenied.into());
        };
        while let Some(id) = bpf::next_program(seen.program)? {
            seen.program = id;
            // Gone again: then it is nowhere.
            let Ok(program) = bpf::program(id) else { continue };
            if KINDS.contains(&program.kind) && !self.is_ours(&program) {
                self.loose.insert(id, program);
                if let Some(walk) = &mut self.walked {
                    walk.in_vain = 0;
                }
            }
        }
        while let Some(id) = bpf::next_link(seen.link)? {
            let link = match bpf::link_by_id(id) {
                // It is being made: the next look comes by.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_gone) => None,
                Ok(link) => bpf::cgroup_link(link.as_fd()).ok().flatten(),
            };
            seen.link = id;
            let Some(CgroupLink { cgroup_id: cgroup, attach_type, program_id: program }) = link
            else {
                continue;
            };
            // Where it is is known from now on; attached elsewhere too, it is the same program.
            let is_loose = self.loose.remove(&program).is_some();
            let is_others = || bpf::program(program).is_ok_and(|it| !self.is_ours(&it));
            if spec_at(attach_type).is_some() && (is_loose || is_others()) {
                found.insert(Place { program, attach_type, cgroup });
            }
        }
        self.seen = Some(seen);
        Ok(())
    }

    /// Asks every cgroup, at the hooks that what is sought fits.
    fn walk(
        &mut self,
        sought: Sought,
        found: &mut BTreeSet<Place>,
        paths: &mut BTreeMap<u64, PathBuf>,
    ) {
        let before = busy();
        let hooks: Vec<u32> = specs()
            .filter(|(_, attach_type)| {
                sought == Sought::Anybody
                    || self.loose.values().any(|it| it.kind == kind_of(*attach_type))
            })
            .map(|(_, attach_type)| attach_type)
            .collect();
        let mut ours: BTreeSet<u32> = BTreeSet::new();
        each_cgroup(&self.watched, |path, directory, cgroup| {
            for &attach_type in &hooks {
                let Ok(on) = hooked::on(directory, attach_type) else { continue };
                for program in on.ids {
                    let is_own = || bpf::program(program).is_ok_and(|it| self.is_ours(&it));
                    if ours.contains(&program) || is_own() {
                        ours.insert(program);
                        continue;
                    }
                    found.insert(Place { program, attach_type, cgroup });
                    paths.insert(cgroup, path.to_owned());
                }
            }
        });
        let elsewhere = File::open(&self.watched).into_iter().flat_map(|directory| {
            let on = OTHER_HOOKS.iter().map(move |at| hooked::on(&directory, *at));
            on.flatten().flat_map(|on| on.ids)
        });
        // Where these are is known now.
        for program in found.iter().map(|it| it.program).chain(elsewhere) {
            self.loose.remove(&program);
        }
        let earlier = self.walked.as_ref().map_or(0, |it| it.in_vain);
        let in_vain = if self.loose.is_empty() { 0 } else { earlier.saturating_add(1) };
        let took = busy().saturating_sub(before);
        self.walked = Some(Walk { ended: Instant::now(), took, in_vain });
    }

    /// One line for each program on each hook, however many cgroups it came to. What leads elsewhere than
    /// below the watched cgroup is nobody's business here.
    fn tell(&self, found: &BTreeSet<Place>, paths: &BTreeMap<u64, PathBuf>) -> Vec<Joined> {
        let mut told: BTreeMap<(u32, u32), Joined> = BTreeMap::new();
        for Place { program, attach_type, cgroup } in found {
            let (Some(path), Some(spec)) = (paths.get(cgroup), spec_at(*attach_type)) else {
                continue;
            };
            if let Some(joined) = told.get_mut(&(*program, *attach_type)) {
                joined.more += 1;
                continue;
            }
            let joined = Joined {
                program: named(*program),
                hook: spec.program,
                cgroup: shown(path),
                more: 0,
                influence: if spec.sees_dialled() { self.influence } else { Influence::None },
            };
            told.insert((*program, *attach_type), joined);
        }
        told.into_values().collect()
    }

    fn is_ours(&self, program: &LoadedProgram) -> bool {
        self.own.contains(&program.tag) || foreign::is_our_name(&program.name)
    }
}

/// Who else is on our hooks in the cgroups below `cgroup`, or below the root where it is None.
///
/// # Errors
/// There is no hierarchy.
pub fn below(cgroup: Option<&Path>) -> Result<Vec<Joined>> {
    let top = match cgroup {
        Some(path) => path.to_owned(),
        None => cgroup_root()?.path,
    };
    let mut strangers = Strangers::empty(top.clone(), Influence::None);
    let (mut found, mut paths) = (BTreeSet::new(), BTreeMap::new());
    strangers.walk(Sought::Anybody, &mut found, &mut paths);
    paths.retain(|_, path| *path != top);
    Ok(strangers.tell(&found, &paths))
}

/// Our hooks of cgroups.
fn specs() -> impl Iterator<Item = (&'static Spec, u32)> {
    NAMES_AND_BINDS.iter().chain(&FLOWS).filter_map(|spec| match spec.hook {
        Hook::Cgroup { attach_type } => Some((spec, attach_type)),
        Hook::Tracepoint { .. } | Hook::RawTracepoint { .. } => None,
    })
}

fn spec_at(attach_type: u32) -> Option<&'static Spec> {
    specs().find(|(_, at)| *at == attach_type).map(|(spec, _)| spec)
}

/// The kind of program that a hook takes.
const fn kind_of(attach_type: u32) -> u32 {
    match attach_type {
        2 | 12 | 13 => KINDS[0],
        3 => KINDS[1],
        _ => KINDS[2],
    }
}

fn named(id: u32) -> String {
    match bpf::program(id) {
        Ok(LoadedProgram { name, .. }) if !name.is_empty() => format!("{name} ({id})"),
        Ok(_) | Err(_) => id.to_string(),
    }
}

/// A path that may hold anything, as one that moves no cursor.
fn shown(path: &Path) -> String {
    let text = path.to_string_lossy();
    let safe = |it: char| if it.is_control() { char::REPLACEMENT_CHARACTER } else { it };
    text.chars().map(safe).collect()
}

/// Hands over the cgroup at `top` and all below it, with their ids.
fn each_cgroup(top: &Path, mut hand_over: impl FnMut(&Path, &File, u64)) {
    let mut left = vec![top.to_owned()];
    while let Some(path) = left.pop() {
        // Gone meanwhile: then so is what was below.
        let Ok(directory) = File::open(&path) else { continue };
        let Ok(metadata) = directory.metadata() else { continue };
        hand_over(&path, &directory, metadata.ino());
        // Most have none below, and many files.
        if metadata.nlink() != CHILDLESS {
            left.extend(children(&path).map(|child| child.path()));
        }
    }
}

/// The links to a directory without others in it: its name, and its own.
const CHILDLESS: u64 = 2;

/// What this thread has had of a processor: what a walk costs, however busy the machine is.
fn busy() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hook_has_the_kind_of_its_program() {
        let kinds: BTreeMap<&str, u32> =
            specs().map(|(spec, at)| (spec.program, kind_of(at))).collect();
        let of = |kind: u32| {
            let mine = kinds.iter().filter(|(_, it)| **it == kind).map(|(name, _)| *name);
            mine.collect::<Vec<_>>()
        };
        assert_eq!(of(9), ["post_bind4", "post_bind6", "sock_create"]);
        assert_eq!(of(13), ["stream"]);
        assert_eq!(of(18).len(), 6, "{kinds:?}");
    }

    #[test]
    fn a_path_moves_no_cursor() {
        assert_eq!(shown(Path::new("/a/\u{1b}[2J\nb")), "/a/\u{fffd}[2J\u{fffd}b");
    }
}
