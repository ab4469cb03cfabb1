//! A finding written out: its reasons with figures, the nearest known edge, the technique.

use crate::attribute::{Heard, Sighting, Workload};
use crate::baseline::{Baseline, Grounds, Phase};
use crate::detect::{Finding, Kind, Reason, Severity, Where, place};
use crate::edge::{Edge, EdgeWith, Handover, Peer};
use crate::executables::Executables;
use crate::flow::{Begun, Image, Process};
use crate::ids::{ServiceName, WallTime};
use crate::socket::Socket;

/// What is known around a finding while it is written.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    pub baseline: &'a Baseline,
    pub node: &'a str,
    pub wall: WallTime,
    /// Nobody looked from then until the agent started, which was a moment ago.
    pub gap: Option<WallTime>,
}

/// Writes a finding out: its reasons with figures, the nearest known edge, the technique.
#[must_use]
pub fn finding(context: &Context<'_>, kind: Kind, sighting: &Sighting) -> Finding {
    let reasons = reasons(context, kind, sighting);
    let score = reasons.iter().map(|reason| reason.weight).sum::<f64>().clamp(0.0, 10.0);
    let nearest = nearest(context, sighting);
    Finding {
        kind,
        severity: severity(context, kind, &sighting.edge),
        edge: Some(sighting.edge.clone()),
        outcome: Some(sighting.outcome),
        at: sighting.at,
        score: (score * 10.0).round() / 10.0,
        reasons,
        nearest: nearest.map(|near| near.to_string()),
        attack: attack(kind, sighting).iter().map(ToString::to_string).collect(),
        process: sighting.process.clone(),
        place: place_of(context.node, sighting.workload.as_deref()),
    }
}

/// A hard rule is as severe as its kind for who is guarded; while learning it asks for a decision.
fn severity(context: &Context<'_>, kind: Kind, edge: &Edge) -> Severity {
    let guarded = edge.services().any(|it| context.baseline.phase(it) == Phase::Guarded);
    let hard = matches!(kind, Kind::MetadataAccess | Kind::SensitivePort | Kind::RawSocket);
    match edge.opens() {
        Some(socket) if hard && !socket.is_grave() && guarded => Severity::Medium,
        Some(socket) if hard && !socket.is_grave() => Severity::Low,
        _ if hard && !guarded => Severity::Medium,
        _ => kind.severity(),
    }
}

pub(super) fn place_of(node: &str, workload: Option<&Workload>) -> Where {
    Where {
        node: workload.and_then(|it| it.node.clone()).unwrap_or_else(|| node.to_owned()),
        container: workload.and_then(|it| it.container.clone()),
        container_name: workload.and_then(|it| Some(it.container_name.as_deref()?.to_owned())),
        pod: workload.and_then(|it| it.pod.clone()),
        image: workload.and_then(|it| Some(it.image.as_deref()?.to_owned())),
        cgroup: workload.map(|it| it.cgroup.clone()).filter(|it| !it.is_empty()),
    }
}

fn reasons(context: &Context<'_>, kind: Kind, sighting: &Sighting) -> Vec<Reason> {
    let mut reasons = vec![first_reason(context, kind, sighting)];
    let dials = !matches!(kind, Kind::NewExecutable | Kind::Unbaselined | Kind::NewListener)
        && sighting.edge.opens().is_none();
    if dials
        && let Some(path) = sighting.executable()
        && let Some(client) = sighting.edge.client.service()
        && context.baseline.phase(client) == Phase::Guarded
        && let Some(text) = never_dialled(context, client, path)
    {
        reasons.push(Reason { name: "executable".to_owned(), weight: 2.5, text });
    }
    if kind != Kind::Forbidden {
        reasons.extend(place_reason(sighting));
        reasons.extend(domain_reason(context, &sighting.edge));
    }
    if kind != Kind::Unbaselined {
        reasons.extend(sighting.process.iter().flat_map(|it| process_reasons(it)));
    }
    if let Some(Handover { opener, user }) = &sighting.opened_by {
        let text = format!("the socket was opened by {opener} and is used by {user}");
        reasons.push(Reason { name: "opened-by".to_owned(), weight: 1.0, text });
    }
    reasons.extend(heard_reason(sighting));
    if sighting.begun == Begun::Before {
        let text = "it was connected before the agent started".to_owned();
        reasons.push(Reason { name: "pre-existing".to_owned(), weight: 0.0, text });
    }
    if let Some(since) = context.gap {
        let text = format!("it may have begun earlier: nobody looked between {since} and now");
        reasons.push(Reason { name: "gap".to_owned(), weight: 0.0, text });
    }
    reasons
}

