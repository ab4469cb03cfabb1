//! The queue, message by message.

use super::*;
use crate::incident::State;

fn alert(id: &str) -> Alert {
    Alert {
        schema: "edgewatch-alert/1".to_owned(),
        id: id.to_owned(),
        revision: 1,
        dedup_key: String::new(),
        state: State::Firing,
        severity: Severity::High,
        score: 3.0,
        title: String::new(),
        owner: None,
        node: "n1".to_owned(),
        service: ServiceName::new("systemd", "web.service"),
        first_seen: WallTime(0),
        last_seen: WallTime(0),
        count: 1,
        findings: Vec::new(),
        more: 0,
        inspect: None,
        allow: String::new(),
        muted_until: None,
    }
}

fn severe(id: &str, severity: Severity) -> Alert {
    Alert { severity, ..alert(id) }
}

fn at(millis: u64) -> Now {
    let wall = WallTime(i64::try_from(millis * 1_000).unwrap());
    Now { boot: BootTime(millis * 1_000_000), wall }
}

fn due(queue: &mut Queue, millis: u64) -> Vec<String> {
    queue.due(at(millis)).iter().map(|it| format!("{} {}", it.sink, it.message.key())).collect()
}

/// Accepts all that is sent until then, looking every 100 ms; when each message went.
fn sent(queue: &mut Queue, millis: std::ops::Range<u64>) -> Vec<(u64, String)> {
    let mut sent = Vec::new();
    for now in millis.step_by(100) {
        while let [delivery] = queue.due(at(now)).as_slice() {
            sent.push((now, delivery.message.key()));
            assert_eq!(queue.settle(at(now), delivery.id, Outcome::Accepted, 0.0), None);
        }
    }
    sent
}

fn sink(name: &str, rate: &str, room: usize) -> Sink {
    Sink {
        name: name.to_owned(),
        min_severity: Severity::Low,
        services: Vec::new(),
        rate: rate.parse().unwrap(),
        room,
    }
}

const ROOM: usize = 8;

/// Two receivers that may be spoken to as fast as anybody.
fn sinks() -> [Sink; 2] {
    [sink("a", "1000/s", ROOM), sink("b", "1000/s", ROOM)]
}

fn queue() -> Queue {
    let mut queue = Queue::restore(Vec::new(), Vec::new(), &sinks());
    // A silence, after which there is a burst.
    for sink in ["a", "b"] {
        push(&mut queue, sink, alert("0"));
    }
    for delivery in queue.due(at(0)) {
        assert_eq!(queue.settle(at(0), delivery.id, Outcome::Accepted, 0.0), None);
    }
    queue
}

/// The delivery that a pushed message became.
#[track_caller]
fn push(queue: &mut Queue, sink: &str, alert: Alert) -> Delivery {
    match queue.push(at(0), sink, alert).as_slice() {
        [Kept::Delivery(_, Some(delivery))] => (**delivery).clone(),
        kept => panic!("{kept:#?}"),
    }
}

/// Writes the digests that are due.
fn digests(queue: &mut Queue, millis: u64) -> Vec<Kept> {
    let mut kept = Vec::new();
    while let Some(sink) = queue.digest_due(at(millis)) {
        kept.extend(queue.digest(at(millis), sink, "n1", "D".to_owned()));
    }
    kept
}

fn held(kept: &[Kept]) -> Option<&Ledger> {
    kept.iter().find_map(|it| match it {
        Kept::Held(_, held) => held.ledger.as_ref(),
        Kept::Delivery(..) => None,
    })
}

fn failed(retry_after_ms: Option<u64>) -> Outcome {
    Outcome::Failed { why: "503".to_owned(), retry_after_ms }
}

const START: u64 = 1_000;

