//! The sides of a comparison: nothing, empty programs on the agent's hooks, the agent itself, and
//! other programs that watch connections. Each is started and ended in order; what it says is kept
//! in a file, in which the connections that it saw are counted. Installs nothing.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};

use crate::bench::usage::{self, Held};
use crate::house::{Agent, House, Running, WEB};
use crate::interrupt::{Interrupt, PAUSE};
use crate::machine;

/// How long something may take to stand.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is attached while it is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Nothing,
    Empty,
    Normal,
    Full,
    Peer(Peer),
}

/// Somebody else's program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Peer {
    Tcplife,
    Tcpstates,
    Bpftrace,
    Conntrack,
    Tcpdump,
}

impl Peer {
    pub(crate) const ALL: [Self; 5] =
        [Self::Tcplife, Self::Tcpstates, Self::Bpftrace, Self::Conntrack, Self::Tcpdump];

    /// The program's name.
    pub(crate) const fn program(self) -> &'static str {
        match self {
            Self::Tcplife => "tcplife",
            Self::Tcpstates => "tcpstates",
            Self::Bpftrace => "bpftrace",
            Self::Conntrack => "conntrack",
            Self::Tcpdump => "tcpdump",
        }
    }

    /// Whether it tells of each connection.
    pub(crate) const fn tells_each(self) -> bool {
        !matches!(self, Self::Bpftrace)
    }

    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Tcplife | Self::Tcpstates => &[],
            Self::Bpftrace => &[
                "-e",
                "tracepoint:sock:inet_sock_set_state /args->newstate == 1 && args->dport == 7100/ \
                 { @seen = count(); }",
            ],
            Self::Conntrack => &["-E", "-e", "NEW", "-p", "tcp"],
            Self::Tcpdump => {
                &["-i", "lo", "-nn", "-l", "tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn"]
            }
        }
    }

    /// How many connections to the known server its lines tell of, as the client made them.
    fn seen(self, text: &str) -> f64 {
        let lines = |is: fn(&[&str]) -> bool| {
            let words = |line: &str| is(&line.split_whitespace().collect::<Vec<_>>());
            text.lines().filter(|line| words(line)).count() as f64
        };
        match self {
            // PID COMM LADDR LPORT RADDR RPORT …
            Self::Tcplife => lines(|it| it.get(5) == Some(&"7100")),
            // SKADDR PID COMM LADDR LPORT RADDR RPORT OLDSTATE -> NEWSTATE MS
            Self::Tcpstates => {
                lines(|it| it.get(6) == Some(&"7100") && it.get(9) == Some(&"ESTABLISHED"))
            }
            Self::Bpftrace => {
                let count = text.lines().find_map(|line| line.strip_prefix("@seen: "));
                count.and_then(|it| it.trim().parse().ok()).unwrap_or(0.0)
            }
            Self::Conntrack => lines(|it| it.contains(&"[NEW]") && it.contains(&"dport=7100")),
            Self::Tcpdump => lines(|it| it.get(4).is_some_and(|it| it.ends_with(".7100:"))),
        }
    }
}

impl Side {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Nothing => "nothing".to_owned(),
            Self::Empty => "empty programs on the same hooks".to_owned(),
            Self::Normal => "**edgewatch**, `detail = \"normal\"`".to_owned(),
            Self::Full => "**edgewatch**, `detail = \"full\"`".to_owned(),
            Self::Peer(Peer::Bpftrace) => "`bpftrace`, counting only".to_owned(),
            Self::Peer(Peer::Conntrack) => "`conntrack -E` and an nft rule".to_owned(),
            Self::Peer(Peer::Tcpdump) => "`tcpdump` on SYNs".to_owned(),
            Self::Peer(peer) => format!("`{}`", peer.program()),
        }
    }
}

/// Lines of a configuration in which no load is a flood: each of its edges is told by itself.
pub(crate) const EACH_TOLD: &str = "[detect]\nbudget = 1048576\n";

/// What starts them.
pub(crate) struct Sides<'a> {
    pub(crate) house: &'a House,
    pub(crate) edgewatch: &'a Path,
    pub(crate) programs: &'a Path,
    pub(crate) interrupt: &'a Interrupt,
}

