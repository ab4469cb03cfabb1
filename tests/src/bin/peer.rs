//! The traffic of the end-to-end tests: enters a cgroup and a network namespace, serves, dials, and
//! says what came of it. Knows nothing of Edgewatch. Ends when its standard input does, so that no
//! test that was killed leaves one behind.

use std::io::{self, BufRead as _, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use tests::activation::Activation;
use tests::resolver::Zone;
use tests::ways::{self, PATIENCE, answer};

const USAGE: &str = "\
peer enter [--cgroup PATH] [--netns NAME] [--uid N] -- COMMAND ARGS…
peer serve tcp|udp ADDRESS:PORT
peer serve exchanges ADDRESS:PORT          for `exchange`
peer serve names ADDRESS:PORT NAME=ADDRESS NAME>NAME …   a resolver
peer serve WAY ADDRESS:PORT   of `tests::ways`: fast-open, multipath, unbound, …, udp-many, udp-deaf, …
peer serve tcp ADDRESS:PORT --ports N      at so many ports, from this one on
peer dial tcp|udp|udp-connected|datagram|WAY ADDRESS:PORT [--count N] [--ports N] [--send BYTES]
                 a WAY of `tests::ways`: fast-open-send, ring, from-port=123, …
peer odd serve ADDRESS:PORT    by UDP-Lite
peer use ADDRESS:PORT    connects its standard input, a socket
peer accept      serves at its standard input, a socket that listens
peer kprobe      registers one, if it can, and says what came of it
peer orphaned PID dial …   dials when its parent PID is gone
peer obey        one order a line from standard input, one answer a line: `dial …`,
                 `hold ADDRESS:PORT N` (connects and stays), `release`,
                 `exchange BYTES BYTES` (says and hears so many on each that it holds),
                 `ask udp|udp-connected|tcp RESOLVER NAME [aaaa]`,
                 `odd open KIND`, `odd send ADDRESS:PORT`, `odd exchange ADDRESS:PORT`, `odd close`,
                 `crowd ADDRESS:PORT N` (listens there and connects to itself, and stays),
                 `moved CGROUP ADDRESS:PORT` (opens a socket, changes its cgroup, connects and stays),
                 `handed|handed-udp CGROUP ADDRESS:PORT` (opens a socket that another in that cgroup connects),
                 `manager listen ADDRESS:PORT`, `manager start CGROUP` (a server for that), `manager end`,
                 `leave` (for the network namespace of whoever started it),
                 `churn DIRECTORY TAG N ADDRESS:PORT` (a cgroup made, dialled from and removed, N times);
                 or what to start and wait for, which answers itself: `start PROGRAM ARGS…`,
                 `shell SCRIPT`
peer unfiled NAME WORDS…   becomes a copy of itself that is in no file, called NAME, with these words";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> anyhow::Result<()> {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["enter", rest @ ..] => Err(enter(rest)?.into()),
        ["serve", "tcp", address] => serve_tcp(address.parse()?, 1),
        ["serve", "tcp", address, "--ports", ports] => serve_tcp(address.parse()?, ports.parse()?),
        ["serve", "exchanges", address] => {
            let listener = TcpListener::bind(address).with_context(|| format!("bind {address}"))?;
            serving(listener.local_addr()?)?;
            each(&listener, |stream| drop(ways::exchanged(stream)))
        }
        ["serve", "names", address, zone @ ..] => {
            tests::resolver::serve(address.parse()?, Zone::parse(zone)?, serving)
        }
        ["serve", "udp", address] => serve_udp(address.parse()?),
        ["serve", way, address] if way.starts_with("udp-") => {
            ways::serve_datagrams(way, address.parse()?, serving)
        }
        ["serve", way, address] => {
            let listener = ways::listen(ways::Listening::parse(way)?, address.parse()?)?;
            serving(listener.local_addr()?)?;
            accept(&listener)
        }
        ["dial", rest @ ..] => say(&Dial::parse(rest)?.perform()),
        ["orphaned", parent, "dial", rest @ ..] => {
            outlive(parent.parse()?);
            say(&Dial::parse(rest)?.perform())
        }
        ["odd", "serve", address] => serve_datagrams(tests::odd::server(address.parse()?)?),
        ["obey"] => obey(),
        ["accept"] => {
            let end = Some(rustix::process::Signal::KILL);
            rustix::process::set_parent_process_death_signal(end).context("end with my parent")?;
            let socket = io::stdin().as_fd().try_clone_to_owned().context("standard input")?;
            accept(&TcpListener::from(socket))
        }
        ["use", address] => {
            let socket = io::stdin().as_fd().try_clone_to_owned().context("standard input")?;
            connected(socket, address.parse()?)?;
            say("used")
        }
        ["kprobe"] => say(&match tests::kernel::register_kprobe("vfs_read") {
            Ok(()) => "registered".to_owned(),
            Err(error) => format!("refused: {error}"),
        }),
        ["unfiled", name, rest @ ..] => Err(unfiled(name, rest)?.into()),
        _ => bail!("usage:\n{USAGE}"),
    }
}

