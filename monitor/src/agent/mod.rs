//! The composition root: opens everything, then one loop owns the engine and performs what it asks
//! for. Decides nothing about edges; ends with everything saved and every program detached.

mod answer;
mod audience;
mod files;
mod naming;
mod perform;
mod preflight;
mod record;
mod supervisor;
mod sweeping;
mod tally;
mod trial;
mod watch;

use std::ops::ControlFlow;
use std::time::Duration;

use anyhow::Context as _;
use monitor_core::baseline::Mode;
use monitor_core::delivery::{DeliveryId, Outcome};
use monitor_core::detect::{Meanwhile, Trouble};
use monitor_core::directory::Fact;
use monitor_core::engine::{
    Change, EdgeView, Effect, Engine, Input, Settings, Snapshot, Status, Watched,
};
use monitor_core::flow::Observation;
use monitor_core::ids::{BootTime, Now, WallTime};
use monitor_core::incident::Alert;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::capture::{self, Capture, Resumed, Summary};
use crate::config::Config;
use crate::identity::Namer;
use crate::notify::Notifier;
use crate::serve::{self, Feed, Listener, Request, ServeError};
use crate::sources::Sources;
use crate::store::Store;
use crate::wording::counted;

use self::files::Files;
use self::perform::{Decided, Performer};
use self::sweeping::Sweeping;
use self::tally::{Book, Tables};

pub use self::preflight::{Preflight, preflight, prepare};
pub use self::record::{RecordOptions, Recorded, record};
pub use self::trial::test_receivers;
pub use self::watch::{WatchOptions, watch};
/// What `run` and `check` refuse a receiver's configuration with.
pub use crate::notify::NotifyError;

/// What a running agent tells whoever watches it.
#[derive(Debug)]
pub enum Told {
    /// It is ready: what it runs on and what it does, for people, in one or more lines.
    Ready(String),
    /// An edge that is new to the map, or a port that was opened.
    Edge(Box<EdgeView>),
    /// A message was accepted.
    Alert(Box<Alert>),
    /// Something a person should know, that stops nothing.
    Warning(String),
}

/// Takes what is told; `Break` asks the agent to end, because nobody listens any more.
pub type Tell = Box<dyn FnMut(Told) -> ControlFlow<()> + Send>;

/// How `run` differs from the configuration's words.
#[derive(Default)]
pub struct RunOptions {
    /// With `--show`: who watches.
    pub tell: Option<Tell>,
}

/// Known keys are asked for their counters this often.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// The engine does its housekeeping this often, however busy it is.
const UPKEEP_EVERY: Duration = Duration::from_millis(500);
/// The baseline files are looked at this often.
const FILES_EVERY: Duration = Duration::from_secs(2);
/// Verbs waiting for an answer; a further one waits in the socket.
const REQUESTS: usize = 64;
/// A delivery that ended.
type Settled = (DeliveryId, Outcome);

/// Deliveries that ended and were not taken in yet; a further one waits to say so.
const OUTCOMES: usize = 64;

