//! From an edge that nobody learned to the message about it, and to the silence of all else.

use serde_json::Value;
use std::process::Command;

use tests::agent::{SOON, Setup};
use tests::eventually;
use tests::process::finish;
use tests::traffic::{Protocol, edge, nameless};

use crate::lab;
use crate::shop::{Shop, finding, is_about, is_of, kinds};

#[test]
fn a_new_edge_is_told_once_and_properly() {
    let mut shop = Shop::guarded();
    let db = shop.server("db", 5432);
    shop.web.reaches(&db);
    let edge = db.edge_from(&shop.web.service);
    let request = shop.receiver.request(SOON, &edge, |alert| is_about(alert, &edge));
    request.is_proper();
    let alert = request.alert();
    check_schema(&alert);
    assert_eq!(alert["revision"], 1);
    assert_eq!(alert["state"], "firing");
    assert_eq!(alert["severity"], "high");
    assert_eq!(alert["node"], "stand");
    assert!(is_of(&alert, &shop.web.service), "{alert:#}");
    let title = alert["title"].as_str().unwrap_or_default();
    assert!(title.contains(&shop.web.service.name) && title.contains("5432/tcp"), "{title}");

    let finding = finding(&alert, &edge);
    assert_eq!(finding["kind"], "new-peer");
    assert_eq!(finding["outcome"], "established");
    assert_eq!(finding["process"]["executable"], shop.web.executable.as_str());
    assert_eq!(finding["process"]["pid"], shop.web.pid());
    assert_eq!(finding["process"]["uid"], 0);
    let cgroup = finding["where"]["cgroup"].as_str().unwrap_or_default();
    assert!(shop.web.service.cgroup.ends_with(cgroup.trim_start_matches('/')), "{cgroup}");
    let nearest = finding["nearest"].as_str().unwrap_or_default();
    assert!(nearest.starts_with(&shop.api.edge_from(&shop.web.service)), "{nearest}");

    shop.web.reaches(&db);
    shop.web.reaches(&db);
    shop.was_silent(1);
}

/// What every alert owes by its schema.
#[track_caller]
fn check_schema(alert: &Value) {
    assert_eq!(alert["schema"], "edgewatch-alert/1");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    assert_eq!(text(&alert["id"]).len(), 26, "a ULID: {alert:#}");
    let digest = text(&alert["dedup_key"]);
    let digest = digest.strip_prefix("sha256:").unwrap_or_default();
    assert!(digest.len() == 64 && digest.bytes().all(|it| it.is_ascii_hexdigit()), "{alert:#}");
    for time in [&alert["first_seen"], &alert["last_seen"], &alert["findings"][0]["at"]] {
        let time = text(time);
        assert!(time.starts_with("20") && time.ends_with('Z'), "{time:?} in {alert:#}");
    }
    assert!(alert["count"].as_u64().is_some_and(|it| it >= 1), "{alert:#}");
    assert!(alert["score"].as_f64().is_some_and(|it| it > 0.0), "{alert:#}");
    for reason in alert["findings"][0]["reasons"].as_array().into_iter().flatten() {
        assert!(reason["weight"].is_number() && !text(&reason["text"]).is_empty(), "{alert:#}");
    }
    assert!(alert["findings"][0]["attack"][0].as_str().is_some_and(|it| it.starts_with('T')));
    assert!(!text(&alert["inspect"]).is_empty(), "{alert:#}");
    assert!(!alert.to_string().contains("null"), "what is not known is left out: {alert:#}");
}

#[test]
fn the_command_in_the_alert_allows_it() {
    let mut shop = Shop::guarded();
    let db = shop.server("db", 5432);
    shop.web.reaches(&db);
    let edge = db.edge_from(&shop.web.service);
    let alert = shop.alert_about(&edge);
    let allow = alert["allow"].as_str().unwrap_or_default();
    assert!(allow.contains(&format!("{edge} with {}", shop.web.executable)), "{allow}");

    // As a person would paste it: `edgewatch` is on the path, the socket where the agent's is.
    let bin = shop.lab.path("bin");
    std::fs::create_dir(&bin).expect("the place is ours");
    std::os::unix::fs::symlink(tests::agent::program(), bin.join("edgewatch"))
        .expect("the place is ours");
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let mut shell = Command::new("sh");
    shell.args(["-c", allow]).env("PATH", path).env("EDGEWATCH_SOCKET", &shop.agent.socket);
    finish(&mut shell).done();

    let resolved = shop.alert_that("resolved", &edge);
    assert_eq!(resolved["id"], alert["id"]);
    assert_eq!(resolved["revision"], 2);
    shop.web.reaches(&db);
    shop.was_silent(2);
}

