//! What went wrong once, or would have: late flows, endings, files and imports over pending edges,
//! windows, servers that come back. Each story stays told right.

use monitor_core::attribute::Workload;
use monitor_core::baseline::document::Figures;
use monitor_core::baseline::{Mode, Phase, Written};
use monitor_core::engine::{Command, Guarding, Input, Selection};
use monitor_core::flow::{Direction, FlowKey, Outcome, Remote};
use monitor_core::ids::BootTime;
use std::net::SocketAddr;

use crate::stage::{
    NUMBERED_LATER, Stage, check, check_in, file_until, files, flow, ip, key, traffic,
};

/// A flow released 15 minutes late (suspend, SIGSTOP, hung disk, clock step).
#[test]
fn late_release_keeps_its_finding() {
    let mut stage = check("0 a => b 80/tcp\n 5 guard a", "");
    stage.event("10 a -> 192.0.2.1 443/tcp established with /bin/sh");
    stage.set(BootTime((10 + 16 * 60) * 1_000_000_000));
    stage.step(Input::Tick);
    assert_eq!(
        stage.said,
        "firing high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/sh;\n"
    );
}

/// Forbidden, resolved after 24 h unseen, goes on: it is told again, hourly.
#[test]
fn forbidden_goes_on_after_its_incident_was_resolved() {
    let mut stage = check(
        "0 forbid a -> ip:192.0.2.1 443/tcp\n 20 a -> 192.0.2.1 443/tcp established with /bin/x",
        "firing critical: forbidden a -> ip:192.0.2.1 443/tcp established with /bin/x;",
    );
    let k = key(
        stage.cgroup("a"),
        Direction::Outbound,
        ip("192.0.2.1"),
        "443/tcp",
        Outcome::Established,
    );
    stage.until(90_000_000);
    assert_eq!(stage.said.lines().count(), 2);
    let before = stage.rearmed.len();
    for s in [90_100, 94_000, 98_000] {
        stage.until(s * 1000);
        let t = traffic(&stage, k, 5);
        stage.step(Input::Traffic(t));
    }
    assert!(stage.said.lines().count() > 2 || stage.rearmed.len() > before, "{}", stage.said);
}

/// File allowance with until.
#[test]
fn a_file_approval_that_ends_is_rearmed() {
    let mut stage = check("0 a => b 80/tcp", "");
    let until = stage.now.wall.plus_seconds(60);
    stage.step(Input::Files(file_until(until)));
    stage.event("10 a -> 192.0.2.1 443/tcp established with /bin/sh");
    stage.until(15_000);
    assert_eq!(stage.said, "");
    stage.rearmed.clear();
    stage.until(200_000);
    assert!(stage.rearmed.iter().any(|k| k.port == 443), "the kernel must tell it again");
}

/// A file that forbids what is pending.
#[test]
fn a_file_forbids_a_pending_edge() {
    let mut stage = check(
        "0 a => b 80/tcp\n 5 guard a\n 10 a -> 192.0.2.1 443/tcp established with /bin/sh",
        "firing high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/sh;",
    );
    stage.step(Input::Files(files(r#"{"format":"edgewatch-baseline/1","services":{"systemd:a.service":{"outbound":[
       {"to":"systemd:b.service","ports":["80/tcp"]}],"forbidden":[{"to":"ip:192.0.2.1","ports":["443/tcp"]}]}}}"#)));
    stage.event("20 a -> 192.0.2.1 443/tcp established with /bin/sh");
    stage.until(30_000);
    assert!(stage.said.contains("forbidden"), "{}", stage.said);
}

