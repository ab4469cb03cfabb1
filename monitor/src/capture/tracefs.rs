//! The tracing file system: mounted for ourselves where the machine has not, so that tracepoints can
//! be attached; and where in a trace record a field lies.

use std::fs;
use std::io;
use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::thread::UnshareFlags;

/// Where the loader looks.
const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Whether tracepoints can be found.
#[derive(Debug)]
pub enum Tracing {
    Mounted(&'static str),
    /// For this process alone.
    MountedHere,
    Refused(io::Error),
}

/// Gives this process a mount namespace of its own with tracefs in it, unless one is mounted or the
/// privileges lack. Mounts made elsewhere still arrive here; none made here leave.
///
/// Call it before the first thread is started: the others would stay behind.
pub fn prepare_mounts() -> Tracing {
    if let Some(path) = mounted() {
        return Tracing::Mounted(path);
    }
    match mount_privately() {
        Ok(()) => Tracing::MountedHere,
        Err(error) => {
            // Capture works without, and its summary names what is missing.
            tracing::debug!(%error, "tracefs not mounted");
            Tracing::Refused(error.into())
        }
    }
}

fn mount_privately() -> rustix::io::Result<()> {
    // SAFETY: a mount namespace leaves memory and file descriptors as they are.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS)? };
    let downstream = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", downstream)?;
    let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tracefs", TRACEFS[0], "tracefs", quiet, None)
}

/// Where it is mounted.
pub(super) fn mounted() -> Option<&'static str> {
    let is_mounted = |path: &&str| Path::new(path).join("events").is_dir();
    TRACEFS.into_iter().find(is_mounted)
}

/// Where `field` lies in the records of a tracepoint: some move between kernels.
pub(super) fn field_offset(category: &str, name: &str, field: &str) -> Option<u32> {
    let format = Path::new(mounted()?).join(format!("events/{category}/{name}/format"));
    offset_in(&fs::read_to_string(format).ok()?, field)
}

/// Finds `field:TYPE NAME; offset:N; ...`.
fn offset_in(format: &str, field: &str) -> Option<u32> {
    let line = format.lines().find(|line| {
        let declaration = line.trim_start().strip_prefix("field:");
        let declaration = declaration.and_then(|rest| rest.split(';').next());
        declaration.and_then(|text| text.split(' ').next_back()) == Some(field)
    })?;
    let (_, rest) = line.split_once("offset:")?;
    rest.split(';').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::offset_in;

    const NEW: &str = "name: sched_process_fork\nID: 366\nformat:\n\
        \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n\
        \tfield:__data_loc char[] parent_comm;\toffset:8;\tsize:4;\tsigned:0;\n\
        \tfield:pid_t parent_pid;\toffset:12;\tsize:4;\tsigned:1;\n\
        \tfield:__data_loc char[] child_comm;\toffset:16;\tsize:4;\tsigned:0;\n\
        \tfield:pid_t child_pid;\toffset:20;\tsize:4;\tsigned:1;\n";
    const OLD: &str = "\tfield:char parent_comm[16];\toffset:8;\tsize:16;\tsigned:0;\n\
        \tfield:pid_t child_pid;\toffset:44;\tsize:4;\tsigned:1;\n";

    #[test]
    fn fields_are_found_by_name() {
        assert_eq!(offset_in(NEW, "child_pid"), Some(20));
        assert_eq!(offset_in(OLD, "child_pid"), Some(44));
        assert_eq!(offset_in(NEW, "pid"), None);
        assert_eq!(offset_in("", "child_pid"), None);
        assert_eq!(offset_in("field:int child_pid;", "child_pid"), None);
    }
}