/// A side that stands; it is ended when dropped.
pub(crate) struct Standing {
    agent: Option<Agent>,
    peer: Option<(Peer, Running, PathBuf)>,
    kept: Option<Kept>,
    ruled: Option<Ruled>,
}

impl Sides<'_> {
    /// Starts a side and waits until it stands.
    pub(crate) fn start(&self, side: Side, hooks: &[(u32, u32)]) -> anyhow::Result<Standing> {
        self.start_with(side, hooks, "")
    }

    /// The same, with `more` lines of an agent's configuration, the first of them of `[capture]`.
    pub(crate) fn start_with(
        &self,
        side: Side,
        hooks: &[(u32, u32)],
        more: &str,
    ) -> anyhow::Result<Standing> {
        let mut standing = Standing { agent: None, peer: None, kept: None, ruled: None };
        match side {
            Side::Nothing => {}
            Side::Empty => {
                let hooks = hooks.iter().map(|(kind, at)| format!("{kind}:{at}"));
                let mut words = vec!["empty".to_owned(), self.house.node().display().to_string()];
                words.extend(hooks);
                standing.kept = Some(Kept::start(self.programs, &words, self.house)?);
            }
            Side::Normal => standing.agent = Some(self.agent("normal", more)?),
            Side::Full => standing.agent = Some(self.agent("full", more)?),
            Side::Peer(peer) => {
                if peer == Peer::Conntrack {
                    standing.ruled = Some(Ruled::lay(self.house)?);
                }
                standing.peer = Some(self.peer(peer)?);
            }
        }
        Ok(standing)
    }

    /// An agent that learns, with nothing learned; `more` as above.
    pub(crate) fn agent(&self, detail: &str, more: &str) -> anyhow::Result<Agent> {
        let lines = format!("mode = \"learn\"\n[capture]\ndetail = {detail:?}\n{more}");
        let mut agent = Agent::new(self.edgewatch, self.house, &format!("side-{detail}"), &lines)?;
        agent.start(self.interrupt)?;
        Ok(agent)
    }

    /// Has the kernel take the time of every run of a program, until it is dropped.
    pub(crate) fn timed(&self) -> anyhow::Result<impl Drop> {
        Kept::start(self.programs, &["timed".to_owned()], self.house)
    }

    /// The hooks on cgroups that the agent takes.
    pub(crate) fn hooks(&self) -> anyhow::Result<Vec<(u32, u32)>> {
        let mut agent = self.agent("normal", "")?;
        let hooks = Held::by(agent.id()?)?.hooks;
        agent.end()?;
        Ok(hooks)
    }

    fn peer(&self, peer: Peer) -> anyhow::Result<(Peer, Running, PathBuf)> {
        let program = machine::program(peer.program()).context("it is not installed")?;
        // Tracepoints are found through tracefs, which is not mounted everywhere.
        let unshare = machine::program("unshare").context("no unshare")?;
        let mut command = self.house.outside(WEB, &unshare)?;
        let script = "mountpoint -q /sys/kernel/tracing || mount -t tracefs tracefs \
                      /sys/kernel/tracing; exec \"$@\"";
        command.args(["--mount", "bash", "-c", script, "peer"]).arg(program).args(peer.words());
        let log = self.house.at.join(format!("{}.log", peer.program()));
        let running = Running::start(command, log.clone())?;
        let id = running.id()?;
        self.interrupt.until(peer.program(), PATIENCE, PAUSE, || stands(id, peer, &log))?;
        Ok((peer, running, log))
    }
}

