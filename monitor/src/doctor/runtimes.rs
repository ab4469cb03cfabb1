//! Who starts containers and units here. Names come from cgroups, so that none of them is needed: what
//! is found only says what names to expect.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tokio::net::UnixStream;

use crate::client::Client;
use crate::doctor::{Check, Finding};
use crate::wording::counted;

/// What is spoken at a runtime's socket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// Docker's API, which Podman speaks too.
    Http,
    /// gRPC: connected to, and no more.
    Other,
}

const SOCKETS: [(&str, &str, Protocol); 6] = [
    ("docker", "/run/docker.sock", Protocol::Http),
    ("podman", "/run/podman/podman.sock", Protocol::Http),
    ("containerd", "/run/containerd/containerd.sock", Protocol::Other),
    ("containerd", "/run/k3s/containerd/containerd.sock", Protocol::Other),
    ("CRI-O", "/run/crio/crio.sock", Protocol::Other),
    ("CRI-O", "/var/run/crio/crio.sock", Protocol::Other),
];

/// A runtime that takes longer is busy.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn examine() -> Vec<Finding> {
    let mut findings = vec![systemd(Path::new("/run/systemd/system"))];
    let mut seen = Vec::new();
    for (name, path, protocol) in SOCKETS {
        let Ok(real) = Path::new(path).canonicalize() else { continue };
        if !seen.contains(&real) {
            findings.push(runtime(name, &real, protocol).await);
            seen.push(real);
        }
    }
    if seen.is_empty() {
        let detail = "no socket of docker, podman, containerd or CRI-O is here";
        findings.push(Finding::ok(Check::Runtime, "container runtime", detail));
    }
    findings
}

fn systemd(running: &Path) -> Finding {
    let detail = if running.is_dir() {
        "runs here: its units are named by their cgroups"
    } else {
        "does not run here: processes are named by the cgroup they are in"
    };
    Finding::ok(Check::Runtime, "systemd", detail)
}

async fn runtime(name: &str, socket: &Path, protocol: Protocol) -> Finding {
    let told = match tokio::time::timeout(PATIENCE, ask(socket, protocol)).await {
        Ok(told) => told,
        Err(_elapsed) => Err(format!("does not answer within {} s", PATIENCE.as_secs())),
    };
    let (version, state) = match told {
        Ok(Answer { version, containers }) => {
            let running =
                containers.map(|count| format!("{} running", counted(count, "container")));
            (version, running.unwrap_or_else(|| "it can be reached".to_owned()))
        }
        Err(why) => (None, why),
    };
    let version = version.map(|version| format!(" {version}")).unwrap_or_default();
    let detail = format!("{state}; names come from cgroups today, it is not asked for them");
    Finding::ok(Check::Runtime, format!("{name}{version} at {}", socket.display()), detail)
}

/// What a runtime says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answer {
    version: Option<String>,
    containers: Option<usize>,
}

async fn ask(socket: &Path, protocol: Protocol) -> Result<Answer, String> {
    match protocol {
        Protocol::Other => {
            let connected = UnixStream::connect(socket).await;
            connected.map(|_| Answer::default()).map_err(|error| error.to_string())
        }
        Protocol::Http => {
            let info = Client::new(socket.to_owned()).get("/info").await;
            let info = info.map_err(|_ours| "it cannot be asked".to_owned())?;
            let version = info.get("ServerVersion").and_then(Value::as_str);
            let containers = info.get("ContainersRunning").and_then(Value::as_u64);
            Ok(Answer {
                version: version.map(ToOwned::to_owned),
                containers: containers.and_then(|count| usize::try_from(count).ok()),
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    /// What is found at a socket where whoever asks is answered with `text`.
    async fn found(protocol: Protocol, text: &'static str) -> (Finding, String) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let speaking = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).await.unwrap();
            stream.write_all(text.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        let finding = runtime("docker", &socket, protocol).await;
        (finding, speaking.await.unwrap())
    }

    #[tokio::test]
    async fn a_runtime_is_asked_once_and_never_relied_on() {
        let info = "HTTP/1.1 200 OK\r\ncontent-length: 48\r\n\r\n{\"ServerVersion\":\"28.2.2\",\"ContainersRunning\":3}";
        let (finding, request) = found(Protocol::Http, info).await;
        assert!(request.starts_with("GET /info "), "{request}");
        assert!(finding.what.starts_with("docker 28.2.2 at "), "{finding:?}");
        assert!(finding.detail.starts_with("3 containers running; names come from cgroups"));
        let (finding, _) = found(Protocol::Http, "garbage\r\n\r\n").await;
        assert!(finding.detail.starts_with("it cannot be asked; names"), "{finding:?}");
        assert_eq!(finding.verdict, crate::doctor::Verdict::Ok);
        let (finding, request) = found(Protocol::Other, "").await;
        assert!(finding.detail.starts_with("it can be reached; "), "{finding:?}");
        assert_eq!(request, "", "nothing is sent where no HTTP is spoken");
    }

    #[tokio::test]
    async fn a_socket_that_nobody_serves_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        drop(UnixListener::bind(&socket).unwrap());
        let finding = runtime("CRI-O", &socket, Protocol::Other).await;
        assert!(finding.detail.starts_with("Connection refused"), "{finding:?}");
    }
}
