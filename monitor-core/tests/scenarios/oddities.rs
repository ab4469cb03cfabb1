//! Stories of what is odd beyond a new peer: ports that are opened, servers that dial, places nobody
//! should reach, programs that are not what they seem, an agent that sees less than it should.

use monitor_core::baseline::{Mode, Written};
use monitor_core::detect::{Meanwhile, Trouble};
use monitor_core::engine::{Input, Selection};
use monitor_core::flow::{Ancestor, Direction, Image, Loss, Outcome, Process, Remote};
use monitor_core::ids::WallTime;

use crate::stage::{Stage, check, check_in, flow, key};

#[test]
fn a_guarded_service_that_opens_another_port_is_said() {
    let stage = check(
        "0 a listens 80/tcp with /bin/app
         1 world => a 443/tcp
         5 guard a
         10 a listens 80/tcp with /bin/app
         11 a listens 443/tcp with /bin/app
         12 a listens 4444/tcp with /bin/nc
         13 a listens 80/tcp with /bin/nc",
        "firing medium: new-listener a listens 4444/tcp established with /bin/nc;
         updated medium: new-listener a listens 4444/tcp established with /bin/nc; new-listener a listens 80/tcp established with /bin/nc;",
    );
    let alert = &stage.engine.alerts(stage.now.wall)[0];
    assert_eq!(
        alert.allow,
        "edgewatch baseline approve 'systemd:a.service listens 4444/tcp with /bin/nc' --ttl 7d"
    );
    assert!(alert.findings[0].reasons[0].text.contains("it does at 443/tcp, 80/tcp"));
    assert!(stage.engine.map(stage.now.wall).iter().all(|it| !it.edge.client.is_nobody()));
    // What is sent leaves the client out, and reads back.
    let text = serde_json::to_string(&alert.findings[0].edge).unwrap();
    assert!(!text.contains("client"), "{text}");
    assert_eq!(serde_json::from_str::<Option<_>>(&text).unwrap(), alert.findings[0].edge);
}

#[test]
fn an_approved_listener_is_silent() {
    check(
        "0 a listens 80/tcp with /bin/app
         5 guard a
         8 approve a listens 4444/tcp with /bin/nc
         10 a listens 4444/tcp with /bin/nc
         20 forbid a listens 4444/tcp
         30 a listens 4444/tcp with /bin/nc",
        "firing critical: forbidden a listens 4444/tcp established with /bin/nc;",
    );
}

#[test]
fn ports_that_the_kernel_picks_are_one_habit() {
    check(
        "0 a listens 80/tcp with /bin/app
         1 a listens 40001/tcp with /bin/app
         5 guard a
         10 a listens 50002/tcp with /bin/app
         11 a listens 50002/tcp with /bin/nc",
        "firing medium: new-listener a listens 50002/tcp established with /bin/nc;",
    );
}

#[test]
fn listeners_travel_with_an_export() {
    let stage = check("0 a listens 80/tcp with /bin/app\n 1 a => b 90/tcp", "");
    let figures = monitor_core::baseline::document::Figures::Left;
    let document = stage.engine.export(stage.now.wall, &Selection::All, figures).unwrap();
    let entry = &document.services[&"systemd:a.service".parse().unwrap()];
    assert_eq!(entry.listens.len(), 1);
    assert_eq!(entry.outbound.len(), 1);
    let difference = stage.engine.difference_to(&document).unwrap();
    assert!(difference.added.is_empty() && difference.removed.is_empty(), "{difference:?}");
}

#[test]
fn who_only_accepted_and_dials_is_said_to_have_turned() {
    let stage = check(
        "0 a => b 80/tcp
         0 b -> 10.9.9.9 53/udp established with /bin/app
         5 guard b
         10 b -> 192.0.2.1 443/tcp established with /bin/app
         20 b => a 22/tcp",
        "firing high: role-inversion b -> ip:192.0.2.1 443/tcp established with /bin/app;
         updated high: role-inversion b -> ip:192.0.2.1 443/tcp established with /bin/app; role-inversion b -> a 22/tcp established with /bin/app;",
    );
    let alert = &stage.engine.alerts(stage.now.wall)[0];
    let texts: Vec<&str> = alert.findings.iter().map(|it| &*it.reasons[0].text).collect();
    assert!(texts[0].contains("only ever accepted (1 known edge)"), "{texts:?}");
    assert!(texts[1].contains("is a client of systemd:b.service (80/tcp)"), "{texts:?}");
}

