//! `doctor` on the running kernel: what works is said to work, what does not is named with its mend,
//! and nothing of its looking stays.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use serde_json::Value;
use tests::agent::{Setup, verb};
use tests::kernel::Loaded;
use tests::lab::Lab;
use tests::process::{Finished, finish};

use crate::errors::as_nobody;
use crate::lab;

/// It found a reason why the agent cannot work.
const FOUND: i32 = 2;
/// That reason is in the configuration.
const USAGE: i32 = 64;

#[test]
fn root_on_this_machine_lacks_nothing_and_leaves_nothing() {
    let lab = lab();
    let slice = lab.slice();
    let config = written(&lab, &format!("[capture]\ncgroup = {slice:?}\n"));
    let report = examined(&lab, &config);
    assert_ne!(report["verdict"], "fail", "{report:#}");
    let programs = detail(&report, "programs");
    for program in ["stream", "connect4", "recvmsg6", "attached for a moment"] {
        assert!(programs.contains(program), "{report:#}");
    }
    assert!(detail(&report, "privileges").contains("CAP_BPF"), "{report:#}");
    assert!(detail(&report, "agent").contains("edgewatch run"), "{report:#}");
    let left = fs::read_dir(slice).expect("it is there").flatten();
    let left: Vec<_> = left.filter(|it| it.path().is_dir()).map(|it| it.file_name()).collect();
    assert!(left.is_empty(), "{left:?}");
    // The second asks the kernel who is on this cgroup's hooks, and the first is not.
    let again = examined(&lab, &config);
    assert!(detail(&again, "other-programs").starts_with("none"), "{again:#}");
    assert!(!lab.path("state").exists(), "to look makes nothing");
}

#[test]
fn a_running_agent_is_told_and_not_disturbed() {
    let lab = lab();
    let agent = lab.agent("agent", &Setup::mode("learn"));
    let before = Loaded::by(agent.pid());
    let state = agent.state.display().to_string();
    let report = agent.json(&["doctor", "--state-dir", &state]);
    let running = detail(&report, "agent");
    assert!(running.starts_with("ready: ") && running.contains("mode learn"), "{report:#}");
    assert!(running.contains(env!("CARGO_PKG_VERSION")), "{report:#}");
    let pid = format!("(pid {})", agent.pid());
    assert!(detail(&report, "state").contains(&pid), "{report:#}");
    assert!(!detail(&report, "other-programs").starts_with("none"), "{report:#}");
    assert_eq!(Loaded::by(agent.pid()), before);
    assert_eq!(before.remaining(), before);
    agent.get("/readyz").expect("it is not disturbed");
}

#[test]
fn who_is_not_root_is_told_what_to_do() {
    let lab = lab();
    let state = lab.path("closed");
    fs::create_dir(&state).expect("the place is ours");
    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).expect("it is ours");
    let mut command = as_nobody(&lab);
    command.args(["doctor", "--state-dir"]).arg(&state);
    let finished = finish(&mut command);
    assert_eq!(finished.code, Some(FOUND), "{finished:#?}");
    for said in [
        "fail  CAP_BPF missing",
        "run it with sudo",
        "warn  CAP_PERFMON missing",
        "warn  kernel programs",
        "fail  state",
        "cannot work like this",
    ] {
        assert!(finished.stdout.contains(said), "{said:?} is not said: {}", finished.stdout);
    }
    assert_eq!(finished.stderr, "");
}

#[test]
fn mistakes_in_what_people_wrote_are_told_with_their_place() {
    let lab = lab();
    let config = written(&lab, "mode = \"learn\"\nstate_dirr = \"x\"\n");
    let finished = doctor(&lab, &config);
    told(&finished, "doctor.toml:2: unknown key \"state_dirr\"; did you mean \"state_dir\"?");

    let baseline = lab.path("broken.yaml");
    let text = "format: edgewatch-baseline/1\nservices:\n  systemd:a.service:\n    outbund: []\n";
    fs::write(&baseline, text).expect("the place is ours");
    let config = written(&lab, &format!("baseline_files = [{baseline:?}]\n"));
    told(&doctor(&lab, &config), "broken.yaml:4: unknown key \"outbund\"");

    let config =
        written(&lab, "[[notify]]\nname = \"ops\"\nkind = \"webhook\"\nurl_file = \"/nowhere\"\n");
    told(&doctor(&lab, &config), "\"/nowhere\" cannot be read");

    let missing = lab.path("nowhere.toml").display().to_string();
    finish(&mut verb(&["doctor", "--config", &missing])).failed(USAGE, &[&missing]);
}

#[test]
fn a_damaged_state_is_told_and_not_touched() {
    let lab = lab();
    let state = lab.path("state");
    fs::create_dir(&state).expect("the place is ours");
    fs::write(state.join("state.redb"), "no database").expect("the place is ours");
    let config = written(&lab, "");
    let finished = doctor(&lab, &config);
    assert_eq!(finished.code, Some(FOUND), "{finished:#?}");
    assert!(finished.stdout.contains("state.redb is damaged"), "{}", finished.stdout);
    let kept = fs::read_to_string(state.join("state.redb")).expect("it is there");
    assert_eq!(kept, "no database");
    let names: Vec<_> = fs::read_dir(&state).expect("it is there").flatten().collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[track_caller]
fn told(finished: &Finished, said: &str) {
    assert_eq!(finished.code, Some(USAGE), "{finished:#?}");
    assert!(finished.stdout.contains(said), "{said:?} is not said: {}", finished.stdout);
}

#[track_caller]
fn written(lab: &Lab, text: &str) -> String {
    let path = lab.path("doctor.toml");
    fs::write(&path, text).expect("the place is ours");
    path.display().to_string()
}

#[track_caller]
fn doctor(lab: &Lab, config: &str) -> Finished {
    finish(&mut examination(lab, config))
}

#[track_caller]
fn examination(lab: &Lab, config: &str) -> Command {
    let mut command = verb(&["doctor", "--config", config, "--state-dir"]);
    command.arg(lab.path("state")).arg("--socket").arg(lab.path("agent.sock"));
    command
}

#[track_caller]
fn examined(lab: &Lab, config: &str) -> Value {
    let text = finish(examination(lab, config).args(["--format", "json"])).done();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What the findings of `check` say.
#[track_caller]
fn detail(report: &Value, check: &str) -> String {
    let findings = report["findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = findings.iter().filter(|finding| finding["check"] == check);
    let details: Vec<&str> = found.filter_map(|finding| finding["detail"].as_str()).collect();
    assert!(!details.is_empty(), "no {check} in {report:#}");
    details.join("\n")
}
