//! Where packets are looked at: in cgroups in which there is a reason for it, and in no others, for there
//! it costs every packet. Below such a cgroup all are looked at; so never at the root, where that would be
//! the whole machine. Where links outlive the agent, these do too. One of these for each reason.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{HashMap as BpfHashMap, MapData};
use monitor_common::map;
use monitor_core::flow::Observation;
use monitor_core::ids::CgroupId;

use crate::capture::attach::{Hook, LOOKUPS, NET, Pinning, Programs, Spec};
use crate::capture::bpf::{self, CgroupLink};
use crate::capture::hierarchy::Hierarchy;
use crate::capture::pins::Set;
use crate::capture::{Result, take};

/// A cgroup whose packets are to be looked at, and what is known of where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) cgroup: CgroupId,
    pub(super) pid: Option<u32>,
    pub(super) path: Option<PathBuf>,
}

/// The cgroups that are looked at for one reason.
pub(super) struct Nets {
    hierarchy: Hierarchy,
    /// What is attached to each: all of them or none.
    specs: &'static [Spec],
    /// So many at most, those below them left out.
    most: usize,
    /// Where the kernel is told which they are, if it is to know.
    told: Option<BpfHashMap<MapData, u64, u8>>,
    held: BTreeMap<CgroupId, Net>,
    /// For which there was no room any more.
    beyond: BTreeSet<CgroupId>,
    /// Where links are pinned.
    set: Option<Set>,
}

struct Net {
    path: PathBuf,
    /// None where a cgroup above it is looked at, and with that all below; or where somebody detached one.
    links: Vec<Link>,
}

struct Link {
    fd: OwnedFd,
    spec: &'static Spec,
    program_id: u32,
}

impl Nets {
    /// Each costs its cgroup; where so many are wanted, something else is wrong, which is told.
    const MOST: usize = 256;

    /// Where unusual sockets send: the kernel counts those made where nobody looks.
    pub(super) fn of_sockets(ebpf: &mut Ebpf, hierarchy: Hierarchy) -> Result<Self> {
        let told = Some(take(ebpf, map::NETS)?);
        let specs = std::slice::from_ref(&NET);
        Ok(Self { told, ..Self::new(hierarchy, specs, Self::MOST) })
    }

    /// What is asked of resolvers and answered.
    pub(super) const fn of_lookups(hierarchy: Hierarchy) -> Self {
        Self::new(hierarchy, &LOOKUPS, Self::MOST)
    }

    /// None, and none is kept: where names are not to be heard.
    pub(super) const fn of_nothing(hierarchy: Hierarchy) -> Self {
        Self::new(hierarchy, &LOOKUPS, 0)
    }

    const fn new(hierarchy: Hierarchy, specs: &'static [Spec], most: usize) -> Self {
        Self {
            hierarchy,
            specs,
            most,
            told: None,
            held: BTreeMap::new(),
            beyond: BTreeSet::new(),
            set: None,
        }
    }

    /// Takes up what an agent before this one left attached, and removes what it left of cgroups that are
    /// gone: those that are there were `told`. From here on links are pinned there, too.
    pub(super) fn adopt(&mut self, ebpf: &Ebpf, pinning: &Pinning, told: &[Observation]) {
        let paths: HashMap<CgroupId, PathBuf> =
            told.iter().filter_map(|it| self.path_of(it)).collect();
        let pinned = self.specs.iter().flat_map(|spec| pinning.set.cgroups_of(spec.program));
        for cgroup in pinned.map(CgroupId).collect::<BTreeSet<_>>() {
            let links = self.specs.iter().map(|spec| taken_over(ebpf, cgroup, spec, pinning));
            let links = links.collect::<io::Result<Vec<Link>>>();
            match (links, paths.get(&cgroup)) {
                (Ok(links), Some(path)) if self.most > 0 => {
                    self.held.insert(cgroup, Net { path: path.clone(), links });
                }
                // It is wanted again, if it is there.
                (Ok(_) | Err(_), _) => self.unpin(&pinning.set, cgroup),
            }
        }
        let known = self.told.iter().flat_map(|told| told.keys().flatten());
        for cgroup in known.collect::<Vec<_>>() {
            let path = paths.get(&CgroupId(cgroup)).filter(|path| self.is_looked_at(path));
            if let Some(path) = path.cloned() {
                self.held.entry(CgroupId(cgroup)).or_insert(Net { path, links: Vec::new() });
            } else {
                self.untell(CgroupId(cgroup));
            }
        }
        self.set = Some(pinning.set.clone());
    }

