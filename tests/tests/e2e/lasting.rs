//! What is pinned outlives the agent: counting goes on, the next agent takes it up, news is told once
//! and nothing is counted twice; and all of it can be got rid of.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tests::agent::{Agent, SOON, SWEPT, Setup, verb};
use tests::bpffs::Bpffs;
use tests::eventually;
use tests::kernel::{self, Loaded};
use tests::lab::{Lab, Wire};
use tests::others::Connect4;
use tests::process::finish;
use tests::receiver::edge_of;
use tests::traffic::{Dialler, Protocol, Server, nameless};

use crate::lab;
use crate::strangers::{entries, looked_at, soon_as};

/// A client, a server and an agent that pins. The lab is dropped last.
struct Scene {
    agent: Agent,
    web: Dialler,
    api: Server,
    bpffs: Bpffs,
    wire: Wire,
    lab: Lab,
}

impl Scene {
    #[track_caller]
    fn set() -> Self {
        Self::with("")
    }

    /// With further `lines` of `[capture]`.
    #[track_caller]
    fn with(lines: &str) -> Self {
        let lab = lab();
        let (bpffs, wire) = (lab.bpffs(), lab.wire());
        let setup = Setup::mode("learn").within(&lab, lines).pinned(&bpffs.pins());
        let agent = lab.agent("agent", &setup);
        let at = std::net::SocketAddr::new(wire.server.v4, 8080);
        let api = lab.serve(&lab.service("api"), &wire.server, Protocol::Tcp, at);
        let web = lab.dialler(&lab.service("web"), &wire.client);
        Self { agent, web, api, bpffs, wire, lab }
    }

    fn edge(&self) -> String {
        self.api.edge_from(&self.web.service)
    }

    #[track_caller]
    fn dials(&mut self, times: u64) {
        let to = self.api.address;
        self.web.dials(&format!("tcp {to} --count {times}"), "established");
    }

    /// Waits until the map says that so many connections were made, and never more.
    #[track_caller]
    fn counts(&self, connections: u64) {
        self.agent.shows(&self.edge(), SWEPT, |view| {
            let counted = connections_of(view);
            assert!(counted <= connections, "{counted} instead of {connections}: {view:#}");
            counted == connections
        });
    }

    #[track_caller]
    fn loaded(&self) -> Loaded {
        let loaded = Loaded::by(self.agent.pid());
        assert!(!loaded.links.is_empty() && !loaded.maps.is_empty(), "{loaded:?}");
        loaded
    }
}

fn connections_of(view: &Value) -> u64 {
    view["evidence"]["connections"].as_u64().unwrap_or_else(|| panic!("{view:#}"))
}

#[test]
fn killed_it_goes_on_counting_and_the_next_counts_nothing_twice() {
    let mut scene = Scene::set();
    scene.dials(20);
    scene.counts(20);
    let loaded = scene.loaded();
    // In the middle of traffic, part of which is stored and part of which is not.
    scene.dials(7);
    scene.agent.kill();
    assert_eq!(loaded.remaining().links, loaded.links, "all stays attached");
    scene.dials(11);
    scene.agent.start();
    assert_eq!(loaded.remaining().links, loaded.links, "and is taken up as it is");
    scene.counts(38);
    scene.dials(4);
    scene.counts(42);
    scene.agent.kill();
    scene.agent.start();
    scene.counts(42);
}

#[test]
fn killed_amid_traffic_it_loses_no_connection_and_counts_none_twice() {
    const DIALS: u64 = 4_000;
    let mut scene = Scene::set();
    let to = scene.api.address;
    scene.web.begins(&format!("tcp {to} --count {DIALS}"));
    for _life in 0..3 {
        scene.agent.sees(&scene.edge());
        scene.agent.kill();
        scene.agent.start();
    }
    scene.web.ends("established");
    scene.counts(DIALS);
}

