//! What was accepted for a receiver reaches it: when it is away, when it turns messages away, when
//! the agent is killed meanwhile.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tests::agent::{RETRIED, Setup};
use tests::eventually;
use tests::receiver::{Answer, Request};

use crate::shop::{Shop, is_about, is_of};

#[test]
fn who_was_away_gets_every_message() {
    let mut shop = Shop::guarded();
    shop.receiver.leave();
    let alert = cause_three(&mut shop);
    shop.receiver.come_back();
    check_three(&shop, &alert);
    shop.was_silent(3);
}

#[test]
fn an_agent_killed_meanwhile_still_delivers() {
    let mut shop = Shop::guarded();
    shop.receiver.leave();
    let alert = cause_three(&mut shop);
    shop.agent.kill();
    shop.receiver.come_back();
    shop.agent.start();
    check_three(&shop, &alert);
    shop.was_silent(3);
}

/// Three edges that nobody knows, told one after the other: one incident of three revisions.
#[track_caller]
fn cause_three(shop: &mut Shop) -> Value {
    let mut alert = Value::Null;
    for (name, port) in [("db", 5432), ("cache", 6379), ("queue", 5672)] {
        let server = shop.server(name, port);
        shop.web.reaches(&server);
        alert = shop.alert_listed(&server.edge_from(&shop.web.service));
    }
    assert!(is_of(&alert, &shop.web.service), "{alert:#}");
    alert
}

/// Waits until every revision of `alert` was accepted, and checks that each was exactly once.
#[track_caller]
fn check_three(shop: &Shop, alert: &Value) {
    let revisions = alert["revision"].as_u64().expect("a number");
    assert_eq!(revisions, 3, "{alert:#}");
    let keys: Vec<String> =
        (1..=revisions).map(|it| format!("{}/{it}", alert["id"].as_str().unwrap_or("?"))).collect();
    eventually(RETRIED, "every revision", || {
        let accepted = by_key(&shop.receiver.requests());
        let missing = keys.iter().find(|key| !accepted.contains_key(*key));
        missing.map_or(Ok(()), |key| Err(format!("no {key} in {accepted:?}")))
    });
    let accepted = by_key(&shop.receiver.requests());
    for key in &keys {
        assert_eq!(accepted[key], 1, "{accepted:?}");
    }
    for request in shop.receiver.requests() {
        request.is_proper();
    }
}

/// How often each message was accepted.
fn by_key(requests: &[Request]) -> BTreeMap<String, usize> {
    let mut accepted = BTreeMap::new();
    for request in requests.iter().filter(|it| it.answered < 300) {
        *accepted.entry(request.header("idempotency-key").unwrap_or("").to_owned()).or_default() +=
            1;
    }
    accepted
}

#[test]
fn a_message_that_is_turned_away_comes_again_when_asked() {
    let mut shop = Shop::undistracted(&Setup::mode("learn"), "");
    shop.receiver.answers(&[
        Answer { status: 429, retry_after_s: Some(3) },
        Answer { status: 500, retry_after_s: None },
    ]);
    let db = shop.server("db", 5432);
    shop.web.reaches(&db);
    let edge = db.edge_from(&shop.web.service);
    shop.receiver.request(RETRIED, &edge, |alert| is_about(alert, &edge));
    let requests = shop.receiver.requests();
    let [first, second, third] = requests.as_slice() else {
        panic!("three tries: {requests:#?}");
    };
    assert_eq!([first, second, third].map(|it| it.answered), [429, 500, 204]);
    assert!(second.at - first.at >= Duration::from_secs(3), "earlier than asked");
    assert!(third.at > second.at);
    for request in &requests {
        request.is_proper();
        assert_eq!(request.body, first.body, "a message is the same at every try");
    }
    shop.was_silent(1);
}
