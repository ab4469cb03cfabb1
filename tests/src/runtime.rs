//! What a container runtime tells, where the containers are a test's own cgroups and addresses: Docker's
//! API on a Unix socket, as far as it is asked. The real one is tried by `cargo xtask lab`; here is said
//! what it would say, at the moment that a test chooses.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::IpAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use serde_json::{Value, json};

use crate::lab::Lab;

/// The runtime. It answers until the test ends.
#[derive(Debug)]
pub struct Docker {
    socket: PathBuf,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    containers: Vec<Container>,
    /// Who is told what happens.
    followers: Vec<UnixStream>,
}

/// A container as the runtime has it.
#[derive(Debug, Clone)]
pub struct Container {
    pub id: String,
    /// As what it is labelled; else its name is all there is.
    pub compose: Option<(&'static str, &'static str)>,
    pub name: String,
    pub addresses: Vec<IpAddr>,
    /// RFC 3339; empty where that is not told.
    pub started: String,
}

impl Container {
    /// One that has nothing yet but its name.
    #[must_use]
    pub fn named(number: u8, name: &str) -> Self {
        let (id, name) = (format!("{number:064x}"), name.to_owned());
        Self { id, compose: None, name, addresses: Vec::new(), started: String::new() }
    }

    fn labels(&self) -> Value {
        match self.compose {
            Some((project, service)) => json!({
                "com.docker.compose.project": project,
                "com.docker.compose.service": service,
            }),
            None => json!({}),
        }
    }

    fn networks(&self) -> Value {
        let network = |address: &IpAddr| {
            let key = if address.is_ipv4() { "IPAddress" } else { "GlobalIPv6Address" };
            (address.to_string(), json!({ key: address }))
        };
        self.addresses.iter().map(network).collect()
    }

    fn listed(&self) -> Value {
        json!({"Id": self.id, "Names": [format!("/{}", self.name)], "ImageID": "sha256:1",
            "Labels": self.labels(), "NetworkSettings": {"Networks": self.networks()}})
    }

    fn inspected(&self) -> Value {
        json!({"Id": self.id, "Name": format!("/{}", self.name), "Image": "sha256:1",
            "Config": {"Labels": self.labels()}, "State": {"StartedAt": self.started},
            "NetworkSettings": {"Networks": self.networks()}})
    }
}

impl Lab {
    /// A runtime of the lab's own, which knows of `containers`.
    #[track_caller]
    #[must_use]
    pub fn docker(&self, containers: Vec<Container>) -> Docker {
        let socket = self.path("docker.sock");
        let listener = UnixListener::bind(&socket).expect("the place is ours");
        let state = Arc::new(Mutex::new(State { containers, followers: Vec::new() }));
        let docker = Docker { socket, state: Arc::clone(&state) };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                // Whoever asked may have gone.
                thread::spawn(move || answer(stream, &state).ok());
            }
        });
        docker
    }
}

impl Docker {
    /// The part of an agent's configuration that has it asked, and nobody else.
    #[must_use]
    pub fn asked(&self) -> String {
        let socket = self.socket.display();
        format!("[identity]\ndocker = \"unix://{socket}\"\npodman = \"off\"\ncri = \"off\"\n")
    }

    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// A container is started.
    pub fn starts(&self, container: Container) {
        let mut state = lock(&self.state);
        let event = event("start", &container);
        state.containers.push(container);
        state.tell(&event);
    }

    /// A container ends and is gone.
    #[track_caller]
    pub fn removes(&self, id: &str) {
        let mut state = lock(&self.state);
        let at = state.containers.iter().position(|it| it.id == id).expect("it is there");
        let gone = state.containers.remove(at);
        state.tell(&event("destroy", &gone));
    }
}

fn event(action: &str, container: &Container) -> Value {
    json!({"Type": "container", "Action": action, "Actor": {"ID": container.id}})
}

impl State {
    fn tell(&mut self, event: &Value) {
        let line = format!("{event}\n");
        let chunk = format!("{:x}\r\n{line}\r\n", line.len());
        // Who has gone hears nothing any more.
        self.followers.retain_mut(|it| it.write_all(chunk.as_bytes()).is_ok());
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers one request; a connection has no more.
fn answer(mut stream: UnixStream, state: &Mutex<State>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let mut state = lock(state);
    if path.starts_with("/events?") {
        stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        state.followers.push(stream);
        return Ok(());
    }
    let one = path.strip_prefix("/containers/").and_then(|it| it.strip_suffix("/json"));
    let found = |id: &str| state.containers.iter().find(|it| it.id == id);
    let (status, body) = match one {
        Some(id) => match found(id) {
            Some(container) => ("200 OK", container.inspected()),
            None => ("404 Not Found", json!({"message": "No such container"})),
        },
        None => ("200 OK", state.containers.iter().map(Container::listed).collect()),
    };
    let body = body.to_string();
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}
