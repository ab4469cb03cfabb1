//! The program under test, as an operator runs it: configured by a file, asked through its verbs,
//! ended by signals. Nothing of it is linked in here.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::lab::{Lab, Service};
use crate::process::{Finished, Running, finish};
use crate::receiver::{Receiver, edge_of};
use crate::waiting::eventually;

/// How long it may take to load its programs on a busy machine.
pub const START: Duration = Duration::from_secs(60);
/// Its grace period is 10 s.
const STOP: Duration = Duration::from_secs(20);

/// Five times the promise of a second.
pub const SOON: Duration = Duration::from_secs(5);
/// Five times the ten seconds between two sweeps of the counters.
pub const SWEPT: Duration = Duration::from_secs(50);
/// Pauses between tries double from a second on; five times what a few of them take.
pub const RETRIED: Duration = Duration::from_secs(60);

/// The program, as `cargo xtask test` names it.
#[track_caller]
#[must_use]
pub fn program() -> PathBuf {
    match std::env::var_os("EDGEWATCH_BIN") {
        Some(path) => PathBuf::from(path),
        None => panic!(
            "EDGEWATCH_BIN does not say where the program is: run `cargo xtask test`, or build it and set EDGEWATCH_BIN=$PWD/target/debug/edgewatch"
        ),
    }
}

/// A verb of the program, for what needs no agent.
#[track_caller]
#[must_use]
pub fn verb(words: &[&str]) -> Command {
    let mut line = under().into_iter().chain([program().into_os_string()]);
    let mut command = Command::new(line.next().expect("the program at least"));
    command.args(line).args(words);
    command
}

/// What the program is started through in every test: a command that takes rights away and becomes
/// the words after it, as `cargo xtask test-kernel` gives it.
fn under() -> Vec<OsString> {
    let words = std::env::var("EDGEWATCH_TEST_UNDER").unwrap_or_default();
    words.split_whitespace().map(OsString::from).collect()
}

/// What is in an agent's configuration file, and how it is started.
#[derive(Debug, Clone)]
pub struct Setup {
    top: String,
    tables: String,
    /// Put before the program: a shell that prepares something and then becomes it.
    wrapper: Vec<String>,
    pins: Option<PathBuf>,
}

impl Setup {
    /// An agent in `mode`.
    #[must_use]
    pub fn mode(mode: &str) -> Self {
        let top = format!("mode = {mode:?}\nnode = \"stand\"\n");
        Self { top, tables: String::new(), wrapper: Vec::new(), pins: None }
    }

    /// Adds lines before the first table.
    #[must_use]
    pub fn top(mut self, lines: &str) -> Self {
        self.top.push_str(lines);
        self
    }

    /// Adds tables.
    #[must_use]
    pub fn tables(mut self, lines: &str) -> Self {
        self.tables.push_str(lines);
        self
    }

    /// Judges only what belongs to `lab`: other tests are on the same machine.
    #[must_use]
    pub fn only(self, lab: &Lab) -> Self {
        let pattern = lab.pattern();
        self.tables(&format!("[detect]\nonly = [{pattern:?}]\n"))
    }

    /// Watches only the cgroups of `lab`, with further `lines` of `[capture]`.
    #[must_use]
    pub fn within(self, lab: &Lab, lines: &str) -> Self {
        self.tables(&format!("{}{lines}", lab.own_cgroups()))
    }

    /// Sends its alerts to `receiver`, signed.
    #[track_caller]
    #[must_use]
    pub fn told_to(self, lab: &Lab, receiver: &Receiver) -> Self {
        let secret = lab.path("webhook-secret");
        Receiver::write_secret(&secret);
        let url = receiver.url();
        self.tables(&format!(
            "[[notify]]\nname = \"ops\"\nkind = \"webhook\"\nurl = {url:?}\nsecret_file = {secret:?}\n"
        ))
    }

    /// Pins what it attaches in `pins`.
    #[must_use]
    pub fn pinned(mut self, pins: &Path) -> Self {
        self.pins = Some(pins.to_owned());
        self
    }

    /// The file. Many agents run at once on a machine under test: none of them pins anything unless it
    /// was told where.
    fn text(&self) -> String {
        const CAPTURE: &str = "[capture]\n";
        let pins = match &self.pins {
            Some(pins) => format!("pins = {pins:?}\n"),
            None => "pin = false\n".to_owned(),
        };
        let Self { top, tables, .. } = self;
        match tables.split_once(CAPTURE) {
            Some((before, rest)) => format!("{top}{before}{CAPTURE}{pins}{rest}"),
            None => format!("{top}{tables}{CAPTURE}{pins}"),
        }
    }

