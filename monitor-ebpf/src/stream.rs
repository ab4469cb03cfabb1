//! TCP: what came of a dial, who was accepted, what a connection carried, who listens. These
//! callbacks run in softirq or in whoever's time is at hand, so owners come from maps.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_NOEXIST, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
    BPF_SOCK_OPS_RETRANS_CB_FLAG, BPF_SOCK_OPS_RTO_CB, BPF_SOCK_OPS_RTO_CB_FLAG,
    BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
    BPF_SOCK_OPS_TCP_LISTEN_CB,
};
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use monitor_common::{
    Address, ClientKey, Dialler, Direction, FlowKey, ListenKey, Listener, Loss, Origin, Outcome,
    Owner, Protocol, RemoteKind, Tracked,
};

use crate::emit;
use crate::maps::{BOUND, LISTENERS, NETNS_IN_SOCK_OPS, SOCKETS, TUPLES, UNTOLD};
use crate::note::note;
use crate::owner;
use crate::seen;
use crate::seen::{Closed, Sighted};
use crate::words::Words;

/// Any other value takes away what other programs answered.
const UNCHANGED: u32 = 1;

// sock_ops, since 4.13 (state 4.16, listen 4.19, `sk` 5.3; the namespace 5.15, the current task after
// 6.1): softirq or anybody's process context; connect and listen are always in the caller's.
#[sock_ops]
fn stream(ctx: SockOpsContext) -> u32 {
    note!(&ctx, "stream {}", ctx.op());
    try_stream(&ctx, Some(owner::current))
}

// sock_ops, as stream, in place of it on kernels up to 6.1, which do not tell the current task.
#[sock_ops]
fn stream_unasked(ctx: SockOpsContext) -> u32 {
    note!(&ctx, "stream_unasked {}", ctx.op());
    try_stream(&ctx, None::<fn() -> Owner>)
}

/// `current` tells whose the current task is, where that may be asked.
#[inline(always)]
fn try_stream(ctx: &SockOpsContext, current: Option<impl FnOnce() -> Owner>) -> u32 {
    // One place for both, for its room on the stack.
    if let Some(accept) = accepts(ctx) {
        accepted(ctx, accept);
    }
    match ctx.op() {
        // What was dialled beyond the budget is not followed.
        BPF_SOCK_OPS_TCP_CONNECT_CB if UNTOLD.get_ptr(cookie(ctx)).is_none() => {
            watch(ctx, BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTO_CB_FLAG);
        }
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => dialled(ctx),
        BPF_SOCK_OPS_RTO_CB => retransmission(ctx),
        BPF_SOCK_OPS_STATE_CB => state(ctx),
        BPF_SOCK_OPS_TCP_LISTEN_CB => listening(ctx, current),
        _ => {}
    }
    UNCHANGED
}

/// The states of `enum tcp_state` that matter here.
mod tcp {
    pub(crate) const ESTABLISHED: u32 = 1;
    pub(crate) const FIN_WAIT2: u32 = 5;
    pub(crate) const CLOSE: u32 = 7;
    pub(crate) const CLOSE_WAIT: u32 = 8;
    pub(crate) const LAST_ACK: u32 = 9;
    pub(crate) const LISTEN: u32 = 10;
    pub(crate) const CLOSING: u32 = 11;
}

/// Asks for more callbacks of this socket; setting replaces, so what others asked for is kept.
#[inline(always)]
fn watch(ctx: &SockOpsContext, flags: u32) {
    // Fails only for flags that this kernel lacks, and it has these.
    _ = ctx.set_cb_flags((ctx.cb_flags() | flags) as i32);
}

#[inline(always)]
fn dialled(ctx: &SockOpsContext) {
    let Some(tracked) = SOCKETS.get_ptr_mut(cookie(ctx)) else {
        return untold(ctx);
    };
    // SAFETY: a valid map value; recycled in place only if it is the longest unused of all.
    let tracked = unsafe { &mut *tracked };
    tracked.flags |= Tracked::ESTABLISHED;
    let client = local(ctx);
    let client_port = local_port(ctx);
    let sighted =
        seen::observe(&tracked.key, seen::now_ns(), || dialler(tracked, client, client_port));
    let tuple = Words::of(client_key(tracked.netns_cookie, client, client_port));
    let news = u64::from(sighted == Sighted::New);
    let dialler = Dialler { cgroup_id: tracked.key.cgroup_id, news };
    if TUPLES.insert(&*tuple, &dialler, 0).is_err() {
        emit::lost(Loss::MapFull);
    }
}

