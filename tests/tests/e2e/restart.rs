//! The end of an agent and its next life: nothing learned or decided is lost, nothing is told twice,
//! and nothing of it stays in the kernel meanwhile.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use tests::agent::{SOON, Setup};
use tests::eventually;
use tests::kernel::Loaded;
use tests::traffic::Protocol;

use crate::lab;
use crate::shop::{Shop, kinds};

#[test]
fn ended_and_started_it_goes_on() {
    check_goes_on(|shop| assert_eq!(shop.agent.end(Signal::TERM).code(), Some(0)));
}

#[test]
fn killed_and_started_it_goes_on() {
    check_goes_on(|shop| shop.agent.kill());
}

/// Ends the agent in a guarded shop with a pending edge, starts it, and checks that it judges as before.
#[track_caller]
fn check_goes_on(ends: impl FnOnce(&mut Shop)) {
    let mut shop = Shop::guarded();
    let (db, cache) = (shop.server("db", 5432), shop.server("cache", 6379));
    shop.web.reaches(&db);
    let pending = db.edge_from(&shop.web.service);
    let before = shop.alert_about(&pending);
    let exported = shop.exported();
    let phases = phases(&shop);

    ends(&mut shop);
    shop.agent.start();
    assert_eq!(shop.exported(), exported);
    assert_eq!(self::phases(&shop), phases);

    shop.web.reaches(&shop.api);
    shop.web.reaches(&db);
    shop.was_silent(1);

    shop.web.reaches(&cache);
    let edge = cache.edge_from(&shop.web.service);
    let alert = shop.alert_about(&edge);
    assert_eq!(kinds(&alert, &edge), ["new-peer"]);
    assert_eq!(alert["id"], before["id"], "the same incident goes on");
    assert_eq!(alert["revision"], 2);
}

/// Service and phase of what belongs to the shop, in order.
#[track_caller]
fn phases(shop: &Shop) -> Vec<String> {
    let rows = shop.agent.json(&["baseline", "status"]);
    let tag = shop.web.service.name.trim_start_matches("systemd:web");
    let mut phases: Vec<String> = rows
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| format!("{} {}", row["service"], row["phase"]))
        // The agent's own dials to its receiver come when they come.
        .filter(|it| it.contains(tag) && !it.contains(&shop.agent.service.name))
        .collect();
    phases.sort();
    assert!(phases.iter().any(|it| it.contains("guarded")), "{rows:#}");
    phases
}

#[test]
fn under_load_it_ends_in_time_and_leaves_nothing() {
    let lab = lab();
    let mut agent = lab.agent("agent", &Setup::mode("learn"));
    let wire = lab.wire();
    let at = std::net::SocketAddr::new(wire.server.v4, 8080);
    let server = lab.serve(&lab.service("api"), &wire.server, Protocol::Tcp, at);
    let mut diallers = ["web", "job"].map(|name| lab.dialler(&lab.service(name), &wire.client));
    for dialler in &mut diallers {
        dialler.begins(&format!("tcp {at} --count 1000000"));
    }
    for dialler in &diallers {
        agent.sees(&server.edge_from(&dialler.service));
    }
    let loaded = Loaded::by(agent.pid());
    assert!(!loaded.links.is_empty() && !loaded.maps.is_empty(), "{loaded:?}");
    let asked = Instant::now();
    let status = agent.end(Signal::TERM);
    assert_eq!(status.code(), Some(0), "{}", agent.said());
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    eventually(SOON, "nothing of ours in the kernel", || loaded.gone());
}

#[test]
fn interrupted_it_detaches() {
    let lab = lab();
    let mut agent = lab.agent("agent", &Setup::mode("learn"));
    let loaded = Loaded::by(agent.pid());
    assert_eq!(agent.end(Signal::INT).code(), Some(0), "{}", agent.said());
    eventually(SOON, "nothing of ours in the kernel", || loaded.gone());
    assert!(!agent.socket.exists(), "its socket is gone");
}

#[test]
fn killed_it_leaves_nothing_attached() {
    let lab = lab();
    let mut agent = lab.agent("agent", &Setup::mode("learn"));
    let loaded = Loaded::by(agent.pid());
    assert!(!loaded.links.is_empty(), "{loaded:?}");
    agent.kill();
    eventually(SOON, "nothing of ours in the kernel", || loaded.gone());
}

#[test]
fn a_known_server_that_is_down_after_a_restart_is_no_news() {
    let mut shop = Shop::open();
    let at = shop.at(5353);
    let mut dns = shop.lab.serve(&shop.lab.service("dns"), &shop.wire.server, Protocol::Udp, at);
    shop.web.reaches(&dns);
    let edge = dns.edge_from(&shop.web.service);
    shop.agent.shows(&edge, SOON, |view| view["seen_from"] == "both");
    shop.agent.guards(&[&shop.web.service]);
    dns.end();
    shop.api.end();
    assert_eq!(shop.agent.end(Signal::TERM).code(), Some(0));
    shop.agent.start();
    let to = shop.api.address;
    shop.web.is_refused(to);
    shop.web.dials(&format!("datagram {at}"), "sent");
    shop.was_silent(0);
}
