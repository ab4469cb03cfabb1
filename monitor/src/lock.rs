//! A file that says which process has something to itself: the socket, the state. The lock is the
//! kernel's, so a killed agent leaves none; the file stays, or two agents could hold one each.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

/// Why a lock was not taken.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Another process has it; its id, where it could be read.
    Held(Option<u32>),
    Io {
        action: &'static str,
        source: io::Error,
    },
}

/// Who holds the lock at `path`; None where nobody does. Writes nothing and keeps nothing: one
/// that nobody holds is shared for the moment of asking.
pub(crate) fn holder(path: &Path) -> io::Result<Option<Holder>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(Holder { pid: signature(&mut file) })),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// A process that holds a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// Where it could be read.
    pub pid: Option<u32>,
}

fn signature(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

/// How long a holder gets to let go: an agent that ends, or a child of it that has not become its
/// own program yet and still holds what it inherited.
const PATIENCE: Duration = Duration::from_millis(500);

/// Takes the lock at `path` and signs it; it is held as long as the file is open.
pub(crate) fn take(path: &Path) -> Result<File, Refused> {
    let failed = |action| move |source| Refused::Io { action, source };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(failed("open"))?;
    match try_for(&file, PATIENCE) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(Refused::Held(signature(&mut file)));
        }
        Err(TryLockError::Error(source)) => return Err(failed("lock")(source)),
    }
    let signed = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| write!(file, "{}", std::process::id()));
    signed.map_err(failed("write"))?;
    Ok(file)
}

/// Takes an open file, or directory, for this process as long as it is open; false where another has
/// it.
pub(crate) fn hold(file: &File) -> io::Result<bool> {
    match try_for(file, PATIENCE) {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(source)) => Err(source),
    }
}

fn try_for(file: &File, patience: Duration) -> Result<(), TryLockError> {
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if started.elapsed() < patience => {
                std::thread::sleep(Duration::from_millis(10));
            }
            locked => return locked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_tells_who_holds_it_and_is_not_disturbed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        assert_eq!(holder(&path).unwrap(), None);
        assert!(!path.exists(), "to look makes nothing");
        let held = take(&path).unwrap();
        let us = Holder { pid: Some(std::process::id()) };
        assert_eq!(holder(&path).unwrap(), Some(us));
        drop(held);
        assert_eq!(holder(&path).unwrap(), None);
        assert!(take(&path).is_ok());
    }
}
