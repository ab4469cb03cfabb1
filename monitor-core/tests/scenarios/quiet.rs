//! What keeps a chat bearable, told as stories: mutes, and digests of what was not sent.

use monitor_core::baseline::Mode;
use monitor_core::delivery::{Digest, Message, Queue};
use monitor_core::engine::Command;
use monitor_core::incident::State;

use crate::stage::{Stage, check};

/// A guarded service, and what it does that nobody knows.
fn guarded() -> Stage {
    check("0 a => b 80/tcp\n 0 c => b 80/tcp\n 5 guard a c", "")
}

fn mute(stage: &mut Stage, name: &str, for_s: u64) {
    let services = format!("systemd:{name}.service").parse().unwrap();
    let approver = Some("anna".to_owned());
    stage.command(Command::Mute { services, for_s, approver, reason: "rollout".to_owned() });
    assert_eq!(stage.answers.pop(), Some(Ok(())));
}

/// What was sent: alerts by their title, digests whole.
fn sent(stage: &Stage) -> (Vec<String>, Vec<Digest>) {
    let (mut alerts, mut digests) = (Vec::new(), Vec::new());
    for message in &stage.sent {
        match message {
            Message::Alert(alert) => alerts.push(format!("{:?} {}", alert.state, alert.title)),
            Message::Digest(digest) => digests.push((**digest).clone()),
            Message::Test(_) => {}
        }
    }
    (alerts, digests)
}

#[test]
fn what_is_muted_is_listed_and_counted_and_told_once_when_the_mute_ends() {
    let mut stage = guarded();
    mute(&mut stage, "a", 3_600);
    stage.event("10 a -> 192.0.2.1 443/tcp established with /bin/sh");
    stage.event("20 a -> 192.0.2.2 443/tcp established with /bin/sh");
    stage.event("30 c -> 192.0.2.3 443/tcp established with /bin/sh");
    stage.until(40_000);
    let (alerts, digests) = sent(&stage);
    assert_eq!((alerts.len(), digests.len()), (1, 0), "{alerts:?}");
    assert!(alerts[0].contains("192.0.2.3"), "the other service is not muted: {alerts:?}");

    let status = stage.engine.status(stage.now.wall);
    let [muted] = status.mutes.as_slice() else { panic!("{status:#?}") };
    assert_eq!((muted.incidents, muted.messages, status.pending), (1, 2, 3));
    let listed = stage.engine.alerts(stage.now.wall);
    let until = |it: &monitor_core::incident::Alert| it.muted_until.is_some();
    assert_eq!(listed.iter().filter(|it| until(it)).count(), 1);

    stage.until(3_590_000);
    assert_eq!(sent(&stage).1, []);
    stage.until(3_700_000);
    let (alerts, digests) = sent(&stage);
    assert_eq!(alerts.len(), 1);
    let [digest] = digests.as_slice() else { panic!("{digests:#?}") };
    assert_eq!(digest.title, "2 messages about 1 service muted or held back in the last 60 min");
    assert_eq!(digest.mutes[0].reason, "rollout");
    assert_eq!(digest.mutes[0].approver.as_deref(), Some("anna"));
    assert_eq!(digest.incidents.len(), 1, "two revisions of one incident");
    assert!(stage.engine.status(stage.now.wall).mutes.is_empty());
    let audited = stage.audited();
    assert!(
        audited.iter().any(|it| it.starts_with("muted systemd:a.service until ")
            && it.ends_with(" by anna: rollout")),
        "{audited:?}"
    );
    assert!(
        audited.iter().any(|it| it.starts_with("unmuted systemd:a.service: 2 ")),
        "{audited:?}"
    );
    // It was never learned: the edges still wait for a decision, and the next one is told again.
    assert_eq!(stage.engine.undecided().len(), 3);
    stage.event("3800 a -> 192.0.2.4 443/tcp established with /bin/sh");
    stage.until(3_810_000);
    assert_eq!(sent(&stage).0.len(), 2);
}

#[test]
fn a_mute_and_what_it_kept_back_survive_a_restart() {
    let mut stage = guarded();
    mute(&mut stage, "a", 600);
    stage.event("10 a -> 192.0.2.1 443/tcp established with /bin/sh");
    stage.until(20_000);
    stage.restart(Mode::Auto);
    assert_eq!(stage.engine.status(stage.now.wall).mutes[0].messages, 1);
    stage.event("30 a -> 192.0.2.2 443/tcp established with /bin/sh");
    stage.until(40_000);
    assert_eq!(sent(&stage).0, [""; 0]);
    stage.restart(Mode::Auto);
    stage.until(700_000);
    let (alerts, digests) = sent(&stage);
    assert_eq!((alerts.len(), digests.len(), digests[0].messages), (0, 1, 2));
    stage.restart(Mode::Auto);
    stage.until(2_000_000);
    assert_eq!(sent(&stage).1.len(), 1, "it is told once");
}

