//! What talks without being TCP or UDP: who makes such a socket is told, where it sends is seen, and
//! nobody else pays for it.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tests::agent::{SOON, SWEPT, Setup};
use tests::eventually;
use tests::ground::asks_for_capabilities_are_seen;
use tests::kernel::{Loaded, attached};
use tests::lab::{Lab, Service, Wire};
use tests::process::Running;
use tests::receiver::{Receiver, edge_of, findings};
use tests::traffic::{Dialler, nameless};

use crate::lab;

/// `BPF_CGROUP_INET_EGRESS`
const EGRESS: u32 = 1;

/// The stand: `edgewatch watch`, and what it said.
struct Stand {
    watch: Running,
    seen: Vec<Value>,
    wire: Wire,
    lab: Lab,
}

impl Stand {
    #[track_caller]
    fn new() -> Self {
        let lab = lab();
        let wire = lab.wire();
        let watch = Running::start(&mut lab.looks(&["watch", "--format", "json"]));
        let mut stand = Self { watch, seen: Vec::new(), wire, lab };
        // It is ready when it sees something.
        let service = stand.lab.service("first");
        eventually(3 * SOON, "the first line", || {
            let client = &stand.wire.client;
            let mut dialler = stand.lab.dialler(&service, client);
            dialler.is_refused(SocketAddr::new(stand.wire.server.v4, 9));
            let line = stand.watch.line_within(Duration::from_millis(500));
            line.map(drop).ok_or_else(|| "nothing yet".to_owned())
        });
        stand
    }

    #[track_caller]
    fn line(&mut self, what: &str, patience: Duration, fits: impl Fn(&Value) -> bool) -> Value {
        eventually(patience, what, || {
            while let Some(line) = self.watch.line_within(Duration::from_millis(100)) {
                self.seen.push(serde_json::from_str(&line).expect("one document a line"));
            }
            let found = self.seen.iter().find(|it| fits(it)).cloned();
            found.ok_or_else(|| format!("{:#?}", self.seen))
        })
    }

    /// Who made a socket, as it is told.
    #[track_caller]
    fn opens(&mut self, service: &Service, socket: &str, patience: Duration) -> Value {
        let socket = json!({"service": service.name, "opens": socket});
        let line = self.line(&socket.to_string(), patience, |it| it["socket"] == socket);
        assert!(line.get("edge").is_none() && line.get("outcome").is_none(), "{line:#}");
        let cgroup = line["cgroup"].as_str().unwrap_or_default();
        assert!(service.cgroup.ends_with(cgroup.trim_start_matches('/')), "{line:#}");
        line
    }

    #[track_caller]
    fn edge(&mut self, edge: &str) -> Value {
        self.line(edge, 2 * SOON, |it| edge_of(it) == edge)
    }

    /// A process in a cgroup of its own.
    #[track_caller]
    fn dialler(&self, name: &str) -> Dialler {
        self.lab.dialler(&self.lab.service(name), &self.wire.client)
    }
}

