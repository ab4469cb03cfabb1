//! What others do to what we attached: programs of theirs beside ours or in their place, links detached,
//! cgroups removed; and grounds that give less than all. Each is told, and what still can be seen is.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::agent::{Agent, SOON, Setup, verb};
use tests::eventually;
use tests::ground::{Missing, asks_for_capabilities_are_seen};
use tests::kernel::{Loaded, attached};
use tests::lab::{Lab, Service};
use tests::others::Connect4;
use tests::process::finish;
use tests::traffic::{Protocol, edge, nameless};

use crate::ground::check_edges;
use crate::lab;

/// Five times the promise of five seconds.
const NOTICED: Duration = Duration::from_secs(25);

/// `BPF_CGROUP_INET_EGRESS`
const EGRESS: u32 = 1;

/// Waits until an alert of the agent's own says `what`.
#[track_caller]
fn is_told(agent: &Agent, what: &str) {
    eventually(NOTICED, what, || {
        let alerts = agent.json(&["alerts"]);
        let said = alerts.as_array().into_iter().flatten().any(|alert| {
            let findings = alert["findings"].as_array().into_iter().flatten();
            let mut own = findings.filter(|it| it["kind"] == "sensor");
            own.any(|it| it["reasons"][0]["text"].as_str().is_some_and(|it| it.contains(what)))
        });
        if said { Ok(()) } else { Err(alerts.to_string()) }
    });
}

/// Who attached what, and how, and keeps it so.
type Attach = fn(&Connect4, &Path) -> Option<std::os::fd::OwnedFd>;

#[test]
fn who_joins_us_in_a_child_is_told_and_ours_see_as_before() {
    let lab = lab();
    let agent = lab.agent("agent", &Setup::mode("learn").within(&lab, ""));
    let here = lab.alone();
    let ways: [(&str, Attach); 3] = [
        ("by_link", |program, cgroup| Some(program.link(cgroup))),
        ("beside", |program, cgroup| {
            program.attach_beside(cgroup);
            None
        }),
        ("alone", |program, cgroup| {
            program.attach_alone(cgroup);
            None
        }),
    ];
    let mut held = Vec::new();
    for ((name, attach), port) in ways.into_iter().zip(9_000..) {
        let job = lab.service(name);
        let program = Connect4::rewriting(name, 9_999, 8_080);
        held.push(attach(&program, &job.cgroup));
        is_told(&agent, &format!("the program {name} ("));
        let to = SocketAddr::new(here.v4, port);
        lab.dialler(&job, &here).is_refused(to);
        agent.sees(&edge(&job, &nameless(to.ip()), port, Protocol::Tcp));
    }
    let config = agent.config.display().to_string();
    let doctor = finish(&mut verb(&["doctor", "--config", &config])).stdout;
    for (name, _) in ways {
        let cgroup = lab.planned(name).cgroup.display().to_string();
        assert!(doctor.contains(&format!("{name} (")) && doctor.contains(&cgroup), "{doctor}");
    }
    // Ours, by name, is nobody who joins.
    let alerts = agent.json(&["alerts"]).to_string();
    assert!(!alerts.contains("the program connect4 ("), "{alerts}");
}

#[test]
fn who_was_there_before_is_no_news() {
    let lab = lab();
    let (early, late) = (lab.service("early"), lab.service("late"));
    let program = Connect4::rewriting("was_there", 9_999, 8_080);
    let there = program.link(&early.cgroup);
    let agent = lab.agent("agent", &Setup::mode("learn").within(&lab, ""));
    let news = Connect4::rewriting("is_new", 9_999, 8_080);
    let new = news.link(&late.cgroup);
    is_told(&agent, "the program is_new (");
    let alerts = agent.json(&["alerts"]).to_string();
    assert!(!alerts.contains("was_there"), "{alerts}");
    drop((there, new));
}

