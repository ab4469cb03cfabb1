//! UDP and UDP-Lite. Hooks see neither lengths nor the datagrams of a connected socket after the
//! first, and a receiver that never asks who sent is invisible. Who serves is decided by the local
//! port: a socket bound to one may be a server, another is a client.

use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use monitor_common::{
    Address, Bound, Direction, FlowKey, Loss, Origin, Outcome, Owner, Protocol, RemoteKind,
    peer_note,
};

use crate::budget::SKETCHED;
use crate::connect::{ALLOW, netns_cookie, outbound, protocol, remote_port, remote4, remote6};
use crate::emit;
use crate::follow;
use crate::lookup;
use crate::maps::{ASKED, BOUND, EXECUTABLE_SEED};
use crate::note::note;
use crate::owner;
use crate::seen;
use crate::seen::Sighted;
use crate::words::Words;

// sendmsg4, since 4.18, process context: unconnected sends only, replies of `::` sockets to IPv4
// clients too.
#[cgroup_sock_addr(sendmsg4)]
fn sendmsg4(ctx: SockAddrContext) -> i32 {
    note!(&ctx, "sendmsg4");
    try_send(ctx.sock_addr, remote4(ctx.sock_addr));
    lookup::dialled(ctx.sock_addr, remote4(ctx.sock_addr));
    ALLOW
}

// sendmsg6, since 4.18, process context: as sendmsg4.
#[cgroup_sock_addr(sendmsg6)]
fn sendmsg6(ctx: SockAddrContext) -> i32 {
    note!(&ctx, "sendmsg6");
    try_send(ctx.sock_addr, remote6(ctx.sock_addr));
    lookup::dialled(ctx.sock_addr, remote6(ctx.sock_addr));
    ALLOW
}

// recvmsg4, since 5.2, process context: only where the receiver asks for the sender's address.
#[cgroup_sock_addr(recvmsg4)]
fn recvmsg4(ctx: SockAddrContext) -> i32 {
    note!(&ctx, "recvmsg4");
    try_receive(ctx.sock_addr, remote4(ctx.sock_addr));
    ALLOW
}

// recvmsg6, since 5.2, process context: as recvmsg4; IPv4 clients of `::` sockets arrive here.
#[cgroup_sock_addr(recvmsg6)]
fn recvmsg6(ctx: SockAddrContext) -> i32 {
    note!(&ctx, "recvmsg6");
    try_receive(ctx.sock_addr, remote6(ctx.sock_addr));
    ALLOW
}

#[inline(always)]
fn try_send(ctx: *mut bpf_sock_addr, remote: Address) {
    let port = remote_port(ctx);
    if port != 0
        && let Some(to @ (Protocol::Udp | Protocol::UdpLite)) = protocol(ctx)
    {
        sent(ctx, remote, (to, port), Outcome::Sent);
    }
}

/// A datagram goes out, or will: a request, unless it answers one that came in.
#[inline(always)]
pub(crate) fn sent(
    ctx: *mut bpf_sock_addr,
    remote: Address,
    (protocol, port): (Protocol, u16),
    outcome: Outcome,
) {
    let mut caller = owner::current();
    let key = Words::of(outbound(&caller, remote, port, protocol, outcome));
    if seen::count(&key, outcome, seen::about_now_ns()) {
        return;
    }
    // A number in any case: what is only there sometimes may not be read from the stack, and kernels up to
    // 6.1 follow branches that are not taken where CAP_PERFMON is missing.
    let at = bound(ctx).map_or(UNBOUND, |bound| place(caller.cgroup_id, bound));
    // Nobody but the very address and port that asked is answered.
    if at != UNBOUND && noted(at, &remote, port, Direction::Inbound) != NOBODY {
        return;
    }
    let Some(opener) = follow::opener(cookie(ctx)) else {
        return;
    };
    caller.process = owner::process(caller.process.pid);
    let origin = Words::of(origin(ctx, &caller, None, opener));
    let sighted = seen::enter::<SKETCHED>(&key, outcome, &origin);
    if at != UNBOUND && sighted == Sighted::OverBudget {
        note(at, &remote, port, Direction::Outbound, RemoteKind::Address as u64);
    }
}

