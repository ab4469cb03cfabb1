//! Where the cluster stands: a network namespace for the control plane, one for each node, one for each
//! pod, with the addresses that the API tells of them, and cgroups as a kubelet lays them out. What
//! kube-proxy does is done by nftables. An earlier one that was killed is taken down first.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::Context as _;

use crate::house::{cgroup_root, empty};
use crate::lab::command::{done, fed};
use crate::lab::ground::remove;
use crate::lab::parts::Parts;

/// Everything of ours carries this name.
const NAME: &str = "edgewatch-kube";

/// The control plane's, and the nodes': the first one is watched.
pub(crate) const CONTROL: &str = "192.168.92.10";
pub(crate) const NODES: [Node; 2] = [
    Node { name: "node-1", address: "192.168.92.11", third: 1 },
    Node { name: "node-2", address: "192.168.92.12", third: 2 },
];
/// Of no node and of no pod: something that has been there for long.
pub(crate) const LEGACY: &str = "192.168.92.50";

/// In rules, the address of whoever is to follow them.
pub(crate) const THIS_NODE: &str = "@NODE@";

/// A machine of the cluster.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) name: &'static str,
    pub(crate) address: &'static str,
    /// Its pods' network is `10.244.THIRD.0/24`.
    pub(crate) third: u8,
}

/// Where a process runs.
pub(crate) struct Place<'a> {
    /// The network namespace, of a pod or of a node.
    pub(crate) net: &'a str,
    /// Below its node's.
    pub(crate) cgroup: &'a str,
    pub(crate) node: &'a Node,
}

pub(crate) struct Ground {
    pub(crate) at: PathBuf,
    pub(crate) parts: Parts,
    root: PathBuf,
    children: Vec<Child>,
    /// Numbers the pods' links.
    links: u32,
    kept: bool,
}

impl Ground {
    pub(crate) fn build(at: &Path, parts: Parts) -> anyhow::Result<Self> {
        let (at, root) = (at.to_path_buf(), cgroup_root()?);
        let mut ground = Self { at, parts, root, children: Vec::new(), links: 0, kept: false };
        ground.sweep()?;
        // With the logs of the lab before it, which are read as this one's else.
        drop(std::fs::remove_dir_all(&ground.at));
        std::fs::create_dir_all(&ground.at)
            .with_context(|| format!("create {}", ground.at.display()))?;
        ground.raise()?;
        Ok(ground)
    }

    fn raise(&self) -> anyhow::Result<()> {
        self.make_net("wire")?;
        self.ip("wire", &["link add br0 type bridge", "link set br0 up"])?;
        let ends = NODES.iter().map(|it| (it.name, it.address));
        for (net, address) in ends.chain([("control", CONTROL)]) {
            self.make_net(net)?;
            let link = format!("link add p-{net} type veth peer name eth0 netns {}", self.net(net));
            let joins = [&*link, &format!("link set p-{net} master br0 up")];
            self.ip("wire", &joins)?;
            self.ip(net, &[&format!("addr add {address}/24 dev eth0"), "link set eth0 up"])?;
            self.forwards(net)?;
        }
        for node in &NODES {
            let gateway = format!("addr add 10.244.{}.1/24 dev cni0", node.third);
            self.ip(node.name, &["link add cni0 type bridge", &gateway, "link set cni0 up"])?;
            for other in NODES.iter().filter(|it| *it != node) {
                let route = format!("route add 10.244.{}.0/24 via {}", other.third, other.address);
                self.ip(node.name, &[&route])?;
            }
            // Addresses of Services have no link: somebody has to be asked for them.
            self.ip(node.name, &[&format!("route add default via {CONTROL}")])?;
            std::fs::create_dir_all(self.cgroup(node)).context("make a node's cgroup")?;
        }
        self.ip("node-2", &[&format!("addr add {LEGACY}/24 dev eth0")])?;
        for node in &NODES {
            self.ip(
                "control",
                &[&format!("route add 10.244.{}.0/24 via {}", node.third, node.address)],
            )?;
        }
        Ok(())
    }

    fn forwards(&self, net: &str) -> anyhow::Result<()> {
        let mut command = self.inside(net, "sh");
        done(command.args([
            "-c",
            "cd /proc/sys/net/ipv4 && echo 1 > ip_forward && echo 0 > conf/all/send_redirects",
        ]))
        .map(drop)
    }

    /// The part of the hierarchy that plays a node; each stands at the top, as a machine's own does.
    pub(crate) fn cgroup(&self, node: &Node) -> PathBuf {
        self.root.join(format!("{NAME}-{}", node.name))
    }

    fn net(&self, name: &str) -> String {
        format!("{NAME}-{name}")
    }

    fn make_net(&self, name: &str) -> anyhow::Result<()> {
        done(Command::new("ip").args(["netns", "add", &self.net(name)]))?;
        self.ip(name, &["link set lo up"])
    }

    /// Gives a pod its namespace, with that address of its node's.
    pub(crate) fn add_pod(&mut self, name: &str, node: &Node, address: &str) -> anyhow::Result<()> {
        self.links += 1;
        let link = format!("pod{}", self.links);
        self.make_net(name)?;
        let add = format!("link add {link} type veth peer name eth0 netns {}", self.net(name));
        self.ip(node.name, &[&add, &format!("link set {link} master cni0 up")])?;
        // Nobody is on its link but the node: what comes back from a Service goes through it, too.
        let gateway = format!("10.244.{}.1", node.third);
        let own = [
            &*format!("addr add {address}/32 dev eth0"),
            "link set eth0 up",
            &format!("route add {gateway} dev eth0"),
            &format!("route add default via {gateway}"),
        ];
        self.ip(name, &own)
    }

