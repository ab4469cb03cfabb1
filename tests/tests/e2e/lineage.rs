//! Who stands behind a flow: the process's ancestors, the shell it was started under, the file it
//! runs; who listens; and that the programs which show all this are attached.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tests::agent::{SOON, Setup, verb};
use tests::eventually;
use tests::kernel::Loaded;
use tests::lab::{Lab, Service, Wire};
use tests::process::Running;
use tests::receiver::{Receiver, edge_of, findings};
use tests::traffic::{Protocol, Server};

use crate::lab;

/// The stand: `edgewatch watch`, and servers that are there before it.
struct Stand {
    watch: Running,
    seen: Vec<Value>,
    servers: Vec<Server>,
    wire: Wire,
    lab: Lab,
}

impl Stand {
    const PORTS: [u16; 3] = [8080, 8081, 8082];

    #[track_caller]
    fn new() -> Self {
        let lab = lab();
        let wire = lab.wire();
        let api = lab.service("api");
        let at = |port| SocketAddr::new(wire.server.v4, port);
        let servers =
            Self::PORTS.map(|port| lab.serve(&api, &wire.server, Protocol::Tcp, at(port))).into();
        let watch = Running::start(&mut lab.looks(&["watch", "--format", "json"]));
        let mut stand = Self { watch, seen: Vec::new(), servers, wire, lab };
        // What listened before is told once all is attached.
        stand.listens(&api, 8080);
        stand
    }

    /// Waits for the line that `fits`.
    #[track_caller]
    fn line(&mut self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        eventually(2 * SOON, what, || {
            while let Some(line) = self.watch.line_within(Duration::from_millis(100)) {
                self.seen.push(serde_json::from_str(&line).expect("one document a line"));
            }
            let found = self.seen.iter().find(|it| fits(it)).cloned();
            found.ok_or_else(|| {
                format!("{} lines, the last {:#?}", self.seen.len(), self.seen.last())
            })
        })
    }

    #[track_caller]
    fn listens(&mut self, service: &Service, port: u16) -> Value {
        let socket = json!({"service": service.name, "listens": format!("{port}/tcp")});
        self.line(&socket.to_string(), |it| it["socket"] == socket)
    }

    /// The process that dialled a server first.
    #[track_caller]
    fn dialled(&mut self, client: &Service, port: u16) -> Value {
        let server = self.servers.iter().find(|it| it.address.port() == port);
        let edge = server.expect("one of the ports").edge_from(client);
        self.line(&edge, |it| edge_of(it) == edge)["process"].clone()
    }

    /// Starts something in a service's cgroup.
    #[track_caller]
    fn start(&self, service: &Service, program: &str, words: &[&str]) -> Running {
        let client = Some(&self.wire.client);
        Running::start(self.lab.command(service, client, Path::new(program)).args(words))
    }

    /// The main process of a service: obeys.
    #[track_caller]
    fn main(&self, service: &Service, program: &str) -> Running {
        let mut running = self.start(service, program, &["obey"]);
        assert_eq!(running.line(SOON), "ready");
        running
    }

    fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.wire.server.v4, port)
    }
}

/// A program that dials and that its name makes an interpreter.
#[track_caller]
fn interpreter(lab: &Lab) -> String {
    lab.copied(lab.peer(), "python3.11").display().to_string()
}

fn shell() -> String {
    fs::canonicalize("/bin/sh").expect("every system has one").display().to_string()
}

/// The executables of a process's ancestors, the nearest first.
fn ancestors(process: &Value) -> Vec<&str> {
    let ancestors = process["ancestors"].as_array().into_iter().flatten();
    ancestors.map(|it| it["executable"].as_str().unwrap_or("?")).collect()
}

#[test]
fn an_interpreter_under_a_services_shell_is_another_executable() {
    let mut stand = Stand::new();
    let web = stand.lab.service("web");
    let python = interpreter(&stand.lab);
    let mut main = stand.main(&web, &python);
    let shell = shell();
    let under = format!("{shell}:{python}");
    let [itself, forked, became] = Stand::PORTS.map(|port| format!("dial tcp {}", stand.at(port)));
    for (order, port, name, parents) in [
        (format!("start {python} {itself}"), 8080, &python, vec![python.as_str()]),
        (format!("shell {python} {forked}; true"), 8081, &under, vec![&shell, &python]),
        (format!("shell exec {python} {became}"), 8082, &under, vec![&python]),
    ] {
        main.say(&order);
        assert_eq!(main.line(SOON), "established");
        let process = stand.dialled(&web, port);
        assert_eq!(process["executable"], name.as_str(), "{order}: {process:#}");
        assert_eq!(ancestors(&process)[..parents.len()], parents, "{order}: {process:#}");
        assert!(process.get("image").is_none(), "{process:#}");
    }
}

