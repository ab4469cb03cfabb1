//! Who stands behind a flow: the process's ancestors, the shell it was started under, the file it
//! runs; who listens; and that the programs which show all this are attached.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tests::agent::{SOON, Setup, verb};
use tests::eventually;
use tests::kernel::Loaded;
use tests::lab::{Lab, Service, Wire};
use tests::process::{Running, finish};
use tests::receiver::{Receiver, edge_of, findings};
use tests::traffic::{Protocol, Server, edge, nameless};

use crate::lab;

/// Five times the ten seconds between two sweeps of the counters.
const SWEPT: Duration = Duration::from_secs(50);

/// A service's main process, an interpreter: obeys `WAY PORT` and says `done` where
/// what it started has dialled. The orphan dials when the shell that started it is gone.
const SERVICE: &str = r#"
$| = 1;
my ($host) = @ARGV;
my $dial = 'use IO::Socket::INET; IO::Socket::INET->new($ARGV[0]) or die $!; print "done\n"';
my $orphan = 'select(undef, undef, undef, 0.01) while getppid == $ARGV[1];';
print "ready\n";
while (<STDIN>) {
    my ($way, $port) = split;
    my $at = "$host:$port";
    if ($way eq "itself") { system($^X, "-e", $dial, $at) }
    if ($way eq "shell") { system("/bin/sh", "-c", "'$^X' -e '$dial' $at; true") }
    if ($way eq "become") { system("/bin/sh", "-c", "exec '$^X' -e '$dial' $at") }
    if ($way eq "orphan") { system("/bin/sh", "-c", "'$^X' -e '$orphan $dial' $at \$\$ &") }
    if ($way eq "other") { system("/bin/sh", "-c", "$ENV{PEER} dial tcp $at > /dev/null; echo done") }
}
"#;

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
        let watch = Running::start(&mut verb(&["watch", "--format", "json"]));
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
    fn start(&self, service: &Service, program: &Path, words: &[&str]) -> Running {
        let mut command = self.lab.command(service, Some(&self.wire.client), program);
        Running::start(command.args(words).env("PEER", self.lab.peer()))
    }

    /// A service whose main process is an interpreter.
    #[track_caller]
    fn service(&self, service: &Service) -> Running {
        let host = self.wire.server.v4.to_string();
        let mut running = self.start(service, &perl(), &["-e", SERVICE, &host]);
        assert_eq!(running.line(SOON), "ready");
        running
    }
}

fn perl() -> PathBuf {
    let path = finish(Command::new("perl").args(["-e", "print $^X"])).done();
    fs::canonicalize(path).expect("it runs")
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
    let mut main = stand.service(&web);
    let (perl, shell) = (perl().display().to_string(), shell());
    let under = format!("{shell}:{perl}");
    for (way, port, name, parents) in [
        ("itself", 8080, &perl, vec![perl.as_str()]),
        ("shell", 8081, &under, vec![shell.as_str(), perl.as_str()]),
        ("become", 8082, &under, vec![perl.as_str()]),
    ] {
        main.say(&format!("{way} {port}"));
        assert_eq!(main.line(SOON), "done");
        let process = stand.dialled(&web, port);
        assert_eq!(process["executable"], name.as_str(), "{way}: {process:#}");
        assert_eq!(ancestors(&process)[..parents.len()], parents, "{way}: {process:#}");
        assert!(process.get("image").is_none(), "{process:#}");
    }
}

#[test]
fn what_is_no_interpreter_keeps_its_name_under_a_shell() {
    let mut stand = Stand::new();
    let web = stand.lab.service("web");
    let mut main = stand.service(&web);
    main.say("other 8080");
    assert_eq!(main.line(SOON), "done");
    let process = stand.dialled(&web, 8080);
    assert_eq!(process["executable"], stand.lab.peer().display().to_string(), "{process:#}");
    assert_eq!(ancestors(&process)[0], shell(), "{process:#}");
}

