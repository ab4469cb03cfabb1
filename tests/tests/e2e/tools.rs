//! Programs that others wrote, above all to look around: what they dial is seen port by port.

use std::net::SocketAddr;
use std::process::Command;

use serde_json::json;
use tests::agent::{Agent, SOON, Setup};
use tests::lab::{Lab, Service, Wire};
use tests::process::finish;
use tests::tool::Tool;
use tests::traffic::{Protocol, Server, edge, nameless};

use crate::lab;

/// The stand: an agent, and a server that they find among closed ports.
struct Stand {
    agent: Agent,
    tcp: Server,
    udp: Server,
    wire: Wire,
    lab: Lab,
}

/// The server's.
const OPEN: u16 = 7_010;

impl Stand {
    #[track_caller]
    fn new() -> Self {
        let lab = lab();
        let wire = lab.wire();
        let agent = lab.agent("agent", &Setup::mode("learn").within(&lab, "detail = \"full\"\n"));
        let at = SocketAddr::new(wire.server.v4, OPEN);
        let api = lab.service("api");
        let [tcp, udp] =
            [Protocol::Tcp, Protocol::Udp].map(|it| lab.serve(&api, &wire.server, it, at));
        Self { agent, tcp, udp, wire, lab }
    }

    /// A tool with its words, in the cgroup of a service.
    #[track_caller]
    fn command(&self, tool: &Tool, service: &Service, words: &[&str]) -> Command {
        let mut command = tool.command(&self.lab, service, &self.wire.client);
        command.args(words);
        command
    }

    /// Checks that a service has reached the server with this tool, and nobody else.
    #[track_caller]
    fn reached(&self, tool: &Tool, service: &Service, server: &Server) {
        let edge = server.edge_from(service);
        let view = self.agent.shows(&edge, SOON, |view| view["seen_from"] == "both");
        let outcome = if server.protocol == Protocol::Tcp { "established" } else { "sent" };
        assert_eq!(view["outcome"], outcome, "{edge}");
        let executable = tool.executable.display().to_string();
        assert_eq!(view["evidence"]["executables"], json!([executable]), "{edge}");
        self.agent.has_only(service, &[edge]);
    }
}

#[test]
fn a_scan_by_connections_is_an_edge_for_every_port() {
    let stand = Stand::new();
    let nmap = Tool::find("nmap");
    for (name, family, ip) in
        [("nmap4", "-4", stand.wire.server.v4), ("nmap6", "-6", stand.wire.server.v6)]
    {
        let scout = stand.lab.service(name);
        let (target, ports) = (ip.to_string(), format!("{}-{}", OPEN - 10, OPEN + 9));
        let words = ["--unprivileged", "-sT", "-Pn", "-n", "-p", &ports, &target];
        let words: Vec<&str> =
            words.into_iter().chain((family == "-6").then_some(family)).collect();
        finish(&mut stand.command(&nmap, &scout, &words)).done();
        let edges = (OPEN - 10..OPEN + 10).map(|port| {
            // IPv6 has nobody there.
            if port == OPEN && ip.is_ipv4() {
                let edge = stand.tcp.edge_from(&scout);
                stand.agent.shows(&edge, SOON, |view| view["outcome"] == "established");
                return edge;
            }
            let edge = edge(&scout, &nameless(ip), port, Protocol::Tcp);
            stand.agent.shows(&edge, SOON, |view| view["outcome"] == "refused");
            edge
        });
        stand.agent.has_only(&scout, &edges.collect::<Vec<_>>());
    }
}

#[test]
fn whatever_dials_by_sockets_is_seen_with_its_name() {
    let stand = Stand::new();
    let (ip, port) = (stand.wire.server.v4.to_string(), OPEN.to_string());
    let shell = format!("exec 3<>/dev/tcp/{ip}/{port}; echo x >&3");
    let shell_udp = format!("exec 3<>/dev/udp/{ip}/{port}; echo x >&3");
    let python = format!("import socket; socket.create_connection(('{ip}', {port})).send(b'x')");
    let python_udp = format!(
        "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.sendto(b'x', ('{ip}', {port})); s.recv(9)"
    );
    let (socat, socat_udp) = (format!("TCP:{ip}:{port}"), format!("UDP-SENDTO:{ip}:{port}"));
    let (tcp, udp) = (&stand.tcp, &stand.udp);
    for (name, tool, words, server) in [
        ("bash", "bash", &["-c", &shell][..], tcp),
        ("bash-udp", "bash", &["-c", &shell_udp], udp),
        ("python", "python3", &["-c", &python], tcp),
        ("python-udp", "python3", &["-c", &python_udp], udp),
        ("ncat", "ncat", &["--send-only", &ip, &port], tcp),
        ("ncat-udp", "ncat", &["--udp", "-z", &ip, &port], udp),
        ("socat", "socat", &["-u", "EXEC:echo", &socat], tcp),
        ("socat-udp", "socat", &["-u", "EXEC:echo x", &socat_udp], udp),
    ] {
        let service = stand.lab.service(name);
        let tool = Tool::find(tool);
        finish(&mut stand.command(&tool, &service, words)).done();
        stand.reached(&tool, &service, server);
    }
}
