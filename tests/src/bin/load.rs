//! The load of the bench: takes one order a line from its standard input, carries it out in one
//! thread, and answers with one JSON object a line of what it took. On loopback a handshake runs
//! inside the calls that cause it, so the thread's processor time holds all that the kernel does for
//! both ends, and nothing waits for a scheduler. Knows nothing of Edgewatch, and ends with its
//! standard input. Connections are closed with a reset: none lingers.

use std::io::{self, BufRead as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketType, sockopt};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{self, CpuSet};
use rustix::time::{ClockId, Timespec, clock_gettime};
use serde_json::{Value, json};

const USAGE: &str = "\
load CGROUP [--cpu N] [--at PORT]
    Listens outside of the cgroup, enters it, listens inside, says `ready`, and obeys:
churn COUNT             connections to one server of the cgroup
listen COUNT            holds so many more servers in the cgroup, each at another port
ports COUNT             one connection to each of them
addresses COUNT OF      to a server outside, at OF addresses, each a long way from the last
udp COUNT               datagrams of an unconnected socket, each taken at once
datagrams COUNT         the same, taken with the sender's address
hold COUNT              so many connections to itself, each to another address, held until the end
rr COUNT                64 bytes there and back on one connection
raw                     makes a raw socket, and keeps it in place of the last
dial ADDRESS:PORT       one connection, with the wall clock before it
flood SECONDS           datagrams to random addresses and ports, as fast as they go";

/// Addresses that a route makes local: as many servers as a run wants. See `ADDRESSES` of the bench.
const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
const LOCAL_BITS: u32 = 23;
/// A prime: its multiples run through all addresses in an order that no cache foresees.
const STRIDE: u64 = 7919;
/// Where it listens unless told: the known server; the one outside and the datagrams' follow it.
const AT: u16 = 7100;
const FIRST_PORT: u16 = 20_000;
/// Sockets held at once.
const FILES: u64 = 20_000;
/// One order is carried out in so many parts, each timed for itself.
const PARTS: u64 = 5;
/// More than any machine sends within the seconds that are asked for.
const FLOOD_AT_MOST: u64 = 20_000_000;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            drop(writeln!(io::stderr(), "load: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> anyhow::Result<()> {
    let [cgroup, options @ ..] = words else { bail!("usage:\n{USAGE}") };
    let mut at = AT;
    for option in options.chunks(2) {
        match option {
            [name, value] if name == "--cpu" => stay_on(value.parse()?)?,
            [name, value] if name == "--at" => at = value.parse()?,
            other => bail!("{other:?} is no option with its value"),
        }
    }
    // Neighbours shall not show in what a call took; not everybody may ask for that.
    let _niceness = rustix::process::nice(-15);
    let mut load = Load::enter(Path::new(cgroup), at)?;
    say(&json!("ready"))?;
    for order in io::stdin().lock().lines() {
        let order = order.context("read an order")?;
        say(&load.obey(&order).with_context(|| order.clone())?)?;
    }
    Ok(())
}

fn say(answer: &Value) -> anyhow::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "{answer}").and_then(|()| out.flush()).context("answer")
}

fn stay_on(cpu: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    thread::sched_setaffinity(None, &set).with_context(|| format!("stay on processor {cpu}"))
}

struct Load {
    at: u16,
    known: OwnedFd,
    outside: OwnedFd,
    /// One at each port from the first on.
    ports: Vec<OwnedFd>,
    sender: OwnedFd,
    receiver: OwnedFd,
    /// Kept, so that its cgroup stays one that has such a socket.
    raw: Option<OwnedFd>,
    held: Vec<OwnedFd>,
}