/// A dial that is not tracked is established. Where it was one beyond a budget, the accepting side is to
/// know its client; nobody takes the note out again but the next one from that port.
#[inline(always)]
fn untold(ctx: &SockOpsContext) {
    // SAFETY: the value is copied at once, as in `owner::of_client`.
    let Some(cgroup_id) = (unsafe { UNTOLD.get(cookie(ctx)) }).copied() else {
        return;
    };
    let tuple = Words::of(client_key(netns_cookie(ctx), local(ctx), local_port(ctx)));
    let dialler = Dialler { cgroup_id, news: 0 };
    if TUPLES.insert(&*tuple, &dialler, 0).is_err() {
        emit::lost(Loss::MapFull);
    }
}

#[inline(always)]
fn dialler(tracked: &Tracked, client: Address, client_port: u16) -> Origin {
    Origin {
        netns_cookie: tracked.netns_cookie,
        executable_id: tracked.key.executable_id,
        client,
        process: tracked.process,
        client_port,
        _reserved: [0; 6],
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Accept {
    /// A dialler on this machine does not know its own port yet: who it was is asked again later.
    Early,
    Whole,
}

/// Marks a socket that was accepted early; what the kernel calls us for then is nothing to us.
const EARLY_FLAG: u32 = BPF_SOCK_OPS_RETRANS_CB_FLAG;

/// What is accepted beyond the budget is not followed, also where it was until now.
#[inline(always)]
fn unwatched(ctx: &SockOpsContext) {
    if ctx.cb_flags() & EARLY_FLAG != 0 {
        _ = SOCKETS.remove(cookie(ctx));
        // As in `watch`; what others have asked for is kept where it is not the same.
        let flags = ctx.cb_flags() & !(BPF_SOCK_OPS_STATE_CB_FLAG | EARLY_FLAG);
        _ = ctx.set_cb_flags(flags as i32);
    }
}

/// Whether a socket was accepted. By Fast Open it is with the first segment, of which there are two
/// otherwise; it is taken up again when its handshake is done or never will be.
#[inline(always)]
fn accepts(ctx: &SockOpsContext) -> Option<Accept> {
    match ctx.op() {
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => {
            // SAFETY: a field of the context.
            let segments_in = unsafe { (&raw const (*ctx.ops).segs_in).read_volatile() };
            Some(if segments_in < 2 { Accept::Early } else { Accept::Whole })
        }
        BPF_SOCK_OPS_STATE_CB if ctx.cb_flags() & EARLY_FLAG != 0 => {
            let ends = matches!(ctx.arg(1), tcp::ESTABLISHED | tcp::CLOSE);
            let tracked = if ends { SOCKETS.get_ptr(cookie(ctx))? } else { return None };
            // SAFETY: a valid map value, as in `dialled`. Others may use the same flag.
            let is_early = unsafe { (*tracked).flags } & Tracked::EARLY != 0;
            is_early.then_some(Accept::Whole)
        }
        _ => None,
    }
}

#[inline(always)]
fn accepted(ctx: &SockOpsContext, accept: Accept) {
    let netns_cookie = netns_cookie(ctx);
    let local = local(ctx);
    let listen_key = listen_key(netns_cookie, local, local_port(ctx));
    let Some(owner) = owner::of_accepted(&listen_key, socket(ctx)) else {
        return emit::lost(Loss::Unattributed);
    };
    let client = remote(ctx);
    let client_port = remote_port(ctx);
    let from = owner::of_client(&Words::of(client_key(netns_cookie, client, client_port)));
    let is_early = accept == Accept::Early && from.kind != RemoteKind::Cgroup;
    let tracked = Words::of(Tracked {
        key: FlowKey {
            cgroup_id: owner.cgroup_id,
            executable_id: 0,
            remote: from.remote,
            local,
            port: listen_key.port,
            protocol: Protocol::Tcp,
            direction: Direction::Inbound,
            remote_kind: from.kind,
            outcome: Outcome::Established,
            _reserved: [0; 2],
        },
        netns_cookie,
        process: owner.process,
        flags: if is_early { Tracked::EARLY } else { Tracked::ESTABLISHED },
        received_at_fin: 0,
    });
    if is_early {
        watch(ctx, EARLY_FLAG);
    } else {
        let now_ns = seen::now_ns();
        let is_known = seen::count(&tracked.key, now_ns);
        if !is_known || from.is_news {
            let origin = Words::of(Origin {
                netns_cookie,
                executable_id: owner.executable_id,
                client,
                process: owner.process,
                client_port,
                _reserved: [0; 6],
            });
            if is_known {
                seen::repeat(&tracked.key, &origin, now_ns);
            } else if seen::enter(&tracked.key, &origin, now_ns) == Sighted::OverBudget {
                return unwatched(ctx);
            }
        }
    }
    watch(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
    if SOCKETS.insert(cookie(ctx), &*tracked, 0).is_err() {
        emit::lost(Loss::MapFull);
    }
}

/// Notes that the kernel gave up; the state change that follows does not say why.
#[inline(always)]
fn retransmission(ctx: &SockOpsContext) {
    let expired = ctx.arg(2);
    if expired == 1
        && let Some(tracked) = SOCKETS.get_ptr_mut(cookie(ctx))
    {
        // SAFETY: a valid map value, as in `dialled`.
        unsafe { (*tracked).flags |= Tracked::TIMED_OUT };
    }
}

#[inline(always)]
fn state(ctx: &SockOpsContext) {
    let to = ctx.arg(1);
    if to != tcp::CLOSE && to != tcp::FIN_WAIT2 {
        return;
    }
    if ctx.arg(0) == tcp::LISTEN {
        return unlistened(ctx);
    }
    let cookie = cookie(ctx);
    let Some(tracked) = SOCKETS.get_ptr_mut(cookie) else {
        if to == tcp::CLOSE {
            emit::lost(Loss::Untracked);
        }
        return;
    };
    // SAFETY: a valid map value, as in `dialled`.
    let tracked = unsafe { &mut *tracked };
    if to == tcp::FIN_WAIT2 {
        tracked.received_at_fin = received(ctx) as u32;
        return;
    }
    if tracked.flags & Tracked::ESTABLISHED == 0 {
        failed(ctx, tracked);
    } else {
        closed(ctx, tracked);
    }
    // Not there any more: another close of it was first.
    _ = SOCKETS.remove(cookie);
}

#[inline(always)]
fn failed(ctx: &SockOpsContext, tracked: &mut Tracked) {
    // SAFETY: a field of the context.
    let segments_in = unsafe { (&raw const (*ctx.ops).segs_in).read_volatile() };
    let outcome = if tracked.flags & Tracked::TIMED_OUT != 0 {
        Outcome::TimedOut
    } else if segments_in != 0 {
        Outcome::Refused
    } else {
        Outcome::Unreachable
    };
    let key = Words::of(FlowKey { outcome, ..tracked.key });
    seen::observe(&key, seen::now_ns(), || dialler(tracked, local(ctx), local_port(ctx)));
}

#[inline(always)]
fn closed(ctx: &SockOpsContext, tracked: &mut Tracked) {
    let from = ctx.arg(0);
    // SAFETY: fields of the context.
    let (acked, srtt_us) = unsafe {
        (
            (&raw const (*ctx.ops).bytes_acked).read_volatile(),
            (&raw const (*ctx.ops).srtt_us).read_volatile(),
        )
    };
    let received = received(ctx);
    // The kernel counts the dialler's SYN and each end's FIN as a byte.
    let outbound = tracked.key.direction as u8 == Direction::Outbound as u8;
    let fin_acked = matches!(from, tcp::FIN_WAIT2 | tcp::LAST_ACK | tcp::CLOSING);
    let fin_received = matches!(from, tcp::CLOSE_WAIT | tcp::LAST_ACK | tcp::CLOSING)
        || from == tcp::FIN_WAIT2 && received as u32 != tracked.received_at_fin;
    let closed = Closed {
        bytes_sent: acked.saturating_sub(u64::from(outbound) + u64::from(fin_acked)),
        bytes_received: received.saturating_sub(u64::from(fin_received)),
        rtt_us: srtt_us >> 3,
    };
    if !seen::close(&tracked.key, &closed, seen::now_ns()) {
        emit::lost(Loss::Untracked);
    }
    if outbound {
        // Not there any more: its place was needed.
        let tuple = Words::of(client_key(tracked.netns_cookie, local(ctx), local_port(ctx)));
        _ = TUPLES.remove(&*tuple);
    }
}

/// A socket listens. Its owner is the caller where the kernel lets us ask, else whoever bound it;
/// where neither is known, what it accepts will be `Unattributed`.
#[inline(always)]
fn listening(ctx: &SockOpsContext, current: Option<impl FnOnce() -> Owner>) {
    let cookie = cookie(ctx);
    let may_ask = current.is_some();
    let mut owner = current.map_or(Owner::UNKNOWN, |current| current());
    // SAFETY: the value is copied at once, as in `datagram::bound`.
    if let Some(bound) = unsafe { BOUND.get(cookie) } {
        // Who bound it is known better; another caller took it over.
        let bound = &bound.owner;
        let same = bound.cgroup_id == owner.cgroup_id && bound.process.pid == owner.process.pid;
        if same || !may_ask {
            owner = *bound;
        }
    } else if !may_ask {
        return;
    }
    let key = Words::of(listen_key(netns_cookie(ctx), local(ctx), local_port(ctx)));
    if enter(ctx, &key, &owner) {
        watch(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
    } else {
        emit::lost(Loss::MapFull);
    }
    let origin = || Origin::listening(&owner, key.netns_cookie);
    let flow = Words::of(FlowKey::listening(&owner, &key));
    seen::observe(&flow, seen::now_ns(), origin);
    // Not there: it was never bound.
    _ = BOUND.remove(cookie);
}

#[inline(always)]
fn enter(ctx: &SockOpsContext, key: &ListenKey, owner: &Owner) -> bool {
    let Some(listener) = LISTENERS.get_ptr_mut(key) else {
        let listener = Words::of(Listener { owner: *owner, sockets: 1, shared: 0 });
        return LISTENERS.insert(key, &*listener, u64::from(BPF_NOEXIST)).is_ok();
    };
    // SAFETY: a valid map value, not recycled: the map is no LRU.
    let listener = unsafe { &mut *listener };
    listener.sockets += 1;
    if listener.owner.cgroup_id == owner.cgroup_id {
        listener.owner = *owner;
        return true;
    }
    listener.shared = 1;
    owner::store(socket(ctx), *owner)
}

#[inline(always)]
fn unlistened(ctx: &SockOpsContext) {
    let key = Words::of(listen_key(netns_cookie(ctx), local(ctx), local_port(ctx)));
    let Some(listener) = LISTENERS.get_ptr_mut(&*key) else {
        return;
    };
    // SAFETY: a valid map value, as in `enter`.
    let listener = unsafe { &mut *listener };
    if listener.sockets > 1 {
        listener.sockets -= 1;
    } else {
        // Not there any more: another CPU was first.
        _ = LISTENERS.remove(&*key);
    }
}

#[inline(always)]
fn listen_key(netns_cookie: u64, address: Address, port: u16) -> ListenKey {
    ListenKey { netns_cookie, address, port, _reserved: [0; 6] }
}

#[inline(always)]
fn client_key(netns_cookie: u64, address: Address, port: u16) -> ClientKey {
    ClientKey {
        netns_cookie: if address.is_loopback() { netns_cookie } else { 0 },
        address,
        port,
        _reserved: [0; 6],
    }
}

#[inline(always)]
fn received(ctx: &SockOpsContext) -> u64 {
    // SAFETY: a field of the context.
    unsafe { (&raw const (*ctx.ops).bytes_received).read_volatile() }
}

#[inline(always)]
fn cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: this hook's context.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

/// 0 on kernels that do not tell (before 5.15): then listeners of different namespaces share
/// entries, and their children carry their owners.
#[inline(always)]
fn netns_cookie(ctx: &SockOpsContext) -> u64 {
    if NETNS_IN_SOCK_OPS.load() == 0 {
        return 0;
    }
    // SAFETY: this hook's context.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

#[inline(always)]
fn socket(ctx: &SockOpsContext) -> *mut core::ffi::c_void {
    // SAFETY: a field of the context: null, or the socket.
    unsafe { (*ctx.ops).__bindgen_anon_2.sk }.cast()
}

const AF_INET: u32 = 2;

#[inline(always)]
fn local(ctx: &SockOpsContext) -> Address {
    if ctx.family() == AF_INET {
        return Address::v4(ctx.local_ip4());
    }
    // SAFETY: fields of the context, readable word by word only.
    unsafe {
        Address([
            (&raw const (*ctx.ops).local_ip6[0]).read_volatile(),
            (&raw const (*ctx.ops).local_ip6[1]).read_volatile(),
            (&raw const (*ctx.ops).local_ip6[2]).read_volatile(),
            (&raw const (*ctx.ops).local_ip6[3]).read_volatile(),
        ])
    }
}

#[inline(always)]
fn remote(ctx: &SockOpsContext) -> Address {
    if ctx.family() == AF_INET {
        return Address::v4(ctx.remote_ip4());
    }
    // SAFETY: fields of the context, readable word by word only.
    unsafe {
        Address([
            (&raw const (*ctx.ops).remote_ip6[0]).read_volatile(),
            (&raw const (*ctx.ops).remote_ip6[1]).read_volatile(),
            (&raw const (*ctx.ops).remote_ip6[2]).read_volatile(),
            (&raw const (*ctx.ops).remote_ip6[3]).read_volatile(),
        ])
    }
}

#[inline(always)]
fn local_port(ctx: &SockOpsContext) -> u16 {
    ctx.local_port() as u16
}

#[inline(always)]
fn remote_port(ctx: &SockOpsContext) -> u16 {
    // Network order in the upper half on little-endian machines.
    u32::from_be(ctx.remote_port()) as u16
}
