//! Who starts containers and units here, and which of them is asked for names. None is needed: a cgroup
//! alone gives a name, if not always a lasting one.

use std::path::{Path, PathBuf};
use std::time::Duration;

use monitor_core::directory::Source;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::client::Client;
use crate::doctor::{Check, Finding};
use crate::sources::{Config, Setting};
use crate::wording::counted;

/// What is spoken at a runtime's socket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// Docker's API, which Podman speaks too.
    Http,
    /// gRPC: connected to, and no more.
    Other,
}

const SOCKETS: [(&str, Source, &str); 6] = [
    ("docker", Source::Docker, "/run/docker.sock"),
    ("podman", Source::Podman, "/run/podman/podman.sock"),
    ("containerd", Source::Cri, "/run/containerd/containerd.sock"),
    ("containerd", Source::Cri, "/run/k3s/containerd/containerd.sock"),
    ("CRI-O", Source::Cri, "/run/crio/crio.sock"),
    ("CRI-O", Source::Cri, "/var/run/crio/crio.sock"),
];

impl Protocol {
    const fn of(source: Source) -> Self {
        match source {
            Source::Docker | Source::Podman => Self::Http,
            Source::Cri | Source::Kubernetes => Self::Other,
        }
    }
}

/// A runtime that takes longer is busy.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn examine(config: &Config) -> Vec<Finding> {
    let mut findings = vec![systemd(Path::new("/run/systemd/system"))];
    let usual = SOCKETS.map(|(name, source, path)| (name.to_owned(), source, PathBuf::from(path)));
    // A cluster is no socket of this machine.
    let runtimes = || Source::ALL.into_iter().filter(|it| *it != Source::Kubernetes);
    let elsewhere = runtimes().filter_map(|source| match config.of(source) {
        Setting::At(path) => Some((source.to_string(), source, path.clone())),
        Setting::Auto | Setting::Off | Setting::Required => None,
    });
    let (mut seen, mut found) = (Vec::new(), Vec::new());
    let is_asked_there = |source, path: &Path| match config.of(source) {
        Setting::At(at) => at == path,
        Setting::Auto | Setting::Off | Setting::Required => true,
    };
    for (name, source, path) in elsewhere.chain(usual) {
        let Ok(real) = path.canonicalize() else { continue };
        if !seen.contains(&real) {
            let setting = Some(config.of(source)).filter(|_| is_asked_there(source, &path));
            findings.push(runtime(&name, &real, source, setting).await);
            seen.push(real);
            found.extend(setting.map(|_| source));
        }
    }
    let required = config.required();
    let lacking = runtimes().filter(|it| required.contains(it) && !found.contains(it));
    findings.extend(lacking.map(|source| {
        let detail =
            format!("[identity] says that {source} is required for names, and it is not here");
        Finding::warn(Check::Runtime, source.to_string(), detail)
            .mend(format!("start it, or write `{source} = \"auto\"`"))
    }));
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

async fn runtime(name: &str, socket: &Path, source: Source, setting: Option<&Setting>) -> Finding {
    let told = match tokio::time::timeout(PATIENCE, ask(socket, Protocol::of(source))).await {
        Ok(told) => told,
        Err(_elapsed) => Err(format!("does not answer within {} s", PATIENCE.as_secs())),
    };
    let check = Check::Runtime;
    let what = |version: Option<String>| {
        let version = version.map(|version| format!(" {version}")).unwrap_or_default();
        format!("{name}{version} at {}", socket.display())
    };
    match (told, setting.filter(|it| **it != Setting::Off)) {
        (Ok(Answer { version, containers }), asked) => {
            let running =
                containers.map(|count| format!("{} running", counted(count, "container")));
            let state = running.unwrap_or_else(|| "it can be reached".to_owned());
            Finding::ok(
                check,
                what(version),
                format!("{state}; {}", use_of(source, setting, asked)),
            )
        }
        (Err(why), Some(setting)) => {
            let detail = format!(
                "{why}; it is to tell names (`{source} = \"{setting}\"`): until it does, its containers \
                 go by their ids"
            );
            let mend = format!("let this user ask it, start it, or write `{source} = \"off\"`");
            Finding::warn(check, what(None), detail).mend(mend)
        }
        (Err(why), None) => {
            let detail = format!("{why}; {}", use_of(source, setting, None));
            Finding::ok(check, what(None), detail)
        }
    }
}

/// What it is to the agent's names.
fn use_of(source: Source, setting: Option<&Setting>, asked: Option<&Setting>) -> String {
    match (setting, asked) {
        (_, Some(setting)) => {
            format!(
                "it is asked for its containers' names and addresses (`{source} = \"{setting}\"`)"
            )
        }
        (Some(_off), None) => {
            format!(
                "it is not asked for names (`{source} = \"off\"`): its containers go by their ids"
            )
        }
        (None, None) => "it is not asked for names: they come from cgroups".to_owned(),
    }
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
    async fn found(
        source: Source,
        setting: Option<&Setting>,
        text: &'static str,
    ) -> (Finding, String) {
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
        let finding = runtime("docker", &socket, source, setting).await;
        (finding, speaking.await.unwrap())
    }

    #[tokio::test]
    async fn a_runtime_is_asked_once_and_said_to_be_what_it_is_configured_as() {
        let info = "HTTP/1.1 200 OK\r\ncontent-length: 48\r\n\r\n{\"ServerVersion\":\"28.2.2\",\"ContainersRunning\":3}";
        let docker = |setting, text| found(Source::Docker, Some(setting), text);
        let (finding, request) = docker(&Setting::Auto, info).await;
        assert!(request.starts_with("GET /info "), "{request}");
        assert!(finding.what.starts_with("docker 28.2.2 at "), "{finding:?}");
        assert!(finding.detail.starts_with("3 containers running; it is asked for"), "{finding:?}");
        assert!(finding.detail.ends_with("(`docker = \"auto\"`)"), "{finding:?}");
        let (finding, _) = docker(&Setting::Off, info).await;
        assert!(finding.detail.contains("it is not asked for names (`docker = \"off\"`)"));
        let (finding, _) = docker(&Setting::Required, "garbage\r\n\r\n").await;
        assert!(finding.detail.starts_with("it cannot be asked; it is to tell"), "{finding:?}");
        assert_eq!(finding.verdict, crate::doctor::Verdict::Warn);
        let (finding, _) = docker(&Setting::Off, "garbage\r\n\r\n").await;
        assert_eq!(finding.verdict, crate::doctor::Verdict::Ok);
        let (finding, request) = found(Source::Cri, None, "").await;
        assert!(finding.detail.starts_with("it can be reached; it is not asked"), "{finding:?}");
        assert_eq!(request, "", "nothing is sent where no HTTP is spoken");
    }

    #[tokio::test]
    async fn what_is_required_and_nowhere_is_told() {
        let gone = Setting::At("/nonexistent/docker.sock".into());
        let config = Config { docker: gone, ..Config::default() };
        let findings = examine(&config).await;
        let docker = findings.iter().find(|it| it.what == "docker");
        assert!(docker.is_some_and(|it| it.detail.contains("is required for names")));
    }

    #[tokio::test]
    async fn a_socket_that_nobody_serves_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        drop(UnixListener::bind(&socket).unwrap());
        let finding = runtime("CRI-O", &socket, Source::Cri, None).await;
        assert!(finding.detail.starts_with("Connection refused"), "{finding:?}");
    }
}
