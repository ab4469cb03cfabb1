//! Whoever can name a container or a pod: container runtimes and the cluster. Each is asked by a task
//! of its own, which never gives up and never blocks anybody: it tells facts, in order, and where its
//! source is away it says so and tries again, ever less often. What the facts mean is the core's.

mod cri;
mod docker;
pub mod fuzzing;
mod kubernetes;
mod setting;
mod text;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use monitor_core::directory::{Fact, Source};
use serde::Deserialize;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::sleep;

use self::kubernetes::Cluster;
pub use self::kubernetes::Reached;
pub use self::setting::Setting;

/// `[identity]`
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub docker: Setting,
    pub podman: Setting,
    /// A place is a kubeconfig file.
    #[serde(deserialize_with = "setting::kubeconfig")]
    pub kubernetes: Setting,
    /// containerd and CRI-O.
    pub cri: Setting,
    /// Resolvers, whose answers to services are heard: by capture, nobody is asked.
    pub dns: Dns,
}

/// Whether what services ask of resolvers is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Dns {
    #[default]
    Auto,
    Off,
}

impl Config {
    /// How a source is to be asked.
    #[must_use]
    pub const fn of(&self, source: Source) -> &Setting {
        match source {
            Source::Docker => &self.docker,
            Source::Podman => &self.podman,
            Source::Cri => &self.cri,
            Source::Kubernetes => &self.kubernetes,
        }
    }

    /// The sources that are told when they are away.
    #[must_use]
    pub fn required(&self) -> BTreeSet<Source> {
        let is_required = |it: &Source| self.of(*it).is_required();
        Source::ALL.into_iter().filter(is_required).collect()
    }
}

/// Facts that wait to be taken in: a source that is ahead waits, and loses nothing.
const WAITING: usize = 4096;

/// Names the node that a pod runs on, as the manifest sets it.
const NODE: &str = "NODE_NAME";

/// All sources, under way. Dropped, they end.
#[derive(Debug)]
pub struct Sources {
    facts: mpsc::Receiver<Fact>,
    /// They end with it.
    _asking: JoinSet<()>,
    /// Something appeared that nobody named.
    unknown: Arc<Notify>,
}

impl Sources {
    /// Begins to ask every source that is configured. `node` is what the cluster calls this machine,
    /// where its environment says nothing else. Needs a runtime.
    #[must_use]
    pub fn start(config: &Config, node: &str) -> Self {
        let (tell, facts) = mpsc::channel(WAITING);
        let mut asking = JoinSet::new();
        let unknown = Arc::new(Notify::new());
        let telling = |source| Telling { source, tell: tell.clone() };
        for source in [Source::Docker, Source::Podman] {
            if let Some(place) = Place::of(source, config.of(source)) {
                telling(source).begins(&place);
                asking.spawn(ask(docker::Containers, telling(source), place));
            }
        }
        if let Some(place) = Place::of(Source::Cri, &config.cri) {
            let pods = cri::Pods { unknown: Arc::clone(&unknown) };
            telling(Source::Cri).begins(&place);
            asking.spawn(ask(pods, telling(Source::Cri), place));
        }
        if let Some(cluster) = Cluster::of(&config.kubernetes) {
            telling(Source::Kubernetes).is_to_be_asked();
            let node = node_name(node).into();
            asking.spawn(kubernetes::ask(telling(Source::Kubernetes), cluster, node));
        }
        Self { facts, _asking: asking, unknown }
    }

    /// Something appeared that nobody has named yet: those are asked again that do not say by
    /// themselves what is new.
    pub fn ask_again(&self) {
        self.unknown.notify_one();
    }

    /// What was told up to now, if anything: for before anything else is taken in, so that what is seen
    /// first waits for its names as well.
    pub fn told(&mut self) -> Vec<Fact> {
        std::iter::from_fn(|| self.facts.try_recv().ok()).collect()
    }

    /// What was told since the last time: at least one fact. Pending for ever where nobody tells
    /// anything.
    pub async fn next(&mut self) -> Vec<Fact> {
        let mut facts = Vec::new();
        if self.facts.recv_many(&mut facts, WAITING).await == 0 {
            std::future::pending::<()>().await;
        }
        facts
    }
}

/// Asks the cluster once what it grants; None where it is not to be asked.
pub async fn reach_cluster(config: &Config, node: &str) -> Option<Result<Reached, String>> {
    let cluster = Cluster::of(&config.kubernetes)?;
    Some(kubernetes::reach(&cluster, &node_name(node)).await)
}

/// What the cluster calls this machine: what its environment says, else its own name.
#[must_use]
pub fn node_name(own: &str) -> String {
    std::env::var(NODE).unwrap_or_else(|_unset| own.to_owned())
}

/// Where a source is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    sockets: Vec<PathBuf>,
    /// It may be that there is none, which nobody need know.
    optional: bool,
}

