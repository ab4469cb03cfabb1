//! `record`: every flow of this machine as a line of a recording. Attributes as the agent does and
//! judges nothing; keeps no state and leaves nothing attached.

use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use monitor_core::attribute::{Attribution, Places, Renamed, SeenFrom, Sighting};
use monitor_core::directory::{Directory, Fact};
use monitor_core::edge::{Edge, Peer, executable_name};
use monitor_core::engine::Effect;
use monitor_core::flow::{self, Flow, KeyId, Loss, Observation, Outcome, Process, Traffic};
use monitor_core::ids::{BootTime, Now};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::agent::naming;
use crate::agent::perform::LAST_LINES;
use crate::agent::{SWEEP_EVERY, Signals, every, now, seed, shown, sleep_until, until};
use crate::capture::{self, Before, Capture};
use crate::config::Config;
use crate::identity::Namer;
use crate::recording::{self, Direction, Existing, FarEnd, RecordedFlow, Source};
use crate::sources::Sources;

/// What `record` is to do.
pub struct RecordOptions {
    /// `-` is standard output.
    pub file: PathBuf,
    pub existing: Existing,
    /// Ends by itself after this time.
    pub duration: Option<Duration>,
    /// Told once it records: what it runs on and what it does not see, each a line for people.
    pub say: Box<dyn Fn(&str)>,
}

/// What was recorded.
#[derive(Debug, Default)]
pub struct Recorded {
    pub lines: u64,
    pub connections: u64,
    /// What the kernel could not tell, by reason.
    pub lost: BTreeMap<Loss, u64>,
    /// Kernel programs that somebody detached meanwhile: what they see is missing since.
    pub detached: Vec<String>,
}

/// Records until it is asked to end.
///
/// # Errors
/// The kernel refused, or the file.
pub async fn record(config: Config, options: RecordOptions) -> anyhow::Result<Recorded> {
    let ground = capture::preflight()?;
    let capture = config.capture.for_a_look();
    let (internal, budget) = (&config.detect.internal, config.detect.budget);
    let mut capture = Capture::start(ground, &capture, internal, budget, Before::default())?;
    let mut pen = Pen::of(recording::create(&options.file, options.existing)?);
    let mut scribe = Scribe::new(&config.node_name(), seed()?, config.places());
    let mut sources = Sources::start(&config.identity, &config.node_name());
    (options.say)(&format!("{} · recording, Ctrl-C ends", shown(capture.summary())));
    for missing in &capture.summary().missing {
        (options.say)(&format!("not seen here: {missing}"));
    }
    for fact in sources.told() {
        scribe.learn(now(), fact);
    }
    let end = options.duration.map(|duration| Instant::now() + duration);
    let mut signals = Signals::new()?;
    let mut sweep = every(SWEEP_EVERY);
    loop {
        let due = until(scribe.attribution.next_due());
        let mut facts = Vec::new();
        let heard = tokio::select! {
            _ = signals.any() => break,
            () = pen.gone() => break,
            told = sources.next() => {
                facts = told;
                Vec::new()
            }
            () = sleep_until(end) => break,
            () = sleep_until(due) => Vec::new(),
            heard = capture.next() => heard?,
            _ = sweep.tick() => capture.sweep(|_| true)?,
        };
        let mut unknown: Vec<Effect> =
            facts.into_iter().flat_map(|fact| scribe.learn(now(), fact)).collect();
        naming::find_keys(&mut unknown, &capture);
        forget(&mut capture, unknown)?;
        scribe.take(now(), heard);
        if std::mem::take(&mut scribe.unnamed) {
            sources.ask_again();
        }
        // A slow reader is waited for: the kernel keeps what is not fetched, or counts it.
        tokio::select! {
            _ = signals.any() => break,
            () = sleep_until(end) => break,
            () = pen.write(&mut scribe.lines) => {}
        }
    }
    scribe.take(now(), capture.sweep(|_| true)?);
    scribe.take(Now { boot: BootTime(u64::MAX), ..now() }, Vec::new());
    drop(capture);
    pen.finish(scribe.lines, LAST_LINES)
        .await
        .with_context(|| format!("write the recording {}", options.file.display()))?;
    Ok(scribe.recorded)
}

