//! Where packets are looked at: in cgroups in which an unusual socket was made, and in no others, for
//! there it costs every packet. Below such a cgroup all are looked at; so never at the root, where
//! that would be the whole machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use aya::Ebpf;
use aya::maps::{HashMap as BpfHashMap, MapData};
use aya::programs::cgroup_skb::CgroupSkbLink;
use aya::programs::{CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, ProgramError};
use monitor_common::map;
use monitor_core::ids::CgroupId;

use crate::capture::hierarchy::Hierarchy;
use crate::capture::{Result, take};

/// The kernel program, which is loaded whether or not it is attached anywhere.
pub(super) const NET: &str = "net";

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
    /// What was attached was loaded.
    is_loaded: bool,
}

struct Net {
    path: PathBuf,
    /// None where a cgroup above it is looked at, and with that all below.
    link: Option<CgroupSkbLink>,
}

impl Nets {
    /// Each costs its cgroup; where so many are wanted, something else is wrong, which is told.
    const MOST: usize = 256;

    pub(super) fn new(ebpf: &mut Ebpf, hierarchy: Hierarchy) -> Result<Self> {
        let is_loaded = ebpf.program(NET).is_some_and(|program| program.fd().is_ok());
        let mut attached: BpfHashMap<MapData, u64, u8> = take(ebpf, map::NETS)?;
        // What an agent before this one attached went with it.
        for cgroup in attached.keys().flatten().collect::<Vec<_>>() {
            drop(attached.remove(&cgroup));
        }
        Ok(Self { hierarchy, attached, held: BTreeMap::new(), is_loaded })
    }

    /// Has the packets of these cgroups looked at. What cannot be is wanted again by the next sweep,
    /// and the kernel counts every unusual socket that is made there until then.
    pub(super) fn want(&mut self, ebpf: &mut Ebpf, wanted: Vec<Wanted>) {
        for wanted in wanted {
            if self.is_loaded && !self.held.contains_key(&wanted.cgroup) {
                self.spread(ebpf, wanted);
            }
        }
    }

    /// The cgroup is gone.
    pub(super) fn vanished(&mut self, cgroup: CgroupId) {
        if self.held.remove(&cgroup).is_some() {
            // Its id is not given out again: an entry too many would say nothing wrong.
            drop(self.attached.remove(&cgroup.0));
        }
    }

    fn spread(&mut self, ebpf: &mut Ebpf, wanted: Wanted) {
        let path = self.hierarchy.find(wanted.cgroup, wanted.pid);
        // Gone already, or everybody's.
        let Some(path) = path.filter(|path| path != self.hierarchy.path()) else {
            return;
        };
        let is_above = |net: &Net| net.link.is_some() && path.starts_with(&net.path);
        let link = if self.held.values().any(is_above) {
            None
        } else if self.held.values().filter(|net| net.link.is_some()).count() >= Self::MOST {
            return;
        } else {
            match attach(ebpf, &path) {
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
            let below = self.held.values_mut().filter(|net| net.path.starts_with(&path));
            below.for_each(|net| net.link = None);
        }
        // Full: its sockets are counted as not looked at, though they are.
        drop(self.attached.insert(wanted.cgroup.0, 1, 0));
        self.held.insert(wanted.cgroup, Net { path, link });
    }
}

fn attach(ebpf: &mut Ebpf, cgroup: &Path) -> std::result::Result<CgroupSkbLink, ProgramError> {
    let program = ebpf.program_mut(NET).ok_or(ProgramError::NotLoaded)?;
    let program: &mut CgroupSkb = program.try_into()?;
    let cgroup = File::open(cgroup).map_err(ProgramError::IOError)?;
    let link = program.attach(cgroup, CgroupSkbAttachType::Egress, CgroupAttachMode::Single)?;
    program.take_link(link)
}