/// A datagram came in: a request, where the local port was chosen and it answers nothing that was
/// sent from here.
#[inline(always)]
fn try_receive(ctx: *mut bpf_sock_addr, remote: Address) {
    let Some(protocol @ (Protocol::Udp | Protocol::UdpLite)) = protocol(ctx) else {
        return;
    };
    let Some(bound) = bound(ctx) else {
        return;
    };
    let port = remote_port(ctx);
    let cgroup_id = owner::cgroup_id();
    let at = place(cgroup_id, bound);
    let mut kind = noted(at, &remote, port, Direction::Inbound);
    if kind == NOBODY {
        let request = outbound(&owner::current(), remote, port, protocol, Outcome::Sent);
        if has_asked(&Words::of(request)) || noted(at, &remote, port, Direction::Outbound) != NOBODY
        {
            return;
        }
        kind = owner::kind_of(remote) as u64;
        note(at, &remote, port, Direction::Inbound, kind);
    }
    let key = Words::of(inbound(cgroup_id, remote, kind, bound));
    if seen::count(&key, Outcome::Sent, seen::about_now_ns()) {
        return;
    }
    let Some(opener) = follow::opener(cookie(ctx)) else {
        return;
    };
    let origin = Words::of(origin(ctx, &owner::caller(), Some((remote, port)), opener));
    seen::enter::<SKETCHED>(&key, Outcome::Sent, &origin);
}

/// No place.
const UNBOUND: u64 = 0;

/// A port as its owner has it, whichever of its sockets are bound to it. Ids of cgroups are counted
/// up from 1: the upper bits are free.
#[inline(always)]
fn place(cgroup_id: u64, bound: &Bound) -> u64 {
    cgroup_id ^ (u64::from(bound.port) << 48) ^ ((bound.protocol as u64) << 40)
}

/// Notes that datagrams are exchanged with that far end, begun as `began` says, and what kind of far end
/// it is: what the networks say of it is dear to ask.
#[inline(always)]
fn note(at: u64, remote: &Address, port: u16, began: Direction, kind: u64) {
    let note = Words::of(note_of(at, remote, port, began));
    if ASKED.insert(&*note, &*Words::of(kind), 0).is_err() {
        emit::lost(Loss::MapFull);
    }
}

/// The kind of a far end where that is noted, else [`NOBODY`].
#[inline(always)]
fn noted(at: u64, remote: &Address, port: u16, began: Direction) -> u64 {
    let note = Words::of(note_of(at, remote, port, began));
    // SAFETY: the value is copied at once; a recycled entry may hold another far end's kind.
    unsafe { ASKED.get(&*note) }.copied().unwrap_or(NOBODY)
}

/// No kind of far end.
const NOBODY: u64 = 0;

#[inline(always)]
fn note_of(at: u64, remote: &Address, port: u16, began: Direction) -> u64 {
    let [high, low] = remote.words();
    hashed(at, high, low, u64::from(port) << 8 | began as u64)
}

/// A call, for its room on the stack; by words, since an address there would be written in halves.
#[inline(never)]
fn hashed(at: u64, high: u64, low: u64, more: u64) -> u64 {
    peer_note(EXECUTABLE_SEED.load(), at, [high, low], more)
}

#[inline(always)]
fn cookie(ctx: *mut bpf_sock_addr) -> u64 {
    // SAFETY: `ctx` is a hook's context.
    unsafe { bpf_get_socket_cookie(ctx.cast()) }
}

/// Whether the caller sent this request of its own accord. A call, for its room on the stack.
#[inline(never)]
fn has_asked(request: &FlowKey) -> bool {
    let attempt = || Words::of(FlowKey { outcome: Outcome::Attempted, ..*request });
    seen::is_known(request) || seen::is_known(&attempt())
}

#[inline(always)]
fn bound<'a>(ctx: *mut bpf_sock_addr) -> Option<&'a Bound> {
    // SAFETY: a valid map value, read at once. Entries are recycled in place, so there is the
    // slightest chance of another socket's port, hence of a wrong direction.
    unsafe { BOUND.get(cookie(ctx)) }
}

/// Inbound flows are keyed by the caller: the reader is the server, whoever bound the socket.
#[inline(always)]
fn inbound(cgroup_id: u64, remote: Address, kind: u64, bound: &Bound) -> FlowKey {
    let (remote_kind, remote) = if kind == RemoteKind::World as u64 {
        (RemoteKind::World, Address::ZERO)
    } else {
        (RemoteKind::Address, remote)
    };
    FlowKey {
        cgroup_id,
        executable_id: 0,
        remote,
        local: bound.address,
        port: bound.port,
        protocol: bound.protocol,
        direction: Direction::Inbound,
        remote_kind,
        outcome: Outcome::Sent,
        _reserved: [0; 2],
    }
}

#[inline(always)]
fn origin(
    ctx: *mut bpf_sock_addr,
    caller: &Owner,
    client: Option<(Address, u16)>,
    opener: u64,
) -> Origin {
    let (client, client_port) = client.unwrap_or((Address::ZERO, 0));
    Origin {
        netns_cookie: netns_cookie(ctx),
        executable_id: caller.executable_id,
        client,
        process: caller.process,
        ends: Origin::ends(client_port, opener),
    }
}
