//! A Podman, and the application as containers of it that are called what they are. Its service is there
//! to be asked and nothing else: it may go while its containers live, start and end.

use std::path::PathBuf;

use anyhow::{Context as _, ensure};

use crate::lab::command::{done, tried};
use crate::lab::ground::Ground;
use crate::lab::image::{self, IMAGES};
use crate::lab::runtime::{Names, Runtime, by_id};
use crate::lab::trials::Trial;

const NAMES: Names = Names {
    edges: &[
        "podman:api -> podman:db 5432/tcp",
        "podman:api -> systemd:podman.service 53/udp",
        "podman:web -> podman:api 8080/tcp",
        "podman:web -> systemd:podman.service 53/udp",
    ],
    own: &[],
    guarded: &["podman:web", "podman:api", "podman:db", "systemd:podman.service"],
    reused: "podman:web -> podman:other 8080/tcp",
    outside: None,
    hijacked: "podman:web -> podman:api 9999/tcp",
};

/// In the order in which they start, with what each runs.
const APPLICATION: [(&str, &[&str]); 3] = [
    ("db", &["serve", "5432"]),
    ("api", &["serve", "8080", "db:5432"]),
    ("web", &["serve", "8080", "api:8080"]),
];

const NETWORK: &str = "lab-shop";

/// The bridge has the least of its ports' hardware addresses: when one comes or goes it may be another, and
/// the others would look for it in vain for up to a minute.
const NEIGHBOURS: &[&str] = &[
    "--sysctl",
    "net.ipv4.neigh.eth0.base_reachable_time_ms=1000",
    "--sysctl",
    "net.ipv4.neigh.eth0.delay_first_probe_time=1",
];

/// The runtime, at work.
pub(crate) struct Podman {
    ground: Ground,
    image: &'static str,
}

impl Podman {
    /// Starts it, with the images loaded and nothing running.
    pub(crate) fn start(ground: Ground) -> anyhow::Result<Self> {
        let mut podman = Self { ground, image: IMAGES[0] };
        podman.configure()?;
        podman.podman(&["network", "create", "--subnet", "10.91.0.0/24", NETWORK])?;
        for image in IMAGES {
            let archive = image::archive(&podman.ground, image)?;
            podman.podman(&["load", "-q", "-i", &archive.to_string_lossy()])?;
        }
        podman.come_back()?;
        Ok(podman)
    }

    fn configure(&self) -> anyhow::Result<()> {
        let ground = &self.ground;
        let dir = ground.at.display();
        let place = |program: &str| {
            let at = ground.parts.directory_of(program);
            at.with_context(|| format!("no {program}: apt-get install podman {program}"))
        };
        let helpers = [place("netavark")?, place("aardvark-dns")?, place("conmon")?];
        let text = format!(
            "[containers]\n\
             # More than they have now not everybody may give them.\n\
             default_ulimits = [\"nofile=1024:1024\", \"nproc=512:512\"]\n\
             apparmor_profile = \"\"\n\
             [engine]\n\
             cgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nruntime = \"runc\"\n\
             helper_binaries_dir = {helpers:?}\nconmon_path = [{:?}]\n\
             [engine.runtimes]\nrunc = [{:?}]\n\
             [network]\nnetwork_backend = \"netavark\"\nnetwork_config_dir = \"{dir}/networks\"\n",
            place("conmon")?.join("conmon"),
            place("runc")?.join("runc"),
        );
        ground.write("containers.conf", &text)?;
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = \"{dir}/root\"\nrunroot = \"/run/containers/storage\"\n"
        );
        ground.write("storage.conf", &storage)?;
        let policy = "{\"default\": [{\"type\": \"insecureAcceptAnything\"}]}";
        ground.write("home/.config/containers/policy.json", policy).map(drop)
    }

    fn socket(&self) -> PathBuf {
        self.ground.at.join("podman.sock")
    }

    /// A verb of `podman`. What stays of it (its resolver) is as if the service had started it.
    fn command(&self, words: &[&str]) -> anyhow::Result<std::process::Command> {
        let mut command = self.ground.inside_of("system.slice/podman.service")?;
        for name in ["containers", "storage"] {
            let file = self.ground.at.join(format!("{name}.conf"));
            let key = if name == "storage" { "CONTAINERS_STORAGE_CONF" } else { "CONTAINERS_CONF" };
            command.env(key, file);
        }
        command.env("HOME", self.ground.at.join("home")).env_remove("XDG_RUNTIME_DIR");
        command.arg("podman").args(words);
        Ok(command)
    }

    /// Runs a verb of `podman`; what it printed.
    fn podman(&self, words: &[&str]) -> anyhow::Result<String> {
        done(&mut self.command(words)?)
    }

    /// Makes a container, and starts it where the verb says so.
    fn make(&self, verb: &[&str], name: &str, command: &[&str]) -> anyhow::Result<()> {
        let parent = format!("/{}/libpod_parent", self.ground.name);
        let own = ["--name", name, "--network", NETWORK, "--cgroup-parent", &parent];
        self.podman(&[verb, &own, NEIGHBOURS, &[self.image], command].concat()).map(drop)
    }

    fn field(&self, container: &str, template: &str) -> anyhow::Result<String> {
        Ok(self.podman(&["inspect", "-f", template, container])?.trim().to_owned())
    }

    fn address(&self, container: &str) -> anyhow::Result<String> {
        self.field(container, "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
    }

    fn anew(&mut self) -> anyhow::Result<()> {
        self.down()?;
        self.up()
    }
}

