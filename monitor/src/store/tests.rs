//! The real database on a real file system: what was acknowledged is there, what cannot be read is
//! left alone.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use monitor_core::baseline::{EdgeRecord, ServiceRecord};
use monitor_core::engine::{Actor, Tallied, Tallies};
use monitor_core::ids::{ServiceName, WallTime};

use super::*;

fn service(number: u64) -> Change {
    let name = ServiceName::new("compose", &format!("shop/web{number}"));
    Change::Service(name, Some(Box::new(ServiceRecord::new(WallTime(1_000_000)))))
}

fn edge(number: u16) -> Change {
    let edge = format!("systemd:a.service -> ip:192.0.2.1 {number}/tcp").parse().unwrap();
    Change::Edge(edge, Some(Box::new(EdgeRecord::default())))
}

fn audit(number: u64) -> Change {
    let entry = AuditEntry {
        at: WallTime(number.cast_signed()),
        actor: Actor { uid: 1000, pid: 7, executable: Some("/usr/bin/edgewatch".to_owned()) },
        what: format!("change {number}"),
    };
    Change::Audit(number, entry)
}

fn written(changes: &[Change]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(dir.path()).unwrap();
    store.commit(changes).unwrap();
    dir
}

fn file(dir: &tempfile::TempDir) -> PathBuf {
    dir.path().join("state.redb")
}

/// Opens the database behind the store's back.
fn tamper(dir: &tempfile::TempDir, change: impl FnOnce(&redb::WriteTransaction)) {
    let database = Database::open(file(dir)).unwrap();
    let transaction = database.begin_write().unwrap();
    change(&transaction);
    transaction.commit().unwrap();
}

/// Opening is refused with `expected` in the message, and not one byte of the file changes.
#[track_caller]
fn refused(dir: &tempfile::TempDir, expected: &str) {
    let before = std::fs::read(file(dir)).unwrap();
    let error = Store::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
    assert!(error.contains("nothing was changed"), "{error}");
    assert!(std::fs::read(file(dir)).unwrap() == before, "the file was changed");
}

#[test]
fn what_was_committed_is_there_again() {
    let dir = written(&[service(1), service(2), edge(80), edge(443), audit(0), audit(1)]);
    let (mut store, snapshot) = Store::open(dir.path()).unwrap();
    assert_eq!(snapshot.services.len(), 2);
    assert_eq!(snapshot.edges.len(), 2);
    assert_eq!(snapshot.next_audit, 2);
    let Change::Edge(gone, _) = edge(80) else { panic!() };
    store.commit(&[Change::Edge(gone, None)]).unwrap();
    let log = store.audit_log(1).unwrap();
    assert_eq!(log.len(), 1);
    assert_eq!((log[0].0, log[0].1.what.as_str()), (1, "change 1"));
    drop(store);
    let (_store, snapshot) = Store::open(dir.path()).unwrap();
    assert_eq!(snapshot.edges[0].0.to_string(), "systemd:a.service -> ip:192.0.2.1 443/tcp");
}

#[test]
fn mutes_and_what_was_held_back_are_there_again_and_need_not_have_been() {
    let mute: monitor_core::mute::Mute = serde_json::from_value(serde_json::json!({
        "pattern": "compose:shop/*", "since": "2026-01-01T00:00:00Z",
        "until": "2026-01-01T04:00:00Z", "reason": "rollout", "messages": 3, "held": {},
    }))
    .unwrap();
    let dir = written(&[
        edge(80),
        Change::Mute("compose:shop/*".to_owned(), Some(Box::new(mute.clone()))),
        Change::Held("ops".to_owned(), Box::default()),
    ]);
    let (store, snapshot) = Store::open(dir.path()).unwrap();
    assert_eq!((snapshot.mutes, snapshot.held.len()), (vec![mute], 1));
    drop(store);
    // As an earlier version left it.
    tamper(&dir, |it| {
        for table in ["mutes", "held"] {
            let texts: redb::TableDefinition<&str, &[u8]> = redb::TableDefinition::new(table);
            assert!(it.delete_table(texts).unwrap());
        }
    });
    let (mut store, snapshot) = Store::open(dir.path()).unwrap();
    assert_eq!((snapshot.edges.len(), snapshot.mutes.len(), snapshot.held.len()), (1, 0, 0));
    store.commit(&[Change::Held("ops".to_owned(), Box::default())]).unwrap();
}

