//! The peer program at work in a lab: servers, and diallers that dial when they are told.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use crate::lab::{Lab, Namespace, Service};
use crate::process::{Finished, Running, finish};

/// How long a peer may take to start or to answer; a dial may wait for retransmissions.
const PATIENCE: Duration = Duration::from_secs(30);

/// The transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// A process that serves one address until it is dropped.
#[derive(Debug)]
pub struct Server {
    pub service: Service,
    pub address: SocketAddr,
    pub protocol: Protocol,
    running: Running,
}

/// A process that dials when told, until it is dropped.
#[derive(Debug)]
pub struct Dialler {
    pub service: Service,
    pub executable: String,
    running: Running,
}

impl Lab {
    /// Serves an address of `namespace` from the cgroup of `service`.
    #[track_caller]
    #[must_use]
    pub fn serve(
        &self,
        service: &Service,
        namespace: &Namespace,
        protocol: Protocol,
        at: SocketAddr,
    ) -> Server {
        let mut command = self.command(service, Some(namespace), self.peer());
        command.args(["serve", protocol.name(), &at.to_string()]);
        Self::serving(&mut command, service, protocol)
    }

    /// As [`Lab::serve`], in a way of `ways`.
    #[track_caller]
    #[must_use]
    pub fn serve_in_a_way(
        &self,
        service: &Service,
        namespace: &Namespace,
        way: &str,
        at: SocketAddr,
    ) -> Server {
        let mut command = self.command(service, Some(namespace), self.peer());
        let protocol = if way.starts_with("udp") { Protocol::Udp } else { Protocol::Tcp };
        Self::serving(command.args(["serve", way, &at.to_string()]), service, protocol)
    }

    /// Serves names from the cgroup of `service`, over UDP and TCP.
    #[track_caller]
    #[must_use]
    pub fn resolver(
        &self,
        service: &Service,
        namespace: &Namespace,
        at: SocketAddr,
        zone: &[&str],
    ) -> Server {
        let mut command = self.command(service, Some(namespace), self.peer());
        command.args(["serve", "names", &at.to_string()]).args(zone);
        Self::serving(&mut command, service, Protocol::Udp)
    }

    /// Dials once from `namespace`, outside all cgroups of the lab.
    #[track_caller]
    pub fn outsider(&self, namespace: &Namespace, order: &str, outcome: &str) {
        let mut command = Command::new(self.peer());
        command.args(["enter", "--netns", &namespace.name, "--"]).arg(self.peer()).arg("dial");
        let said = finish(command.args(order.split_whitespace())).done();
        assert_eq!(said.trim_end(), outcome, "{order}");
    }

    #[track_caller]
    fn serving(command: &mut Command, service: &Service, protocol: Protocol) -> Server {
        let mut running = Running::start(command);
        let line = running.line(PATIENCE);
        let address = line.strip_prefix("listening ").and_then(|it| it.parse().ok());
        let address = address.unwrap_or_else(|| panic!("a server said {line:?}"));
        Server { service: service.clone(), address, protocol, running }
    }

    /// Serves `ports` ports of `namespace`, from that of `at` on.
    #[track_caller]
    #[must_use]
    pub fn serve_ports(
        &self,
        service: &Service,
        namespace: &Namespace,
        at: SocketAddr,
        ports: u16,
    ) -> Server {
        let mut command = self.command(service, Some(namespace), self.peer());
        command.args(["serve", "tcp", &at.to_string(), "--ports", &ports.to_string()]);
        Self::serving(&mut command, service, Protocol::Tcp)
    }

    /// Starts a dialler in the cgroup of `service`.
    #[track_caller]
    #[must_use]
    pub fn dialler(&self, service: &Service, namespace: &Namespace) -> Dialler {
        self.dialler_with(service, namespace, self.peer())
    }