/// Runs the agent until it is asked to end.
///
/// # Errors
/// Something it needs is not there, or broke while it ran.
pub async fn run(config: Config, options: RunOptions) -> anyhow::Result<()> {
    // Before anything is opened or written: may we at all?
    let ground = capture::preflight()?;
    let notifier = Notifier::build(&config.notify, Box::new(std::io::stdout()))?;
    let files = Files::read(&config.baseline_files, now().wall)?;
    let door = Listener::bind(&config.serve)?;
    let (store, mut snapshot) = Store::open(&config.state_dir)?;
    let mut tables = Tables::of(&config, &files.written(), &mut snapshot);
    let (internal, budget) = (&config.detect.internal, config.detect.budget);
    let capture = Capture::start(ground, &config.capture, internal, budget, tables.before())?;
    let before = before(config.mode, &snapshot, capture.summary());
    let watched = if options.tell.is_some() { Watched::Yes } else { Watched::No };
    let engine = Engine::restore(settings(&config, watched)?, snapshot);

    let (requests, asked) = mpsc::channel(REQUESTS);
    let stop = CancellationToken::new();
    let feed = Feed::new();
    let served = tokio::spawn(serve::serve(door, requests, feed.clone(), stop.clone()));
    let (outcomes, mut settled) = mpsc::channel(OUTCOMES);
    let (book, kept) = tables.changed(capture.tables().as_deref());
    let mut agent = Agent {
        namer: Namer::new(&config.node_name()),
        sources: Sources::start(&config.identity, &config.node_name()),
        performer: Performer::new(store, notifier, outcomes, options.tell, feed),
        engine,
        capture,
        book,
        sweeping: Sweeping::default(),
        files,
    };
    let told = agent.sources.told();
    agent.learn(told)?;
    agent.resume(kept)?;
    agent.step(Input::Files(agent.files.written()))?;
    if let Some(trouble) = before {
        agent.step(Input::Trouble(trouble))?;
    }
    capture::give_back();
    announce(agent.capture.summary());
    let status = agent.engine.status(now().wall);
    agent.performer.tell(Told::Ready(ready(&config, agent.capture.summary(), &status)));
    let ended = agent.live(asked, &mut settled, served).await;
    stop.cancel();
    // Saved and detached, however it ended.
    let ending = ended.as_ref().map_or(Ending::Kept, |ending| *ending);
    let saved = agent.end(ending, config.grace_period.get(), settled).await;
    ended.and(saved)
}

/// Everything the loop owns.
struct Agent {
    engine: Engine,
    capture: Capture,
    book: Book,
    sweeping: Sweeping,
    namer: Namer,
    sources: Sources,
    performer: Performer,
    files: Files,
}

impl Agent {
    /// The loop: one thing at a time, until somebody asks for the end or something broke.
    async fn live(
        &mut self,
        mut asked: mpsc::Receiver<Request>,
        settled: &mut mpsc::Receiver<Settled>,
        mut served: tokio::task::JoinHandle<Result<(), ServeError>>,
    ) -> anyhow::Result<Ending> {
        let mut signals = Signals::new()?;
        let mut sweep = every(SWEEP_EVERY);
        let mut look = every(FILES_EVERY);
        let mut upkeep = every(UPKEEP_EVERY);
        let mut heartbeat = supervisor::wants_to_hear_every().map(every);
        loop {
            let due = until(self.engine.next_tick());
            tokio::select! {
                ending = signals.any() => return Ok(ending),
                () = self.performer.unheard() => return Ok(Ending::Detached),
                ended = &mut served => {
                    ended.context("the socket's task broke")?.context("serve the socket")?;
                    anyhow::bail!("the socket was closed");
                }
                Some((id, outcome)) = settled.recv() => {
                    self.step(Input::Delivered { id, outcome })?;
                }
                Some(request) = asked.recv() => self.answer(request)?,
                heard = self.capture.next() => {
                    let heard = heard.context("read the kernel's news")?;
                    self.observe(heard)?;
                }
                facts = self.sources.next() => self.learn(facts)?,
                _ = sweep.tick() => self.begin_sweep()?,
                () = std::future::ready(()), if self.sweeping.is_under_way() => self.sweep_on()?,
                _ = look.tick() => {
                    if let Some(news) = self.files.changed() {
                        self.step(news)?;
                    }
                }
                _ = upkeep.tick() => {
                    self.step(Input::Tick)?;
                    self.performer.rest();
                }
                () = tick(heartbeat.as_mut()) => supervisor::tell(NotifyState::Watchdog),
                () = sleep_until(due) => drop(self.step(Input::Tick)?),
            }
        }
    }

    /// Takes up what an agent before this one knew of the kernel's tables; `kept` is what the store is
    /// to know of them.
    fn resume(&mut self, kept: Vec<Change>) -> anyhow::Result<()> {
        self.performer.store(kept);
        let Resumed { surroundings, flows } = self.capture.resumed();
        self.observe(surroundings)?;
        for (flow, edge) in flows {
            self.step(Input::Resumed { flow: Box::new(flow), edge })?;
        }
        Ok(())
    }