fn tallied(number: u16, connections: u64) -> (Vec<u8>, Option<Tallied>) {
    let Change::Edge(edge, _) = edge(number) else { panic!() };
    let held = Tallied {
        edge,
        first_seen_ns: 7,
        connections,
        bytes_sent: 0,
        bytes_received: 0,
        rtt: monitor_core::flow::RttHistogram::default(),
        again: false,
    };
    (number.to_be_bytes().to_vec(), Some(held))
}

fn tallies(rows: &[(Vec<u8>, Option<Tallied>)]) -> Change {
    let mut tallies = Tallies::default();
    tallies.extend(rows.to_vec());
    Change::Tallied(tallies)
}

#[test]
fn what_was_tallied_is_there_in_its_order_until_it_begins_anew() {
    let (first, gone) = ([tallied(1, 1), tallied(2, 1)], [(tallied(2, 0).0, None), tallied(1, 9)]);
    let tables = || Change::Tables("them".to_owned());
    let dir = written(&[tables(), tallies(&first)]);
    let (mut store, snapshot) = Store::open(dir.path()).unwrap();
    assert_eq!(snapshot.tallied.rows().collect::<Vec<_>>(), first);
    store.commit(&[tallies(&gone)]).unwrap();
    drop(store);
    let (mut store, snapshot) = Store::open(dir.path()).unwrap();
    let all: Vec<_> = first.iter().chain(&gone).cloned().collect();
    assert_eq!(snapshot.tallied.rows().collect::<Vec<_>>(), all);
    store.commit(&[tables(), tallies(&gone[1..])]).unwrap();
    drop(store);
    let (store, snapshot) = Store::open(dir.path()).unwrap();
    assert_eq!(snapshot.tallied.rows().collect::<Vec<_>>(), gone[1..]);
    drop(store);
    tamper(&dir, |it| {
        let told: redb::TableDefinition<u64, &[u8]> = redb::TableDefinition::new("told");
        it.open_table(told).unwrap().insert(9, [2, 1].as_slice()).unwrap();
    });
    refused(&dir, "table told, key \"9\": row 0 cannot be read");
}

/// New rows beside one another, between others and in place of others.
#[test]
fn edges_find_their_place_in_whatever_order_they_come() {
    let dir = tempfile::tempdir().unwrap();
    let (mut store, _) = Store::open(dir.path()).unwrap();
    let mut model: BTreeMap<String, Option<EdgeRecord>> = BTreeMap::new();
    // Much of the table at once, and little of it.
    let rounds: [(u32, u32, u32); 8] = [
        (3_000, 7, 3),
        (3_000, 1, 1),
        (50, 3, 2),
        (3_000, 2, 9),
        (3_000, 5, 2),
        (500, 13, 3),
        (3_000, 11, 1),
        (3_000, 1, 4),
    ];
    for (round, (count, step, every)) in rounds.into_iter().enumerate() {
        let mut changes = Vec::new();
        for number in (0..count).map(|it| it * step * 7919 % 9_001) {
            let name = u16::try_from(number).unwrap();
            let Change::Edge(name, _) = edge(name) else { panic!() };
            let mut record = EdgeRecord::default();
            let pending = record.pending.get_or_insert_default();
            pending.last_told = WallTime(i64::try_from(round).unwrap());
            let record = number.is_multiple_of(every).then_some(record);
            model.insert(name.to_string(), record.clone());
            changes.push(Change::Edge(name, record.map(Box::new)));
        }
        store.commit(&changes).unwrap();
    }
    drop(store);
    let (_store, snapshot) = Store::open(dir.path()).unwrap();
    let read: Vec<(String, EdgeRecord)> =
        snapshot.edges.into_iter().map(|(edge, record)| (edge.to_string(), record)).collect();
    let expected: Vec<(String, EdgeRecord)> =
        model.into_iter().filter_map(|(edge, record)| Some((edge, record?))).collect();
    assert_eq!(read.len(), expected.len());
    assert!(read == expected, "others than were stored");
}

