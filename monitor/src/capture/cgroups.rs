//! Which cgroups there are: told by the kernel where it can, else found by walking the tree. It
//! knows ids and paths; whose they are is for others to say.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::time::Instant;

use monitor_core::flow::Observation;
use monitor_core::ids::CgroupId;

use crate::capture::hierarchy::{Hierarchy, children};
use crate::capture::pace::Pace;

/// How cgroups that come and go are learned of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CgroupNews {
    /// The kernel tells.
    Told,
    /// Each sweep looks.
    Looked,
}

/// The cgroups told so far.
pub(super) struct Cgroups {
    hierarchy: Hierarchy,
    news: CgroupNews,
    known: HashMap<CgroupId, Presence>,
    /// Removed, oldest first: flows of them may still come.
    gone: VecDeque<CgroupId>,
    walks: u64,
    /// Of walks that a flow of an unknown cgroup asks for.
    pace: Pace,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    /// As of the walk of this number.
    Seen(u64),
    Gone,
}

impl Cgroups {
    /// A node has thousands at most; past this the tree is told no further.
    const MAX: usize = 1 << 17;
    const MAX_GONE: usize = 4096;

    pub(super) fn new(hierarchy: Hierarchy, news: CgroupNews) -> Self {
        Self {
            hierarchy,
            news,
            known: HashMap::new(),
            gone: VecDeque::new(),
            walks: 0,
            pace: Pace::default(),
        }
    }

    /// Our own.
    pub(super) fn own(&self) -> Option<CgroupId> {
        self.hierarchy.cgroup(std::process::id()).map(|(id, _)| id)
    }

    /// Whether nobody tells of them unasked.
    pub(super) fn are_looked_for(&self) -> bool {
        self.news == CgroupNews::Looked
    }

    /// Tells of a cgroup, once.
    pub(super) fn appeared(&mut self, id: CgroupId, path: String, out: &mut Vec<Observation>) {
        let room = self.known.len() < Self::MAX;
        if room && !self.known.contains_key(&id) {
            self.known.insert(id, Presence::Seen(self.walks));
            out.push(Observation::CgroupAppeared { id, path });
        }
    }

    /// Tells that a cgroup is gone, once.
    pub(super) fn vanished(&mut self, id: CgroupId, out: &mut Vec<Observation>) {
        let present = self.known.get_mut(&id);
        if let Some(presence) = present.filter(|presence| **presence != Presence::Gone) {
            *presence = Presence::Gone;
            out.push(Observation::CgroupVanished { id });
            self.gone.push_back(id);
            if self.gone.len() > Self::MAX_GONE
                && let Some(oldest) = self.gone.pop_front()
            {
                self.known.remove(&oldest);
            }
        }
    }

    /// Makes sure that a flow's cgroup was told before the flow, as far as it can be found: `pid` is a
    /// process that was in it.
    pub(super) fn ensure(&mut self, id: CgroupId, pid: Option<u32>, out: &mut Vec<Observation>) {
        if self.known.contains_key(&id) || pid.is_some_and(|pid| self.is_of(id, pid, out)) {
            return;
        }
        if self.pace.is_due() {
            self.walk(out);
        }
    }

    /// Whether a cgroup was told.
    pub(super) fn knows(&self, id: CgroupId) -> bool {
        self.known.contains_key(&id)
    }

    /// Whether it was told, and not that it is gone.
    pub(super) fn is_present(&self, id: CgroupId) -> bool {
        self.known.get(&id).is_some_and(|presence| *presence != Presence::Gone)
    }

    /// The cgroup that a process is in, and where that is.
    pub(super) fn of(&self, pid: u32) -> Option<(CgroupId, PathBuf)> {
        let (id, path) = self.hierarchy.cgroup(pid)?;
        Some((id, self.path_of(&path)))
    }

    /// Where a cgroup is that is told by this path.
    pub(super) fn path_of(&self, told: &str) -> PathBuf {
        self.hierarchy.path().join(told.trim_start_matches('/'))
    }

    /// Tells of a cgroup by one of its processes; false where that is gone, or not in it any more.
    fn is_of(&mut self, id: CgroupId, pid: u32, out: &mut Vec<Observation>) -> bool {
        let found = self.hierarchy.cgroup(pid).filter(|(found, _)| *found == id);
        found.map(|(_, path)| self.appeared(id, path, out)).is_some()
    }