/// Becomes the command that follows `--`, elsewhere; returns only why it could not.
fn enter(words: &[&str]) -> anyhow::Result<io::Error> {
    let end = words.iter().position(|word| *word == "--");
    let (options, command) = words.split_at(end.context("enter: no `--` before the command")?);
    let [_, program, arguments @ ..] = command else {
        bail!("enter: no command after `--`");
    };
    let mut command = Command::new(program);
    command.args(arguments);
    for option in options.chunks(2) {
        match option {
            ["--cgroup", path] => std::fs::write(format!("{path}/cgroup.procs"), "0")
                .with_context(|| format!("enter {path}"))?,
            ["--netns", name] => enter_namespace(&format!("/run/netns/{name}"))?,
            ["--uid", uid] => {
                let uid = uid.parse()?;
                command.uid(uid).gid(uid);
            }
            other => bail!("enter: {other:?} is no option with its value"),
        }
    }
    Ok(command.exec())
}

/// Becomes a copy of this program in memory; returns only why it could not.
fn unfiled(name: &str, words: &[&str]) -> anyhow::Result<io::Error> {
    // Kept open across the execution, which is by its number.
    let flags = rustix::fs::MemfdFlags::empty();
    let memory = rustix::fs::memfd_create(name, flags).context("make a file in memory")?;
    let mut memory = std::fs::File::from(memory);
    let mut program = std::fs::File::open("/proc/self/exe").context("read this program")?;
    io::copy(&mut program, &mut memory).context("copy this program")?;
    // What is open for writing cannot be executed.
    let number = std::os::fd::AsRawFd::as_raw_fd(&memory);
    let path = format!("/proc/self/fd/{number}");
    let readable = std::fs::File::open(&path).context("open the copy")?;
    drop(memory);
    let number = std::os::fd::AsRawFd::as_raw_fd(&readable);
    rustix::io::fcntl_setfd(&readable, rustix::io::FdFlags::empty()).context("keep it open")?;
    Ok(Command::new(format!("/proc/self/fd/{number}")).args(words).exec())
}

fn enter_namespace(path: &str) -> anyhow::Result<()> {
    let namespace = std::fs::File::open(path).with_context(|| format!("open {path}"))?;
    let kind = Some(rustix::thread::LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(namespace.as_fd(), kind)
        .with_context(|| format!("enter {path}"))
}

fn serve_tcp(address: SocketAddr, ports: u16) -> anyhow::Result<()> {
    let listen = |port: u16| {
        let at = SocketAddr::new(address.ip(), port);
        TcpListener::bind(at).with_context(|| format!("listen at {at}"))
    };
    let first = listen(address.port())?;
    let at = first.local_addr()?;
    for port in 1..ports {
        let listener = listen(at.port() + port)?;
        thread::spawn(move || accept(&listener));
    }
    serving(at)?;
    accept(&first)
}

/// Reads each connection to its end and answers how much that was.
fn accept(listener: &TcpListener) -> anyhow::Result<()> {
    each(listener, |mut stream| {
        let mut buffer = vec![0; 64 << 10];
        let mut total = 0;
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            total += count;
        }
        // The client may be gone already; that is its own business.
        drop(stream.write_all(answer(total).as_bytes()));
    })
}

/// Has each connection a thread of its own.
fn each(listener: &TcpListener, serve: fn(TcpStream)) -> anyhow::Result<()> {
    for stream in listener.incoming() {
        let stream = stream.context("accept")?;
        thread::spawn(move || serve(stream));
    }
    Ok(())
}

/// Answers each datagram with how long it was.
fn serve_udp(address: SocketAddr) -> anyhow::Result<()> {
    serve_datagrams(UdpSocket::bind(address).with_context(|| format!("bind {address}"))?)
}

fn serve_datagrams(socket: UdpSocket) -> anyhow::Result<()> {
    serving(socket.local_addr()?)?;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (count, client) = socket.recv_from(&mut buffer).context("receive")?;
        socket.send_to(answer(count).as_bytes(), client).context("answer")?;
    }
}

/// Says where, and serves there until standard input ends.
fn serving(at: SocketAddr) -> anyhow::Result<()> {
    say(&format!("listening {at}"))?;
    end_with_input();
    Ok(())
}

