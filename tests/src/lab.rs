//! A place of one's own on this machine: a slice of cgroups named like systemd's, network
//! namespaces, a directory. Several exist at once, in one test process or in many.

use std::cell::RefCell;
use std::fs;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use crate::process::{copy_program, finish};
use crate::waiting::eventually;

/// How many labs this process has made.
static NUMBER: AtomicU16 = AtomicU16::new(0);

/// The first `ip netns add` of a machine prepares a directory, and two at once collide there.
static NETNS: Mutex<()> = Mutex::new(());

/// The place; gone when dropped, with every process in it.
#[derive(Debug)]
pub struct Lab {
    peer: PathBuf,
    /// Unique on this machine.
    tag: String,
    number: u16,
    /// The root of the version-2 hierarchy.
    root: PathBuf,
    slice: PathBuf,
    dir: tempfile::TempDir,
    namespaces: RefCell<Vec<String>>,
}

/// A cgroup that looks like a systemd service's.
#[derive(Debug, Clone)]
pub struct Service {
    /// As the agent is to name it.
    pub name: String,
    pub cgroup: PathBuf,
}

/// A network namespace and its addresses.
#[derive(Debug, Clone)]
pub struct Namespace {
    pub name: String,
    pub v4: IpAddr,
    pub v6: IpAddr,
}

/// Two namespaces joined by a wire.
#[derive(Debug)]
pub struct Wire {
    pub client: Namespace,
    pub server: Namespace,
}