#[test]
fn all_that_an_edge_holds_is_there_again() {
    let json = serde_json::json!({
        "evidence": {
            "first_seen": "2026-01-01T00:00:00.000001Z", "last_seen": "2026-01-01T00:00:00Z",
            "outcome": "established", "seen_from": "both",
            "from_client": {"connections": 1, "failures": 2, "to_server": 3, "to_client": 4},
            "from_server": {"connections": 5, "failures": 0, "to_server": 0, "to_client": 0},
            "rtt": [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4_000_000_000_u32],
            "executables": ["/bin/a", "/bin/b"], "dialled": ["127.0.0.1:80", "[::1]:80"],
            "opened_by": "systemd:init.socket",
        },
        "allowed": [
            {"provenance": "learned", "since": "2026-01-01T00:00:00Z", "attempted_only": true},
            {"provenance": "approved", "since": "2026-01-01T00:00:00Z", "executables": ["/bin/a"],
             "until": "2027-01-01T00:00:00Z", "approver": "ann", "reason": "rollout"},
        ],
        "forbidden": {"since": "2026-01-01T00:00:00Z", "lifted_until": "2026-02-01T00:00:00Z",
                      "until": "2026-03-01T00:00:00Z"},
        "pending": {"told": [{"class": "reached", "executable": "/bin/c"}, {"class": "attempt"}],
                    "last_told": "2026-01-01T00:00:00Z", "unalerted": true},
    });
    let record: EdgeRecord = serde_json::from_value(json).unwrap();
    let Change::Edge(name, _) = edge(80) else { panic!() };
    let dir = written(&[Change::Edge(name.clone(), Some(Box::new(record.clone())))]);
    let (_store, snapshot) = Store::open(dir.path()).unwrap();
    assert_eq!(snapshot.edges, [(name, record)]);
}

/// Nothing is lost but what the kernel's keys hold: they are news once more.
#[test]
fn a_state_of_the_first_format_is_taken_up() {
    let dir = written(&[service(1), edge(80), audit(0)]);
    let json = br#"{"evidence":{"first_seen":"2026-01-01T00:00:00Z","last_seen":"2026-01-01T00:00:00Z","outcome":"established","seen_from":"both","from_client":{"connections":7,"failures":0,"to_server":1,"to_client":2},"from_server":{"connections":0,"failures":0,"to_server":0,"to_client":0}}}"#;
    tamper(&dir, |it| {
        it.open_table(table::META).unwrap().insert(table::FORMAT, "1").unwrap();
        let numbers: redb::TableDefinition<u64, &[u8]> = redb::TableDefinition::new("told");
        assert!(it.delete_table(numbers).unwrap());
        let edges: redb::TableDefinition<&str, &[u8]> = redb::TableDefinition::new("edges");
        let name = "systemd:a.service -> ip:192.0.2.1 443/tcp";
        it.open_table(edges).unwrap().insert(name, json.as_slice()).unwrap();
        let old: redb::TableDefinition<&[u8], &[u8]> = redb::TableDefinition::new("tallied");
        it.open_table(old).unwrap().insert([1].as_slice(), b"{}".as_slice()).unwrap();
    });
    let seen = Store::look(dir.path()).unwrap();
    assert!(matches!(seen, Look::Readable { services: 1, edges: 2, .. }), "{seen:?}");
    for _ in 0..2 {
        let (mut store, snapshot) = Store::open(dir.path()).unwrap();
        assert_eq!((snapshot.services.len(), snapshot.next_audit), (1, 1));
        let evidence = snapshot.edges.iter().find_map(|(_, record)| record.evidence.as_deref());
        assert_eq!(evidence.map(|it| it.from_client().connections), Some(7));
        assert!(snapshot.tallied.is_empty());
        // Both are there, the one as it was, the other as it is written now.
        store.commit(&[edge(80)]).unwrap();
    }
    tamper(&dir, |it| {
        let meta = it.open_table(table::META).unwrap();
        assert_eq!(meta.get(table::FORMAT).unwrap().unwrap().value(), "2");
        drop(meta);
        assert!(it.list_tables().unwrap().all(|it| redb::TableHandle::name(&it) != "tallied"));
    });
}

