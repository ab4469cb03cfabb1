//! TCP: what came of a dial, who was accepted, what a connection carried, who listens. These
//! callbacks run in softirq or in whoever's time is at hand, so owners come from maps.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_NOEXIST, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
    BPF_SOCK_OPS_RTO_CB, BPF_SOCK_OPS_RTO_CB_FLAG, BPF_SOCK_OPS_STATE_CB,
    BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TCP_LISTEN_CB,
};
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use monitor_common::{
    Address, ClientKey, Dialler, Direction, FlowKey, Followed, ListenKey, Listener, Loss, Origin,
    Outcome, Owner, Protocol, RemoteKind, Tracked,
};

use crate::budget::COUNTED;
use crate::budget::SKETCHED;
use crate::emit;
use crate::follow;
use crate::maps::{BOUND, FULL, LISTENERS, NETNS_IN_SOCK_OPS};
use crate::note::note;
use crate::owner;
use crate::seen;
use crate::seen::{Came, Closed, Sighted};
use crate::words::Words;

/// Any other value takes away what other programs answered.
const UNCHANGED: u32 = 1;

/// What is asked of every connection that is followed; both, so that most that are watched for others
/// can be told apart at once.
const FOLLOWED: u32 = BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_RTO_CB_FLAG;

// sock_ops, since 4.13 (state 4.16, listen 4.19, `sk` 5.3; the namespace 5.15, the current task after
// 6.1): softirq or anybody's process context; connect and listen are always in the caller's.
#[sock_ops]
fn stream(ctx: SockOpsContext) -> u32 {
    note!(&ctx, "stream {}", ctx.op());
    try_stream::<SKETCHED>(&ctx, Some(owner::current))
}

// sock_ops, as stream, in place of it on kernels up to 6.1, which do not tell the current task.
#[sock_ops]
fn stream_unasked(ctx: SockOpsContext) -> u32 {
    note!(&ctx, "stream_unasked {}", ctx.op());
    try_stream::<COUNTED>(&ctx, None::<fn() -> Owner>)
}

/// `current` tells whose the current task is, where that may be asked.
#[inline(always)]
fn try_stream<const SKETCH: u8>(
    ctx: &SockOpsContext,
    current: Option<impl FnOnce() -> Owner>,
) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => dials(ctx),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => dialled::<SKETCH>(ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted::<SKETCH>(ctx),
        BPF_SOCK_OPS_RTO_CB => retransmission(ctx),
        BPF_SOCK_OPS_STATE_CB if matches!(ctx.arg(1), tcp::CLOSE | tcp::FIN_WAIT2) => {
            state::<SKETCH>(ctx)
        }
        BPF_SOCK_OPS_TCP_LISTEN_CB => match current {
            Some(current) => listening::<SKETCH>(ctx, &current(), Caller::Told),
            None => listening::<SKETCH>(ctx, &Words::of(Owner::UNKNOWN), Caller::Untold),
        },
        _ => {}
    }
    UNCHANGED
}

