//! Cgroups that are gone before anybody looks, and cgroups by the thousand: every edge has the right
//! name, starting takes no longer than it may, and memory stays where it was promised to stay.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tests::agent::{Agent, SOON, SWEPT, Setup};
use tests::eventually;
use tests::lab::{Lab, Service};
use tests::receiver::edge_of;
use tests::traffic::{Protocol, edge, nameless};

use crate::lab;

/// Cgroups of which each lives less than a millisecond.
const FLASHES: u16 = 3_000;

/// Watches only the lab's own cgroups: of the others there are enough.
fn setup(lab: &Lab) -> Setup {
    Setup::mode("learn").within(lab, "ring = \"4MiB\"\n")
}

/// The edges whose client is one of the lab's flashing services, and those that nobody could name.
#[track_caller]
fn flashes(agent: &Agent, lab: &Lab, to: SocketAddr) -> (BTreeSet<String>, BTreeSet<String>) {
    let map = agent.json(&["map"]);
    let edges = map.as_array().into_iter().flatten().map(edge_of);
    let tail = format!("-> {} {}/udp", nameless(to.ip()), to.port());
    let (named, nameless): (BTreeSet<String>, BTreeSet<String>) =
        edges.filter(|it| it.ends_with(&tail)).partition(|it| it.starts_with("systemd:"));
    let own = format!("-{}.service ", lab.tag());
    assert!(named.iter().all(|it| it.contains("systemd:flash") && it.contains(&own)), "{named:?}");
    (named, nameless)
}

fn flash_edge(lab: &Lab, number: u16, to: SocketAddr) -> String {
    let service = lab.planned(&format!("flash{number}"));
    edge(&service, &nameless(to.ip()), to.port(), Protocol::Udp)
}

#[test]
fn a_cgroup_that_is_gone_before_it_is_read_is_named() {
    let lab = lab();
    let agent = lab.agent("agent", &setup(&lab));
    let here = lab.alone();
    let to = SocketAddr::new(here.v4, 9);
    let mut dialler = lab.dialler(&lab.service("forge"), &here);
    let (slice, tag) = (lab.slice().display(), lab.tag());
    dialler.does(&format!("churn {slice} {tag} {FLASHES} {to}"), "churned");
    let expected: BTreeSet<String> = (0..FLASHES).map(|it| flash_edge(&lab, it, to)).collect();
    let told = eventually(SWEPT, "every flash", || {
        let (named, nameless) = flashes(&agent, &lab, to);
        let told = named.len() + nameless.len();
        if told >= expected.len() { Ok(named) } else { Err(format!("{told} of them")) }
    });
    // What the ring could not hold is told by the sweep, which finds no name for what is gone: counted.
    let lost = agent.lost("ring-full");
    let missing: Vec<&String> = expected.difference(&told).collect();
    assert!(missing.len() as u64 <= lost, "{lost} lost, and without a name: {missing:?}");
    assert!(told.is_subset(&expected), "{:?}", told.difference(&expected));
}

/// Cgroups that come and go for longer than a start takes.
const COMING: u16 = 6_000;

#[test]
fn while_the_agent_starts_cgroups_may_come_and_go() {
    let lab = lab();
    let here = lab.alone();
    let to = SocketAddr::new(here.v4, 9);
    let mut dialler = lab.dialler(&lab.service("forge"), &here);
    let (slice, tag) = (lab.slice().display(), lab.tag());
    let mut agent = lab.prepared_agent("agent", &setup(&lab));
    dialler.begin_order(&format!("churn {slice} {tag} {COMING} {to}"));
    agent.start();
    dialler.ends_within("churned", Duration::from_secs(120));
    // From the first that was seen on, none is left out.
    let (named, nameless) = eventually(SWEPT, "every flash from the first on", || {
        let (named, nameless) = flashes(&agent, &lab, to);
        let first = named.iter().filter_map(|it| number_of(it)).min().unwrap_or(COMING);
        let (told, due) = (named.len() + nameless.len(), (COMING - first) as usize);
        if due > 0 && told >= due { Ok((named, nameless)) } else { Err(format!("{told} of {due}")) }
    });
    let lost = agent.lost("ring-full");
    assert!(nameless.len() as u64 <= lost, "{lost} lost, {} without a name", nameless.len());
    let last = flash_edge(&lab, COMING - 1, to);
    assert!(named.contains(&last) || lost > 0, "the last was seen as the agent ran");
    assert_eq!(agent.end(Signal::TERM).code(), Some(0), "{}", agent.said());
}

fn number_of(edge: &str) -> Option<u16> {
    edge.strip_prefix("systemd:flash")?.split('-').next()?.parse().ok()
}

/// Cgroups of a large node, ten times over.
const MANY: usize = 10_000;

#[test]
fn ten_thousand_cgroups_are_named_and_cost_little() {
    let lab = lab();
    // One that knows only its own, to compare with.
    let mut agent = lab.agent("small", &setup(&lab));
    let before = resident_kib(&agent);
    assert_eq!(agent.end(Signal::TERM).code(), Some(0));

    let many = made(&lab, "many");
    let started = Instant::now();
    let mut agent = lab.agent("agent", &setup(&lab));
    // A start walks the tree once: a second is promised, on a busy machine five.
    let took = started.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?} to start");
    let here = lab.alone();
    let to = SocketAddr::new(here.v4, 9);
    let more = made(&lab, "more");
    for service in many.iter().chain(&more).step_by(MANY / 10) {
        lab.dialler(service, &here).dials(&format!("datagram {to}"), "sent");
        agent.sees(&edge(service, &nameless(to.ip()), to.port(), Protocol::Udp));
    }
    // A cgroup is its path and its name, some 300 bytes of them in each of two tables: a kilobyte is
    // promised.
    let grown = resident_kib(&agent).saturating_sub(before);
    let promised = 2 * MANY as u64;
    assert!(grown < 5 * promised, "{grown} KiB for {} cgroups", 2 * MANY);

    let asked = Instant::now();
    assert_eq!(agent.end(Signal::TERM).code(), Some(0), "{}", agent.said());
    assert!(asked.elapsed() < SOON, "{:?} to end", asked.elapsed());
}

/// Makes cgroups by the thousand, at a pace that leaves other tests' agents on this machine time to
/// hear of all of them.
#[track_caller]
fn made(lab: &Lab, name: &str) -> Vec<Service> {
    let make = |number: usize| {
        if number.is_multiple_of(100) {
            thread::sleep(Duration::from_millis(40));
        }
        lab.service(&format!("{name}{number}"))
    };
    (0..MANY).map(make).collect()
}

/// What the agent's process holds in memory.
#[track_caller]
fn resident_kib(agent: &Agent) -> u64 {
    let path = format!("/proc/{}/status", agent.pid());
    let status = std::fs::read_to_string(&path).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    kib.unwrap_or_else(|| panic!("{path} says no VmRSS"))
}