#[test]
fn a_server_that_also_dials_may_still_not_dial_its_client() {
    check(
        "0 a => b 80/tcp
         0 b => c 5432/tcp
         5 guard b
         10 b => c 5433/tcp
         20 b -> 192.0.2.1 443/tcp established with /bin/app
         30 b => a 22/tcp",
        "firing medium: new-port b -> c 5433/tcp established with /bin/app;
         updated high: new-port b -> c 5433/tcp established with /bin/app; new-peer b -> ip:192.0.2.1 443/tcp established with /bin/app;
         updated high: new-port b -> c 5433/tcp established with /bin/app; new-peer b -> ip:192.0.2.1 443/tcp established with /bin/app; role-inversion b -> a 22/tcp established with /bin/app;",
    );
}

#[test]
fn what_hands_out_the_machine_is_never_learned_silently() {
    let stage = check(
        "0 a => b 80/tcp
         1 a -> 169.254.169.254 80/tcp established with /bin/curl
         1 b -> 169.254.169.254 80/tcp established with /bin/curl
         2 a -> 10.0.0.9 2375/tcp attempted with /bin/docker
         3 a -> 169.254.169.254 80/tcp established with /bin/curl
         30 a -> 169.254.169.254 53/udp established with /bin/app
         40 approve a -> ip:10.0.0.9 2375/tcp with /bin/docker
         50 a -> 10.0.0.9 2375/tcp established with /bin/docker",
        "firing medium: metadata-access a -> ip:169.254.169.254 80/tcp established with /bin/curl; metadata-access b -> ip:169.254.169.254 80/tcp established with /bin/curl;
         firing medium: sensitive-port a -> ip:10.0.0.9 2375/tcp attempted with /bin/docker;
         resolved medium: sensitive-port a -> ip:10.0.0.9 2375/tcp attempted with /bin/docker;",
    );
    let undecided: Vec<String> =
        stage.engine.undecided().iter().map(|it| it.edge.edge.to_string()).collect();
    assert_eq!(undecided.len(), 2, "{undecided:?}");
    assert!(undecided.iter().all(|it| it.contains("169.254.169.254 80/tcp")));
}

/// What nobody guards waits a moment for what is like it: an end meanwhile loses none of it.
#[test]
fn what_waits_for_others_like_it_survives_an_end() {
    for end in ["killed", "ended"] {
        let mut stage = Stage::new(Mode::Auto);
        stage.event("0 a => b 80/tcp");
        stage.event("1 a -> 169.254.169.254 80/tcp established with /bin/curl");
        if end == "ended" {
            let now = stage.now;
            let effects = stage.engine.finish(now);
            stage.perform(effects);
        } else {
            // Something else is stored meanwhile, and with it that this edge waits.
            stage.event("1 a => c 90/tcp");
        }
        assert_eq!(stage.said, "", "{end}: it still waits");
        stage.restart(Mode::Auto);
        stage.event("3 a -> 169.254.169.254 80/tcp established with /bin/curl");
        stage.until(5_000);
        assert_eq!(
            stage.said,
            "firing medium: metadata-access a -> ip:169.254.169.254 80/tcp established with /bin/curl;\n",
            "{end}"
        );
    }
}

#[test]
fn what_was_decided_before_it_was_told_is_not_told() {
    let stage = check(
        "0 a => b 80/tcp
         1 a -> 10.0.0.9 2375/tcp established with /bin/docker
         1 approve a -> ip:10.0.0.9 2375/tcp with /bin/docker
         9 tick",
        "",
    );
    assert!(stage.engine.undecided().is_empty());
}

/// An approval is for one executable, also where nobody is guarded.
#[test]
fn another_executable_is_not_learned_along_with_an_approved_one() {
    let mut stage = check(
        "0 a => b 80/tcp
         1 approve a -> ip:10.0.0.9 2375/tcp with /bin/docker
         2 a -> 10.0.0.9 2375/tcp established with /bin/docker
         3 a -> 10.0.0.9 2375/tcp established with /bin/curl",
        "firing medium: sensitive-port a -> ip:10.0.0.9 2375/tcp established with /bin/curl;",
    );
    let undecided: Vec<String> =
        stage.engine.undecided().iter().map(|it| it.edge.to_string()).collect();
    assert_eq!(undecided, ["systemd:a.service -> ip:10.0.0.9 2375/tcp with /bin/curl"]);
    stage.event("20 guard a");
    stage.event("21 a -> 10.0.0.9 2375/tcp established with /bin/docker");
    stage.until(25_000);
    assert_eq!(stage.said.lines().count(), 1, "{}", stage.said);
}