    /// Takes in what sources say, as one transaction.
    fn learn(&mut self, facts: Vec<Fact>) -> anyhow::Result<()> {
        let now = now();
        self.performer.took_in(facts.len());
        let effects =
            facts.into_iter().flat_map(|fact| self.engine.step(now, Input::Fact(fact))).collect();
        self.perform(effects).map(drop)
    }

    fn step(&mut self, input: Input) -> anyhow::Result<Option<Decided>> {
        let effects = self.engine.step(now(), input);
        self.perform(effects)
    }

    /// Carries out what a transaction asks for, with all that goes with it.
    fn perform(&mut self, mut effects: Vec<Effect>) -> anyhow::Result<Option<Decided>> {
        naming::find_keys(&mut effects, &self.capture);
        self.book.tally(&mut effects, &mut self.engine, &mut self.capture);
        self.performer.perform(effects, &mut self.capture)
    }

    /// Takes in what capture told, as one transaction.
    fn observe(&mut self, heard: Vec<Observation>) -> anyhow::Result<()> {
        let mut effects = Vec::new();
        for observation in heard {
            if let Some(input) = input_of(&self.namer, observation) {
                if is_unnamed(&input) {
                    self.sources.ask_again();
                }
                effects.extend(self.engine.step(now(), input));
            }
        }
        self.perform(effects).map(drop)
    }

    /// What is left is taken in and saved; what is in flight gets `grace`. What is pinned stays or
    /// goes.
    async fn end(
        mut self,
        ending: Ending,
        grace: Duration,
        settled: mpsc::Receiver<Settled>,
    ) -> anyhow::Result<()> {
        tracing::info!("stopping");
        supervisor::tell(NotifyState::Stopping);
        // Saved and detached, also where the kernel's tables cannot be read any more.
        let swept = self.sweep();
        let effects = self.engine.finish(now());
        let performed = self.perform(effects);
        let left = match ending {
            Ending::Kept => {
                drop(self.capture);
                Ok(())
            }
            Ending::Detached => self.capture.leave_nothing(),
        };
        self.performer.finish(grace, settled).await?;
        swept.and(performed.map(drop)).and(left.context("remove what is pinned"))
    }
}

/// What the store says of the time before this start: that nobody looked, or that it knows of none.
fn before(mode: Mode, snapshot: &Snapshot, summary: &Summary) -> Option<Trouble> {
    let now = now();
    match snapshot.alive {
        Some(since) => {
            // While the machine was off there was nothing to see.
            let up = now.boot.0 / 1_000_000_000;
            let seconds = now.wall.seconds_since(since).min(up);
            let meanwhile = if summary.adopted { Meanwhile::Counted } else { Meanwhile::Unseen };
            Some(Trouble::Gap { seconds, since, meanwhile })
        }
        None if mode != Mode::Learn && snapshot.services.is_empty() => Some(Trouble::EmptyStore),
        None => None,
    }
}

fn settings(config: &Config, watched: Watched) -> anyhow::Result<Settings> {
    Ok(Settings {
        node: config.node_name(),
        mode: config.mode,
        learn: config.learn.rule(),
        only: config.detect.only.clone(),
        places: config.places(),
        required: config.identity.required(),
        sinks: config.notify.iter().map(crate::notify::SinkConfig::sink).collect(),
        watched,
        seed: seed()?,
    })
}