#[test]
fn what_looks_at_packets_is_missed_and_what_traces_cannot_be_detached() {
    let lab = lab();
    let agent = lab.agent("agent", &Setup::mode("learn").within(&lab, ""));
    let before = Loaded::by(agent.pid()).links.len();
    let mut peer = lab.dialler(&lab.service("raw"), &lab.alone());
    peer.does("odd open raw-icmp", "open");
    looked_at(&peer.service.cgroup, 1);
    // Attached a moment before it is held.
    let loaded = eventually(SOON, "its link", || {
        let loaded = Loaded::by(agent.pid());
        if loaded.links.len() > before { Ok(loaded) } else { Err(format!("{loaded:?}")) }
    });
    loaded.detach("net");
    is_told(&agent, "the kernel program net is attached no longer");
    assert_eq!(agent.lost("hook-missing"), 1);
    let status = agent.json(&["status"])["missing"].to_string();
    assert!(status.contains("what the kernel program net shows"), "{status}");
    let traced = ["cgroup_mkdir", "process_exec"].into_iter();
    for name in traced.chain(asks_for_capabilities_are_seen().then_some("cap_capable")) {
        let refused = loaded.try_detach(name).expect_err("nobody can");
        assert_eq!(refused.kind(), std::io::ErrorKind::Unsupported, "{name}: {refused}");
    }
}