#[test]
fn ended_as_a_service_it_goes_on_counting() {
    let mut scene = Scene::set();
    scene.dials(5);
    scene.counts(5);
    let loaded = scene.loaded();
    assert_eq!(scene.agent.end(Signal::TERM).code(), Some(0), "{}", scene.agent.said());
    assert_eq!(loaded.remaining().links, loaded.links);
    scene.dials(6);
    scene.agent.start();
    scene.counts(11);
}

#[test]
fn who_appears_while_it_is_down_is_told_by_the_next() {
    let mut scene = Scene::set();
    scene.dials(1);
    scene.counts(1);
    scene.agent.kill();
    let mut job = scene.lab.dialler(&scene.lab.service("job"), &scene.wire.client);
    job.reaches(&scene.api);
    let edge = scene.api.edge_from(&job.service);
    scene.agent.start();
    let view = scene.agent.shows(&edge, SWEPT, |view| connections_of(view) == 1);
    assert_eq!(view["seen_from"], "both", "{view:#}");
    scene.counts(1);
}

#[test]
fn ended_by_hand_it_leaves_nothing() {
    let mut scene = Scene::set();
    let loaded = scene.loaded();
    assert!(scene.bpffs.pins().exists());
    assert_eq!(scene.agent.end(Signal::INT).code(), Some(0), "{}", scene.agent.said());
    eventually(SOON, "nothing of ours in the kernel", || loaded.gone());
    assert!(!scene.bpffs.pins().exists());
}