impl Runtime for Podman {
    fn ground(&mut self) -> &mut Ground {
        &mut self.ground
    }

    fn names(&self) -> &'static Names {
        &NAMES
    }

    fn trials(&self) -> &'static [Trial] {
        use Trial::{Away, DownAndUp, Recreate, Restart, RestartRuntime, RollOut};
        &[Restart, Recreate, RollOut, DownAndUp, RestartRuntime, Away]
    }

    fn source(&self) -> Option<(&'static str, String)> {
        Some(("podman", format!("unix://{}", self.socket().display())))
    }

    fn up(&mut self) -> anyhow::Result<()> {
        for (name, command) in APPLICATION {
            if self.podman(&["container", "exists", name]).is_err() {
                self.make(&["run", "-d"], name, command)?;
            }
        }
        Ok(())
    }

    fn down(&mut self) -> anyhow::Result<()> {
        self.podman(&["rm", "-f", "-t", "0", "-a"]).map(drop)
    }

    fn restart(&mut self) -> anyhow::Result<()> {
        // At once they may be left with each other's old addresses by Podman's resolver.
        let one = |(name, _)| self.podman(&["restart", "-t", "0", name]).map(drop);
        APPLICATION.into_iter().try_for_each(one)
    }

    fn at_web(&mut self, words: &[&str]) -> anyhow::Result<()> {
        tried(&mut self.command(&[&["exec", "web"][..], words].concat())?)
    }

    fn usurp(&mut self) -> anyhow::Result<String> {
        let address = self.address("api")?;
        self.podman(&["rm", "-f", "-t", "0", "api"])?;
        self.make(&["run", "-d", "--ip", &address], "other", &["serve", "8080"])?;
        Ok(format!("http://{address}:8080/"))
    }

    fn restore(&mut self) -> anyhow::Result<()> {
        self.podman(&["rm", "-f", "-t", "0", "other"])?;
        self.up()
    }

    fn astray(&self) -> String {
        "http://api:9999/".to_owned()
    }

    fn place_of_web(&mut self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let image = format!("sha256:{}", self.field("web", "{{.Image}}")?);
        Ok(vec![("container", self.field("web", "{{.Id}}")?), ("image", image)])
    }

    fn provisional(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        let containers = [("podman:web", "web"), ("podman:api", "api"), ("podman:db", "db")];
        let ids = containers
            .into_iter()
            .map(|(name, it)| Ok((name, by_id("podman", &self.field(it, "{{.Id}}")?)?)));
        ids.collect()
    }

    fn recreate(&mut self) -> anyhow::Result<()> {
        let before = self.address("api")?;
        self.down()?;
        self.make(&["run", "-d"], "holder", &["sleep", "2147483647"])?;
        self.up()?;
        let after = self.address("api")?;
        ensure!(before != after, "the address is still {after}");
        self.podman(&["rm", "-f", "-t", "0", "holder"]).map(drop)
    }

    fn roll_out(&mut self) -> anyhow::Result<()> {
        self.image = IMAGES[1];
        self.anew()
    }

    fn leave(&mut self) -> anyhow::Result<()> {
        self.ground.end("podman")?;
        if self.socket().exists() {
            std::fs::remove_file(self.socket()).context("remove Podman's socket")?;
        }
        Ok(())
    }

    /// It needs no service for that.
    fn meanwhile(&mut self) -> anyhow::Result<()> {
        self.restart()
    }

    fn come_back(&mut self) -> anyhow::Result<()> {
        let socket = self.socket();
        let service = ["system", "service", "--time", "0"];
        let place = format!("unix://{}", socket.display());
        let command = self.command(&[&service[..], &[&place]].concat())?;
        self.ground.begin("podman", command)?;
        self.ground.until("Podman's socket", || Ok(socket.exists()))
    }
}