#[test]
fn an_attempt_that_succeeds_later_updates_its_alert() {
    let mut shop = Shop::guarded();
    let to = shop.at(7000);
    shop.web.is_refused(to);
    let nameless = edge(&shop.web.service, &nameless(to.ip()), 7000, Protocol::Tcp);
    let attempt = shop.alert_about(&nameless);
    assert_eq!(finding(&attempt, &nameless)["outcome"], "refused");
    shop.web.is_refused(to);
    shop.was_silent(1);

    let late = shop.server("late", 7000);
    shop.web.reaches(&late);
    let named = late.edge_from(&shop.web.service);
    let success = shop.alert_that("updated", &named);
    assert_eq!(success["id"], attempt["id"]);
    assert_eq!(success["revision"], 2);
    assert_eq!(finding(&success, &named)["outcome"], "established");
}

#[test]
fn another_executable_updates_the_alert_about_the_same_edge() {
    let mut shop = Shop::guarded();
    let db = shop.server("db", 5432);
    shop.web.reaches(&db);
    let edge = db.edge_from(&shop.web.service);
    let first = shop.alert_about(&edge);

    let copy = shop.lab.copied(shop.lab.peer(), "shell");
    let mut shell = shop.lab.dialler_with(&shop.web.service, &shop.wire.client, &copy);
    shell.reaches(&db);
    let second = shop.alert_that("updated", &edge);
    assert_eq!(second["id"], first["id"]);
    assert_eq!(second["revision"], 2);
    assert_eq!(finding(&second, &edge)["process"]["executable"], shell.executable.as_str());
    shell.reaches(&db);
    shop.was_silent(2);
}

#[test]
fn a_known_edge_with_another_executable_is_told() {
    let mut shop = Shop::guarded();
    let copy = shop.lab.copied(shop.lab.peer(), "shell");
    let mut shell = shop.lab.dialler_with(&shop.web.service, &shop.wire.client, &copy);
    shell.reaches(&shop.api);
    let edge = shop.api.edge_from(&shop.web.service);
    let alert = shop.alert_about(&edge);
    assert_eq!(kinds(&alert, &edge), ["new-executable"]);
    let process = &finding(&alert, &edge)["process"];
    assert_eq!(process["executable"], shell.executable.as_str());
    assert_eq!(process["pid"], shell.pid());
    shop.was_silent(1);
}

#[test]
fn an_approved_edge_is_silent() {
    let mut shop = Shop::guarded();
    let db = shop.server("db", 5432);
    let edge = db.edge_from(&shop.web.service);
    shop.agent.text(&["baseline", "approve", &edge, "--approver", "ann", "--reason", "a report"]);
    shop.web.reaches(&db);
    shop.agent.sees(&edge);
    shop.was_silent(0);
}

#[test]
fn an_approval_that_ran_out_is_loud_again() {
    let mut shop = Shop::guarded();
    let db = shop.server("db", 5432);
    let edge = db.edge_from(&shop.web.service);
    shop.agent.text(&["baseline", "approve", &edge, "--ttl", "6s"]);
    shop.web.reaches(&db);
    shop.agent.sees(&edge);
    shop.was_silent(0);
    assert!(shop.exported().contains("5432/tcp"));

    eventually(SOON * 3, "the end of the approval", || {
        let audit = shop.agent.json(&["audit"]).to_string();
        if audit.contains(&format!("expired: {edge}")) { Ok(()) } else { Err(audit) }
    });
    assert!(!shop.exported().contains("5432/tcp"));
    shop.web.reaches(&db);
    assert_eq!(kinds(&shop.alert_about(&edge), &edge), ["new-peer"]);
}