impl Place {
    /// None where it is not to be asked.
    fn of(source: Source, setting: &Setting) -> Option<Self> {
        let usual = || usual_sockets(source).iter().map(PathBuf::from).collect();
        match setting {
            Setting::Off => None,
            Setting::Auto => Some(Self { sockets: usual(), optional: true }),
            Setting::Required => Some(Self { sockets: usual(), optional: false }),
            Setting::At(path) => Some(Self { sockets: vec![path.clone()], optional: false }),
        }
    }

    /// The socket that is there; else, where one must be, the first.
    fn socket(&self) -> Option<&Path> {
        let there = self.sockets.iter().find(|it| it.exists());
        there.or_else(|| self.sockets.first().filter(|_| !self.optional)).map(PathBuf::as_path)
    }
}

const fn usual_sockets(source: Source) -> &'static [&'static str] {
    match source {
        Source::Docker => &["/run/docker.sock", "/var/run/docker.sock"],
        Source::Podman => &["/run/podman/podman.sock"],
        Source::Cri => &[
            "/run/containerd/containerd.sock",
            "/run/k3s/containerd/containerd.sock",
            "/run/crio/crio.sock",
        ],
        Source::Kubernetes => &[],
    }
}

/// A runtime that takes longer to answer hangs.
const ANSWER: Duration = Duration::from_secs(10);
/// How often it is looked whether a socket has appeared.
const LOOK: Duration = Duration::from_secs(10);

/// What is asked at a runtime's socket.
trait Runtime: Send {
    /// Lists, then follows until the runtime goes away; tells why it did. Resets the patience once it has
    /// answered.
    fn follow(
        &mut self,
        telling: &Telling,
        socket: &Path,
        patience: &mut Patience,
    ) -> impl Future<Output = Result<String, Unheard>> + Send;
}

/// Asks a runtime until nobody listens any more.
async fn ask(mut runtime: impl Runtime, telling: Telling, place: Place) {
    let mut patience = Patience::new();
    loop {
        let Some(socket) = place.socket() else {
            sleep(LOOK).await;
            continue;
        };
        let why = match runtime.follow(&telling, socket, &mut patience).await {
            Ok(why) => why,
            Err(Unheard) => return,
        };
        let why = format!("{}: {why}", socket.display());
        if telling.tell(Fact::Away(telling.source, why)).await.is_err() {
            return;
        }
        sleep(patience.take(random())).await;
    }
}

/// One source's voice.
#[derive(Debug, Clone)]
struct Telling {
    source: Source,
    tell: mpsc::Sender<Fact>,
}

/// The agent has ended: nobody listens any more.
#[derive(Debug)]
struct Unheard;

impl Telling {
    /// There may be somebody to ask: what is seen until the answer comes waits for its names.
    fn begins(&self, place: &Place) {
        if place.socket().is_some() {
            self.is_to_be_asked();
        }
    }

    /// Before anything else is told: there is room for it.
    fn is_to_be_asked(&self) {
        drop(self.tell.try_send(Fact::Away(self.source, "not asked yet".to_owned())));
    }

    async fn tell(&self, fact: Fact) -> Result<(), Unheard> {
        self.tell.send(fact).await.map_err(|_closed| Unheard)
    }
}

/// How long to wait until a source that went away is asked again: twice as long each time, up to a
/// minute, by a random part less, so that the nodes of a cluster do not come back as one.
#[derive(Debug)]
struct Patience {
    next: Duration,
}

impl Patience {
    const FIRST: Duration = Duration::from_millis(500);
    const MOST: Duration = Duration::from_secs(60);

    const fn new() -> Self {
        Self { next: Self::FIRST }
    }

    /// It answered.
    const fn reset(&mut self) {
        self.next = Self::FIRST;
    }

    fn take(&mut self, random: u32) -> Duration {
        let next = self.next;
        self.next = (next * 2).min(Self::MOST);
        next.mul_f64(1.0 - f64::from(random) / f64::from(u32::MAX) / 4.0)
    }
}

/// Spreads what would else happen at once.
fn random() -> u32 {
    use std::hash::BuildHasher as _;
    let bits = std::hash::RandomState::new().hash_one(0_u8);
    u32::try_from(bits >> 32).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_to_a_minute_and_starts_anew() {
        let mut patience = Patience::new();
        let waits: Vec<u128> = (0..9).map(|_| patience.take(0).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        patience.reset();
        assert_eq!(patience.take(u32::MAX).as_millis(), 375);
    }

    #[test]
    fn a_source_is_asked_where_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let here = dir.path().join("here");
        std::fs::write(&here, "").unwrap();
        let place =
            |optional| Place { sockets: vec![dir.path().join("not"), here.clone()], optional };
        assert_eq!(place(true).socket(), Some(&*here));
        std::fs::remove_file(&here).unwrap();
        assert_eq!(place(true).socket(), None);
        assert_eq!(place(false).socket(), Some(&*dir.path().join("not")));
        assert_eq!(Place::of(Source::Docker, &Setting::Off), None);
    }
}