/// Allowed by a file, then withdrawn.
#[test]
fn a_file_allows_a_pending_edge_and_withdraws_it() {
    let mut stage = check(
        "0 a => b 80/tcp\n 5 guard a\n 10 a -> 192.0.2.1 443/tcp established with /bin/sh",
        "firing high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/sh;",
    );
    let with = r#"{"format":"edgewatch-baseline/1","services":{"systemd:a.service":{"outbound":[
       {"to":"systemd:b.service","ports":["80/tcp"]},{"to":"ip:192.0.2.1","ports":["443/tcp"]}]}}}"#;
    let without = r#"{"format":"edgewatch-baseline/1","services":{"systemd:a.service":{"outbound":[
       {"to":"systemd:b.service","ports":["80/tcp"]}]}}}"#;
    stage.step(Input::Files(files(with)));
    stage.event("20 a -> 192.0.2.1 443/tcp established with /bin/sh");
    stage.until(30_000);
    let resolved = stage.said.contains("resolved");
    stage.said.clear();
    stage.step(Input::Files(files(without)));
    stage.event("2000 a -> 192.0.2.1 443/tcp established with /bin/sh");
    stage.until(2_010_000);
    assert!(
        stage.said.contains("new-peer"),
        "resolved on allow: {resolved}; withdrawn and seen again: {:?}",
        stage.said
    );
}

/// Import forbids what is pending.
#[test]
fn an_import_forbids_a_pending_edge() {
    let mut stage = check(
        "0 a => b 80/tcp\n 5 guard a\n 10 a -> 192.0.2.1 443/tcp established with /bin/sh",
        "firing high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/sh;",
    );
    let document = serde_json::from_str(r#"{"format":"edgewatch-baseline/1","services":{"systemd:a.service":{"outbound":[
       {"to":"systemd:b.service","ports":["80/tcp"]}],"forbidden":[{"to":"ip:192.0.2.1","ports":["443/tcp"]}]}}}"#).unwrap();
    stage.command(Command::Import { document, guard: Guarding::Guarded });
    stage.event("20 a -> 192.0.2.1 443/tcp established with /bin/sh");
    stage.until(30_000);
    assert!(stage.said.contains("forbidden"), "{}", stage.said);
}

/// An approval with an end lifts a prohibition until then.
#[test]
fn a_prohibition_outlives_an_approval_with_an_end() {
    check(
        "0 a -> 192.0.2.1 443/tcp established with /bin/x
         10 forbid a -> ip:192.0.2.1 443/tcp
         20 approve a -> ip:192.0.2.1 443/tcp with /bin/x ttl 60
         130 a -> 192.0.2.1 443/tcp established with /bin/x",
        "firing critical: forbidden a -> ip:192.0.2.1 443/tcp established with /bin/x;",
    );
}

/// Server restarts; another known executable of the client dials it for the first time since.
#[test]
fn a_restarted_server_and_the_nightly_job() {
    let mut stage =
        check("0 a => b 80/tcp with /bin/app\n 1 a => b 80/tcp with /bin/job\n 5 guard a", "");
    stage.restart(Mode::Auto);
    stage.event("10 a => b 80/tcp with /bin/app");
    stage.until(11_000);
    let old = stage.cgroup("b");
    stage.step(Input::WorkloadVanished { cgroup: old });
    let new = monitor_core::ids::CgroupId(900);
    let workload = Workload {
        service: "systemd:b.service".parse().unwrap(),
        container: None,
        pod: None,
        image: None,
        cgroup: "/system.slice/b.service".to_owned(),
        node: None,
    };
    stage.step(Input::Workload { cgroup: new, workload });
    // The app dials again: its own key is known, only the new b's inbound key is news.
    let a = stage.cgroup("a");
    let mut accepted =
        key(new, Direction::Inbound, Remote::Cgroup(a), "80/tcp", Outcome::Established);
    accepted.local = Some("10.0.0.2".parse().unwrap());
    let tuple = Some(SocketAddr::from(([10, 0, 0, 1], 50_000)));
    stage.step(Input::Flow(flow(stage.now.wall, accepted, tuple, "")));
    stage.until(20_000);
    // The job dials: the inbound key is known by now, only the dial is news (another executable).
    let dialled = FlowKey {
        executable_id: 77,
        ..key(a, Direction::Outbound, ip("10.0.0.2"), "80/tcp", Outcome::Established)
    };
    let tuple = Some(SocketAddr::from(([10, 0, 0, 1], 50_001)));
    stage.step(Input::Flow(flow(stage.now.wall, dialled, tuple, "/bin/job")));
    stage.until(25_000);
    assert_eq!(stage.said, "");
}