#[test]
fn a_forbidden_edge_is_loud_although_learned() {
    let mut shop = Shop::guarded();
    shop.web.reaches(&shop.api);
    shop.was_silent(0);
    let edge = shop.api.edge_from(&shop.web.service);
    shop.agent.text(&["baseline", "forbid", &edge, "--reason", "moved"]);
    shop.web.reaches(&shop.api);
    let alert = shop.alert_about(&edge);
    assert_eq!(alert["severity"], "critical");
    assert_eq!(kinds(&alert, &edge), ["forbidden"]);
    shop.web.reaches(&shop.api);
    shop.was_silent(1);
}

#[test]
fn one_guarded_end_is_enough() {
    let mut shop = Shop::open();
    let (db, cache) = (shop.server("db", 5432), shop.server("cache", 6379));
    let (mut job, mut cron) = (shop.client("job"), shop.client("cron"));
    job.reaches(&db);
    shop.agent.guards(&[&db.service]);

    cron.reaches(&db);
    let inbound = db.edge_from(&cron.service);
    assert_eq!(kinds(&shop.alert_about(&inbound), &inbound), ["new-client"]);

    shop.agent.guards(&[&shop.web.service]);
    shop.web.reaches(&cache);
    let outbound = cache.edge_from(&shop.web.service);
    assert_eq!(kinds(&shop.alert_about(&outbound), &outbound), ["new-peer"]);

    // Neither end guarded: learned, and nothing to say.
    job.reaches(&cache);
    shop.agent.sees(&cache.edge_from(&job.service));
    shop.was_silent(2);
}

#[test]
fn with_both_ends_guarded_it_is_still_one_message() {
    let mut shop = Shop::open();
    let db = shop.server("db", 5432);
    let mut job = shop.client("job");
    job.reaches(&db);
    shop.agent.guards(&[&db.service, &shop.web.service]);
    shop.web.reaches(&db);
    let edge = db.edge_from(&shop.web.service);
    let alert = shop.alert_about(&edge);
    assert_eq!(kinds(&alert, &edge), ["new-peer", "new-client"]);
    assert!(is_of(&alert, &shop.web.service), "owned by the client: {alert:#}");
    shop.was_silent(1);
}

#[test]
fn in_mode_guard_a_service_without_a_baseline_is_told() {
    let lab = lab();
    let setup = Setup::mode("guard").only(&lab);
    let mut shop = Shop::with(lab, &setup);
    let edge = shop.api.edge_from(&shop.web.service);
    let alert = shop.alert_about(&edge);
    assert_eq!(kinds(&alert, &edge), ["unbaselined"]);
    assert_eq!(alert["severity"], "medium");
    let before = shop.told().len();
    shop.web.reaches(&shop.api);
    let to = shop.at(9);
    shop.web.is_refused(to);
    shop.was_silent(before);
}

#[test]
fn more_of_the_same_is_no_news() {
    let mut shop = Shop::guarded();
    shop.web.dials(&format!("tcp {} --count 200", shop.api.address), "established");
    shop.was_silent(0);
    let edge = shop.api.edge_from(&shop.web.service);
    shop.agent.shows(&edge, SOON * 10, |view| view["evidence"]["connections"] == 201);
    shop.was_silent(0);
}

#[test]
fn a_known_server_that_is_down_is_no_news() {
    let mut shop = Shop::guarded();
    let to = shop.api.address;
    shop.api.end();
    shop.web.is_refused(to);
    shop.was_silent(0);
}

#[test]
fn a_known_server_that_is_started_anew_is_no_news() {
    let mut shop = Shop::guarded();
    let (to, api) = (shop.api.address, shop.api.service.clone());
    shop.api.end();
    // As a service manager does it.
    std::fs::remove_dir(&api.cgroup).expect("its only process has ended");
    shop.web.is_refused(to);
    shop.was_silent(0);
    std::fs::create_dir(&api.cgroup).expect("the slice is ours");
    let again = shop.lab.serve(&api, &shop.wire.server, Protocol::Tcp, to);
    shop.web.reaches(&again);
    shop.was_silent(0);
}

#[test]
fn a_known_client_in_a_new_cgroup_is_no_news() {
    let mut shop = Shop::guarded();
    let web = shop.web.service.clone();
    shop.web.end();
    std::fs::remove_dir(&web.cgroup).expect("its only process has ended");
    std::fs::create_dir(&web.cgroup).expect("the slice is ours");
    shop.web = shop.lab.dialler(&web, &shop.wire.client);
    shop.web.reaches(&shop.api);
    shop.was_silent(0);
}
