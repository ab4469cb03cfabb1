//! Every reason for which something is not told, forced, with its count exact where the configuration
//! makes it so. `table-full` takes 200,000 edges and is the core's to test.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use rustix::process::Signal;
use tests::agent::{Agent, SOON, SWEPT, Setup};
use tests::eventually;
use tests::kernel::Loaded;
use tests::lab::Lab;
use tests::process::{Running, finish};
use tests::receiver::edge_of;
use tests::traffic::{Protocol, edge, nameless};

use crate::lab;

/// Watches only the lab's own cgroups, with `sizes` of `[capture]`; nobody here is to be told as a whole.
fn setup(lab: &Lab, sizes: &str) -> Setup {
    Setup::mode("learn")
        .within(lab, &format!("canary = \"1h\"\n{sizes}"))
        .tables("[detect]\nbudget = 1000000\n")
}

/// Runs it without the right to mount: then it has no tracefs, and the kernel tells it of flows alone.
fn flows_alone() -> Vec<String> {
    let hide = "for at in /sys/kernel/tracing /sys/kernel/debug/tracing; do \
        if mountpoint -q $at; then umount -l $at; fi; done; exec \"$0\" \"$@\"";
    let words = ["unshare", "-m", "sh", "-c", hide, "setpriv", "--bounding-set=-sys_admin"];
    let words = words.into_iter().chain(["--inh-caps=-sys_admin"]);
    words.map(str::to_owned).collect()
}

/// Waits until so much was lost, and checks that it is no more a sweep later.
#[track_caller]
fn loses_exactly(agent: &Agent, reason: &str, count: u64) {
    eventually(SWEPT, reason, || {
        let lost = agent.lost(reason);
        if lost >= count { Ok(()) } else { Err(format!("{lost} of {count}")) }
    });
    assert_eq!(agent.lost(reason), count, "{reason}");
}

#[test]
fn what_a_full_ring_could_not_hold_is_counted_exactly_and_told_by_the_sweep() {
    let lab = lab();
    let setup = setup(&lab, "ring = \"4KiB\"\n").through(&flows_alone());
    let agent = lab.agent("agent", &setup);
    let here = lab.alone();
    let web = lab.service("web");
    let mut dialler = lab.dialler(&web, &here);
    // Each datagram to another port is one record. The first round says how many the ring holds.
    let mut from = 20_000;
    let mut overflow = |ports: u16| {
        agent.stop();
        dialler.dials(&format!("datagram {}:{from} --ports {ports}", here.v4), "sent");
        agent.signal(Signal::CONT);
        from += ports;
    };
    overflow(200);
    let lost = eventually(SWEPT, "the loss", || match agent.lost("ring-full") {
        0 => Err("none".to_owned()),
        lost => Ok(lost),
    });
    let room = 200 - lost;
    assert!((8..100).contains(&room), "{room} records in a page");
    overflow(3_000);
    loses_exactly(&agent, "ring-full", lost + 3_000 - room);
    let edge = |port| edge(&web, &nameless(here.v4), port, Protocol::Udp);
    agent.sees(&edge(from - 1));
    // The last may be told by the ring, before the sweep comes by the others.
    eventually(SWEPT, "all of them: told late, never lost", || {
        let map = agent.json(&["map"]);
        let told: BTreeSet<String> = map.as_array().into_iter().flatten().map(edge_of).collect();
        let missing: Vec<u16> =
            (20_000..from).filter(|port| !told.contains(&edge(*port))).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?}")) }
    });
}

#[test]
fn what_listeners_beyond_the_table_accept_is_counted_exactly_where_it_is_nobodys() {
    let lab = lab();
    let (api, here) = (lab.service("api"), lab.alone());
    let at = |port| SocketAddr::new(here.v4, port);
    // More than the table has room for, there before the agent: from its first moment it is full.
    let older = lab.serve_ports(&api, &here, at(10_000), 80);
    let agent = lab.agent("agent", &setup(&lab, "listeners = 64\n"));
    let web = lab.service("web");
    let mut dialler = lab.dialler(&web, &here);
    // Whoever begins to listen now says by its sockets whose they are.
    let newer = lab.serve_ports(&api, &here, at(20_000), 50);
    dialler.dials(&format!("tcp {} --ports 50", newer.address), "established");
    agent.shows(&newer.edge_from(&web), SOON, |view| view["seen_from"] == "both");
    assert_eq!(agent.json(&["status"])["lost"], serde_json::json!({}));
    // Of the older ones those that found no room are nobody's.
    dialler.dials(&format!("tcp {} --ports 80", older.address), "established");
    loses_exactly(&agent, "unattributed", 80 - 64);
    assert_eq!(agent.lost("map-full"), 0);
}