    /// Starts it through `words`, which end by executing what follows them.
    #[must_use]
    pub fn through(mut self, words: &[String]) -> Self {
        self.wrapper = words.to_vec();
        self
    }
}

/// An agent with its own configuration, state and socket.
#[derive(Debug)]
pub struct Agent {
    pub service: Service,
    pub config: PathBuf,
    pub state: PathBuf,
    pub socket: PathBuf,
    pub log: PathBuf,
    peer: PathBuf,
    wrapper: Vec<String>,
    running: Option<Running>,
}

impl Lab {
    /// Starts an agent called `name` and waits until it is ready.
    #[track_caller]
    #[must_use]
    pub fn agent(&self, name: &str, setup: &Setup) -> Agent {
        let mut agent = self.prepared_agent(name, setup);
        agent.start();
        agent
    }

    /// A verb that looks for itself (`watch`, `record`), at the cgroups of this lab alone: among the
    /// lines of all tests' traffic those of one would be hard to find.
    #[track_caller]
    #[must_use]
    pub fn looks(&self, words: &[&str]) -> Command {
        let config = self.path("own-cgroups.toml");
        fs::write(&config, self.own_cgroups()).expect("the place is ours");
        let mut command = verb(words);
        command.arg("--config").arg(config);
        command
    }

    fn own_cgroups(&self) -> String {
        let slice = self.slice().display().to_string();
        format!("[capture]\ncgroup = {slice:?}\n")
    }

    /// Writes an agent's configuration without starting it.
    #[track_caller]
    #[must_use]
    pub fn prepared_agent(&self, name: &str, setup: &Setup) -> Agent {
        let config = self.path(&format!("{name}.toml"));
        fs::write(&config, setup.text()).expect("the place is ours");
        Agent {
            service: self.service(name),
            config,
            state: self.path(&format!("{name}-state")),
            socket: self.path(&format!("{name}.sock")),
            log: self.path(&format!("{name}.log")),
            peer: self.peer().to_owned(),
            wrapper: setup.wrapper.clone(),
            running: None,
        }
    }
}

impl Agent {
    /// Starts it, in the cgroup of a service of its own, and waits until it is ready.
    #[track_caller]
    pub fn start(&mut self) {
        self.launch();
        let log = self.log.clone();
        eventually(START, "the agent is ready", || {
            if !self.runs() {
                panic!("the agent has ended:\n{}", tail(&log));
            }
            self.get("/readyz").map_err(|why| format!("{why}\n{}", tail(&log)))
        });
    }

    /// Whether it says that it is ready.
    #[track_caller]
    #[must_use]
    pub fn is_ready(&mut self) -> bool {
        assert!(self.runs(), "the agent has ended:\n{}", tail(&self.log));
        self.get("/readyz").is_ok()
    }

    /// Starts it without waiting.
    #[track_caller]
    pub fn launch(&mut self) {
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.expect("the place is ours");
        let mut command = Command::new(&self.peer);
        command.arg("enter").arg("--cgroup").arg(&self.service.cgroup).arg("--");
        command.args(&self.wrapper).args(under()).arg(program());
        command.args(["run", "--config"]).arg(&self.config);
        command.arg("--state-dir").arg(&self.state).arg("--socket").arg(&self.socket);
        self.running = Some(Running::logged(&mut command, log));
    }