impl Load {
    fn enter(cgroup: &Path, at: u16) -> anyhow::Result<Self> {
        let limit = Rlimit { current: Some(FILES), maximum: Some(FILES) };
        rustix::process::setrlimit(Resource::Nofile, limit).context("hold so many sockets")?;
        let outside = listen(at + 1)?;
        let procs = cgroup.join("cgroup.procs");
        std::fs::write(&procs, "0").with_context(|| format!("write {}", procs.display()))?;
        let receiver = net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
        net::bind(&receiver, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, at + 2))?;
        Ok(Self {
            at,
            known: listen(at)?,
            outside,
            ports: Vec::new(),
            sender: net::socket(AddressFamily::INET, SocketType::DGRAM, None)?,
            receiver,
            raw: None,
            held: Vec::new(),
        })
    }

    fn obey(&mut self, order: &str) -> anyhow::Result<Value> {
        let words: Vec<&str> = order.split_whitespace().collect();
        match words.as_slice() {
            ["churn", count] => {
                let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.at);
                Taken::of(count.parse()?, |_| connection(&self.known, to))
            }
            ["listen", count] => self.listen(count.parse()?),
            ["ports", count] => Taken::of(count.parse()?, |index| {
                let at = usize::try_from(index)?;
                let listener = self.ports.get(at).context("no such port")?;
                let port = FIRST_PORT + u16::try_from(at)?;
                connection(listener, SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
            }),
            ["addresses", count, of] => {
                let of: u64 = of.parse()?;
                Taken::of(count.parse()?, |index| {
                    let to = local(index * STRIDE % of)?;
                    connection(&self.outside, SocketAddrV4::new(to, self.at + 1))
                })
            }
            ["udp", count] => Taken::of(count.parse()?, |_| self.datagram(Sender::Unasked)),
            ["datagrams", count] => Taken::of(count.parse()?, |_| self.datagram(Sender::Asked)),
            ["hold", count] => self.hold(count.parse()?),
            ["rr", count] => self.round_trips(count.parse()?),
            ["raw"] => {
                let icmp = Some(net::ipproto::ICMP);
                self.raw = Some(net::socket(AddressFamily::INET, SocketType::RAW, icmp)?);
                Ok(json!("made"))
            }
            ["dial", to] => dial(to.parse()?),
            ["flood", seconds] => self.flood(Duration::from_secs(seconds.parse()?)),
            _ => bail!("usage:\n{USAGE}"),
        }
    }

    fn hold(&mut self, count: u64) -> anyhow::Result<Value> {
        self.held.clear();
        // Those of another load are at other addresses.
        let first = u64::from(self.at) << 8;
        for index in first..first + count {
            let client = net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
            // What is held at the end leaves nothing lingering.
            sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
            net::connect(&client, &SocketAddrV4::new(local(index * STRIDE)?, self.at))?;
            let accepted = net::accept(&self.known)?;
            self.held.extend([client, accepted]);
        }
        Ok(json!({ "sockets": self.held.len() }))
    }

    fn listen(&mut self, count: u16) -> anyhow::Result<Value> {
        self.ports.clear();
        for index in 0..count {
            self.ports.push(listen(FIRST_PORT + index)?);
        }
        Ok(json!("listening"))
    }

    /// One datagram, sent and taken.
    fn datagram(&self, sender: Sender) -> anyhow::Result<Duration> {
        let mut bytes = [0; 64];
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.at + 2);
        let started = Instant::now();
        net::sendto(&self.sender, &bytes, SendFlags::empty(), &to)?;
        let took = started.elapsed();
        match sender {
            Sender::Asked => {
                net::recvfrom(&self.receiver, &mut bytes, RecvFlags::empty())?;
            }
            Sender::Unasked => {
                net::recv(&self.receiver, &mut bytes, RecvFlags::empty())?;
            }
        }
        Ok(took)
    }

    fn round_trips(&self, count: u64) -> anyhow::Result<Value> {
        let client = net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
        sockopt::set_tcp_nodelay(&client, true)?;
        net::connect(&client, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, self.at))?;
        let server = net::accept(&self.known)?;
        sockopt::set_tcp_nodelay(&server, true)?;
        let mut bytes = [0; 64];
        Taken::of(count, |_| {
            let started = Instant::now();
            for (from, to) in [(&client, &server), (&server, &client)] {
                net::send(from, &bytes, SendFlags::empty())?;
                net::recv(to, &mut bytes, RecvFlags::empty())?;
            }
            Ok(started.elapsed())
        })
    }

    fn flood(&self, during: Duration) -> anyhow::Result<Value> {
        let started = Instant::now();
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let (mut sent, mut tried) = (0_u64, 0_u64);
        while tried < FLOOD_AT_MOST && started.elapsed() < during {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let [port @ .., _, _, _, _, _, _] = state.to_be_bytes();
            let to = SocketAddrV4::new(local(state)?, u16::from_be_bytes(port).max(1));
            tried += 1;
            // A buffer that is full, an answer that nobody listens there: the flood goes on.
            sent += u64::from(net::sendto(&self.sender, &[0], SendFlags::DONTWAIT, &to).is_ok());
        }
        Ok(json!({ "sent": sent, "seconds": started.elapsed().as_secs_f64() }))
    }
}

