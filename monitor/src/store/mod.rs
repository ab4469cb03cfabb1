//! What must outlive the agent: one file, `state.redb`, in the state directory. Every commit is one
//! durable transaction, so that after `kill -9` or a power cut the state is that of an acknowledged
//! commit. This module knows the database and nothing of what the values mean.
//!
//! Format 2. Tables, all values JSON as the core writes it, those of `edges` MessagePack of the same
//! fields, for of these many are written at once (both are readable with any tool, and fields can be
//! added without a new format):
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | `format`, `program` | a number, the version that last opened it |
//! | `meta` | `alive` | until when somebody looked, microseconds since 1970 |
//! | `meta` | `tables` | which tables of the kernel's `told` is of |
//! | `services` | the service's name | `ServiceRecord` |
//! | `edges` | the edge's text | `EdgeRecord` |
//! | `incidents` | the incident's id | `Incident` |
//! | `deliveries` | position in the queue | `Delivery` |
//! | `held` | the receiver's name | `Held`: what it was not sent |
//! | `mutes` | the mute's pattern | `Mute` |
//! | `known` | source, kind and id of what a source of names told of | which source, and `Subject` |
//! | `audit` | number of the entry | `AuditEntry`, the newest [`Store::AUDIT`] of them |
//! | `told` | number of the part | a part of `Tallies`: what the edges hold of keys of the kernel's tables |
//!
//! `told` is only added to, until whoever adds has it begin anew: it is read as a whole, by nobody but
//! the next agent, and a row of its own for each key took ten times as long.
//!
//! Format 1 is read as well: its edges are JSON until they are next stored, which `{` tells, and its
//! `tallied` had a row for each key. That is dropped, so that the kernel's keys are news once more.
//!
//! A file that this program cannot read, because it is damaged or newer, is refused and not changed
//! by a single byte: it is examined through a [`Shadow`] before it is opened for writing.

mod error;
mod look;
mod shadow;
mod table;

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use monitor_core::engine::{AuditEntry, Change, Snapshot};
use monitor_core::ids::WallTime;
use redb::backends::FileBackend;
use redb::{Database, Durability, ReadableDatabase as _, ReadableTable as _, StorageBackend};

pub use self::error::StoreError;
pub use self::look::Look;
pub use crate::lock::Holder;
use crate::lock::{self, Refused};

use self::shadow::Shadow;
use self::table::{Name, TABLES, Tables};

/// The open state file. Held by one agent at a time.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    /// None after a failed commit: the database is opened again with the next one.
    database: Option<Database>,
    backend: Backend,
    /// Held as long as the store lives; the kernel releases it with the process.
    _lock: File,
}

/// How the file is reached; tests put a disk in between that fills up.
type Backend = fn(File) -> Result<Box<dyn StorageBackend>, redb::Error>;

impl Store {
    /// The format this program writes and reads.
    pub const FORMAT: u32 = 2;
    /// The oldest that it reads.
    const OLDEST: u32 = 1;
    /// Audit entries kept.
    pub const AUDIT: u64 = 100_000;
    const FILE: &str = "state.redb";
    const LOCK: &str = "state.lock";
    /// Pages kept in memory: what is read often lives in the engine anyway, and the kernel keeps the
    /// file's pages.
    const CACHE_BYTES: usize = 4 << 20;

    /// Opens the state in `dir`, creating both where there is none, and reads all of it.
    ///
    /// # Errors
    /// The file is damaged, newer than this program or held by another agent, or the system refused.
    /// Nothing was changed then.
    pub fn open(dir: &Path) -> Result<(Self, Snapshot), StoreError> {
        Self::open_through(dir, |file| Ok(Box::new(FileBackend::new(file)?)))
    }