#[test]
fn the_audit_log_is_bounded() {
    let dir = written(&[audit(0), audit(1)]);
    let (mut store, _) = Store::open(dir.path()).unwrap();
    store.commit(&[audit(Store::AUDIT)]).unwrap();
    let kept: Vec<u64> = store.audit_log(9).unwrap().into_iter().map(|(n, _)| n).collect();
    assert_eq!(kept, [1, Store::AUDIT]);
}

#[test]
fn only_the_owner_can_read_the_state() {
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("a/b");
    drop(Store::open(&dir).unwrap());
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&dir.join("state.redb")), 0o600);
}

#[test]
fn a_file_of_no_bytes_is_a_fresh_one() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(file(&dir), b"").unwrap();
    let (mut store, snapshot) = Store::open(dir.path()).unwrap();
    assert!(snapshot.services.is_empty());
    store.commit(&[service(1)]).unwrap();
}

#[test]
fn a_newer_format_is_left_alone() {
    let dir = written(&[service(1)]);
    tamper(&dir, |it| {
        it.open_table(table::META).unwrap().insert(table::FORMAT, "3").unwrap();
    });
    refused(
        &dir,
        "state.redb was written by a newer version (format 3, this program knows 2): upgrade, or start with another state_dir",
    );
}

#[test]
fn what_is_no_state_is_left_alone() {
    let texts: [&[u8]; 4] = [b"x", b"not a database at all", &[0; 8192], &[0xff; 100_000]];
    for bytes in texts {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(file(&dir), bytes).unwrap();
        refused(&dir, "is damaged");
    }
    let dir = tempfile::tempdir().unwrap();
    drop(Database::create(file(&dir)).unwrap());
    refused(&dir, "it says no format");
}

#[test]
fn a_shortened_file_is_left_alone() {
    let whole = written(&(0..300).map(service).collect::<Vec<_>>());
    let bytes = std::fs::read(file(&whole)).unwrap();
    for len in [1, 64, 4095, 4096, 20_000, bytes.len() / 2, bytes.len() - 4096, bytes.len() - 1] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(file(&dir), &bytes[..len]).unwrap();
        refused(&dir, "is damaged");
    }
}

#[test]
fn flipped_bytes_are_found_or_harmless() {
    let whole = written(&(0..300).map(service).collect::<Vec<_>>());
    let bytes = std::fs::read(file(&whole)).unwrap();
    for at in (0..bytes.len()).step_by(bytes.len() / 61) {
        let dir = tempfile::tempdir().unwrap();
        let mut changed = bytes.clone();
        changed[at] ^= 0x55;
        std::fs::write(file(&dir), &changed).unwrap();
        match Store::open(dir.path()) {
            Ok((_, snapshot)) => assert_eq!(snapshot.services.len(), 300, "byte {at}"),
            Err(_) => refused(&dir, "is damaged"),
        }
    }
}

#[test]
fn a_record_that_cannot_be_read_is_named() {
    let dir = written(&[edge(80)]);
    tamper(&dir, |it| {
        let texts: redb::TableDefinition<&str, &[u8]> = redb::TableDefinition::new("services");
        it.open_table(texts).unwrap().insert("systemd:a.service", b"{}".as_slice()).unwrap();
    });
    refused(&dir, "table services, key \"systemd:a.service\": missing field `phase`");
}

