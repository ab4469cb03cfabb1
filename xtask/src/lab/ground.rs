//! The private ground that a runtime stands on: a network namespace, a mount namespace, a cgroup and a
//! directory. Whatever an earlier one that was killed left there is taken down first. What stands on it
//! is not its business.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;

use crate::house::{cgroup_root, empty};
use crate::interrupt::{Interrupt, PAUSE};
use crate::lab::command::done;
use crate::lab::parts::Parts;

const WAIT: Duration = Duration::from_secs(60);

/// Prepares the mount namespace: what runtimes keep outside of the directories that they are told is
/// theirs alone, and gone with it. The lab's own directory stays where it is.
const ROOM: &str = "\
    exec 9< \"$0\" && for at in /run /var/lib /dev/shm; do mount -t tmpfs tmpfs \"$at\"; done && \
    mkdir -p /var/lib/cni && if [ ! -d \"$0\" ]; then mkdir -p \"$0\" && mount --bind /proc/self/fd/9 \"$0\"; fi && \
    exec 9<&- && touch \"$0/room\" && exec sleep infinity";

/// Puts a command into a cgroup and into the namespaces; in a session of its own, for Ctrl-C is for us.
const ENTER: &str = "echo $$ > \"$0/cgroup.procs\" && exec setsid nsenter \"$1\" \"$2\" \"${@:3}\"";

/// The ground, laid.
pub(crate) struct Ground {
    /// Everything of it carries this name.
    pub(crate) name: String,
    pub(crate) at: PathBuf,
    pub(crate) parts: Parts,
    pub(crate) interrupt: Interrupt,
    cgroup: PathBuf,
    /// Holds the mount namespace.
    room: Option<Child>,
    daemons: BTreeMap<&'static str, Child>,
    kept: bool,
}

impl Ground {
    /// Lays the ground of that target, with its files at `at`.
    pub(crate) fn lay(
        target: &str,
        at: &Path,
        parts: Parts,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Self> {
        let name = format!("edgewatch-lab-{target}");
        let mut ground = Self {
            at: at.to_path_buf(),
            parts,
            interrupt: interrupt.clone(),
            cgroup: cgroup_root()?.join(&name),
            name,
            room: None,
            daemons: BTreeMap::new(),
            kept: false,
        };
        ground.sweep()?;
        std::fs::create_dir_all(at).with_context(|| format!("create {}", at.display()))?;
        done(Command::new("ip").args(["netns", "add", &ground.name]))?;
        let cgroup = ground.cgroup_of("room")?;
        let mut room = Command::new("bash");
        let script = "echo $$ > \"$0/cgroup.procs\" && exec setsid unshare --mount --propagation private sh -c \"$1\" \"$2\"";
        room.args(["-c", script]).arg(cgroup).arg(ROOM).arg(at);
        // Kept, it is not to keep whoever reads what we say.
        let log = File::create(at.join("room.log")).context("create a log")?;
        room.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        ground.room = Some(room.spawn().context("start a process in a mount namespace")?);
        let ready = at.join("room");
        ground.until("a mount namespace", || Ok(ready.exists()))?;
        let forward = "ip link set lo up && echo 1 > /proc/sys/net/ipv4/ip_forward";
        done(ground.inside("sh")?.args(["-c", forward]))?;
        Ok(ground)
    }

    /// The part of the hierarchy that everything runs in.
    pub(crate) fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    fn cgroup_of(&self, service: &str) -> anyhow::Result<PathBuf> {
        let cgroup = self.cgroup.join(service);
        std::fs::create_dir_all(&cgroup).with_context(|| format!("create {}", cgroup.display()))?;
        Ok(cgroup)
    }

    /// A command that finds the runtime's programs, and is in no namespace.
    pub(crate) fn client(&self, program: &str) -> Command {
        let mut command = Command::new("env");
        self.parts.lend(&mut command);
        command.arg(program).stdin(Stdio::null());
        command
    }

    /// A command in the namespaces. `ip netns exec` would hide the cgroups from it.
    pub(crate) fn inside(&self, program: &str) -> anyhow::Result<Command> {
        let mut command = Command::new("nsenter");
        self.parts.lend(&mut command);
        command.args(self.namespaces()?).arg(program).stdin(Stdio::null());
        Ok(command)
    }

    /// A command in the namespaces, and in that cgroup of the lab.
    pub(crate) fn inside_of(&self, cgroup: &str) -> anyhow::Result<Command> {
        let cgroup = self.cgroup_of(cgroup)?;
        let mut command = Command::new("bash");
        self.parts.lend(&mut command);
        command.args(["-c", ENTER]).arg(cgroup).args(self.namespaces()?).stdin(Stdio::null());
        Ok(command)
    }

    fn namespaces(&self) -> anyhow::Result<[String; 2]> {
        let room = self.room.as_ref().context("the lab has no mount namespace")?.id();
        Ok([format!("--net=/run/netns/{}", self.name), format!("--mount=/proc/{room}/ns/mnt")])
    }

    /// Starts a command that is ended with the lab, with what it says in a log of its name.
    pub(crate) fn begin(&mut self, name: &'static str, mut command: Command) -> anyhow::Result<()> {
        let log = self.at.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log);
        let file = file.with_context(|| format!("create {}", log.display()))?;
        command.stdout(file.try_clone().context("share the log")?).stderr(file);
        let child = command.spawn().with_context(|| format!("start {command:?}"))?;
        self.daemons.insert(name, child);
        Ok(())
    }

    /// Ends what was begun under that name, in order.
    pub(crate) fn end(&mut self, name: &str) -> anyhow::Result<()> {
        let mut daemon =
            self.daemons.remove(name).with_context(|| format!("{name} was not started"))?;
        done(Command::new("kill").args(["-TERM", &daemon.id().to_string()]))?;
        daemon.wait().with_context(|| format!("wait for the end of {name}")).map(drop)
    }

    /// Waits until `ready`.
    pub(crate) fn until(
        &self,
        what: &str,
        ready: impl FnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let waited = self.interrupt.until(what, WAIT, PAUSE, ready);
        waited.with_context(|| format!("its logs are in {}", self.at.display()))
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.at.join(name);
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        }
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// Leaves everything as it is, for the next one to take down.
    pub(crate) fn keep(&mut self) {
        self.kept = true;
    }

    /// Ends every process, then removes all that was made, but for the logs.
    pub(crate) fn take_down(&mut self) -> anyhow::Result<()> {
        self.kept = true;
        self.sweep()
    }

    fn sweep(&mut self) -> anyhow::Result<()> {
        // All at once (5.14), else the runtime first: it would start what ends.
        drop(std::fs::write(self.cgroup.join("cgroup.kill"), "1"));
        for first in ["init.scope", "system.slice", ""] {
            empty(&self.cgroup.join(first))?;
        }
        for mut child in std::mem::take(&mut self.daemons).into_values().chain(self.room.take()) {
            drop(child.wait());
        }
        if Path::new("/run/netns").join(&self.name).exists() {
            done(Command::new("ip").args(["netns", "del", &self.name]))?;
        }
        // In the hybrid layout containers are in every hierarchy of version 1 as well.
        for entry in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            empty(&entry.path().join(&self.name))?;
        }
        remove(&self.at)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = self.sweep()
        {
            eprintln!("{error:#}");
        }
    }
}

/// Removes a directory but for the logs in it.
pub(crate) fn remove(at: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(at).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|it| it == "log") {
            continue;
        }
        let removed = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        removed.with_context(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}
