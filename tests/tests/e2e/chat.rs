//! A chat beside the webhook, and what keeps it bearable: its pace, mutes, tests, followers.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tests::agent::{RETRIED, SOON, Setup};
use tests::eventually;
use tests::process::Running;
use tests::receiver::{Answer, Receiver};

use crate::lab;
use crate::shop::Shop;

/// A shop whose web service is guarded, told to a webhook and to a chat that takes a message a second.
#[track_caller]
fn shop() -> (Shop, Receiver) {
    let (lab, chat) = (lab(), Receiver::slack());
    let table = format!(
        "[[notify]]\nname = \"chat\"\nkind = \"slack\"\nurl = {:?}\nrate = \"1/s\"\nservices = [\"systemd:web*\"]\n",
        chat.url()
    );
    let shop = Shop::with(lab, &Setup::mode("learn").tables(&table));
    shop.agent.guards(&[&shop.web.service]);
    (shop, chat)
}

/// The header of a message in a chat.
fn header(message: &Value) -> &str {
    message["blocks"][0]["text"]["text"].as_str().unwrap_or_default()
}

/// As a person reads it: with the entities that Slack turns back.
fn whole(message: &Value) -> String {
    let text = message.to_string();
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

#[test]
fn a_chat_is_told_at_its_own_pace_and_as_it_asks() {
    let (mut shop, chat) = shop();
    chat.answers(&[
        Answer { status: 429, retry_after_s: Some(3) },
        Answer { status: 410, retry_after_s: None },
        Answer { status: 410, retry_after_s: None },
    ]);
    let mut edges = Vec::new();
    for (name, port) in [("db", 5432), ("cache", 6379), ("queue", 5672)] {
        let server = shop.server(name, port);
        shop.web.reaches(&server);
        let edge = server.edge_from(&shop.web.service);
        shop.alert_about(&edge);
        edges.push(edge);
    }
    eventually(RETRIED, "the refusal is told", || {
        let status = shop.agent.json(&["status"]);
        let said = status.to_string();
        if said.contains("410 Gone (channel_is_archived: the channel is archived") {
            Ok(())
        } else {
            Err(said)
        }
    });
    chat.request(RETRIED, "the last revision", |it| {
        header(it).starts_with("High, updated · ") && whole(it).contains("5672/tcp")
    });
    eventually(RETRIED, "all of it", || {
        let accepted = chat.requests().iter().filter(|it| it.answered == 200).count();
        if accepted == 3 { Ok(()) } else { Err(format!("{accepted} messages")) }
    });
    let requests = chat.requests();
    assert!(requests[1].at - requests[0].at >= Duration::from_secs(3), "earlier than asked");
    for pair in requests.windows(2) {
        assert!(pair[1].at - pair[0].at >= Duration::from_millis(990), "faster than its rate");
    }
    let first = chat.requests().into_iter().find(|it| it.answered == 200).map(|it| it.alert());
    let text = whole(&first.unwrap_or_default());
    assert!(text.contains(&format!("baseline approve '{} with ", edges[0])), "{text}");
    assert!(text.contains(&shop.web.executable), "{text}");
}

#[test]
fn a_test_message_says_whether_receivers_work() {
    let (shop, mut chat) = shop();
    let said = shop.agent.text(&["notify", "test"]);
    // In the order of the configuration.
    assert_eq!(said, "ok      chat\nok      ops\n");
    let told = chat.request(SOON, "the test", |it| header(it).starts_with("Test · "));
    assert!(whole(&told.alert()).contains("node `stand`"));
    shop.receiver.alert(SOON, "the test", |it| it["schema"] == "edgewatch-test/1");
    chat.leave();
    let tested = shop.agent.run(&["notify", "test", "chat"]);
    assert_eq!(tested.code, Some(1), "{tested:#?}");
    assert!(tested.stdout.starts_with("failed  chat: http://127."), "{tested:#?}");
    let config = shop.agent.config.to_string_lossy().into_owned();
    let alone = tests::process::finish(&mut tests::agent::verb(&[
        "notify", "test", "ops", "--config", &config,
    ]));
    assert_eq!(alone.done(), "ok      ops\n");
}

#[test]
fn what_is_muted_is_kept_over_a_kill_and_told_once_in_a_digest() {
    let (mut shop, chat) = shop();
    let name = shop.web.service.name.clone();
    let muted = shop.agent.text(&["alerts", "mute", &name, "--for", "1h", "--reason", "rollout"]);
    assert!(muted.contains("what is critical is muted too"), "{muted}");
    let db = shop.server("db", 5432);
    shop.web.reaches(&db);
    let edge = db.edge_from(&shop.web.service);
    let listed = shop.alert_listed(&edge);
    assert!(listed["muted_until"].is_string(), "{listed:#}");
    shop.was_silent(0);
    shop.agent.kill();
    shop.agent.start();
    let status = shop.agent.text(&["status"]);
    assert!(status.contains("rollout (1 open incident, 1 message not sent)"), "{status}");
    assert!(shop.agent.text(&["alerts"]).contains("muted"));
    shop.agent.text(&["alerts", "unmute", &name]);

    let digest =
        shop.receiver.request(SOON, "the digest", |it| it["schema"] == "edgewatch-digest/1");
    digest.is_proper();
    let digest = digest.alert();
    assert_eq!(
        (&digest["messages"], &digest["mutes"][0]["reason"]),
        (&1.into(), &"rollout".into())
    );
    assert_eq!(digest["incidents"][0]["id"], listed["id"]);
    let told = chat.request(SOON, "the digest", |it| header(it).starts_with("Digest · 1 message "));
    assert!(whole(&told.alert()).contains("*Mutes that ended*"));
    // It was never learned.
    let diff = shop.agent.run(&["baseline", "diff"]);
    assert!(diff.code == Some(2) && diff.stdout.contains(&edge), "{diff:#?}");
    let audit = shop.agent.text(&["audit"]);
    assert!(audit.contains(&format!("muted {name} until ")), "{audit}");
}

#[test]
fn who_follows_hears_of_alerts_and_of_the_agents_end_and_return() {
    let (mut shop, _chat) = shop();
    let said = shop.lab.path("follow-said");
    let file = std::fs::File::create(&said).expect("the place is ours");
    let mut follow = shop.agent.verb(&["alerts", "follow"]);
    let mut follow = Running::start(follow.stderr(Stdio::from(file)));
    assert!(follow.line(SOON).starts_with("when "));
    let db = shop.server("db", 5432);
    shop.web.reaches(&db);
    let line = follow.line(SOON);
    assert!(line.contains("high") && line.contains("5432/tcp for the first time"), "{line}");
    shop.agent.kill();
    let heard = |words: &str| {
        eventually(RETRIED, words, || {
            let text = std::fs::read_to_string(&said).unwrap_or_default();
            if text.contains(words) { Ok(()) } else { Err(text) }
        });
    };
    heard("the agent has ended; waiting for it");
    shop.agent.start();
    heard("the agent is back");
    let cache = shop.server("cache", 6379);
    shop.web.reaches(&cache);
    let line = follow.line(SOON);
    assert!(line.contains("updated") && line.contains("1 more edge"), "{line}");
    follow.signal(Signal::INT);
    assert!(follow.ended(SOON).success());
}
