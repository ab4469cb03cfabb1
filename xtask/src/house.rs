//! The stage of demo and bench: a bridge with one network namespace for each service and one for all
//! the world, and one cgroup for each. Takes down what an earlier one that was killed left behind.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use anyhow::{Context as _, bail};

/// Everything of ours carries this name.
const NAME: &str = "edgewatch-demo";

/// The namespaces, their addresses, and the cgroup of each.
pub(crate) const ROOMS: &[Room] = &[
    Room { name: "web", address: "10.77.0.10", cgroup: "shop-web.service" },
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
    pub(crate) fn start(&self, mut command: Command, log: &str) -> anyhow::Result<()> {
        let path = self.at.join(log);
        let file =
            std::fs::File::create(&path).with_context(|| format!("create {}", path.display()))?;
        let child = command
            .stdout(file.try_clone().context("share the log")?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("start {command:?}"))?;
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

/// Ends what runs in a cgroup and below it, and removes all of it.
fn empty(cgroup: &Path) -> anyhow::Result<()> {
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
        std::thread::sleep(std::time::Duration::from_millis(50));
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
fn cgroup_root() -> anyhow::Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
    mounts
        .lines()
        .filter_map(|line| line.split_once(" - "))
        .filter(|(_, kind)| kind.starts_with("cgroup2 "))
        .find_map(|(mount, _)| mount.split(' ').nth(4))
        .map(PathBuf::from)
        .context("no cgroup v2 hierarchy is mounted")
}
