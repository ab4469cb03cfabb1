//! Connections: dialled in every way there is, and listened for.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, anyhow, bail};
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto};

use crate::ways::socket::{self, Setting, Taker};
use crate::ways::{PATIENCE, Way, answer};

/// Dials, says so many bytes, and hears the answer.
///
/// # Errors
/// The dial came to nothing, or something else was answered.
pub fn dial(way: Way, to: SocketAddr, bytes: usize) -> anyhow::Result<()> {
    let protocol = if way == Way::Multipath { ipproto::MPTCP } else { ipproto::TCP };
    let dialling = made(to, protocol)?;
    let mut said = 0;
    match way {
        Way::FastOpenSend => {
            let first = vec![b'x'; bytes.min(512)];
            let flags = SendFlags::from_bits_retain(0x2000_0000);
            said = rustix::net::sendto(&dialling, &first, flags, &to).map_err(io::Error::from)?;
        }
        Way::FastOpenConnect => {
            socket::set(dialling.as_fd(), Setting::FastOpenClient)
                .context("TCP_FASTOPEN_CONNECT")?;
            rustix::net::connect(&dialling, &to).map_err(io::Error::from)?;
        }
        Way::Ring => socket::connect(dialling.as_fd(), to, Taker::Caller)?,
        Way::PolledRing => socket::connect(dialling.as_fd(), to, Taker::KernelThread)?,
        _ => rustix::net::connect(&dialling, &to).map_err(io::Error::from)?,
    }
    converse(TcpStream::from(dialling), said, bytes)
}

fn made(at: SocketAddr, protocol: rustix::net::Protocol) -> anyhow::Result<OwnedFd> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    rustix::net::socket(family, SocketType::STREAM, Some(protocol)).context("make a socket")
}

/// Says what is left of so many bytes, and hears the answer.
///
/// # Errors
/// Something else was answered.
pub fn converse(mut stream: TcpStream, said: usize, bytes: usize) -> anyhow::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let chunk = [b'x'; 16 << 10];
    let mut left = bytes - said;
    while left > 0 {
        left -= stream.write(&chunk[..left.min(chunk.len())])?;
    }
    stream.shutdown(Shutdown::Write)?;
    let mut heard = String::new();
    stream.read_to_string(&mut heard)?;
    if heard == answer(bytes) {
        Ok(())
    } else {
        Err(anyhow!("{bytes} bytes sent, {heard:?} answered"))
    }
}

/// Says so many bytes and hears so many, on a connection that stays as it is.
///
/// # Errors
/// It broke off.
pub fn exchange(stream: &mut TcpStream, says: u64, hears: u64) -> anyhow::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(&[says.to_be_bytes(), hears.to_be_bytes()].concat())?;
    io::copy(&mut io::repeat(b'x').take(says), stream)?;
    let heard = io::copy(&mut (&*stream).take(hears), &mut io::sink())?;
    if heard == hears { Ok(()) } else { Err(anyhow!("{heard} of {hears} bytes heard")) }
}

/// The other end of [`exchange`], as long as the connection lasts.
///
/// # Errors
/// It broke off amid an exchange.
pub fn exchanged(mut stream: TcpStream) -> anyhow::Result<()> {
    let mut order = [[0; 8]; 2];
    while stream.read_exact(order.as_flattened_mut()).is_ok() {
        let [hears, says] = order.map(u64::from_be_bytes);
        io::copy(&mut (&stream).take(hears), &mut io::sink())?;
        io::copy(&mut io::repeat(b'x').take(says), &mut stream)?;
    }
    Ok(())
}

/// What [`exchange`] says before it says what it was told to.
pub const ORDER_BYTES: u64 = 16;

/// How a socket comes to listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listening {
    FastOpen,
    Multipath,
    /// Not bound before.
    Unbound,
    /// Bound to an address, and to a port only then.
    NoPortAtBind,
    /// Beside others at the same port.
    Shared,
}

impl Listening {
    /// Of a word.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(word: &str) -> anyhow::Result<Self> {
        Ok(match word {
            "fast-open" => Self::FastOpen,
            "multipath" => Self::Multipath,
            "unbound" => Self::Unbound,
            "no-port-at-bind" => Self::NoPortAtBind,
            "shared" => Self::Shared,
            other => bail!("{other:?} is no way to listen"),
        })
    }
}

/// Listens at `at`, or where the kernel chooses.
///
/// # Errors
/// The kernel would not.
pub fn listen(how: Listening, at: SocketAddr) -> anyhow::Result<TcpListener> {
    let protocol = if how == Listening::Multipath { ipproto::MPTCP } else { ipproto::TCP };
    let listening = made(at, protocol)?;
    match how {
        Listening::FastOpen => {
            socket::set(listening.as_fd(), Setting::FastOpenServer(16)).context("TCP_FASTOPEN")?;
        }
        Listening::NoPortAtBind => {
            socket::set(listening.as_fd(), Setting::NoPortAtBind)
                .context("IP_BIND_ADDRESS_NO_PORT")?;
        }
        Listening::Shared => rustix::net::sockopt::set_socket_reuseport(&listening, true)?,
        Listening::Multipath | Listening::Unbound => {}
    }
    if how != Listening::Unbound {
        rustix::net::bind(&listening, &at).with_context(|| format!("bind {at}"))?;
    }
    rustix::net::listen(&listening, 128).with_context(|| format!("listen at {at}"))?;
    Ok(TcpListener::from(listening))
}