#[test]
fn one_receiver_has_one_message_in_flight_and_another_does_not_wait_for_it() {
    let mut queue = queue();
    let first = push(&mut queue, "a", alert("1")).id;
    push(&mut queue, "a", alert("2"));
    push(&mut queue, "b", alert("1"));
    assert_eq!(due(&mut queue, START), ["a 1/1", "b 1/1"]);
    assert_eq!(due(&mut queue, START), [""; 0]);
    assert_eq!(queue.next_due(), None, "everything waits for an answer, nothing for time");
    assert_eq!(queue.settle(at(START), first, Outcome::Accepted, 0.0), None);
    assert_eq!(due(&mut queue, START), ["a 2/1"]);
}

#[test]
fn a_message_nobody_takes_does_not_stand_in_the_way() {
    let mut queue = queue();
    let first = push(&mut queue, "a", alert("1")).id;
    push(&mut queue, "a", alert("2"));
    assert_eq!(due(&mut queue, START), ["a 1/1"]);
    let stored = queue.settle(at(START), first, failed(None), 0.0);
    assert_eq!(stored.and_then(|it| it.failure).as_deref(), Some("503"));
    assert_eq!(due(&mut queue, START), ["a 2/1"]);
    assert_eq!(queue.len(), 2, "a failure is no delivery");
}

#[test]
fn pauses_double_up_to_a_bound_and_are_jittered() {
    let pauses: Vec<u64> = (1..=12).map(|attempts| pause_ms(attempts, 1.0)).collect();
    assert_eq!(pauses[..4], [1_000, 2_000, 4_000, 8_000]);
    assert_eq!(pauses[11], Queue::LONGEST_PAUSE_MS);
    assert_eq!(pause_ms(3, 0.0), 2_000);
    assert_eq!(pause_ms(u32::MAX, 0.0), Queue::LONGEST_PAUSE_MS / 2);
}

#[test]
fn a_receiver_that_asks_for_patience_gets_it_from_every_message() {
    let mut queue = queue();
    let first = push(&mut queue, "a", alert("1")).id;
    push(&mut queue, "a", alert("2"));
    assert_eq!(due(&mut queue, START), ["a 1/1"]);
    queue.settle(at(START), first, failed(Some(60_000)), 0.0);
    push(&mut queue, "a", severe("3", Severity::Critical));
    push(&mut queue, "b", alert("4"));
    assert_eq!(due(&mut queue, START), ["b 4/1"], "the other receiver asked for nothing");
    assert_eq!(queue.next_due(), Some(at(START + 60_000).boot));
    assert_eq!(due(&mut queue, START + 59_999), [""; 0]);
    assert_eq!(due(&mut queue, START + 60_000), ["a 3/1"]);
}

#[test]
fn what_was_stored_is_due_at_once_and_its_numbers_go_on() {
    let mut queue = queue();
    let stored = ["1", "2"].map(|id| push(&mut queue, "a", alert(id))).to_vec();
    let next = stored[1].id + 1;
    let json = serde_json::to_value(&stored).unwrap();
    assert_eq!(json[0]["alert"]["id"], "1");
    let stored: Vec<Delivery> = serde_json::from_value(json).unwrap();
    let mut elsewhere = Queue::restore(stored.clone(), Vec::new(), &sinks()[1..]);
    assert_eq!(due(&mut elsewhere, 0), [""; 0], "its receiver is gone, it is not");
    assert_eq!((elsewhere.next_due(), elsewhere.len()), (None, 2));
    let mut restored = Queue::restore(stored, Vec::new(), &sinks());
    assert_eq!(due(&mut restored, 0), ["a 1/1"]);
    assert_eq!(push(&mut restored, "b", alert("3")).id, next);
}

#[test]
fn what_waits_goes_by_severity_then_age_and_an_incident_in_its_order() {
    let mut queue = queue();
    let revision = |revision, severity| Alert { revision, ..severe("3", severity) };
    push(&mut queue, "a", severe("1", Severity::Medium));
    push(&mut queue, "a", severe("2", Severity::High));
    push(&mut queue, "a", revision(1, Severity::High));
    push(&mut queue, "a", revision(2, Severity::Critical));
    push(&mut queue, "a", severe("4", Severity::High));
    let order: Vec<String> =
        sent(&mut queue, START..START + 1_000).into_iter().map(|(_, key)| key).collect();
    assert_eq!(order, ["3/1", "3/2", "2/1", "4/1", "1/1"]);
}

