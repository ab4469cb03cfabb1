//! The end under load: connections at full rate, alerts on their way, a receiver that does not answer.
//! It ends well and in time, whoever asks and however often, and what it told is stored.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tests::agent::{SOON, Setup};
use tests::eventually;
use tests::receiver::{Manner, Request, edge_of};
use tests::traffic::{Protocol, edge, nameless};

use crate::shop::{Shop, is_of};

/// What is in flight gets this long to end.
const GRACE: Duration = Duration::from_secs(3);
/// For the rest: a last sweep, saving, detaching, on a busy machine.
const REST: Duration = Duration::from_secs(7);

#[test]
fn terminated_under_load_it_ends_in_time_and_keeps_what_it_told() {
    check_ends(&[Signal::TERM]);
}

#[test]
fn interrupted_under_load_it_ends_in_time_and_keeps_what_it_told() {
    check_ends(&[Signal::INT]);
}

#[test]
fn asked_twice_it_ends_no_worse() {
    check_ends(&[Signal::TERM, Signal::TERM, Signal::INT]);
}

#[track_caller]
fn check_ends(signals: &[Signal]) {
    let setup = Setup::mode("learn").top("grace_period = \"3s\"\n");
    let mut shop = Shop::undistracted(&setup, "");
    let mut load = ["job", "cron"].map(|name| shop.client(name));
    for dialler in &mut load {
        dialler.begins(&format!("tcp {} --count 1000000", shop.api.address));
    }
    for dialler in &load {
        shop.agent.sees(&shop.api.edge_from(&dialler.service));
    }
    // The first message stays in flight, the others wait behind it.
    shop.receiver.behaves(&[Manner::Holds]);
    let ports = 30_000..30_005;
    for port in ports.clone() {
        shop.web.is_refused(shop.at(port));
    }
    let alerted = |port| {
        let to = nameless(shop.at(port).ip());
        edge(&shop.web.service, &to, port, Protocol::Tcp)
    };
    let edges: Vec<String> = ports.map(alerted).collect();
    for edge in &edges {
        shop.alert_listed(edge);
    }
    eventually(SOON, "a message in flight", || {
        let held = shop.receiver.requests().iter().any(|it| it.answered == Request::UNANSWERED);
        if held { Ok(()) } else { Err("none".to_owned()) }
    });
    let map = shop.agent.json(&["map"]);
    let told: BTreeSet<String> = map.as_array().into_iter().flatten().map(edge_of).collect();

    let asked = Instant::now();
    for signal in signals {
        shop.agent.signal(*signal);
        // Two of a kind that wait to be taken in are one.
        eventually(SOON, "that it was heard", || {
            let said = shop.agent.said();
            if said.contains("stopping") { Ok(()) } else { Err(said) }
        });
    }
    assert_eq!(shop.agent.ended().code(), Some(0), "{}", shop.agent.said());
    assert!(asked.elapsed() < GRACE + REST, "{:?}", asked.elapsed());
    drop(load);

    shop.agent.start();
    let map = shop.agent.json(&["map"]);
    let kept: BTreeSet<String> = map.as_array().into_iter().flatten().map(edge_of).collect();
    assert!(told.is_subset(&kept), "{:?}", told.difference(&kept));
    for edge in &edges {
        shop.alert_about(edge);
    }
    let held: Vec<Request> = shop.receiver.requests();
    let held: Vec<&Request> =
        held.iter().filter(|it| is_of(&it.alert(), &shop.web.service)).collect();
    let [first, ..] = held.as_slice() else { panic!("nothing was sent") };
    let again = held.iter().skip(1).find(|it| it.key() == first.key());
    assert_eq!(again.map(|it| &it.body), Some(&first.body), "what was in flight comes again");
    let keys: Vec<&str> = held.iter().filter(|it| it.answered < 300).map(|it| it.key()).collect();
    let distinct: BTreeSet<&str> = keys.iter().copied().collect();
    assert_eq!(keys.len(), distinct.len(), "accepted twice: {keys:?}");
}