#[test]
fn a_second_agent_is_told_who_holds_the_state() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, _) = Store::open(dir.path()).unwrap();
    let error = Store::open(dir.path()).unwrap_err().to_string();
    let pid = std::process::id();
    assert_eq!(
        error,
        format!(
            "another agent (pid {pid}) holds {}: stop it, or start with another state_dir",
            dir.path().display()
        )
    );
}

static FULL: AtomicBool = AtomicBool::new(false);

/// A disk that has no room while [`FULL`] says so.
#[derive(Debug)]
struct Filling(FileBackend);

impl StorageBackend for Filling {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        room().and_then(|()| self.0.set_len(len))
    }

    fn sync_data(&self) -> std::io::Result<()> {
        room().and_then(|()| self.0.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        room().and_then(|()| self.0.write(offset, data))
    }
}

fn room() -> std::io::Result<()> {
    if FULL.load(Ordering::SeqCst) { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(()) }
}

#[test]
fn what_a_full_disk_refused_can_be_stored_later() {
    let dir = tempfile::tempdir().unwrap();
    let filling: Backend = |file| Ok(Box::new(Filling(FileBackend::new(file)?)));
    let (mut store, _) = Store::open_through(dir.path(), filling).unwrap();
    store.commit(&[service(1)]).unwrap();
    let changes = [service(2), edge(80)];
    FULL.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        assert!(store.commit(&changes).is_err());
    }
    FULL.store(false, Ordering::SeqCst);
    store.commit(&changes).unwrap();
    drop(store);
    let (_store, snapshot) = Store::open(dir.path()).unwrap();
    assert_eq!((snapshot.services.len(), snapshot.edges.len()), (2, 1));
}

const CHILD: &str = "EDGEWATCH_TEST_STORE";

/// Commits for ever, telling each acknowledged commit: run by the test below in a process to kill.
#[test]
fn commits_until_killed() {
    let Some(dir) = std::env::var_os(CHILD) else {
        return;
    };
    let (mut store, snapshot) = Store::open(Path::new(&dir)).unwrap();
    for number in snapshot.next_audit.. {
        store.commit(&[service(number), audit(number)]).unwrap();
        println!("\nstored {number}");
    }
}

#[test]
fn what_was_acknowledged_survives_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let mut stored = None;
    for round in 1..=5_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::tests::commits_until_killed", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            if let Some(number) = line.unwrap().strip_prefix("stored ") {
                stored = Some(number.parse::<u64>().unwrap());
                told += 1;
                if told == 20 * round {
                    child.kill().unwrap();
                }
            }
        }
        child.wait().unwrap();
        let (_store, snapshot) = Store::open(dir.path()).unwrap();
        assert!(snapshot.next_audit > stored.unwrap(), "round {round}");
        assert_eq!(snapshot.services.len() as u64, snapshot.next_audit, "one transaction, not two");
    }
}

#[test]
fn a_visitor_sees_the_state_and_leaves_no_trace() {
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(Store::look(empty.path()).unwrap(), Look::Nothing);
    assert_eq!(Store::look(&empty.path().join("missing")).unwrap(), Look::Nothing);
    assert_eq!(empty.path().read_dir().unwrap().count(), 0);

    let dir = written(&[service(1), service(2), edge(80)]);
    let bytes = file(&dir).metadata().unwrap().len();
    let seen = Store::look(dir.path()).unwrap();
    assert_eq!(seen, Look::Readable { services: 2, edges: 1, bytes });
    let held = Store::open(dir.path()).unwrap();
    let us = Holder { pid: Some(std::process::id()) };
    assert_eq!(Store::look(dir.path()).unwrap(), Look::Held(us));
    drop(held);

    std::fs::write(file(&dir), b"no database at all").unwrap();
    let error = Store::look(dir.path()).unwrap_err().to_string();
    assert!(error.contains("is damaged"), "{error}");
    assert_eq!(std::fs::read(file(&dir)).unwrap(), b"no database at all");
}