/// Has the kernel tell again what means somebody else now.
fn forget(capture: &mut Capture, unknown: Vec<Effect>) -> anyhow::Result<()> {
    let mut moved = BTreeMap::new();
    for effect in unknown {
        match effect {
            Effect::Unknow(addresses) => moved.extend(naming::moved(addresses)),
            Effect::Rearm(keys) => {
                capture.rearm(&keys, &moved).context("re-arm the kernel's tables")?;
            }
            // A recording stores, sends and answers nothing.
            Effect::Hear(..)
            | Effect::Leave(_)
            | Effect::Store(_)
            | Effect::Deliver(_)
            | Effect::Appeared(_)
            | Effect::Alerted(_)
            | Effect::Reply(_) => {}
        }
    }
    Ok(())
}

/// Writes on a thread of its own, whole lines at a time, so that a pipe that is full holds up neither
/// the clock nor Ctrl-C.
struct Pen {
    lines: mpsc::Sender<Vec<u8>>,
    done: oneshot::Receiver<std::io::Result<()>>,
}

impl Pen {
    /// Pieces that may wait to be written; with more the writer is waited for.
    const ROOM: usize = 64;

    fn of(mut file: Box<dyn Write + Send>) -> Self {
        let (lines, mut waiting) = mpsc::channel::<Vec<u8>>(Self::ROOM);
        let (ended, done) = oneshot::channel();
        std::thread::spawn(move || {
            let mut written = Ok(());
            while let Some(piece) = waiting.blocking_recv() {
                written = file.write_all(&piece).and_then(|()| file.flush());
                if written.is_err() {
                    break;
                }
            }
            // Nobody asks any more only where the reader of a pipe was given up.
            drop(ended.send(written));
        });
        Self { lines, done }
    }

    /// Ends when nothing can be written any more.
    async fn gone(&self) {
        self.lines.closed().await;
    }

    /// Hands the lines over once there is room for them. Cancelled before, they stay where they are.
    async fn write(&mut self, lines: &mut Vec<u8>) {
        if !lines.is_empty()
            && let Ok(room) = self.lines.reserve().await
        {
            room.send(std::mem::take(lines));
        }
    }

    /// Gives what waits `grace` to be written.
    async fn finish(mut self, mut lines: Vec<u8>, grace: Duration) -> std::io::Result<()> {
        let deadline = Instant::now() + grace;
        let late = || std::io::Error::other("the reader is slow: its last lines are missing");
        let handed = tokio::time::timeout_at(deadline, self.write(&mut lines)).await;
        let Self { lines, done } = self;
        drop(lines);
        let written = tokio::time::timeout_at(deadline, done).await;
        match (handed, written) {
            (_, Ok(Ok(written))) => written,
            _ => Err(late()),
        }
    }
}

/// Makes lines of observations.
struct Scribe {
    namer: Namer,
    node: String,
    attribution: Attribution,
    /// Which edge each key stands for.
    edges: HashMap<KeyId, Edge>,
    /// What each key's dialler runs, by which the kernel tells keys apart.
    executables: HashMap<KeyId, String>,
    /// First sightings whose exchange the kernel's counters will tell once more.
    told: HashMap<(Edge, Direction, Outcome), u64>,
    /// Something appeared that a source may name.
    unnamed: bool,
    lines: Vec<u8>,
    recorded: Recorded,
}

impl Scribe {
    fn new(node: &str, seed: u64, places: Places) -> Self {
        Self {
            namer: Namer::new(node),
            node: node.to_owned(),
            attribution: Attribution::new(seed, places, Directory::default()),
            edges: HashMap::new(),
            executables: HashMap::new(),
            told: HashMap::new(),
            unnamed: false,
            lines: Vec::new(),
            recorded: Recorded::default(),
        }
    }