    /// Asks the socket; the body, if the answer is 200.
    ///
    /// # Errors
    /// What was answered instead.
    pub fn get(&self, path: &str) -> Result<String, String> {
        let told = |error: std::io::Error| format!("GET {path}: {error}");
        let mut stream = UnixStream::connect(&self.socket).map_err(told)?;
        stream.set_read_timeout(Some(START)).map_err(told)?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).map_err(told)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).map_err(told)?;
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        if answer.starts_with("HTTP/1.1 200 ") { Ok(body.to_owned()) } else { Err(answer) }
    }

    #[must_use]
    pub fn runs(&mut self) -> bool {
        self.running.as_mut().is_some_and(Running::runs)
    }

    #[track_caller]
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running().pid()
    }

    #[track_caller]
    fn running(&self) -> &Running {
        self.running.as_ref().expect("it was started")
    }

    /// What it said since it was first started.
    #[must_use]
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Kills it without a word.
    #[track_caller]
    pub fn kill(&mut self) {
        self.running().signal(Signal::KILL);
        drop(self.running.take());
    }

    /// Sends it a signal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        self.running().signal(signal);
    }

    /// Stops it where it is, until it is sent [`Signal::CONT`].
    #[track_caller]
    pub fn stop(&self) {
        self.running().stop();
    }

    /// How often something of this kind was lost up to now, as it says itself.
    #[track_caller]
    #[must_use]
    pub fn lost(&self, reason: &str) -> u64 {
        // Whoever asks for the map has it sweep first; its status is as of the last sweep.
        self.text(&["map"]);
        self.json(&["status"])["lost"][reason].as_u64().unwrap_or(0)
    }

    /// Asks it to end, and waits until it has.
    #[track_caller]
    pub fn end(&mut self, signal: Signal) -> ExitStatus {
        self.running().signal(signal);
        self.ended()
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let status = self.running.as_mut().expect("it was started").ended(STOP);
        self.running = None;
        status
    }

    /// A verb, to be run against this agent.
    #[must_use]
    pub fn verb(&self, words: &[&str]) -> Command {
        let mut command = verb(words);
        command.arg("--socket").arg(&self.socket);
        command
    }

    /// Runs a verb to its end.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Finished {
        finish(&mut self.verb(words))
    }

    /// Runs a verb that must succeed; what it printed.
    #[track_caller]
    pub fn text(&self, words: &[&str]) -> String {
        self.run(words).done()
    }

    /// Runs a verb that prints one document.
    #[track_caller]
    #[must_use]
    pub fn json(&self, words: &[&str]) -> Value {
        let text = self.text(&[words, &["--format", "json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}"))
    }

    /// The edge of the map that is written as `edge`.
    ///
    /// # Errors
    /// The edges of the same lab.
    #[track_caller]
    pub fn mapped(&self, edge: &str) -> Result<Value, String> {
        let map = self.json(&["map"]);
        let edges = map.as_array().map(Vec::as_slice).unwrap_or_default();
        let found = edges.iter().find(|it| edge_of(it) == edge);
        found.cloned().ok_or_else(|| {
            let tag = self.tag();
            let mine = edges.iter().filter(|it| edge_of(it).contains(tag));
            let lines: Vec<String> = mine.map(ToString::to_string).collect();
            format!("{} edges, of ours:\n{}", edges.len(), lines.join("\n"))
        })
    }

    /// Waits until the map holds `edge`.
    #[track_caller]
    pub fn sees(&self, edge: &str) -> Value {
        self.shows(edge, SOON, |_| true)
    }

    /// Waits until the map holds `edge` in a state that `fits`.
    #[track_caller]
    pub fn shows(&self, edge: &str, patience: Duration, fits: impl Fn(&Value) -> bool) -> Value {
        eventually(patience, edge, || match self.mapped(edge) {
            Ok(view) if !fits(&view) => Err(view.to_string()),
            other => other,
        })
    }

    /// Checks that the edges of the map that touch `service` are `edges` and no others.
    #[track_caller]
    pub fn has_only(&self, service: &Service, edges: &[String]) {
        let map = self.json(&["map"]);
        let views = map.as_array().into_iter().flatten();
        let touching: Vec<&Value> =
            views.filter(|it| edge_of(it).contains(&service.name)).collect();
        let found: BTreeSet<String> = touching.iter().map(|it| edge_of(it)).collect();
        let expected: BTreeSet<String> = edges.iter().cloned().collect();
        assert_eq!(found, expected, "{touching:#?}");
    }

    /// Waits until the agent knows each of `services`, and guards them.
    #[track_caller]
    pub fn guards(&self, services: &[&Service]) {
        for service in services {
            eventually(SOON, &service.name, || {
                let known = self.json(&["services"]).to_string();
                if known.contains(&format!("{:?}", service.name)) { Ok(()) } else { Err(known) }
            });
        }
        let names = services.iter().map(|service| service.name.as_str());
        self.text(&["baseline", "guard"].into_iter().chain(names).collect::<Vec<_>>());
    }

    /// What the names of this lab's services have in common.
    fn tag(&self) -> &str {
        let unit = self.service.name.trim_end_matches(".service");
        let digits = |byte: char| byte.is_ascii_digit() || byte == '-';
        &unit[unit.trim_end_matches(digits).len()..]
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if std::thread::panicking() {
            complain(&format!("the log of {}:\n{}", self.service.name, tail(&self.log)));
        }
    }
}

fn complain(what: &str) {
    #[expect(clippy::print_stderr, reason = "beside the message of a failed test")]
    {
        eprintln!("{what}");
    }
}

/// The end of a log.
fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
