//! What holds on every ground, however little the kernel gives and the agent may: an edge is seen,
//! and what cannot be seen is told.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;
use tests::agent::{Agent, SOON, Setup, verb};
use tests::ground::{Missing, asks_for_capabilities_are_seen, missing};
use tests::kernel::Loaded;
use tests::lab::{Lab, Wire};
use tests::process::{Running, finish};
use tests::traffic::{Protocol, edge, nameless};

use crate::lab;

#[test]
fn an_edge_is_seen_from_both_ends() {
    let lab = lab();
    let agent = lab.agent("agent", &Setup::mode("learn"));
    check_edges(&lab, &lab.wire(), &agent);
}

/// Without a network of its own, not even loopback: cgroups are the machine's.
#[test]
fn an_agent_without_network_sees_edges_of_others() {
    let lab = lab();
    let cut_off = format!("--net=/run/netns/{}", lab.cut_off().name);
    let setup = Setup::mode("learn").through(&["nsenter".to_owned(), cut_off]);
    let agent = lab.agent("agent", &setup);
    check_edges(&lab, &lab.wire(), &agent);
}

#[test]
fn every_program_is_taken_by_the_kernel_with_room_to_spare() {
    let lab = lab();
    let agent = lab.agent("agent", &Setup::mode("learn"));
    let state = agent.state.display().to_string();
    let report = agent.json(&["doctor", "--state-dir", &state]);
    let findings = report["findings"].as_array().expect("it finds something");
    let of_programs = findings.iter().filter(|it| it["check"] == "programs");
    let (taken, refused): (Vec<&Value>, Vec<&Value>) =
        of_programs.partition(|it| it["verdict"] == "ok");
    let traced = ["cgroup_mkdir", "cgroup_rmdir", "sched_process_fork", "sched_process_exec"];
    let lacking = missing().contains(&Missing::Tracepoints);
    let unasked = !asks_for_capabilities_are_seen() || lacking;
    let expected = if lacking { &traced[..] } else { &[] };
    let expected: Vec<_> = expected.iter().chain(unasked.then_some(&"cap_capable")).collect();
    let hooks: Vec<&str> = refused.iter().filter_map(|it| it["what"].as_str()).collect();
    for hook in &expected {
        assert!(hooks.iter().any(|it| it.ends_with(**hook)), "{hook}: {hooks:?}");
    }
    assert_eq!(hooks.len(), expected.len(), "{hooks:?}");
    // The names of all that were, before the first colon.
    let names = taken.iter().filter_map(|it| it["detail"].as_str()?.split(':').next());
    let names: Vec<&str> = names.flat_map(|it| it.split(", ")).collect();
    let steps = Loaded::by(agent.pid()).steps();
    assert_eq!(steps.len(), names.len(), "{names:?}");
    // A tenth of what kernels since 5.2 follow; half of it where, without CAP_PERFMON, they follow the
    // branches that are not taken as well.
    let most = if lacking { 500_000 } else { 100_000 };
    assert!(steps.iter().all(|steps| *steps < most), "{names:?}: {steps:?}");
}

/// What `/sys/kernel/btf` holds is hidden from what follows these words.
fn without_type_information() -> Vec<String> {
    let hide = "mount -t tmpfs none /sys/kernel/btf || [ ! -e /sys/kernel/btf ] || exit 1; exec \"$0\" \"$@\"";
    ["unshare", "-m", "sh", "-c", hide].map(str::to_owned).to_vec()
}

#[test]
fn a_kernel_that_says_nothing_of_its_types_is_enough() {
    let lab = lab();
    let wrapper = without_type_information();
    let doctor = verb(&["doctor"]);
    let mut hidden = std::process::Command::new(&wrapper[0]);
    hidden.args(&wrapper[1..]).arg(doctor.get_program()).args(doctor.get_args());
    let said = finish(&mut hidden).stdout;
    assert!(said.contains("BTF (not here)"), "{said}");
    let agent = lab.agent("agent", &Setup::mode("learn").through(&wrapper));
    check_edges(&lab, &lab.wire(), &agent);
}

/// Dials, and expects what any ground can show.
#[track_caller]
pub(crate) fn check_edges(lab: &Lab, wire: &Wire, agent: &Agent) {
    let (web, api) = (lab.service("web"), lab.service("api"));
    let mut dialler = lab.dialler(&web, &wire.client);
    for (address, port) in [(wire.server.v4, 8080), (wire.server.v6, 8443)] {
        let at = SocketAddr::new(address, port);
        let server = lab.serve(&api, &wire.server, Protocol::Tcp, at);
        dialler.reaches(&server);
        let view = agent.shows(&server.edge_from(&web), SOON, |view| view["seen_from"] == "both");
        assert_eq!(view["outcome"], "established");
        dialler.is_refused(SocketAddr::new(address, 9));
        let refused = edge(&web, &nameless(address), 9, Protocol::Tcp);
        agent.shows(&refused, SOON, |view| view["outcome"] == "refused");
    }
}

#[test]
fn the_agent_says_what_it_cannot_see() {
    let lab = lab();
    let agent = lab.agent("agent", &Setup::mode("learn"));
    let status = agent.json(&["status"]);
    let told = status["missing"].as_array().map(Vec::as_slice).unwrap_or_default();
    let told: Vec<&str> = told.iter().filter_map(Value::as_str).collect();
    check_told("status", &told.join("\n"));
    let all = missing().is_empty() && asks_for_capabilities_are_seen();
    assert_eq!(told.is_empty(), all, "{told:?}");
    check_told("the log", &agent.said());
    let shown = agent.text(&["status"]);
    assert_eq!(shown.contains("not seen"), !all, "{shown}");

    let checked = finish(&mut verb(&["check"])).done();
    check_told("check", &checked);
    assert_eq!(checked.contains("warn"), !missing().is_empty(), "{checked}");
    let log = lab.path("watch.log");
    let file = std::fs::File::create(&log).expect("the place is ours");
    let mut watch = Running::logged(&mut verb(&["watch", "--for", "1s"]), file);
    assert_eq!(watch.ended(SOON * 2).code(), Some(0));
    check_told("watch", &read(&log));
}

/// Checks that all that is missing is told, and nothing else.
#[track_caller]
fn check_told(who: &str, said: &str) {
    use tests::ground::Missing::{Processes, Tracepoints};
    for one in [Tracepoints, Processes] {
        for words in one.told() {
            // Older kernels lack this one wherever they run; `check` looks at privileges alone.
            let old = words.starts_with("packet sockets") && !asks_for_capabilities_are_seen();
            let expected = missing().contains(&one) || (old && who != "check");
            assert_eq!(said.contains(words), expected, "{who}: {words:?}: {said}");
        }
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
