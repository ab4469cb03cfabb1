//! One cgroup that shows more that is new than anybody could read: dials or sends to addresses that it
//! never dialled before as fast as it can, each once, and says how many that were; or makes cgroups, binds
//! ports or starts programs. Beside it, the neighbour who is to notice nothing of it: one who asks and measures how long the answers take. Both
//! end by themselves. Knows nothing of Edgewatch.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

const USAGE: &str = "\
flood datagram|connected|dial NETWORK/PREFIX PORT N|FORs   to so many addresses of the network, or so long
flood from NETWORK/PREFIX ADDRESS:PORT N|FORs     a datagram from each address of the network, which is ours
flood cgroups DIRECTORY N|FORs                    cgroups made there and removed
flood binds ADDRESS N|FORs                        UDP sockets bound to one port after the other
flood starts N|FORs                               programs, each under another path
flood requests ADDRESS:PORT N                     asks so often by TCP; prints `p50 MICROSECONDS p99 …`";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(said) => say(&said),
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> anyhow::Result<String> {
    match words {
        ["requests", address, count] => requests(address.parse()?, count.parse()?),
        ["from", network, to, extent] => {
            let (network, to): (Network, SocketAddr) = (Network::parse(network)?, to.parse()?);
            Extent::parse(extent)?.flood(|number| {
                let own = UdpSocket::bind((network.address(number), 0)).context("bind")?;
                send(&own, to)
            })
        }
        ["cgroups", directory, extent] => Extent::parse(extent)?.flood(|number| {
            let cgroup = Path::new(directory).join(format!("pop{number}"));
            fs::create_dir(&cgroup).with_context(|| format!("make {}", cgroup.display()))?;
            fs::remove_dir(&cgroup).with_context(|| format!("remove {}", cgroup.display()))
        }),
        ["binds", address, extent] => {
            let address: IpAddr = address.parse()?;
            Extent::parse(extent)?.flood(|number| {
                // Those that nobody is given unasked.
                let port = u16::try_from(1_024 + number % 30_000)?;
                UdpSocket::bind((address, port)).map(drop).with_context(|| format!("bind {port}"))
            })
        }
        ["starts", extent] => Extent::parse(extent)?.flood(|number| {
            let started = Command::new(spelled(number)).status().context("start a program")?;
            if started.success() { Ok(()) } else { bail!("it failed: {started}") }
        }),
        [way, network, port, extent] => {
            let (network, port) = (Network::parse(network)?, port.parse()?);
            let to = |number| network.peer(number, port);
            let any: IpAddr = match network.base {
                IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let own = UdpSocket::bind((any, 0)).context("bind")?;
            let extent = Extent::parse(extent)?;
            match *way {
                "datagram" => extent.flood(|number| send(&own, to(number))),
                "connected" => extent.flood(|number| Ok(own.connect(to(number))?)),
                "dial" => extent.flood(|number| dial(to(number))),
                _ => bail!("usage:\n{USAGE}"),
            }
        }
        _ => bail!("usage:\n{USAGE}"),
    }
}

/// A program, under a path of this number's own.
fn spelled(number: u32) -> String {
    let bits = (0..16).map(|bit| if number >> bit & 1 == 0 { "/" } else { "/./" });
    format!("/bin{}true", bits.collect::<String>())
}

fn send(own: &UdpSocket, to: SocketAddr) -> anyhow::Result<()> {
    let sent = own.send_to(b"x", to).context("send")?;
    if sent == 1 { Ok(()) } else { bail!("{sent} bytes sent to {to}, not one") }
}

/// Begins a connection and gives it up.
fn dial(to: SocketAddr) -> anyhow::Result<()> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(family, SocketType::STREAM, flags, None).context("make a socket")?;
    match connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(()),
        Err(error) => Err(error).context("dial"),
    }
}

/// How far a flood goes.
enum Extent {
    Count(u32),
    Time(Duration),
}

impl Extent {
    fn parse(word: &str) -> anyhow::Result<Self> {
        Ok(match word.strip_suffix('s') {
            Some(seconds) => Self::Time(Duration::from_secs(seconds.parse()?)),
            None => Self::Count(word.parse()?),
        })
    }

    /// Makes one after the other, each with its own number.
    fn flood(&self, mut make: impl FnMut(u32) -> anyhow::Result<()>) -> anyhow::Result<String> {
        let begun = Instant::now();
        let mut number = 0;
        loop {
            let over = match self {
                Self::Count(count) => number >= *count,
                // Looking at the clock costs as much as what it is to time.
                Self::Time(time) => number % 64 == 0 && begun.elapsed() >= *time,
            };
            if over {
                return Ok(format!("made {number}"));
            }
            make(number)?;
            number += 1;
        }
    }
}

struct Network {
    base: IpAddr,
    /// Bits that are ours to choose.
    bits: u32,
}

impl Network {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let (base, prefix) = text.split_once('/').context("a network is ADDRESS/PREFIX")?;
        let (base, prefix): (IpAddr, u32) = (base.parse()?, prefix.parse()?);
        let width = if base.is_ipv4() { 32 } else { 128 };
        let bits = width - prefix;
        if !(1..=31).contains(&bits) {
            bail!("{text}: 1 to 31 bits are to be left");
        }
        Ok(Self { base, bits })
    }

    /// Each number has its own, in no order that anybody would dial in.
    fn address(&self, number: u32) -> IpAddr {
        // Odd, so that no two numbers meet.
        let host = number.wrapping_mul(0x9e37_79b1) & ((1 << self.bits) - 1);
        match self.base {
            IpAddr::V4(base) => Ipv4Addr::from(base.to_bits() | host).into(),
            IpAddr::V6(base) => Ipv6Addr::from(base.to_bits() | u128::from(host)).into(),
        }
    }

    /// Where the addresses end, they begin again at the next port.
    fn peer(&self, number: u32, port: u16) -> SocketAddr {
        let round = u16::try_from(number >> self.bits).unwrap_or(0);
        SocketAddr::new(self.address(number), port.wrapping_add(round))
    }
}

/// Connects, asks, reads the whole answer, again and again.
fn requests(address: SocketAddr, count: usize) -> anyhow::Result<String> {
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(address).context("connect")?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"x").context("ask")?;
        stream.shutdown(Shutdown::Write)?;
        stream.read_to_end(&mut Vec::new()).context("read the answer")?;
        took.push(begun.elapsed().as_micros());
    }
    took.sort_unstable();
    let quantile = |percent: usize| took.get(count * percent / 100).copied().unwrap_or(0);
    Ok(format!("p50 {} p99 {}", quantile(50), quantile(99)))
}

fn say(line: &str) -> ExitCode {
    let written = writeln!(std::io::stdout().lock(), "{line}");
    if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn complain(what: &str) {
    #[expect(clippy::print_stderr, reason = "a program's last words")]
    {
        eprintln!("flood: {what}");
    }
}
