//! What is pinned outlives the agent: counting goes on, the next agent takes it up, news is told once
//! and nothing is counted twice; and all of it can be got rid of.

use std::fs;

use rustix::process::Signal;
use serde_json::Value;
use tests::agent::{Agent, SOON, SWEPT, Setup, verb};
use tests::bpffs::Bpffs;
use tests::eventually;
use tests::kernel::{self, Connect4, Loaded};
use tests::lab::{Lab, Wire};
use tests::process::finish;
use tests::traffic::{Dialler, Protocol, Server};

use crate::lab;

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
    for take_away in [unmount, remove] {
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

#[test]
fn what_was_dialled_is_seen_whoever_rewrites_it() {
    for earlier in [true, false] {
        let lab = lab();
        let (bpffs, wire) = (lab.bpffs(), lab.wire());
        let web = lab.service("web");
        let cgroup = format!("[capture]\ncgroup = {:?}\n", web.cgroup.display().to_string());
        let setup = Setup::mode("learn").tables(&cgroup).pinned(&bpffs.pins());
        let proxy = Connect4::rewriting("their_proxy", 9999, 8080);
        let before = earlier.then(|| proxy.link(&web.cgroup));
        let agent = lab.agent("agent", &setup);
        let after = (!earlier).then(|| proxy.link(&web.cgroup));
        // Outside the part that is watched: another machine to the agent.
        let at = std::net::SocketAddr::new(wire.server.v4, 8080);
        let _api = lab.serve(&lab.service("api"), &wire.server, Protocol::Tcp, at);
        let to = std::net::SocketAddr::new(wire.server.v4, 9999);
        lab.dialler(&web, &wire.client).dials(&format!("tcp {to}"), "established");
        let edge = format!("{} -> ip:{} 9999/tcp", web.name, to.ip());
        agent.shows(&edge, SOON, |view| view["outcome"] == "established");
        drop((before, after));
    }
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
