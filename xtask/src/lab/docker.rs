//! A Docker with Compose, and the application as a project of it. Its addresses, its resolver and its
//! rules are all in the lab's own namespaces.

use std::path::PathBuf;
use std::process::Command;

use anyhow::ensure;
use serde_json::Value;

use crate::lab::command::{done, tried};
use crate::lab::ground::Ground;
use crate::lab::image::{self, IMAGES};
use crate::lab::outside;
use crate::lab::runtime::{Names, Runtime, by_id};
use crate::lab::trials::{Trial, written};

const NAMES: Names = Names {
    edges: &[
        "compose:shop/api -> compose:shop/db 5432/tcp",
        "compose:shop/api -> systemd:docker.service 53/udp",
        "compose:shop/web -> compose:shop/api 8080/tcp",
        "compose:shop/web -> systemd:docker.service 53/udp",
    ],
    // Its resolver asks for a name that it does not know, and `iptables` has glibc compare addresses of
    // loopback, which dials them.
    own: &[
        "systemd:docker.service -> ip:192.0.2.53 53/udp",
        "systemd:docker.service -> ip:127.0.0.1 ",
        "systemd:docker.service -> systemd:docker.service ",
    ],
    guarded: &["compose:shop/web", "compose:shop/api", "compose:shop/db", "systemd:docker.service"],
    reused: "compose:shop/web -> docker:other 8080/tcp",
    outside: Some("compose:shop/web -> dns:outside.test 443/tcp"),
    hijacked: "compose:shop/web -> compose:shop/api 9999/tcp",
};

const WEB: &str = "shop_web_1";
const API: &str = "shop_api_1";
const DB: &str = "shop_db_1";

/// The runtime, at work.
pub(crate) struct Docker {
    ground: Ground,
    /// Of the application; another one is another rollout.
    image: &'static str,
}

/// Whether containers outlive the runtime.
#[derive(Clone, Copy)]
enum Containers {
    End,
    Live,
}

impl Docker {
    /// Starts it, with the images loaded and nothing running.
    pub(crate) fn start(ground: Ground) -> anyhow::Result<Self> {
        let mut docker = Self { ground, image: IMAGES[0] };
        docker.ground.write("shop.yaml", include_str!("shop.yaml"))?;
        docker.start_containerd()?;
        docker.start_docker(Containers::End)?;
        for image in IMAGES {
            let archive = image::archive(&docker.ground, image)?;
            docker.docker(&["load", "-q", "-i", &archive.to_string_lossy()])?;
        }
        Ok(docker)
    }

    fn socket(&self) -> PathBuf {
        self.ground.at.join("docker.sock")
    }

    /// Runs a verb of `docker`; what it printed.
    fn docker(&self, words: &[&str]) -> anyhow::Result<String> {
        done(self.client("docker").args(words))
    }

    /// Runs a verb of `docker-compose` on the application.
    fn compose(&self, words: &[&str]) -> anyhow::Result<()> {
        let mut command = self.client("docker-compose");
        command.args(["-p", "shop", "-f"]).arg(self.ground.at.join("shop.yaml"));
        command.env("LAB_IMAGE", self.image).args(words);
        done(&mut command).map(drop)
    }

    /// A field of what `docker inspect` says, as its template has it.
    fn field(&self, container: &str, template: &str) -> anyhow::Result<String> {
        Ok(self.docker(&["inspect", "-f", template, container])?.trim().to_owned())
    }

    fn address(&self) -> anyhow::Result<String> {
        self.field(API, "{{(index .NetworkSettings.Networks \"shop_front\").IPAddress}}")
    }

    fn client(&self, program: &str) -> Command {
        let mut command = self.ground.client(program);
        command.env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        command.env("DOCKER_CONFIG", self.ground.at.join("client"));
        command
    }

    fn start_containerd(&mut self) -> anyhow::Result<()> {
        let at = self.ground.at.join("containerd");
        let dir = at.display();
        // Its usual place for what is added to it is the machine's.
        let config = format!(
            "version = 2\nroot = \"{dir}/root\"\nstate = \"{dir}/state\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = \"{dir}/containerd.sock\"\n\
             [plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{dir}/opt\"\n"
        );
        let config = self.ground.write("containerd.toml", &config)?;
        let mut command = self.ground.inside_of("system.slice/containerd.service")?;
        command.args(["containerd", "--config"]).arg(config);
        self.ground.begin("containerd", command)?;
        let socket = at.join("containerd.sock");
        self.ground.until("containerd's socket", || Ok(socket.exists()))
    }

    /// Starts the runtime itself, and waits until it answers.
    fn start_docker(&mut self, containers: Containers) -> anyhow::Result<()> {
        let dir = self.ground.at.display();
        let mut config = serde_json::json!({
            "hosts": [format!("unix://{}", self.socket().display())],
            "pidfile": format!("{dir}/dockerd.pid"),
            "data-root": format!("{dir}/data"),
            "exec-root": format!("{dir}/exec"),
            "containerd": format!("{dir}/containerd/containerd.sock"),
            "cgroup-parent": format!("/{}/docker", self.ground.name),
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "bip": "10.91.0.1/24",
            // Nobody is there: names that it does not know itself nobody knows.
            "dns": [outside::RESOLVER],
            "live-restore": matches!(containers, Containers::Live),
        });
        if self.is_old()? {
            // Else it is written to /etc; others do not know this key any more.
            config["deprecated-key-path"] = format!("{dir}/key.json").into();
        }
        let config = self.ground.write("docker.json", &config.to_string())?;
        let mut command = self.ground.inside_of("system.slice/docker.service")?;
        command.args(["dockerd", "--config-file"]).arg(config);
        self.ground.begin("docker", command)?;
        let answers = || Ok(self.client("docker").arg("version").output()?.status.success());
        self.ground.until("Docker's answer", answers)
    }