    pub(crate) fn remove_pod(&self, name: &str) -> anyhow::Result<()> {
        done(Command::new("ip").args(["netns", "del", &self.net(name)])).map(drop)
    }

    /// Runs `words` at a place, until they end.
    pub(crate) fn start(&mut self, place: &Place<'_>, words: &[&str]) -> anyhow::Result<()> {
        let cgroup = self.cgroup(place.node).join(place.cgroup);
        let command = self.at_place(&cgroup, place.net, words)?;
        self.begin(command, "pods.log").map(drop)
    }

    /// Ends all that runs in a cgroup of a node, and removes it.
    pub(crate) fn end(&self, node: &Node, cgroup: &str) -> anyhow::Result<()> {
        empty(&self.cgroup(node).join(cgroup))
    }

    /// Starts a process of the control plane: on no node.
    pub(crate) fn control(&mut self, service: &str, words: &[&str]) -> anyhow::Result<u32> {
        let cgroup = self.root.join(format!("{NAME}-control")).join(service);
        let command = self.at_place(&cgroup, "control", words)?;
        self.begin(command, &format!("{service}.log"))
    }

    fn at_place(&self, cgroup: &Path, net: &str, words: &[&str]) -> anyhow::Result<Command> {
        std::fs::create_dir_all(cgroup).with_context(|| format!("create {}", cgroup.display()))?;
        let mut command = Command::new("bash");
        self.parts.lend(&mut command);
        // A session of its own: Ctrl-C is for us.
        let script = "echo $$ > \"$0/cgroup.procs\" && exec setsid nsenter \"--net=/run/netns/$1\" \"${@:2}\"";
        command
            .args(["-c", script])
            .arg(cgroup)
            .arg(self.net(net))
            .args(words)
            .stdin(Stdio::null());
        Ok(command)
    }

    fn begin(&mut self, mut command: Command, log: &str) -> anyhow::Result<u32> {
        let log = self.at.join(log);
        let file = std::fs::File::options().create(true).append(true).open(&log);
        let file = file.with_context(|| format!("create {}", log.display()))?;
        command.stdout(file.try_clone().context("share the log")?).stderr(file);
        let child = command.spawn().with_context(|| format!("start {command:?}"))?;
        let id = child.id();
        self.children.push(child);
        Ok(id)
    }

    /// Ends a process of the control plane at once: in order, it would wait for those who watch.
    pub(crate) fn finish(&mut self, process: u32) -> anyhow::Result<()> {
        let Some(index) = self.children.iter().position(|it| it.id() == process) else {
            return Ok(());
        };
        let mut child = self.children.swap_remove(index);
        // Gone already is as good.
        drop(child.kill());
        child.wait().context("wait for its end").map(drop)
    }

    /// Takes note of those that have ended.
    pub(crate) fn reap(&mut self) {
        self.children.retain_mut(|it| matches!(it.try_wait(), Ok(None)));
    }

    /// A command in a network namespace of ours.
    pub(crate) fn inside(&self, net: &str, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        self.parts.lend(&mut command);
        command.arg(format!("--net=/run/netns/{}", self.net(net))).arg(program);
        command
    }

    /// Lays out what every pod runs.
    pub(crate) fn lay_script(&self) -> anyhow::Result<()> {
        std::fs::write(self.at.join("serve"), include_str!("serve")).context("write what pods run")
    }

    /// A program that runs on the first node, in its network, under the same words.
    pub(crate) fn on_node(&self, program: &Path) -> anyhow::Result<PathBuf> {
        let (at, net) = (self.at.join("edgewatch"), self.net(NODES[0].name));
        let program = std::path::absolute(program).context("find the program")?;
        let script = format!(
            "#!/bin/sh\nexec nsenter --net=/run/netns/{net} {:?} \"$@\"\n",
            program.display().to_string()
        );
        std::fs::write(&at, script).with_context(|| format!("write {}", at.display()))?;
        done(Command::new("chmod").arg("755").arg(&at))?;
        Ok(at)
    }

    /// What kube-proxy would write on every node.
    pub(crate) fn translate(&self, rules: &str) -> anyhow::Result<()> {
        let table = format!(
            "table ip edgewatch\ndelete table ip edgewatch\ntable ip edgewatch {{\n\
             chain services {{\n{rules}}}\n\
             chain pre {{ type nat hook prerouting priority -100; policy accept; jump services; }}\n\
             chain out {{ type nat hook output priority -100; policy accept; jump services; }}\n\
             chain post {{ type nat hook postrouting priority 100; policy accept;\n\
             meta mark 0x4000 masquerade\n}}\n}}\n"
        );
        for node in &NODES {
            let mut command = self.inside(node.name, "nft");
            fed(command.args(["-f", "-"]), &table.replace(THIS_NODE, node.address))?;
        }
        Ok(())
    }

    fn ip(&self, net: &str, lines: &[&str]) -> anyhow::Result<()> {
        let net = self.net(net);
        fed(Command::new("ip").args(["-n", &net, "-batch", "-"]), &(lines.join("\n") + "\n"))
            .map(drop)
    }

    /// Leaves everything as it is, for the next one to take down.
    pub(crate) fn keep(mut self) {
        self.kept = true;
    }

    pub(crate) fn take_down(mut self) -> anyhow::Result<()> {
        self.kept = true;
        self.sweep()
    }

    fn sweep(&mut self) -> anyhow::Result<()> {
        for part in NODES.iter().map(|it| it.name).chain(["control"]) {
            empty(&self.root.join(format!("{NAME}-{part}")))?;
        }
        for mut child in self.children.drain(..) {
            drop(child.wait());
        }
        for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&format!("{NAME}-")) {
                done(Command::new("ip").args(["netns", "del", &name]))?;
            }
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
