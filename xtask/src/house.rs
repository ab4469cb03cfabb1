//! The stage of demo and bench: a bridge with one network namespace for each service and one for all
//! the world, and one cgroup for each; and the agent that watches it. Takes down what an earlier one
//! that was killed left behind. What happens on it is not its business.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::interrupt::Interrupt;

/// Everything of ours carries this name.
const NAME: &str = "edgewatch-demo";

/// The room that dials.
pub(crate) const WEB: &str = "web";

/// The namespaces, their addresses, and the cgroup of each.
pub(crate) const ROOMS: &[Room] = &[
    Room { name: WEB, address: "10.77.0.10", cgroup: "shop-web.service" },
    Room { name: "api", address: "10.77.0.20", cgroup: "shop-api.service" },
    Room { name: "db", address: "10.77.0.30", cgroup: "shop-db.service" },
    Room { name: "world", address: "10.77.0.254", cgroup: "outside.scope" },
];

/// What the namespace `world` plays: the cloud's metadata service, somebody's server, a customer.
pub(crate) const METADATA: &str = "169.254.169.254";
pub(crate) const STRANGER: &str = "203.0.113.66";
pub(crate) const CUSTOMER: &str = "198.51.100.7";

pub(crate) struct Room {
    pub(crate) name: &'static str,
    pub(crate) address: &'static str,
    cgroup: &'static str,
}

/// The stage, standing.
pub(crate) struct House {
    pub(crate) at: PathBuf,
    slice: PathBuf,
    children: Mutex<Vec<Child>>,
}

impl House {
    /// Builds the stage, with its files under `at`.
    pub(crate) fn build(at: &Path) -> anyhow::Result<Self> {
        let root = cgroup_root()?;
        let house = Self {
            at: at.to_path_buf(),
            slice: root.join(format!("{NAME}.slice")),
            children: Mutex::new(Vec::new()),
        };
        house.sweep()?;
        house.raise().inspect_err(|_| drop(house.sweep()))?;
        Ok(house)
    }

    fn raise(&self) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.at)
            .with_context(|| format!("create {}", self.at.display()))?;
        let bridge = netns("bridge");
        ip(&["netns", "add", &bridge])?;
        inside(&bridge, &["link", "add", "br0", "type", "bridge"])?;
        inside(&bridge, &["link", "set", "br0", "up"])?;
        for room in ROOMS {
            let (space, port) = (netns(room.name), format!("p-{}", room.name));
            ip(&["netns", "add", &space])?;
            let peer = ["peer", "name", "eth0", "netns", &space];
            let link = ["link", "add", &port, "netns", &bridge, "type", "veth"];
            ip(&[&link[..], &peer[..]].concat())?;
            inside(&bridge, &["link", "set", &port, "master", "br0", "up"])?;
            inside(&space, &["link", "set", "lo", "up"])?;
            inside(&space, &["link", "set", "eth0", "up"])?;
            inside(&space, &["addr", "add", &format!("{}/24", room.address), "dev", "eth0"])?;
            if room.name == "world" {
                for address in [METADATA, STRANGER, CUSTOMER] {
                    inside(&space, &["addr", "add", &format!("{address}/32"), "dev", "lo"])?;
                }
            } else {
                inside(&space, &["route", "add", "default", "via", "10.77.0.254"])?;
            }
        }
        let node = self.node();
        std::fs::create_dir_all(&node).with_context(|| format!("create {}", node.display()))
    }

    /// The part of the hierarchy that plays the node: the outside is not in it.
    pub(crate) fn node(&self) -> PathBuf {
        self.slice.join("node.slice")
    }

    /// The part of a configuration that has it watch the node alone.
    pub(crate) fn capture(&self) -> String {
        format!("[capture]\npin = false\ncgroup = {:?}\n", self.node())
    }

    fn cgroup(&self, room: &Room) -> PathBuf {
        let outside = room.name == "world";
        if outside { self.slice.join(room.cgroup) } else { self.node().join(room.cgroup) }
    }

    /// A command that runs in a room: in its cgroup and its network namespace.
    pub(crate) fn command(&self, room: &str, program: &Path) -> anyhow::Result<Command> {
        let Some(room) = ROOMS.iter().find(|it| it.name == room) else { bail!("no room {room}") };
        self.command_as(room.name, &self.cgroup(room), program)
    }

    /// A command in a room's network namespace, as a service of the node with a cgroup of its own.
    pub(crate) fn service(
        &self,
        room: &str,
        service: &str,
        program: &Path,
    ) -> anyhow::Result<Command> {
        self.command_as(room, &self.node().join(service), program)
    }

    /// A command in a room's network namespace, and outside of the node.
    pub(crate) fn outside(&self, room: &str, program: &Path) -> anyhow::Result<Command> {
        self.command_as(room, &self.slice.join("outside.scope"), program)
    }

    /// The cgroup of a service of the node.
    pub(crate) fn service_cgroup(&self, service: &str) -> anyhow::Result<PathBuf> {
        let cgroup = self.node().join(service);
        std::fs::create_dir_all(&cgroup).with_context(|| format!("create {}", cgroup.display()))?;
        Ok(cgroup)
    }

    fn command_as(&self, room: &str, cgroup: &Path, program: &Path) -> anyhow::Result<Command> {
        std::fs::create_dir_all(cgroup).with_context(|| format!("create {}", cgroup.display()))?;
        let mut command = Command::new("bash");
        command
            .arg("-c")
            .arg("echo $$ > \"$0/cgroup.procs\" && exec nsenter \"--net=/run/netns/$1\" \"${@:2}\"")
            .arg(cgroup)
            .arg(netns(room))
            .arg(program)
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Starts a command that is ended with the house.
    pub(crate) fn start(&self, command: Command, log: &str) -> anyhow::Result<()> {
        let child = logged(command, &self.at.join(log))?;
        if let Ok(mut children) = self.children.lock() {
            children.push(child);
        }
        Ok(())
    }

    /// Ends every process, then removes what stood.
    pub(crate) fn take_down(self) -> anyhow::Result<()> {
        self.sweep()
    }

    fn sweep(&self) -> anyhow::Result<()> {
        if let Ok(mut children) = self.children.lock() {
            for child in children.iter_mut() {
                // Gone already is as good.
                drop(child.kill());
                drop(child.wait());
            }
            children.clear();
        }
        empty(&self.slice)?;
        for name in ROOMS.iter().map(|room| room.name).chain(["bridge"]) {
            if Path::new("/run/netns").join(netns(name)).exists() {
                ip(&["netns", "del", &netns(name)])?;
            }
        }
        Ok(())
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if let Err(error) = self.sweep() {
            eprintln!("{error:#}");
        }
    }
}