fn end_with_input() {
    thread::spawn(|| {
        drop(io::copy(&mut io::stdin(), &mut io::sink()));
        #[expect(clippy::exit, reason = "the only thread that learns of it is not the main one")]
        std::process::exit(0);
    });
}

fn obey() -> anyhow::Result<()> {
    let mut held = Vec::new();
    let mut manager = Activation::default();
    let mut odd = tests::odd::Sockets::default();
    say("ready")?;
    for line in io::stdin().lock().lines() {
        let line = line.context("read standard input")?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["dial", rest @ ..] => say(&Dial::parse(rest)?.perform())?,
            ["start", program, rest @ ..] => start(Command::new(program).args(rest))?,
            ["shell", ..] => {
                let script = line.trim_start().trim_start_matches("shell");
                start(Command::new("/bin/sh").args(["-c", script]))?;
            }
            ["hold", address, count] => {
                let address: SocketAddr = address.parse()?;
                for _ in 0..count.parse::<usize>()? {
                    held.push(TcpStream::connect(address).context("hold")?);
                }
                say("held")?;
            }
            ["exchange", says, hears] => {
                for stream in &mut held {
                    ways::exchange(stream, says.parse()?, hears.parse()?)?;
                }
                say("exchanged")?;
            }
            ["ask", rest @ ..] => say(tests::resolver::ask(rest)?)?,
            ["odd", rest @ ..] => say(odd.obey(rest)?)?,
            ["crowd", address, count] => {
                crowd(address.parse()?, count.parse()?, &mut held)?;
                say("crowded")?;
            }
            ["moved", cgroup, address] => {
                let socket = unconnected()?;
                std::fs::write(format!("{cgroup}/cgroup.procs"), "0").context("move")?;
                held.push(connected(socket, address.parse()?)?);
                say("moved")?;
            }
            [way @ ("handed" | "handed-udp"), cgroup, address] => {
                let socket = if *way == "handed" { unconnected()? } else { unbound()? };
                held.push(TcpStream::from(socket.try_clone().context("keep")?));
                let program = std::env::current_exe().context("this program")?;
                let mut command = Command::new(&program);
                command.args(["enter", "--cgroup", cgroup, "--"]).arg(&program);
                command.args(["use", address]).stdin(socket);
                start(&mut command)?;
            }
            ["manager", rest @ ..] => say(manager.obey(rest)?)?,
            ["leave"] => {
                let home = std::os::unix::process::parent_id();
                enter_namespace(&format!("/proc/{home}/ns/net"))?;
                say("left")?;
            }
            ["release"] => {
                held.clear();
                say("released")?;
            }
            ["churn", directory, tag, count, address] => {
                churn(directory, tag, count.parse()?, address.parse()?)?;
                say("churned")?;
            }
            _ => bail!("{line:?} is nothing to obey"),
        }
    }
    Ok(())
}

/// Listens, and dials that often itself; nobody takes what is accepted.
fn crowd(address: SocketAddr, count: usize, held: &mut Vec<TcpStream>) -> anyhow::Result<()> {
    use rustix::net::{bind, listen};
    let listener = unconnected()?;
    bind(&listener, &address).with_context(|| format!("bind {address}"))?;
    listen(&listener, i32::try_from(count)?).context("listen")?;
    for _ in 0..count {
        held.push(TcpStream::connect(address).context("crowd")?);
    }
    held.push(TcpStream::from(listener));
    Ok(())
}

fn unconnected() -> anyhow::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketType, socket};
    socket(AddressFamily::INET, SocketType::STREAM, None).context("open a socket")
}

fn unbound() -> anyhow::Result<OwnedFd> {
    use rustix::net::{AddressFamily, SocketType, socket};
    socket(AddressFamily::INET, SocketType::DGRAM, None).context("open a socket")
}

fn connected(socket: OwnedFd, address: SocketAddr) -> anyhow::Result<TcpStream> {
    rustix::net::connect(&socket, &address).with_context(|| format!("connect to {address}"))?;
    Ok(TcpStream::from(socket))
}

/// Starts a command and waits for its end.
fn start(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("start {command:?}"))?;
    if status.success() { Ok(()) } else { Err(anyhow!("{command:?}: {status}")) }
}

fn outlive(parent: u32) {
    while std::os::unix::process::parent_id() == parent {
        thread::sleep(Duration::from_millis(5));
    }
}

