//! Processes as the kernel noted them: what each runs and who started it. So a flow's process and
//! its ancestors are named although they may be gone.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::maps::{HashMap as BpfHashMap, MapData};
use monitor_common::{Execution, Lineage, end_of, is_shell};
use monitor_core::flow::{Ancestor, Image, Process};

use crate::capture::IF_ABSENT;
use crate::capture::decode::{self, Caller, LineageBytes, Started};
use crate::capture::executables::{Executables, Subject};
use crate::capture::hierarchy::Hierarchy;
use crate::capture::procfs::{self, Running, Stat};
use crate::capture::shared::{PROCESSES, shared};

pub(super) struct Processes {
    noted: BpfHashMap<MapData, u32, LineageBytes>,
    executables: Executables,
    /// By process and executable, for [`Processes::FRESH`]: who dials a thousand times at once is
    /// looked up once.
    described: HashMap<(u32, u64), Description>,
    /// The same, as they are told.
    told: HashMap<Caller, Arc<Process>>,
    looked: Instant,
}

/// What is found out of a process.
#[derive(Debug, Clone)]
struct Description {
    executable: Option<String>,
    image: Image,
    ancestors: Vec<Ancestor>,
}

impl Processes {
    /// How long a description holds: a process's id is not given again so soon, and that it runs
    /// something else its executable's id tells.
    const FRESH: Duration = Duration::from_millis(100);
    /// Descriptions kept at most.
    const MAX: usize = 4096;

    pub(super) fn new(
        noted: BpfHashMap<MapData, u32, LineageBytes>,
        executables: Executables,
    ) -> Self {
        Self {
            noted,
            executables,
            described: HashMap::new(),
            told: HashMap::new(),
            looked: Instant::now(),
        }
    }

    /// Tells the kernel of the processes that are older than its programs. Only where it follows
    /// them from now on: else ids would outlive their processes.
    pub(super) fn fill(&mut self, hierarchy: &Hierarchy) {
        const ANY: u64 = 0;
        let mut older = Older::read(hierarchy);
        let pids: Vec<u32> = older.processes.keys().copied().collect();
        for pid in pids {
            let lineage = older.lineage(pid, &mut |path| self.executables.id_of(path));
            let Some(process) = older.processes.get(&pid) else {
                continue;
            };
            let flags = match self.noted(pid) {
                None => IF_ABSENT,
                // Forked since, by a process that the kernel did not know yet.
                Some(noted) if noted.executable_id == 0 => ANY,
                // Written by the kernel since, and right.
                Some(_) => continue,
            };
            let inserted = self.noted.insert(pid, decode::lineage_bytes(&lineage), flags);
            if inserted.is_ok() && lineage.shell_id != 0 {
                let started =
                    Started { path: process.running.path.clone(), shell_id: lineage.under() };
                self.executables.note(lineage.executable_id, &started);
            }
        }
    }

    /// The executable id that the kernel holds for a process; 0 where it holds none.
    pub(super) fn executable_id(&self, pid: u32) -> u64 {
        self.noted(pid).map_or(0, |lineage| lineage.executable_id)
    }

    /// Looks again at those that were looked at some time ago.
    pub(super) fn refresh(&mut self) {
        let many = self.told.len().max(self.described.len()) > Self::MAX;
        if many || self.looked.elapsed() >= Self::FRESH {
            self.described.clear();
            self.told.clear();
            self.looked = Instant::now();
        }
    }

    /// What is known of a process that made itself seen at `at_ns`.
    pub(super) fn describe(&mut self, caller: &Caller, at_ns: u64) -> Arc<Process> {
        if let Some(process) = self.told.get(caller) {
            return Arc::clone(process);
        }
        let process = Arc::new(self.process(caller, at_ns));
        self.told.insert(caller.clone(), Arc::clone(&process));
        process
    }

    fn process(&mut self, caller: &Caller, at_ns: u64) -> Process {
        let key = (caller.pid, caller.executable_id);
        let description = match self.described.get(&key) {
            Some(description) => description.clone(),
            None => {
                let description = self.look(caller, at_ns);
                self.described.insert(key, description.clone());
                description
            }
        };
        let mut process = Process {
            executable: description.executable,
            pid: caller.pid,
            uid: caller.uid,
            command: caller.command.clone(),
            image: description.image,
            ancestors: description.ancestors,
        };
        if process.command.is_empty() {
            complete(&mut process);
        }
        process
    }