/// The program at work beside a house, and what it said; asked to end when dropped.
pub(crate) struct Running {
    child: Option<Child>,
    log: PathBuf,
}

impl Running {
    pub(crate) fn start(command: Command, log: PathBuf) -> anyhow::Result<Self> {
        Ok(Self { child: Some(logged(command, &log)?), log })
    }

    pub(crate) fn id(&self) -> anyhow::Result<u32> {
        self.child.as_ref().map(Child::id).context("it has ended")
    }

    /// Waits until it has said `word`. Looks often: how long it takes may be a figure.
    pub(crate) fn says(&mut self, word: &str, interrupt: &Interrupt) -> anyhow::Result<()> {
        let what = format!("{word:?} in {}", self.log.display());
        let said = || {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let ended = self.child.as_mut().map_or(Ok(None), Child::try_wait);
            match ended.context("look after it")? {
                Some(status) => bail!("it ended ({status}): {}", log.trim_end()),
                None => Ok(log.contains(word)),
            }
        };
        interrupt.until(&what, Duration::from_secs(60), Duration::from_millis(2), said)
    }

    /// Ends it in order: what it attached is gone after that.
    pub(crate) fn end(&mut self) -> anyhow::Result<()> {
        self.end_by("-TERM")
    }

    /// Ends it as Ctrl-C does.
    pub(crate) fn interrupt(&mut self) -> anyhow::Result<()> {
        self.end_by("-INT")
    }

    fn end_by(&mut self, signal: &str) -> anyhow::Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let id = child.id().to_string();
        Command::new("kill").args([signal, &id]).status().context("end it")?;
        child.wait().context("wait for its end").map(drop)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}

/// An agent that watches a house's node, with a state of its own, and how it is asked.
pub(crate) struct Agent {
    program: PathBuf,
    at: PathBuf,
    running: Option<Running>,
}

impl Agent {
    /// Lays out an agent called `name`, with nothing learned and with `lines` in its configuration;
    /// those after `[capture]` stand with what it watches.
    pub(crate) fn new(
        program: &Path,
        house: &House,
        name: &str,
        lines: &str,
    ) -> anyhow::Result<Self> {
        let (lines, capture) = lines.split_once("[capture]\n").unwrap_or((lines, ""));
        Self::beside(
            program,
            house.at.join(name),
            &format!("{lines}\n{}{capture}", house.capture()),
        )
    }

