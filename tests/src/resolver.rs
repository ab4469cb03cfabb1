//! A small resolver and who asks it: real messages of DNS over real sockets, written down here byte by byte
//! so that nothing of the agent's own reader is in them. Some names it answers as a liar would.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

/// What a name has: addresses, or another name.
#[derive(Debug, Clone)]
enum Record {
    Address(IpAddr),
    Alias(String),
}

/// What the resolver knows: `api.test=203.0.113.1`, `www.test>api.test`, each as often as it likes.
#[derive(Debug, Clone, Default)]
pub struct Zone(BTreeMap<String, Vec<Record>>);

impl Zone {
    /// # Errors
    /// A word is neither.
    pub fn parse(words: &[&str]) -> anyhow::Result<Self> {
        let mut zone = Self::default();
        for word in words {
            let (name, record) = if let Some((name, address)) = word.split_once('=') {
                (name, Record::Address(address.parse().with_context(|| (*word).to_owned())?))
            } else {
                let (name, alias) = word.split_once('>').with_context(|| (*word).to_owned())?;
                (name, Record::Alias(alias.to_owned()))
            };
            zone.0.entry(name.to_owned()).or_default().push(record);
        }
        Ok(zone)
    }

    /// The records that answer a question, chains followed, each with its owner.
    fn records(&self, name: &str, kind: u16) -> Vec<(String, Record)> {
        let (mut name, mut records) = (name.to_owned(), Vec::new());
        while let Some(own) = self.0.get(&name) {
            let fits = |it: &&Record| match it {
                Record::Address(IpAddr::V4(_)) => kind == 1,
                Record::Address(IpAddr::V6(_)) => kind == 28,
                Record::Alias(_) => true,
            };
            records.extend(own.iter().filter(fits).map(|it| (name.clone(), it.clone())));
            match own.first() {
                Some(Record::Alias(next)) if records.len() < 32 => name.clone_from(next),
                _ => break,
            }
        }
        records
    }

    /// The answer to a question; with another id where the name begins with `wrong-id`, and no message at
    /// all where it begins with `garbage`.
    fn answer(&self, question: &[u8]) -> anyhow::Result<Vec<u8>> {
        let (name, end) = name_at(question, HEADER)?;
        let kind = question.get(end..end + 2).context("no type")?;
        let kind = u16::from_be_bytes([kind[0], kind[1]]);
        let records = self.records(&name, kind);
        let mut answer = question.get(..end + 4).context("no class")?.to_vec();
        answer[2..4].copy_from_slice(&[0x81, 0x80]);
        answer[6..8].copy_from_slice(&u16::try_from(records.len())?.to_be_bytes());
        answer[8..HEADER].fill(0);
        for (owner, record) in records {
            let (kind, data) = match record {
                Record::Address(IpAddr::V4(address)) => (1_u16, address.octets().to_vec()),
                Record::Address(IpAddr::V6(address)) => (28, address.octets().to_vec()),
                Record::Alias(name) => (5, labels(&name)?),
            };
            answer.extend(labels(&owner)?);
            answer.extend(kind.to_be_bytes());
            answer.extend([0, 1, 0, 0, 0, 60]);
            answer.extend(u16::try_from(data.len())?.to_be_bytes());
            answer.extend(data);
        }
        if name.starts_with("wrong-id") {
            answer[0] ^= 0xff;
        }
        if name.starts_with("garbage") {
            answer[HEADER..].fill(0xff);
        }
        Ok(answer)
    }
}

const HEADER: usize = 12;

fn labels(name: &str) -> anyhow::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len())?);
        bytes.extend(label.bytes());
    }
    bytes.push(0);
    Ok(bytes)
}

/// The name that lies there, and where it ends.
fn name_at(message: &[u8], mut at: usize) -> anyhow::Result<(String, usize)> {
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*message.get(at).context("cut off")?);
        at += 1;
        if length == 0 {
            return Ok((labels.join("."), at));
        }
        let label = message.get(at..at + length).context("cut off")?;
        labels.push(String::from_utf8_lossy(label).into_owned());
        at += length;
    }
}

/// Serves a zone over UDP and TCP, for ever; `ready` is called once it does. Of names that begin with
/// `elsewhere` the answer comes from another port.
///
/// # Errors
/// The address is taken.
pub fn serve(
    at: SocketAddr,
    zone: Zone,
    ready: impl FnOnce(SocketAddr) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let socket = UdpSocket::bind(at).with_context(|| format!("bind {at}"))?;
    let listener = TcpListener::bind(at).with_context(|| format!("listen at {at}"))?;
    let other = UdpSocket::bind(SocketAddr::new(at.ip(), 0)).context("bind another")?;
    ready(at)?;
    let of_streams = zone.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            drop(serve_stream(stream, &of_streams));
        }
    });
    let mut buffer = [0; 4096];
    loop {
        let (count, client) = socket.recv_from(&mut buffer).context("receive")?;
        let answer = zone.answer(&buffer[..count])?;
        let is_elsewhere = name_at(&buffer, HEADER)?.0.starts_with("elsewhere");
        let from = if is_elsewhere { &other } else { &socket };
        from.send_to(&answer, client).context("answer")?;
    }
}

fn serve_stream(mut stream: TcpStream, zone: &Zone) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let question = framed(&mut stream)?;
        let answer = zone.answer(&question)?;
        stream.write_all(&u16::try_from(answer.len())?.to_be_bytes())?;
        // In several segments.
        for part in answer.chunks(7) {
            stream.write_all(part)?;
        }
    }
}

fn framed(stream: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).context("read the length")?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message).context("read the message")?;
    Ok(message)
}

/// Asks: `udp|udp-connected|tcp RESOLVER NAME [aaaa]`; says that something was answered. `flood` asks
/// without end for a second, and hears nothing.
///
/// # Errors
/// The words mean nothing, or nothing came.
pub fn ask(words: &[&str]) -> anyhow::Result<&'static str> {
    let (way, resolver, name, kind) = match words {
        [way, resolver, name] => (way, resolver, name, 1_u8),
        [way, resolver, name, "aaaa"] => (way, resolver, name, 28),
        _ => bail!("ask: say how, whom and for what"),
    };
    let resolver: SocketAddr = resolver.parse()?;
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    question.extend(labels(name)?);
    question.extend([0, kind, 0, 1]);
    let patience = Some(Duration::from_secs(10));
    if *way == "tcp" {
        let mut stream = TcpStream::connect(resolver).context("dial the resolver")?;
        stream.set_read_timeout(patience)?;
        let length = u16::try_from(question.len())?.to_be_bytes();
        stream.write_all(&[&length, &*question].concat())?;
        framed(&mut stream)?;
        return Ok("answered");
    }
    let any = if resolver.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).context("bind")?;
    socket.set_read_timeout(patience)?;
    let mut buffer = [0; 4096];
    let count = match *way {
        "udp" => {
            socket.send_to(&question, resolver).context("ask")?;
            socket.recv_from(&mut buffer).context("hear")?.0
        }
        "udp-connected" => {
            socket.connect(resolver).context("connect")?;
            socket.send(&question).context("ask")?;
            socket.recv(&mut buffer).context("hear")?
        }
        "flood" => {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_secs(1) {
                socket.send_to(&question, resolver).context("ask")?;
            }
            return Ok("asked");
        }
        other => bail!("ask: {other} is no way"),
    };
    ensure!(count >= HEADER, "{count} bytes are no answer");
    Ok("answered")
}