/// Whether whoever takes a datagram asks who sent it.
#[derive(Clone, Copy)]
enum Sender {
    Asked,
    Unasked,
}

fn listen(port: u16) -> anyhow::Result<OwnedFd> {
    let listener = net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&listener, true)?;
    net::bind(&listener, &SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port))
        .and_then(|()| net::listen(&listener, 16))
        .with_context(|| format!("listen at {port}"))?;
    Ok(listener)
}

fn local(index: u64) -> anyhow::Result<Ipv4Addr> {
    let host = u32::try_from(index % (1 << LOCAL_BITS))?;
    Ok(Ipv4Addr::from_bits(LOCAL.to_bits() | host))
}

/// A connection made, accepted and closed: how long the call that makes it took.
fn connection(listener: &OwnedFd, to: SocketAddrV4) -> anyhow::Result<Duration> {
    let client = net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
    let started = Instant::now();
    net::connect(&client, &to).with_context(|| format!("connect to {to}"))?;
    let took = started.elapsed();
    let accepted = net::accept(listener)?;
    drop(client);
    drop(accepted);
    Ok(took)
}

fn dial(to: SocketAddrV4) -> anyhow::Result<Value> {
    let client = net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    sockopt::set_socket_linger(&client, Some(Duration::ZERO))?;
    let at = SystemTime::now().duration_since(UNIX_EPOCH).context("read the clock")?;
    let connected = net::connect(&client, &to).is_ok();
    Ok(json!({ "at": at.as_secs_f64(), "connected": connected }))
}

/// What an order took.
struct Taken;

impl Taken {
    /// Does something so often, in parts: microseconds of processor time and of real time each time,
    /// the median of the parts; and the quantiles of what `act` says that it took.
    fn of(
        count: u64,
        mut act: impl FnMut(u64) -> anyhow::Result<Duration>,
    ) -> anyhow::Result<Value> {
        let part = (count / PARTS).max(1);
        let mut calls = Vec::new();
        let (mut busy, mut real) = (Vec::new(), Vec::new());
        for first in (0..part * PARTS.min(count)).step_by(usize::try_from(part)?) {
            let (before, started) = (clock_gettime(ClockId::ThreadCPUTime), Instant::now());
            for index in first..first + part {
                calls.push(act(index)?);
            }
            let micros = |it: f64| it * 1e6 / part as f64;
            real.push(micros(started.elapsed().as_secs_f64()));
            busy.push(micros(seconds(clock_gettime(ClockId::ThreadCPUTime)) - seconds(before)));
        }
        calls.sort_unstable();
        let at = |share: usize| {
            calls.get((calls.len() - 1) * share / 100).map(|it| it.as_secs_f64() * 1e6)
        };
        Ok(json!({
            "count": calls.len(), "cpu": median(busy), "wall": median(real), "p50": at(50), "p99": at(99),
        }))
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn seconds(time: Timespec) -> f64 {
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