/// Whether a peer has begun to look.
fn stands(id: u32, peer: Peer, log: &Path) -> anyhow::Result<bool> {
    let files = fs::read_dir(format!("/proc/{id}/fd")).context("list its files")?;
    let files: Vec<String> = files
        .flatten()
        .filter_map(|it| Some(fs::read_link(it.path()).ok()?.display().to_string()))
        .collect();
    let has = |what: &[&str]| files.iter().any(|file| what.iter().any(|it| file.contains(it)));
    let name = fs::read_to_string(format!("/proc/{id}/comm")).unwrap_or_default();
    let begun = match peer {
        Peer::Tcplife | Peer::Tcpstates | Peer::Bpftrace => has(&["bpf_link", "perf_event"]),
        Peer::Conntrack => has(&["socket:"]),
        Peer::Tcpdump => fs::read_to_string(log).is_ok_and(|it| it.contains("listening on")),
    };
    if !begun && !Path::new(&format!("/proc/{id}/exe")).exists() {
        bail!("it ended: {}", fs::read_to_string(log).unwrap_or_default().trim());
    }
    Ok(begun && name.trim() == peer.program())
}

impl Standing {
    /// The process that stands for it.
    pub(crate) fn id(&self) -> Option<u32> {
        let agent = self.agent.as_ref().and_then(|it| it.id().ok());
        let peer = || self.peer.as_ref().and_then(|(_, it, _)| it.id().ok());
        agent.or_else(peer).or_else(|| self.kept.as_ref().map(|it| it.0.id()))
    }

    /// The agent, where it is one.
    pub(crate) fn agent(&self) -> Option<&Agent> {
        self.agent.as_ref()
    }

    /// Seconds of processor time that it has used.
    pub(crate) fn busy(&self) -> anyhow::Result<f64> {
        self.id().map_or(Ok(0.0), usage::busy)
    }

    pub(crate) fn held(&self) -> anyhow::Result<Held> {
        self.id().map_or_else(|| Ok(Held::default()), Held::by)
    }

    /// Ends it; how many connections to the known server it saw, where it is one that tells.
    pub(crate) fn end(mut self) -> anyhow::Result<Option<f64>> {
        if let Some(mut agent) = self.agent.take() {
            agent.end()?;
        }
        let Some((peer, mut running, log)) = self.peer.take() else { return Ok(None) };
        running.interrupt()?;
        let said = fs::read(&log).with_context(|| format!("read {}", log.display()))?;
        Ok(Some(peer.seen(&String::from_utf8_lossy(&said))))
    }
}

/// A process of `programs` that keeps what it was asked for until its input ends.
struct Kept(Child);

impl Kept {
    fn start(programs: &Path, words: &[String], house: &House) -> anyhow::Result<Self> {
        let at = house.at.join("programs.log");
        let log = fs::File::options().read(true).write(true).create(true).truncate(true).open(&at);
        let log = log.with_context(|| format!("create {}", at.display()))?;
        let child = Command::new(programs)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log.try_clone().context("share the log")?)
            .spawn()
            .with_context(|| format!("start {}", programs.display()))?;
        let mut kept = Self(child);
        let mut word = [0; 1];
        let said = kept.0.stdout.as_mut().context("its answer")?.read(&mut word)?;
        if said == 0 {
            let mut why = vec![0; 1024];
            let length = log.read_at(&mut why, 0).unwrap_or(0);
            bail!("{}", String::from_utf8_lossy(&why[..length]).trim());
        }
        Ok(kept)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // Its input ends, and so does it; gone already is as good.
        drop(self.0.stdin.take());
        drop(self.0.wait());
    }
}

/// A rule in the house `web` that has its connections tracked, until it is dropped.
struct Ruled(Command);

impl Ruled {
    fn lay(house: &House) -> anyhow::Result<Self> {
        let nft = machine::program("nft").context("nft is not installed")?;
        let rule = "table ip edgewatch_bench { chain seen { type filter hook prerouting priority 0; \
                    ct state new counter; }; }";
        let status = house.outside(WEB, &nft)?.arg(rule).status().context("start nft")?;
        if !status.success() {
            bail!("nft: {status}");
        }
        let mut end = house.outside(WEB, &nft)?;
        end.args(["delete", "table", "ip", "edgewatch_bench"]);
        Ok(Self(end))
    }
}

impl Drop for Ruled {
    fn drop(&mut self) {
        if let Err(error) = self.0.status() {
            eprintln!("take the rule away: {error}");
        }
    }
}
