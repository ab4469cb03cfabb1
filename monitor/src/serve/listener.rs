//! The socket file: one agent at a time, and never another agent's socket removed.

use std::fs::{DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::net::{UnixListener, UnixStream};

use crate::serve::Config;

/// Why the socket is not there.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(
        "another agent{} holds {}: stop it, or use `edgewatch status` to talk to it",
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default(),
        socket.display()
    )]
    Held { socket: PathBuf, pid: Option<u32> },
    #[error("{} is there and is no socket: remove it, or name another socket", .0.display())]
    NoSocket(PathBuf),
    #[error("{action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("accept connections on the socket")]
    Accept(#[source] io::Error),
}

/// The bound socket. Dropping it takes its file away.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    socket: PathBuf,
    /// Held as long as the listener lives; the kernel releases it with the process.
    _lock: File,
}

impl Listener {
    /// Binds the socket that `config` names, for its owner alone. What an agent that was killed left
    /// behind is replaced.
    ///
    /// # Errors
    /// Another agent holds it, something else is there, or the system refused.
    pub fn bind(config: &Config) -> Result<Self, ServeError> {
        let socket = config.socket.clone();
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| ServeError::Io { action, path, source }
        };
        if let Some(dir) = socket.parent().filter(|dir| !dir.as_os_str().is_empty()) {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
            made.map_err(failed("create", dir))?;
        }
        let lock = lock(&socket)?;
        match socket.symlink_metadata() {
            Ok(there) if !is_socket(&there) => return Err(ServeError::NoSocket(socket)),
            _ => {}
        }
        // Bound beside its place and moved there, so that at no time others may connect to it.
        let draft = beside(&socket, ".new");
        match std::fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &draft)(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&draft).map_err(failed("listen at", &draft))?;
        std::fs::set_permissions(&draft, Permissions::from_mode(0o600))
            .and_then(|()| std::fs::rename(&draft, &socket))
            .map_err(failed("make", &socket))?;
        Ok(Self { listener, socket, _lock: lock })
    }

    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The lock is still held, so the file is ours; the lock file stays, or two agents could hold
        // one each.
        drop(std::fs::remove_file(&self.socket));
    }
}

/// Takes the lock, waiting a moment for a holder that is just letting go: an agent that ends, or a
/// child of it that has not become its own program yet and still holds what it inherited.
fn lock_patiently(file: &File) -> Result<(), TryLockError> {
    let started = Instant::now();
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if started.elapsed() < PATIENCE => {
                std::thread::sleep(Duration::from_millis(10));
            }
            locked => return locked,
        }
    }
}

const PATIENCE: Duration = Duration::from_millis(500);

fn is_socket(metadata: &std::fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type())
}

fn beside(socket: &Path, suffix: &str) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn lock(socket: &Path) -> Result<File, ServeError> {
    let path = beside(socket, ".lock");
    let failed = |action| {
        let path = path.clone();
        move |source| ServeError::Io { action, path, source }
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed("open"))?;
    match lock_patiently(&file) {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let read = file.read_to_string(&mut holder);
            let pid = read.ok().and_then(|_| holder.trim().parse().ok());
            return Err(ServeError::Held { socket: socket.to_owned(), pid });
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
