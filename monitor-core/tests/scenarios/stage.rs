//! A story's stage: an engine, its clock, and what it has said. The single place that touches the
//! engine's API.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use monitor_core::attribute::{Places, Workload};
use monitor_core::baseline::document::{Document, written};
use monitor_core::baseline::{Grounds, LearnRule, Mode, Promote, Provenance, Written};
use monitor_core::delivery::{Message, Outcome as DeliveryOutcome, Rate, Sink};
use monitor_core::detect::Severity;
use monitor_core::edge::{EdgeWith, Port};
use monitor_core::engine::{
    Actor, Change, Command, Effect, Engine, Input, Selection, Settings, Snapshot, Watched,
};
use monitor_core::flow::{
    Begun, Direction, Flow, FlowKey, KeyId, Outcome, Process, Remote, RttHistogram, Traffic,
};
use monitor_core::ids::{BootTime, CgroupId, NetnsCookie, Now, ServiceName, WallTime};
use monitor_core::incident::State;
use monitor_core::network::{Named, Network};

pub(crate) fn settings(mode: Mode) -> Settings {
    Settings {
        node: "n1".to_owned(),
        mode,
        learn: LearnRule { promote: Promote::Ask, quiet_s: 3600, observations: 3 },
        only: Vec::new(),
        required: BTreeSet::new(),
        places: Places {
            internal: Network::INTERNAL.to_vec(),
            named: Named::new(vec![("192.88.99.0/24".parse().unwrap(), "office".into())]),
        },
        sinks: vec![Sink {
            name: "hook".to_owned(),
            min_severity: Severity::Low,
            services: Vec::new(),
            rate: Rate::PROGRAM,
            room: 1_000,
        }],
        watched: Watched::Yes,
        seed: 7,
    }
}

/// An engine, its clock, and what it has said.
pub(crate) struct Stage {
    pub(crate) engine: Engine,
    pub(crate) now: Now,
    /// By how much the wall clock was set since the start, seconds.
    pub(crate) set_by_s: i64,
    cgroups: BTreeMap<String, CgroupId>,
    next_port: u16,
    /// In the order of their numbers.
    keys: Vec<FlowKey>,
    pub(crate) stored: BTreeMap<String, Change>,
    pub(crate) said: String,
    pub(crate) rearmed: Vec<FlowKey>,
    pub(crate) unknown: BTreeSet<IpAddr>,
    /// Cgroups whose lookups are to be heard.
    pub(crate) heard: BTreeSet<CgroupId>,
    pub(crate) answers: Vec<Result<(), String>>,
    /// What the receiver accepted, and when.
    pub(crate) sent: Vec<Message>,
    pub(crate) sent_at: Vec<BootTime>,
}

impl Stage {
    const EPOCH: i64 = 1_800_000_000_000_000;

    pub(crate) fn new(mode: Mode) -> Self {
        Self {
            engine: Engine::restore(settings(mode), Snapshot::default()),
            now: Now { boot: BootTime(0), wall: WallTime(Self::EPOCH) },
            set_by_s: 0,
            cgroups: BTreeMap::new(),
            next_port: 40_000,
            keys: Vec::new(),
            stored: BTreeMap::new(),
            said: String::new(),
            rearmed: Vec::new(),
            unknown: BTreeSet::new(),
            heard: BTreeSet::new(),
            answers: Vec::new(),
            sent: Vec::new(),
            sent_at: Vec::new(),
        }
    }

    /// Gives the receiver another rate and room, before anything happened.
    pub(crate) fn limit(&mut self, rate: &str, room: usize) {
        let mut settings = settings(Mode::Auto);
        for sink in &mut settings.sinks {
            (sink.rate, sink.room) = (rate.parse().unwrap(), room);
        }
        self.engine = Engine::restore(settings, Snapshot::default());
    }

    /// What the audit says, in order.
    pub(crate) fn audited(&self) -> Vec<String> {
        let entries = self.stored.values().filter_map(|change| match change {
            Change::Audit(_, entry) => Some(entry.what.clone()),
            _ => None,
        });
        entries.collect()
    }

    /// Lets time pass until `millis` after the start, ticking whenever the engine asked for it.
    pub(crate) fn until(&mut self, millis: u64) {
        let end = BootTime(millis * 1_000_000);
        loop {
            let due = self.engine.next_tick().map_or(end, |due| due.max(self.now.boot));
            let step = BootTime(self.now.boot.0 + 1_000_000_000);
            let next = due.min(step).min(end);
            self.set(next);
            self.step(Input::Tick);
            if next == end {
                return;
            }
        }
    }

    pub(crate) fn set(&mut self, boot: BootTime) {
        let micros = i64::try_from(boot.0 / 1000).unwrap();
        let wall = WallTime(Self::EPOCH + micros).plus_seconds(self.set_by_s);
        self.now = Now { boot, wall };
    }

