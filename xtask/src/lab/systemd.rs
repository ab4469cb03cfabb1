//! A systemd as the first process of a machine of its own, and the application as units of it: one plain,
//! one a template's instances, one in slices. All is dialled over loopback.

use std::process::Command;

use anyhow::{Context as _, bail};

use crate::lab::command::{done, tried};
use crate::lab::ground::Ground;
use crate::lab::image;
use crate::lab::runtime::{Names, Runtime};
use crate::lab::trials::Trial;

const NAMES: Names = Names {
    edges: &[
        "systemd:api@1.service -> systemd:db.service 5432/tcp",
        SECOND,
        "systemd:web.service -> systemd:api@1.service 8081/tcp",
        TO_SECOND,
    ],
    own: &[],
    guarded: &[
        "systemd:web.service",
        "systemd:api@1.service",
        "systemd:api@2.service",
        "systemd:db.service",
    ],
    reused: "systemd:web.service -> systemd:other.service 8081/tcp",
    outside: None,
    hijacked: "systemd:web.service -> ip:127.0.0.1 9999/tcp",
};

const SECOND: &str = "systemd:api@2.service -> systemd:db.service 5432/tcp";
const TO_SECOND: &str = "systemd:web.service -> systemd:api@2.service 8082/tcp";

const UNITS: &[(&str, &str)] = &[
    ("web.service", "ExecStart=/bin/serve 8080 127.0.0.1:8081 127.0.0.1:8082"),
    ("api@.service", "ExecStart=/bin/serve 808%i 127.0.0.1:5432"),
    ("db.service", "ExecStart=/bin/serve 5432\nSlice=shop-data.slice"),
    ("other.service", "ExecStart=/bin/serve 8081"),
];

const ALL: [&str; 4] = ["db.service", "api@1.service", "api@2.service", "web.service"];

const WEB: &str = "system.slice/web.service";

/// The first process, at work.
pub(crate) struct Systemd {
    ground: Ground,
    /// Of the machine's own table.
    init: String,
    has_second: bool,
}

impl Systemd {
    /// Starts it, with none of the units running.
    pub(crate) fn start(mut ground: Ground) -> anyhow::Result<Self> {
        if !std::path::Path::new("/lib/systemd/systemd").exists() {
            bail!(
                "the lab needs systemd's program, which need not run here: apt-get install systemd"
            );
        }
        let image = ground.at.join("image");
        image::lay_out(&ground, &image, "systemd")?;
        // The machine's own is a link, and its names are found by its own means.
        std::fs::rename(image.join("bin"), image.join("programs")).context("lay out an image")?;
        std::fs::create_dir_all(image.join("usr")).context("lay out an image")?;
        std::fs::rename(image.join("programs"), image.join("usr/bin"))
            .context("lay out an image")?;
        for dir in ["etc", "proc", "sys", "dev", "tmp", "run"] {
            std::fs::remove_dir_all(image.join(dir)).context("lay out an image")?;
        }
        let units = "image/etc/systemd/system";
        // Nothing else is to start: not even what every unit leans on.
        let alone = "[Unit]\nDefaultDependencies=no\n";
        ground.write(&format!("{units}/lab.target"), alone)?;
        for (unit, service) in UNITS {
            let own = "StandardOutput=null\nKillSignal=SIGKILL";
            let text = format!("{alone}[Service]\n{service}\n{own}\n");
            ground.write(&format!("{units}/{unit}"), &text)?;
        }
        let boot = ground.write("boot", include_str!("boot"))?;
        let mut command = ground.inside_of("")?;
        let unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--cgroup"];
        command.args(unshare).args(["--uts", "--ipc", "--propagation", "private", "bash"]);
        command.arg(boot).arg(ground.at.join("scratch")).arg(image);
        ground.begin("systemd", command)?;
        let procs = ground.cgroup().join("init.scope/cgroup.procs");
        let mut init = String::new();
        ground.until("systemd's own scope", || {
            let inside = std::fs::read_to_string(&procs).unwrap_or_default();
            init = inside.lines().next().unwrap_or_default().to_owned();
            Ok(!init.is_empty())
        })?;
        let systemd = Self { ground, init, has_second: true };
        let listed = || systemd.on_it("room").args(["systemctl", "list-units"]).output();
        let answers = || Ok(listed()?.status.success());
        systemd.ground.until("systemd's answer", answers)?;
        Ok(systemd)
    }

    /// A command on that machine, and in that cgroup of the lab.
    fn on_it(&self, cgroup: &str) -> Command {
        let mut command = Command::new("bash");
        let script = "echo $$ > \"$0/cgroup.procs\" && exec nsenter --target \"$1\" \
                      --mount --uts --ipc --net --pid --root --wd=/ \"${@:2}\"";
        command.args(["-c", script]).arg(self.ground.cgroup().join(cgroup)).arg(&self.init);
        command
    }

    fn systemctl(&self, verb: &str, units: &[&str]) -> anyhow::Result<()> {
        done(self.on_it("room").args(["systemctl", verb]).args(units)).map(drop)
    }
}

impl Runtime for Systemd {
    fn ground(&mut self) -> &mut Ground {
        &mut self.ground
    }

    fn names(&self) -> &'static Names {
        &NAMES
    }

    fn trials(&self) -> &'static [Trial] {
        &[Trial::Restart, Trial::Rescale, Trial::DownAndUp, Trial::RestartRuntime]
    }

    fn source(&self) -> Option<(&'static str, String)> {
        None
    }

    fn up(&mut self) -> anyhow::Result<()> {
        self.systemctl("start", &ALL)
    }

    fn down(&mut self) -> anyhow::Result<()> {
        self.systemctl("stop", &ALL)
    }

    fn restart(&mut self) -> anyhow::Result<()> {
        self.systemctl("restart", &ALL)
    }

    fn at_web(&mut self, words: &[&str]) -> anyhow::Result<()> {
        tried(self.on_it(WEB).args(words))
    }

    fn usurp(&mut self) -> anyhow::Result<String> {
        self.systemctl("stop", &["api@1.service"])?;
        self.systemctl("start", &["other.service"])?;
        Ok("http://127.0.0.1:8081/".to_owned())
    }

    fn restore(&mut self) -> anyhow::Result<()> {
        self.systemctl("stop", &["other.service"])?;
        self.up()
    }

    fn astray(&self) -> String {
        "http://127.0.0.1:9999/".to_owned()
    }

    fn place_of_web(&mut self) -> anyhow::Result<Vec<(&'static str, String)>> {
        Ok(vec![("cgroup", format!("/{}/{WEB}", self.ground.name))])
    }

    fn is_in_use(&self, edge: &str) -> bool {
        self.has_second || ![SECOND, TO_SECOND].contains(&edge)
    }

    /// An instance is a service of its own: one that was never there would be news.
    fn rescale(&mut self) -> anyhow::Result<()> {
        self.has_second = false;
        self.systemctl("stop", &["api@2.service"])
    }

    fn rescale_back(&mut self) -> anyhow::Result<()> {
        self.has_second = true;
        self.systemctl("start", &["api@2.service"])
    }

    fn leave(&mut self) -> anyhow::Result<()> {
        self.systemctl("daemon-reexec", &[])
    }

    fn come_back(&mut self) -> anyhow::Result<()> {
        self.systemctl("daemon-reload", &[])
    }
}