impl Lab {
    /// Makes a lab whose traffic is the program `peer`.
    #[track_caller]
    #[must_use]
    pub fn new(peer: &str) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests make cgroups and network namespaces and load kernel programs: run them as root"
        );
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let tag = format!("{}-{number}", std::process::id());
        let root = unified_root(&read("/proc/self/mountinfo"));
        let slice = root.join(format!("ewtest-{tag}.slice"));
        make_dir(&slice);
        let dir = match tempfile::Builder::new().prefix("edgewatch-test-").tempdir() {
            Ok(dir) => dir,
            Err(error) => panic!("make a temporary directory: {error}"),
        };
        // Some of what runs here is not root.
        let readable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(dir.path(), readable).expect("it is ours");
        let namespaces = RefCell::default();
        Self { peer: PathBuf::from(peer), tag, number, root, slice, dir, namespaces }
    }

    /// The program that makes traffic.
    #[must_use]
    pub fn peer(&self) -> &Path {
        &self.peer
    }

    /// A path in the lab's own directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Copies a program into the lab's directory.
    #[track_caller]
    #[must_use]
    pub fn copied(&self, program: &Path, name: &str) -> PathBuf {
        let copy = self.path(name);
        copy_program(program, &copy);
        copy
    }

    /// The number that keeps what is ours apart, below 256 here.
    #[must_use]
    pub fn octet(&self) -> u8 {
        (self.number % 256).to_le_bytes()[0]
    }

    /// The mount point of the version-2 hierarchy.
    #[must_use]
    pub fn cgroup_root(&self) -> &Path {
        &self.root
    }

    /// Matches the names of all services of this lab and no other.
    #[must_use]
    pub fn pattern(&self) -> String {
        format!("systemd:*-{}.service", self.tag)
    }

    /// Whether a name is that of another lab's service.
    #[must_use]
    pub fn is_anothers(&self, name: &str) -> bool {
        let ours = format!("-{}.service", self.tag);
        name.starts_with("systemd:") && !name.ends_with(&ours)
    }

    /// Unique on this machine: what the lab's services have in their names.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// The cgroup that all services of the lab are in.
    #[must_use]
    pub fn slice(&self) -> &Path {
        &self.slice
    }

    /// Makes the cgroup of a service.
    #[track_caller]
    #[must_use]
    pub fn service(&self, name: &str) -> Service {
        let service = self.planned(name);
        make_dir(&service.cgroup);
        service
    }

    /// A service whose cgroup is still to be made.
    #[must_use]
    pub fn planned(&self, name: &str) -> Service {
        let unit = format!("{name}-{}.service", self.tag);
        Service { name: format!("systemd:{unit}"), cgroup: self.slice.join(unit) }
    }

    /// A namespace with nothing but loopback.
    #[track_caller]
    #[must_use]
    pub fn alone(&self) -> Namespace {
        let name = self.namespace("alone");
        batch(&name, "link set lo up");
        Namespace { name, v4: Ipv4Addr::LOCALHOST.into(), v6: Ipv6Addr::LOCALHOST.into() }
    }

    /// A namespace with nothing at all: its loopback is down.
    #[track_caller]
    #[must_use]
    pub fn cut_off(&self) -> Namespace {
        let name = self.namespace("cut-off");
        Namespace { name, v4: Ipv4Addr::LOCALHOST.into(), v6: Ipv6Addr::LOCALHOST.into() }
    }

    /// A namespace that reaches nobody: what is sent into [`VOID`] and [`VOID6`] is silence, and every
    /// address of [`CROWD`] is its own.
    #[track_caller]
    #[must_use]
    pub fn void(&self) -> Namespace {
        let name = self.namespace("void");
        let (v4, v6) =
            (Ipv4Addr::new(10, 201, 0, 1), Ipv6Addr::new(0xfd00, 0xe5, 0, 0, 0, 0, 0, 1));
        // What loopback hands back and is nobody's is not forwarded.
        batch(
            &name,
            &format!(
                "link set lo up\naddr add {v4}/32 dev lo\naddr add {v6}/128 dev lo nodad\n\
                 route add {VOID} dev lo src {v4}\nroute add {VOID6} dev lo\n\
                 route add local {CROWD} dev lo\n"
            ),
        );
        Namespace { name, v4: v4.into(), v6: v6.into() }
    }

    /// Two namespaces that reach each other by IPv4 and IPv6, and nobody else.
    #[track_caller]
    #[must_use]
    pub fn wire(&self) -> Wire {
        let client = self.end("client", 1);
        let server = self.end("server", 2);
        batch(
            &client.name,
            &format!("link add wire type veth peer name wire netns {}", server.name),
        );
        for end in [&client, &server] {
            let Namespace { name, v4, v6 } = end;
            let up = format!(
                "link set lo up\naddr add {v4}/24 dev wire\naddr add {v6}/64 dev wire nodad\nlink set wire up\n"
            );
            batch(name, &up);
        }
        // Addresses nobody owns, beyond the server, which forwards nothing: silence.
        batch(&client.name, &format!("route add {SILENCE}/24 via {}", server.v4));
        for end in [&client, &server] {
            carries(&end.name);
        }
        Wire { client, server }
    }

    fn end(&self, name: &str, host: u8) -> Namespace {
        let name = self.namespace(name);
        let [low, high] = (std::process::id() % 0x3fff).to_le_bytes()[..2].try_into().expect("two");
        let v4 = Ipv4Addr::new(10, 64 + high, low, host.wrapping_add(self.octet().wrapping_mul(4)));
        let v6 = Ipv6Addr::new(
            0xfd00,
            0xe4,
            u16::from_be_bytes([high, low]),
            self.number,
            0,
            0,
            0,
            host.into(),
        );
        Namespace { name, v4: v4.into(), v6: v6.into() }
    }

    #[track_caller]
    fn namespace(&self, name: &str) -> String {
        let name = format!("ewtest-{}-{name}", self.tag);
        let _one_at_a_time = NETNS.lock();
        finish(Command::new("ip").args(["netns", "add", &name])).done();
        self.namespaces.borrow_mut().push(name.clone());
        name
    }

    /// A command inside a service's cgroup, and in a namespace where one is given.
    #[must_use]
    pub fn command(
        &self,
        service: &Service,
        namespace: Option<&Namespace>,
        program: &Path,
    ) -> Command {
        let mut command = Command::new(&self.peer);
        command.arg("enter").arg("--cgroup").arg(&service.cgroup);
        if let Some(namespace) = namespace {
            command.args(["--netns", &namespace.name]);
        }
        command.arg("--").arg(program);
        command
    }
}

impl Namespace {
    /// Sets one of the namespace's own `net.` settings.
    #[track_caller]
    pub fn set(&self, setting: &str, value: &str) {
        self.run(&format!("echo {value} > /proc/sys/net/{setting}"));
    }