    fn look(&mut self, caller: &Caller, at_ns: u64) -> Description {
        let chain = self.chain(caller.pid, at_ns);
        let itself = chain.first().map_or(Lineage::UNKNOWN, |(_, lineage)| *lineage);
        let current = self.executable_id(caller.pid) == caller.executable_id;
        let subject = Subject {
            executable_id: caller.executable_id,
            shell_id: if current { itself.under() } else { 0 },
            executed_in: itself.executed_in,
            runs_in: current.then_some(caller.pid),
            kin: &kin(&chain, itself.executed_in),
        };
        let (executable, image) = self.executables.name(&subject);
        let mut ancestors = Vec::new();
        for (pid, lineage) in chain.iter().skip(1) {
            let subject = Subject {
                executable_id: lineage.executable_id,
                shell_id: lineage.under(),
                executed_in: lineage.executed_in,
                // Where it is gone, so is its link: its id's next process has a note of its own.
                runs_in: Some(*pid),
                kin: &kin(&chain, lineage.executed_in),
            };
            let (executable, _) = self.executables.name(&subject);
            ancestors.push(Ancestor { pid: *pid, executable });
        }
        Description { executable, image, ancestors }
    }

    /// The process and those who started it, nearest first, as far as they are known; the first
    /// process of the machine, who adopts every orphan, is left out.
    ///
    /// Process ids are used again: whoever is younger than his child is somebody else. Between a
    /// process that ended and one of its id that nobody noted, nothing tells.
    fn chain(&self, pid: u32, at_ns: u64) -> Vec<(u32, Lineage)> {
        let mut chain = Vec::new();
        let mut next = pid;
        let mut at_ns = at_ns;
        while next > 1 && chain.len() <= Process::ANCESTORS {
            let Some(lineage) = self.lineage(next) else {
                break;
            };
            if lineage.born_ns > at_ns {
                break;
            }
            chain.push((next, lineage));
            next = lineage.parent;
            // What `/proc` says is rounded down.
            at_ns = lineage.born_ns.saturating_add(procfs::tick_ns());
        }
        chain
    }

    /// From the kernel's note, or from `/proc` what it lacks.
    fn lineage(&self, pid: u32) -> Option<Lineage> {
        let noted = self.noted(pid);
        if let Some(noted) = noted.filter(|noted| noted.parent != 0) {
            return Some(noted);
        }
        let Stat { parent, born_ns, .. } = procfs::stat(pid)?;
        Some(Lineage { parent, born_ns, ..noted.unwrap_or(Lineage::UNKNOWN) })
    }

    fn noted(&self, pid: u32) -> Option<Lineage> {
        decode::lineage(&self.noted.get(&pid, 0).ok()?).ok()
    }
}

/// A process that the kernel named by its id alone: where it listens without having bound, or is
/// older than the kernel programs.
fn complete(process: &mut Process) {
    if let Ok(metadata) = fs::metadata(format!("/proc/{}", process.pid))
        && let Some(command) = procfs::command(process.pid)
    {
        process.uid = metadata.uid();
        process.command = String::from_utf8_lossy(&command).into_owned();
    }
}

/// Those who were executed in the same cgroup: where they still are, they see the same files.
fn kin(chain: &[(u32, Lineage)], executed_in: u64) -> Vec<u32> {
    let there = chain.iter().filter(|(_, lineage)| lineage.executed_in == executed_in);
    there.map(|(pid, _)| *pid).collect()
}

/// The processes there are, with what the kernel would have noted of them. What they ran before is
/// not known: of a shell that became another program nothing is left.
struct Older {
    processes: HashMap<u32, OlderProcess>,
    lineages: HashMap<u32, Lineage>,
}

struct OlderProcess {
    stat: Stat,
    running: Running,
    /// 0 where it is not known.
    cgroup_id: u64,
}