    /// The set has got another name.
    pub(super) fn kept_in(&mut self, set: Option<&Set>) {
        self.set = set.cloned();
    }

    /// Has the packets of these cgroups looked at. What cannot be is wanted again by the next sweep.
    pub(super) fn want(&mut self, ebpf: &Ebpf, wanted: Vec<Wanted>) {
        for wanted in wanted {
            let is_settled =
                self.held.contains_key(&wanted.cgroup) || self.beyond.contains(&wanted.cgroup);
            if self.most > 0 && !is_settled {
                self.spread(ebpf, &wanted);
            }
        }
    }

    /// How many cgroups are looked at, those below others included, and for how many there was no room.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.held.len(), self.beyond.len())
    }

    /// The cgroup is gone.
    pub(super) fn vanished(&mut self, cgroup: CgroupId) {
        self.beyond.remove(&cgroup);
        if let Some(net) = self.held.remove(&cgroup) {
            // Its id is not given out again: an entry too many would say nothing wrong.
            self.untell(cgroup);
            if !net.links.is_empty() {
                // There is room for another.
                self.beyond.clear();
            }
            self.let_go(cgroup, net.links);
        }
    }

    /// The programs that were detached, or had another put in their place, since this was last asked, each
    /// as often as it was. From now on those cgroups are not looked at.
    pub(super) fn take_detached(&mut self) -> Vec<&'static str> {
        let detached = self.held.iter().filter_map(|(cgroup, net)| {
            let gone: Vec<&'static str> = net.detached(*cgroup).collect();
            (!gone.is_empty()).then_some((*cgroup, gone))
        });
        let detached: Vec<(CgroupId, Vec<&'static str>)> = detached.collect();
        for (cgroup, _) in &detached {
            self.untell(*cgroup);
            let links = self.held.get_mut(cgroup).map(|net| std::mem::take(&mut net.links));
            self.let_go(*cgroup, links.unwrap_or_default());
        }
        detached.into_iter().flat_map(|(_, programs)| programs).collect()
    }

    fn spread(&mut self, ebpf: &Ebpf, wanted: &Wanted) {
        let is_it = |path: &PathBuf| fs::metadata(path).is_ok_and(|it| it.ino() == wanted.cgroup.0);
        let path = wanted.path.clone().filter(is_it);
        let path = path.or_else(|| self.hierarchy.find(wanted.cgroup, wanted.pid));
        // Gone already, or everybody's.
        let Some(path) = path.filter(|path| path != self.hierarchy.path()) else {
            return;
        };
        let links = if self.is_looked_at(&path) {
            Vec::new()
        } else if self.held.values().filter(|net| !net.links.is_empty()).count() >= self.most {
            self.beyond.insert(wanted.cgroup);
            return;
        } else {
            match self.attach(ebpf, wanted.cgroup, &path) {
                Ok(links) => links,
                Err(error) => {
                    let cgroup = path.display();
                    tracing::debug!(%cgroup, error = %error, "not looked at");
                    return;
                }
            }
        };
        if !links.is_empty() {
            // What is below is looked at from here, once.
            let below = self.held.iter_mut().filter(|(_, net)| net.path.starts_with(&path));
            let below = below.map(|(cgroup, net)| (*cgroup, std::mem::take(&mut net.links)));
            let below: Vec<_> = below.collect();
            below.into_iter().for_each(|(cgroup, links)| self.let_go(cgroup, links));
        }
        if let Some(told) = &mut self.told {
            // Full: its sockets are counted as not looked at, though they are.
            drop(told.insert(wanted.cgroup.0, 1, 0));
        }
        self.held.insert(wanted.cgroup, Net { path, links });
    }

    fn is_looked_at(&self, path: &Path) -> bool {
        self.held.values().any(|net| !net.links.is_empty() && path.starts_with(&net.path))
    }

    fn attach(&self, ebpf: &Ebpf, cgroup: CgroupId, path: &Path) -> io::Result<Vec<Link>> {
        let directory = File::open(path)?;
        let attached = self.specs.iter().map(|spec| {
            let attach_type = attach_type(spec)?;
            let fd = bpf::link(program(ebpf, spec)?.as_fd(), directory.as_fd(), attach_type, 0)?;
            if let Some(set) = &self.set {
                let pinned = bpf::pin(fd.as_fd(), &set.link_to(spec.program, cgroup.0));
                // It is attached all the same, as long as this agent runs.
                pinned.unwrap_or_else(|error| tracing::debug!(%error, "a link is not pinned"));
            }
            Link::of(fd, cgroup, spec)
        });
        let attached = attached.collect();
        if let (Err(_), Some(set)) = (&attached, &self.set) {
            self.unpin(set, cgroup);
        }
        attached
    }

    fn let_go(&self, cgroup: CgroupId, links: Vec<Link>) {
        if let (Some(set), false) = (&self.set, links.is_empty()) {
            self.unpin(set, cgroup);
        }
    }

    fn unpin(&self, set: &Set, cgroup: CgroupId) {
        for spec in self.specs {
            drop(fs::remove_file(set.link_to(spec.program, cgroup.0)));
        }
    }

    fn untell(&mut self, cgroup: CgroupId) {
        if let Some(told) = &mut self.told {
            drop(told.remove(&cgroup.0));
        }
    }

    fn path_of(&self, told: &Observation) -> Option<(CgroupId, PathBuf)> {
        let Observation::CgroupAppeared { id, path } = told else { return None };
        Some((*id, self.hierarchy.path().join(path.trim_start_matches('/'))))
    }
}