/// A node's own metadata proxy, or a server in another namespace of this machine.
#[test]
fn a_stand_in_for_the_metadata_service_is_the_metadata_service() {
    let mut stage = check("0 a => b 80/tcp\n 5 guard a", "");
    let (client, server) = (stage.cgroup("a"), stage.cgroup("b"));
    let metadata = "169.254.169.254".parse().unwrap();
    let own = "10.0.0.1:40000".parse().unwrap();
    let dial =
        key(client, Direction::Outbound, Remote::Address(metadata), "81/tcp", Outcome::Established);
    stage.step(Input::Flow(flow(stage.now.wall, dial, Some(own), "/bin/sh")));
    let accept =
        key(server, Direction::Inbound, Remote::Cgroup(client), "81/tcp", Outcome::Established);
    stage.step(Input::Flow(flow(stage.now.wall, accept, Some(own), "")));
    stage.until(10_000);
    assert_eq!(
        stage.said,
        "firing high: metadata-access a -> b 81/tcp established with /bin/sh;\n"
    );
}

#[test]
fn a_guarded_service_that_reaches_for_them_is_severe() {
    check(
        "0 a => b 80/tcp
         5 guard a
         10 a -> 10.0.0.9 10250/tcp established with /bin/sh
         20 a -> 10.0.0.9 2379/tcp established with /bin/sh
         30 a -> fd00:ec2::254 80/tcp established with /bin/sh",
        "firing high: sensitive-port a -> ip:10.0.0.9 10250/tcp established with /bin/sh;
         updated high: sensitive-port a -> ip:10.0.0.9 10250/tcp established with /bin/sh; sensitive-port a -> ip:10.0.0.9 2379/tcp established with /bin/sh;
         updated high: sensitive-port a -> ip:10.0.0.9 10250/tcp established with /bin/sh; sensitive-port a -> ip:10.0.0.9 2379/tcp established with /bin/sh; metadata-access a -> ip:fd00:ec2::254 80/tcp established with /bin/sh;",
    );
}

#[test]
fn a_program_that_is_not_what_it_seems_is_named_as_such() {
    let mut stage = check("0 a => b 80/tcp with /usr/bin/python3\n 5 guard a", "");
    let cgroup = stage.cgroup("a");
    let server = Remote::Address("192.0.2.1".parse().unwrap());
    let dial = |stage: &mut Stage, port: &str, process: Process| {
        let key = key(cgroup, Direction::Outbound, server, port, Outcome::Established);
        let mut flow = flow(stage.now.wall, key, None, "");
        flow.process = Some(process.into());
        stage.step(Input::Flow(flow));
    };
    let shell = "/usr/bin/dash:/usr/bin/python3".to_owned();
    let ancestors = vec![
        Ancestor { pid: 9, executable: Some("/usr/bin/dash".to_owned()) },
        Ancestor { pid: 8, executable: Some("/opt/a b".to_owned()) },
    ];
    let under = Process { executable: Some(shell), pid: 10, ancestors, ..Process::default() };
    dial(&mut stage, "1/tcp", under);
    let process = |path: &str, image| Process {
        executable: Some(path.to_owned()),
        pid: 11,
        image,
        ..Process::default()
    };
    dial(&mut stage, "2/tcp", process("/memfd:x", Image::Memory));
    dial(&mut stage, "3/tcp", process("/tmp/x", Image::Deleted));
    dial(&mut stage, "4/tcp", process("/bin/bash", Image::File));
    stage.until(12_000);
    let alerts = stage.engine.alerts(stage.now.wall);
    let names = |index: usize| -> Vec<&str> {
        alerts[0].findings[index].reasons.iter().map(|it| &*it.name).collect()
    };
    assert!(names(0).contains(&"under-shell"), "{:?}", names(0));
    assert!(names(1).contains(&"memory-binary"), "{:?}", names(1));
    assert!(alerts[0].findings[1].attack.contains(&"T1620".to_owned()));
    assert!(names(2).contains(&"deleted-binary"), "{:?}", names(2));
    assert!(names(3).contains(&"shell"), "{:?}", names(3));
    let process = alerts[0].findings[0].process.as_ref().unwrap();
    assert_eq!(process.ancestors[1].executable.as_deref(), Some("/opt/a%20b"));
}

