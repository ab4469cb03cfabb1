//! How many steps a second the engine takes on one core. Prints one JSON object a line for
//! `cargo xtask bench`: the figure's name, its unit, and the value of each round. Judges nothing.
#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a bench speaks to whoever runs it")]

use std::collections::BTreeSet;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use monitor_core::attribute::{Places, Workload};
use monitor_core::baseline::{LearnRule, Mode, Promote};
use monitor_core::directory::{Fact, Kind, Pod, Source, Subject};
use monitor_core::engine::{Actor, Command, Engine, Input, Selection, Settings, Snapshot, Watched};
use monitor_core::flow::{
    Begun, Direction, Flow, FlowKey, KeyId, Outcome, Protocol, Remote, RttHistogram, Traffic,
};
use monitor_core::ids::{BootTime, CgroupId, NetnsCookie, Now, ServiceName, WallTime};

const ROUNDS: usize = 15;
/// Services on the node that are guarded, each edge being one of them accepting from another; and so
/// many that learn.
const SERVICES: u64 = 200;

fn main() {
    facts();
    for edges in [10_000, 100_000] {
        let mut stage = Stage::with(edges);
        let keys = stage.keys.clone();
        let name = |what: &str| format!("{what}, {edges} edges known");
        measure(&name("engine, counters of a known edge"), "steps/s", keys.len(), || {
            for (id, key) in (0..).map(KeyId).zip(&keys) {
                black_box(stage.step(Input::Traffic(traffic(*key, id))));
            }
        });
        measure(&name("engine, a known edge told again"), "steps/s", keys.len(), || {
            for (id, key) in (0..).map(KeyId).zip(&keys) {
                black_box(stage.step(Input::Flow(flow(*key, id))));
            }
        });
        let mut address = u32::from(Ipv4Addr::new(198, 18, 0, 0));
        let mut ids = (u32::try_from(edges).unwrap()..).map(KeyId);
        let mut dial = |stage: &mut Stage, from: u64| {
            for _ in 0..2_000 {
                address += 1;
                let remote = Remote::Address(IpAddr::V4(address.into()));
                let cgroup = CgroupId(from + u64::from(address) % SERVICES);
                let key = FlowKey {
                    direction: Direction::Outbound,
                    remote,
                    local: None,
                    outcome: Outcome::Refused,
                    ..key(cgroup, CgroupId(0), 443)
                };
                stage.pass(50);
                let id = ids.next().unwrap();
                black_box(stage.step(Input::Flow(flow(key, id))));
                black_box(stage.step(Input::Tick));
            }
        };
        measure(&name("engine, a new edge learned"), "steps/s", 2_000, || {
            dial(&mut stage, 1 + SERVICES);
        });
        measure(&name("engine, a new edge judged odd and told"), "steps/s", 2_000, || {
            dial(&mut stage, 1);
        });
    }
}

/// A cluster's pods, listed again as they are; and what they take, as the first of so many are told.
fn facts() {
    const PODS: u32 = 5_000;
    const MANY: u32 = 50_000;
    let mut stage = Stage::with(0);
    let before = resident();
    list(&mut stage, MANY);
    let taken = resident().saturating_sub(before) / u64::from(MANY / 1_000);
    println!("{{\"name\":\"directory, 1,000 pods\",\"unit\":\"bytes\",\"values\":[{taken}]}}");
    list(&mut stage, PODS);
    measure("engine, 5,000 pods listed again", "pods/s", PODS as usize, || list(&mut stage, PODS));
}

fn list(stage: &mut Stage, pods: u32) {
    let (source, kind) = (Source::Kubernetes, Kind::Pod);
    stage.step(Input::Fact(Fact::Listing(source, kind)));
    for pod in 0..pods {
        let subject = Subject::Pod(Pod {
            uid: format!("6c1a4e08-9d1f-4a0e-8f67-{pod:012x}").into(),
            alias: None,
            service: ServiceName::new(
                "k8s",
                &format!("team-{}/Deployment/app-{}", pod % 50, pod / 10),
            ),
            node: format!("node-{}", pod % 100).into(),
            addresses: vec![IpAddr::V4((u32::from(Ipv4Addr::new(10, 64, 0, 0)) + pod).into())],
            since: Some(stage.now.wall),
            containers: Vec::new(),
        });
        black_box(stage.step(Input::Fact(Fact::Is(source, Box::new(subject)))));
    }
    black_box(stage.step(Input::Fact(Fact::Listed(source, kind))));
}

