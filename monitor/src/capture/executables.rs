//! What a process runs, as a path: from the process while it is there, else from what the kernel
//! noted when it was started, under the name that the same executable had while somebody looked.

use std::collections::HashMap;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;

use aya::maps::{HashMap as BpfHashMap, MapData};
use monitor_common::{EXECUTABLE_PATH_BYTES, executable_id};

use crate::capture::decode;
use crate::capture::namespaces::pids;

/// The kernel's maps of executables, and the paths learned so far.
pub(super) struct Executables {
    seed: [u64; 2],
    /// Process to executable id.
    running: BpfHashMap<MapData, u32, u64>,
    /// Executable id to path as it was started.
    started: BpfHashMap<MapData, u64, [u8; EXECUTABLE_PATH_BYTES]>,
    /// Executable id to path as the process itself shows it.
    paths: HashMap<u64, String>,
}

impl Executables {
    const MAX_PATHS: usize = 4096;

    pub(super) fn new(
        seed: [u64; 2],
        running: BpfHashMap<MapData, u32, u64>,
        started: BpfHashMap<MapData, u64, [u8; EXECUTABLE_PATH_BYTES]>,
    ) -> Self {
        Self { seed, running, started, paths: HashMap::new() }
    }

    /// Tells the kernel of the processes that are older than its programs. Only where it follows
    /// them from now on: else ids would outlive their processes.
    pub(super) fn fill(&mut self) {
        for pid in pids() {
            let Some(path) = read_link(pid) else {
                continue;
            };
            let bytes = decode::executable_path(path.as_bytes());
            let id = executable_id(self.seed, &bytes);
            // What is there was written by the kernel since, and is right.
            const IF_ABSENT: u64 = 1;
            if self.running.insert(pid, id, IF_ABSENT).is_ok() {
                self.learn(id, path);
            }
        }
    }

    /// The id that the kernel holds for a process; 0 where it holds none.
    pub(super) fn id_of(&self, pid: u32) -> u64 {
        self.running.get(&pid, 0).unwrap_or(0)
    }

    /// What a process ran when the kernel saw it with executable `id` (0 where unknown). The process
    /// may have become another program since, so its link is believed only where it agrees with what
    /// the kernel noted.
    pub(super) fn path(&mut self, pid: u32, id: u64) -> Option<String> {
        if id == 0 {
            return read_link(pid);
        }
        let started = self.started.get(&id, 0).ok().map(|path| decode::text(&path));
        if self.id_of(pid) == id
            && let Some(path) = read_link(pid)
            && self.agrees(pid, id, &path, started.as_deref())
        {
            self.learn(id, path.clone());
            return Some(path);
        }
        if let Some(path) = self.paths.get(&id) {
            return Some(path.clone());
        }
        started.filter(|path| !path.is_empty())
    }

    /// Whether the link `path` of a process is what it was `started` as. The link changes a moment
    /// before the kernel's note does, so the note alone proves nothing.
    fn agrees(&self, pid: u32, id: u64, path: &str, started: Option<&str>) -> bool {
        let Some(started) = started else {
            // Older than the kernel's notes: its id was made of its link.
            return executable_id(self.seed, &decode::executable_path(path.as_bytes())) == id;
        };
        let file = |path: String| fs::metadata(path).ok().map(|it| (it.dev(), it.ino()));
        let running = file(format!("/proc/{pid}/exe"));
        if started.starts_with('/') && running == file(format!("/proc/{pid}/root{started}")) {
            return running.is_some();
        }
        // A script runs its interpreter; a relative path cannot be followed from here. Both keep the
        // name that the start gave the process.
        let name = started.rsplit('/').next().unwrap_or(started);
        let name = &name.as_bytes()[..name.len().min(COMMAND_BYTES)];
        fs::read(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim_ascii_end() == name)
    }

    fn learn(&mut self, id: u64, path: String) {
        if self.paths.len() >= Self::MAX_PATHS {
            // They are learned again as they are seen.
            self.paths.clear();
        }
        self.paths.insert(id, path);
    }
}

/// Bytes of a command name that the kernel keeps (`TASK_COMM_LEN`, less the closing NUL).
const COMMAND_BYTES: usize = 15;

/// None for kernel threads and for what is gone. The path of a deleted file ends in ` (deleted)`.
fn read_link(pid: u32) -> Option<String> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let path = String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned();
    Some(path).filter(|path| !path.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_runs_this_test() {
        let path = read_link(std::process::id()).unwrap();
        assert_eq!(std::env::current_exe().unwrap().to_str(), Some(path.as_str()));
        assert_eq!(read_link(u32::MAX), None);
    }
}