    fn open_through(dir: &Path, backend: Backend) -> Result<(Self, Snapshot), StoreError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|source| StoreError::io("create the state directory", dir, source))?;
        let mode = dir.metadata().map(|metadata| metadata.permissions().mode());
        if mode.is_ok_and(|mode| mode & 0o022 != 0) {
            let dir = dir.display();
            tracing::warn!(%dir, "others can write to the state directory: run `chmod go-w` on it");
        }
        let lock = take_lock(dir)?;
        let path = dir.join(Self::FILE);
        // A file of no bytes holds nothing that could be lost: a crash before the first write.
        let fresh = match path.metadata() {
            Ok(metadata) => metadata.len() == 0,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
            Err(source) => return Err(StoreError::io("read", &path, source)),
        };
        if fresh {
            create(&path)?;
        }
        let snapshot = examine(&path)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o600))
            .map_err(|source| StoreError::io("restrict the permissions of", &path, source))?;
        let mut store = Self { path, database: None, backend, _lock: lock };
        store.reopen()?;
        store.sign()?;
        Ok((store, snapshot))
    }

    /// Stores all of `changes` in one durable transaction, or none of them. After an error the same
    /// changes can be given again: storing twice what was stored once changes nothing.
    ///
    /// # Errors
    /// The system refused, for example because the disk is full.
    pub fn commit(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        if changes.is_empty() {
            return Ok(());
        }
        let path = self.path.clone();
        let stored = self.reopen()?.write(|transaction| {
            let mut tables = Tables::open(transaction)?;
            let both_edges =
                |a: &Change, b: &Change| matches!((a, b), (Change::Edge(..), Change::Edge(..)));
            changes.chunk_by(both_edges).try_for_each(|alike| tables.apply(alike))
        });
        stored.map_err(|source| {
            // After a failed write the database refuses everything until it is opened again.
            self.database = None;
            StoreError::Commit { path, changes: changes.len(), source: Box::new(source) }
        })
    }

    /// Who changed what: the newest `limit` entries, oldest first, with their numbers.
    ///
    /// # Errors
    /// The system refused, or an entry cannot be read.
    pub fn audit_log(&mut self, limit: usize) -> Result<Vec<(u64, AuditEntry)>, StoreError> {
        let path = self.path.clone();
        let read = |source: redb::Error| StoreError::read(&path, source);
        let transaction =
            self.reopen()?.begin_read().map_err(|error| read(redb::Error::from(error)))?;
        let table = transaction.open_table(table::AUDIT).map_err(|error| read(error.into()))?;
        let mut entries = Vec::new();
        for row in table.iter().map_err(|error| read(error.into()))?.rev().take(limit) {
            let (number, value) = row.map_err(|error| read(error.into()))?;
            let number = number.value();
            let entry = serde_json::from_slice(value.value())
                .map_err(|error| StoreError::record(&path, Name::Audit, number, error))?;
            entries.push((number, entry));
        }
        entries.reverse();
        Ok(entries)
    }

    /// The database, opened again if a failure closed it.
    fn reopen(&mut self) -> Result<&mut Database, StoreError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => {
                let file = OpenOptions::new()
                    .read(true)
                    .write(true)
                    .open(&self.path)
                    .map_err(|source| StoreError::io("open", &self.path, source))?;
                let read = |source| StoreError::read(&self.path, source);
                let backend = (self.backend)(file).map_err(read)?;
                Database::builder()
                    .set_cache_size(Self::CACHE_BYTES)
                    .create_with_backend(Boxed(backend))
                    .map_err(|error| StoreError::read(&self.path, error.into()))?
            }
        };
        Ok(self.database.insert(database))
    }

    /// Notes which version of the program opened the file last and in which format it writes, where
    /// that changed.
    fn sign(&mut self) -> Result<(), StoreError> {
        let path = self.path.clone();
        let failed = |source| StoreError::read(&path, source);
        let format = Self::FORMAT.to_string();
        let signature = [(table::PROGRAM, VERSION), (table::FORMAT, format.as_str())];
        let database = self.reopen()?;
        let mut signed = true;
        for (key, value) in signature {
            signed &= read_meta(database, key).map_err(failed)?.as_deref() == Some(value);
        }
        if signed {
            return Ok(());
        }
        let signed = database.write(|transaction| {
            let mut meta = transaction.open_table(table::META)?;
            for (key, value) in signature {
                meta.insert(key, value)?;
            }
            table::drop_old(transaction)
        });
        signed.map_err(|source| StoreError::Commit { path, changes: 1, source: Box::new(source) })
    }
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// One transaction of the whole of `change`, durable when this returns.
trait Write {
    fn write(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), redb::Error>;
}

impl Write for Database {
    fn write(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), redb::Error> {
        let mut transaction = self.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        change(&transaction)?;
        Ok(transaction.commit()?)
    }
}