    /// Lays out an agent with its files at `at`, with nothing learned, and with that configuration.
    pub(crate) fn beside(program: &Path, at: PathBuf, config: &str) -> anyhow::Result<Self> {
        if at.exists() {
            std::fs::remove_dir_all(&at).with_context(|| format!("remove {}", at.display()))?;
        }
        std::fs::create_dir_all(&at).with_context(|| format!("create {}", at.display()))?;
        let agent = Self { program: program.to_owned(), at, running: None };
        agent.configure(config)?;
        Ok(agent)
    }

    /// Gives it another configuration, for its next start.
    pub(crate) fn configure(&self, config: &str) -> anyhow::Result<()> {
        let file = self.path("edgewatch.toml");
        std::fs::write(&file, config).with_context(|| format!("write {}", file.display()))
    }

    /// Starts it; how long until it was ready.
    pub(crate) fn start(&mut self, interrupt: &Interrupt) -> anyhow::Result<Duration> {
        let mut command = Command::new(&self.program);
        command.args(["run", "--config"]).arg(self.path("edgewatch.toml"));
        command.arg("--state-dir").arg(self.at.join("state"));
        command.arg("--socket").arg(self.socket());
        let started = Instant::now();
        let running = Running::start(command, self.at.join("agent.log"))?;
        // Kept also where it does not become ready, to be ended.
        self.running.insert(running).says("ready", interrupt)?;
        Ok(started.elapsed())
    }

    pub(crate) fn end(&mut self) -> anyhow::Result<()> {
        self.running.take().map_or(Ok(()), |mut it| it.end())
    }

    pub(crate) fn id(&self) -> anyhow::Result<u32> {
        self.running.as_ref().context("it was not started")?.id()
    }

    /// A place for what belongs to it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }

    fn socket(&self) -> PathBuf {
        self.at.join("edgewatch.sock")
    }

    /// What a verb prints.
    pub(crate) fn text(&self, words: &[&str]) -> anyhow::Result<String> {
        let mut verb = Command::new(&self.program);
        verb.args(words).arg("--socket").arg(self.socket()).stderr(Stdio::inherit());
        let output = verb.output().context("start edgewatch")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stdout);
            bail!("edgewatch {}: {}: {}", words.join(" "), output.status, said.trim_end());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Starts a command with all that it says in a file.
fn logged(mut command: Command, log: &Path) -> anyhow::Result<Child> {
    let file = std::fs::File::create(log).with_context(|| format!("create {}", log.display()))?;
    command
        .stdin(Stdio::null())
        .stdout(file.try_clone().context("share the log")?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("start {command:?}"))
}

/// Ends what runs in a cgroup and below it, and removes all of it.
pub(crate) fn empty(cgroup: &Path) -> anyhow::Result<()> {
    let Ok(below) = std::fs::read_dir(cgroup) else { return Ok(()) };
    for entry in below {
        let entry = entry.with_context(|| format!("read {}", cgroup.display()))?;
        if entry.path().is_dir() {
            empty(&entry.path())?;
        }
    }
    // `cgroup.kill` (5.14) ends exactly what is in this cgroup; before it, its processes by id.
    if std::fs::write(cgroup.join("cgroup.kill"), "1").is_err() {
        let inside = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        for pid in inside.split_whitespace() {
            drop(Command::new("kill").args(["-KILL", pid]).status());
        }
    }
    for _ in 0..100 {
        if std::fs::remove_dir(cgroup).is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("{} does not empty", cgroup.display())
}

fn netns(room: &str) -> String {
    format!("{NAME}-{room}")
}

fn inside(space: &str, words: &[&str]) -> anyhow::Result<()> {
    ip(&[&["-n", space], words].concat())
}

fn ip(words: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(words).output().context("start ip")?;
    if !output.status.success() {
        bail!("ip {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Where the version-2 hierarchy is mounted, also in the hybrid layout.
pub(crate) fn cgroup_root() -> anyhow::Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
    mounts
        .lines()
        .filter_map(|line| line.split_once(" - "))
        .filter(|(_, kind)| kind.starts_with("cgroup2 "))
        .find_map(|(mount, _)| mount.split(' ').nth(4))
        .map(PathBuf::from)
        .context("no cgroup v2 hierarchy is mounted")
}