impl Net {
    /// The programs that are attached no longer, though the cgroup is there.
    fn detached(&self, cgroup: CgroupId) -> impl Iterator<Item = &'static str> {
        let gone = self.links.iter().filter(move |link| !link.works(cgroup));
        let is_there = move || fs::metadata(&self.path).is_ok_and(|it| it.ino() == cgroup.0);
        gone.filter(move |_| is_there()).map(|link| link.spec.program)
    }
}

impl Link {
    /// A link that is attached to this cgroup, as is said of the program.
    fn of(fd: OwnedFd, cgroup: CgroupId, spec: &'static Spec) -> io::Result<Self> {
        let hook = Hook::Cgroup { attach_type: attach_type(spec)? };
        match bpf::cgroup_link(fd.as_fd())? {
            Some(CgroupLink { cgroup_id, attach_type, program_id })
                if cgroup_id == cgroup.0 && hook == (Hook::Cgroup { attach_type }) =>
            {
                Ok(Self { fd, spec, program_id })
            }
            // With the cgroup went what was attached to it.
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn works(&self, cgroup: CgroupId) -> bool {
        bpf::cgroup_link(self.fd.as_fd())
            .ok()
            .flatten()
            .is_some_and(|it| (it.cgroup_id, it.program_id) == (cgroup.0, self.program_id))
    }
}

/// A link that was kept, with the program that belongs into it now.
fn taken_over(
    ebpf: &Ebpf,
    cgroup: CgroupId,
    spec: &'static Spec,
    pinning: &Pinning,
) -> io::Result<Link> {
    let fd = bpf::get(&pinning.set.link_to(spec.program, cgroup.0))?;
    let link = Link::of(fd, cgroup, spec)?;
    if pinning.programs == Programs::Same {
        return Ok(link);
    }
    bpf::swap(link.fd.as_fd(), program(ebpf, spec)?.as_fd())?;
    Link::of(link.fd, cgroup, spec)
}

/// The kernel program; an error where it could not be loaded.
fn program<'e>(ebpf: &'e Ebpf, spec: &Spec) -> io::Result<&'e aya::programs::ProgramFd> {
    let program = ebpf.program(spec.program).ok_or(io::ErrorKind::NotFound)?;
    program.fd().map_err(io::Error::other)
}

/// Where at a cgroup a program goes; an error where it goes to none.
fn attach_type(spec: &Spec) -> io::Result<u32> {
    match spec.hook {
        Hook::Cgroup { attach_type } => Ok(attach_type),
        Hook::Tracepoint { .. } | Hook::RawTracepoint { .. } => {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }
}