/// More than 32 executables on a learned edge.
#[test]
fn forty_executables_of_a_session() {
    let mut story: String =
        (0..40).map(|i| format!("{i} a => b 53/tcp with /bin/x{i}\n")).collect();
    story.push_str("50 guard a\n");
    story.push_str("60 a => b 53/tcp with /bin/x39\n");
    check(&story, "");
}

/// Imported without `by`: proposed, then its own edge is seen.
#[test]
fn a_proposed_import_stays_proposed_when_its_edge_is_seen() {
    let mut stage = Stage::new(Mode::Auto);
    stage.cgroup("a");
    stage.cgroup("b");
    let document = serde_json::from_str(
        r#"{"format":"edgewatch-baseline/1","services":{"systemd:a.service":{"outbound":[
       {"to":"systemd:b.service","ports":["80/tcp"]}]}}}"#,
    )
    .unwrap();
    stage.command(Command::Import { document, guard: Guarding::Proposed });
    stage.event("10 a => b 80/tcp with /bin/app");
    stage.until(12_000);
    assert_eq!(stage.engine.services(stage.now.wall)[0].phase.to_string(), "proposed");
}

/// Forgotten while it waits: gone with its wait.
#[test]
fn what_was_forgotten_while_it_waited_is_not_kept() {
    let mut stage = check("0 a => b 80/tcp", "");
    let a = stage.cgroup("a");
    let k = key(a, Direction::Outbound, ip("192.0.2.1"), "443/tcp", Outcome::Established);
    stage.step(Input::Flow(flow(stage.now.wall, k, None, "/bin/app")));
    stage.step(Input::Forgotten { id: NUMBERED_LATER, key: k });
    stage.until(10_000);
    stage.event("20 guard a");
    assert!(!stage.rearmed.contains(&k), "its key is kept though the kernel forgot it");
}

/// One exchange counted from both ends and for both outcomes.
#[test]
fn one_connection_counts_once() {
    let mut stage = check(
        "0 a => b 80/tcp\n 0 c => b 80/tcp\n 5 guard *\n 10 a => c 5432/tcp with /bin/sh",
        "firing high: new-peer a -> c 5432/tcp established with /bin/sh; new-client a -> c 5432/tcp established with /bin/sh;",
    );
    let (a, c) = (stage.cgroup("a"), stage.cgroup("c"));
    let out = |o| key(a, Direction::Outbound, ip("10.0.0.2"), "5432/tcp", o);
    let inb = key(c, Direction::Inbound, Remote::Cgroup(a), "5432/tcp", Outcome::Established);
    for k in [out(Outcome::Attempted), out(Outcome::Established), inb] {
        let t = traffic(&stage, k, 1);
        stage.step(Input::Traffic(t));
    }
    assert_eq!(stage.engine.alerts(stage.now.wall)[0].count, 1);
}

/// Figures: one edge with two allowances is one known edge.
#[test]
fn known_edges_are_edges() {
    let stage = check(
        "0 a => b 80/tcp with /bin/app\n 5 guard a\n 6 approve a -> b 80/tcp with /bin/job\n 10 a -> 192.0.2.1 443/tcp established with /bin/sh",
        "firing high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/sh;",
    );
    let text = &stage.engine.alerts(stage.now.wall)[0].findings[0].reasons[0].text;
    assert!(text.contains("has 1 known edge,"), "{text}");
}

/// Titles of what was only tried.
#[test]
fn a_refused_new_port_was_tried() {
    let mut stage = check(
        "0 a -> 192.0.2.1 443/tcp established with /bin/app\n 5 guard a\n 10 a -> 192.0.2.1 444/tcp refused with /bin/app",
        "firing medium: new-port a -> ip:192.0.2.1 444/tcp refused with /bin/app;",
    );
    let title = stage.engine.alerts(stage.now.wall)[0].title.clone();
    stage.until(20_000);
    assert!(title.contains("tried to dial"), "{title}");
}

