//! What cannot work is refused in words that say who must do what, with an exit code for programs.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use tests::agent::{Setup, program, verb};
use tests::lab::Lab;
use tests::process::finish;
use tests::traffic::Protocol;

use crate::lab;

/// Bad usage or configuration.
const USAGE: i32 = 64;

/// Nobody in particular.
const NOBODY: &str = "65534";

#[test]
fn an_unknown_key_is_told_with_its_line_and_the_nearest() {
    let lab = lab();
    for (text, said) in [
        ("mode = \"learn\"\nstate_dirr = \"/tmp\"\n", ["edgewatch.toml:2:", "\"state_dir\""]),
        (
            "[[notify]]\nname = \"ops\"\nkind = \"stdout\"\nmin_severty = \"high\"\n",
            ["edgewatch.toml:4:", "\"min_severity\""],
        ),
    ] {
        let config = write(&lab, "edgewatch.toml", text);
        for verb in ["check", "run"] {
            let mut command = tests::agent::verb(&[verb, "--config", &config]);
            finish(&mut command).failed(USAGE, &said);
        }
    }
}

#[test]
fn a_configuration_that_is_not_there_is_told() {
    let lab = lab();
    let config = lab.path("nowhere.toml").display().to_string();
    finish(&mut verb(&["check", "--config", &config])).failed(USAGE, &[&config]);
    finish(&mut verb(&["run", "--config", &config])).failed(USAGE, &[&config]);
}

#[test]
fn a_configuration_that_one_may_not_read_is_told() {
    let lab = lab();
    let config = write(&lab, "edgewatch.toml", "mode = \"learn\"\n");
    fs::set_permissions(&config, fs::Permissions::from_mode(0o600)).expect("it is ours");
    let mut command = as_nobody(&lab);
    command.args(["check", "--config", &config]);
    finish(&mut command).failed(USAGE, &[&config, "ermission denied"]);
}

#[test]
fn a_broken_baseline_file_is_told_with_its_line() {
    let lab = lab();
    let text = "format: edgewatch-baseline/1\nservices:\n  systemd:a.service:\n    outbund: []\n";
    let file = write(&lab, "broken.yaml", text);
    let state = lab.path("state").display().to_string();
    let top = format!("baseline_files = [{file:?}]\nstate_dir = {state:?}\n");
    let config = write(&lab, "edgewatch.toml", &top);
    let finished = finish(&mut verb(&["run", "--config", &config]));
    finished.failed(USAGE, &["broken.yaml:4", "outbund"]);
}

#[test]
fn who_is_not_root_is_told_what_is_missing() {
    let lab = lab();
    let state = lab.path("open");
    fs::create_dir(&state).expect("the place is ours");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).expect("it is ours");
    let in_there = |name: &str| state.join(name).display().to_string();
    let mut run = as_nobody(&lab);
    run.args(["run", "--state-dir", &in_there("state"), "--socket", &in_there("socket")]);
    let finished = finish(&mut run);
    finished.failed(1, &["root"]);
    let mut watch = as_nobody(&lab);
    finish(watch.args(["watch", "--for", "1s"])).failed(1, &["root"]);
}

#[test]
fn a_machine_without_cgroup_2_is_told() {
    let lab = lab();
    let script = format!("umount -l {} && exec \"$0\" \"$@\"", lab.cgroup_root().display());
    for words in [&["check"][..], &["watch", "--for", "1s"]] {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &script]).arg(program()).args(words);
        let finished = finish(&mut command);
        assert_eq!(finished.code, Some(1), "{finished:#?}");
        let said = finished.stdout + &finished.stderr;
        assert!(said.contains("no cgroup v2") && said.contains("mount -t cgroup2"), "{said}");
    }
}

#[test]
fn a_kernel_that_is_too_old_is_told() {
    for words in [&["check"][..], &["watch", "--for", "1s"]] {
        let mut command = Command::new("setarch");
        command.args([std::env::consts::ARCH, "--uname-2.6"]).arg(program()).args(words);
        let finished = finish(&mut command);
        assert_eq!(finished.code, Some(1), "{finished:#?}");
        let said = finished.stdout + &finished.stderr;
        assert!(said.contains("5.10") && said.contains("2.6."), "{said}");
    }
}

