//! What a process uses, as the kernel tells it: processor time, sleeps, memory, and the programs and
//! maps that it holds. Starts nothing and counts nothing itself.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;
use serde_json::Value;

/// Seconds of processor time of all its threads, those that ended included (`clock_getcpuclockid(3)`).
pub(crate) fn busy(process: u32) -> anyhow::Result<f64> {
    let process = Pid::from_raw(i32::try_from(process).context("a process id")?);
    let clock = clock_getcpuclockid(process).context("find its processor clock")?;
    let time = Duration::from(clock.now().context("read its processor clock")?);
    Ok(time.as_secs_f64())
}

/// How often its threads went to sleep by themselves: each wake begins with one.
pub(crate) fn sleeps(process: u32) -> anyhow::Result<f64> {
    let mut sleeps = 0.0;
    for thread in threads(process)? {
        let status = fs::read_to_string(thread.join("status")).unwrap_or_default();
        sleeps += field(&status, "voluntary_ctxt_switches:").unwrap_or(0.0);
    }
    Ok(sleeps)
}

fn threads(process: u32) -> anyhow::Result<Vec<std::path::PathBuf>> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).context("list its threads")?;
    threads.map(|it| Ok(it.context("list its threads")?.path())).collect()
}

/// Resident memory in MiB.
pub(crate) fn resident(process: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).context("read status")?;
    Ok(field(&status, "VmRSS:").context("no VmRSS")? / 1024.0)
}

/// The first number after `key` at the beginning of a line.
fn field(text: &str, key: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

/// What a process holds open of the kernel's programs.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    pub(crate) programs: BTreeMap<u32, Program>,
    /// Of links to cgroups: the program's type and its hook, each by the kernel's number.
    pub(crate) hooks: Vec<(u32, u32)>,
    /// Its tracepoints and what else is attached elsewhere.
    pub(crate) others: usize,
    /// Memory of its maps, in MiB.
    pub(crate) maps: f64,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Program {
    kind: u32,
    /// What the verifier went through.
    pub(crate) verified: f64,
    pub(crate) seconds: f64,
    pub(crate) runs: f64,
}

impl Held {
    pub(crate) fn by(process: u32) -> anyhow::Result<Self> {
        let mut held = Self::default();
        let (mut links, mut maps) = (Vec::new(), BTreeMap::new());
        let files = fs::read_dir(format!("/proc/{process}/fdinfo")).context("list its files")?;
        for file in files.flatten() {
            let Ok(text) = fs::read_to_string(file.path()) else { continue };
            let value = |key: &str| field(&text, key);
            let id =
                |key: &str| text.lines().find_map(|it| it.strip_prefix(key)?.trim().parse().ok());
            if let (Some(program), Some(link)) = (id("prog_id:"), id("link_id:")) {
                links.push((link, program, id("attach_type:")));
            } else if let Some(program) = id("prog_id:") {
                let seconds = value("run_time_ns:").unwrap_or(0.0) / 1e9;
                let (kind, runs) =
                    (id("prog_type:").unwrap_or(0), value("run_cnt:").unwrap_or(0.0));
                let verified = value("verified_insns:").unwrap_or(f64::NAN);
                held.programs.insert(program, Program { kind, verified, seconds, runs });
            } else if let Some(map) = id("map_id:") {
                maps.insert(map, value("memlock:").unwrap_or(0.0));
            }
        }
        links.sort_unstable();
        links.dedup();
        for (_, program, hook) in links {
            match (held.programs.get(&program), hook) {
                (Some(program), Some(hook)) => held.hooks.push((program.kind, hook)),
                _ => held.others += 1,
            }
        }
        held.maps = maps.values().sum::<f64>() / f64::from(1 << 20);
        Ok(held)
    }

    /// Seconds and runs of each program since `before`.
    pub(crate) fn since(&self, before: &Self) -> BTreeMap<u32, Program> {
        let mut since = self.programs.clone();
        for (id, program) in &mut since {
            let earlier = before.programs.get(id).copied().unwrap_or_default();
            program.seconds -= earlier.seconds;
            program.runs -= earlier.runs;
        }
        since
    }
}

/// Name and instructions of every program that is loaded, by its id.
pub(crate) fn loaded(programs: &Path) -> anyhow::Result<BTreeMap<u32, (String, f64)>> {
    let output = Command::new(programs).arg("list").output().context("list the programs")?;
    if !output.status.success() {
        bail!("programs list: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let mut loaded = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let value: Value = serde_json::from_str(line).with_context(|| format!("{line:?}"))?;
        let id = value["id"].as_u64().and_then(|it| u32::try_from(it).ok());
        let name = value["name"].as_str().unwrap_or_default().to_owned();
        let instructions = value["instructions"].as_f64().unwrap_or(f64::NAN);
        loaded.insert(id.context("a program without an id")?, (name, instructions));
    }
    Ok(loaded)
}