    fn take(&mut self, now: Now, heard: Vec<Observation>) {
        for observation in heard {
            self.observe(now, observation);
        }
        for sighting in self.attribution.due(now) {
            self.sighted(&sighting);
        }
        for traffic in self.attribution.take_counted() {
            if let Some(edge) = self.edges.get(&traffic.id).cloned() {
                self.counted(edge, &traffic);
            }
        }
    }

    /// Takes in what a source says; what means somebody else now.
    fn learn(&mut self, now: Now, fact: Fact) -> Vec<Effect> {
        let learned = self.attribution.learn(now, fact);
        let mut unknown = Vec::new();
        for Renamed { cgroup, from, to } in learned.renamed {
            if from.is_provisional() {
                self.edges.values_mut().for_each(|edge| edge.rename(&from, &to));
                let told = std::mem::take(&mut self.told);
                for ((mut edge, direction, outcome), count) in told {
                    edge.rename(&from, &to);
                    *self.told.entry((edge, direction, outcome)).or_default() += count;
                }
            } else {
                unknown.push(Effect::Leave(cgroup));
            }
        }
        for sighting in learned.ready {
            self.sighted(&sighting);
        }
        if !learned.addresses.is_empty() {
            unknown.push(Effect::Unknow(learned.addresses));
        }
        unknown
    }

    fn observe(&mut self, now: Now, observation: Observation) {
        match observation {
            Observation::CgroupAppeared { id, path } => {
                let workload = self.namer.workload(&path);
                self.unnamed |= workload.service.is_provisional();
                self.attribution.workload_appeared(id, workload);
            }
            Observation::CgroupVanished { id } => self.attribution.workload_vanished(id),
            Observation::Addresses { netns, addresses } => {
                self.attribution.namespace(netns, &addresses);
            }
            Observation::LookedUp(lookup) => {
                // Whom it may ask is a question of a baseline.
                if self.attribution.looked_up(&lookup, |_resolver| true).is_err() {
                    *self.recorded.lost.entry(Loss::Unasked).or_default() += 1;
                }
            }
            Observation::Flow(flow) => self.flow(now, flow),
            Observation::Traffic(traffic) => match self.edges.get(&traffic.id).cloned() {
                Some(edge) => self.counted(edge, &traffic),
                None => self.attribution.hold(&traffic),
            },
            Observation::Forgotten { id, key } => {
                self.attribution.forgotten(id, &key);
                self.edges.remove(&id);
                self.executables.remove(&id);
            }
            // Nobody to be told: how many connections are missing is counted as lost.
            Observation::Flooded(_) => {}
            Observation::Lost { loss, count } => {
                *self.recorded.lost.entry(loss).or_default() += count;
            }
            Observation::Detached { program } => self.recorded.detached.push(program),
            Observation::Removed { cgroup } => self.recorded.detached.push(cgroup),
            // A recording pins nothing, and misses nothing by who else is there.
            Observation::Unpinned { .. } | Observation::Joined(_) => {}
            // A recording has what was seen; what was not is told by losses and detachments.
            Observation::Canary(_) => {}
        }
    }

    fn flow(&mut self, now: Now, flow: Flow) {
        let process =
            flow.process.as_ref().filter(|_| flow.key.direction == flow::Direction::Outbound);
        let path = process.and_then(|it| it.executable.as_deref());
        if let Some((id, path)) = flow.id.zip(path) {
            self.executables.insert(id, executable_name(path));
        }
        for sighting in self.attribution.flow(now, flow) {
            self.sighted(&sighting);
        }
    }

