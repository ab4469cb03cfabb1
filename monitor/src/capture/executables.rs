//! What a process runs, as a path: from the process while it is there, else from what the kernel
//! noted when it was started, followed as that process or its kin would follow it. An interpreter
//! that a service's shell started is named together with the shell.

use std::collections::HashMap;

use aya::maps::{HashMap as BpfHashMap, MapData};
use monitor_common::{executable_id, under_shell};
use monitor_core::flow::Image;

use crate::capture::IF_ABSENT;
use crate::capture::decode::{self, Started, StartedBytes};
use crate::capture::procfs::{self, Running};

/// The kernel's map of executables, and the paths learned so far.
pub(super) struct Executables {
    seed: [u64; 2],
    started: BpfHashMap<MapData, u64, StartedBytes>,
    /// Paths without symbolic links, by the cgroup they were executed in, since the same path is
    /// another file elsewhere, and by executable id.
    paths: HashMap<(u64, u64), String>,
}

/// What is to be named.
pub(super) struct Subject<'a> {
    pub(super) executable_id: u64,
    /// The service's shell it was started under, as far as that is known of the process; else 0.
    pub(super) shell_id: u64,
    /// Where it was executed; 0 where that is not known.
    pub(super) executed_in: u64,
    /// A process that runs it now, as far as the kernel's note says.
    pub(super) runs_in: Option<u32>,
    /// Processes that see the same files, if they are still there.
    pub(super) kin: &'a [u32],
}

impl Executables {
    const MAX_PATHS: usize = 4096;

    pub(super) fn new(seed: [u64; 2], started: BpfHashMap<MapData, u64, StartedBytes>) -> Self {
        Self { seed, started, paths: HashMap::new() }
    }

    /// The id of a path that nobody's shell started.
    pub(super) fn id_of(&self, path: &str) -> u64 {
        executable_id(self.seed, &decode::executable_path(path.as_bytes()))
    }

    /// Notes what a process older than the kernel programs runs, where its id is not its path's.
    pub(super) fn note(&mut self, id: u64, started: &Started) {
        // No room: it is named by its link while it lives.
        drop(self.started.insert(id, decode::started_bytes(started), IF_ABSENT));
    }

    /// Its name, and what kind of file it is. A process may have become another program since, so its
    /// link is believed only where it agrees with what the kernel noted.
    pub(super) fn name(&mut self, subject: &Subject<'_>) -> (Option<String>, Image) {
        let running = subject.runs_in.and_then(procfs::running);
        if subject.executable_id == 0 {
            return running.map_or((None, Image::File), |it| (Some(it.path), it.image));
        }
        let started = self.started(subject.executable_id);
        let by_descriptor = started.as_ref().is_some_and(|it| is_descriptor(&it.path));
        let running = running.filter(|running| {
            subject.runs_in.is_some_and(|pid| self.agrees(pid, subject, running, started.as_ref()))
        });
        let (path, image) = match running {
            Some(running) => {
                self.learn(subject, subject.executable_id, running.path.clone());
                (Some(running.path), running.image)
            }
            None => (self.followed(subject, subject.executable_id), Image::File),
        };
        let shell_id = started.map_or(subject.shell_id, |it| it.shell_id);
        let name = path.map(|path| {
            if shell_id == 0 || !is_interpreter(&path) {
                return path;
            }
            // Never without: it would pass for what the service itself starts.
            let shell = self.followed(subject, shell_id);
            format!("{}:{path}", shell.as_deref().unwrap_or("?"))
        });
        (name, if by_descriptor { Image::Memory } else { image })
    }

    /// The path of an executable that nobody runs any more.
    fn followed(&mut self, subject: &Subject<'_>, id: u64) -> Option<String> {
        if let Some(path) = self.paths.get(&(subject.executed_in, id)) {
            return Some(path.clone());
        }
        let started = self.started(id)?.path;
        let followed = if names_one_file(&started) {
            subject.kin.iter().find_map(|pid| procfs::resolved(*pid, &started))
        } else {
            None
        };
        match followed {
            Some(path) => {
                self.learn(subject, id, path.clone());
                Some(path)
            }
            None => Some(started),
        }
    }