    /// The number of a key: what capture does is done here.
    pub(crate) fn number(&mut self, key: FlowKey) -> KeyId {
        let known = self.keys.iter().position(|it| *it == key);
        let number = known.unwrap_or_else(|| {
            self.keys.push(key);
            self.keys.len() - 1
        });
        KeyId(number.try_into().unwrap())
    }

    pub(crate) fn step(&mut self, mut input: Input) {
        match &mut input {
            Input::Flow(flow) => flow.id = Some(self.number(flow.key)),
            Input::Resumed { flow, .. } => flow.id = Some(self.number(flow.key)),
            Input::Traffic(traffic) => traffic.id = self.number(traffic.key),
            Input::Forgotten { id, key } => *id = self.number(*key),
            _ => {}
        }
        let effects = self.engine.step(self.now, input);
        self.perform(effects);
    }

    pub(crate) fn perform(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Store(changes) => {
                    for change in changes {
                        self.stored.insert(key_of(&change), change);
                    }
                }
                Effect::Rearm(keys) => {
                    self.rearmed.extend(keys.into_iter().map(|key| self.keys[key.index()]));
                }
                Effect::Deliver(delivery) => {
                    let id = delivery.id;
                    self.sent.push(delivery.message);
                    self.sent_at.push(self.now.boot);
                    self.step(Input::Delivered { id, outcome: DeliveryOutcome::Accepted });
                }
                Effect::Alerted(alert) => self.say(&alert),
                Effect::Reply(result) => {
                    self.answers.push(result.map(|_| ()).map_err(|error| error.to_string()));
                }
                Effect::Unknow(addresses) => self.unknown.extend(addresses.into_keys()),
                Effect::Hear(cgroup, _) => drop(self.heard.insert(cgroup)),
                Effect::Appeared(_) | Effect::Leave(_) => {}
            }
        }
    }

    pub(crate) fn say(&mut self, alert: &monitor_core::incident::Alert) {
        let state = match alert.state {
            State::Firing => "firing",
            State::Updated => "updated",
            State::Resolved => "resolved",
        };
        let _written = write!(self.said, "{state} {}:", alert.severity);
        for finding in &alert.findings {
            let _written = write!(self.said, " {}", finding.kind);
            match (&finding.edge, finding.outcome) {
                (Some(edge), Some(outcome)) => {
                    let edge = monitor_core::edge::Edge::from(edge).to_string();
                    let edge = edge.replace("systemd:", "").replace(".service", "");
                    let _written = write!(self.said, " {edge} {outcome}");
                }
                _ => self.said.push_str(&format!(" {}", finding.reasons[0].name)),
            }
            let executable = finding.process.as_ref().and_then(|it| it.executable.as_ref());
            if let Some(executable) = executable {
                let _written = write!(self.said, " with {executable}");
            }
            self.said.push(';');
        }
        self.said.push('\n');
    }

    pub(crate) fn cgroup(&mut self, name: &str) -> CgroupId {
        if let Some(id) = self.cgroups.get(name) {
            return *id;
        }
        let id = CgroupId(100 + self.cgroups.len() as u64);
        self.cgroups.insert(name.to_owned(), id);
        let workload = Workload {
            service: ServiceName::new("systemd", &format!("{name}.service")),
            container: None,
            container_name: None,
            pod: None,
            image: None,
            cgroup: format!("/system.slice/{name}.service"),
            node: None,
        };
        self.step(Input::Workload { cgroup: id, workload });
        id
    }

    pub(crate) fn guard(&mut self, service: &str) {
        let services = Selection::Matching(vec![service.parse().unwrap()]);
        self.command(Command::Guard { services });
    }

    pub(crate) fn event(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let seconds: u64 = words[0].parse().unwrap();
        self.until(seconds * 1000);
        match words[1..] {
            ["tick"] => {}
            ["guard", ref names @ ..] => {
                let services = selection(names);
                self.command(Command::Guard { services });
            }
            ["learn", ref names @ ..] => {
                let services = selection(names);
                self.command(Command::Learn { services, for_s: None });
            }
            ["open", name, seconds] => {
                let services = selection(&[name]);
                let for_s = Some(seconds.parse().unwrap());
                self.command(Command::Learn { services, for_s });
            }
            ["approve", ref edge @ .., "ttl", seconds] => {
                let edge = edge_with(&edge.join(" "));
                let ttl_s = Some(seconds.parse().unwrap());
                self.command(Command::Approve { edge, ttl_s, grounds: Grounds::default() });
            }
            ["approve", ref edge @ ..] => {
                let edge = edge_with(&edge.join(" "));
                self.command(Command::Approve { edge, ttl_s: None, grounds: Grounds::default() });
            }
            ["forbid", ref edge @ ..] => {
                let edge = edge_with(&edge.join(" ")).edge;
                self.command(Command::Forbid { edge, ttl_s: None, grounds: Grounds::default() });
            }
            [client, "->", address, port, outcome] => self.dial(client, address, port, outcome, ""),
            [client, "->", address, port, outcome, "with", path] => {
                self.dial(client, address, port, outcome, path);
            }
            [server, "listens", port, "with", path] => self.listen(server, port, path),
            [client, "opens", socket, "with", path] => self.make(client, socket, path),
            [client, "=>", server, port] => self.talk(client, server, port, "/bin/app"),
            [client, "=>", server, port, "with", path] => self.talk(client, server, port, path),
            _ => panic!("no such event: {line}"),
        }
    }

    pub(crate) fn command(&mut self, command: Command) {
        let actor = Actor { uid: 0, pid: 1, executable: None };
        self.step(Input::Command { actor, command });
    }

    /// Opens a port.
    pub(crate) fn listen(&mut self, server: &str, port: &str, path: &str) {
        let cgroup = self.cgroup(server);
        let key = FlowKey {
            local: None,
            ..key(cgroup, Direction::Listening, Remote::World, port, Outcome::Established)
        };
        self.step(Input::Flow(flow(self.now.wall, key, None, path)));
    }

    /// Makes an unusual socket.
    pub(crate) fn make(&mut self, client: &str, socket: &str, path: &str) {
        let cgroup = self.cgroup(client);
        let socket = Remote::Socket(socket.parse().unwrap());
        let key = key(cgroup, Direction::Outbound, socket, "0/ip", Outcome::Established);
        self.step(Input::Flow(flow(self.now.wall, key, None, path)));
    }

    pub(crate) fn dial(
        &mut self,
        client: &str,
        address: &str,
        port: &str,
        outcome: &str,
        path: &str,
    ) {
        let cgroup = self.cgroup(client);
        let remote = Remote::Address(address.parse().unwrap());
        let key = key(cgroup, Direction::Outbound, remote, port, outcome_of(outcome));
        self.step(Input::Flow(flow(self.now.wall, key, None, path)));
    }

    /// A connection with both ends here, as the kernel tells it: dialled, established, accepted.
    pub(crate) fn talk(&mut self, client: &str, server: &str, port: &str, path: &str) {
        self.next_port += 1;
        let tuple = SocketAddr::from(([10, 0, 0, 1], self.next_port));
        let address = Remote::Address(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2)));
        let server = self.cgroup(server);
        let inbound = if client == "world" {
            Remote::World
        } else {
            let client = self.cgroup(client);
            let dialled = key(client, Direction::Outbound, address, port, Outcome::Attempted);
            self.step(Input::Flow(flow(self.now.wall, dialled, None, path)));
            let reached = FlowKey { outcome: Outcome::Established, ..dialled };
            self.step(Input::Flow(flow(self.now.wall, reached, Some(tuple), path)));
            Remote::Cgroup(client)
        };
        let accepted = key(server, Direction::Inbound, inbound, port, Outcome::Established);
        self.step(Input::Flow(flow(self.now.wall, accepted, Some(tuple), "")));
    }

    /// Kills the engine and starts another from what was stored.
    pub(crate) fn restart(&mut self, mode: Mode) {
        let mut snapshot = Snapshot::default();
        for change in self.stored.values().cloned() {
            match change {
                Change::Service(name, Some(record)) => snapshot.services.push((name, *record)),
                Change::Known(key, Some(it)) => snapshot.known.push((key.source, *it)),
                Change::Edge(edge, Some(record)) => snapshot.edges.push((edge, *record)),
                Change::Incident(_, Some(incident)) => snapshot.incidents.push(*incident),
                Change::Delivery(_, Some(delivery)) => snapshot.deliveries.push(*delivery),
                Change::Audit(number, _) => snapshot.next_audit = number + 1,
                Change::Held(sink, held) => snapshot.held.push((sink, *held)),
                Change::Mute(_, Some(mute)) => snapshot.mutes.push(*mute),
                Change::Alive(until) => snapshot.alive = Some(until),
                Change::Service(_, None)
                | Change::Known(_, None)
                | Change::Edge(_, None)
                | Change::Incident(_, None)
                | Change::Delivery(_, None)
                | Change::Mute(_, None)
                // The kernel's tables are not on this stage.
                | Change::Tables(_)
                | Change::Tallied(_) => {}
            }
        }
        self.engine = Engine::restore(settings(mode), snapshot);
        let cgroups = std::mem::take(&mut self.cgroups);
        for name in cgroups.into_keys() {
            self.cgroup(&name);
        }
    }
}

