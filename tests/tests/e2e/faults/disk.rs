//! A disk that takes nothing more: callers are told, messages go out, nothing is half-written, and all
//! of it is stored once there is room.

use std::fs;
use std::path::Path;
use std::process::Command;

use rustix::process::Signal;
use tests::agent::{Agent, Setup};
use tests::eventually;
use tests::process::{Finished, finish};
use tests::traffic::{Protocol, edge, nameless};

use crate::lab;
use crate::shop::{Shop, is_of};
use crate::state::{Disk, TRIED_AGAIN};

/// A shop whose agent keeps its state on a small disk of its own; its web service is guarded.
#[track_caller]
fn shop_on_disk() -> (Shop, Disk) {
    let lab = lab();
    // Mounted where the agent's state goes.
    let disk = Disk::new(&lab, "agent-state", "12m");
    let shop = Shop::with(lab, &Setup::mode("learn").through(&disk.wrapper()));
    assert_eq!(shop.agent.state, disk.path);
    shop.agent.guards(&[&shop.web.service]);
    (shop, disk)
}

/// Fills the disk, and has edges learned until one of them finds no room in the file.
#[track_caller]
fn run_out(shop: &Shop, disk: &Disk) -> std::path::PathBuf {
    let ballast = disk.fill();
    let mut job = shop.client("job");
    let mut port = 40_000;
    let said = shop.agent.said().len();
    eventually(TRIED_AGAIN, "the agent says that the disk is full", || {
        job.dials(&format!("datagram {} --ports 200", shop.at(port)), "sent");
        port += 200;
        let now = shop.agent.said();
        if now[said..].contains("No space left") { Ok(()) } else { Err(now) }
    });
    ballast
}

#[track_caller]
fn stored_again(agent: &Agent, since: usize) {
    eventually(TRIED_AGAIN, "the agent says that all is stored", || {
        let said = agent.said();
        if said[since..].contains("stored again") { Ok(()) } else { Err(said) }
    });
}

/// Approves the dial to `port`.
#[track_caller]
fn approve(shop: &Shop, port: u16) -> (String, Finished) {
    let edge = edge(&shop.web.service, &nameless(shop.at(port).ip()), port, Protocol::Tcp);
    let finished = shop.agent.run(&["baseline", "approve", &edge]);
    (edge, finished)
}

fn said(finished: &Finished) -> String {
    format!("{}{}", finished.stdout, finished.stderr)
}

#[test]
fn on_a_full_disk_callers_are_told_messages_go_out_and_all_is_stored_later() {
    let (mut shop, disk) = shop_on_disk();
    let ballast = run_out(&shop, &disk);
    let since = shop.agent.said().len();

    let (approved, finished) = approve(&shop, 7_001);
    assert_eq!(finished.code, Some(0), "{finished:?}");
    assert!(said(&finished).contains("not stored yet"), "{finished:?}");
    shop.web.is_refused(shop.at(7_002));
    let odd = edge(&shop.web.service, &nameless(shop.at(7_002).ip()), 7_002, Protocol::Tcp);
    let told = shop.alert_about(&odd);
    shop.agent.get("/readyz").expect("it goes on");

    fs::remove_file(ballast).expect("it was written");
    stored_again(&shop.agent, since);
    shop.agent.kill();
    shop.agent.start();
    assert!(shop.exported().contains("7001/tcp"), "the approval is kept");
    let log = shop.agent.json(&["audit"]).to_string();
    assert!(log.contains(&approved), "{log}");
    // What was told while nothing could be stored is known to have been told.
    shop.web.is_refused(shop.at(7_002));
    shop.web.is_refused(shop.at(7_001));
    let alerts = shop.told();
    // The job that filled the disk may have been told of as well, as one that floods.
    let alerts: Vec<_> = alerts.iter().filter(|it| is_of(it, &shop.web.service)).collect();
    assert!(alerts.iter().all(|it| it["id"] == told["id"] && it["revision"] == 1), "{alerts:#?}");
}