    fn started(&self, id: u64) -> Option<Started> {
        let bytes = self.started.get(&id, 0).ok()?;
        decode::started(&bytes).ok().filter(|started| !started.path.is_empty())
    }

    /// Whether what a process shows as running is what it was `started` as. The link changes a
    /// moment before the kernel's note does, so the note alone proves nothing.
    fn agrees(
        &self,
        pid: u32,
        subject: &Subject<'_>,
        running: &Running,
        started: Option<&Started>,
    ) -> bool {
        let agreed = self.paths.get(&(subject.executed_in, subject.executable_id));
        if agreed == Some(&running.path) {
            return true;
        }
        let Some(Started { path: started, .. }) = started else {
            // Older than the kernel's notes, or forgotten there: its id was made of its link.
            let id = self.id_of(&running.path);
            let under = under_shell(id, subject.shell_id);
            return subject.executable_id == if subject.shell_id == 0 { id } else { under };
        };
        let by_descriptor = is_descriptor(started);
        if running.path == *started || (by_descriptor && running.image == Image::Memory) {
            return true;
        }
        if names_one_file(started)
            && procfs::resolved(pid, started).is_some_and(|path| path == running.path)
        {
            return true;
        }
        // A script runs its interpreter; a relative path cannot be followed from here. Both keep the
        // name that the start gave the process; through a descriptor newer kernels give the file's.
        let command = procfs::command(pid);
        let is_named = |path: &str| command.as_deref() == Some(command_of(path));
        is_named(started) || (by_descriptor && is_named(&running.path))
    }

    fn learn(&mut self, subject: &Subject<'_>, id: u64, path: String) {
        if self.paths.len() >= Self::MAX_PATHS {
            // They are learned again as they are seen.
            self.paths.clear();
        }
        self.paths.insert((subject.executed_in, id), path);
    }
}

/// Whether a path can be followed for somebody else.
fn names_one_file(path: &str) -> bool {
    monitor_common::names_one_file(&decode::executable_path(path.as_bytes()))
}

/// Whether a path is an open descriptor's: what it started was no file that others could see.
fn is_descriptor(path: &str) -> bool {
    let of_process = || path.strip_prefix("/proc/").is_some_and(|rest| rest.contains("/fd/"));
    path.starts_with("/dev/fd/") || of_process()
}

/// Whether a program does what others wrote: what it does says nothing without who started it.
fn is_interpreter(path: &str) -> bool {
    const NAMES: [&str; 9] =
        ["R", "Rscript", "bun", "deno", "expect", "java", "node", "nodejs", "pwsh"];
    // With a version: `python3.11`, `perl5.36.0`.
    const BEGINNINGS: [&str; 8] =
        ["guile", "lua", "perl", "php", "pypy", "python", "ruby", "tclsh"];
    let name = base_name(path);
    NAMES.contains(&name)
        || name.ends_with("awk")
        || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// The command name that the kernel gives a process for the path that started it.
fn command_of(path: &str) -> &[u8] {
    /// `TASK_COMM_LEN`, less the closing NUL.
    const COMMAND_BYTES: usize = 15;
    let name = base_name(path).as_bytes();
    &name[..name.len().min(COMMAND_BYTES)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_are_told_by_their_names() {
        for path in
            ["/usr/bin/python3.11", "/usr/bin/perl", "/usr/bin/mawk", "/opt/R/bin/R", "node"]
        {
            assert!(is_interpreter(path), "{path}");
        }
        for path in ["/usr/bin/curl", "/usr/bin/nodetool", "/opt/python/run", "/usr/bin/javac", ""]
        {
            assert!(!is_interpreter(path), "{path}");
        }
    }

    #[test]
    fn descriptors_are_told_from_files() {
        for path in ["/proc/self/fd/3", "/dev/fd/63", "/proc/12/fd/5", "/proc/self/task/1/fd/3"] {
            assert!(is_descriptor(path), "{path}");
        }
        for path in ["/proc/self/exe", "/usr/bin/fd/3", "/dev/fdx/3", "fd/3"] {
            assert!(!is_descriptor(path), "{path}");
        }
    }
}