/// What this process has in memory, bytes.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = pages.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4_096
}

struct Stage {
    engine: Engine,
    now: Now,
    keys: Vec<FlowKey>,
}

impl Stage {
    /// A guarded node with so many edges, and as many services that have none.
    fn with(edges: u64) -> Self {
        let settings = Settings {
            required: BTreeSet::new(),
            places: Places::default(),
            node: "bench".to_owned(),
            mode: Mode::Auto,
            learn: LearnRule { promote: Promote::Ask, quiet_s: 3_600, observations: 100 },
            only: Vec::new(),
            sinks: Vec::new(),
            watched: Watched::No,
            seed: 7,
        };
        let engine = Engine::restore(settings, Snapshot::default());
        let now = Now { boot: BootTime(0), wall: WallTime(1_790_000_000_000_000) };
        let mut stage = Self { engine, now, keys: Vec::new() };
        (1..=SERVICES).for_each(|id| stage.service(id));
        for edge in 0..edges {
            let client = CgroupId(1 + edge % SERVICES);
            let server = CgroupId(1 + (edge / SERVICES) % SERVICES);
            let port = 1_024 + u16::try_from(edge / (SERVICES * SERVICES)).unwrap();
            let key = key(server, client, port);
            let id = KeyId(stage.keys.len().try_into().unwrap());
            stage.step(Input::Flow(flow(key, id)));
            stage.keys.push(key);
        }
        let actor = Actor::agent();
        stage.step(Input::Command { actor, command: Command::Guard { services: Selection::All } });
        (SERVICES + 1..=2 * SERVICES).for_each(|id| stage.service(id));
        stage
    }

    fn service(&mut self, id: u64) {
        let service = ServiceName::new("systemd", &format!("service-{id}.service"));
        let cgroup = format!("/system.slice/service-{id}.service");
        let workload = Workload {
            service,
            container: None,
            container_name: None,
            pod: None,
            cgroup,
            image: None,
            node: None,
        };
        self.step(Input::Workload { cgroup: CgroupId(id), workload });
    }

    fn step(&mut self, input: Input) -> Vec<monitor_core::engine::Effect> {
        self.engine.step(self.now, input)
    }

    fn pass(&mut self, millis: u64) {
        self.now.boot = self.now.boot.plus_millis(millis);
        self.now.wall.0 += i64::try_from(millis).unwrap() * 1_000;
    }
}

/// An accepted connection whose client is on this machine too: certain at once.
fn key(server: CgroupId, client: CgroupId, port: u16) -> FlowKey {
    FlowKey {
        cgroup: server,
        direction: Direction::Inbound,
        protocol: Protocol::Tcp,
        remote: Remote::Cgroup(client),
        local: Some(Ipv4Addr::LOCALHOST.into()),
        port,
        outcome: Outcome::Established,
        executable_id: 0,
    }
}

fn flow(key: FlowKey, id: KeyId) -> Flow {
    let at = WallTime(1_790_000_000_000_000);
    Flow {
        key,
        id: Some(id),
        at,
        netns: NetnsCookie(1),
        client: None,
        process: None,
        begun: Begun::Seen,
        opener: None,
    }
}

fn traffic(key: FlowKey, id: KeyId) -> Traffic {
    Traffic {
        key,
        id,
        last_seen: WallTime(1_790_000_000_000_000),
        connections: 3,
        bytes_sent: 1_000,
        bytes_received: 2_000,
        rtt: RttHistogram::default(),
    }
}

/// Runs `round`, which does `count` of a thing, and prints how many a second. The first is to warm up.
fn measure(name: &str, unit: &str, count: usize, mut round: impl FnMut()) {
    round();
    let rates: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            round();
            count as f64 / start.elapsed().as_secs_f64()
        })
        .collect();
    println!("{{\"name\":{name:?},\"unit\":{unit:?},\"values\":{rates:?}}}");
}
