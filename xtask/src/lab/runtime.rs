//! A private Docker and its application. Everything of it is in one network namespace, one cgroup and
//! one directory; whatever an earlier one that was killed left there is taken down first. What is done
//! with it is not its business.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::house::{cgroup_root, empty};
use crate::interrupt::{Interrupt, PAUSE};
use crate::lab::parts::Parts;

/// Everything of ours carries this name.
const NAME: &str = "edgewatch-lab";

const WAIT: Duration = Duration::from_secs(60);

/// The runtime, at work.
pub(crate) struct Runtime {
    pub(crate) at: PathBuf,
    cgroup: PathBuf,
    parts: Parts,
    /// Of the application; another one is another rollout.
    image: &'static str,
    daemons: Vec<std::process::Child>,
    kept: bool,
}

/// Whether containers outlive the runtime.
#[derive(Clone, Copy)]
pub(crate) enum Containers {
    End,
    Live,
}

impl Runtime {
    /// Starts it, with the images loaded and nothing running.
    pub(crate) fn start(at: &Path, parts: Parts, interrupt: &Interrupt) -> anyhow::Result<Self> {
        let cgroup = cgroup_root()?.join(NAME);
        let (daemons, image) = (Vec::new(), "lab:1");
        let mut runtime = Self { at: at.to_path_buf(), cgroup, parts, image, daemons, kept: false };
        runtime.sweep()?;
        std::fs::create_dir_all(at).with_context(|| format!("create {}", at.display()))?;
        std::fs::create_dir_all(&runtime.cgroup).context("make the lab's cgroup")?;
        done(Command::new("ip").args(["netns", "add", NAME]))?;
        let forward = "ip link set lo up && echo 1 > /proc/sys/net/ipv4/ip_forward";
        done(runtime.inside("sh").args(["-c", forward]))?;
        runtime.write("shop.yaml", include_str!("shop.yaml"))?;
        runtime.start_containerd(interrupt)?;
        runtime.start_docker(Containers::End, interrupt)?;
        for image in ["lab:1", "lab:2"] {
            runtime.load(image)?;
        }
        Ok(runtime)
    }