#[test]
fn the_shell_that_a_service_begins_with_does_not_count() {
    let mut stand = Stand::new();
    let at = SocketAddr::new(stand.wire.server.v4, 8080);
    let perl = perl().display().to_string();
    let dial = format!("use IO::Socket::INET; IO::Socket::INET->new(q({at})) or die $!");
    for (name, script) in [
        ("forks", format!("'{perl}' -e '{dial}'; true")),
        ("becomes", format!("exec '{perl}' -e '{dial}'")),
        ("nests", format!("sh -c \"'{perl}' -e '{dial}'; true\"; true")),
    ] {
        let service = stand.lab.service(name);
        let mut entry = stand.start(&service, Path::new("/bin/sh"), &["-c", &script]);
        assert!(entry.ended(SOON).success(), "{name}");
        let process = stand.dialled(&service, 8080);
        assert_eq!(process["executable"], perl.as_str(), "{name}: {process:#}");
    }
}

#[test]
fn processes_older_than_the_watch_have_their_shell_too() {
    let lab = lab();
    let wire = lab.wire();
    let web = lab.service("web");
    let at = SocketAddr::new(wire.server.v4, 8080);
    let perl = perl();
    // A service whose shell started an interpreter that waits.
    let waits = format!(
        "print qq(ready\\n); <STDIN>; use IO::Socket::INET; IO::Socket::INET->new(q({at})); print qq(done\\n); <STDIN>"
    );
    let nested = format!("'{}' -e '$| = 1; {waits}'; true", perl.display());
    let main = "exec { $ARGV[0] } @ARGV unless fork; wait";
    let mut command = lab.command(&web, Some(&wire.client), &perl);
    let mut main = Running::start(command.args(["-e", main, "/bin/sh", "-c", &nested]));
    assert_eq!(main.line(SOON), "ready");
    let server = lab.serve(&lab.service("api"), &wire.server, Protocol::Tcp, at);
    let watch = Running::start(&mut verb(&["watch", "--format", "json"]));
    let mut stand = Stand { watch, seen: Vec::new(), servers: vec![server], wire, lab };
    let api = stand.servers[0].service.clone();
    let listener = stand.listens(&api, 8080);
    let process = &listener["process"];
    assert_eq!(process["executable"], stand.lab.peer().display().to_string(), "{listener:#}");
    assert_eq!(process["pid"], stand.servers[0].pid(), "{listener:#}");
    main.say("dial");
    assert_eq!(main.line(SOON), "done");
    let process = stand.dialled(&web, 8080);
    let (perl, shell) = (perl.display().to_string(), shell());
    assert_eq!(process["executable"], format!("{shell}:{perl}"), "{process:#}");
    assert_eq!(ancestors(&process)[..2], [shell.as_str(), perl.as_str()], "{process:#}");
}

#[test]
fn ancestors_that_are_gone_are_named() {
    let mut stand = Stand::new();
    let web = stand.lab.service("web");
    let mut main = stand.service(&web);
    main.say("orphan 8080");
    assert_eq!(main.line(SOON), "done");
    let process = stand.dialled(&web, 8080);
    let (perl, shell) = (perl().display().to_string(), shell());
    let parent = &process["ancestors"][0]["pid"];
    assert!(!Path::new(&format!("/proc/{parent}")).exists(), "{process:#}");
    assert_eq!(ancestors(&process)[..2], [shell.as_str(), perl.as_str()], "{process:#}");
    assert_eq!(process["ancestors"][1]["pid"], main.pid(), "{process:#}");
}