    /// Walks the whole tree: tells what is new and what is gone.
    pub(super) fn walk(&mut self, out: &mut Vec<Observation>) {
        let started = Instant::now();
        self.walks += 1;
        if let Ok(root) = fs::metadata(self.hierarchy.path()) {
            self.walk_below(CgroupId(root.ino()), out);
        }
        self.pace.did(started);
    }

    fn walk_below(&mut self, root: CgroupId, out: &mut Vec<Observation>) {
        self.come_by(root, "/".to_owned(), out);
        let mut left = vec![String::new()];
        while let Some(parent) = left.pop() {
            for child in children(&self.hierarchy.path().join(parent.trim_start_matches('/'))) {
                let path = format!("{parent}/{}", child.file_name().to_string_lossy());
                self.come_by(CgroupId(child.ino()), path.clone(), out);
                left.push(path);
            }
        }
        let walks = self.walks;
        let seen = Presence::Seen(walks);
        let unseen =
            self.known.iter().filter(|&(_, &presence)| presence != seen).map(|(&id, _)| id);
        for id in unseen.collect::<Vec<_>>() {
            self.vanished(id, out);
        }
    }

    fn come_by(&mut self, id: CgroupId, path: String, out: &mut Vec<Observation>) {
        match self.known.get_mut(&id) {
            Some(presence) => *presence = Presence::Seen(self.walks),
            None => self.appeared(id, path, out),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::capture::preflight::{CgroupRoot, Layout};

    fn cgroups_of(path: &Path) -> Cgroups {
        let mounted = CgroupRoot { path: path.to_owned(), height: 0, layout: Layout::Unified };
        Cgroups::new(Hierarchy::of(&mounted), CgroupNews::Told)
    }

    fn paths(observations: &[Observation]) -> Vec<&str> {
        let mut paths: Vec<&str> = observations
            .iter()
            .filter_map(|observation| match observation {
                Observation::CgroupAppeared { path, .. } => Some(path.as_str()),
                _ => None,
            })
            .collect();
        paths.sort_unstable();
        paths
    }

    #[test]
    fn a_tree_is_told_once_and_its_changes_after() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("a.slice/b.service")).unwrap();
        fs::write(root.path().join("a.slice/cgroup.procs"), "").unwrap();
        let mut cgroups = cgroups_of(root.path());
        let mut out = Vec::new();
        cgroups.walk(&mut out);
        assert_eq!(paths(&out), ["/", "/a.slice", "/a.slice/b.service"]);

        out.clear();
        cgroups.walk(&mut out);
        assert_eq!(out, []);

        let path = root.path().join("a.slice/b.service");
        let id = CgroupId(fs::metadata(&path).unwrap().ino());
        fs::remove_dir(&path).unwrap();
        cgroups.walk(&mut out);
        assert_eq!(out, [Observation::CgroupVanished { id }]);
        cgroups.walk(&mut out);
        assert_eq!(out.len(), 1, "told once");
    }

    #[test]
    fn a_flow_of_an_unknown_cgroup_has_the_tree_walked_but_not_each_time() {
        let root = tempfile::tempdir().unwrap();
        let mut cgroups = cgroups_of(root.path());
        let mut out = Vec::new();
        cgroups.ensure(CgroupId(u64::MAX), None, &mut out);
        assert_eq!(paths(&out), ["/"]);
        fs::create_dir(root.path().join("late")).unwrap();
        cgroups.pace = Pace::took(Duration::from_secs(3600));
        cgroups.ensure(CgroupId(u64::MAX), None, &mut out);
        assert_eq!(paths(&out), ["/"], "a long walk is not repeated at once");
        cgroups.pace = Pace::took(Duration::ZERO);
        cgroups.ensure(CgroupId(u64::MAX), None, &mut out);
        assert_eq!(paths(&out), ["/", "/late"], "a short one is");
    }

    #[test]
    fn what_the_kernel_told_is_not_told_again() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("a")).unwrap();
        let id = CgroupId(fs::metadata(root.path().join("a")).unwrap().ino());
        let mut cgroups = cgroups_of(root.path());
        let mut out = Vec::new();
        cgroups.appeared(id, "/a".to_owned(), &mut out);
        cgroups.appeared(id, "/a".to_owned(), &mut out);
        cgroups.walk(&mut out);
        assert_eq!(paths(&out), ["/", "/a"]);
    }
}