#[test]
fn an_outcome_never_gets_worse() {
    check(
        "0 forbid a -> ip:192.0.2.1 443/tcp\n 20 a -> 192.0.2.1 443/tcp established with /bin/x\n 3700 a -> 192.0.2.1 443/tcp attempted with /bin/x",
        "firing critical: forbidden a -> ip:192.0.2.1 443/tcp established with /bin/x;
       firing critical: forbidden a -> ip:192.0.2.1 443/tcp attempted with /bin/x;",
    );
}

#[test]
fn an_inbound_line_taken_out_of_an_export_is_gone() {
    let mut stage = check("0 a => b 80/tcp\n 1 c => b 80/tcp", "");
    let sel = Selection::Matching(vec!["systemd:b.service".parse().unwrap()]);
    let mut document = stage.engine.export(stage.now.wall, &sel, Figures::Left).unwrap();
    let entry = document.services.values_mut().next().unwrap();
    assert_eq!(entry.inbound.len(), 2);
    entry.inbound.retain(|l| l.from.as_ref().unwrap().to_string() != "systemd:c.service");
    stage.command(Command::Import { document, guard: Guarding::Guarded });
    stage.event("10 c => b 80/tcp");
    stage.until(12_000);
    assert!(stage.said.contains("new-client c -> b 80/tcp"), "{:?}", stage.said);
}

#[test]
fn a_neighbours_window_does_not_silence_a_guarded_client() {
    check(
        "0 a => b 80/tcp\n 5 guard *\n 10 open b 600\n 20 a => b 5432/tcp with /bin/sh",
        "firing high: new-port a -> b 5432/tcp established with /bin/sh; new-client a -> b 5432/tcp established with /bin/sh;",
    );
}

#[test]
fn the_end_keeps_what_waits() {
    let mut stage = check("0 a => b 80/tcp\n 5 guard a", "");
    stage.event("10 a -> 192.0.2.1 443/tcp established with /bin/sh");
    let saved = stage.engine.finish(stage.now);
    assert!(format!("{saved:?}").contains("192.0.2.1"), "the dial that waits is lost");
}

/// Resolved after 24 h unseen, seen again.
#[test]
fn seen_again_after_resolved() {
    let mut stage = check(
        "0 a => b 80/tcp\n 5 guard a\n 10 a -> 192.0.2.1 443/tcp established with /bin/sh",
        "firing high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/sh;",
    );
    stage.until(90_000_000);
    stage.said.clear();
    stage.event("90001 a -> 192.0.2.1 443/tcp established with /bin/sh");
    stage.until(90_010_000);
    assert!(!stage.said.is_empty(), "it was resolved, came back, and nobody hears");
}

#[test]
fn an_expired_approval_is_not_learned() {
    check_in(
        Mode::Auto,
        "0 a => b 80/tcp\n 5 guard a\n 10 a -> 192.0.2.1 443/tcp established with /bin/sh\n 20 learn a\n 25 approve a -> ip:192.0.2.1 443/tcp with /bin/sh ttl 60\n 130 a -> 192.0.2.1 443/tcp established with /bin/sh\n 140 guard a\n 150 a -> 192.0.2.1 443/tcp established with /bin/sh",
        "firing high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/sh;
      resolved high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/sh;
      firing high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/sh;",
    );
}