#[test]
fn a_full_queue_keeps_the_newest_revision_of_each_incident_in_its_place() {
    let mut queue = queue();
    let ids: Vec<DeliveryId> =
        (1..=ROOM).map(|it| push(&mut queue, "a", alert(&it.to_string())).id).collect();
    assert_eq!(due(&mut queue, START), ["a 1/1"]);
    push(&mut queue, "a", alert("new"));
    let revision = |id, revision| Alert { revision, ..alert(id) };
    let kept = queue.push(at(START), "a", revision("7", 2));
    let Kept::Delivery(id, Some(delivery)) = &kept[0] else { panic!("{kept:#?}") };
    assert_eq!((*id, delivery.message.key().as_str()), (ids[6], "7/2"));
    let ledger = held(&kept).unwrap();
    assert_eq!((ledger.messages, ledger.replaced), (1, 1));
    let kept = queue.push(at(START), "a", revision("1", 2));
    assert_eq!(held(&kept).unwrap().messages, 2, "in flight: it cannot be replaced any more");
    assert_eq!(held(&queue.push(at(START), "b", revision("7", 2))), None, "b has room");
}

#[test]
fn a_revision_that_took_an_older_ones_place_does_not_overtake_those_between() {
    let mut queue = queue();
    for revision in 1..=u32::try_from(ROOM).unwrap() + 1 {
        queue.push(at(START), "a", Alert { revision, ..alert("1") });
    }
    let order: Vec<String> =
        sent(&mut queue, START..START + 1_000).into_iter().map(|(_, key)| key).collect();
    assert_eq!(order, ["1/2", "1/3", "1/4", "1/5", "1/6", "1/7", "1/8", "1/9"]);
}

#[test]
fn where_there_is_no_room_the_least_is_held_back_and_a_digest_tells_it() {
    let mut queue = queue();
    for index in 1..=ROOM {
        push(&mut queue, "a", alert(&index.to_string()));
    }
    let kept = queue.push(at(START), "a", severe("less", Severity::Medium));
    assert_eq!(held(&kept).unwrap().incidents.keys().collect::<Vec<_>>(), ["less"]);
    let kept = queue.push(at(START), "a", alert("as much"));
    assert!(held(&kept).unwrap().incidents.contains_key("as much"), "who came first stays");
    let kept = queue.push(at(START), "a", severe("more", Severity::Critical));
    assert!(matches!(kept[1], Kept::Delivery(_, None)), "{kept:#?}");
    assert!(held(&kept).unwrap().incidents.contains_key(&ROOM.to_string()));
    assert_eq!((queue.held_back("a"), queue.held_back("b")), (3, 0));

    let due_ms = START + Queue::DIGEST_S * 1_000;
    assert_eq!(digests(&mut queue, due_ms - 1), []);
    let kept = digests(&mut queue, due_ms);
    let [Kept::Delivery(_, Some(delivery)), Kept::Held(_, held)] = kept.as_slice() else {
        panic!("{kept:#?}");
    };
    let Message::Digest(digest) = &delivery.message else { panic!("{delivery:#?}") };
    assert_eq!(digest.title, "3 messages about 1 service held back in the last 10 min");
    assert_eq!((digest.messages, digest.replaced, digest.severity), (3, 0, Severity::High));
    assert_eq!((held.ledger.as_ref(), held.due), (None, None));
    assert_eq!(digests(&mut queue, due_ms), [], "it is told once");
    // It waits behind nobody, and takes no message's place.
    assert_eq!(due(&mut queue, due_ms), ["a D/1"]);
    assert_eq!(queue.len(), ROOM + 1);
}

