//! `bind`: notes whose local port it is. That a port is listened at, or answered from, is seen
//! elsewhere: a client may bind too.

use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::bpf_get_socket_cookie;
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use monitor_common::{Address, Bound, Loss, Protocol};

use crate::budget;
use crate::emit;
use crate::maps::BOUND;
use crate::note::note;
use crate::owner;
use crate::seen;
use crate::words::Words;

const ALLOW: i32 = 1;

// post_bind4, since 4.17, process context: `src_ip4` and `src_port` are final.
#[cgroup_sock(post_bind4)]
fn post_bind4(ctx: SockContext) -> i32 {
    note!(&ctx, "post_bind4");
    // SAFETY: a field of the context that this hook may read.
    let address = unsafe { (&raw const (*ctx.sock).src_ip4).read_volatile() };
    try_bind(ctx.sock, Address::v4(address));
    ALLOW
}

// post_bind6, since 4.17, process context: `src_ip6` and `src_port` are final; `src_ip4` is refused.
#[cgroup_sock(post_bind6)]
fn post_bind6(ctx: SockContext) -> i32 {
    note!(&ctx, "post_bind6");
    // SAFETY: fields of the context that this hook may read.
    let address = unsafe {
        [
            (&raw const (*ctx.sock).src_ip6[0]).read_volatile(),
            (&raw const (*ctx.sock).src_ip6[1]).read_volatile(),
            (&raw const (*ctx.sock).src_ip6[2]).read_volatile(),
            (&raw const (*ctx.sock).src_ip6[3]).read_volatile(),
        ]
    };
    try_bind(ctx.sock, Address(address));
    ALLOW
}

#[inline(always)]
fn try_bind(sock: *mut bpf_sock, address: Address) {
    // SAFETY: fields of the context that this hook may read.
    let (protocol, port) = unsafe {
        (
            (&raw const (*sock).protocol).read_volatile(),
            (&raw const (*sock).src_port).read_volatile(),
        )
    };
    let protocol = match protocol {
        6 | IPPROTO_MPTCP => Protocol::Tcp,
        17 => Protocol::Udp,
        136 => Protocol::UdpLite,
        _ => return,
    };
    if port == 0 {
        return;
    }
    let bound = Words::of(Bound {
        owner: owner::caller(),
        address: if address.is_unspecified() { Address::ZERO } else { address },
        port: port as u16,
        protocol,
        _reserved: [0; 5],
    });
    if !budget::spend_on_bind(bound.owner.cgroup_id, seen::about_now_ns()) {
        // Whoever lets the kernel choose is a client, and passes for one.
        if port < FIRST_EPHEMERAL && !matches!(protocol, Protocol::Tcp) {
            emit::lost(Loss::MapFull);
        }
        return;
    }
    // SAFETY: `sock` is this hook's context.
    let cookie = unsafe { bpf_get_socket_cookie(sock.cast()) };
    if BOUND.insert(&cookie, &*bound, 0).is_err() {
        emit::lost(Loss::MapFull);
    }
}

/// Where the ports begin that the kernel chooses, unless somebody set that.
const FIRST_EPHEMERAL: u32 = 32_768;

/// A multipath socket binds as itself; its listening subflow has a cookie of its own.
const IPPROTO_MPTCP: u32 = 262;