#[test]
fn other_settings_swap_the_programs_in_the_links_that_are_there() {
    let mut scene = Scene::set();
    scene.dials(3);
    scene.counts(3);
    let before = scene.loaded();
    scene.agent.kill();
    reconfigured(&scene.agent, "[capture]\n", "[capture]\ndetail = \"full\"\n");
    scene.agent.start();
    let now = scene.loaded();
    let held = &now.links & &before.links;
    assert!(!held.is_empty(), "links are kept: {before:?} {now:?}");
    eventually(SOON, "the former programs are gone", || {
        let left = before.remaining().programs;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
    scene.dials(3);
    scene.counts(6);
}

#[test]
fn maps_of_another_layout_are_replaced_without_a_gap() {
    for upgrade in [Upgrade::Version, Upgrade::Sizes] {
        let mut scene = Scene::set();
        scene.dials(1);
        scene.counts(1);
        let before = scene.loaded();
        scene.agent.kill();
        match upgrade {
            Upgrade::Version => another_version(&scene.bpffs),
            Upgrade::Sizes => {
                reconfigured(&scene.agent, "[capture]\n", "[capture]\nseen = 32768\n");
            }
        }
        // All the time somebody new dials; whoever came in a gap would never be seen.
        let mut diallers = Vec::new();
        scene.agent.launch();
        while scene.agent.get("/readyz").is_err() {
            let name = format!("job{}", diallers.len());
            let mut job = scene.lab.dialler(&scene.lab.service(&name), &scene.wire.client);
            job.reaches(&scene.api);
            assert!(before.remaining().links == before.links || scene.agent.runs());
            diallers.push(job);
        }
        let mut last = scene.lab.dialler(&scene.lab.service("last"), &scene.wire.client);
        last.reaches(&scene.api);
        scene.agent.sees(&scene.api.edge_from(&last.service));
        eventually(SOON, "the former links and maps are gone", || before.gone());
        let said = scene.agent.said();
        assert!(said.contains("another takes its place"), "{said}");
    }
}

#[derive(Clone, Copy)]
enum Upgrade {
    Version,
    Sizes,
}

/// Has the pins say that another version made them.
#[track_caller]
fn another_version(bpffs: &Bpffs) {
    let meta = bpffs.pins().join("current/meta");
    let mut value = kernel::read_cell(&meta).expect("it is pinned");
    value[8..13].copy_from_slice(b"0.0.1");
    // The layout, after the version.
    value[32] ^= 1;
    kernel::write_cell(&meta, &value).expect("it is an array");
}

#[track_caller]
fn reconfigured(agent: &Agent, from: &str, to: &str) {
    let text = fs::read_to_string(&agent.config).expect("it is ours");
    fs::write(&agent.config, text.replacen(from, to, 1)).expect("it is ours");
}

#[test]
fn a_second_agent_refuses_and_says_whose_it_is() {
    let scene = Scene::set();
    let setup = Setup::mode("learn").within(&scene.lab, "").pinned(&scene.bpffs.pins());
    let mut second = scene.lab.prepared_agent("second", &setup);
    second.launch();
    assert_eq!(second.ended().code(), Some(1), "{}", second.said());
    let pid = format!("pid {}", scene.agent.pid());
    assert!(second.said().contains(&pid), "{}", second.said());
    scene.agent.get("/readyz").expect("the first is not disturbed");
}

#[test]
fn doctor_removes_every_trace_and_nothing_of_a_running_agent() {
    let mut scene = Scene::set();
    let loaded = scene.loaded();
    let config = scene.agent.config.display().to_string();
    let pid = format!("pid {}", scene.agent.pid());
    let clean = || finish(&mut verb(&["doctor", "--clean", "--config", &config]));
    clean().failed(1, &[&pid]);
    scene.agent.get("/readyz").expect("it is not disturbed");
    scene.agent.kill();
    clean().done();
    eventually(SOON, "nothing of ours in the kernel", || loaded.gone());
    assert!(!scene.bpffs.pins().exists());
    clean().done();
}

#[test]
fn pins_that_are_gone_are_missed() {
    let unmount: fn(&Bpffs) = Bpffs::unmount;
    let remove: fn(&Bpffs) = |bpffs| {
        let link = bpffs.pins().join("current/links/stream");
        fs::remove_file(link).expect("it is pinned");
    };
    let remove_map: fn(&Bpffs) = |bpffs| {
        fs::remove_file(bpffs.pins().join("current/maps/SEEN")).expect("it is pinned");
    };
    for take_away in [unmount, remove, remove_map] {
        let scene = Scene::set();
        take_away(&scene.bpffs);
        // Five times the promise of five seconds.
        eventually(SOON * 5, "that it is told", || {
            let alerts = scene.agent.json(&["alerts"]).to_string();
            if alerts.contains("unpinned") { Ok(()) } else { Err(alerts) }
        });
    }
}

#[test]
fn what_is_not_ours_is_refused_and_not_touched() {
    let lab = lab();
    let bpffs = lab.bpffs();
    let pins = bpffs.pins();
    fs::create_dir_all(pins.join("current")).expect("the place is ours");
    let theirs = pins.join("current/theirs");
    kernel::pin_cell(&theirs, &[1; 8]).expect("a bpffs takes it");
    let setup = Setup::mode("learn").within(&lab, "").pinned(&pins);
    let mut agent = lab.prepared_agent("agent", &setup);
    agent.launch();
    assert_eq!(agent.ended().code(), Some(1), "{}", agent.said());
    let said = agent.said();
    assert!(said.contains("doctor --clean") && said.contains("current"), "{said}");
    assert_eq!(kernel::read_cell(&theirs).expect("it is there"), [1; 8]);
}

#[test]
fn without_a_bpffs_it_works_and_says_what_is_missing() {
    let lab = lab();
    let setup = Setup::mode("learn").within(&lab, "").pinned(&lab.path("edgewatch"));
    let mut agent = lab.agent("agent", &setup);
    let said = agent.said();
    assert!(said.contains("is no bpffs") && said.contains("mount -t bpf bpf"), "{said}");
    let loaded = Loaded::by(agent.pid());
    agent.kill();
    eventually(SOON, "nothing of ours in the kernel", || loaded.gone());
}

/// Where somebody attached earlier rewrites an address, and the kernel knows no order, the dialled one is
/// gone before anybody is told it: `doctor` says so, and the real one is seen.
#[test]
fn what_was_dialled_is_seen_whoever_rewrites_it_where_the_kernel_allows() {
    for earlier in [true, false] {
        let lab = lab();
        let (bpffs, wire) = (lab.bpffs(), lab.wire());
        let web = lab.service("web");
        let cgroup = format!("[capture]\ncgroup = {:?}\n", web.cgroup.display().to_string());
        let setup = Setup::mode("learn").tables(&cgroup).pinned(&bpffs.pins());
        let proxy = Connect4::rewriting("their_proxy", 9999, 8080);
        let ordered = proxy.may_run_first(&web.cgroup);
        let before = earlier.then(|| proxy.link(&web.cgroup));
        let agent = lab.agent("agent", &setup);
        let after = (!earlier).then(|| proxy.link(&web.cgroup));
        // Outside the part that is watched: another machine to the agent.
        let at = std::net::SocketAddr::new(wire.server.v4, 8080);
        let _api = lab.serve(&lab.service("api"), &wire.server, Protocol::Tcp, at);
        let to = std::net::SocketAddr::new(wire.server.v4, 9999);
        lab.dialler(&web, &wire.client).dials(&format!("tcp {to}"), "established");
        let seen = if ordered || !earlier { to } else { at };
        let edge = format!("{} -> ip:{} {}/tcp", web.name, seen.ip(), seen.port());
        agent.shows(&edge, SOON, |view| view["outcome"] == "established");
        if earlier {
            let config = agent.config.display().to_string();
            let report = agent.json(&["doctor", "--config", &config]);
            let named = |it: &&Value| it.to_string().contains("BPF_F_PREORDER");
            let findings = report["findings"].as_array().into_iter().flatten();
            let said: Vec<&Value> = findings.filter(named).collect();
            let verdicts: Vec<&Value> = said.iter().map(|it| &it["verdict"]).collect();
            assert_eq!(verdicts, [if ordered { "ok" } else { "warn" }], "{said:#?}");
        }
        drop((before, after));
    }
}

#[test]
fn where_packets_are_looked_at_they_are_while_it_is_down() {
    let mut scene = Scene::set();
    let [mut still, mut brief] = ["still", "brief"]
        .map(|name| scene.lab.dialler(&scene.lab.service(name), &scene.wire.client));
    for peer in [&mut still, &mut brief] {
        peer.does("odd open raw-icmp", "open");
        looked_at(&peer.service.cgroup, 1);
    }
    let loaded = scene.loaded();
    scene.agent.kill();
    looked_at(&still.service.cgroup, 1);
    let to = std::net::SocketAddr::new(scene.wire.server.v4, 0);
    still.does(&format!("odd send {to}"), "sent");
    brief.end();
    eventually(SOON, "an empty cgroup", || {
        fs::remove_dir(&brief.service.cgroup).map_err(|error| error.to_string())
    });
    scene.agent.start();
    assert_eq!(loaded.remaining().links.len(), loaded.links.len() - 1, "one went with its cgroup");
    looked_at(&still.service.cgroup, 1);
    scene.agent.sees(&format!("{} -> {} 8/icmp", still.service.name, nameless(to.ip())));
    // With other programs, and with maps that do not fit, it is looked at as well, and once.
    for (from, now) in
        [("[capture]\n", "[capture]\ndetail = \"full\"\n"), ("full\"\n", "full\"\nseen = 32768\n")]
    {
        scene.agent.kill();
        reconfigured(&scene.agent, from, now);
        scene.agent.start();
        looked_at(&still.service.cgroup, 1);
        let nets = entries(&scene.bpffs.pins().join("current/links"));
        let nets: Vec<_> =
            nets.iter().filter(|it| it.to_string_lossy().contains("/net-")).collect();
        assert_eq!(nets.len(), 1, "{nets:?}");
    }
    scene.agent.kill();
    let config = scene.agent.config.display().to_string();
    finish(&mut verb(&["doctor", "--clean", "--config", &config])).done();
    looked_at(&still.service.cgroup, 0);
}

#[test]
fn a_flood_that_goes_on_over_a_restart_is_counted_once() {
    const PORTS: u64 = 2_000;
    let lab = lab();
    let bpffs = lab.bpffs();
    let budget = "[detect]\nbudget = 16\n";
    let setup = Setup::mode("learn").within(&lab, "").tables(budget).pinned(&bpffs.pins());
    let mut agent = lab.agent("agent", &setup);
    let here = lab.alone();
    let mut crawler = lab.dialler(&lab.service("crawler"), &here);
    let mut made = 0;
    for first in [20_000, 30_000, 40_000] {
        crawler.dials(&format!("datagram {}:{first} --ports {PORTS}", here.v4), "sent");
        made += PORTS;
        // Each is an edge of the map or one of the flood, and none is both.
        eventually(SWEPT, "an account of all of it", || {
            let map = agent.json(&["map"]);
            let client = format!("{} -> ", crawler.service.name);
            let edges = map.as_array().into_iter().flatten();
            let told = edges.filter(|it| edge_of(it).starts_with(&client)).count() as u64;
            let alerts = agent.json(&["alerts"]);
            let floods = alerts.as_array().into_iter().flatten();
            let mut floods = floods.filter(|it| it["findings"][0]["kind"] == "fan-out");
            let beyond = floods.next().and_then(|it| it["count"].as_u64()).unwrap_or(0);
            assert!(floods.next().is_none(), "one flood, one incident: {alerts:#}");
            assert!(told + beyond <= made, "{told} and {beyond} of {made}");
            if told + beyond == made { Ok(()) } else { Err(format!("{told}, {beyond} of {made}")) }
        });
        agent.kill();
        agent.start();
    }
}

#[test]
fn killed_at_any_moment_of_a_first_start_it_leaves_nothing_half() {
    let mut scene = Scene::set();
    scene.agent.kill();
    let config = scene.agent.config.display().to_string();
    finish(&mut verb(&["doctor", "--clean", "--config", &config])).done();
    let pins = scene.bpffs.pins();
    // When so many lie there: what is made first, the maps, the links, and a whole set.
    let moments = [("", 1), ("next", 1), ("next/maps", 10), ("next/links", 1), ("next/links", 12)];
    for (directory, count) in moments.into_iter().chain([("current/links", 1)]) {
        scene.agent.launch();
        soon_as(directory, || entries(&pins.join(directory)).len() >= count);
        scene.agent.kill();
    }
    scene.agent.start();
    assert_eq!(entries(&pins), [pins.join("current")], "one set, and a whole one");
    for hook in [2, 3, 10, 11, 12, 13, 14, 15, 19, 20] {
        assert_eq!(kernel::attached(scene.lab.slice(), hook).ok(), Some(1), "hook {hook}");
    }
    scene.dials(3);
    scene.counts(3);
}

#[test]
fn killed_at_any_moment_of_a_later_start_it_counts_nothing_twice() {
    let mut scene = Scene::set();
    scene.dials(3);
    scene.counts(3);
    let loaded = scene.loaded();
    scene.agent.kill();
    let mut made = 3;
    // The sweep over all that a start does: nothing is awaited with these pauses.
    for step in 0..8 {
        scene.agent.launch();
        std::thread::sleep(Duration::from_millis(40 * step));
        scene.dials(2);
        made += 2;
        scene.agent.kill();
    }
    scene.agent.start();
    assert_eq!(loaded.remaining().links, loaded.links, "it is the same set");
    scene.counts(made);
    scene.dials(1);
    scene.counts(made + 1);
}

#[test]
fn what_has_the_name_of_ours_and_is_not_is_replaced() {
    let mut scene = Scene::set();
    scene.agent.kill();
    let map = scene.bpffs.pins().join("current/maps/SEEN");
    fs::remove_file(&map).expect("it is pinned");
    kernel::pin_cell(&map, &[1; 8]).expect("a bpffs takes it");
    scene.agent.start();
    let said = scene.agent.said();
    assert!(said.contains("of another shape: the map SEEN"), "{said}");
    kernel::read_cell(&map).expect_err("theirs is gone");
    scene.dials(2);
    scene.counts(2);
}