#[test]
fn ports_beyond_what_one_may_bind_are_counted_exactly() {
    const MADE: u64 = 1_000;
    let lab = lab();
    let here = lab.alone();
    let few = Setup::mode("learn").within(&lab, "canary = \"1h\"\n");
    let agent = lab.agent("agent", &few.tables("[detect]\nbudget = 16\n"));
    let binder = lab.service("binder");
    let flood = std::path::Path::new(env!("CARGO_BIN_EXE_flood"));
    let mut command = lab.command(&binder, Some(&here), flood);
    let words = ["binds".to_owned(), here.v4.to_string(), MADE.to_string()];
    assert_eq!(finish(command.args(words)).done().trim_end(), format!("made {MADE}"));
    let cgroup = std::fs::metadata(&binder.cgroup).expect("it is there").ino();
    let bound: HashMap<MapData, u64, [u8; 64]> =
        HashMap::try_from(map_of(&agent, "BOUND").expect("a map")).expect("of sockets");
    let of_binder = |(_, it): &(u64, [u8; 64])| it[..8] == cgroup.to_ne_bytes();
    let noted = bound.iter().flatten().filter(of_binder).count() as u64;
    // Four at once, and one a second.
    assert!((4..100).contains(&noted), "{noted} of them");
    loses_exactly(&agent, "map-full", MADE - noted);
}

#[test]
fn connections_beyond_the_table_are_counted_exactly_once() {
    const HELD: u64 = 300;
    let lab = lab();
    let here = lab.alone();
    let agent = lab.agent("agent", &setup(&lab, "connections = 64\ndetail = \"full\"\n"));
    let server = lab.serve(&lab.service("api"), &here, Protocol::Tcp, SocketAddr::new(here.v4, 80));
    let web = lab.service("web");
    let mut dialler = lab.dialler(&web, &here);
    dialler.does(&format!("hold {} {HELD}", server.address), "held");
    agent.sees(&server.edge_from(&web));
    // Both ends of each are followed; which of them were forgotten meanwhile is the kernel's choice.
    let followed = followed(&agent);
    assert!((1..HELD).contains(&followed), "{followed} followed");
    loses_exactly(&agent, "untracked", 2 * HELD - followed);
    // Their ends are told to nobody, nor counted.
    dialler.does("release", "released");
    agent.shows(&server.edge_from(&web), SWEPT, |view| view["evidence"]["connections"] == HELD);
    eventually(SOON, "all of them ended", || match self::followed(&agent) {
        0 => Ok(()),
        left => Err(format!("{left} followed")),
    });
    loses_exactly(&agent, "untracked", 2 * HELD - followed);
}

#[test]
fn ends_that_only_another_program_asked_for_are_no_loss() {
    let lab = lab();
    let here = lab.alone();
    let at = |port| SocketAddr::new(here.v4, port);
    let (api, web) = (lab.service("api"), lab.service("web"));
    let older = lab.serve(&api, &here, Protocol::Tcp, at(80));
    let newer = lab.serve_ports(&api, &here, at(20_000), 100);
    let mut dialler = lab.dialler(&web, &here);
    // It asks to be told how connections end, of which the agent then hears too.
    let mut watch = Running::start(&mut lab.looks(&["watch"]));
    eventually(SOON, "it watches", || {
        dialler.reaches(&older);
        let line = watch.line_within(Duration::from_millis(200)).unwrap_or_default();
        if line.contains(&web.name) { Ok(()) } else { Err(line) }
    });
    // Older than the agent.
    dialler.does(&format!("hold {} 5", older.address), "held");
    let few = Setup::mode("learn").within(&lab, "canary = \"1h\"\ndetail = \"full\"\n");
    let agent = lab.agent("agent", &few.tables("[detect]\nbudget = 16\n"));
    dialler.does("release", "released");
    dialler.reaches(&older);
    agent.sees(&older.edge_from(&web));
    // Beyond the budget: counted as that, and not followed.
    dialler.dials(&format!("tcp {} --ports 100", newer.address), "established");
    eventually(SWEPT, "what was beyond the budget", || match agent.lost("over-budget") {
        0 => Err("nothing".to_owned()),
        _ => Ok(()),
    });
    let lost = agent.json(&["status"])["lost"].clone();
    let reasons: Vec<&String> = lost.as_object().into_iter().flatten().map(|it| it.0).collect();
    assert_eq!(reasons, ["over-budget"], "{lost}");
    assert!(watch.runs(), "it ended before the connections did");
}

