//! The stored state when the disk is full, damaged, or written by a later version.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use tests::agent::{Agent, SOON, Setup};
use tests::eventually;
use tests::lab::Lab;
use tests::process::{Running, finish};
use tests::traffic::{Protocol, edge, nameless};

use crate::lab;
use crate::shop::Shop;

/// Changes that could not be stored are tried again every few seconds.
pub(crate) const TRIED_AGAIN: Duration = Duration::from_secs(30);

#[test]
fn a_full_disk_is_told_and_outlived() {
    let lab = lab();
    let disk = Disk::new(&lab, "disk", "16m");
    let mut agent = lab.prepared_agent("agent", &Setup::mode("learn").through(&disk.wrapper()));
    agent.state = disk.path.join("state");
    agent.start();
    let wire = lab.wire();
    let at = |port| SocketAddr::new(wire.server.v4, port);
    let api = lab.service("api");
    let serve = |port| lab.serve(&api, &wire.server, Protocol::Tcp, at(port));
    let web = lab.service("web");
    let mut dialler = lab.dialler(&web, &wire.client);
    let first = serve(8080);
    dialler.reaches(&first);
    agent.sees(&first.edge_from(&web));

    let ballast = disk.fill();
    // Many edges need more room than the file has left within itself.
    let mut port = 9000;
    eventually(TRIED_AGAIN, "the agent says that the disk is full", || {
        for _ in 0..50 {
            port += 1;
            dialler.is_refused(at(port));
        }
        if agent.said().contains("No space left") { Ok(()) } else { Err(agent.said()) }
    });
    let second = serve(8081);
    dialler.reaches(&second);
    agent.sees(&second.edge_from(&web));
    agent.get("/readyz").expect("it goes on");

    fs::remove_file(ballast).expect("it was written");
    eventually(TRIED_AGAIN, "the agent says that all is stored", || {
        if agent.said().contains("stored again") { Ok(()) } else { Err(agent.said()) }
    });
    // What was learned a moment ago is stored with whatever is decided, at the latest.
    agent.guards(&[&api]);
    agent.kill();
    agent.start();
    let refused = |port| edge(&web, &nameless(wire.server.v4), port, Protocol::Tcp);
    for edge in [second.edge_from(&web), refused(9001), refused(port)] {
        agent.sees(&edge);
    }
    assert_eq!(agent.end(Signal::TERM).code(), Some(0), "{}", agent.said());
}

/// A small disk in a mount namespace of its own, which lives as long as this does.
pub(crate) struct Disk {
    pub(crate) path: PathBuf,
    holder: Running,
}

impl Disk {
    #[track_caller]
    pub(crate) fn new(lab: &Lab, name: &str, size: &str) -> Self {
        let path = lab.path(name);
        fs::create_dir(&path).expect("the place is ours");
        let script = format!("mount -t tmpfs -o size={size} disk \"$1\" && exec \"$0\" obey");
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &script]).arg(lab.peer()).arg(&path);
        let mut holder = Running::start(&mut command);
        assert_eq!(holder.line(SOON), "ready");
        Self { path, holder }
    }

    /// Enters its namespace before the program is executed.
    pub(crate) fn wrapper(&self) -> [String; 2] {
        ["nsenter".to_owned(), format!("--mount=/proc/{}/ns/mnt", self.holder.pid())]
    }

    /// Mounts it anew, read-only or not.
    #[track_caller]
    pub(crate) fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        let mut command = Command::new("nsenter");
        command.arg(&self.wrapper()[1]).args(["mount", "-o", &options]).arg(&self.path);
        finish(&mut command).done();
    }

    /// Fills it to the last byte; the file to remove to make room again.
    #[track_caller]
    pub(crate) fn fill(&self) -> PathBuf {
        let root = format!("/proc/{}/root", self.holder.pid());
        let inside = self.path.strip_prefix("/").expect("an absolute path");
        let path = Path::new(&root).join(inside).join("ballast");
        let mut file = fs::File::create(&path).expect("it is ours");
        for size in [1 << 16, 1 << 12, 1] {
            let piece = vec![0; size];
            while file.write_all(&piece).is_ok() {}
        }
        path
    }
}

#[test]
fn a_damaged_state_is_refused_and_left_alone() {
    let (lab, mut agent) = with_state();
    let file = agent.state.join("state.redb");
    let whole = fs::read(&file).expect("it was written");
    let mut cut = whole.clone();
    cut.truncate(whole.len() / 2);
    let mut scratched = whole.clone();
    scratched[..512].fill(0xff);
    for damaged in [cut, scratched, b"not a database".to_vec()] {
        fs::write(&file, &damaged).expect("it is ours");
        check_refused(&mut agent, &file, &damaged, "damaged");
    }
    fs::write(&file, whole).expect("it is ours");
    agent.start();
    drop((agent, lab));
}

#[test]
fn a_newer_state_is_refused_and_left_alone() {
    let (lab, mut agent) = with_state();
    let file = agent.state.join("state.redb");
    write_newer(&file);
    let newer = fs::read(&file).expect("it was written");
    check_refused(&mut agent, &file, &newer, "newer version");
    drop((agent, lab));
}

/// An agent that has ended and left a state.
#[track_caller]
fn with_state() -> (Lab, Agent) {
    let mut shop = Shop::guarded();
    assert_eq!(shop.agent.end(Signal::TERM).code(), Some(0));
    (shop.lab, shop.agent)
}

#[track_caller]
fn check_refused(agent: &mut Agent, file: &Path, bytes: &[u8], word: &str) {
    let before = agent.said().len();
    agent.launch();
    assert_eq!(agent.ended().code(), Some(1), "{}", agent.said());
    let said = agent.said()[before..].to_owned();
    for part in [word, "state.redb", "nothing was changed"] {
        assert!(said.contains(part), "{part:?}: {said}");
    }
    assert!(fs::read(file).expect("it is there") == bytes, "{} was changed", file.display());
}

/// Writes into a state what only a later version would: the one place that knows the file.
#[track_caller]
fn write_newer(file: &Path) {
    let meta = redb::TableDefinition::<&str, &str>::new("meta");
    let database = redb::Database::open(file).expect("it was closed");
    let transaction = database.begin_write().expect("nobody else has it");
    transaction.open_table(meta).expect("a table").insert("format", "1000").expect("a row");
    transaction.commit().expect("room");
}