/// How sure the server's name is.
fn heard_reason(sighting: &Sighting) -> Option<Reason> {
    let (name, text) = match sighting.heard {
        Heard::Itself => return None,
        Heard::Stale => ("stale", "the DNS answer with this name had expired by then"),
        Heard::Shared => ("shared", "another service on this machine was told this name for it"),
    };
    Some(Reason { name: name.to_owned(), weight: 0.0, text: text.to_owned() })
}

fn first_reason(context: &Context<'_>, kind: Kind, sighting: &Sighting) -> Reason {
    let edge = &sighting.edge;
    let text = match kind {
        Kind::Forbidden => match context.baseline.prohibition(edge, context.wall) {
            Some(prohibition) => forbidden_text(prohibition.since, &prohibition.grounds),
            None => "this edge is forbidden".to_owned(),
        },
        Kind::NewPeer | Kind::MetadataAccess | Kind::SensitivePort => match &edge.client {
            Peer::Service(client) => learned_text(context, client, edge, "to"),
            _ => "the client never dialled it".to_owned(),
        },
        Kind::RoleInversion => inversion_text(context, edge),
        Kind::NewListener => listener_text(context, sighting),
        Kind::RawSocket => socket_text(edge),
        // Written out by its own words.
        Kind::Sensor | Kind::FanOut => String::new(),
        Kind::NewClient => match &edge.server {
            Peer::Service(server) => learned_text(context, server, edge, "from"),
            _ => "the server never served it".to_owned(),
        },
        Kind::NewPort => format!(
            "{} is a known peer of {}, but never on {}",
            edge.server, edge.client, edge.port
        ),
        Kind::NewExecutable => {
            let known = known_executables(context, edge);
            let with = sighting.executable().unwrap_or_default();
            let did =
                if edge.opens().is_some() { "made such a socket" } else { "dialled this edge" };
            format!("{with} never {did}; known: {}", list(known.iter()))
        }
        Kind::Unbaselined => {
            "it has no guarded baseline, and the agent is in mode guard: nothing is learned"
                .to_owned()
        }
    };
    Reason { name: kind.to_string(), weight: kind.weight(), text }
}

fn forbidden_text(since: WallTime, grounds: &Grounds) -> String {
    let by = grounds.approver.as_ref().map(|who| format!(" by {who}")).unwrap_or_default();
    let why = grounds.reason.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    format!("forbidden{by} since {}{why}", since.to_second())
}

/// "db is dialled by api on 5432/tcp and never dialled anybody".
fn inversion_text(context: &Context<'_>, edge: &Edge) -> String {
    let Some(client) = edge.client.service() else {
        return format!("{} is dialled by others and never dialled it", edge.client);
    };
    let circle = context.baseline.circle(client, context.wall);
    let others = |known: &&Edge| known.client != edge.client;
    match circle.served_to(&edge.server).first().filter(others) {
        Some(known) => format!(
            "{} is a client of {client} ({}), and {client} never dialled it",
            edge.server, known.port
        ),
        None => {
            let clients: std::collections::BTreeSet<&Edge> =
                circle.served().iter().map(|(known, _)| known).filter(others).collect();
            let clients = clients.len();
            let edges = if clients == 1 { "edge" } else { "edges" };
            format!(
                "{client} only ever accepted ({clients} known {edges}) and never dialled anybody"
            )
        }
    }
}

/// "api listens at 8080/tcp, and never at 4444/tcp".
fn listener_text(context: &Context<'_>, sighting: &Sighting) -> String {
    let edge = &sighting.edge;
    let known = known_executables(context, edge);
    if !known.is_empty() {
        let with = sighting.executable().unwrap_or("another executable");
        return format!("{with} never listened at {}; known: {}", edge.port, list(known.iter()));
    }
    let Some(server) = edge.server.service() else {
        return format!("nobody is known to listen at {}", edge.port);
    };
    let circle = context.baseline.circle(server, context.wall);
    let (served, listens) = (circle.served(), circle.listens());
    let ports: std::collections::BTreeSet<String> =
        served.iter().chain(listens.iter()).map(|(known, _)| known.port.to_string()).collect();
    if ports.is_empty() {
        return format!("{server} never listened at any port");
    }
    let ports = list(ports.iter().map(String::as_str));
    format!("{server} never listened at {}; it does at {ports}", edge.port)
}