    /// Starts a dialler that is another executable: a copy of the peer program.
    #[track_caller]
    #[must_use]
    pub fn dialler_with(
        &self,
        service: &Service,
        namespace: &Namespace,
        executable: &Path,
    ) -> Dialler {
        let mut command = self.command(service, Some(namespace), executable);
        let mut running = Running::start(command.arg("obey"));
        assert_eq!(running.line(PATIENCE), "ready");
        let executable = executable.display().to_string();
        Dialler { service: service.clone(), executable, running }
    }

    /// Dials from a process and a cgroup that live only for this dial.
    #[track_caller]
    #[must_use]
    pub fn flash(&self, service: &Service, namespace: &Namespace, to: SocketAddr) -> Finished {
        fs::create_dir(&service.cgroup).expect("the slice is ours");
        let mut command = self.command(service, Some(namespace), self.peer());
        let finished = finish(command.args(["dial", "tcp", &to.to_string()]));
        fs::remove_dir(&service.cgroup).expect("its only process has ended");
        finished
    }
}

impl Server {
    /// Ends the process.
    #[track_caller]
    pub fn end(&mut self) {
        self.running.signal(Signal::KILL);
        self.running.ended(PATIENCE);
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// The edge from `client` to this server, as it is written.
    #[must_use]
    pub fn edge_from(&self, client: &Service) -> String {
        edge(client, &self.service.name, self.address.port(), self.protocol)
    }
}

impl Dialler {
    /// Ends the process.
    #[track_caller]
    pub fn end(&mut self) {
        self.running.signal(Signal::KILL);
        self.running.ended(PATIENCE);
    }

    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Whether it lives.
    #[must_use]
    pub fn runs(&mut self) -> bool {
        self.running.runs()
    }

    /// Dials by TCP, and checks that it came to `outcome`.
    #[track_caller]
    pub fn tcp(&mut self, to: SocketAddr, outcome: &str) {
        self.dials(&format!("tcp {to}"), outcome);
    }

    /// Dials where nobody listens.
    #[track_caller]
    pub fn is_refused(&mut self, to: SocketAddr) {
        self.tcp(to, "refused");
    }

    /// Dials by UDP from an unconnected socket, and checks that it was answered.
    #[track_caller]
    pub fn udp(&mut self, to: SocketAddr) {
        self.dials(&format!("udp {to}"), "sent");
    }

    /// Dials the server the way it serves.
    #[track_caller]
    pub fn reaches(&mut self, server: &Server) {
        match server.protocol {
            Protocol::Tcp => self.tcp(server.address, "established"),
            Protocol::Udp => self.udp(server.address),
        }
    }

    /// Carries out an order and checks what came of it.
    #[track_caller]
    pub fn dials(&mut self, order: &str, outcome: &str) {
        self.begins(order);
        self.ends(outcome);
    }

    /// Gives an order without waiting for what comes of it.
    #[track_caller]
    pub fn begins(&mut self, order: &str) {
        self.begin_order(&format!("dial {order}"));
    }

    /// Carries out an order that is no dial, and checks what it answers.
    #[track_caller]
    pub fn does(&mut self, order: &str, answer: &str) {
        self.begin_order(order);
        self.ends(answer);
    }

    /// Gives an order that is no dial.
    #[track_caller]
    pub fn begin_order(&mut self, order: &str) {
        self.running.say(order);
    }

    /// As [`Dialler::ends`], for what takes longer.
    #[track_caller]
    pub fn ends_within(&mut self, outcome: &str, patience: Duration) {
        assert_eq!(self.running.line(patience), outcome);
    }

    /// Waits for what came of the order begun before.
    #[track_caller]
    pub fn ends(&mut self, outcome: &str) {
        self.ends_within(outcome, PATIENCE);
    }
}

/// An edge as it is written everywhere.
#[must_use]
pub fn edge(client: &Service, server: &str, port: u16, protocol: Protocol) -> String {
    format!("{} -> {server} {port}/{}", client.name, protocol.name())
}

/// An address nobody has a name for, as a peer.
#[must_use]
pub fn nameless(address: IpAddr) -> String {
    format!("ip:{address}")
}