    /// The part of the hierarchy that everything runs in.
    pub(crate) fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.at.join("docker.sock")
    }

    /// Runs a verb of `docker`; what it printed.
    pub(crate) fn docker(&self, words: &[&str]) -> anyhow::Result<String> {
        done(self.client("docker").args(words))
    }

    /// Runs a verb of `docker` that may fail.
    pub(crate) fn may_fail(&self, words: &[&str]) -> anyhow::Result<()> {
        let mut command = self.client("docker");
        command.args(words).stdout(Stdio::null()).stderr(Stdio::null());
        command.status().context("start docker").map(drop)
    }

    /// Runs a verb of `docker-compose` on the application.
    pub(crate) fn compose(&self, words: &[&str]) -> anyhow::Result<String> {
        let mut command = self.client("docker-compose");
        command.args(["-p", "shop", "-f"]).arg(self.at.join("shop.yaml"));
        command.env("LAB_IMAGE", self.image).args(words);
        done(&mut command)
    }

    /// From now on the application is made of that image.
    pub(crate) const fn roll_out(&mut self, image: &'static str) {
        self.image = image;
    }

    /// A field of what `docker inspect` says, as its template has it.
    pub(crate) fn field(&self, container: &str, template: &str) -> anyhow::Result<String> {
        Ok(self.docker(&["inspect", "-f", template, container])?.trim().to_owned())
    }

    pub(crate) fn address(&self, container: &str, network: &str) -> anyhow::Result<String> {
        let template = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
        self.field(container, &template)
    }

    fn client(&self, program: &str) -> Command {
        let mut command = Command::new("env");
        self.parts.lend(&mut command);
        command.arg(program).stdin(Stdio::null());
        command.env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        command.env("DOCKER_CONFIG", self.at.join("client"));
        command
    }

    /// A command in the lab's network namespace. `ip netns exec` would hide the cgroups from it.
    pub(crate) fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        self.parts.lend(&mut command);
        command.arg(format!("--net=/run/netns/{NAME}")).arg(program);
        command
    }

    fn start_containerd(&mut self, interrupt: &Interrupt) -> anyhow::Result<()> {
        let at = self.at.join("containerd");
        let dir = at.display();
        // Its usual place for what is added to it is the machine's.
        let config = format!(
            "version = 2\nroot = \"{dir}/root\"\nstate = \"{dir}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{dir}/containerd.sock\"\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{dir}/opt\"\n"
        );
        let config = self.write("containerd.toml", &config)?;
        let mut command = self.daemon("containerd.service")?;
        command.args(["containerd", "--config"]).arg(config);
        self.begin(command, "containerd.log")?;
        let socket = at.join("containerd.sock");
        interrupt.until("containerd's socket", WAIT, PAUSE, || Ok(socket.exists()))
    }

    /// Starts the runtime itself, and waits until it answers.
    pub(crate) fn start_docker(
        &mut self,
        containers: Containers,
        interrupt: &Interrupt,
    ) -> anyhow::Result<()> {
        let dir = self.at.display();
        let mut config = serde_json::json!({
            "hosts": [format!("unix://{}", self.socket().display())],
            "pidfile": format!("{dir}/dockerd.pid"),
            "data-root": format!("{dir}/data"),
            "exec-root": format!("{dir}/exec"),
            "containerd": format!("{dir}/containerd/containerd.sock"),
            "cgroup-parent": format!("/{NAME}/docker"),
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "bip": "10.91.0.1/24",
            // Nobody is there: names that it does not know itself nobody knows.
            "dns": ["192.0.2.53"],
            "live-restore": matches!(containers, Containers::Live),
        });
        if self.is_old()? {
            // Else it is written to /etc; others do not know this key any more.
            config["deprecated-key-path"] = format!("{dir}/key.json").into();
        }
        let config = self.write("docker.json", &config.to_string())?;
        let mut command = self.daemon("docker.service")?;
        command.args(["dockerd", "--config-file"]).arg(config);
        self.begin(command, "dockerd.log")?;
        let answers = || Ok(self.client("docker").arg("version").output()?.status.success());
        interrupt.until("Docker's answer", WAIT, PAUSE, answers)
    }

    /// Ends the runtime itself, in order.
    pub(crate) fn end_docker(&mut self) -> anyhow::Result<()> {
        let mut daemon = self.daemons.pop().context("Docker is not running")?;
        done(Command::new("kill").args(["-TERM", &daemon.id().to_string()]))?;
        daemon.wait().context("wait for dockerd").map(drop)
    }

    fn is_old(&self) -> anyhow::Result<bool> {
        let mut command = self.inside("dockerd");
        let version = done(command.arg("--version"))?;
        let major = version.split_whitespace().nth(2).and_then(|it| it.split('.').next());
        Ok(major.and_then(|it| it.parse::<u32>().ok()).is_some_and(|it| it < 23))
    }

    /// A command in a service's cgroup of the lab, and in its network namespace.
    fn daemon(&self, service: &str) -> anyhow::Result<Command> {
        let cgroup = self.cgroup.join("system.slice").join(service);
        std::fs::create_dir_all(&cgroup).with_context(|| format!("create {}", cgroup.display()))?;
        let mut command = Command::new("bash");
        self.parts.lend(&mut command);
        // A session of its own: Ctrl-C is for us.
        let script = "echo $$ > \"$0/cgroup.procs\" && exec setsid nsenter \"--net=/run/netns/$1\" \"${@:2}\"";
        command.args(["-c", script]).arg(cgroup).arg(NAME).stdin(Stdio::null());
        Ok(command)
    }

    fn begin(&mut self, mut command: Command, log: &str) -> anyhow::Result<()> {
        let log = self.at.join(log);
        let file = std::fs::File::options().create(true).append(true).open(&log);
        let file = file.with_context(|| format!("create {}", log.display()))?;
        command.stdout(file.try_clone().context("share the log")?).stderr(file);
        self.daemons.push(command.spawn().with_context(|| format!("start {command:?}"))?);
        Ok(())
    }

    /// Makes an image by hand, out of busybox and a page that names it.
    fn load(&self, image: &str) -> anyhow::Result<()> {
        let root = self.at.join("image");
        for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "www"] {
            std::fs::create_dir_all(root.join(dir)).context("lay out an image")?;
        }
        std::fs::copy(&self.parts.busybox, root.join("bin/busybox")).context("copy busybox")?;
        for applet in ["sh", "sleep", "wget", "timeout", "nslookup", "true"] {
            let link = root.join("bin").join(applet);
            if !link.is_symlink() {
                std::os::unix::fs::symlink("busybox", link).context("link to busybox")?;
            }
        }
        let serve = self.write("image/bin/serve", include_str!("serve"))?;
        done(Command::new("chmod").arg("755").arg(serve))?;
        self.write("image/www/index.html", image)?;
        let archive = self.at.join("image.tar");
        done(
            Command::new("tar")
                .args(["--owner=0", "--group=0", "-C"])
                .arg(root)
                .arg("-cf")
                .arg(&archive)
                .arg("."),
        )?;
        self.docker(&["import", "--change", "ENV PATH=/bin", &archive.to_string_lossy(), image])?;
        Ok(())
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.at.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// Leaves everything as it is, for the next one to take down.
    pub(crate) fn keep(mut self) {
        self.kept = true;
        println!("The lab is kept: docker -H unix://{} ps", self.socket().display());
    }

    /// Ends every process, then removes all that was made, but for the logs.
    pub(crate) fn take_down(mut self) -> anyhow::Result<()> {
        self.kept = true;
        self.sweep()
    }

    fn sweep(&mut self) -> anyhow::Result<()> {
        // The runtime first: it would start what ends.
        empty(&self.cgroup.join("system.slice"))?;
        empty(&self.cgroup)?;
        for mut daemon in self.daemons.drain(..) {
            drop(daemon.wait());
        }
        let (at, mounts) = (format!("{}/", self.at.display()), mounts()?);
        for point in mounts.iter().rev().filter(|it| it.starts_with(&at)) {
            done(Command::new("umount").args(["--lazy", point]))?;
        }
        if Path::new("/run/netns").join(NAME).exists() {
            done(Command::new("ip").args(["netns", "del", NAME]))?;
        }
        // In the hybrid layout containers are in every hierarchy of version 1 as well.
        for entry in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            empty(&entry.path().join(NAME))?;
        }
        self.forget_shims();
        remove(&self.at)
    }

    /// Shims that were killed leave their sockets behind, outside of our directory.
    fn forget_shims(&self) {
        let tasks = self.at.join("containerd/state/io.containerd.runtime.v2.task/moby");
        for task in std::fs::read_dir(tasks).into_iter().flatten().flatten() {
            let address = std::fs::read_to_string(task.path().join("address")).unwrap_or_default();
            if let Some(socket) = address.trim().strip_prefix("unix://") {
                // Gone already is as good.
                drop(std::fs::remove_file(socket));
            }
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = self.sweep()
        {
            eprintln!("{error:#}");
        }
    }
}

/// Where something is mounted, in the order in which it was.
fn mounts() -> anyhow::Result<Vec<String>> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("read mountinfo")?;
    Ok(mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect())
}

/// Removes a directory but for the logs in it.
fn remove(at: &Path) -> anyhow::Result<()> {
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

/// Runs a command that must not fail; what it printed.
pub(crate) fn done(command: &mut Command) -> anyhow::Result<String> {
    let Output { status, stdout, stderr } =
        command.output().with_context(|| format!("start {command:?}"))?;
    if !status.success() {
        bail!("{command:?}: {status}: {}", String::from_utf8_lossy(&stderr).trim());
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}
