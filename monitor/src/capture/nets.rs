//! Where packets are looked at: in cgroups in which an unusual socket was made, and in no others, for
//! there it costs every packet. Below such a cgroup all are looked at; so never at the root, where
//! that would be the whole machine. Where links outlive the agent, these do too.

use std::collections::{BTreeMap, HashMap};
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

use crate::capture::attach::{Pinning, Programs};
use crate::capture::bpf::{self, CgroupLink};
use crate::capture::hierarchy::Hierarchy;
use crate::capture::pins::Set;
use crate::capture::{Result, take};

/// The kernel program, which is loaded whether or not it is attached anywhere.
pub(super) const NET: &str = "net";

/// `BPF_CGROUP_INET_EGRESS`
pub(super) const EGRESS: u32 = 1;

/// A cgroup in which an unusual socket was made, and by whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) cgroup: CgroupId,
    pub(super) pid: Option<u32>,
}

/// The cgroups that are looked at.
pub(super) struct Nets {
    hierarchy: Hierarchy,
    attached: BpfHashMap<MapData, u64, u8>,
    held: BTreeMap<CgroupId, Net>,
    /// Where links are pinned.
    set: Option<Set>,
}

struct Net {
    path: PathBuf,
    /// None where a cgroup above it is looked at, and with that all below; or where somebody detached it.
    link: Option<Link>,
}

struct Link {
    fd: OwnedFd,
    program_id: u32,
}

impl Nets {
    /// Each costs its cgroup; where so many are wanted, something else is wrong, which is told.
    const MOST: usize = 256;

    pub(super) fn new(ebpf: &mut Ebpf, hierarchy: Hierarchy) -> Result<Self> {
        let attached = take(ebpf, map::NETS)?;
        Ok(Self { hierarchy, attached, held: BTreeMap::new(), set: None })
    }

    /// Takes up what an agent before this one left attached, and removes what it left of cgroups that are
    /// gone: those that are there were `told`. From here on links are pinned there, too.
    pub(super) fn adopt(&mut self, ebpf: &Ebpf, pinning: &Pinning, told: &[Observation]) {
        let paths: HashMap<CgroupId, PathBuf> =
            told.iter().filter_map(|it| self.path_of(it)).collect();
        for (cgroup, pin) in pinning.set.nets().unwrap_or_default() {
            let cgroup = CgroupId(cgroup);
            let link = bpf::get(&pin).and_then(|link| taken_over(ebpf, cgroup, link, pinning));
            match (link, paths.get(&cgroup)) {
                (Ok(link), Some(path)) => {
                    let net = Net { path: path.clone(), link: Some(link) };
                    self.held.insert(cgroup, net);
                }
                // It is wanted again, if it is there.
                (Ok(_) | Err(_), _) => drop(fs::remove_file(&pin)),
            }
        }
        for cgroup in self.attached.keys().flatten().collect::<Vec<_>>() {
            let path = paths.get(&CgroupId(cgroup)).filter(|path| self.is_looked_at(path));
            if let Some(path) = path.cloned() {
                self.held.entry(CgroupId(cgroup)).or_insert(Net { path, link: None });
            } else {
                drop(self.attached.remove(&cgroup));
            }
        }
        self.set = Some(pinning.set.clone());
    }

    /// The set has got another name.
    pub(super) fn kept_in(&mut self, set: Option<&Set>) {
        self.set = set.cloned();
    }

    /// Has the packets of these cgroups looked at. What cannot be is wanted again by the next sweep,
    /// and the kernel counts every unusual socket that is made there until then.
    pub(super) fn want(&mut self, ebpf: &Ebpf, wanted: Vec<Wanted>) {
        for wanted in wanted {
            if !self.held.contains_key(&wanted.cgroup) {
                self.spread(ebpf, wanted);
            }
        }
    }

    /// The cgroup is gone.
    pub(super) fn vanished(&mut self, cgroup: CgroupId) {
        if let Some(net) = self.held.remove(&cgroup) {
            // Its id is not given out again: an entry too many would say nothing wrong.
            drop(self.attached.remove(&cgroup.0));
            self.let_go(cgroup, net.link);
        }
    }

