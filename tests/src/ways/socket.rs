//! System calls that neither the standard library nor rustix has: options of sockets, several
//! datagrams at once, dials through a ring.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, BorrowedFd};

use io_uring::{IoUring, cqueue, opcode, squeue, types};
use rustix::net::addr::SocketAddrArg as _;

/// An option that is a number.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Setting {
    /// How many Fast Open dials may wait for an accept.
    FastOpenServer(i32),
    FastOpenClient,
    /// The port is chosen when the socket listens or dials.
    NoPortAtBind,
}

pub(crate) fn set(socket: BorrowedFd<'_>, setting: Setting) -> io::Result<()> {
    let (level, name, value) = match setting {
        Setting::FastOpenServer(room) => (libc::IPPROTO_TCP, libc::TCP_FASTOPEN, room),
        Setting::FastOpenClient => (libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, 1),
        Setting::NoPortAtBind => (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1),
    };
    let length = libc::socklen_t::try_from(size_of_val(&value)).unwrap_or_default();
    // SAFETY: the value outlives the call, which reads no more than its length.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Who takes up what is put into a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taker {
    Caller,
    /// A thread of the kernel that polls for it.
    KernelThread,
}

/// Dials through a ring.
pub(crate) fn connect(socket: BorrowedFd<'_>, to: SocketAddr, taker: Taker) -> io::Result<()> {
    let mut builder = IoUring::<squeue::Entry, cqueue::Entry>::builder();
    if taker == Taker::KernelThread {
        builder.setup_sqpoll(1_000);
    }
    let mut ring = builder.build(4)?;
    // SAFETY: address and ring outlive the dial, which is waited for.
    let result = unsafe {
        to.with_sockaddr(|address, length| {
            let socket = types::Fd(socket.as_raw_fd());
            let dial = opcode::Connect::new(socket, address.cast(), length).build();
            ring.submission().push(&dial).map_err(io::Error::other)?;
            ring.submit_and_wait(1)?;
            let done = ring.completion().next().map(|done| done.result());
            done.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))
        })
    }?;
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

/// Sends several datagrams with one call, and checks that all went.
pub(crate) fn send_many(
    socket: BorrowedFd<'_>,
    payloads: &[&[u8]],
    to: SocketAddr,
) -> io::Result<()> {
    let mut pieces: Vec<libc::iovec> =
        payloads.iter().map(|it| piece(it.as_ptr().cast_mut(), it.len())).collect();
    // SAFETY: addresses, pieces and payloads outlive the call.
    let sent = unsafe {
        to.with_sockaddr(|address, length| {
            let mut messages: Vec<libc::mmsghdr> = pieces
                .iter_mut()
                .map(|piece| message(piece, address.cast_mut().cast(), length))
                .collect();
            let count = libc::c_uint::try_from(messages.len()).unwrap_or_default();
            libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, 0)
        })
    };
    match usize::try_from(sent) {
        Ok(sent) if sent == payloads.len() => Ok(()),
        Ok(sent) => Err(io::Error::other(format!("{sent} of {} sent", payloads.len()))),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Receives up to `N` datagrams with one call: the length of each, and its sender.
pub(crate) fn receive_many<const N: usize>(
    socket: BorrowedFd<'_>,
) -> io::Result<Vec<(usize, SocketAddr)>> {
    let mut buffers = [[0_u8; 2048]; N];
    let mut pieces: Vec<libc::iovec> =
        buffers.iter_mut().map(|it| piece(it.as_mut_ptr(), it.len())).collect();
    // SAFETY: all zeros is an address of no family.
    let mut senders = unsafe { [std::mem::zeroed::<libc::sockaddr_storage>(); N] };
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_storage>()).unwrap_or_default();
    let mut messages: Vec<libc::mmsghdr> = pieces
        .iter_mut()
        .zip(&mut senders)
        .map(|(piece, sender)| message(piece, (&raw mut *sender).cast(), length))
        .collect();
    let room = libc::c_uint::try_from(N).unwrap_or_default();
    // Returns with the first, and with what came by then.
    let flags = libc::MSG_WAITFORONE;
    // SAFETY: what the messages point to outlives the call.
    let received = unsafe {
        let messages = messages.as_mut_ptr();
        libc::recvmmsg(socket.as_raw_fd(), messages, room, flags, std::ptr::null_mut())
    };
    let received = usize::try_from(received).map_err(|_negative| io::Error::last_os_error())?;
    let lengths: Vec<usize> =
        messages.iter().map(|message| message.msg_len as usize).take(received).collect();
    Ok(lengths.into_iter().zip(senders.iter().filter_map(address)).collect())
}

fn piece(bytes: *mut u8, length: usize) -> libc::iovec {
    libc::iovec { iov_base: bytes.cast(), iov_len: length }
}

fn message(
    piece: &mut libc::iovec,
    address: *mut libc::c_void,
    length: libc::socklen_t,
) -> libc::mmsghdr {
    // SAFETY: all zeros is an empty message.
    let mut message = unsafe { std::mem::zeroed::<libc::mmsghdr>() };
    message.msg_hdr.msg_name = address;
    message.msg_hdr.msg_namelen = length;
    message.msg_hdr.msg_iov = piece;
    message.msg_hdr.msg_iovlen = 1;
    message
}

/// What the kernel wrote as a sender.
fn address(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let at = std::ptr::from_ref(storage);
    match libc::c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is one of these.
            let at = unsafe { &*at.cast::<libc::sockaddr_in>() };
            let ip = std::net::Ipv4Addr::from(u32::from_be(at.sin_addr.s_addr));
            Some(SocketAddr::new(ip.into(), u16::from_be(at.sin_port)))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that it is one of these.
            let at = unsafe { &*at.cast::<libc::sockaddr_in6>() };
            let ip = std::net::Ipv6Addr::from(at.sin6_addr.s6_addr);
            Some(SocketAddr::new(ip.into(), u16::from_be(at.sin6_port)))
        }
        _ => None,
    }
}