#[test]
fn a_second_agent_names_the_first() {
    let lab = lab();
    let first = lab.agent("first", &Setup::mode("learn"));
    let pid = format!("pid {}", first.pid());
    let mut second = lab.prepared_agent("second", &Setup::mode("learn"));
    second.socket.clone_from(&first.socket);
    second.launch();
    assert_eq!(second.ended().code(), Some(1), "{}", second.said());
    assert!(second.said().contains(&pid), "{}", second.said());

    let mut third = lab.prepared_agent("third", &Setup::mode("learn"));
    third.state.clone_from(&first.state);
    third.launch();
    assert_eq!(third.ended().code(), Some(1), "{}", third.said());
    assert!(third.said().contains(&pid), "{}", third.said());
    first.get("/readyz").expect("the first is not disturbed");
}

#[test]
fn a_verb_without_an_agent_says_how_to_start_one() {
    let lab = lab();
    let socket = lab.path("nobody.sock").display().to_string();
    for words in [&["status"][..], &["map"], &["alerts"], &["baseline", "status"]] {
        let mut command = verb(words);
        finish(command.args(["--socket", &socket])).failed(1, &[&socket, "edgewatch run"]);
    }
}

#[test]
fn garbage_on_the_socket_disturbs_nobody() {
    let lab = lab();
    let agent = lab.agent("agent", &Setup::mode("learn"));
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20));
    let pieces: [&[u8]; 6] = [
        b"\0\xff\xfe garbage \r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /api/v1/baseline HTTP/1.1\r\nContent-Length: 99999999999999\r\n\r\n{",
        b"GET /readyz HTTP/1.1\r\nHost:",
        b"",
        long.as_bytes(),
    ];
    let mut open = Vec::new();
    for piece in pieces.iter().cycle().take(100) {
        let mut stream = UnixStream::connect(&agent.socket).expect("it listens");
        stream.set_write_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        // It may hang up before all is written, which is as good.
        drop(stream.write_all(piece));
        open.push(stream);
    }
    agent.get("/readyz").expect("it is ready");
    agent.text(&["status"]);
    for mut stream in open {
        stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
        drop(stream.read(&mut [0; 1024]));
    }
    let wire = lab.wire();
    let at = std::net::SocketAddr::new(wire.server.v4, 8080);
    let server = lab.serve(&lab.service("api"), &wire.server, Protocol::Tcp, at);
    let web = lab.service("web");
    lab.dialler(&web, &wire.client).reaches(&server);
    agent.sees(&server.edge_from(&web));
}

#[test]
fn bad_usage_is_told() {
    for words in [
        &["frobnicate"][..],
        &["map", "--format", "yaml"],
        &["services", "--format", "svg"],
        &["policy", "export"],
        &["policy", "export", "--format", "cilium"],
        &["policy", "export", "--format", "kubernetes", "--baseline", "/nowhere.yaml"],
        &["baseline", "approve", "a then b"],
        &["watch", "--for", "soon"],
    ] {
        let finished = finish(&mut verb(words));
        assert_eq!(finished.code, Some(USAGE), "{words:?}: {finished:#?}");
        assert!(!finished.stderr.is_empty(), "{words:?}");
    }
}

#[track_caller]
fn write(lab: &Lab, name: &str, text: &str) -> String {
    let path = lab.path(name);
    fs::write(&path, text).expect("the place is ours");
    path.display().to_string()
}

/// The program, run by a user who may nothing.
#[track_caller]
pub(crate) fn as_nobody(lab: &Lab) -> Command {
    // Where the program was built, nobody may be allowed to look.
    let copy = lab.copied(&program(), "edgewatch");
    let mut command = Command::new(lab.peer());
    command.args(["enter", "--uid", NOBODY, "--"]).arg(copy);
    command
}
