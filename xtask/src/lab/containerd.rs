//! A containerd that is asked as a kubelet asks it, and the application as pods of two Deployments and a
//! StatefulSet. A file that all pods share says where each service is: there is no cluster that would.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::lab::command::done;
use crate::lab::cri::Cri;
use crate::lab::ground::Ground;
use crate::lab::image::{self, IMAGES};
use crate::lab::runtime::{Names, Runtime};
use crate::lab::trials::Trial;
use crate::workspace::Workspace;

const NAMES: Names = Names {
    edges: &[
        "k8s:shop/Deployment/api -> k8s:shop/StatefulSet/db 5432/tcp",
        "k8s:shop/Deployment/web -> k8s:shop/Deployment/api 8080/tcp",
    ],
    own: &[],
    guarded: &["k8s:shop/Deployment/web", "k8s:shop/Deployment/api", "k8s:shop/StatefulSet/db"],
    reused: "k8s:shop/Deployment/web -> k8s:shop/Deployment/other 8080/tcp",
    outside: None,
    hijacked: "k8s:shop/Deployment/web -> k8s:shop/Deployment/api 9999/tcp",
};

/// The application's pods, in the order in which they start, with what each runs.
const PODS: [(&str, &[&str]); 3] = [
    ("db", &["serve", "5432"]),
    ("api", &["serve", "8080", "db:5432"]),
    ("web", &["serve", "8080", "api:8080"]),
];

const SOCKET: &str = "containerd.sock";

/// The length of the pods' hosts file, which never changes.
const HOSTS: usize = 256;

/// The runtime, at work.
pub(crate) struct Containerd {
    ground: Ground,
    cri: Cri,
    image: &'static str,
    /// Of an image: it ends the names of pods, and changes with every rollout.
    hash: &'static str,
    /// In the order in which they were made.
    pods: Vec<Pod>,
    /// Where each service is.
    hosts: BTreeMap<&'static str, String>,
}

struct Pod {
    service: &'static str,
    uid: String,
    config: Value,
    sandbox: String,
    address: String,
    container: String,
    attempt: u32,
}