impl Older {
    fn read(hierarchy: &Hierarchy) -> Self {
        let process = |pid| {
            Some(OlderProcess {
                // First: most processes may be kernel threads, which run no file.
                running: procfs::running(pid)?,
                stat: procfs::stat(pid)?,
                cgroup_id: hierarchy.cgroup(pid).map_or(0, |(id, _)| id.0),
            })
        };
        let pids: Vec<u32> = procfs::pids().collect();
        let read = shared(&pids, PROCESSES, |pid| process(*pid));
        let processes = pids.into_iter().zip(read).filter_map(|(pid, read)| Some((pid, read?)));
        let processes = processes.collect();
        Self { processes, lineages: HashMap::new() }
    }

    fn lineage(&mut self, pid: u32, id_of: &mut dyn FnMut(&str) -> u64) -> Lineage {
        if let Some(lineage) = self.lineages.get(&pid) {
            return *lineage;
        }
        // Ids that were used again while they were read could make a circle.
        self.lineages.insert(pid, Lineage::UNKNOWN);
        let Some(process) = self.processes.get(&pid) else {
            return Lineage::UNKNOWN;
        };
        let OlderProcess { stat: Stat { command, .. }, running, .. } = process;
        let Stat { parent, born_ns, .. } = process.stat;
        let execution = Execution {
            executable_id: id_of(&running.path),
            cgroup_id: process.cgroup_id,
            shell: u32::from(runs_shell(&running.path, command)),
            itself: 0,
        };
        let mut lineage = self.lineage(parent, id_of).forks(parent, born_ns);
        lineage.executes(&execution);
        self.lineages.insert(pid, lineage);
        lineage
    }
}

/// `busybox` is many programs, of which its command name tells the one.
fn runs_shell(path: &str, command: &str) -> bool {
    let name = if path.ends_with("/busybox") { format!("/{command}") } else { path.to_owned() };
    is_shell(end_of(name.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn older(processes: &[(u32, u32, &str, u64)]) -> Older {
        let process = |&(pid, parent, path, cgroup_id): &(u32, u32, &str, u64)| {
            let command = path.rsplit('/').next().unwrap_or_default().to_owned();
            let running = Running { path: path.to_owned(), image: Image::File };
            let stat = Stat { command, parent, born_ns: u64::from(pid) };
            (pid, OlderProcess { stat, running, cgroup_id })
        };
        Older { processes: processes.iter().map(process).collect(), lineages: HashMap::new() }
    }

    #[test]
    fn older_processes_are_noted_as_the_kernel_would_have() {
        let mut older = older(&[
            (1, 0, "/usr/lib/systemd/systemd", 10),
            // A service, its worker, the worker's shell and what that started.
            (20, 1, "/usr/sbin/nginx", 11),
            (21, 20, "/usr/sbin/nginx", 11),
            (22, 21, "/usr/bin/dash", 11),
            (23, 22, "/usr/bin/python3.11", 11),
            (24, 20, "/usr/bin/python3.11", 11),
            // A service that begins with a shell.
            (30, 1, "/usr/bin/bash", 12),
            (31, 30, "/usr/bin/dash", 12),
            (32, 31, "/usr/bin/python3.11", 12),
        ]);
        let mut id = |path: &str| {
            path.bytes().fold(1, |sum: u64, byte| sum.rotate_left(7) ^ u64::from(byte))
        };
        let python = id("/usr/bin/python3.11");
        let dash = id("/usr/bin/dash");
        let mut of = |pid| older.lineage(pid, &mut id);
        assert_eq!((of(22).executable_id, of(22).shell_id), (dash, dash));
        assert_eq!(of(23).shell_id, dash);
        assert_ne!(of(23).executable_id, python);
        for pid in [20, 21, 24, 30, 31, 32] {
            assert_eq!(of(pid).shell_id, 0, "{pid}");
        }
        assert_eq!((of(24).executable_id, of(32).executable_id), (python, python));
        assert_eq!((of(32).parent, of(32).born_ns), (31, 32));
    }

    #[test]
    fn busybox_is_a_shell_where_it_is_one() {
        assert!(runs_shell("/bin/busybox", "sh"));
        assert!(!runs_shell("/bin/busybox", "crond"));
        assert!(runs_shell("/usr/bin/dash", "anything"));
    }
}