/// The states of `enum tcp_state` that matter here.
mod tcp {
    pub(crate) const SYN_SENT: u32 = 2;
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

/// A dial goes out: only now does it have an address and port of its own. By Fast Open it may be
/// accepted before it is established, so who accepts is told already who dials.
#[inline(never)]
fn dials(ctx: &SockOpsContext) {
    let Some(followed) = follow::of(cookie(ctx)) else {
        // It was there a moment ago: forgotten for another.
        return emit::lost(Loss::Untracked);
    };
    let client = client_key(ctx, local(ctx), local_port(ctx));
    let news = followed.flags & Followed::NEWS;
    let dialler = Dialler { cgroup_id: followed.tracked.key.cgroup_id, news: u64::from(news) };
    follow::dials(&client, dialler, seen::about_now_ns());
    if followed.flags & Followed::UNTOLD == 0 {
        followed.flags = news;
        watch(ctx, FOLLOWED);
    } else {
        followed.cookie = 0;
    }
}

#[inline(never)]
fn dialled<const SKETCH: u8>(ctx: &SockOpsContext) {
    let Some(followed) = follow::of(cookie(ctx)).filter(|it| it.is_whole()) else {
        return;
    };
    let sighted = came::<SKETCH>(ctx, &followed.tracked, Came::ESTABLISHED);
    if sighted == Sighted::OverBudget {
        followed.cookie = 0;
    }
}

/// This came of a dial.
#[inline(always)]
fn came<const SKETCH: u8>(ctx: &SockOpsContext, tracked: &Tracked, this: Came) -> Sighted {
    // Whoever takes its place meanwhile has another key.
    let told = || (Words::of(tracked.key), dialler(tracked, local(ctx), local_port(ctx)));
    seen::observe::<SKETCH, _>((&tracked.key, this), told)
}

#[inline(always)]
fn dialler(tracked: &Tracked, client: Address, client_port: u16) -> Origin {
    Origin {
        netns_cookie: tracked.netns_cookie,
        executable_id: tracked.key.executable_id,
        client,
        process: tracked.process,
        ends: Origin::ends(client_port, 0),
    }
}

#[inline(never)]
fn accepted<const SKETCH: u8>(ctx: &SockOpsContext) {
    // First of all: the verifier goes through it once for every way that leads to it.
    let now_ns = seen::about_now_ns();
    let (client, client_port) = (remote(ctx), remote_port(ctx));
    let from = owner::of_client(&client_key(ctx, client, client_port), now_ns);
    let netns_cookie = netns_cookie(ctx);
    let local = local(ctx);
    let listen_key = listen_key(netns_cookie, local, local_port(ctx));
    let Some(owner) = owner::of_accepted(&listen_key, socket(ctx)) else {
        return emit::lost(Loss::Unattributed);
    };
    let key = Words::of(FlowKey {
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
    });
    let is_known = seen::count(&key, Outcome::Established, now_ns);
    if !is_known || from.is_news {
        let origin = Words::of(Origin {
            netns_cookie,
            executable_id: owner.executable_id,
            client,
            process: owner.process,
            ends: Origin::ends(client_port, 0),
        });
        if is_known {
            seen::repeat(&key, &origin);
        } else {
            let sighted = seen::enter::<SKETCH>(&key, Outcome::Established, &origin);
            if sighted == Sighted::OverBudget {
                return;
            }
        }
    }
    // Where the dialler is here as well, what is carried is counted at its end.
    if FULL.load() != 0 || !matches!(from.kind, RemoteKind::Cgroup) {
        follow::begin(cookie(ctx), &key, netns_cookie, &owner.process);
        watch(ctx, FOLLOWED);
    }
}

/// Notes that the kernel gave up; the state change that follows does not say why.
#[inline(always)]
fn retransmission(ctx: &SockOpsContext) {
    if ctx.arg(2) == 1
        && let Some(followed) = follow::of(cookie(ctx))
    {
        followed.flags |= Followed::TIMED_OUT;
    }
}

#[inline(never)]
fn state<const SKETCH: u8>(ctx: &SockOpsContext) {
    let (from, to) = (ctx.arg(0), ctx.arg(1));
    if from == tcp::LISTEN {
        return unlistened(ctx);
    }
    if ctx.cb_flags() & FOLLOWED != FOLLOWED {
        return;
    }
    // Not ours: another program asked to be told, or it was forgotten, and counted then.
    let Some(followed) = follow::of(cookie(ctx)) else {
        return;
    };
    if to == tcp::FIN_WAIT2 {
        followed.received_at_fin = received(ctx) as u32;
        return;
    }
    if !followed.is_whole() {
        emit::lost(Loss::Untracked);
    } else if from == tcp::SYN_SENT {
        failed::<SKETCH>(ctx, followed);
    } else {
        closed(ctx, followed, from);
    }
    followed.cookie = 0;
}

#[inline(always)]
fn failed<const SKETCH: u8>(ctx: &SockOpsContext, followed: &Followed) {
    // SAFETY: a field of the context.
    let segments_in = unsafe { (&raw const (*ctx.ops).segs_in).read_volatile() };
    let outcome = if followed.flags & Followed::TIMED_OUT != 0 {
        Outcome::TimedOut
    } else if segments_in != 0 {
        Outcome::Refused
    } else {
        Outcome::Unreachable
    };
    came::<SKETCH>(ctx, &followed.tracked, Came::failed(outcome));
}

#[inline(always)]
fn closed(ctx: &SockOpsContext, followed: &Followed, from: u32) {
    let key = &followed.tracked.key;
    // SAFETY: fields of the context.
    let (acked, srtt_us) = unsafe {
        (
            (&raw const (*ctx.ops).bytes_acked).read_volatile(),
            (&raw const (*ctx.ops).srtt_us).read_volatile(),
        )
    };
    let received = received(ctx);
    // The kernel counts the dialler's SYN and each end's FIN as a byte.
    let outbound = key.direction as u8 == Direction::Outbound as u8;
    let fin_acked = matches!(from, tcp::FIN_WAIT2 | tcp::LAST_ACK | tcp::CLOSING);
    let fin_received = matches!(from, tcp::CLOSE_WAIT | tcp::LAST_ACK | tcp::CLOSING)
        || from == tcp::FIN_WAIT2 && received as u32 != followed.received_at_fin;
    let closed = Closed {
        bytes_sent: acked.saturating_sub(u64::from(outbound) + u64::from(fin_acked)),
        bytes_received: received.saturating_sub(u64::from(fin_received)),
        rtt_us: srtt_us >> 3,
    };
    if !seen::close(key, &closed, seen::about_now_ns()) {
        emit::lost(Loss::Untracked);
    }
}

/// Whether the kernel says whose the current task is. Beside the owner, and not around it: whether a
/// pointer into the stack is null may not be asked without CAP_PERFMON.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Caller {
    Told,
    Untold,
}

/// A socket listens. Its owner is the caller where the kernel lets us ask, else whoever bound it;
/// where neither is known, what it accepts will be `Unattributed`.
#[inline(never)]
fn listening<const SKETCH: u8>(ctx: &SockOpsContext, owner: &Owner, caller: Caller) {
    let cookie = cookie(ctx);
    let may_ask = caller == Caller::Told;
    let mut owner = *owner;
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
    // Where the table has no room, the socket itself says whose it is.
    if enter(ctx, &key, &owner) || owner::store(socket(ctx), owner) {
        watch(ctx, BPF_SOCK_OPS_STATE_CB_FLAG);
    } else {
        emit::lost(Loss::MapFull);
    }
    let flow = Words::of(FlowKey::listening(&owner, &key));
    let told = || (&*flow, Origin::without_client(&owner, key.netns_cookie));
    seen::observe::<SKETCH, _>((&flow, Came::ESTABLISHED), told);
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
fn client_key(ctx: &SockOpsContext, address: Address, port: u16) -> ClientKey {
    let netns_cookie = if address.is_loopback() { netns_cookie(ctx) } else { 0 };
    ClientKey { netns_cookie, address, port: u64::from(port) }
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