#[test]
fn what_is_no_interpreter_keeps_its_name_under_a_shell() {
    let mut stand = Stand::new();
    let web = stand.lab.service("web");
    let peer = stand.lab.peer().display().to_string();
    let mut main = stand.main(&web, &peer);
    main.say(&format!("shell {peer} dial tcp {}; true", stand.at(8080)));
    assert_eq!(main.line(SOON), "established");
    let process = stand.dialled(&web, 8080);
    assert_eq!(process["executable"], peer, "{process:#}");
    assert_eq!(ancestors(&process)[0], shell(), "{process:#}");
}

#[test]
fn the_shell_that_a_service_begins_with_does_not_count() {
    let mut stand = Stand::new();
    let python = interpreter(&stand.lab);
    let dial = format!("{python} dial tcp {}", stand.at(8080));
    for (name, script) in [
        ("forks", format!("{dial}; true")),
        ("becomes", format!("exec {dial}")),
        ("nests", format!("sh -c '{dial}; true'; true")),
        ("wraps", format!("env sh -c '{dial}; true'; true")),
    ] {
        let service = stand.lab.service(name);
        let mut entry = stand.start(&service, "/bin/sh", &["-c", &script]);
        assert!(entry.ended(SOON).success(), "{name}");
        let process = stand.dialled(&service, 8080);
        assert_eq!(process["executable"], python, "{name}: {process:#}");
    }
}

#[test]
fn processes_older_than_the_watch_have_their_shell_too() {
    let lab = lab();
    let wire = lab.wire();
    let (web, api) = (lab.service("web"), lab.service("api"));
    let python = interpreter(&lab);
    // A service whose shell started an interpreter that waits.
    let mut command = lab.command(&web, Some(&wire.client), Path::new(&python));
    let mut main = Running::start(command.arg("obey"));
    assert_eq!(main.line(SOON), "ready");
    main.say(&format!("shell {python} obey; true"));
    assert_eq!(main.line(SOON), "ready");
    let at = SocketAddr::new(wire.server.v4, 8080);
    let server = lab.serve(&api, &wire.server, Protocol::Tcp, at);
    let watch = Running::start(&mut lab.looks(&["watch", "--format", "json"]));
    let mut stand = Stand { watch, seen: Vec::new(), servers: vec![server], wire, lab };
    let listener = stand.listens(&api, 8080);
    let process = &listener["process"];
    assert_eq!(process["executable"], stand.lab.peer().display().to_string(), "{listener:#}");
    assert_eq!(process["pid"], stand.servers[0].pid(), "{listener:#}");
    main.say(&format!("dial tcp {at}"));
    assert_eq!(main.line(SOON), "established");
    let process = stand.dialled(&web, 8080);
    let shell = shell();
    assert_eq!(process["executable"], format!("{shell}:{python}"), "{process:#}");
    assert_eq!(ancestors(&process)[..2], [shell.as_str(), python.as_str()], "{process:#}");
}

/// As in a pod: the host's hierarchy is mounted, its root far above what the agent calls the root.
#[test]
fn from_within_a_cgroup_namespace_older_shells_are_told_apart() {
    let lab = lab();
    let wire = lab.wire();
    let (web, job, api) = (lab.service("web"), lab.service("job"), lab.service("api"));
    let python = interpreter(&lab);
    let start = |service: &Service, program: &str, words: &[&str]| {
        let mut command = lab.command(service, Some(&wire.client), Path::new(program));
        let mut running = Running::start(command.args(words));
        assert_eq!(running.line(SOON), "ready");
        running
    };
    let mut under_own = start(&web, &python, &["obey"]);
    under_own.say(&format!("shell {python} obey; true"));
    assert_eq!(under_own.line(SOON), "ready");
    let script = format!("{python} obey; true");
    let under_first = start(&job, "/bin/sh", &["-c", &script]);
    let at = SocketAddr::new(wire.server.v4, 8080);
    let server = lab.serve(&api, &wire.server, Protocol::Tcp, at);
    let plain = verb(&["watch", "--format", "json"]);
    let mut within = lab.command(&lab.service("agent"), None, Path::new("unshare"));
    within.arg("--cgroup").arg(plain.get_program()).args(plain.get_args());
    let watch = Running::start(&mut within);
    let mut stand = Stand { watch, seen: Vec::new(), servers: vec![server], wire, lab };
    stand.listens(&api, 8080);
    for (service, mut running, name) in
        [(web, under_own, format!("{}:{python}", shell())), (job, under_first, python.clone())]
    {
        running.say(&format!("dial tcp {at}"));
        assert_eq!(running.line(SOON), "established");
        let process = stand.dialled(&service, 8080);
        assert_eq!(process["executable"], name, "{process:#}");
    }
}

