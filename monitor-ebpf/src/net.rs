//! What unusual sockets send: the packets that no socket hook explains. It costs every packet of the
//! cgroups below it, so the agent attaches it only where such a socket was made.

use aya_ebpf::bindings::{__sk_buff, bpf_sock};
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_sk_fullsock, bpf_skb_cgroup_id};
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use monitor_common::{Address, FlowKey, Odd, Origin, Outcome, Owner, Protocol};

use crate::budget::SKETCHED;
use crate::connect::outbound;
use crate::maps::ODD;
use crate::note::note;
use crate::odd::{UDPLITE, is_odd};
use crate::packet::load;
use crate::seen;
use crate::seen::Came;
use crate::words::Words;

const PASS: i32 = 1;

// cgroup_skb egress, since 4.10 (the packet's cgroup 5.8, its socket's fields 5.1), process context or
// softirq: the owner is who made the socket, not who runs. The packet begins with its IP header.
#[cgroup_skb]
fn net(ctx: SkBuffContext) -> i32 {
    note!(&ctx, "net");
    _ = try_send(ctx.skb.skb);
    PASS
}

#[inline(always)]
fn try_send(skb: *mut __sk_buff) -> Option<()> {
    let (socket, protocol) = unusual(skb)?;
    // SAFETY: a field of a full socket, checked not to be null.
    let connected = unsafe { (&raw const (*socket).dst_port).read_volatile() } != 0;
    if protocol == UDPLITE && !connected {
        // Seen as it was sent, in `datagram`.
        return None;
    }
    let sent = sent(skb)?;
    // SAFETY: `skb` is this hook's context.
    let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    // SAFETY: the value is copied at once. Entries are recycled in place, so there is the slightest
    // chance of another owner.
    let odd = unsafe { ODD.get(cookie) }.copied().unwrap_or_else(|| older(skb));
    let key = Words::of(outbound(&odd.owner, sent.remote, sent.port, sent.protocol, sent.outcome));
    tell(&key, &odd);
    Some(())
}

#[inline(always)]
fn tell(key: &FlowKey, odd: &Odd) {
    let told = || (key, Origin::without_client(&odd.owner, odd.netns_cookie));
    seen::observe::<SKETCHED, _>((key, Came::packet(key.outcome)), told);
}

/// The socket that a packet comes from, and its protocol, where it is an unusual one.
#[inline(always)]
fn unusual(skb: *mut __sk_buff) -> Option<(*mut bpf_sock, u32)> {
    // SAFETY: a field of the context.
    let socket = unsafe { (&raw const (*skb).__bindgen_anon_2.sk).read() };
    if socket.is_null() {
        return None;
    }
    // SAFETY: not null; the helper gives null for what is no whole socket.
    let socket = unsafe { bpf_sk_fullsock(socket) };
    if socket.is_null() {
        return None;
    }
    // SAFETY: fields of a full socket, checked not to be null.
    let (kind, protocol) = unsafe {
        (
            (&raw const (*socket).type_).read_volatile(),
            (&raw const (*socket).protocol).read_volatile(),
        )
    };
    is_odd(kind, protocol).then_some((socket, protocol))
}

/// The owner of a socket that is older than we are, as far as a packet tells.
#[inline(always)]
fn older(skb: *mut __sk_buff) -> Odd {
    // SAFETY: `skb` is this hook's context.
    let cgroup_id = unsafe { bpf_skb_cgroup_id(skb) };
    Odd { owner: Owner { cgroup_id, ..Owner::UNKNOWN }, netns_cookie: 0 }
}

/// What a packet is, and to whom.
struct Sent {
    remote: Address,
    protocol: Protocol,
    port: u16,
    outcome: Outcome,
}

/// Reads the headers. Extension headers of IPv6 are not followed: they are a protocol by themselves.
#[inline(always)]
fn sent(skb: *mut __sk_buff) -> Option<Sent> {
    const FRAGMENT_OFFSET: u32 = 0x1fff;
    let first: u32 = load(skb, 0)?;
    let [version, ..] = first.to_ne_bytes();
    let (remote, number, payload_at, is_first) = match version >> 4 {
        4 => {
            let header: [u32; 5] = load(skb, 0)?;
            let offset = u32::from_be(header[1]) & FRAGMENT_OFFSET;
            let [_, number, ..] = header[2].to_ne_bytes();
            let length = u32::from(version & 0xf) * 4;
            (Address::v4(header[4]), number, length, offset == 0)
        }
        6 => {
            let header: [u32; 10] = load(skb, 0)?;
            let [_, _, number, _] = header[1].to_ne_bytes();
            (Address([header[6], header[7], header[8], header[9]]), number, 40, true)
        }
        _ => return None,
    };
    let other =
        Sent { remote, protocol: Protocol::Ip, port: u16::from(number), outcome: Outcome::Sent };
    if !is_first {
        return Some(other);
    }
    // Cut off: then there is no port, and it is told all the same.
    let Some(ports) = load::<u32>(skb, payload_at) else {
        return Some(other);
    };
    let port = (u32::from_be(ports) & 0xffff) as u16;
    Some(match number {
        1 | 58 => {
            let [kind, ..] = ports.to_ne_bytes();
            Sent { protocol: Protocol::Icmp, port: u16::from(kind), ..other }
        }
        // A segment, be it a SYN or not: nobody waits for what comes of it.
        6 => Sent { protocol: Protocol::Tcp, port, outcome: Outcome::Attempted, ..other },
        17 => Sent { protocol: Protocol::Udp, port, ..other },
        136 => Sent { protocol: Protocol::UdpLite, port, ..other },
        _ => other,
    })
}