/// A fresh seed from the kernel's random numbers.
fn seed() -> anyhow::Result<u64> {
    use std::io::Read as _;
    let mut bytes = [0; 8];
    let mut file = std::fs::File::open("/dev/urandom").context("open /dev/urandom")?;
    file.read_exact(&mut bytes).context("read /dev/urandom")?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Both clocks.
fn now() -> Now {
    use rustix::time::{ClockId, clock_gettime};
    let wall = clock_gettime(ClockId::Realtime);
    Now {
        boot: BootTime(capture::boot_ns()),
        wall: WallTime(wall.tv_sec * 1_000_000 + wall.tv_nsec / 1_000),
    }
}

/// What an observation means to the engine.
fn input_of(namer: &Namer, observation: Observation) -> Option<Input> {
    Some(match observation {
        Observation::CgroupAppeared { id, path } => {
            Input::Workload { cgroup: id, workload: namer.workload(&path) }
        }
        Observation::CgroupVanished { id } => Input::WorkloadVanished { cgroup: id },
        Observation::Addresses { netns, addresses } => Input::Addresses { netns, addresses },
        Observation::LookedUp(lookup) => Input::LookedUp(lookup),
        Observation::Flow(flow) => Input::Flow(flow),
        Observation::Traffic(traffic) => Input::Traffic(traffic),
        Observation::Forgotten { id, key } => Input::Forgotten { id, key },
        Observation::Flooded(flood) => Input::Flooded(flood),
        Observation::Lost { loss, count } => Input::Lost { loss, count },
        Observation::Detached { program } => Input::Trouble(Trouble::Detached { program }),
        Observation::Unpinned { path } => Input::Trouble(Trouble::Unpinned { path }),
        Observation::Joined(joined) => Input::Trouble(Trouble::Joined(joined)),
        Observation::Removed { cgroup } => Input::Trouble(Trouble::Removed { cgroup }),
        Observation::Canary(canary) => Input::Canary(canary),
    })
}

/// Whether something appears that a source may name.
fn is_unnamed(input: &Input) -> bool {
    matches!(input, Input::Workload { workload, .. } if workload.service.is_provisional())
}

/// The moment of a boot time for the runtime's own clock.
fn until(due: Option<BootTime>) -> Option<Instant> {
    let left = due?.0.saturating_sub(now().boot.0);
    Some(Instant::now() + Duration::from_nanos(left))
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Never where there is no interval.
async fn tick(interval: Option<&mut Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// What is to become of what is pinned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// A service is stopped to be started again, or broke: it goes on counting.
    Kept,
    /// Somebody who started it by hand has seen enough.
    Detached,
}

/// Ctrl-C and SIGTERM.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).context("watch for Ctrl-C")?,
            terminate: signal(SignalKind::terminate()).context("watch for SIGTERM")?,
        })
    }

    async fn any(&mut self) -> Ending {
        tokio::select! {
            _ = self.interrupt.recv() => Ending::Detached,
            _ = self.terminate.recv() => Ending::Kept,
        }
    }
}

/// What is watched, in a line for people.
fn shown(summary: &Summary) -> String {
    format!(
        "kernel {} · cgroup v2 at {} ({}) · {} attached",
        summary.kernel,
        summary.cgroup.path.display(),
        summary.cgroup.layout,
        counted(summary.programs, "program")
    )
}

/// What the agent does here, for people.
fn ready(config: &Config, summary: &Summary, status: &Status) -> String {
    let baseline = match (status.guarded, status.services) {
        (_, 0) => "no baseline yet".to_owned(),
        (guarded, services) => {
            format!("{} known, {guarded} guarded", counted(services, "service"))
        }
    };
    format!(
        "{} · mode {} ({baseline})\nsocket {} · state {} · {}",
        shown(summary),
        config.mode,
        config.serve.socket.display(),
        config.state_dir.display(),
        match &summary.pins {
            None => "Ctrl-C stops and detaches".to_owned(),
            Some(pins) => {
                let pins = pins.display();
                format!("pinned in {pins} · Ctrl-C stops and detaches, SIGTERM leaves it counting")
            }
        }
    )
}

/// Says that the agent is ready: in the log, and to systemd where it asked for that.
fn announce(summary: &Summary) {
    for missing in &summary.missing {
        tracing::warn!("not seen here: {missing}");
    }
    tracing::info!(
        kernel = %summary.kernel,
        programs = summary.programs,
        cgroup = %summary.cgroup.path.display(),
        "ready"
    );
    supervisor::tell(NotifyState::Ready);
}
