//! The socket file: one agent at a time, and never another agent's socket removed.

use std::fs::{DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use crate::lock::{self, Refused};
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
        let lock = take_lock(&socket)?;
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

fn is_socket(metadata: &std::fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_socket(&metadata.file_type())
}

fn beside(socket: &Path, suffix: &str) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn take_lock(socket: &Path) -> Result<File, ServeError> {
    let path = beside(socket, ".lock");
    lock::take(&path).map_err(|refused| match refused {
        Refused::Held(pid) => ServeError::Held { socket: socket.to_owned(), pid },
        Refused::Io { action, source } => ServeError::Io { action, path, source },
    })
}