#[test]
fn killed_on_a_full_disk_nothing_is_half_there() {
    let (mut shop, disk) = shop_on_disk();
    let before = shop.exported();
    let ballast = run_out(&shop, &disk);
    let (approved, finished) = approve(&shop, 7_001);
    assert!(said(&finished).contains("not stored yet"), "{finished:?}");
    shop.agent.kill();

    // It starts on the full disk, or says why it cannot and changes nothing.
    shop.agent.launch();
    let up = eventually(TRIED_AGAIN, "a start, or a refusal", || {
        if !shop.agent.runs() {
            return Ok(false);
        }
        shop.agent.get("/readyz").map(|_| true)
    });
    if up {
        shop.agent.kill();
    } else {
        let said = shop.agent.said();
        assert!(said.contains("No space left") && said.contains("agent-state"), "{said}");
    }
    fs::remove_file(ballast).expect("it was written");
    shop.agent.start();
    let noted = shop.agent.json(&["audit"]).to_string().contains(&approved);
    let there = shop.exported() != before;
    assert_eq!(there, noted, "half of a decision");

    // With room, a decision is stored before it is acknowledged.
    let (_, finished) = approve(&shop, 7_003);
    assert!(!said(&finished).contains("not stored yet"), "{finished:?}");
    shop.agent.kill();
    shop.agent.start();
    assert!(shop.exported().contains("7003/tcp"));
}

#[test]
fn on_a_disk_that_became_read_only_it_refuses_to_start_and_says_so() {
    let (mut shop, disk) = shop_on_disk();
    let exported = shop.exported();
    assert_eq!(shop.agent.end(Signal::TERM).code(), Some(0));
    disk.remount("ro");
    let before = shop.agent.said().len();
    shop.agent.launch();
    assert_eq!(shop.agent.ended().code(), Some(1), "{}", shop.agent.said());
    let said = shop.agent.said()[before..].to_owned();
    assert!(said.contains("Read-only file system") && said.contains("agent-state"), "{said}");
    disk.remount("rw");
    shop.agent.start();
    assert_eq!(shop.exported(), exported);
}

#[test]
fn a_state_that_may_not_be_written_any_more_is_told_and_outlived() {
    let mut shop = Shop::guarded();
    let file = shop.agent.state.join("state.redb");
    // A file that nobody may change fails every write, as a disk does that turned read-only.
    let unchangeable = Unchangeable::new(&file);
    let since = shop.agent.said().len();
    let (_, finished) = approve(&shop, 7_001);
    assert!(said(&finished).contains("not stored yet"), "{finished:?}");
    drop(unchangeable);
    stored_again(&shop.agent, since);
    shop.agent.kill();
    shop.agent.start();
    assert!(shop.exported().contains("7001/tcp"), "the approval is kept");
    shop.web.reaches(&shop.api);
    shop.was_silent(0);
}

/// A file that nobody may change, not even through a handle that is open already, until this is
/// dropped: while it stands, the lab's directory could not be removed.
struct Unchangeable<'a>(&'a Path);

impl<'a> Unchangeable<'a> {
    #[track_caller]
    fn new(file: &'a Path) -> Self {
        let open = fs::File::options().append(true).open(file).expect("it is there");
        let length = open.metadata().expect("it is open").len();
        let made = chattr("+i", file);
        let this = Self(file);
        // Some file systems take the attribute and let the handle be (tmpfs), some do not know it.
        let holds = open.set_len(length).is_err();
        assert!(
            made && holds,
            "{} is on a file system that does not keep files from being changed: set TMPDIR to a directory on ext4, xfs or btrfs",
            file.display()
        );
        this
    }
}

impl Drop for Unchangeable<'_> {
    fn drop(&mut self) {
        let undone = chattr("-i", self.0);
        assert!(undone || std::thread::panicking(), "{} stays as it is", self.0.display());
    }
}

fn chattr(change: &str, file: &Path) -> bool {
    finish(Command::new("chattr").arg(change).arg(file)).code == Some(0)
}
