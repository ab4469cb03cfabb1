//! What is asked of resolvers and answered: the only payload that is handed over, of sockets that were
//! told to send to port 53. It costs every packet of the cgroups below it, so the agent attaches it only
//! where names are asked for. What is in a message, and who is to be believed, is the agent's to say.

use core::hint::black_box;
use core::mem::MaybeUninit;

use aya_ebpf::bindings::{
    __sk_buff, BPF_RB_NO_WAKEUP, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_sock_addr,
};
use aya_ebpf::helpers::generated::{bpf_get_socket_cookie, bpf_sk_storage_get, bpf_skb_load_bytes};
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use monitor_common::{
    Address, Asker, DNS_PORT, Direction, LOOKUP_ROOMS, LookupHead, Loss, Protocol,
};

use crate::budget;
use crate::connect::{protocol, remote_port};
use crate::emit;
use crate::maps::{ASKERS, DNS, LOOKUPS};
use crate::note::note;
use crate::owner;
use crate::packet::load;
use crate::seen;
use crate::words::Words;

const PASS: i32 = 1;

// cgroup_skb egress, since 4.10 (socket storage 5.2), process context or softirq: what is sent, after
// address translation. The packet begins with its IP header.
#[cgroup_skb]
fn asked(ctx: SkBuffContext) -> i32 {
    note!(&ctx, "asked");
    _ = try_hear(ctx.skb.skb, Direction::Outbound);
    PASS
}

// cgroup_skb ingress, since 4.10 (socket storage 5.2), softirq: what a socket gets, before whoever reads
// it can; its far end is the one that was dialled again.
#[cgroup_skb]
fn answered(ctx: SkBuffContext) -> i32 {
    note!(&ctx, "answered");
    _ = try_hear(ctx.skb.skb, Direction::Inbound);
    PASS
}

/// Notes that a socket is told to send to a resolver. The address that was dialled is known only here.
#[inline(always)]
pub(crate) fn dialled(ctx: *mut bpf_sock_addr, remote: Address) {
    // Nearly every dial ends here.
    if remote_port(ctx) == DNS_PORT
        && DNS.load() != 0
        && let Some(Protocol::Tcp | Protocol::Udp) = protocol(ctx)
    {
        note_asker(ctx, remote);
    }
}

#[inline(always)]
fn note_asker(ctx: *mut bpf_sock_addr, resolver: Address) {
    let asker = Words::of(Asker { cgroup_id: owner::cgroup_id(), resolver });
    // SAFETY: a field of the context, which is never null here.
    let socket = unsafe { (&raw const (*ctx).__bindgen_anon_1.sk).read_volatile() };
    let value = core::ptr::from_ref(&*asker).cast_mut();
    // SAFETY: a socket storage of `Asker`, and the context's own socket.
    let noted = unsafe { stored(socket, value, u64::from(BPF_SK_STORAGE_GET_F_CREATE)) };
    if noted.is_null() {
        return emit::lost(Loss::Unheard);
    }
    // SAFETY: a value of the storage. Two threads that tell one socket to send elsewhere may leave a
    // part of each: it is believed less then.
    unsafe { noted.write(*asker) };
}

/// What is noted of a socket; null where nothing is, and none is to be made.
///
/// # Safety
///
/// `socket` is a context's own, `value` null or whole.
#[inline(always)]
unsafe fn stored(socket: *mut bpf_sock, value: *mut Asker, flags: u64) -> *mut Asker {
    let map = (&raw const ASKERS).cast_mut().cast();
    // SAFETY: the caller's; `map` is a socket storage of `Asker`.
    unsafe { bpf_sk_storage_get(map, socket.cast(), value.cast(), flags) }.cast()
}

#[inline(always)]
fn try_hear(skb: *mut __sk_buff, direction: Direction) -> Option<()> {
    // SAFETY: a field of the context.
    let socket = unsafe { (&raw const (*skb).__bindgen_anon_2.sk).read() };
    if socket.is_null() {
        return None;
    }
    // SAFETY: not null, the context's own.
    let asker = unsafe { stored(socket, core::ptr::null_mut(), 0) };
    // Nearly every packet ends here.
    if asker.is_null() {
        return None;
    }
    let packet = packet(skb, direction)?;
    // SAFETY: a field of the context.
    let length = unsafe { (&raw const (*skb).len).read_volatile() };
    let length = black_box(u64::from(length.wrapping_sub(packet.payload_at)));
    if length < packet.least {
        return None;
    }
    let heard = Heard { skb, socket, asker, packet, direction };
    let [small, middle, large] = const { LOOKUP_ROOMS };
    if length <= small as u64 {
        heard.tell::<{ LOOKUP_ROOMS[0] }>(length);
    } else if length <= middle as u64 {
        heard.tell::<{ LOOKUP_ROOMS[1] }>(length);
    } else if length <= large as u64 {
        heard.tell::<{ LOOKUP_ROOMS[2] }>(length);
    } else {
        emit::lost(Loss::Unheard);
    }
    Some(())
}

/// What the headers say.
struct Packet {
    far: Address,
    /// 1 where both ends have one address.
    same: u32,
    far_port: u16,
    protocol: Protocol,
    sequence: u32,
    payload_at: u32,
    /// Less payload says nothing.
    least: u64,
}