    /// What the namespace has counted under a name of `/proc/net/netstat`.
    #[track_caller]
    #[must_use]
    pub fn counted(&self, name: &str) -> u64 {
        let text = self.run("cat /proc/net/netstat");
        let lines: Vec<Vec<&str>> = text.lines().map(|it| it.split(' ').collect()).collect();
        let found = lines.chunks(2).find_map(|pair| {
            let at = pair[0].iter().position(|it| *it == name)?;
            pair.get(1)?.get(at)?.parse().ok()
        });
        found.unwrap_or_else(|| panic!("this kernel does not count {name}"))
    }

    /// Has `ip` do something here.
    #[track_caller]
    pub fn ip(&self, words: &str) {
        batch(&self.name, words);
    }

    /// What a shell in the namespace prints.
    #[track_caller]
    pub fn run(&self, script: &str) -> String {
        let net = format!("--net=/run/netns/{}", self.name);
        finish(Command::new("nsenter").args([&net, "sh", "-c", script])).done()
    }
}

/// Addresses from which nothing comes back to who is in a [`Lab::void`].
pub const VOID: &str = "100.64.0.0/10";
pub const VOID6: &str = "fd00:f100::/97";
/// Addresses that are all of a [`Lab::void`]'s own.
pub const CROWD: &str = "10.200.0.0/16";

/// Addresses behind the server's end of a [`Wire`] from which nothing ever comes back.
pub const SILENCE: Ipv4Addr = Ipv4Addr::new(10, 63, 255, 0);

impl Drop for Lab {
    fn drop(&mut self) {
        // Where something cannot be removed, the next run has other names.
        drop(fs::write(self.slice.join("cgroup.kill"), "1"));
        for namespace in self.namespaces.borrow().iter() {
            drop(Command::new("ip").args(["netns", "del", namespace]).status());
        }
        let cleared = |slice: &Path| remove_tree(slice).map_err(|error| error.to_string());
        if std::thread::panicking() {
            drop(cleared(&self.slice));
        } else {
            let what = format!("the removal of {}", self.slice.display());
            eventually(Duration::from_secs(10), &what, || cleared(&self.slice));
        }
    }
}

/// Removes a cgroup and all below it.
fn remove_tree(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

/// Where the version-2 hierarchy is mounted, by the text of `/proc/self/mountinfo`.
#[track_caller]
fn unified_root(mounts: &str) -> PathBuf {
    let root = mounts.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        source.starts_with("cgroup2 ").then(|| mount.split(' ').nth(4))?
    });
    match root {
        Some(root) => PathBuf::from(root),
        None => panic!("no cgroup version 2 is mounted: these tests need one"),
    }
}

#[track_caller]
fn batch(namespace: &str, lines: &str) {
    let mut ip = Command::new("ip");
    ip.args(["-n", namespace, "-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match ip.spawn() {
        Ok(child) => child,
        Err(error) => panic!("start ip, of the package iproute2: {error}"),
    };
    if let Some(mut stdin) = child.stdin.take() {
        // Where it does not read, it says why below.
        drop(stdin.write_all(lines.as_bytes()));
    }
    let output = child.wait_with_output().expect("it was started");
    assert!(output.status.success(), "ip: {}", String::from_utf8_lossy(&output.stderr));
}

/// Waits until the wire's end in `namespace` carries: the kernel notices that some time after both
/// ends were set up, and what is sent by IPv6 before is sent again a second later.
#[track_caller]
fn carries(namespace: &str) {
    eventually(Duration::from_secs(10), "the wire carries", || {
        let mut ip = Command::new("ip");
        let said = finish(ip.args(["-n", namespace, "-oneline", "link", "show", "wire"])).done();
        if said.contains(" state UP ") { Ok(()) } else { Err(said) }
    });
}

#[track_caller]
fn make_dir(path: &Path) {
    if let Err(error) = fs::create_dir(path) {
        panic!("make {}: {error}", path.display());
    }
}

#[track_caller]
fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("read {path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_is_found_in_the_hybrid_and_the_plain_layout() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw shared:4 - cgroup2 cgroup2 rw\n";
        assert_eq!(unified_root(hybrid), Path::new("/sys/fs/cgroup/unified"));
        let plain = "31 23 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(unified_root(plain), Path::new("/sys/fs/cgroup"));
    }
}
