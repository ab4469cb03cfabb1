//! What a large baseline costs: how long the agent takes to be ready with it, and how much memory it
//! holds.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::bench::figure::Figure;
use crate::house::House;
use crate::interrupt::Interrupt;

const SIZES: [usize; 2] = [10_000, 100_000];
const SERVICES: usize = 200;
/// Each is an edge of its own; on one line, since a file may hold no more than so many entries.
const PORTS: [u16; 10] = [80, 443, 5432, 6379, 8080, 8443, 9000, 9090, 9200, 27017];
const STARTS: usize = 5;
const WAIT: Duration = Duration::from_secs(60);

pub(crate) fn measure(
    program: &Path,
    house: &House,
    interrupt: &Interrupt,
    figures: &mut Vec<Figure>,
) -> anyhow::Result<()> {
    for edges in SIZES {
        let mut node = Node::new(program, house, edges)?;
        node.start(interrupt)?;
        node.import(edges)?;
        node.end()?;
        let (mut millis, mut resident) = (Vec::new(), Vec::new());
        for _ in 0..STARTS {
            interrupt.check()?;
            let started = node.start(interrupt)?;
            millis.push(started.as_secs_f64() * 1e3);
            resident.push(node.resident_mib()?);
            node.end()?;
        }
        let name = |what: &str| format!("{what}, baseline of {edges} edges");
        figures.push(Figure::of(&name("start to ready"), "ms", millis));
        figures.push(Figure::of(&name("resident memory when ready"), "MiB", resident));
    }
    Ok(())
}

/// An agent with a state of its own.
struct Node<'a> {
    program: &'a Path,
    at: PathBuf,
    running: Option<Child>,
}

impl<'a> Node<'a> {
    fn new(program: &'a Path, house: &House, edges: usize) -> anyhow::Result<Self> {
        let at = house.at.join(format!("scale-{edges}"));
        if at.exists() {
            std::fs::remove_dir_all(&at).with_context(|| format!("remove {}", at.display()))?;
        }
        std::fs::create_dir_all(&at).with_context(|| format!("create {}", at.display()))?;
        let text = format!("mode = \"auto\"\n[capture]\ncgroup = {:?}\n", house.node());
        let config = at.join("edgewatch.toml");
        std::fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        Ok(Self { program, at, running: None })
    }

    /// Starts it; how long until it was ready.
    fn start(&mut self, interrupt: &Interrupt) -> anyhow::Result<Duration> {
        let log = self.at.join("agent.log");
        let file =
            std::fs::File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let started = Instant::now();
        let child = Command::new(self.program)
            .args(["run", "--config"])
            .arg(self.at.join("edgewatch.toml"))
            .arg("--state-dir")
            .arg(self.at.join("state"))
            .arg("--socket")
            .arg(self.at.join("edgewatch.sock"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .context("start edgewatch run")?;
        self.running = Some(child);
        loop {
            if std::fs::read_to_string(&log).is_ok_and(|it| it.contains("ready")) {
                return Ok(started.elapsed());
            }
            interrupt.check()?;
            if started.elapsed() > WAIT {
                bail!("the agent is not ready: {}", log.display());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Gives it a guarded baseline of so many edges.
    fn import(&self, edges: usize) -> anyhow::Result<()> {
        let mut text = String::from("format: edgewatch-baseline/1\nservices:\n");
        for service in 0..SERVICES {
            writeln!(text, "  systemd:service-{service}.service:\n    outbound:")?;
            for peer in 0..edges / SERVICES / PORTS.len() {
                let ports = PORTS.map(|port| format!("{port}/tcp")).join(", ");
                writeln!(
                    text,
                    "      - {{to: \"ip:10.{service}.0.{peer}\", ports: [{ports}], by: [/usr/bin/app]}}"
                )?;
            }
        }
        let file = self.at.join("baseline.yaml");
        std::fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
        let output = Command::new(self.program)
            .args(["baseline", "import", "--guard"])
            .arg(&file)
            .arg("--socket")
            .arg(self.at.join("edgewatch.sock"))
            .output()
            .context("start edgewatch baseline import")?;
        if !output.status.success() {
            bail!("import: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    fn resident_mib(&self) -> anyhow::Result<f64> {
        let id = self.running.as_ref().context("the agent runs")?.id();
        let status =
            std::fs::read_to_string(format!("/proc/{id}/status")).context("read status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        Ok(kib.context("no VmRSS")? / 1024.0)
    }

    fn end(&mut self) -> anyhow::Result<()> {
        let Some(mut child) = self.running.take() else { return Ok(()) };
        let id = child.id().to_string();
        Command::new("kill").args(["-TERM", &id]).status().context("end the agent")?;
        child.wait().context("wait for the agent").map(drop)
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("{error:#}");
        }
    }
}