/// Reads the headers; None where it is no message of that direction. Extension headers of IPv6 are not
/// followed.
#[inline(always)]
fn packet(skb: *mut __sk_buff, direction: Direction) -> Option<Packet> {
    const HEADER: u64 = 12;
    let outbound = matches!(direction, Direction::Outbound);
    let first: u32 = load(skb, 0)?;
    let [version, ..] = first.to_ne_bytes();
    let (far, same, number, ports_at) = match version >> 4 {
        4 => {
            let header: [u32; 5] = load(skb, 0)?;
            let [_, number, ..] = header[2].to_ne_bytes();
            let far = if outbound { header[4] } else { header[3] };
            let same = u32::from(header[3] == header[4]);
            (Address::v4(far), same, number, u32::from(version & 0xf) * 4)
        }
        6 => {
            let header: [u32; 10] = load(skb, 0)?;
            let [_, _, number, _] = header[1].to_ne_bytes();
            let far = if outbound {
                [header[6], header[7], header[8], header[9]]
            } else {
                [header[2], header[3], header[4], header[5]]
            };
            let differs = (header[2] ^ header[6])
                | (header[3] ^ header[7])
                | (header[4] ^ header[8])
                | (header[5] ^ header[9]);
            (Address(far), u32::from(differs == 0), number, 40)
        }
        _ => return None,
    };
    let ports = u32::from_be(load(skb, ports_at)?);
    let far_port = if outbound { ports as u16 } else { (ports >> 16) as u16 };
    match number {
        17 => {
            let payload_at = ports_at + 8;
            let header: u32 = load(skb, payload_at)?;
            let [_, _, flags, _] = header.to_ne_bytes();
            let is_answer = flags & 0x80 != 0;
            let protocol = Protocol::Udp;
            let (sequence, least) = (0, HEADER);
            (is_answer != outbound).then_some(Packet {
                far,
                same,
                far_port,
                protocol,
                sequence,
                payload_at,
                least,
            })
        }
        6 => {
            let header: [u32; 4] = load(skb, ports_at)?;
            let [words, ..] = header[3].to_ne_bytes();
            let payload_at = ports_at + u32::from(words >> 4) * 4;
            let protocol = Protocol::Tcp;
            let (sequence, least) = (u32::from_be(header[1]), 1);
            Some(Packet { far, same, far_port, protocol, sequence, payload_at, least })
        }
        _ => None,
    }
}

/// A message, or a part of one.
struct Heard {
    skb: *mut __sk_buff,
    socket: *mut bpf_sock,
    asker: *const Asker,
    packet: Packet,
    direction: Direction,
}

/// A record as it lies in the ring.
#[repr(C)]
struct Record<const ROOM: usize> {
    head: LookupHead,
    payload: [u8; ROOM],
}

impl Heard {
    #[inline(always)]
    fn tell<const ROOM: usize>(&self, length: u64) {
        let Self { skb, socket, asker, packet, direction } = self;
        let now_ns = seen::now_ns();
        // SAFETY: a value of the storage.
        let asker = unsafe { **asker };
        let bytes = const { size_of::<Record<ROOM>>() as u64 };
        if !budget::spend_on_lookup(asker.cgroup_id, bytes, now_ns) {
            return emit::lost(Loss::Unheard);
        }
        let Some(mut record) = LOOKUPS.reserve::<Record<ROOM>>(0) else {
            return emit::lost(Loss::Unheard);
        };
        let told = MaybeUninit::as_mut_ptr(&mut record);
        // SAFETY: `told` points to the reserved record, which nobody else sees before it is submitted;
        // `length` was compared to its room.
        let copied = unsafe {
            let head = &raw mut (*told).head;
            (&raw mut (*head).at_ns).write(now_ns);
            (&raw mut (*head).cookie).write(bpf_get_socket_cookie(skb.cast()));
            (&raw mut (*head).asker).write(asker);
            let (own, own_port) = own(*socket);
            (&raw mut (*head).own).write(own);
            (&raw mut (*head).far).write(packet.far);
            (&raw mut (*head).sequence).write(packet.sequence);
            (&raw mut (*head).own_port).write(own_port);
            (&raw mut (*head).far_port).write(packet.far_port);
            (&raw mut (*head).bytes).write(length as u16);
            (&raw mut (*head).direction).write(*direction);
            (&raw mut (*head).protocol).write(packet.protocol);
            (&raw mut (*head).same).write(packet.same as u8);
            (&raw mut (*head)._reserved).write([0; 3]);
            let payload = (&raw mut (*told).payload).cast();
            bpf_skb_load_bytes(skb.cast(), packet.payload_at, payload, length as u32)
        };
        if copied != 0 {
            record.discard(u64::from(BPF_RB_NO_WAKEUP));
            return emit::lost(Loss::Unheard);
        }
        record.submit(match direction {
            // What is made of it is made of its answer.
            Direction::Outbound => u64::from(BPF_RB_NO_WAKEUP),
            _ => emit::wake(emit::OF_LOOKUPS, now_ns),
        });
    }
}

/// The socket's own end, which stays what it is whatever is made of its packets on their way.
#[inline(always)]
fn own(socket: *mut bpf_sock) -> (Address, u16) {
    const AF_INET: u32 = 2;
    // SAFETY: fields that any socket has, checked not to be null. All are read: where that depended on the
    // family, the compiler would reckon the field's place.
    let (family, port, v4, v6) = unsafe {
        (
            (&raw const (*socket).family).read_volatile(),
            (&raw const (*socket).src_port).read_volatile(),
            (&raw const (*socket).src_ip4).read_volatile(),
            [
                (&raw const (*socket).src_ip6[0]).read_volatile(),
                (&raw const (*socket).src_ip6[1]).read_volatile(),
                (&raw const (*socket).src_ip6[2]).read_volatile(),
                (&raw const (*socket).src_ip6[3]).read_volatile(),
            ],
        )
    };
    (if family == AF_INET { Address::v4(v4) } else { Address(v6) }, port as u16)
}
