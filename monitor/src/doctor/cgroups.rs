//! The cgroup hierarchy, and whether names can be had from it.

use std::path::Path;

use crate::capture::{self, Layout};
use crate::doctor::{Check, Finding, told};
use crate::identity::Namer;
use crate::wording::counted;

pub(super) fn examine() -> Vec<Finding> {
    let root = match capture::cgroup_root() {
        Ok(root) => root,
        Err(error) => return vec![Finding::fail(Check::Cgroups, "cgroup v2", told(error))],
    };
    let what = format!("cgroup v2 at {}", root.path.display());
    match root.layout {
        Layout::Unified => vec![Finding::ok(Check::Cgroups, what, "unified")],
        Layout::Hybrid => {
            let detail = "hybrid: version-1 controllers beside it";
            vec![Finding::ok(Check::Cgroups, what, detail), names(Path::new("/proc"))]
        }
    }
}

/// In the hybrid layout a runtime may put a container into version-1 cgroups alone.
fn names(proc: &Path) -> Finding {
    let (what, mut named, mut nameless) = ("containers' names", 0, 0);
    let namer = Namer::new("");
    for entry in std::fs::read_dir(proc).into_iter().flatten().flatten() {
        let is_process = entry.file_name().to_str().is_some_and(|it| it.parse::<u32>().is_ok());
        let Some(text) =
            is_process.then(|| std::fs::read_to_string(entry.path().join("cgroup")).ok()).flatten()
        else {
            continue;
        };
        match container(&namer, &text) {
            Membership::None => {}
            Membership::Version2 => named += 1,
            Membership::Version1Alone => nameless += 1,
        }
    }
    if nameless > 0 {
        let detail = format!(
            "{} of containers are in version-1 cgroups alone, so that their connections count as those of the cgroup above",
            counted(nameless, "process")
        );
        let mend = "use a runtime that makes version-2 cgroups in the hybrid layout (runc 1.1, crun), or boot with systemd.unified_cgroup_hierarchy=1";
        return Finding::warn(Check::CgroupNames, what, detail).mend(mend);
    }
    let detail = match named {
        0 => "no process is in a container now".to_owned(),
        _ => format!("all {} of containers are in version-2 cgroups", counted(named, "process")),
    };
    Finding::ok(Check::CgroupNames, what, detail)
}

/// In which hierarchy a process can be seen to be a container's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Membership {
    None,
    Version2,
    Version1Alone,
}

/// Reads `/proc/PID/cgroup`: `HIERARCHY:CONTROLLERS:PATH`, with `0::PATH` for version 2.
fn container(namer: &Namer, text: &str) -> Membership {
    let mut membership = Membership::None;
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        if namer.workload(path).container.is_none() {
            continue;
        }
        if controllers.is_empty() {
            return Membership::Version2;
        }
        membership = Membership::Version1Alone;
    }
    membership
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_found_in_the_hierarchy_it_is_in() {
        let id = "4f1c".repeat(16);
        let namer = Namer::new("");
        let both = format!("12:cpu,cpuacct:/docker/{id}\n0::/docker/{id}\n");
        assert_eq!(container(&namer, &both), Membership::Version2);
        let one = format!("12:cpu,cpuacct:/docker/{id}\n0::/\n");
        assert_eq!(container(&namer, &one), Membership::Version1Alone);
        let unit = "1:name=systemd:/system.slice/a.service\n0::/system.slice/a.service\n";
        assert_eq!(container(&namer, unit), Membership::None);
        assert_eq!(container(&namer, "garbage"), Membership::None);
    }

    #[test]
    fn processes_without_a_version_2_cgroup_are_counted() {
        let proc = tempfile::tempdir().unwrap();
        assert_eq!(names(proc.path()).detail, "no process is in a container now");
        let id = "4f1c".repeat(16);
        let process = |pid: &str, text: &str| {
            std::fs::create_dir(proc.path().join(pid)).unwrap();
            std::fs::write(proc.path().join(pid).join("cgroup"), text).unwrap();
        };
        process("7", &format!("3:cpu:/docker/{id}\n0::/docker/{id}\n"));
        let all = names(proc.path());
        assert_eq!(all.detail, "all 1 process of containers are in version-2 cgroups");
        process("8", &format!("3:cpu:/docker/{id}\n0::/\n"));
        let some = names(proc.path());
        assert_eq!(some.verdict, crate::doctor::Verdict::Warn);
        assert!(some.detail.starts_with("1 process of containers"), "{}", some.detail);
    }
}