/// Takes the directory for this process.
fn take_lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(Store::LOCK);
    lock::take(&path).map_err(|refused| match refused {
        Refused::Held(pid) => StoreError::Held { dir: dir.to_owned(), pid },
        Refused::Io { action, source } => StoreError::io(action, &path, source),
    })
}

/// Makes a state file with no state in it. It gets its name only once it is whole.
fn create(path: &Path) -> Result<(), StoreError> {
    let new = path.with_extension("redb.new");
    let failed = |source| StoreError::read(&new, source);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .map_err(|source| StoreError::io("create", &new, source))?;
    let backend = FileBackend::new(file).map_err(|error| failed(error.into()))?;
    let database =
        Database::builder().create_with_backend(backend).map_err(|error| failed(error.into()))?;
    let format = Store::FORMAT.to_string();
    let written = database.write(|transaction| {
        let mut meta = transaction.open_table(table::META)?;
        meta.insert(table::FORMAT, format.as_str())?;
        meta.insert(table::PROGRAM, VERSION)?;
        drop(meta);
        // Opening a table makes it, so that reading never has to ask whether there is one.
        Tables::open(transaction).map(drop)
    });
    written.map_err(failed)?;
    drop(database);
    std::fs::rename(&new, path).map_err(|source| StoreError::io("rename", &new, source))?;
    let dir = path.parent().unwrap_or(Path::new("."));
    let synced = File::open(dir).and_then(|dir| dir.sync_all());
    synced.map_err(|source| StoreError::io("sync", dir, source))
}

/// Reads everything, changing nothing: whatever the database would repair or write is written to
/// memory.
fn examine(path: &Path) -> Result<Snapshot, StoreError> {
    let file = File::open(path).map_err(|source| StoreError::io("open", path, source))?;
    // On bytes that no database wrote, the database may panic instead of returning.
    let examined = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let shadow = Shadow::of(file).map_err(|source| StoreError::io("read", path, source))?;
        let database = Database::builder()
            .set_cache_size(Store::CACHE_BYTES)
            .set_check_integrity_on_open(true)
            .create_with_backend(shadow)
            .map_err(|error| StoreError::read(path, error.into()))?;
        check_format(path, &database)?;
        snapshot(path, &database)
    }));
    examined.unwrap_or_else(|_panic| {
        Err(StoreError::Damaged {
            path: path.to_owned(),
            why: "its pages contradict each other".to_owned(),
        })
    })
}

fn check_format(path: &Path, database: &Database) -> Result<(), StoreError> {
    let damaged = |why: String| StoreError::Damaged { path: path.to_owned(), why };
    let format = read_meta(database, table::FORMAT)
        .map_err(|source| StoreError::read(path, source))?
        .ok_or_else(|| damaged("it says no format, so this program did not write it".to_owned()))?;
    match format.parse::<u32>() {
        Ok(Store::OLDEST..=Store::FORMAT) => Ok(()),
        Ok(found) if found > Store::FORMAT => {
            Err(StoreError::Newer { path: path.to_owned(), found, known: Store::FORMAT })
        }
        _ => Err(damaged(format!("its format is {format:?}"))),
    }
}

fn read_meta(database: &Database, key: &str) -> Result<Option<String>, redb::Error> {
    let meta = match database.begin_read()?.open_table(table::META) {
        Ok(meta) => meta,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(meta.get(key)?.map(|value| value.value().to_owned()))
}

fn snapshot(path: &Path, database: &Database) -> Result<Snapshot, StoreError> {
    let transaction =
        database.begin_read().map_err(|error| StoreError::read(path, error.into()))?;
    let mut snapshot = Snapshot::default();
    let alive = read_meta(database, table::ALIVE).map_err(|error| StoreError::read(path, error))?;
    snapshot.alive = alive.and_then(|text| text.parse().ok()).map(WallTime);
    let read = |error| StoreError::read(path, error);
    snapshot.tables = read_meta(database, table::TABLES_OF).map_err(read)?;
    for table in TABLES {
        table::load(path, &transaction, table, &mut snapshot)?;
    }
    Ok(snapshot)
}

/// A backend whose kind is only known at run time.
#[derive(Debug)]
struct Boxed(Box<dyn StorageBackend>);

impl StorageBackend for Boxed {
    fn len(&self) -> std::io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> std::io::Result<()> {
        self.0.close()
    }
}

#[cfg(test)]
mod tests;