/// What such a socket is for, and what of its traffic can be seen.
fn socket_text(edge: &Edge) -> String {
    let unknown_at_first = "where it sent in its first millisecond may be missing";
    match edge.opens() {
        Some(Socket::Packet) => {
            "a packet socket reads and writes whole frames, past every firewall; where it sends cannot \
             be seen"
                .to_owned()
        }
        Some(Socket::Vsock) => {
            "a vsock socket talks to the hypervisor or to a virtual machine; with whom cannot be seen"
                .to_owned()
        }
        Some(Socket::Raw(_)) => format!(
            "a raw socket sends what its process writes, such as packets of a scan or of a tunnel; \
             {unknown_at_first}"
        ),
        Some(Socket::Ping) => format!("a socket for ICMP echo; {unknown_at_first}"),
        Some(socket @ (Socket::UdpLite | Socket::Other(_))) => {
            format!("few programs use {socket}; {unknown_at_first}")
        }
        None => String::new(),
    }
}

/// "no edge to X; web has 3 known edges, watched for 6 d".
fn learned_text(context: &Context<'_>, service: &ServiceName, edge: &Edge, way: &str) -> String {
    let peer = if way == "to" { &edge.server } else { &edge.client };
    if context.baseline.allowances(edge, context.wall).any(|it| it.attempted_only) {
        return format!("{peer} was dialled before but never answered; now it did");
    }
    let known = context.baseline.circle(service, context.wall).edges();
    let edges = if known == 1 { "edge" } else { "edges" };
    let watched = context.baseline.services.get(service).map_or_else(String::new, |record| {
        format!(", watched for {}", span(context.wall.seconds_since(record.first_seen)))
    });
    format!("no edge {way} {peer}; {service} has {known} known {edges}{watched}")
}

/// A length of time in its largest whole unit: `41 s`, `12 min`, `5 h`, `6 d`.
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// "bash never dialled from web; nginx did", unless it did.
fn never_dialled(context: &Context<'_>, client: &ServiceName, path: &str) -> Option<String> {
    let known = context.baseline.circle(client, context.wall).executables();
    (!known.is_empty() && !known.contains(path))
        .then(|| format!("{path} never dialled from {client}; known: {}", list(known.iter())))
}

fn known_executables(context: &Context<'_>, edge: &Edge) -> Executables {
    let allowances = context.baseline.allowances(edge, context.wall);
    allowances.flat_map(|allowance| allowance.executables.shared().cloned()).collect()
}

/// At most three of them: a sentence, not a dump.
fn list<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let count = names.len();
    let shown = names.take(3).collect::<Vec<_>>().join(", ");
    match count {
        0 => "none".to_owned(),
        1..=3 => shown,
        more => format!("{shown} and {} more", more - 3),
    }
}

/// What the server's address or port is by itself.
fn place_reason(sighting: &Sighting) -> Option<Reason> {
    let edge = &sighting.edge;
    if place::asks_metadata(sighting) {
        return Some(Reason {
            name: "metadata-address".to_owned(),
            weight: 3.0,
            text: "the cloud's metadata service: it hands out the node's credentials".to_owned(),
        });
    }
    if let Some(what) = place::sensitive(edge.port).filter(|_| !edge.is_listener()) {
        let text = format!("{} is {what}", edge.port);
        return Some(Reason { name: "sensitive-port".to_owned(), weight: 3.0, text });
    }
    let Peer::Address(address) = edge.server else {
        return None;
    };
    (!place::is_inside(address)).then(|| Reason {
        name: "outside".to_owned(),
        weight: 1.5,
        text: "an address outside the internal networks, with no name known for it".to_owned(),
    })
}

/// Whether who dials a DNS name knows others of whoever registered it.
fn domain_reason(context: &Context<'_>, edge: &Edge) -> Option<Reason> {
    let (client, domain) = (edge.client.service()?, edge.server.registered_domain()?);
    let circle = context.baseline.circle(client, context.wall);
    let known: std::collections::BTreeSet<&Peer> = circle
        .dialled()
        .iter()
        .map(|(known, _)| &known.server)
        .filter(|it| it.registered_domain() == Some(domain))
        .collect();
    if known.contains(&edge.server) {
        return None;
    }
    let (name, weight, text) = match known.len() {
        0 => ("new-domain", 1.0, format!("the first name under {domain} that {client} dials")),
        known => {
            let text = format!("a new name under {domain}, of which {client} knows {known}");
            ("known-domain", 0.0, text)
        }
    };
    Some(Reason { name: name.to_owned(), weight, text })
}