#[test]
fn what_a_window_hides_of_an_alerted_edge_is_said_afterwards() {
    check("0 a => b 80/tcp\n 5 guard a\n 10 a -> 192.0.2.1 443/tcp refused with /bin/sh\n 20 open a 60\n 30 a -> 192.0.2.1 443/tcp established with /bin/nc\n 200 a -> 192.0.2.1 443/tcp established with /bin/nc",
      "firing high: new-peer a -> ip:192.0.2.1 443/tcp refused with /bin/sh;
       updated high: new-peer a -> ip:192.0.2.1 443/tcp refused with /bin/sh; new-peer a -> ip:192.0.2.1 443/tcp established with /bin/nc;");
}
#[test]
fn note_of_what_was_not_alerted() {
    let mut stage = Stage::new(Mode::Auto);
    for line in [
        "0 a => b 80/tcp",
        "5 guard a",
        "10 a -> 192.0.2.1 443/tcp refused with /bin/sh",
        "20 open a 60",
        "30 a -> 192.0.2.1 443/tcp established with /bin/nc",
    ] {
        stage.event(line);
    }
    stage.until(35_000);
    let notes: Vec<String> =
        stage.engine.undecided().into_iter().filter_map(|it| it.note).collect();
    assert_eq!(notes, ["alerted"], "told of the attempt, whatever the window hid since");
}

/// What ended in a file long ago was judged and told then: a restart is no news.
#[test]
fn a_file_approval_that_ended_is_not_told_again_after_a_restart() {
    let mut stage = check("0 a => b 80/tcp", "");
    let until = stage.now.wall.plus_seconds(60);
    stage.step(Input::Files(file_until(until)));
    stage.event("100 a -> 192.0.2.1 443/tcp established with /bin/sh");
    stage.until(110_000);
    assert_eq!(stage.said.lines().count(), 1, "{}", stage.said);
    stage.restart(Mode::Auto);
    stage.step(Input::Files(file_until(until)));
    stage.event("120 a -> 192.0.2.1 443/tcp established with /bin/sh");
    stage.until(130_000);
    assert_eq!(stage.said.lines().count(), 1, "{}", stage.said);
}

/// Another executable on a busy edge: what the known one does there is not the incident's.
#[test]
fn the_known_executable_does_not_count_for_the_other() {
    let mut stage = check(
        "0 a => b 80/tcp with /bin/app
         5 guard *
         10 a => b 80/tcp with /bin/sh",
        "firing high: new-executable a -> b 80/tcp established with /bin/sh;",
    );
    let before = stage.engine.alerts(stage.now.wall)[0].last_seen;
    stage.until(60_000);
    let cgroup = stage.cgroup("a");
    let k = key(cgroup, Direction::Outbound, ip("10.0.0.2"), "80/tcp", Outcome::Established);
    let t = traffic(&stage, k, 500);
    stage.step(Input::Traffic(t));
    assert!(stage.engine.map(stage.now.wall)[0].evidence.as_ref().unwrap().connections >= 500);
    let alert = &stage.engine.alerts(stage.now.wall)[0];
    assert_eq!((alert.count, alert.last_seen), (1, before));
}

/// Two executables wait on one edge: approving one leaves the other to be decided, told or not again.
#[test]
fn an_approval_decides_its_own_executable_alone() {
    let stage = check(
        "0 a => b 80/tcp with /bin/app
         5 guard *
         10 a => b 80/tcp with /bin/sh
         20 a => b 80/tcp with /bin/nc
         30 approve a -> b 80/tcp with /bin/sh
         40 a => b 80/tcp with /bin/nc",
        "firing high: new-executable a -> b 80/tcp established with /bin/sh;
         updated high: new-executable a -> b 80/tcp established with /bin/sh; new-executable a -> b 80/tcp established with /bin/nc;",
    );
    let waiting: Vec<String> =
        stage.engine.undecided().iter().map(|it| it.edge.to_string()).collect();
    assert_eq!(waiting, ["systemd:a.service -> systemd:b.service 80/tcp with /bin/nc"]);
    let title = &stage.engine.alerts(stage.now.wall)[0].title;
    assert!(!title.starts_with("resolved"), "{title}");
}

/// A reviewed file comes back: what was guarded is not opened to learning by it.
#[test]
fn an_import_leaves_guarded_services_guarded() {
    let mut stage = check("0 a => b 80/tcp\n 5 guard a", "");
    let figures = Figures::Left;
    let document = stage.engine.export(stage.now.wall, &Selection::All, figures).unwrap();
    stage.command(Command::Import { document, guard: Guarding::Proposed });
    let phases: Vec<Phase> =
        stage.engine.services(stage.now.wall).iter().map(|it| it.phase).collect();
    assert_eq!(phases, [Phase::Guarded, Phase::Proposed]);
}

/// An approval ends, and a file allows the edge by then: nothing waits for anybody.
#[test]
fn an_approval_that_ends_leaves_what_a_file_allows() {
    let mut stage = check(
        "0 a => b 80/tcp
         5 guard a
         10 a -> 192.0.2.1 443/tcp established with /bin/x
         20 approve a -> ip:192.0.2.1 443/tcp ttl 60",
        "firing high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/x;
         resolved high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/x;",
    );
    stage.said.clear();
    let until = stage.now.wall.plus_seconds(3_600);
    stage.step(Input::Files(file_until(until)));
    stage.until(100_000);
    assert!(stage.engine.undecided().is_empty(), "{:?}", stage.engine.undecided());
    stage.event("110 a -> 192.0.2.1 443/tcp established with /bin/x");
    stage.until(120_000);
    assert_eq!(stage.said, "");
}

/// One of two approvals ends: what a third executable did still waits, and is not learned.
#[test]
fn an_approval_that_ends_decides_nothing_for_another_executable() {
    let mut stage = check(
        "0 a => b 80/tcp
         5 guard a
         6 approve a -> ip:192.0.2.1 443/tcp with /bin/x ttl 60
         6 approve a -> ip:192.0.2.1 443/tcp with /bin/y
         10 a -> 192.0.2.1 443/tcp established with /bin/sh",
        "firing high: new-executable a -> ip:192.0.2.1 443/tcp established with /bin/sh;",
    );
    stage.event("100 learn a");
    stage.event("110 a -> 192.0.2.1 443/tcp established with /bin/sh");
    stage.until(120_000);
    assert_eq!(stage.engine.undecided().len(), 1, "{:?}", stage.engine.undecided());
}

/// The agent started without files: the first that comes decides like any other.
#[test]
fn the_first_file_decides_what_waits() {
    let mut stage = Stage::new(Mode::Auto);
    stage.step(Input::Files(Written::default()));
    for line in
        ["0 a => b 80/tcp", "5 guard a", "10 a -> 192.0.2.1 443/tcp established with /bin/sh"]
    {
        stage.event(line);
    }
    stage.until(15_000);
    assert_eq!(stage.engine.undecided().len(), 1);
    let until = stage.now.wall.plus_seconds(3_600);
    stage.step(Input::Files(file_until(until)));
    assert!(stage.engine.undecided().is_empty(), "{:?}", stage.engine.undecided());
}

/// A reviewed file lists one executable: the other's deed still waits.
#[test]
fn an_import_decides_the_executables_it_lists() {
    let mut stage = check(
        "0 a => b 80/tcp with /bin/app
         5 guard a
         10 a => b 80/tcp with /bin/sh",
        "firing high: new-executable a -> b 80/tcp established with /bin/sh;",
    );
    let document = stage.engine.export(stage.now.wall, &Selection::All, Figures::Left).unwrap();
    stage.command(Command::Import { document, guard: Guarding::Guarded });
    let waiting: Vec<String> =
        stage.engine.undecided().iter().map(|it| it.edge.to_string()).collect();
    assert_eq!(waiting, ["systemd:a.service -> systemd:b.service 80/tcp with /bin/sh"]);
}

/// An incident forgotten after a day and a kill right after it: who comes back is told.
#[test]
fn a_kill_after_an_incident_was_forgotten_silences_nobody() {
    let mut stage = check(
        "0 a => b 80/tcp
         5 guard a
         10 a -> 192.0.2.1 443/tcp established with /bin/sh",
        "firing high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/sh;",
    );
    let mut second = 86_000;
    while !stage.said.contains("resolved") {
        second += 1;
        assert!(second < 90_000, "it is forgotten after a day");
        stage.until(second * 1_000);
    }
    stage.restart(Mode::Auto);
    stage.said.clear();
    stage.event(&format!("{} a -> 192.0.2.1 443/tcp established with /bin/sh", second + 1));
    stage.until((second + 5) * 1_000);
    assert!(stage.said.starts_with("firing"), "{:?}", stage.said);
}