/// Waits until so many programs look at a cgroup's packets.
#[track_caller]
pub(crate) fn looked_at(cgroup: &Path, count: u32) {
    eventually(SOON * 2, "the net", || match attached(cgroup, EGRESS) {
        Ok(found) if found == count => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// An agent that watches this cgroup alone.
fn of_part(lab: &Lab, part: &Service, pins: &Path) -> Agent {
    let capture = format!("[capture]\ncgroup = {:?}\n", part.cgroup.display().to_string());
    let setup = Setup::mode("learn").tables(&capture).pinned(pins);
    lab.prepared_agent(&format!("agent-of-{}", part.name), &setup)
}

#[test]
fn a_watched_cgroup_that_is_removed_is_missed() {
    let lab = lab();
    let bpffs = lab.bpffs();
    let part = lab.service("part");
    let mut agent = of_part(&lab, &part, &bpffs.pins());
    agent.start();
    fs::remove_dir(&part.cgroup).expect("nobody is in it");
    is_told(&agent, "was removed");
    let status = agent.text(&["status"]);
    assert!(status.contains("anything at all"), "{status}");
}

#[test]
fn a_watched_cgroup_that_is_removed_while_it_is_attached_to_is_told_in_either_way() {
    let lab = lab();
    for (round, links) in [1, 3, 8].into_iter().enumerate() {
        let bpffs = lab.bpffs();
        let part = lab.service(&format!("part{round}"));
        let mut agent = of_part(&lab, &part, &bpffs.pins());
        agent.launch();
        let drafted = bpffs.pins().join("next/links");
        soon_as("so many links", || entries(&drafted).len() >= links || agent.is_ready());
        fs::remove_dir(&part.cgroup).expect("nobody is in it");
        let ended = eventually(SOON * 4, "an end, or a word", || {
            if !agent.runs() {
                return Ok(true);
            }
            let ready = agent.get("/readyz").is_ok();
            let told = ready && agent.json(&["alerts"]).to_string().contains("was removed");
            if told { Ok(false) } else { Err(agent.said()) }
        });
        if ended {
            assert_eq!(agent.ended().code(), Some(1));
            let said = agent.said();
            assert!(said.contains("cgroup was removed"), "{said}");
            assert_eq!(entries(&bpffs.pins()), Vec::<PathBuf>::new(), "nothing half attached");
        }
    }
}

/// Looks until something is so, without a pause: what is awaited lasts for a moment.
#[track_caller]
pub(crate) fn soon_as(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON * 12;
    while !is_so() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::yield_now();
    }
}

pub(crate) fn entries(directory: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir(directory).into_iter().flatten().flatten().map(|it| it.path()).collect();
    found.sort();
    found
}

#[test]
fn a_cgroup_that_goes_as_its_packets_are_to_be_looked_at_disturbs_nobody() {
    const FLASHES: u32 = 40;
    let lab = lab();
    let bpffs = lab.bpffs();
    let setup = Setup::mode("learn").within(&lab, "").pinned(&bpffs.pins());
    let agent = lab.agent("agent", &setup);
    let here = lab.alone();
    for flash in 0..FLASHES {
        let service = lab.service(&format!("flash{flash}"));
        let mut peer = lab.dialler(&service, &here);
        peer.does("odd open raw-icmp", "open");
        peer.end();
        // What is attached meanwhile goes with it.
        eventually(SOON, "an empty cgroup", || {
            fs::remove_dir(&service.cgroup).map_err(|error| error.to_string())
        });
    }
    let mut last = lab.dialler(&lab.service("last"), &here);
    last.does("odd open raw-icmp", "open");
    looked_at(&last.service.cgroup, 1);
    // Nothing is left of those that are gone, and nothing was lost by it.
    let links = bpffs.pins().join("current/links");
    eventually(SOON, "one net", || {
        let nets = entries(&links);
        let nets: Vec<_> =
            nets.iter().filter(|it| it.to_string_lossy().contains("/net-")).collect();
        if nets.len() == 1 { Ok(()) } else { Err(format!("{nets:?}")) }
    });
    let alerts = agent.json(&["alerts"]).to_string();
    assert!(!alerts.contains("attached no longer"), "{alerts}");
    assert_eq!(agent.lost("hook-missing"), 0);
}

#[test]
fn cgroups_that_cannot_be_written_are_enough() {
    let lab = lab();
    let root = lab.cgroup_root().display().to_string();
    let script = format!(
        "mount --bind {root} {root} && mount -o remount,ro,bind {root} && exec \"$0\" \"$@\""
    );
    let words = ["unshare", "-m", "sh", "-c", &script].map(str::to_owned);
    let agent = lab.agent("agent", &Setup::mode("learn").through(&words));
    check_edges(&lab, &lab.wire(), &agent);
    let doctor = verb(&["doctor"]);
    let mut command = std::process::Command::new(&words[0]);
    command.args(&words[1..]).arg(doctor.get_program()).args(doctor.get_args());
    let said = finish(&mut command).stdout;
    assert!(said.contains("loaded only: no cgroup can be made"), "{said}");
}

#[test]
fn too_few_rights_for_some_hooks_leave_the_others_and_are_told() {
    let lab = lab();
    let less = "-perfmon,-sys_admin";
    let words = ["setpriv".to_owned(), format!("--bounding-set={less}")];
    let words = words.into_iter().chain([format!("--inh-caps={less}")]).collect::<Vec<_>>();
    let agent = lab.agent("agent", &Setup::mode("learn").through(&words));
    check_edges(&lab, &lab.wire(), &agent);
    let status = agent.json(&["status"]);
    let missing = status["missing"].to_string();
    for words in Missing::Tracepoints.told() {
        assert!(missing.contains(words) && missing.contains("CAP_PERFMON"), "{words}: {missing}");
    }
    // Four tracepoints; for what asks for a capability packet sockets are looked for.
    assert_eq!(agent.lost("hook-missing"), 4, "{status}");
    assert!(agent.text(&["status"]).contains("not seen"));
    // Who comes beside us is noticed without being told which programs there are.
    let program = Connect4::rewriting("by_walking", 9_999, 8_080);
    let job = lab.service("job");
    let link = program.link(&job.cgroup);
    let told = |alerts: &Value| alerts.to_string().contains("beside our connect4");
    eventually(NOTICED, "that somebody joined", || {
        let alerts = agent.json(&["alerts"]);
        if told(&alerts) { Ok(()) } else { Err(alerts.to_string()) }
    });
    drop(link);
}

#[test]
fn who_is_attached_alone_is_named_and_not_fought() {
    let lab = lab();
    let bpffs = lab.bpffs();
    let setup = Setup::mode("learn").within(&lab, "").pinned(&bpffs.pins());
    let alone = Connect4::rewriting("their_proxy", 9999, 8080);
    alone.attach_alone(lab.slice());
    let mut agent = lab.prepared_agent("agent", &setup);
    agent.launch();
    assert_eq!(agent.ended().code(), Some(1), "{}", agent.said());
    assert!(agent.said().contains("their_proxy (program "), "{}", agent.said());
    let left: Vec<_> = fs::read_dir(bpffs.pins()).expect("it was made").flatten().collect();
    assert!(left.is_empty(), "what was attached before it is gone again: {left:?}");
}
