//! Where in the mounted version-2 hierarchy a process is. `/proc` tells it from our cgroup namespace,
//! which may be anywhere below what is mounted, as in a pod; a path told there leads up first.

use std::fs::{self, DirEntry};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use monitor_core::ids::CgroupId;

use crate::capture::preflight::CgroupRoot;

pub(super) struct Hierarchy {
    path: PathBuf,
    /// The steps from the mount's root to our cgroup namespace's; None where they were not found.
    home: Option<Vec<String>>,
}

impl Hierarchy {
    /// Where our namespace is below the mount's root is looked for where it is below at all.
    pub(super) fn of(mounted: &CgroupRoot) -> Self {
        let path = mounted.path.clone();
        let home = home(&path, mounted.height, &own_path().unwrap_or_default());
        Self { path, home }
    }

    /// Where it is mounted.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where a cgroup is: found by a process that was in it, else by a walk.
    pub(super) fn find(&self, id: CgroupId, pid: Option<u32>) -> Option<PathBuf> {
        let by_process = pid.and_then(|pid| self.cgroup(pid)).filter(|(found, _)| *found == id);
        if let Some((_, path)) = by_process {
            return Some(self.path.join(path.trim_start_matches('/')));
        }
        let is_it = |path: &Path| fs::metadata(path).is_ok_and(|it| it.ino() == id.0);
        let mut left = vec![self.path.clone()];
        while let Some(path) = left.pop() {
            if is_it(&path) {
                return Some(path);
            }
            left.extend(children(&path).map(|child| child.path()));
        }
        None
    }

    /// The cgroup of a process, and its path from the mount's root.
    pub(super) fn cgroup(&self, pid: u32) -> Option<(CgroupId, String)> {
        let steps = below(self.home.as_deref()?, &path_of(&pid.to_string())?)?;
        let path = steps.join("/");
        let directory = fs::metadata(self.path.join(&path)).ok()?;
        Some((CgroupId(directory.ino()), format!("/{path}")))
    }
}

fn own_path() -> Option<String> {
    path_of("self")
}

/// As our cgroup namespace calls it: `/`, `/a/b`, or `/../../c`.
fn path_of(pid: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

/// Follows `path` from `home`; None where it leads out of what is mounted.
fn below(home: &[String], path: &str) -> Option<Vec<String>> {
    let mut steps = home.to_vec();
    for step in path.split('/').filter(|step| !step.is_empty()) {
        if step == ".." {
            steps.pop()?;
        } else {
            steps.push(step.to_owned());
        }
    }
    Some(steps)
}

/// The steps down to our namespace's root, `height` of them. Nothing names them: they lead to the
/// cgroup that this process is in, whose path from there is `own`.
fn home(hierarchy: &Path, height: usize, own: &str) -> Option<Vec<String>> {
    if height == 0 {
        return Some(Vec::new());
    }
    let below_home = below(&[], own)?;
    let pid = std::process::id().to_string();
    let mut left = vec![Vec::new()];
    while let Some(steps) = left.pop() {
        let directory = hierarchy.join(steps.join("/"));
        if steps.len() < height {
            let names = children(&directory).filter_map(|it| it.file_name().into_string().ok());
            left.extend(names.map(|name| [&steps[..], &[name]].concat()));
        } else if is_in(&directory.join(below_home.join("/")), &pid) {
            return Some(steps);
        }
    }
    None
}

/// The cgroups right below one; none where it is gone meanwhile.
pub(super) fn children(cgroup: &Path) -> impl Iterator<Item = DirEntry> {
    let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
}

fn is_in(cgroup: &Path, pid: &str) -> bool {
    let processes = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    processes.lines().any(|line| line == pid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(path: &str) -> Vec<String> {
        below(&[], path).unwrap()
    }

    #[test]
    fn paths_lead_from_our_namespace_up_and_down() {
        for (home, path, expected) in [
            ("/", "/", Some("/")),
            ("/", "/system.slice/a.service", Some("/system.slice/a.service")),
            ("/", "/../a.service", None),
            ("/kubepods/pod1/c1", "/", Some("/kubepods/pod1/c1")),
            ("/kubepods/pod1/c1", "/x", Some("/kubepods/pod1/c1/x")),
            ("/kubepods/pod1/c1", "/../../pod2/c2", Some("/kubepods/pod2/c2")),
            ("/kubepods/pod1/c1", "/../../../init.scope", Some("/init.scope")),
            ("/kubepods/pod1/c1", "/../../..", Some("/")),
            ("/kubepods/pod1/c1", "/../../../..", None),
            ("/a", "/../..b", Some("/..b")),
        ] {
            let found = below(&steps(home), path).map(|it| format!("/{}", it.join("/")));
            assert_eq!(found.as_deref(), expected, "{path} from {home}");
        }
    }

    #[test]
    fn our_namespace_is_found_by_this_process() {
        let root = tempfile::tempdir().unwrap();
        let me = std::process::id().to_string();
        for (path, processes) in [
            ("a/b/inner", "1\n"),
            ("a/c/inner", &format!("1\n{me}\n")),
            ("d/e", &format!("{me}0\n")),
        ] {
            fs::create_dir_all(root.path().join(path)).unwrap();
            fs::write(root.path().join(path).join("cgroup.procs"), processes).unwrap();
        }
        assert_eq!(home(root.path(), 2, "/inner"), Some(steps("/a/c")));
        assert_eq!(home(root.path(), 3, "/"), Some(steps("/a/c/inner")));
        assert_eq!(home(root.path(), 2, "/"), None);
        assert_eq!(home(root.path(), 2, "/../x"), None);
        assert_eq!(home(root.path(), 0, "/anywhere"), Some(Vec::new()));
    }

    #[test]
    fn this_process_is_where_its_cgroup_says() {
        let Ok(mounted) = crate::capture::cgroup_root() else { return };
        let (id, path) = Hierarchy::of(&mounted).cgroup(std::process::id()).unwrap();
        let directory = fs::metadata(mounted.path.join(&path[1..])).unwrap();
        assert_eq!(id, CgroupId(directory.ino()));
        assert_eq!(Hierarchy::of(&mounted).cgroup(u32::MAX), None);
    }
}