/// Makes a cgroup, sends a datagram from it and removes it, many times: each lives well below a
/// millisecond. Between two there is one: whoever else watches this machine is not to drown.
fn churn(directory: &str, tag: &str, count: usize, address: SocketAddr) -> anyhow::Result<()> {
    let enter = |cgroup: &str| {
        std::fs::write(format!("{cgroup}/cgroup.procs"), "0")
            .with_context(|| format!("enter {cgroup}"))
    };
    let home = format!("{directory}/home-{tag}.service");
    std::fs::create_dir(&home).with_context(|| format!("make {home}"))?;
    for number in 0..count {
        let flash = format!("{directory}/flash{number}-{tag}.service");
        std::fs::create_dir(&flash).with_context(|| format!("make {flash}"))?;
        enter(&flash)?;
        UdpSocket::bind("0.0.0.0:0")?.send_to(b"", address).context("send")?;
        enter(&home)?;
        std::fs::remove_dir(&flash).with_context(|| format!("remove {flash}"))?;
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// How to dial.
#[derive(Clone, Copy)]
enum Way {
    Tcp,
    /// From an unconnected socket.
    Udp,
    ConnectedUdp,
    /// Sent, and no answer waited for.
    Datagram,
    Other(ways::Way),
}

/// One order to dial.
#[derive(Clone, Copy)]
struct Dial {
    way: Way,
    address: SocketAddr,
    count: usize,
    /// Dialled one after the other, from the address's on.
    ports: u16,
    send: usize,
}

impl Dial {
    fn parse(words: &[&str]) -> anyhow::Result<Self> {
        let [way, address, options @ ..] = words else {
            bail!("dial: say the protocol and the address");
        };
        let way = match *way {
            "tcp" => Way::Tcp,
            "udp" => Way::Udp,
            "udp-connected" => Way::ConnectedUdp,
            "datagram" => Way::Datagram,
            other => Way::Other(ways::Way::parse(other)?),
        };
        let mut dial = Self { way, address: address.parse()?, count: 1, ports: 1, send: 0 };
        for option in options.chunks(2) {
            match option {
                ["--count", count] => dial.count = count.parse()?,
                ["--ports", ports] => dial.ports = ports.parse()?,
                ["--send", bytes] => dial.send = bytes.parse()?,
                other => bail!("dial: {other:?} is no option with its value"),
            }
        }
        Ok(dial)
    }

    /// Dials as often as asked, stopping at the first failure, and words the outcome.
    fn perform(&self) -> String {
        let mut last = Ok(String::new());
        let mut dial = *self;
        for number in 0..self.count * usize::from(self.ports) {
            let next = u16::try_from(number % usize::from(self.ports)).unwrap_or(0);
            dial.address.set_port(self.address.port() + next);
            last = match self.way {
                Way::Tcp => dial.tcp(),
                Way::Udp | Way::ConnectedUdp => dial.udp(),
                Way::Datagram => dial.datagram(),
                Way::Other(way) if way.is_stream() => {
                    ways::dial_stream(way, dial.address, dial.send).map(|()| ESTABLISHED.to_owned())
                }
                Way::Other(way) => {
                    let sent = ways::exchange_datagrams(way, dial.address, dial.send);
                    sent.map(|()| "sent".to_owned())
                }
            };
            if last.is_err() {
                break;
            }
        }
        last.unwrap_or_else(|error| match error.downcast_ref::<io::Error>().map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => "refused".to_owned(),
            Some(io::ErrorKind::TimedOut) => "timed-out".to_owned(),
            Some(io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable) => {
                "unreachable".to_owned()
            }
            _ => format!("error {error:#}"),
        })
    }

    fn tcp(&self) -> anyhow::Result<String> {
        ways::converse(TcpStream::connect(self.address)?, 0, self.send)?;
        Ok(ESTABLISHED.to_owned())
    }

    fn datagram(&self) -> anyhow::Result<String> {
        self.socket()?.send_to(&vec![b'x'; self.send], self.address)?;
        Ok("sent".to_owned())
    }

    fn socket(&self) -> anyhow::Result<UdpSocket> {
        let any: SocketAddr =
            if self.address.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
        Ok(UdpSocket::bind(any)?)
    }

    fn udp(&self) -> anyhow::Result<String> {
        let socket = self.socket()?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let payload = vec![b'x'; self.send];
        let mut buffer = [0; 64];
        let count = if let Way::ConnectedUdp = self.way {
            socket.connect(self.address)?;
            socket.send(&payload)?;
            socket.recv(&mut buffer)?
        } else {
            socket.send_to(&payload, self.address)?;
            socket.recv_from(&mut buffer)?.0
        };
        if buffer[..count] == *answer(self.send).as_bytes() {
            Ok("sent".to_owned())
        } else {
            Err(anyhow!("another answer than {:?}", answer(self.send)))
        }
    }
}

const ESTABLISHED: &str = "established";

fn say(line: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("write standard output")
}

fn complain(what: &str) {
    #[expect(clippy::print_stderr, reason = "a program's last words")]
    {
        eprintln!("peer: {what}");
    }
}
