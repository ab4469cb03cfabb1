//! The program against an agent's socket: what is asked, what is printed, how it exits. The engine
//! behind the socket is a list of canned answers.
#![expect(clippy::unwrap_used, reason = "all of this is a test")]

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use monitor::serve::{self, Feed, Listener, Query, Refusal, Request};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

struct Agent {
    dir: tempfile::TempDir,
    runtime: tokio::runtime::Runtime,
    asked: std::sync::mpsc::Receiver<Query>,
    shutdown: CancellationToken,
    feed: Feed,
}

impl Agent {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (told, asked) = std::sync::mpsc::channel();
        let shutdown = CancellationToken::new();
        let (sender, mut requests) = mpsc::channel::<Request>(4);
        let config = serve::Config { socket: dir.path().join("edgewatch.sock") };
        let (served, feed) = (shutdown.clone(), Feed::new());
        let served_feed = feed.clone();
        runtime.block_on(async {
            let listener = Listener::bind(&config).unwrap();
            tokio::spawn(serve::serve(listener, sender, served_feed, served));
        });
        runtime.spawn(async move {
            while let Some(request) = requests.recv().await {
                let answer = answer(&request.query);
                told.send(request.query.clone()).unwrap();
                request.answer(answer);
            }
        });
        Self { dir, runtime, asked, shutdown, feed }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edgewatch"));
        command
            .args(words)
            .env_clear()
            .env("EDGEWATCH_SOCKET", self.dir.path().join("edgewatch.sock"))
            .env("SUDO_USER", "anna")
            .current_dir(self.dir.path());
        command
    }

    #[track_caller]
    fn run(&self, words: &[&str]) -> Ran {
        Ran::of(self.command(words).output().unwrap())
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.shutdown.cancel();
        let _entered = self.runtime.enter();
    }
}

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn reply() -> Value {
    json!({
        "services": ["compose:shop/web"],
        "added": ["compose:shop/web -> compose:shop/db 5432/tcp"],
        "removed": [],
    })
}

fn alert(id: &str) -> Value {
    json!({
        "schema": "edgewatch-alert/1", "id": id, "revision": 1, "dedup_key": "sha256:0",
        "state": "firing", "severity": "high", "score": 7.0, "title": "a dialled b", "node": "n1",
        "service": "systemd:a.service", "first_seen": "2026-11-21T10:00:00Z",
        "last_seen": "2026-11-21T10:00:00Z", "count": 1, "findings": [], "allow": "x",
    })
}

fn answer(query: &Query) -> Result<Value, Refusal> {
    match query {
        Query::Map => Ok(json!([{
            "edge": {"client": "world", "server": "systemd:a.service", "protocol": "tcp", "port": 443},
            "seen_from": "server", "outcome": "established", "at": "2026-11-21T10:00:00Z",
            "standing": "allowed",
        }])),
        Query::Alerts => Ok(json!([alert("01JAAA"), alert("01JABB")])),
        Query::Alert(id) => match id.as_str() {
            "01JAB" => Ok(alert("01JABB")),
            "01J" => Err(Refusal::Conflict(format!("2 alerts begin with {id}: write more of it"))),
            _ => Err(Refusal::Missing(format!(
                "there is no alert {id}: `edgewatch alerts` lists them"
            ))),
        },
        Query::Mutes => Ok(json!([{
            "pattern": "compose:shop/*", "since": "2026-11-21T10:00:00Z",
            "until": "2026-11-21T14:00:00Z", "approver": "anna", "reason": "rollout",
            "incidents": 1, "messages": 12,
        }])),
        Query::Test { receiver: Some(_) } => Ok(json!([{"receiver": "ops"}])),
        Query::Test { receiver: None } => Ok(json!([
            {"receiver": "ops"}, {"receiver": "chat", "failure": "https://hooks.example answered 404"},
        ])),
        Query::Undecided => Ok(json!([])),
        Query::DifferenceTo(document) if document.services.is_empty() => {
            Ok(json!({"services": [], "added": [], "removed": []}))
        }
        Query::DifferenceTo(_) | Query::Command(_) => Ok(reply()),
        Query::Document { .. } => Ok(json!({
            "format": "edgewatch-baseline/1",
            "services": {"compose:shop/web": {"inbound": [{"from": "world", "ports": ["443/tcp"]}]}},
        })),
        _ => Err(Refusal::Conflict("not now".to_owned())),
    }
}

const DOCUMENT: &str = "\
format: edgewatch-baseline/1
services:
  compose:shop/web:
    inbound:
      - {from: world, ports: [443/tcp]}
";

#[test]
fn people_get_tables_and_programs_get_json() {
    let agent = Agent::start();
    let ran = agent.run(&["map"]);
    assert!(ran.stdout.contains("world   → systemd:a.service  443/tcp"), "{}", ran.stdout);
    let ran = agent.run(&["map", "--format", "json"]);
    let answer: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(answer[0]["edge"]["port"], 443);
    assert_eq!(ran.code, 0);
}