    /// How many were detached, or had another program put in, since this was last asked. Their sockets are
    /// counted as not looked at from now on.
    pub(super) fn take_detached(&mut self) -> usize {
        let detached = self.held.iter().filter(|(cgroup, net)| net.is_detached(**cgroup));
        let detached: Vec<CgroupId> = detached.map(|(cgroup, _)| *cgroup).collect();
        for cgroup in &detached {
            drop(self.attached.remove(&cgroup.0));
            let link = self.held.get_mut(cgroup).and_then(|net| net.link.take());
            self.let_go(*cgroup, link);
        }
        detached.len()
    }

    fn spread(&mut self, ebpf: &Ebpf, wanted: Wanted) {
        let path = self.hierarchy.find(wanted.cgroup, wanted.pid);
        // Gone already, or everybody's.
        let Some(path) = path.filter(|path| path != self.hierarchy.path()) else {
            return;
        };
        let link = if self.is_looked_at(&path) {
            None
        } else if self.held.values().filter(|net| net.link.is_some()).count() >= Self::MOST {
            return;
        } else {
            match self.attach(ebpf, wanted.cgroup, &path) {
                Ok(link) => Some(link),
                Err(error) => {
                    let cgroup = path.display();
                    tracing::debug!(%cgroup, error = %error, "not looked at");
                    return;
                }
            }
        };
        if link.is_some() {
            // What is below is looked at from here, once.
            let below = self.held.iter_mut().filter(|(_, net)| net.path.starts_with(&path));
            let below: Vec<_> = below.map(|(cgroup, net)| (*cgroup, net.link.take())).collect();
            below.into_iter().for_each(|(cgroup, link)| self.let_go(cgroup, link));
        }
        // Full: its sockets are counted as not looked at, though they are.
        drop(self.attached.insert(wanted.cgroup.0, 1, 0));
        self.held.insert(wanted.cgroup, Net { path, link });
    }

    fn is_looked_at(&self, path: &Path) -> bool {
        self.held.values().any(|net| net.link.is_some() && path.starts_with(&net.path))
    }

    fn attach(&self, ebpf: &Ebpf, cgroup: CgroupId, path: &Path) -> io::Result<Link> {
        let directory = File::open(path)?;
        let fd = bpf::link(program(ebpf)?.as_fd(), directory.as_fd(), EGRESS, 0)?;
        if let Some(set) = &self.set {
            let pinned = bpf::pin(fd.as_fd(), &set.net(cgroup.0));
            // It is attached all the same, as long as this agent runs.
            pinned.unwrap_or_else(|error| tracing::debug!(%error, "a link is not pinned"));
        }
        Link::of(fd, cgroup)
    }

    fn let_go(&self, cgroup: CgroupId, link: Option<Link>) {
        if let (Some(set), Some(_link)) = (&self.set, link) {
            drop(fs::remove_file(set.net(cgroup.0)));
        }
    }

    fn path_of(&self, told: &Observation) -> Option<(CgroupId, PathBuf)> {
        let Observation::CgroupAppeared { id, path } = told else { return None };
        Some((*id, self.hierarchy.path().join(path.trim_start_matches('/'))))
    }
}

impl Net {
    fn is_detached(&self, cgroup: CgroupId) -> bool {
        let is_there = || fs::metadata(&self.path).is_ok_and(|it| it.ino() == cgroup.0);
        self.link.as_ref().is_some_and(|link| !link.works(cgroup)) && is_there()
    }
}

impl Link {
    /// A link that is attached to this cgroup.
    fn of(fd: OwnedFd, cgroup: CgroupId) -> io::Result<Self> {
        match bpf::cgroup_link(fd.as_fd())? {
            Some(CgroupLink { cgroup_id, attach_type: EGRESS, program_id })
                if cgroup_id == cgroup.0 =>
            {
                Ok(Self { fd, program_id })
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
fn taken_over(ebpf: &Ebpf, cgroup: CgroupId, fd: OwnedFd, pinning: &Pinning) -> io::Result<Link> {
    let link = Link::of(fd, cgroup)?;
    if pinning.programs == Programs::Same {
        return Ok(link);
    }
    bpf::swap(link.fd.as_fd(), program(ebpf)?.as_fd())?;
    Link::of(link.fd, cgroup)
}

/// The kernel program; an error where it could not be loaded.
fn program(ebpf: &Ebpf) -> io::Result<&aya::programs::ProgramFd> {
    let program = ebpf.program(NET).ok_or(io::ErrorKind::NotFound)?;
    program.fd().map_err(io::Error::other)
}