#[test]
fn keys_that_the_kernel_dropped_are_counted_exactly() {
    const PORTS: u16 = 1_000;
    let lab = lab();
    let agent = lab.agent("agent", &setup(&lab, "seen = 64\n"));
    let here = lab.alone();
    let web = lab.service("web");
    let mut dialler = lab.dialler(&web, &here);
    dialler.dials(&format!("datagram {}:20000 --ports {PORTS}", here.v4), "sent");
    let last = 20_000 + PORTS - 1;
    agent.sees(&edge(&web, &nameless(here.v4), last, Protocol::Udp));
    // Each port is one key, which nobody asks for again.
    let cgroup = std::fs::metadata(&web.cgroup).expect("it is there").ino();
    let seen = seen_map(&agent);
    let of_web = |key: &Key| key[..8] == cgroup.to_ne_bytes();
    let left = seen.keys().flatten().filter(of_web).count() as u64;
    assert!(left < u64::from(PORTS), "{left} of them fit");
    loses_exactly(&agent, "evicted", u64::from(PORTS) - left);
}

#[test]
fn hooks_that_are_gone_are_counted_exactly() {
    let lab = lab();
    let agent = lab.agent("agent", &setup(&lab, ""));
    assert_eq!(agent.lost("hook-missing"), 0, "{}", agent.json(&["status"]));
    let loaded = Loaded::by(agent.pid());
    for program in ["recvmsg4", "recvmsg6"] {
        loaded.detach(program);
    }
    loses_exactly(&agent, "hook-missing", 2);
}

#[test]
fn what_begins_while_the_agent_starts_is_no_loss() {
    let lab = lab();
    let here = lab.alone();
    let (api, web) = (lab.service("api"), lab.service("web"));
    let older = lab.serve(&api, &here, Protocol::Tcp, SocketAddr::new(here.v4, 80));
    let mut dialler = lab.dialler(&web, &here);
    let mut agent = lab.prepared_agent("agent", &setup(&lab, ""));
    agent.launch();
    // Servers come up and are dialled, and known ones are, from before its first program is attached
    // until after its last.
    let mut servers = Vec::new();
    let mut port = 1_000;
    while !agent.is_ready() {
        port += 1;
        let at = SocketAddr::new(here.v4, port);
        servers.push(lab.serve(&api, &here, Protocol::Tcp, at));
        dialler.dials(&format!("tcp {at} --count 5"), "established");
        dialler.dials(&format!("tcp {} --count 20", older.address), "established");
    }
    let last = servers.last().expect("a start takes longer than nothing");
    dialler.reaches(last);
    agent.sees(&last.edge_from(&web));
    let status = agent.json(&["status"]);
    assert_eq!(status["lost"], serde_json::json!({}), "{} servers: {status}", servers.len());
}

#[test]
fn what_cannot_be_read_is_counted_once_and_exactly() {
    const KEYS: u64 = 7;
    let lab = lab();
    let mut agent = lab.agent("agent", &setup(&lab, ""));
    let mut seen = seen_map(&agent);
    let value = [1; size_of::<Value>()];
    for number in 0..KEYS {
        let mut key = [0xff; size_of::<Key>()];
        key[0] = number.to_le_bytes()[0];
        seen.insert(key, value, 0).expect("the map takes any bytes");
    }
    loses_exactly(&agent, "undecodable", KEYS);
    // And it goes on with what it can read.
    let here = lab.alone();
    let (web, api) = (lab.service("web"), lab.service("api"));
    let server = lab.serve(&api, &here, Protocol::Tcp, SocketAddr::new(here.v4, 80));
    lab.dialler(&web, &here).reaches(&server);
    agent.sees(&server.edge_from(&web));
    loses_exactly(&agent, "undecodable", KEYS);
    assert_eq!(agent.end(Signal::TERM).code(), Some(0), "{}", agent.said());
}

/// The bytes of the seen-map's keys and values.
type Key = [u8; 56];
type Value = [u8; 208];

/// The map in which the kernel programs of this agent note what they told.
#[track_caller]
fn seen_map(agent: &Agent) -> HashMap<MapData, Key, Value> {
    eventually(SOON, "the seen-map", || {
        HashMap::try_from(map_of(agent, "SEEN")?).map_err(|error| error.to_string())
    })
}

/// How many connections this agent's kernel programs follow: the slots with a socket's cookie.
#[track_caller]
fn followed(agent: &Agent) -> u64 {
    eventually(SOON, "the followed sockets", || {
        let map = Map::Array(Loaded::by(agent.pid()).map("SOCKETS")?);
        let slots: Array<MapData, [u64; 14]> =
            map.try_into().map_err(|error: MapError| error.to_string())?;
        Ok(slots.iter().flatten().filter(|slot| slot[0] != 0).count() as u64)
    })
}

fn map_of(agent: &Agent, name: &str) -> Result<Map, String> {
    Loaded::by(agent.pid()).map(name).map(Map::LruHashMap)
}
