//! Clocks that are set and machines that sleep: the wall clock steps by hours either way, boot time
//! jumps over a suspended night. Nothing is told twice for it, nothing ends early, nothing falls
//! silent.

use monitor_core::baseline::Mode;
use monitor_core::delivery::{Outcome as DeliveryOutcome, Queue};
use monitor_core::engine::{Effect, Input};
use monitor_core::flow::{Direction, FlowKey, Outcome};
use monitor_core::ids::{BootTime, WallTime};
use proptest::prelude::*;

use crate::stage::{Stage, check, file_until, ip, key, traffic};

const HOUR: i64 = 3_600;

/// The key of `a -> 192.0.2.1 443/tcp`, established.
fn dialled(stage: &mut Stage) -> FlowKey {
    key(stage.cgroup("a"), Direction::Outbound, ip("192.0.2.1"), "443/tcp", Outcome::Established)
}

/// The known dial goes on at `second` after the start.
fn goes_on(stage: &mut Stage, second: u64) {
    stage.until(second * 1_000);
    let key = dialled(stage);
    let traffic = traffic(stage, key, 1);
    stage.step(Input::Traffic(traffic));
    stage.step(Input::Tick);
}

/// Sets the wall clock.
fn set_by(stage: &mut Stage, seconds: i64) {
    stage.set_by_s += seconds;
    stage.set(stage.now.boot);
}

fn messages(stage: &Stage) -> usize {
    stage.said.lines().count()
}

#[test]
fn times_never_underflow() {
    let (early, late) = (WallTime(i64::MIN), WallTime(i64::MAX));
    assert_eq!(early.seconds_since(late), 0);
    assert_eq!(late.seconds_since(early), i64::MAX.unsigned_abs() / 1_000_000);
    assert_eq!(early.seconds_apart(late), late.seconds_apart(early));
    assert_eq!(late.plus_seconds(i64::MAX), late);
    assert_eq!(early.plus_seconds(i64::MIN), early);
    assert_eq!(BootTime(u64::MAX).plus_millis(u64::MAX), BootTime(u64::MAX));
    assert_eq!(early.to_second(), early);
}

#[test]
fn an_approval_does_not_end_early_when_the_clock_is_set_back() {
    let mut stage = check(
        "0 a => b 80/tcp
         5 guard a
         10 approve a -> ip:192.0.2.1 443/tcp with /bin/sh ttl 100
         20 a -> 192.0.2.1 443/tcp established with /bin/sh",
        "",
    );
    set_by(&mut stage, -5 * HOUR);
    stage.event("60 a -> 192.0.2.1 443/tcp established with /bin/sh");
    stage.until(70_000);
    assert_eq!(stage.said, "");
    // Its end is a time that people read: back where it was, it is over, and that is told once.
    set_by(&mut stage, 5 * HOUR);
    stage.until(115_000);
    assert!(stage.rearmed.iter().any(|key| key.port == 443), "the kernel must tell it again");
    stage.event("120 a -> 192.0.2.1 443/tcp established with /bin/sh");
    stage.event("121 a -> 192.0.2.1 443/tcp established with /bin/sh");
    stage.until(130_000);
    assert_eq!(messages(&stage), 1, "{}", stage.said);
}

#[test]
fn what_a_file_lets_end_ends_again_after_the_clock_was_set_back() {
    let mut stage = check("0 a => b 80/tcp", "");
    let until = stage.now.wall.plus_seconds(60);
    stage.step(Input::Files(file_until(until)));
    stage.event("10 a -> 192.0.2.1 443/tcp established with /bin/sh");
    stage.until(100_000);
    set_by(&mut stage, -HOUR);
    // It holds again, so the kernel learns that it is nothing new.
    stage.event("110 a -> 192.0.2.1 443/tcp established with /bin/sh");
    stage.until(115_000);
    assert_eq!(stage.said, "");
    stage.rearmed.clear();
    stage.until(4_000_000);
    assert!(stage.rearmed.iter().any(|key| key.port == 443), "it ended a second time, unseen");
}

#[test]
fn a_forbidden_edge_repeats_hourly_whatever_the_clock_is_set_to() {
    let mut stage = check(
        "0 forbid a -> ip:192.0.2.1 443/tcp
         20 a -> 192.0.2.1 443/tcp established with /bin/x",
        "firing critical: forbidden a -> ip:192.0.2.1 443/tcp established with /bin/x;",
    );
    goes_on(&mut stage, 600);
    assert_eq!(messages(&stage), 1);
    set_by(&mut stage, -300 * HOUR);
    goes_on(&mut stage, 1_000);
    let after_step = messages(&stage);
    assert!(after_step <= 2, "{}", stage.said);
    for second in (1_100..=8_400).step_by(100) {
        goes_on(&mut stage, second);
    }
    let repeats = messages(&stage) - after_step;
    assert!((1..=3).contains(&repeats), "two hours went by: {}", stage.said);
}

#[test]
fn findings_group_by_nearness_also_after_the_clock_was_ahead() {
    let mut stage = check(
        "0 a => b 80/tcp\n 5 guard a\n 10 a -> 192.0.2.1 443/tcp established with /bin/sh",
        "firing high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/sh;",
    );
    set_by(&mut stage, -9_000 * HOUR);
    stage.event("4000 a -> 192.0.2.2 443/tcp established with /bin/sh");
    stage.event("4001 a -> 192.0.2.3 443/tcp established with /bin/sh");
    stage.until(4_010_000);
    let states: Vec<&str> =
        stage.said.lines().filter_map(|line| line.split_once(' ')).map(|it| it.0).collect();
    assert_eq!(states, ["firing", "firing", "updated"], "an hour later it is another story");
}

