//! Sockets that are neither TCP's nor UDP's, as they are made: who made what. Where they send is seen
//! in `net`. Of all others, in full detail, only in which cgroup they are opened.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{bpf_get_current_ancestor_cgroup_id, bpf_get_stack};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::macros::{cgroup_sock, raw_tracepoint};
use aya_ebpf::programs::{RawTracePointContext, SockContext};
use monitor_common::{FlowKey, Loss, Maker, Odd, Origin, Owner, STACK_FRAMES, SocketKind};

use crate::budget::SKETCHED;
use crate::emit;
use crate::follow;
use crate::maps::{FULL, MAKERS, NETS, ODD, TRIED, WATCHED};
use crate::note::note;
use crate::owner;
use crate::seen;
use crate::seen::Came;
use crate::words::Words;

const ALLOW: i32 = 1;

const SOCK_DGRAM: u32 = 2;
const SOCK_RAW: u32 = 3;

const ICMP: u32 = 1;
const TCP: u32 = 6;
const UDP: u32 = 17;
const ICMPV6: u32 = 58;
pub(crate) const UDPLITE: u32 = 136;
const MPTCP: u32 = 262;

/// Whether a socket is none that `connect`, `datagram` and `stream` see all of.
#[inline(always)]
pub(crate) fn is_odd(kind: u32, protocol: u32) -> bool {
    kind == SOCK_RAW || !(protocol == TCP || protocol == UDP || protocol == MPTCP)
}

// sock_create, since 4.10 (the caller's cgroup 5.7), process context: `type` and `protocol` are final.
#[cgroup_sock(sock_create)]
fn sock_create(ctx: SockContext) -> i32 {
    note!(&ctx, "sock_create");
    // SAFETY: fields of the context that this hook may read.
    let (kind, protocol) = unsafe {
        (
            (&raw const (*ctx.sock).type_).read_volatile(),
            (&raw const (*ctx.sock).protocol).read_volatile(),
        )
    };
    // Nearly every socket ends here.
    if is_odd(kind, protocol) {
        try_create(ctx.sock, kind, protocol);
    } else if FULL.load() != 0 {
        // SAFETY: this hook's context.
        let cookie = unsafe { bpf_get_socket_cookie(ctx.sock.cast()) };
        follow::opens(cookie, owner::cgroup_id());
    }
    ALLOW
}

#[inline(always)]
fn try_create(sock: *mut bpf_sock, kind: u32, protocol: u32) {
    let owner = owner::caller();
    // SAFETY: `sock` is this hook's context.
    let (cookie, netns_cookie) =
        unsafe { (bpf_get_socket_cookie(sock.cast()), bpf_get_netns_cookie(sock.cast())) };
    if ODD.insert(&cookie, &*Words::of(Odd { owner, netns_cookie }), 0).is_err() {
        emit::lost(Loss::MapFull);
    }
    if NETS.get_ptr(owner.cgroup_id).is_none() {
        emit::lost(Loss::Unwatched);
    }
    let (kind, protocol) = match (kind, protocol) {
        (SOCK_RAW, _) => (SocketKind::Raw, protocol),
        (SOCK_DGRAM, ICMP | ICMPV6) => (SocketKind::Ping, 0),
        (_, UDPLITE) => (SocketKind::UdpLite, 0),
        _ => (SocketKind::Other, protocol),
    };
    told(&owner, kind, protocol as u8, netns_cookie);
}

#[inline(always)]
fn told(owner: &Owner, kind: SocketKind, protocol: u8, netns_cookie: u64) {
    let key = Words::of(FlowKey::opening(owner, kind, protocol));
    let told = || (&*key, Origin::without_client(owner, netns_cookie));
    seen::observe::<SKETCHED, _>((&key, Came::ESTABLISHED), told);
}

/// Capabilities as the kernel numbers them.
const CAP_NET_ADMIN: u64 = 12;
const CAP_NET_RAW: u64 = 13;

// cap_capable, a raw tracepoint since 6.14, process context (io_uring too), needs CAP_PERFMON:
// arguments 3 and 4 are the capability and 0 where it is had. Packet sockets ask for CAP_NET_RAW, vsock
// sockets for CAP_NET_ADMIN, with or without which they are made. So do others: who asks is told by
// the kernel's stack, which the agent compares with its own (`makers`).
#[raw_tracepoint(tracepoint = "cap_capable")]
fn cap_capable(ctx: RawTracePointContext) -> i32 {
    note!(&ctx, "cap_capable");
    let capability: u64 = ctx.arg(3);
    if capability == CAP_NET_RAW || capability == CAP_NET_ADMIN {
        try_ask(&ctx, capability);
    }
    0
}

#[inline(always)]
fn try_ask(ctx: &RawTracePointContext, capability: u64) {
    let mut frames = [0_u64; STACK_FRAMES];
    let size = size_of_val(&frames) as u32;
    let thread = bpf_get_current_pid_tgid() as u32;
    if let Some(wanted) = TRIED.get_ptr_mut(thread) {
        // SAFETY: there is room in the entry for as much as is said.
        _ = unsafe { bpf_get_stack(ctx.as_ptr(), wanted.cast(), size, 0) };
        return;
    }
    let refused: i32 = ctx.arg(4);
    let (maker, kind) = match capability {
        CAP_NET_RAW if refused == 0 => (Maker::Packet, SocketKind::Packet),
        CAP_NET_ADMIN => (Maker::Vsock, SocketKind::Vsock),
        _ => return,
    };
    let Some(place) = MAKERS.get(maker as u32).copied().filter(|place| *place != 0) else {
        return;
    };
    // SAFETY: there is room for as much as is said; what was not filled in stays zero.
    _ = unsafe { bpf_get_stack(ctx.as_ptr(), frames.as_mut_ptr().cast(), size, 0) };
    if frames.into_iter().any(|frame| frame == place) && is_watched() {
        told(&owner::caller(), kind, 0, 0);
    }
}

/// Whether who makes the call is in what is watched: a tracepoint belongs to no cgroup.
#[inline(always)]
fn is_watched() -> bool {
    let [cgroup, level] = WATCHED.load();
    // SAFETY: a helper without pointers.
    cgroup == 0 || unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) } == cgroup
}