impl Containerd {
    /// Starts it, with the images loaded and nothing running.
    pub(crate) fn start(workspace: &Workspace, mut ground: Ground) -> anyhow::Result<Self> {
        let dir = ground.at.display().to_string();
        let plugins = ground.parts.directory_of("host-local").context("no network plugins")?;
        let config = include_str!("containerd.toml").replace("@DIR@", &dir);
        ground.write("containerd.toml", &config.replace("@CNI@", &plugins.to_string_lossy()))?;
        let network = json!({"cniVersion": "0.4.0", "name": "lab", "plugins": [{
            "type": "bridge", "bridge": "lab0", "isGateway": true, "ipMasq": false,
            "ipam": {
                "type": "host-local", "dataDir": format!("{dir}/ipam"),
                "ranges": [[{"subnet": "10.91.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}],
            },
        }]});
        ground.write("cni/lab.conflist", &network.to_string())?;
        ground.write("hosts", "")?;
        let script = ground.write("cri.py", include_str!("cri.py"))?;
        run(&mut ground)?;
        let cri = Cri::start(workspace, &script, &ground.at.join(SOCKET))?;
        let (image, hash) = (IMAGES[0], "5d9c7bd5c");
        let (pods, hosts) = (Vec::new(), BTreeMap::new());
        let mut containerd = Self { ground, cri, image, hash, pods, hosts };
        containerd.answers()?;
        for image in IMAGES {
            let archive = image::archive(&containerd.ground, image)?;
            let mut ctr = containerd.ground.client("ctr");
            ctr.arg("--address").arg(containerd.ground.at.join(SOCKET));
            done(ctr.args(["--namespace", "k8s.io", "images", "import"]).arg(archive))?;
        }
        Ok(containerd)
    }

    /// Runs a pod of a service.
    fn run(&mut self, service: &'static str, command: &[&str]) -> anyhow::Result<&Pod> {
        let uid = std::fs::read_to_string("/proc/sys/kernel/random/uuid").context("make a uid")?;
        let uid = uid.trim().to_owned();
        let (name, label, value) = match service {
            "db" => {
                let name = "db-0".to_owned();
                (name.clone(), "statefulset.kubernetes.io/pod-name", name)
            }
            _ => {
                let name = format!("{service}-{}-{}", self.hash, &uid[..5]);
                (name, "pod-template-hash", self.hash.to_owned())
            }
        };
        let config = json!({
            "metadata": {"name": name, "uid": uid, "namespace": "shop"},
            "hostname": name,
            "log_directory": self.ground.at.join("logs").join(&name),
            "labels": {
                "app": service, label: value,
                "io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": "shop",
                "io.kubernetes.pod.uid": uid,
            },
            // Nobody is there.
            "dns_config": {"servers": ["192.0.2.53"]},
            "linux": {
                "cgroup_parent": format!("/{}/kubepods/besteffort/pod{uid}", self.ground.name),
                // Who takes an address over has another hardware address.
                "sysctls": {
                    "net.ipv4.neigh.eth0.base_reachable_time_ms": "1000",
                    "net.ipv4.neigh.eth0.delay_first_probe_time": "1",
                },
                "security_context": {"namespace_options": {"network": "POD", "pid": "CONTAINER"}},
            },
        });
        let ran = self.cri.ask("RunPodSandbox", &json!({"config": config}))?;
        let sandbox = text(&ran, "pod_sandbox_id")?;
        let status = self.cri.ask("PodSandboxStatus", &json!({"pod_sandbox_id": sandbox}))?;
        let address = text(&status["status"]["network"], "ip")?;
        // Where the last of several is.
        self.point(service, &address)?;
        let container = String::new();
        let mut pod = Pod { service, uid, config, sandbox, address, container, attempt: 0 };
        pod.container = self.contain(&pod, command)?;
        self.pods.push(pod);
        self.pods.last().context("it is gone")
    }

    /// Starts a container in a pod.
    fn contain(&mut self, pod: &Pod, command: &[&str]) -> anyhow::Result<String> {
        let hosts =
            json!({"container_path": "/etc/hosts", "host_path": self.ground.at.join("hosts")});
        let made = self.cri.ask(
            "CreateContainer",
            &json!({
                "pod_sandbox_id": pod.sandbox,
                "sandbox_config": pod.config,
                "config": {
                    "metadata": {"name": pod.service, "attempt": pod.attempt},
                    "image": {"image": self.image},
                    "command": command,
                    "mounts": [hosts],
                    "labels": {
                        "io.kubernetes.container.name": pod.service,
                        "io.kubernetes.pod.uid": pod.uid,
                    },
                    "linux": {"resources": {"cpu_shares": 2, "oom_score_adj": 1000}},
                },
            }),
        )?;
        let container = text(&made, "container_id")?;
        self.cri.ask("StartContainer", &json!({"container_id": container}))?;
        Ok(container)
    }

    /// Ends a pod, as one that was deleted.
    fn end(&mut self, at: usize) -> anyhow::Result<()> {
        let pod = self.pods.remove(at);
        let sandbox = json!({"pod_sandbox_id": pod.sandbox});
        self.cri.ask("StopPodSandbox", &sandbox)?;
        self.cri.ask("RemovePodSandbox", &sandbox).map(drop)
    }

    /// Tells all pods where a service is now; of one that is gone, where it was.
    fn point(&mut self, service: &'static str, address: &str) -> anyhow::Result<()> {
        self.hosts.insert(service, address.to_owned());
        let lines = self.hosts.iter().map(|(service, address)| format!("{address} {service}\n"));
        // Who reads it meanwhile is to find all names.
        let text = format!("{:<HOSTS$}\n", lines.collect::<String>());
        let file = File::options().write(true).open(self.ground.at.join("hosts"));
        let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
        written.context("write the pods' hosts")
    }

    /// Where the first pod of a service is among all.
    fn first(&self, service: &str) -> anyhow::Result<usize> {
        let at = self.pods.iter().position(|it| it.service == service);
        at.with_context(|| format!("no pod of {service} runs"))
    }

    fn of(&self, service: &str) -> anyhow::Result<&Pod> {
        self.pods.get(self.first(service)?).context("it is gone")
    }

    /// Waits until it does what it is asked for.
    fn answers(&mut self) -> anyhow::Result<()> {
        let Self { ground, cri, .. } = self;
        ground.until("containerd's answer", || Ok(cri.ask("Version", &json!({})).is_ok()))
    }

    fn anew(&mut self) -> anyhow::Result<()> {
        self.down()?;
        self.up()
    }
}

/// Starts the runtime itself.
fn run(ground: &mut Ground) -> anyhow::Result<()> {
    let mut command = ground.inside_of("system.slice/containerd.service")?;
    command.args(["containerd", "--config"]).arg(ground.at.join("containerd.toml"));
    ground.begin("containerd", command)?;
    let socket = ground.at.join(SOCKET);
    ground.until("containerd's socket", || Ok(socket.exists()))
}

fn text(value: &Value, key: &str) -> anyhow::Result<String> {
    let text = value[key].as_str().with_context(|| format!("no {key} in {value}"))?;
    Ok(text.to_owned())
}

impl Runtime for Containerd {
    fn ground(&mut self) -> &mut Ground {
        &mut self.ground
    }

    fn names(&self) -> &'static Names {
        &NAMES
    }

    fn trials(&self) -> &'static [Trial] {
        &Trial::ALL
    }

    fn source(&self) -> Option<(&'static str, String)> {
        Some(("cri", format!("unix://{}", self.ground.at.join(SOCKET).display())))
    }

    fn up(&mut self) -> anyhow::Result<()> {
        for (service, command) in PODS {
            if self.of(service).is_err() {
                self.run(service, command)?;
            }
        }
        Ok(())
    }

    fn down(&mut self) -> anyhow::Result<()> {
        (0..self.pods.len()).rev().try_for_each(|at| self.end(at))
    }

    /// In place, as a kubelet does what ended: another container in the same pod.
    fn restart(&mut self) -> anyhow::Result<()> {
        for (service, command) in PODS {
            let at = self.first(service)?;
            let mut pod = self.pods.remove(at);
            let old = json!({"container_id": pod.container});
            self.cri.ask("StopContainer", &old)?;
            self.cri.ask("RemoveContainer", &old)?;
            pod.attempt += 1;
            pod.container = self.contain(&pod, command)?;
            self.pods.insert(at, pod);
        }
        Ok(())
    }

    fn at_web(&mut self, words: &[&str]) -> anyhow::Result<()> {
        let container = self.of("web")?.container.clone();
        let exec = json!({"container_id": container, "cmd": words, "timeout": 30});
        self.cri.ask("ExecSync", &exec).map(drop)
    }

    fn usurp(&mut self) -> anyhow::Result<String> {
        let address = self.of("api")?.address.clone();
        self.end(self.first("api")?)?;
        // Addresses are given out in turn: the next after the last.
        let (network, last) = address.rsplit_once('.').context("an odd address")?;
        let last: u8 = last.parse().context("an odd address")?;
        let before = format!("{network}.{}", last - 1);
        self.ground.write("ipam/lab/last_reserved_ip.0", &before)?;
        let taken = &self.run("other", &["serve", "8080"])?.address;
        ensure!(*taken == address, "{taken} was taken, not {address}");
        Ok(format!("http://{address}:8080/"))
    }

    fn restore(&mut self) -> anyhow::Result<()> {
        self.end(self.first("other")?)?;
        self.up()
    }

    fn astray(&self) -> String {
        "http://api:9999/".to_owned()
    }

    fn place_of_web(&mut self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let container = self.of("web")?.container.clone();
        let status = self.cri.ask("ContainerStatus", &json!({"container_id": container}))?;
        Ok(vec![("container", container), ("image", text(&status["status"], "image_ref")?)])
    }

    fn provisional(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let services = NAMES.guarded.iter().zip(["web", "api", "db"]);
        services.map(|(name, it)| Ok((*name, format!("k8s:uid/{}", self.of(it)?.uid)))).collect()
    }

    fn rescale(&mut self) -> anyhow::Result<()> {
        let (service, command) = PODS[1];
        self.run(service, command).map(drop)
    }

    fn rescale_back(&mut self) -> anyhow::Result<()> {
        self.end(self.first("api")?)
    }

    fn recreate(&mut self) -> anyhow::Result<()> {
        let before = self.of("api")?.address.clone();
        self.anew()?;
        let after = &self.of("api")?.address;
        ensure!(before != *after, "the address is still {after}");
        Ok(())
    }

    fn roll_out(&mut self) -> anyhow::Result<()> {
        (self.image, self.hash) = (IMAGES[1], "7c6d8f9b5");
        self.anew()
    }

    fn brief(&mut self) -> anyhow::Result<()> {
        let call = ["busybox", "wget", "-q", "-O", "/dev/null", "http://api:8080/"];
        let container = self.run("web", &call)?.container.clone();
        let mut state = String::new();
        while state != "CONTAINER_EXITED" {
            self.ground.interrupt.check()?;
            let status = self.cri.ask("ContainerStatus", &json!({"container_id": container}))?;
            state = text(&status["status"], "state")?;
        }
        self.end(self.pods.len() - 1)
    }

    fn leave(&mut self) -> anyhow::Result<()> {
        self.ground.end("containerd")?;
        let socket = self.ground.at.join(SOCKET);
        if socket.exists() {
            std::fs::remove_file(&socket).context("remove containerd's socket")?;
        }
        Ok(())
    }

    fn come_back(&mut self) -> anyhow::Result<()> {
        run(&mut self.ground)?;
        self.answers()
    }
}
