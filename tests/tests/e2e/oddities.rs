//! What is odd beyond a new peer, on real traffic: servers that dial, places nobody should reach, an
//! agent that starts from nothing.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use rustix::process::Signal;
use tests::agent::{SOON, Setup};
use tests::process::finish;
use tests::receiver::Receiver;
use tests::traffic::{Protocol, edge, nameless};

use crate::lab;
use crate::shop::{Shop, finding, kinds};

/// Where clouds hand out credentials. Here the server's end of the wire owns it and nobody listens.
const METADATA: &str = "169.254.169.254";

/// Makes [`METADATA`] reachable from the client's end.
#[track_caller]
fn cloud(shop: &Shop) -> SocketAddr {
    let ip = |words: &[&str]| finish(Command::new("ip").args(words)).done();
    let (client, server) = (&shop.wire.client, &shop.wire.server);
    ip(&["-n", &server.name, "addr", "add", &format!("{METADATA}/32"), "dev", "lo"]);
    ip(&["-n", &client.name, "route", "add", METADATA, "via", &server.v4.to_string()]);
    SocketAddr::new(METADATA.parse().expect("an address"), 80)
}

#[test]
fn the_metadata_service_is_asked_for_by_name() {
    let mut shop = Shop::guarded();
    let to = cloud(&shop);
    shop.web.is_refused(to);
    let edge = edge(&shop.web.service, &nameless(to.ip()), 80, Protocol::Tcp);
    let alert = shop.alert_about(&edge);
    assert_eq!(kinds(&alert, &edge), ["metadata-access"]);
    assert_eq!(alert["severity"], "high");
    assert_eq!(finding(&alert, &edge)["attack"][0], "T1552.005");
    shop.was_silent(1);
}

#[test]
fn what_hands_out_credentials_is_not_learned_silently() {
    let mut shop = Shop::open();
    let to = cloud(&shop);
    shop.web.is_refused(to);
    let metadata = edge(&shop.web.service, &nameless(to.ip()), 80, Protocol::Tcp);
    let alert = shop.alert_about(&metadata);
    assert_eq!(alert["severity"], "medium");
    let docker = shop.at(2375);
    shop.web.is_refused(docker);
    let docker = edge(&shop.web.service, &nameless(docker.ip()), 2375, Protocol::Tcp);
    // Told with the next batch, ten seconds after the first.
    let alert = shop.receiver.alert(3 * SOON, &docker, |it| crate::shop::is_about(it, &docker));
    assert_eq!(kinds(&alert, &docker), ["sensitive-port"]);
    let exported = shop.exported();
    assert!(!exported.contains(METADATA) && !exported.contains("2375"), "{exported}");
}

#[test]
fn a_server_that_dials_its_client_has_turned() {
    let mut shop = Shop::open();
    shop.agent.guards(&[&shop.api.service]);
    let web = shop.lab.serve(
        &shop.web.service,
        &shop.wire.client,
        Protocol::Tcp,
        SocketAddr::new(shop.wire.client.v4, 22),
    );
    let mut hijacked = shop.lab.dialler(&shop.api.service, &shop.wire.server);
    hijacked.reaches(&web);
    let edge = web.edge_from(&shop.api.service);
    let alert = shop.alert_about(&edge);
    assert_eq!(kinds(&alert, &edge), ["role-inversion"]);
    let why = &finding(&alert, &edge)["reasons"][0]["text"];
    assert!(why.as_str().is_some_and(|it| it.contains("is a client of")), "{why}");
    shop.was_silent(1);
}

#[test]
fn a_wiped_store_is_not_silence() {
    let lab = lab();
    let receiver = Receiver::start();
    let title = "the agent on stand started with an empty store";
    let mut agent = lab.agent("agent", &Setup::mode("auto").told_to(&lab, &receiver));
    let alert = receiver.alert(SOON, title, |alert| alert["title"] == title);
    assert_eq!(alert["findings"][0]["kind"], "sensor");
    assert!(alert["findings"][0].get("edge").is_none() && alert.get("allow").is_none());
    let told = |receiver: &Receiver| {
        receiver.alerts().iter().filter(|alert| alert["title"] == title).count()
    };
    agent.end(Signal::TERM);
    agent.start();
    agent.end(Signal::TERM);
    assert_eq!(told(&receiver), 1, "the store is there");
    fs::remove_file(agent.state.join("state.redb")).expect("the state is where it was put");
    agent.start();
    tests::eventually(SOON, "it is said again", || match told(&receiver) {
        2 => Ok(()),
        times => Err(format!("{times} times")),
    });
}