    fn is_old(&self) -> anyhow::Result<bool> {
        let version = done(self.client("dockerd").arg("--version"))?;
        let major = version.split_whitespace().nth(2).and_then(|it| it.split('.').next());
        Ok(major.and_then(|it| it.parse::<u32>().ok()).is_some_and(|it| it < 23))
    }
}

impl Runtime for Docker {
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
        Some(("docker", format!("unix://{}", self.socket().display())))
    }

    fn up(&mut self) -> anyhow::Result<()> {
        self.compose(&["up", "-d"])
    }

    fn down(&mut self) -> anyhow::Result<()> {
        self.compose(&["down", "-t", "0"])
    }

    fn restart(&mut self) -> anyhow::Result<()> {
        self.compose(&["restart", "-t", "0"])
    }

    fn at_web(&mut self, words: &[&str]) -> anyhow::Result<()> {
        tried(self.client("docker").args(["exec", WEB]).args(words))
    }

    fn usurp(&mut self) -> anyhow::Result<String> {
        let address = self.address()?;
        let create = ["create", "--name", "other", "--stop-signal", "KILL", "--network"];
        let place = ["shop_front", "--ip", &address, IMAGES[0], "serve", "8080"];
        self.docker(&[&create[..], &place].concat())?;
        self.docker(&["rm", "-f", API])?;
        self.docker(&["start", "other"])?;
        Ok(format!("http://{address}:8080/"))
    }

    fn restore(&mut self) -> anyhow::Result<()> {
        self.docker(&["rm", "-f", "other"])?;
        self.up()
    }

    fn astray(&self) -> String {
        "http://api:9999/".to_owned()
    }

    fn place_of_web(&mut self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let fields = [("container", "{{.Id}}"), ("image", "{{.Image}}")];
        fields.into_iter().map(|(key, field)| Ok((key, self.field(WEB, field)?))).collect()
    }

    /// Its resolver asks for a name that nobody knows.
    fn rehearse(&mut self) -> anyhow::Result<()> {
        self.at_web(&["timeout", "2", "nslookup", "nobody."])
    }

    /// Docker's own answers are no edges: what it dials over loopback is dialled by its `iptables`.
    fn judge(&self, edges: &[Value]) -> anyhow::Result<()> {
        for edge in edges {
            let text = written(&edge["edge"]);
            let by = edge["evidence"]["executables"].to_string();
            let own =
                text.starts_with("systemd:docker.service ") && !text.contains(outside::RESOLVER);
            ensure!(
                !own || !by.contains("dockerd"),
                "an answer passes for an edge: {text} by {by}"
            );
        }
        Ok(())
    }

    fn provisional(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let containers =
            [("compose:shop/web", WEB), ("compose:shop/api", API), ("compose:shop/db", DB)];
        let ids = containers
            .into_iter()
            .map(|(name, it)| Ok((name, by_id("docker", &self.field(it, "{{.Id}}")?)?)));
        ids.collect()
    }

    fn rescale(&mut self) -> anyhow::Result<()> {
        self.compose(&["up", "-d", "--scale", "api=2"])
    }

    fn rescale_back(&mut self) -> anyhow::Result<()> {
        self.compose(&["up", "-d", "--scale", "api=1"])
    }

    fn recreate(&mut self) -> anyhow::Result<()> {
        let before = self.address()?;
        self.compose(&["rm", "--stop", "--force"])?;
        for (name, network) in [("holder1", "shop_front"), ("holder2", "shop_back")] {
            let sleep = [IMAGES[0], "sleep", "2147483647"];
            let run = ["run", "-d", "--name", name, "--stop-signal", "KILL", "--network", network];
            self.docker(&[&run[..], &sleep].concat())?;
        }
        self.up()?;
        let after = self.address()?;
        ensure!(before != after, "the address is still {after}");
        self.docker(&["rm", "-f", "holder1", "holder2"]).map(drop)
    }

    fn roll_out(&mut self) -> anyhow::Result<()> {
        self.image = IMAGES[1];
        self.up()?;
        let image = self.field(WEB, "{{.Config.Image}}")?;
        ensure!(image == self.image, "the image is still {image}");
        Ok(())
    }

    fn brief(&mut self) -> anyhow::Result<()> {
        let call = ["busybox", "wget", "-q", "-O", "/dev/null", "http://api:8080/"];
        self.compose(&[&["run", "--rm", "--no-deps", "-T", "web"][..], &call].concat())
    }

    fn leave(&mut self) -> anyhow::Result<()> {
        self.ground.end("docker")?;
        ensure!(!self.socket().exists(), "its socket is still there");
        Ok(())
    }

    fn come_back(&mut self) -> anyhow::Result<()> {
        // From now on containers outlive it, for the next trial.
        self.start_docker(Containers::Live)
    }
}