#[test]
fn what_runs_from_memory_or_from_a_deleted_file_says_so() {
    let mut stand = Stand::new();
    let memory = stand.lab.service("memory");
    let peer = stand.lab.peer().to_owned();
    let mut dialler = stand.start(&memory, &peer, &["unfiled", "payload", "obey"]);
    assert_eq!(dialler.line(SOON), "ready");
    let to = SocketAddr::new(stand.wire.server.v4, 8080);
    dialler.say(&format!("dial tcp {to}"));
    assert_eq!(dialler.line(SOON), "established");
    let process = stand.dialled(&memory, 8080);
    let image = (&process["executable"], &process["image"]);
    assert_eq!(image, (&json!("/memfd:payload"), &json!("memory")), "{process:#}");

    let gone = stand.lab.service("gone");
    let program = stand.lab.copied(&peer, "upgraded");
    let mut dialler = stand.lab.dialler_with(&gone, &stand.wire.client, &program);
    fs::remove_file(&program).expect("it is ours");
    dialler.tcp(SocketAddr::new(stand.wire.server.v4, 8081), "established");
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
    let setup = Setup::mode("learn").tables("[capture]\nseen = 64\n");
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
    for port in 20_000..22_000 {
        dialler.is_refused(SocketAddr::new(wire.server.v4, port));
    }
    // What a known edge carried is told by the sweep, which looks for forgotten listeners too.
    dialler.dials(&format!("tcp {} --send 1234", servers[1].address), "established");
    agent.shows(&servers[1].edge_from(&web), SWEPT, |view| {
        view["evidence"]["bytes_to_server"] == 1234
    });
    forbid(&servers[1]);
}

#[test]
fn a_server_dialled_again_by_another_executable_is_paired_again() {
    let lab = lab();
    let agent = lab.agent("agent", &Setup::mode("learn"));
    let wire = lab.wire();
    let (web, api) = (lab.service("web"), lab.service("api"));
    let at = SocketAddr::new(wire.server.v4, 8080);
    let server = lab.serve(&api, &wire.server, Protocol::Tcp, at);
    let copy = lab.copied(lab.peer(), "other");
    let mut diallers =
        [lab.dialler(&web, &wire.client), lab.dialler_with(&web, &wire.client, &copy)];
    let edge_name = server.edge_from(&web);
    let mut executables = Vec::new();
    for dialler in &mut diallers {
        dialler.reaches(&server);
        executables.push(dialler.executable.clone());
        executables.sort();
        let expected = json!(executables);
        agent.shows(&edge_name, SOON, |view| view["evidence"]["executables"] == expected);
    }
    agent.has_only(&web, &[edge_name]);
    let dialled = edge(&web, &nameless(at.ip()), 8080, Protocol::Tcp);
    assert!(agent.mapped(&dialled).is_err());
}

#[test]
fn a_program_that_somebody_detaches_is_missed() {
    let lab = lab();
    let receiver = Receiver::start();
    let agent = lab.agent("agent", &Setup::mode("learn").told_to(&lab, &receiver));
    let (link, program) = attached(agent.pid(), "recvmsg6");
    detach(link);
    let cause = format!("detached-{program}");
    // It looks every two seconds.
    receiver.alert(2 * SOON, &cause, |alert| {
        let finding = &alert["findings"][0];
        finding["kind"] == "sensor" && finding["reasons"][0]["name"] == cause.as_str()
    });
}

/// The link of a process's program of this name.
#[track_caller]
fn attached(pid: u32, name: &str) -> (u32, String) {
    let mine = Loaded::by(pid);
    let program = aya::programs::loaded_programs()
        .flatten()
        .find(|it| mine.programs.contains(&it.id()) && it.name_as_str() == Some(name));
    let program = program.expect("it is loaded").id();
    let mut links = aya::programs::loaded_links().flatten();
    let link = links.find(|it| mine.links.contains(&it.id()) && it.program_id() == program);
    (link.expect("it is attached").id(), name.to_owned())
}

/// Detaches a program as anybody may who may load some, by its link's id (`bpf(2)`).
#[track_caller]
fn detach(link: u32) {
    let number = if cfg!(target_arch = "aarch64") { "280" } else { "321" };
    // BPF_LINK_GET_FD_BY_ID, BPF_LINK_DETACH
    let script = "my $a = pack('L4', $ARGV[1], 0, 0, 0); my $fd = syscall($ARGV[0], 30, $a, 16); \
        die $! if $fd < 0; my $b = pack('L4', $fd, 0, 0, 0); \
        die $! if syscall($ARGV[0], 34, $b, 16) < 0";
    // Perl tells numbers from texts: the kernel gets a pointer for a text.
    let script = format!("$_ += 0 for @ARGV; {script}");
    finish(Command::new("perl").args(["-e", &script, number, &link.to_string()])).done();
}