/// Shells by the last part of their path.
const SHELLS: [&str; 11] =
    ["sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "fish", "csh", "tcsh", "busybox"];

/// What is odd about the process by itself: a shell that dials, an interpreter under one, a file that
/// is gone or never was.
pub(super) fn process_reasons(process: &Process) -> Vec<Reason> {
    let reason = |name: &str, weight, text| Reason { name: name.to_owned(), weight, text };
    let mut reasons = Vec::new();
    let path = process.executable.as_deref().unwrap_or_default();
    if let Some((shell, program)) = path.split_once(":/") {
        let text = format!("/{program} runs under the shell {shell}, which the service started");
        reasons.push(reason("under-shell", 2.0, text));
    } else if path.rsplit('/').next().is_some_and(|name| SHELLS.contains(&name)) {
        reasons.push(reason(
            "shell",
            1.5,
            format!("{path} is a shell: services seldom dial by one"),
        ));
    }
    match process.image {
        Image::File => {}
        Image::Deleted => {
            let text = format!("the file of {path} was deleted or replaced after it started");
            reasons.push(reason("deleted-binary", 1.5, text));
        }
        Image::Memory => {
            let text = format!("{path} runs from memory: there is no file of it (memfd, fexecve)");
            reasons.push(reason("memory-binary", 3.0, text));
        }
    }
    reasons
}

fn attack(kind: Kind, sighting: &Sighting) -> Vec<&'static str> {
    let server = &sighting.edge.server;
    let mut techniques = match (kind, server) {
        (Kind::Unbaselined | Kind::Sensor | Kind::FanOut, _) => vec![],
        _ if place::asks_metadata(sighting) => vec!["T1552.005"],
        (Kind::SensitivePort, _) => vec!["T1552.007"],
        (Kind::NewListener, _) => vec!["T1205"],
        (Kind::RawSocket, Peer::Socket(Socket::Packet)) => vec!["T1040"],
        (_, Peer::Socket(_)) => vec!["T1095"],
        (Kind::NewExecutable, _) => vec!["T1059"],
        (Kind::NewPort, _) => vec!["T1571"],
        (_, Peer::Address(address)) if !place::is_inside(*address) => vec!["T1071"],
        (_, Peer::Name(_)) => vec!["T1071"],
        _ => vec!["T1021"],
    };
    let memory = |it: &Process| it.image == Image::Memory;
    if sighting.process.as_deref().is_some_and(memory) {
        techniques.push("T1620");
    }
    techniques
}

/// The allowed edge most like this one: the same server, else the same client with the same port,
/// else the same client.
fn nearest(context: &Context<'_>, sighting: &Sighting) -> Option<EdgeWith> {
    let edge = &sighting.edge;
    let circle = |peer: &Peer| Some(context.baseline.circle(peer.service()?, context.wall));
    let (client, server) = (circle(&edge.client), circle(&edge.server));
    let allowed = |edge: &Edge| context.baseline.allowances(edge, context.wall).last();
    let same_client = || match (&client, &server) {
        (Some(client), _) => client.dialled_to(&edge.server).first(),
        (None, Some(server)) if edge.is_listener() => server.listens().first(),
        (None, Some(server)) => server.served_to(&edge.client).first(),
        (None, None) => None,
    };
    let itself = || allowed(edge).map(|_| edge);
    let opened = || client.as_ref().filter(|_| edge.opens().is_some())?.opens().first();
    let near = itself()
        .or_else(same_client)
        .or_else(opened)
        .or_else(|| server.as_ref()?.served_at(edge.port).first())
        .or_else(|| server.as_ref()?.served().first())
        .or_else(|| client.as_ref()?.dialled_at(edge.port).first())
        .or_else(|| client.as_ref()?.dialled().first())?;
    let executable = allowed(near).and_then(|it| it.executables.iter().next());
    Some(EdgeWith { edge: near.clone(), executable: executable.map(ToString::to_string) })
}