/// Waits until the packets of a cgroup are looked at.
#[track_caller]
fn is_looked_at(service: &Service) {
    eventually(SOON, "the net", || match attached(&service.cgroup, EGRESS) {
        Ok(1) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

#[test]
fn who_makes_a_raw_socket_is_told_and_where_it_sends() {
    let mut stand = Stand::new();
    let still = stand.dialler("still");
    let (v4, v6) = (stand.wire.server.v4, stand.wire.server.v6);
    for (kind, socket, to, edge, outcome) in [
        ("raw-icmp", "raw/icmp", SocketAddr::new(v4, 0), "8/icmp", "sent"),
        ("raw-icmp6", "raw/icmpv6", SocketAddr::new(v6, 0), "128/icmp", "sent"),
        ("headers", "raw/any", SocketAddr::new(v4, 4444), "4444/tcp", "attempted"),
        ("ping", "ping", SocketAddr::new(v4, 0), "8/icmp", "sent"),
        ("ping6", "ping", SocketAddr::new(v6, 0), "128/icmp", "sent"),
    ] {
        stand.wire.client.set("ipv4/ping_group_range", "'0 2147483647'");
        let mut peer = stand.dialler(kind);
        let service = peer.service.clone();
        peer.does(&format!("odd open {kind}"), "open");
        let line = stand.opens(&service, socket, 2 * SOON);
        assert_eq!(line["process"]["pid"], peer.pid(), "{line:#}");
        assert_eq!(line["process"]["executable"], peer.executable, "{line:#}");
        is_looked_at(&service);
        peer.does(&format!("odd send {to}"), "sent");
        let edge = format!("{} -> {} {edge}", service.name, nameless(to.ip()));
        let line = stand.edge(&edge);
        assert_eq!(line["outcome"], outcome, "{line:#}");
        assert_eq!(line["process"]["pid"], peer.pid(), "{line:#}");
    }
    assert_eq!(
        attached(&still.service.cgroup, EGRESS).expect("it is there"),
        0,
        "nobody else pays"
    );
}

#[test]
fn the_net_goes_with_its_cgroup() {
    let stand = Stand::new();
    let before = Loaded::by(stand.watch.pid());
    let mut peer = stand.dialler("brief");
    peer.does("odd open raw-icmp", "open");
    is_looked_at(&peer.service);
    let links = |loaded: &Loaded| loaded.links.difference(&before.links).count();
    // Another test's agent may have been quicker.
    eventually(SOON, "the link", || {
        let links = links(&Loaded::by(stand.watch.pid()));
        if links == 1 { Ok(()) } else { Err(format!("{links} links")) }
    });
    peer.end();
    eventually(SOON, "the removal", || {
        fs::remove_dir(&peer.service.cgroup).map_err(|error| error.to_string())
    });
    eventually(SWEPT, "the link is gone", || {
        let left = links(&Loaded::by(stand.watch.pid()));
        if left == 0 { Ok(()) } else { Err(left.to_string()) }
    });
}

#[test]
fn udp_lite_is_seen_from_both_ends() {
    let lab = lab();
    let wire = lab.wire();
    let (web, api) = (lab.service("web"), lab.service("api"));
    let serve = |at: SocketAddr| {
        let mut command = lab.command(&api, Some(&wire.server), lab.peer());
        let mut server = Running::start(command.args(["odd", "serve", &at.to_string()]));
        assert_eq!(server.line(SOON), format!("listening {at}"));
        server
    };
    let at = |ip, port| SocketAddr::new(ip, port);
    let [older, older6] = [at(wire.server.v4, 7004), at(wire.server.v6, 7005)];
    let _older = [serve(older), serve(older6)];
    let agent = lab.agent("agent", &Setup::mode("learn"));
    let [newer, newer6] = [at(wire.server.v4, 7001), at(wire.server.v6, 7002)];
    let _newer = [serve(newer), serve(newer6)];
    let mut dialler = lab.dialler(&web, &wire.client);
    for at in [older, older6, newer, newer6] {
        let port = at.port();
        dialler.does(&format!("odd exchange {at}"), "answered");
        let edge = format!("{} -> {} {port}/udplite", web.name, api.name);
        let view = agent.shows(&edge, SOON, |view| view["seen_from"] == "both");
        assert_eq!(view["outcome"], "sent");
    }
    // What a connected socket sends passes no hook of a socket.
    is_looked_at(&web);
    let to = SocketAddr::new(wire.server.v4, 7003);
    dialler.does("odd open udplite", "open");
    dialler.does(&format!("odd connect {to}"), "sent");
    agent.sees(&format!("{} -> {} 7003/udplite", web.name, nameless(to.ip())));
}

#[test]
fn who_makes_a_packet_socket_is_told() {
    let mut stand = Stand::new();
    let at_once = asks_for_capabilities_are_seen();
    let patience = if at_once { 2 * SOON } else { SWEPT };
    for kind in ["packet", "packet-bypass"] {
        let mut peer = stand.dialler(kind);
        let service = peer.service.clone();
        peer.does(&format!("odd open {kind}"), "open");
        peer.does("odd send 127.0.0.1:0", "sent");
        if at_once {
            peer.does("odd close", "closed");
        }
        let line = stand.opens(&service, "packet", patience);
        assert_eq!(line["process"]["executable"], peer.executable, "{line:#}");
    }
}

#[test]
fn who_makes_a_vsock_socket_is_told_where_the_kernel_shows_it() {
    if !asks_for_capabilities_are_seen() {
        return;
    }
    let mut stand = Stand::new();
    let mut peer = stand.dialler("guest");
    let service = peer.service.clone();
    peer.does("odd open vsock", "open");
    peer.does("odd close", "closed");
    stand.opens(&service, "vsock", 2 * SOON);
}

#[test]
fn a_socket_older_than_the_watch_is_told() {
    let lab = lab();
    let wire = lab.wire();
    let mut peer = lab.dialler(&lab.service("old"), &wire.client);
    for kind in ["raw-icmp", "packet"] {
        peer.does(&format!("odd open {kind}"), "open");
    }
    let watch = Running::start(&mut lab.looks(&["watch", "--format", "json"]));
    let mut stand = Stand { watch, seen: Vec::new(), wire, lab };
    for socket in ["raw/icmp", "packet"] {
        let line = stand.opens(&peer.service, socket, 3 * SOON);
        assert_eq!(line["process"]["pid"], peer.pid(), "{line:#}");
    }
    is_looked_at(&peer.service);
}

#[test]
fn a_raw_socket_is_alerted_until_it_is_allowed() {
    let lab = lab();
    let receiver = Receiver::start();
    let setup = Setup::mode("learn").within(&lab, "").told_to(&lab, &receiver);
    let agent = lab.agent("agent", &setup);
    let wire = lab.wire();
    let mut peer = lab.dialler(&lab.service("web"), &wire.client);
    let name = peer.service.name.clone();
    peer.does("odd open raw-icmp", "open");
    let is_about = |alert: &Value| {
        findings(alert).any(|it| it["kind"] == "raw-socket" && it["edge"]["client"] == name)
    };
    let alert = receiver.alert(2 * SOON, "the raw socket", is_about);
    assert_eq!(alert["severity"], "medium", "nobody guards it");
    assert_eq!(alert["title"], format!("{name} opened a raw socket (raw/icmp)"));
    let allow = alert["allow"].as_str().unwrap_or_default();
    let edge = format!("{name} opens raw/icmp with {}", peer.executable);
    assert_eq!(allow, format!("edgewatch baseline approve '{edge}' --ttl 7d"));
    // The first was made before packets were looked at here, the second after.
    is_looked_at(&peer.service);
    let unwatched = || {
        // Whoever asks for the map has it sweep first.
        agent.text(&["map"]);
        agent.json(&["status"])["lost"]["unwatched"].clone()
    };
    eventually(SOON, "one was not looked at", || match unwatched() {
        one if one == json!(1) => Ok(()),
        other => Err(other.to_string()),
    });
    peer.does("odd open raw-icmp6", "open");
    assert_eq!(unwatched(), json!(1));

    agent.text(&["baseline", "approve", &edge]);
    let exported = agent.text(&["baseline", "export", &name]);
    let line = format!("- {{sockets: [raw/icmp], by: [{}]}}", peer.executable);
    assert!(exported.contains("opens:") && exported.contains(&line), "{exported}");
    let file = lab.path("baseline.yaml");
    fs::write(&file, &exported).expect("the place is ours");
    agent.text(&["baseline", "import", "--guard", &file.display().to_string()]);
    // Guarded, the allowed one says nothing; another kind is as grave as it is.
    peer.does("odd open raw-icmp", "open");
    peer.does("odd open packet", "open");
    let packets = |alert: &Value| {
        findings(alert)
            .any(|it| it["edge"]["server"] == "socket:packet" && it["severity"] == "high")
    };
    receiver.alert(SWEPT, "the packet socket", packets);
    let about_icmp = |alert: &&Value| {
        findings(alert).any(|it| it["edge"]["server"] == "socket:raw/icmp")
            && alert["state"] != "resolved"
            && alert["severity"] == "high"
    };
    assert_eq!(receiver.alerts().iter().filter(about_icmp).count(), 0);
}
