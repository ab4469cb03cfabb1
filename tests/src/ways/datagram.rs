//! Datagrams: sent in every way there is, and received with and without asking who sent them.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;

use anyhow::{Context as _, anyhow, bail};
use rustix::net::{AddressFamily, SendFlags, SocketType, sockopt};

use crate::ways::socket;
use crate::ways::{PATIENCE, Way, answer};

/// Sends so many bytes and hears the answer.
///
/// # Errors
/// No answer came, or another.
pub fn exchange(way: Way, to: SocketAddr, bytes: usize) -> anyhow::Result<()> {
    let payload = vec![b'x'; bytes];
    let any = any(way, to);
    let socket = UdpSocket::bind(any).with_context(|| format!("bind {any}"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let hears = |bytes: usize| {
        let mut buffer = [0; 64];
        let count = socket.recv_from(&mut buffer).context("hear the answer")?.0;
        let heard = &buffer[..count];
        if heard == answer(bytes).as_bytes() {
            Ok(())
        } else {
            Err(anyhow!("{:?} answered to {bytes} bytes", String::from_utf8_lossy(heard)))
        }
    };
    match way {
        Way::Many => {
            socket::send_many(socket.as_fd(), &[payload.as_slice(); 3], to)?;
            (0..3).try_for_each(|_| hears(bytes))
        }
        Way::Elsewhere(other) => {
            socket.connect(other)?;
            rustix::net::sendto(&socket, &payload, SendFlags::empty(), &to)
                .map_err(io::Error::from)?;
            // What comes from there does not reach a socket that is connected elsewhere.
            Ok(())
        }
        Way::Saying(_, what) => {
            socket.send_to(what.to_string().as_bytes(), to)?;
            Ok(())
        }
        _ => {
            rustix::net::sendto(&socket, &payload, SendFlags::empty(), &to)
                .map_err(io::Error::from)?;
            hears(bytes)
        }
    }
}

fn any(way: Way, to: SocketAddr) -> SocketAddr {
    let port = if let Way::FromPort(port) = way { port } else { 0 };
    match way {
        Way::Saying(from, _) => from,
        Way::Mixed => (Ipv6Addr::UNSPECIFIED, port).into(),
        _ if to.is_ipv4() => (Ipv4Addr::UNSPECIFIED, port).into(),
        _ => (Ipv6Addr::UNSPECIFIED, port).into(),
    }
}

/// Serves datagrams at `at` until it fails; `ready` is told where once it does.
///
/// # Errors
/// Why it does no more.
pub fn serve(
    how: &str,
    at: SocketAddr,
    ready: impl FnOnce(SocketAddr) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let socket = shared(at).with_context(|| format!("bind {at}"))?;
    ready(socket.local_addr()?)?;
    let mut buffer = [0; 2048];
    loop {
        match how {
            // Several with one call.
            "udp-many" => {
                for (bytes, client) in socket::receive_many::<8>(socket.as_fd())? {
                    socket.send_to(answer(bytes).as_bytes(), client)?;
                }
            }
            // Never asks who sent, and answers nobody.
            "udp-deaf" => {
                socket.recv(&mut buffer)?;
            }
            // Answers, and sends on to the address that it is told.
            "udp-hijacked" => {
                let (count, client) = socket.recv_from(&mut buffer)?;
                socket.send_to(answer(count).as_bytes(), client)?;
                let told = str::from_utf8(&buffer[..count]).ok();
                if let Some(told) = told.and_then(|it| it.parse::<SocketAddr>().ok()) {
                    socket.send_to(b"out", told)?;
                }
            }
            // Answers each from a socket of its own, connected to the client.
            "udp-connecting" => {
                let (count, client) = socket.recv_from(&mut buffer)?;
                let own = shared(socket.local_addr()?)?;
                own.connect(client)?;
                own.send(answer(count).as_bytes())?;
            }
            other => bail!("{other:?} is no way to serve datagrams"),
        }
    }
}

/// A socket that lets others of this process have the same port.
fn shared(at: SocketAddr) -> anyhow::Result<UdpSocket> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket(family, SocketType::DGRAM, None)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &at)?;
    Ok(UdpSocket::from(socket))
}
