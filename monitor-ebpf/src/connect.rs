//! `connect`: every dial with the address dialled, TCP and connected UDP. What came of it is seen
//! in `stream`.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use monitor_common::{
    Address, Direction, FlowKey, Followed, Origin, Outcome, Owner, Protocol, RemoteKind,
};

use crate::budget::SKETCHED;
use crate::datagram;
use crate::follow;
use crate::lookup;
use crate::note::note;
use crate::owner;
use crate::seen;
use crate::seen::{Came, Dialled, Sighted};
use crate::words::Words;

pub(crate) const ALLOW: i32 = 1;

// connect4, since 4.17, process context (io_uring, with SQPOLL since 5.12, and MPTCP subflows too):
// the caller is the dialler; `user_ip4` may have been rewritten by a program that ran before.
#[cgroup_sock_addr(connect4)]
fn connect4(ctx: SockAddrContext) -> i32 {
    note!(&ctx, "connect4");
    try_connect(ctx.sock_addr, remote4(ctx.sock_addr));
    lookup::dialled(ctx.sock_addr, remote4(ctx.sock_addr));
    ALLOW
}

// connect6, since 4.17, process context, as connect4; IPv4-mapped addresses arrive here.
#[cgroup_sock_addr(connect6)]
fn connect6(ctx: SockAddrContext) -> i32 {
    note!(&ctx, "connect6");
    try_connect(ctx.sock_addr, remote6(ctx.sock_addr));
    lookup::dialled(ctx.sock_addr, remote6(ctx.sock_addr));
    ALLOW
}

#[inline(always)]
fn try_connect(ctx: *mut bpf_sock_addr, remote: Address) {
    let port = remote_port(ctx);
    match protocol(ctx) {
        Some(Protocol::Icmp) => ping(ctx, remote),
        // Nobody can be reached there: a look for the best source address (getaddrinfo).
        _ if port == 0 => {}
        Some(Protocol::Tcp) => dial(ctx, remote, port),
        Some(to @ (Protocol::Udp | Protocol::UdpLite)) => {
            datagram::sent(ctx, remote, (to, port), Outcome::Attempted);
        }
        Some(Protocol::Ip) | None => {}
    }
}

/// A ping socket sends echo requests and nothing else.
#[inline(always)]
fn ping(ctx: *mut bpf_sock_addr, remote: Address) {
    const ECHO: u16 = 8;
    const ECHO_V6: u16 = 128;
    let kind = if remote.is_v4() { ECHO } else { ECHO_V6 };
    datagram::sent(ctx, remote, (Protocol::Icmp, kind), Outcome::Attempted);
}

#[inline(always)]
fn dial(ctx: *mut bpf_sock_addr, remote: Address, port: u16) {
    let mut caller = owner::current();
    let netns_cookie = netns_cookie(ctx);
    let key = Words::of(outbound(&caller, remote, port, Protocol::Tcp, Outcome::Attempted));
    // SAFETY: `ctx` is this hook's context.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.cast()) };
    let mut flags = Followed::DIALLING;
    let dialled = seen::dialled(&key);
    if dialled != Dialled::Established {
        let Some(opener) = follow::opener(cookie) else {
            return;
        };
        caller.process = owner::process(caller.process.pid);
        let origin = Words::of(Origin {
            ends: Origin::ends(0, opener),
            ..Origin::without_client(&caller, netns_cookie)
        });
        let sighted = match dialled {
            Dialled::Established | Dialled::Attempted => Sighted::Known,
            Dialled::Otherwise => {
                let attempt = (&*key, Came::ATTEMPTED);
                seen::observe::<SKETCHED, _>(attempt, || (&*key, *origin))
            }
            Dialled::Never => seen::enter::<SKETCHED>(&key, Outcome::Attempted, &origin),
        };
        // A flood takes no place from connections that are told.
        let untold = sighted == Sighted::OverBudget;
        flags |= if untold { Followed::UNTOLD } else { Followed::NEWS };
    }
    if let Some(followed) = follow::begin(cookie, &key, netns_cookie, &caller.process) {
        followed.flags = flags;
    }
}

#[inline(always)]
pub(crate) fn outbound(
    caller: &Owner,
    remote: Address,
    port: u16,
    protocol: Protocol,
    outcome: Outcome,
) -> FlowKey {
    FlowKey {
        cgroup_id: caller.cgroup_id,
        executable_id: caller.executable_id,
        remote,
        local: Address::ZERO,
        port,
        protocol,
        direction: Direction::Outbound,
        remote_kind: RemoteKind::Address,
        outcome,
        _reserved: [0; 2],
    }
}

#[inline(always)]
pub(crate) fn protocol(ctx: *mut bpf_sock_addr) -> Option<Protocol> {
    // SAFETY: a field of the context.
    match unsafe { (&raw const (*ctx).protocol).read_volatile() } {
        6 => Some(Protocol::Tcp),
        17 => Some(Protocol::Udp),
        136 => Some(Protocol::UdpLite),
        1 | 58 => Some(Protocol::Icmp),
        _ => None,
    }
}

/// The address in an IPv4 hook's context.
#[inline(always)]
pub(crate) fn remote4(ctx: *mut bpf_sock_addr) -> Address {
    // SAFETY: a field of the context that IPv4 hooks may read.
    Address::v4(unsafe { (&raw const (*ctx).user_ip4).read_volatile() })
}

/// The address in an IPv6 hook's context, which must not read `user_ip4`.
#[inline(always)]
pub(crate) fn remote6(ctx: *mut bpf_sock_addr) -> Address {
    // SAFETY: fields of the context that IPv6 hooks may read, word by word.
    unsafe {
        Address([
            (&raw const (*ctx).user_ip6[0]).read_volatile(),
            (&raw const (*ctx).user_ip6[1]).read_volatile(),
            (&raw const (*ctx).user_ip6[2]).read_volatile(),
            (&raw const (*ctx).user_ip6[3]).read_volatile(),
        ])
    }
}

#[inline(always)]
pub(crate) fn remote_port(ctx: *mut bpf_sock_addr) -> u16 {
    // SAFETY: a field of the context; network order in the lower half.
    u16::from_be(unsafe { (&raw const (*ctx).user_port).read_volatile() } as u16)
}

#[inline(always)]
pub(crate) fn netns_cookie(ctx: *mut bpf_sock_addr) -> u64 {
    // SAFETY: `ctx` is a hook's context.
    unsafe { bpf_get_netns_cookie(ctx.cast()) }
}