#[test]
fn critical_is_muted_too_and_unmuting_ends_it_at_once() {
    let mut stage = guarded();
    stage.event("6 forbid a -> ip:192.0.2.9 443/tcp");
    mute(&mut stage, "*", 3_600);
    stage.event("10 a -> 192.0.2.9 443/tcp established with /bin/sh");
    stage.until(20_000);
    assert_eq!(sent(&stage), (Vec::new(), Vec::new()));
    let services = "systemd:*.service".parse().unwrap();
    stage.command(Command::Unmute { services });
    stage.until(21_000);
    let (_, digests) = sent(&stage);
    assert_eq!(digests[0].severity, monitor_core::detect::Severity::Critical);
    let services = "systemd:*.service".parse().unwrap();
    stage.command(Command::Unmute { services });
    let answer = stage.answers.pop().unwrap().unwrap_err();
    assert!(answer.contains("nothing is muted as systemd:*.service"), "{answer}");
}

#[test]
fn what_was_told_before_a_mute_still_ends_for_its_receivers() {
    let mut stage = guarded();
    stage.event("10 a -> 192.0.2.1 443/tcp established with /bin/sh");
    stage.until(20_000);
    mute(&mut stage, "a", 3_600);
    stage.event("30 approve a -> ip:192.0.2.1 443/tcp with /bin/sh");
    let resolved = |stage: &Stage| {
        stage.sent.iter().any(|it| matches!(it, Message::Alert(it) if it.state == State::Resolved))
    };
    assert!(resolved(&stage));
}

#[test]
fn mutes_are_bounded_in_length_and_number() {
    let mut stage = guarded();
    let mute = |stage: &mut Stage, name: String, for_s| {
        let (services, reason) = (name.parse().unwrap(), "r".to_owned());
        stage.command(Command::Mute { services, for_s, approver: None, reason });
        stage.answers.pop().unwrap()
    };
    let long = mute(&mut stage, "systemd:a.service".to_owned(), 31 * 86_400).unwrap_err();
    assert!(long.contains("at most 30 days"), "{long}");
    for index in 0..100 {
        assert_eq!(mute(&mut stage, format!("systemd:{index}.service"), 60), Ok(()));
    }
    let more = mute(&mut stage, "systemd:a.service".to_owned(), 60).unwrap_err();
    assert!(more.contains("alerts unmute"), "{more}");
    assert_eq!(mute(&mut stage, "systemd:7.service".to_owned(), 90), Ok(()), "it is prolonged");
    stage.until(stage.now.boot.0 / 1_000_000 + 61_000);
    assert_eq!(stage.engine.mutes(stage.now.wall).len(), 1);
}

/// A receiver that takes one message a second and lets few wait.
#[test]
fn a_storm_reaches_a_chat_in_order_and_the_rest_in_a_digest() {
    let mut stage = Stage::new(Mode::Auto);
    stage.limit("1/s", 5);
    for client in 0..40 {
        stage.event(&format!("0 s{client} => b 80/tcp"));
    }
    stage.event("5 guard *");
    stage.until(9_000);
    for client in 0..40 {
        stage.event(&format!("10 s{client} -> 192.0.2.1 443/tcp established with /bin/sh"));
    }
    stage.event("10 forbid systemd:s0.service -> ip:192.0.2.2 443/tcp");
    stage.event("10 s0 -> 192.0.2.2 443/tcp established with /bin/sh");
    let digest_ms = Queue::DIGEST_S * 1_000;
    stage.until(10_000 + digest_ms + 5_000);
    let (alerts, digests) = sent(&stage);
    let [digest] = digests.as_slice() else { panic!("{digests:#?}") };
    assert_eq!(alerts.len() as u64 + digest.messages, 40, "nothing is lost: {alerts:#?}");
    assert!(alerts.len() <= 8, "{alerts:#?}");
    assert!(alerts.iter().any(|it| it.contains("which is forbidden")), "{alerts:#?}");
    assert_eq!(digest.kinds.len(), 1);
    assert_eq!(digest.services.len(), Digest::TOP);
    for pair in stage.sent_at.windows(2) {
        assert!(pair[1].0 - pair[0].0 >= 1_000_000_000, "{:?}", stage.sent_at);
    }
    assert_eq!(stage.engine.alerts(stage.now.wall).len(), 40, "all are listed");
}