#[test]
fn what_was_held_back_survives_and_there_is_one_digest_a_period() {
    let mut queue = Queue::restore(Vec::new(), Vec::new(), &[sink("a", "1/s", 1)]);
    push(&mut queue, "a", alert("1"));
    let kept = queue.push(at(START), "a", alert("2"));
    let Kept::Held(name, held) = &kept[0] else { panic!("{kept:#?}") };
    let json = serde_json::to_string(held).unwrap();
    let stored = vec![(name.clone(), serde_json::from_str(&json).unwrap())];
    let mut queue = Queue::restore(Vec::new(), stored, &[sink("a", "1/s", 1)]);
    let period = Queue::DIGEST_S * 1_000;
    let mut written = Vec::new();
    for now in (START..START + 3 * period).step_by(1_000) {
        let digests = digests(&mut queue, now).len() / 2;
        written.extend(std::iter::repeat_n(now, digests));
        // More of it all the time, and nobody takes any.
        queue.push(at(now), "a", alert(&format!("more {now}")));
    }
    assert_eq!(written, [START + period, START + 2 * period]);
}

#[test]
fn what_a_mute_kept_is_told_when_it_ends_but_not_sooner_than_a_digest_may_go() {
    let mut queue = queue();
    let mut ledger = Ledger::new(at(START).wall);
    ledger.add(at(START).wall, &alert("1"), Cause::Suppressed);
    let ended = EndedMute {
        pattern: "systemd:*".parse().unwrap(),
        since: WallTime(0),
        until: at(START).wall,
        approver: None,
        reason: "rollout".to_owned(),
        messages: 1,
    };
    queue.unmuted(at(START), "a", ledger.clone(), ended.clone());
    assert_eq!(digests(&mut queue, START).len(), 2, "at once");
    queue.unmuted(at(START + 1_000), "a", ledger, ended);
    assert_eq!(digests(&mut queue, START + 1_000), [], "one has just gone");
    assert_eq!(digests(&mut queue, START + Queue::DIGEST_S * 1_000).len(), 2);
}

#[test]
fn a_storm_never_exceeds_the_rate() {
    let mut queue = Queue::restore(Vec::new(), Vec::new(), &[sink("a", "30/min", 1_000)]);
    for index in 0..200 {
        push(&mut queue, "a", alert(&format!("{index:03}")));
    }
    let sent = sent(&mut queue, 0..240_000);
    let keys: Vec<&String> = sent.iter().map(|(_, key)| key).collect();
    assert!(keys.is_sorted(), "{keys:?}");
    let worst = sent.iter().map(|(start, _)| {
        sent.iter().filter(|(at, _)| (*start..start + 60_000).contains(at)).count()
    });
    assert!(worst.max().is_some_and(|worst| (25..=30).contains(&worst)), "{sent:?}");
}

#[test]
fn a_ledger_is_bounded_and_keeps_the_most_severe() {
    let mut ledger = Ledger::new(WallTime(0));
    for index in 0..1_000 {
        let severity = if index % 100 == 99 { Severity::Critical } else { Severity::Medium };
        let service = ServiceName::new("systemd", &format!("{index}.service"));
        let alert = Alert { service, ..severe(&format!("{index:04}"), severity) };
        ledger.add(WallTime(index), &alert, Cause::Suppressed);
    }
    assert_eq!((ledger.messages, ledger.services.len(), ledger.unnamed), (1_000, 100, 900));
    let kept: Vec<Severity> = ledger.incidents.values().map(|it| it.severity).collect();
    assert_eq!(kept.iter().filter(|it| **it == Severity::Critical).count(), 10);
    assert_eq!(kept.len(), Ledger::INCIDENTS);
    let digest = Digest::new("D".to_owned(), "n1", WallTime(0), ledger, Vec::new());
    let title = "1000 messages about more than 100 services held back in the last 1 min";
    assert_eq!(digest.title, title);
    assert!(digest.incidents.iter().all(|it| it.severity == Severity::Critical));
}
