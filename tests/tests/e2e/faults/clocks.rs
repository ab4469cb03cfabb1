//! Clocks that differ: an agent whose boot clock is not the kernel's, as in a container that was moved.

use std::process::Command;
use std::time::{Duration, SystemTime};

use tests::agent::{SOON, Setup};
use tests::lab::Lab;
use tests::process::{Running, finish};

use crate::lab;
use crate::shop::Shop;

/// A time namespace whose boot clock is ahead, which lives as long as this does.
struct Ahead {
    inside: u32,
    _holder: Running,
}

impl Ahead {
    #[track_caller]
    fn new(lab: &Lab, seconds: u32) -> Self {
        let mut command = Command::new("unshare");
        command.args(["--time", "--boottime", &seconds.to_string(), "--kill-child"]);
        let mut holder = Running::start(command.arg(lab.peer()).arg("obey"));
        assert_eq!(holder.line(SOON), "ready");
        let children = format!("/proc/{0}/task/{0}/children", holder.pid());
        let children = std::fs::read_to_string(children).expect("it runs");
        let inside = children.trim().parse().expect("it has one child");
        Self { inside, _holder: holder }
    }

    /// Enters it before the program is executed.
    fn wrapper(&self) -> [String; 2] {
        ["nsenter".to_owned(), format!("--time=/proc/{}/ns/time", self.inside)]
    }
}

#[test]
fn in_a_time_namespace_times_are_those_of_the_wall() {
    let lab = lab();
    let ahead = Ahead::new(&lab, 86_400);
    let mut shop = Shop::with(lab, &Setup::mode("learn").through(&ahead.wrapper()));
    shop.agent.guards(&[&shop.web.service]);
    let db = shop.server("db", 5432);
    shop.web.reaches(&db);
    let edge = db.edge_from(&shop.web.service);
    let alert = shop.alert_about(&edge);
    let known = shop.agent.mapped(&shop.api.edge_from(&shop.web.service)).expect("it was seen");
    let times = [
        &alert["first_seen"],
        &alert["last_seen"],
        &alert["findings"][0]["at"],
        &known["evidence"]["first_seen"],
    ];
    for time in times {
        let apart = seconds_from_now(time.as_str().unwrap_or_default());
        assert!(apart < 120, "{time} is {apart} s from now");
    }
    // Whoever seems younger than his child is taken for somebody else.
    let process = &alert["findings"][0]["process"];
    assert_eq!(process["ancestors"][0]["pid"], std::process::id(), "{process:#}");
    shop.was_silent(1);
}

/// How far a time is from now, by `date`.
#[track_caller]
fn seconds_from_now(time: &str) -> u64 {
    let said = finish(Command::new("date").args(["+%s", "-d", time])).done();
    let then: u64 = said.trim().parse().expect("a number");
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.unwrap_or(Duration::ZERO).as_secs().abs_diff(then)
}