pub(crate) fn key_of(change: &Change) -> String {
    match change {
        Change::Service(name, _) => format!("service {name}"),
        Change::Edge(edge, _) => format!("edge {edge}"),
        Change::Incident(id, _) => format!("incident {id}"),
        Change::Delivery(id, _) => format!("delivery {id}"),
        Change::Audit(number, _) => format!("audit {number:08}"),
        Change::Held(sink, _) => format!("held {sink}"),
        Change::Mute(pattern, _) => format!("mute {pattern}"),
        Change::Known(key, _) => format!("known {key:?}"),
        Change::Alive(_) => "alive".to_owned(),
        Change::Tables(_) => "tables".to_owned(),
        Change::Tallied(_) => "tallied".to_owned(),
    }
}

pub(crate) fn selection(names: &[&str]) -> Selection {
    if names == ["*"] {
        return Selection::All;
    }
    let pattern = |name: &&str| format!("systemd:{name}.service").parse().unwrap();
    Selection::Matching(names.iter().map(pattern).collect())
}

pub(crate) fn edge_with(text: &str) -> EdgeWith {
    let long = |word: &str| {
        if word.len() == 1 { format!("systemd:{word}.service") } else { word.to_owned() }
    };
    text.split(' ').map(long).collect::<Vec<_>>().join(" ").parse().unwrap()
}