#[test]
fn a_clock_set_far_ahead_closes_each_incident_once() {
    let mut stage = check(
        "0 a => b 80/tcp\n 5 guard a\n 10 a -> 192.0.2.1 443/tcp established with /bin/sh",
        "firing high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/sh;",
    );
    set_by(&mut stage, 100 * HOUR);
    stage.until(60_000);
    set_by(&mut stage, -100 * HOUR);
    stage.until(120_000);
    set_by(&mut stage, 100 * HOUR);
    stage.until(180_000);
    assert_eq!(messages(&stage), 2, "{}", stage.said);
    assert!(stage.said.lines().nth(1).unwrap().starts_with("resolved"), "{}", stage.said);
}

#[test]
fn over_a_suspended_night_retries_and_saves_are_due_once() {
    let mut stage = Stage::new(Mode::Auto);
    let night = |stage: &mut Stage| {
        let boot = BootTime(stage.now.boot.0 + 8 * 3_600 * 1_000_000_000);
        stage.set(boot);
    };
    for line in ["0 a => b 80/tcp", "5 guard a", "6 a -> 192.0.2.1 443/tcp attempted with /bin/sh"]
    {
        stage.event(line);
    }
    night(&mut stage);
    let effects = stage.engine.step(stage.now, Input::Tick);
    let deliveries: Vec<_> = effects
        .iter()
        .filter_map(|it| if let Effect::Deliver(it) = it { Some(it) } else { None })
        .collect();
    let [delivery] = deliveries.as_slice() else { panic!("{deliveries:?}") };
    let outcome = DeliveryOutcome::Failed { why: "503".to_owned(), retry_after_ms: Some(60_000) };
    let id = delivery.id;
    stage.engine.step(stage.now, Input::Delivered { id, outcome });
    night(&mut stage);
    let mut sent = 0;
    for _ in 0..20 {
        let effects = stage.engine.step(stage.now, Input::Tick);
        sent += effects.iter().filter(|it| matches!(it, Effect::Deliver(_))).count();
        stage.set(BootTime(stage.now.boot.0 + 500_000_000));
    }
    assert_eq!(sent, 1, "it is in flight until somebody says what came of it");
    const { assert!(Queue::LONGEST_PAUSE_MS < 8 * 3_600 * 1_000) };
}

/// What can happen to a machine's clocks between two looks.
#[derive(Debug, Clone, Copy)]
enum Jolt {
    Set(i64),
    Sleep(u64),
    GoesOn,
    Dials(u8),
}

fn jolt() -> impl Strategy<Value = Jolt> {
    prop_oneof![
        (-400 * HOUR..400 * HOUR).prop_map(Jolt::Set),
        (-5_i64..5).prop_map(Jolt::Set),
        (1_u64..40_000).prop_map(Jolt::Sleep),
        Just(Jolt::GoesOn),
        (1_u8..4).prop_map(Jolt::Dials),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the clocks do, messages are bounded by what happened: no storm, no panic.
    #[test]
    fn no_clock_makes_a_storm(jolts in prop::collection::vec(jolt(), 1..40)) {
        let mut stage = Stage::new(Mode::Auto);
        for line in [
            "0 a => b 80/tcp",
            "1 forbid a -> ip:192.0.2.1 443/tcp",
            "2 guard a",
            "3 a -> 192.0.2.1 443/tcp established with /bin/sh",
        ] {
            stage.event(line);
        }
        stage.until(5_000);
        let (mut slept, mut steps, mut dials) = (0, 0, 0);
        for jolt in &jolts {
            let second = stage.now.boot.0 / 1_000_000_000;
            match *jolt {
                Jolt::Set(by) => {
                    steps += 1;
                    set_by(&mut stage, by);
                    stage.step(Input::Tick);
                }
                Jolt::Sleep(seconds) => {
                    slept += seconds;
                    stage.set(BootTime((second + seconds) * 1_000_000_000));
                    stage.step(Input::Tick);
                }
                Jolt::GoesOn => goes_on(&mut stage, second + 1),
                Jolt::Dials(host) => {
                    dials += 1;
                    stage.dial("a", &format!("192.0.2.{host}"), "443/tcp", "established", "/bin/sh");
                    stage.step(Input::Tick);
                }
            }
            // The engine never asks to be woken in the past for ever.
            let due = stage.engine.next_tick();
            stage.step(Input::Tick);
            prop_assert!(due.is_none_or(|due| due >= stage.now.boot) || stage.engine.next_tick() != due);
        }
        // Each hour, each step and each dial may say something, and each incident ends once.
        let hours = usize::try_from(slept / 3_600).unwrap();
        prop_assert!(messages(&stage) <= 2 * (2 + hours + steps + dials), "{}", stage.said);
    }
}

/// An engine that was stored under one clock is taken up under any other.
#[test]
fn a_start_under_another_clock_repeats_nothing() {
    for by in [-500 * HOUR, -HOUR, HOUR, 12 * HOUR] {
        let mut stage = check(
            "0 a => b 80/tcp\n 5 guard a\n 10 a -> 192.0.2.1 443/tcp established with /bin/sh",
            "firing high: new-peer a -> ip:192.0.2.1 443/tcp established with /bin/sh;",
        );
        stage.until(40_000);
        stage.restart(Mode::Auto);
        set_by(&mut stage, by);
        stage.event("50 a -> 192.0.2.1 443/tcp established with /bin/sh");
        stage.event("51 a => b 80/tcp");
        stage.until(60_000);
        assert_eq!(messages(&stage), 1, "set by {by} s: {}", stage.said);
    }
}