#[test]
fn refusals_are_told_in_the_agents_words() {
    let agent = Agent::start();
    let ran = agent.run(&["status"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (1, "edgewatch: not now\n"));
    let ran = agent.run(&["status", "--socket", "/nowhere/edgewatch.sock"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.starts_with("edgewatch: no agent answers at /nowhere/"), "{}", ran.stderr);
}

#[test]
fn an_alert_is_shown_by_the_beginning_of_its_id() {
    let agent = Agent::start();
    let ran = agent.run(&["alerts", "show", "01jab"]);
    assert_eq!(ran.code, 0);
    assert!(
        ran.stdout.starts_with("High · a dialled b\n01JABB · firing, revision 1 "),
        "{}",
        ran.stdout
    );
    let ran = agent.run(&["alerts", "show", "01J"]);
    assert_eq!(ran.stderr, "edgewatch: 2 alerts begin with 01J: write more of it\n");
    let ran = agent.run(&["alerts", "show", "02"]);
    assert_eq!(ran.stderr, "edgewatch: there is no alert 02: `edgewatch alerts` lists them\n");
    assert_eq!(ran.code, 1);
}

#[test]
fn decisions_reach_the_agent_with_who_made_them() {
    let agent = Agent::start();
    let edge = "compose:shop/web -> compose:shop/db 5432/tcp";
    let ran = agent.run(&["baseline", "approve", edge, "--ttl", "7d", "--reason", "why"]);
    assert_eq!((ran.code, ran.stdout), (0, format!("+ {edge}\n")));
    let Query::Command(command) = agent.asked.recv().unwrap() else { panic!("no command") };
    assert_eq!(
        serde_json::to_value(command).unwrap(),
        json!({
            "do": "approve", "edge": edge, "ttl_s": 604_800,
            "grounds": {"approver": "anna", "reason": "why"},
        })
    );
    let ran = agent.run(&["baseline", "guard", "compose:shop/*"]);
    assert!(ran.stdout.starts_with("guarded 1 service: compose:shop/web\n"), "{}", ran.stdout);
    agent.asked.recv().unwrap();
    agent.file("web.yaml", DOCUMENT);
    let ran = agent.run(&["baseline", "import", "web.yaml", "--guard"]);
    assert!(ran.stdout.starts_with("imported and guarded 1 service: "), "{}", ran.stdout);
    let Query::Command(command) = agent.asked.recv().unwrap() else { panic!("no command") };
    assert_eq!(
        serde_json::to_value(command).unwrap()["document"]["services"],
        json!({"compose:shop/web": {"inbound": [{"from": "world", "ports": ["443/tcp"]}]}})
    );
    let ran = agent.run(&["baseline", "forbid", &format!("{edge} with /bin/sh")]);
    assert_eq!(ran.code, 64, "{}", ran.stderr);
}

#[test]
fn a_mute_says_what_for_how_long_and_why() {
    let agent = Agent::start();
    let mute = ["alerts", "mute", "compose:shop/*", "--for", "4h", "--reason", "rollout"];
    let ran = agent.run(&mute);
    assert!(
        ran.stdout.starts_with("muted compose:shop/*: 1 service: compose:shop/web\n"),
        "{}",
        ran.stdout
    );
    let Query::Command(command) = agent.asked.recv().unwrap() else { panic!("no command") };
    assert_eq!(
        serde_json::to_value(command).unwrap(),
        json!({
            "do": "mute", "services": "compose:shop/*", "for_s": 14_400, "approver": "anna",
            "reason": "rollout",
        })
    );
    let ran = agent.run(&["alerts", "mute", "compose:shop/*", "--for", "0s", "--reason", "x"]);
    assert_eq!(ran.code, 64, "{}", ran.stderr);
    let ran = agent.run(&["alerts", "mutes"]);
    let expected = "\
services        until                by    open incidents  not sent  why
compose:shop/*  2026-11-21 14:00:00  anna               1        12  rollout
";
    assert_eq!(ran.stdout, expected);
}

#[test]
fn a_test_says_of_each_receiver_whether_it_accepted() {
    let agent = Agent::start();
    let ran = agent.run(&["notify", "test"]);
    let expected = "\
ok      ops
failed  chat: https://hooks.example answered 404
mend its [[notify]] table and start the agent again; what waits is kept
";
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (1, expected, ""));
    let ran = agent.run(&["notify", "test", "ops", "--format", "json"]);
    let told: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((ran.code, told), (0, json!([{"receiver": "ops"}])));
}

#[test]
fn receivers_are_tested_without_an_agent_where_a_configuration_is_named() {
    let agent = Agent::start();
    agent.file("out.toml", "node = \"n1\"\n[[notify]]\nname = \"out\"\nkind = \"stdout\"\n");
    let ran = agent.run(&["notify", "test", "--config", "out.toml"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    let (line, verdict) = ran.stdout.split_once('\n').unwrap();
    let message: Value = serde_json::from_str(line).unwrap();
    assert_eq!((&message["schema"], &message["node"]), (&json!("edgewatch-test/1"), &json!("n1")));
    assert_eq!(verdict, "ok      out\n");
    let ran = agent.run(&["notify", "test", "pager", "--config", "out.toml"]);
    let told = "edgewatch: no receiver is called \"pager\": there are out\n";
    assert_eq!((ran.code, ran.stderr.as_str()), (1, told));
    agent.file("none.toml", "");
    let ran = agent.run(&["notify", "test", "--config", "none.toml"]);
    assert!(ran.stderr.contains("add a [[notify]] table"), "{}", ran.stderr);
    agent.file("bad.toml", "[[notify]]\nname = \"chat\"\nkind = \"slack\"\n");
    let ran = agent.run(&["notify", "test", "--config", "bad.toml"]);
    assert_eq!(ran.code, 64);
    assert!(ran.stderr.contains("kind = \"slack\" needs url_file"), "{}", ran.stderr);
    let ran = agent.run(&["notify", "test", "--socket", "/nowhere/edgewatch.sock"]);
    assert!(ran.stderr.starts_with("note: without an agent, name the configuration"));
    assert!(agent.asked.try_recv().is_err());
}

#[test]
fn who_follows_hears_what_comes_and_that_the_agent_ended() {
    use std::io::{BufRead as _, BufReader};
    let agent = Agent::start();
    let mut child = agent
        .command(&["alerts", "follow"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    // The head stands there once it is connected.
    assert_eq!(said.next().unwrap(), "when      severity  state     id             what");
    agent.feed.tell(&alert("01JABB"));
    assert_eq!(said.next().unwrap(), "10:00:00  high      open      01JABB         a dialled b");
    agent.feed.tell(&json!({"missed": 7}));
    let mut complaints = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    assert!(complaints.next().unwrap().contains("7 alerts were not shown"));
    agent.shutdown.cancel();
    assert!(complaints.next().unwrap().starts_with("edgewatch: the agent has ended; waiting"));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn differences_are_told_by_the_exit_code() {
    let agent = Agent::start();
    let ran = agent.run(&["baseline", "diff"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "nothing waits for a decision\n"));
    agent.file("web.yaml", DOCUMENT);
    let ran = agent.run(&["baseline", "diff", "web.yaml"]);
    let line = "+ compose:shop/web -> compose:shop/db 5432/tcp\n";
    assert_eq!((ran.code, ran.stdout.as_str()), (2, line));
    agent.file("none.yaml", "format: edgewatch-baseline/1\n");
    assert_eq!(agent.run(&["baseline", "diff", "none.yaml"]).code, 0);
    let ran = agent.run(&["baseline", "diff", "missing.yaml"]);
    assert_eq!(ran.code, 64);
    agent.file("bad.yaml", &DOCUMENT.replace("from:", "form:"));
    let ran = agent.run(&["baseline", "import", "bad.yaml"]);
    let told = "bad.yaml:5: unknown key \"form\"; did you mean \"from\"?\n";
    assert_eq!((ran.code, ran.stderr.as_str()), (64, told));
}

#[test]
fn an_export_is_printed_or_written() {
    let agent = Agent::start();
    let ran = agent.run(&["baseline", "export", "compose:a+b/%2E"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, DOCUMENT));
    let Query::Document { selection, .. } = agent.asked.recv().unwrap() else {
        panic!("no export")
    };
    assert_eq!(serde_json::to_value(selection).unwrap(), json!({"matching": ["compose:a+b/%2E"]}));
    let ran = agent.run(&["baseline", "export", "--output", "out.yaml"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""));
    assert_eq!(std::fs::read_to_string(agent.dir.path().join("out.yaml")).unwrap(), DOCUMENT);
    assert_eq!(agent.run(&["baseline", "export", "--output", "no/out.yaml"]).code, 1);
}

#[test]
fn a_file_is_changed_without_an_agent() {
    let agent = Agent::start();
    let file = agent.file("web.yaml", &format!("# ours\n{DOCUMENT}    # theirs\n"));
    let edge = "world -> compose:shop/web 80/tcp with /usr/sbin/nginx";
    let ran = agent.run(&["baseline", "approve", edge, "--file", "web.yaml"]);
    assert_eq!(ran.stderr, "note: 1 line of web.yaml had comments, which are lost\n");
    let expected = "\
# ours
format: edgewatch-baseline/1
services:
  compose:shop/web:
    inbound:
      - {from: world, ports: [80/tcp], by: [/usr/sbin/nginx], approver: anna}
      - {from: world, ports: [443/tcp]}
";
    assert_eq!(std::fs::read_to_string(file).unwrap(), expected);
    assert!(agent.asked.try_recv().is_err());
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let agent = Agent::start();
    let mut child = agent
        .command(&["map", "--format", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
}