pub(crate) fn outcome_of(text: &str) -> Outcome {
    match text {
        "attempted" => Outcome::Attempted,
        "refused" => Outcome::Refused,
        "established" => Outcome::Established,
        _ => panic!("no such outcome: {text}"),
    }
}

pub(crate) fn key(
    cgroup: CgroupId,
    direction: Direction,
    remote: Remote,
    port: &str,
    outcome: Outcome,
) -> FlowKey {
    let port: Port = port.parse().unwrap();
    let local = (direction == Direction::Inbound).then_some(Ipv4Addr::new(10, 0, 0, 2).into());
    let executable_id = 0;
    FlowKey {
        cgroup,
        direction,
        protocol: port.protocol,
        remote,
        local,
        port: port.number,
        outcome,
        executable_id,
    }
}

pub(crate) fn flow(at: WallTime, key: FlowKey, client: Option<SocketAddr>, path: &str) -> Flow {
    let process = (!path.is_empty()).then(|| {
        Arc::new(Process {
            executable: Some(path.to_owned()),
            pid: 42,
            uid: 33,
            command: "app".to_owned(),
            ..Process::default()
        })
    });
    Flow {
        key,
        id: None,
        at,
        netns: NetnsCookie(1),
        client,
        process,
        begun: Begun::Seen,
        opener: None,
    }
}

/// Plays `story` in `mode` and compares what was said, line by line.
#[track_caller]
pub(crate) fn check_in(mode: Mode, story: &str, expected: &str) -> Stage {
    let mut stage = Stage::new(mode);
    for line in story.lines().map(str::trim).filter(|line| !line.is_empty()) {
        stage.event(line);
    }
    stage.until(stage.now.boot.0 / 1_000_000 + 2_000);
    let expected: String = expected
        .lines()
        .map(str::trim)
        .filter(|it| !it.is_empty())
        .fold(String::new(), |all, it| all + it + "\n");
    assert_eq!(stage.said, expected, "\nstory:{story}");
    stage
}

#[track_caller]
pub(crate) fn check(story: &str, expected: &str) -> Stage {
    check_in(Mode::Auto, story, expected)
}

/// As it is stepped.
pub(crate) const NUMBERED_LATER: KeyId = KeyId(u32::MAX);

pub(crate) fn ip(text: &str) -> Remote {
    Remote::Address(text.parse().unwrap())
}

/// What a known key did since.
pub(crate) fn traffic(stage: &Stage, key: FlowKey, connections: u64) -> Traffic {
    Traffic {
        key,
        id: NUMBERED_LATER,
        last_seen: stage.now.wall,
        connections,
        bytes_sent: 0,
        bytes_received: 0,
        rtt: RttHistogram::default(),
    }
}

/// Baseline files of this content, in JSON.
pub(crate) fn files(text: &str) -> Written {
    let document: Document = serde_json::from_str(text).unwrap();
    written(&[document.parse(Provenance::File, WallTime(1)).unwrap()])
}

/// A file that guards `a`, and lets it dial 192.0.2.1 443/tcp until then.
pub(crate) fn file_until(until: WallTime) -> Written {
    files(&format!(
        r#"{{"format":"edgewatch-baseline/1","services":{{"systemd:a.service":{{"outbound":[
        {{"to":"systemd:b.service","ports":["80/tcp"]}},
        {{"to":"ip:192.0.2.1","ports":["443/tcp"],"until":"{until}"}}]}}}}}}"#
    ))
}