#[test]
fn an_interpreter_under_a_shell_is_another_executable_and_not_the_other_way_round() {
    check(
        "0 a => b 80/tcp with /usr/bin/python3
         0 c => b 80/tcp with /bin/sh:/usr/bin/python3
         5 guard a c
         10 a => b 80/tcp with /bin/sh:/usr/bin/python3
         20 c => b 80/tcp with /usr/bin/python3",
        "firing high: new-executable a -> b 80/tcp established with /bin/sh:/usr/bin/python3;",
    );
}

#[test]
fn an_agent_in_trouble_says_so() {
    let mut stage = check("0 a => b 80/tcp\n 5 guard a", "");
    let detached =
        |program: &str| Input::Trouble(Trouble::Detached { program: program.to_owned() });
    stage.step(Input::Trouble(Trouble::Files { mistake: "a.yaml:1: no".to_owned() }));
    stage.step(Input::Files(Written::default()));
    assert!(stage.said.ends_with("resolved medium: sensor baseline-file;\n"), "{}", stage.said);
    stage.step(detached("connect4"));
    stage.step(detached("connect6"));
    stage.step(Input::Trouble(Trouble::Files { mistake: "b.yaml:3: unknown key".to_owned() }));
    stage.until(10_000);
    let last = stage.said.lines().last().unwrap();
    assert_eq!(
        last,
        "updated high: sensor detached-connect4; sensor detached-connect6; sensor baseline-file;"
    );
    let alerts = stage.engine.alerts(stage.now.wall);
    let [alert, _resolved] = alerts.as_slice() else { panic!("{alerts:?}") };
    assert_eq!(alert.service.as_str(), "host:n1");
    assert_eq!(alert.allow, "");
    // A hijack meanwhile is its own message.
    stage.event("20 a -> 192.0.2.1 443/tcp established with /bin/sh");
    stage.until(21_000);
    assert_eq!(stage.engine.alerts(stage.now.wall).len(), 3);
}

#[test]
fn losses_are_said_with_their_figures_and_not_with_every_sweep() {
    let mut stage = Stage::new(Mode::Auto);
    let lost = |stage: &mut Stage, loss, count| stage.step(Input::Lost { loss, count });
    lost(&mut stage, Loss::Untracked, 5);
    stage.until(2_000);
    assert_eq!(stage.said, "", "missing bytes hide no edge");
    lost(&mut stage, Loss::MapFull, 2);
    stage.until(4_000);
    assert_eq!(stage.said, "firing medium: sensor lost-map-full;\n");
    for minute in 1..=59 {
        lost(&mut stage, Loss::MapFull, 1);
        stage.until(minute * 60_000);
    }
    assert_eq!(stage.said.lines().count(), 1);
    stage.until(3_700_000);
    assert_eq!(stage.said.lines().count(), 2);
    let text = &stage.engine.alerts(stage.now.wall)[0].findings[0].reasons[0].text;
    assert!(text.starts_with("59 × map-full"), "{text}");
    assert_eq!(stage.engine.status(stage.now.wall).lost[&Loss::MapFull], 61);
}

#[test]
fn what_is_found_after_nobody_looked_says_so() {
    let mut stage = check("0 a => b 80/tcp\n 5 guard a", "");
    stage.restart(Mode::Auto);
    let since = WallTime(stage.now.wall.0 - 30_000_000);
    let meanwhile = Meanwhile::Unseen;
    stage.step(Input::Trouble(Trouble::Gap { seconds: 30, since, meanwhile }));
    stage.event("8 a -> 192.0.2.1 443/tcp established with /bin/sh");
    stage.event("20 a -> 192.0.2.1 444/tcp established with /bin/sh");
    stage.until(21_000);
    let alerts = stage.engine.alerts(stage.now.wall);
    let gap = |index: usize| alerts[0].findings[index].reasons.iter().any(|it| it.name == "gap");
    assert!(gap(0) && !gap(1));
    assert_eq!(alerts.len(), 1, "a restart is no alert");
    stage.step(Input::Trouble(Trouble::Gap { seconds: 7_200, since, meanwhile }));
    stage.until(22_000);
    assert!(stage.said.ends_with("firing low: sensor gap;\n"), "{}", stage.said);
}

#[test]
fn in_mode_guard_an_opened_port_asks_for_no_baseline() {
    check_in(Mode::Guard, "0 a listens 80/tcp with /bin/app", "");
}
