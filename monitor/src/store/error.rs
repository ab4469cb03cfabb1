//! Why the state could not be read or written, for the person who must act on it.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::store::table::Name;

/// What every refusal ends with.
const ELSE: &str = "restore it from a backup or start with another state_dir; nothing was changed";

/// Why the state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "{} was written by a newer version (format {found}, this program knows {known}): upgrade, or start with another state_dir; nothing was changed",
        path.display()
    )]
    Newer { path: PathBuf, found: u32, known: u32 },
    #[error("{} is damaged: {why}; {ELSE}", path.display())]
    Damaged { path: PathBuf, why: String },
    #[error("{} is damaged: table {table}, key {key:?}: {source}; {ELSE}", path.display())]
    Record {
        path: PathBuf,
        table: &'static str,
        key: String,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error(
        "another agent{} holds {}: stop it, or start with another state_dir",
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(),
        dir.display()
    )]
    Held { dir: PathBuf, pid: Option<u32> },
    #[error("store {changes} changes in {}: nothing of them is stored yet", path.display())]
    Commit { path: PathBuf, changes: usize, source: Box<redb::Error> },
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: Box<redb::Error> },
    #[error("{action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.to_owned(), source }
    }

    /// What the database says about the file, told apart by who must act.
    pub(crate) fn read(path: &Path, error: redb::Error) -> Self {
        let path = path.to_owned();
        match error {
            redb::Error::Corrupted(why) => Self::Damaged { path, why },
            redb::Error::UpgradeRequired(version) => {
                Self::Damaged { path, why: format!("its pages are of the old version {version}") }
            }
            redb::Error::TableTypeMismatch { table, .. }
            | redb::Error::TableIsMultimap(table)
            | redb::Error::TableDoesNotExist(table) => Self::Damaged {
                path,
                why: format!("table {table} is not as this program makes it"),
            },
            // The overlay cannot run out of disk: what cannot be read ends too early.
            redb::Error::Io(source) if is_short(&source) => {
                Self::Damaged { path, why: "it ends too early".to_owned() }
            }
            source => Self::Read { path, source: Box::new(source) },
        }
    }

    pub(crate) fn record(
        path: &Path,
        table: Name,
        key: impl fmt::Display,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Record {
            path: path.to_owned(),
            table: table.text(),
            key: key.to_string(),
            source: source.into(),
        }
    }
}

fn is_short(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::UnexpectedEof
            | std::io::ErrorKind::InvalidData
            | std::io::ErrorKind::InvalidInput
    )
}