#[test]
fn ancestors_that_are_gone_are_named() {
    let mut stand = Stand::new();
    let web = stand.lab.service("web");
    let peer = stand.lab.peer().display().to_string();
    let mut main = stand.main(&web, &peer);
    main.say(&format!("shell {peer} orphaned $$ dial tcp {} &", stand.at(8080)));
    assert_eq!(main.line(SOON), "established");
    let process = stand.dialled(&web, 8080);
    let parent = &process["ancestors"][0]["pid"];
    assert!(!Path::new(&format!("/proc/{parent}")).exists(), "{process:#}");
    assert_eq!(ancestors(&process)[..2], [shell().as_str(), peer.as_str()], "{process:#}");
    assert_eq!(process["ancestors"][1]["pid"], main.pid(), "{process:#}");
}

#[test]
fn what_runs_from_memory_or_from_a_deleted_file_says_so() {
    let mut stand = Stand::new();
    let memory = stand.lab.service("memory");
    let peer = stand.lab.peer().to_owned();
    let program = peer.display().to_string();
    let mut dialler = stand.start(&memory, &program, &["unfiled", "payload", "obey"]);
    assert_eq!(dialler.line(SOON), "ready");
    dialler.say(&format!("dial tcp {}", stand.at(8080)));
    assert_eq!(dialler.line(SOON), "established");
    let process = stand.dialled(&memory, 8080);
    let image = (&process["executable"], &process["image"]);
    assert_eq!(image, (&json!("/memfd:payload"), &json!("memory")), "{process:#}");

    let gone = stand.lab.service("gone");
    let program = stand.lab.copied(&peer, "upgraded");
    let mut dialler = stand.lab.dialler_with(&gone, &stand.wire.client, &program);
    fs::remove_file(&program).expect("it is ours");
    dialler.tcp(stand.at(8081), "established");
    let process = stand.dialled(&gone, 8081);
    let image = (&process["executable"], &process["image"]);
    assert_eq!(image, (&json!(dialler.executable), &json!("deleted")), "{process:#}");
}

#[test]
fn a_port_that_is_opened_is_told_with_who_opens_it() {
    let mut stand = Stand::new();
    let late = stand.lab.service("late");
    for (address, port) in [(stand.wire.server.v4, 9000), (stand.wire.server.v6, 9001)] {
        let at = SocketAddr::new(address, port);
        let server = stand.lab.serve(&late, &stand.wire.server, Protocol::Tcp, at);
        let line = stand.listens(&late, port);
        assert_eq!(line["process"]["pid"], server.pid(), "{line:#}");
        assert_eq!(line["process"]["executable"], stand.lab.peer().display().to_string());
        let cgroup = line["cgroup"].as_str().unwrap_or_default();
        assert!(late.cgroup.ends_with(cgroup.trim_start_matches('/')), "{line:#}");
        assert!(line.get("edge").is_none() && line.get("outcome").is_none(), "{line:#}");
    }
}

#[test]
fn a_listener_that_is_forbidden_is_told_while_it_listens() {
    let lab = lab();
    let receiver = Receiver::start();
    // Room for little, so that the kernel forgets what is not seen again.
    let setup = Setup::mode("learn").within(&lab, "seen = 64\n");
    let agent = lab.agent("agent", &setup.told_to(&lab, &receiver));
    let wire = lab.wire();
    let (web, api) = (lab.service("web"), lab.service("api"));
    let mut dialler = lab.dialler(&web, &wire.client);
    let mut serve = |port| {
        let at = SocketAddr::new(wire.server.v4, port);
        let server = lab.serve(&api, &wire.server, Protocol::Tcp, at);
        dialler.reaches(&server);
        agent.sees(&server.edge_from(&web));
        server
    };
    let servers = [serve(8080), serve(8081)];
    let forbid = |server: &Server| {
        let port = server.address.port();
        let listener = format!("{} listens {port}/tcp", api.name);
        agent.text(&["baseline", "forbid", &listener, "--reason", "moved"]);
        receiver.alert(SOON, &listener, |alert| {
            findings(alert).any(|it| {
                it["kind"] == "forbidden"
                    && it["edge"]["port"] == port
                    && it["edge"].get("client").is_none()
            })
        });
    };
    forbid(&servers[0]);
    dialler.dials(&format!("datagram {}:20000 --ports 300", wire.server.v4), "sent");
    // Whoever asks for the map has it sweep first, and the sweep looks for forgotten listeners too.
    agent.text(&["map"]);
    forbid(&servers[1]);
}

#[test]
fn a_program_that_somebody_detaches_is_missed() {
    let lab = lab();
    let receiver = Receiver::start();
    let agent = lab.agent("agent", &Setup::mode("learn").told_to(&lab, &receiver));
    Loaded::by(agent.pid()).detach("recvmsg6");
    // It looks every two seconds.
    receiver.alert(2 * SOON, "the sensor's alert", |alert| {
        let finding = &alert["findings"][0];
        finding["kind"] == "sensor" && finding["reasons"][0]["name"] == "detached-recvmsg6"
    });
}
