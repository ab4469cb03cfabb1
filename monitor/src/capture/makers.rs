//! Who asks for a capability: the places in the kernel that make packet and vsock sockets, found by
//! trying to make one of each and looking at the stack. What needs a right is tried without it, so that
//! nothing is made that anybody would have to be told of. So neither names nor addresses of the kernel's
//! functions have to be known.

use std::thread;

use aya::Ebpf;
use aya::maps::{Array, HashMap as BpfHashMap, MapData};
use monitor_common::{Maker, STACK_FRAMES, map};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{CapabilitySet, capabilities, gettid, set_capabilities};

use crate::capture::config::Detail;
use crate::capture::{Result, map_error, take};

/// Return addresses, the innermost first; zeros where there are none.
type Stack = [u64; STACK_FRAMES];

/// Tells the kernel's half by which place it knows them; false where packet sockets' cannot be found.
pub(super) fn find(ebpf: &mut Ebpf, detail: Detail) -> Result<bool> {
    // What a thread gives up comes back with its end.
    thread::scope(|scope| {
        let found = scope.spawn(|| {
            if give_up_rights().is_err() {
                return Ok(false);
            }
            compare(ebpf, detail)
        });
        found.join().unwrap_or(Ok(false))
    })
}

/// A thread's own.
fn give_up_rights() -> rustix::io::Result<()> {
    let mut rights = capabilities(None)?;
    rights.effective.remove(CapabilitySet::NET_RAW);
    set_capabilities(None, rights)
}

fn compare(ebpf: &mut Ebpf, detail: Detail) -> Result<bool> {
    let mut asked: BpfHashMap<MapData, u32, Stack> = take(ebpf, map::TRIED)?;
    let mut makers: Array<MapData, u64> = take(ebpf, map::MAKERS)?;
    let mut stack = |family, kind, protocol| stack_of(&mut asked, family, kind, protocol);
    let icmp = Some(rustix::net::ipproto::ICMP);
    let other = stack(AddressFamily::INET, SocketType::RAW, icmp);
    let mut enter = |maker: Maker, stack: &Stack| {
        let place = place(stack, &other).unwrap_or(0);
        let entered = makers.set(maker as u32, place, 0);
        entered.map_err(|source| map_error(map::MAKERS, source))?;
        Ok(place != 0)
    };
    let found = enter(Maker::Packet, &stack(AddressFamily::PACKET, SocketType::RAW, None))?;
    if detail == Detail::Full {
        let vsock = AddressFamily::from_raw(VSOCK);
        enter(Maker::Vsock, &stack(vsock, SocketType::STREAM, None))?;
    }
    Ok(found)
}

const VSOCK: rustix::net::RawAddressFamily = 40;

/// The stack on which this thread asked for a capability while it made a socket.
fn stack_of(
    asked: &mut BpfHashMap<MapData, u32, Stack>,
    family: AddressFamily,
    kind: SocketType,
    protocol: Option<rustix::net::Protocol>,
) -> Stack {
    let thread = gettid().as_raw_nonzero().get().cast_unsigned();
    let mut stack = [0; STACK_FRAMES];
    if asked.insert(thread, stack, 0).is_ok() {
        // Refused, but for vsock sockets.
        drop(socket_with(family, kind, SocketFlags::CLOEXEC, protocol));
        stack = asked.get(&thread, 0).unwrap_or(stack);
        drop(asked.remove(&thread));
    }
    stack
}

/// Where `stack` left the way that both took: in what makes sockets of its family.
fn place(stack: &Stack, other: &Stack) -> Option<u64> {
    let frames = |stack: &Stack| -> Vec<u64> {
        stack.iter().copied().take_while(|&frame| frame != 0).collect()
    };
    let (stack, other) = (frames(stack), frames(other));
    let shared = stack.iter().rev().zip(other.iter().rev()).take_while(|(a, b)| a == b).count();
    // Cut off before the outermost: nothing can be said.
    let whole = stack.len() < STACK_FRAMES && other.len() < STACK_FRAMES && shared > 0;
    stack.iter().rev().nth(shared).copied().filter(|_| whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(frames: &[u64]) -> Stack {
        let mut stack = [0; STACK_FRAMES];
        stack[..frames.len()].copy_from_slice(frames);
        stack
    }

    #[test]
    fn the_place_is_where_two_ways_part() {
        let (packet, inet) = (stack(&[1, 2, 30, 8, 9]), stack(&[1, 2, 40, 8, 9]));
        assert_eq!(place(&packet, &inet), Some(30));
        assert_eq!(place(&stack(&[1, 5, 6, 50, 8, 9]), &inet), Some(50));
    }

    #[test]
    fn what_was_not_seen_is_nowhere() {
        let inet = stack(&[1, 2, 40, 8, 9]);
        assert_eq!(place(&stack(&[]), &inet), None);
        assert_eq!(place(&inet, &stack(&[])), None);
        assert_eq!(place(&stack(&[1, 2, 3]), &inet), None, "nothing in common");
        assert_eq!(place(&inet, &inet), None, "the same");
        assert_eq!(place(&[7; STACK_FRAMES], &inet), None, "cut off");
    }
}