    /// A line for a first sighting. A port that was opened, or a socket that was made, is no exchange:
    /// it has no far end.
    fn sighted(&mut self, sighting: &Sighting) {
        for key in &sighting.keys {
            self.edges.insert(*key, sighting.edge.clone());
        }
        if !sighting.edge.is_exchange() {
            return;
        }
        let direction = match sighting.seen_from {
            SeenFrom::Client | SeenFrom::Both => Direction::Outbound,
            SeenFrom::Server => Direction::Inbound,
        };
        let process = sighting.process.as_ref();
        let known = |id: u32| (id != Process::UNKNOWN).then_some(id);
        let source = sighting.workload.as_deref().map(Source::from);
        let Some(mut line) = self.line(&sighting.edge, direction, source) else { return };
        line.at = sighting.at;
        line.outcome = sighting.outcome;
        line.executable = process.and_then(|it| it.executable.clone());
        line.pid = process.and_then(|it| known(it.pid));
        line.uid = process.and_then(|it| known(it.uid));
        if !matches!(line.peer.peer, Peer::Address(_)) {
            line.peer.address = sighting.dialled.map(|it| it.ip());
        }
        let key = (sighting.edge.clone(), direction, sighting.outcome);
        *self.told.entry(key).or_default() += 1;
        self.write(&line);
    }

    /// A line for what a known key did, but for what its first sighting told already.
    fn counted(&mut self, edge: Edge, traffic: &Traffic) {
        let direction = match traffic.key.direction {
            flow::Direction::Outbound => Direction::Outbound,
            flow::Direction::Inbound => Direction::Inbound,
            // No exchange: it has no far end.
            flow::Direction::Listening => return,
        };
        let outcome = traffic.key.outcome;
        if !edge.is_exchange() {
            return;
        }
        let source = self.attribution.workload_of(traffic.key.cgroup).map(|it| Source::from(&**it));
        let Some(mut line) = self.line(&edge, direction, source) else { return };
        let told = self.told_already(edge, direction, traffic);
        line.at = traffic.last_seen;
        line.outcome = outcome;
        line.connections = traffic.connections - told;
        line.bytes_sent = traffic.bytes_sent;
        line.bytes_received = traffic.bytes_received;
        line.executable = self.executables.get(&traffic.id).cloned();
        // How a dial ended is told by another key, but for connected datagram sockets.
        let ended = outcome.is_final() || traffic.key.protocol.serves_datagrams();
        let counts = ended && line.connections > 0;
        if counts || line.bytes_sent > 0 || line.bytes_received > 0 {
            self.write(&line);
        }
    }

    /// How many of these exchanges were told as first sightings.
    fn told_already(&mut self, edge: Edge, direction: Direction, traffic: &Traffic) -> u64 {
        let mut key = (edge, direction, traffic.key.outcome);
        if traffic.key.protocol.serves_datagrams() && !self.told.contains_key(&key) {
            // Dialled, and seen to come in.
            key.2 = key.2.max(Outcome::Sent);
        }
        let Some(left) = self.told.get_mut(&key) else { return 0 };
        let told = traffic.connections.min(*left);
        *left -= told;
        if *left == 0 {
            self.told.remove(&key);
        }
        told
    }

    /// The ends of a line; None where the local one has no name.
    fn line(
        &self,
        edge: &Edge,
        direction: Direction,
        source: Option<Source>,
    ) -> Option<RecordedFlow> {
        let (local, far) = match direction {
            Direction::Outbound => (&edge.client, &edge.server),
            Direction::Inbound => (&edge.server, &edge.client),
        };
        let service = local.service()?;
        let source = source.filter(|it| it.service == *service);
        Some(RecordedFlow {
            at: monitor_core::ids::WallTime::default(),
            node: self.node.clone(),
            source: source.unwrap_or_else(|| Source::named(service.clone())),
            peer: FarEnd { peer: far.clone(), address: None },
            direction,
            protocol: edge.port.protocol,
            port: edge.port.number,
            outcome: Outcome::Attempted,
            connections: 1,
            bytes_sent: 0,
            bytes_received: 0,
            executable: None,
            pid: None,
            uid: None,
        })
    }

    fn write(&mut self, line: &RecordedFlow) {
        line.write_line(&mut self.lines);
        self.recorded.lines += 1;
        self.recorded.connections += line.connections;
    }
}
