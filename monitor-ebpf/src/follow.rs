//! TCP connections under way, by socket, and who dialled from where. Where entries are kept and what
//! happens when there is no room is `monitor_common`'s; here the maps are looked into.

use monitor_common::{ClientKey, Dialler, Dials, FlowKey, Followed, Loss, Opened, Process};

use crate::emit;
use crate::maps::{self, DIALS, DIALS_BITS, EXECUTABLE_SEED, OPENERS, SOCKET_BITS, SOCKETS};

/// Follows a socket from now on. Its slot, without flags yet.
#[inline(always)]
pub(crate) fn begin<'a>(
    cookie: u64,
    key: &FlowKey,
    netns_cookie: u64,
    process: &Process,
) -> Option<&'a mut Followed> {
    let place = slot(Followed::place(cookie, SOCKET_BITS.load()));
    // SAFETY: null, or a valid map value. What is left of it where another CPU writes it at the same
    // time is found out by its sum.
    let place = unsafe { place.as_mut() }?;
    // One that could not dial and tries again stands there itself.
    if place.cookie != 0 && place.cookie != cookie && place.flags & Followed::UNTOLD == 0 {
        move_home(place);
    }
    place.fill(cookie, key, netns_cookie, process);
    Some(place)
}

/// The slot of a socket; None where it is not followed, or was forgotten.
#[inline(always)]
pub(crate) fn of<'a>(cookie: u64) -> Option<&'a mut Followed> {
    let place = slot(Followed::place(cookie, SOCKET_BITS.load()));
    // SAFETY: null, or a valid map value, as in `begin`.
    match unsafe { place.as_mut() } {
        Some(place) if place.cookie == cookie => Some(place),
        // SAFETY: as above.
        _ => unsafe { at_home(cookie, cookie).as_mut() },
    }
}

/// Moves a socket to a free slot of its set, or to that of one that is forgotten for it. That is counted
/// here and not when it ends: of an end that was never followed a program beside ours may ask to be
/// told, and then ours is told as well.
#[inline(never)]
fn move_home(from: &Followed) {
    let mut home = at_home(from.cookie, 0);
    if home.is_null() {
        let bits = SOCKET_BITS.load();
        home = slot(Followed::set(from.cookie, bits) + Followed::given_up(from.cookie, bits));
        // SAFETY: as in `begin`.
        if let Some(forgotten) = unsafe { home.as_ref() }
            && forgotten.flags & Followed::DIALLING == 0
        {
            emit::lost(Loss::Untracked);
        }
    }
    // SAFETY: as in `begin`.
    if let Some(home) = unsafe { home.as_mut() } {
        *home = *from;
    }
}

/// An index that no slot has.
const NOWHERE: u32 = u32::MAX;

/// The slot, in the set of the socket `of`, where `cookie` stands; else null, as the kernel gives it and
/// not as a number: without CAP_PERFMON kernels also follow branches that are not taken, and up to 6.1
/// nothing may be read through a number there.
#[inline(never)]
fn at_home(of: u64, cookie: u64) -> *mut Followed {
    let first = Followed::set(of, SOCKET_BITS.load());
    let mut way = 0;
    while way < Followed::WAYS {
        let place = slot(first + way);
        // SAFETY: null, or a valid map value, as in `begin`.
        if let Some(home) = unsafe { place.as_ref() }
            && home.cookie == cookie
        {
            return place;
        }
        way += 1;
    }
    slot(NOWHERE)
}

#[inline(always)]
fn slot(index: u32) -> *mut Followed {
    maps::element((&raw const SOCKETS).cast(), index).cast()
}

/// Takes note of a socket that `cgroup_id` opens.
#[inline(always)]
pub(crate) fn opens(cookie: u64, cgroup_id: u64) {
    if let Some(opened) = opened(cookie) {
        opened.fill(cookie, cgroup_id);
    }
}

/// The cgroup that a socket was opened in; 0 where that is not known. None never, but the verifier does
/// not know: whoever returns then leaves it no second way to follow.
#[inline(always)]
pub(crate) fn opener(cookie: u64) -> Option<u64> {
    Some(opened(cookie)?.by(cookie))
}

#[inline(always)]
fn opened<'a>(cookie: u64) -> Option<&'a mut Opened> {
    let place = Followed::place(cookie, SOCKET_BITS.load());
    let opened = maps::element((&raw const OPENERS).cast(), place).cast::<Opened>();
    // SAFETY: null, or a valid map value, which carries its sum.
    unsafe { opened.as_mut() }
}

/// Takes note of who dials as `client`.
#[inline(always)]
pub(crate) fn dials(client: &ClientKey, dialler: Dialler, now_ns: u64) {
    if let Some(dials) = dials_of(client) {
        dials.enter(client, dialler, now_ns);
    }
}

/// Who dialled as `client`, if anybody on this machine did a moment ago.
#[inline(always)]
pub(crate) fn dialler(client: &ClientKey, now_ns: u64) -> Option<Dialler> {
    let mut dialler = Dialler { cgroup_id: 0, news: 0 };
    find(client, now_ns, &mut dialler);
    (dialler.cgroup_id != 0).then_some(dialler)
}

/// A call, for its room on the stack.
#[inline(never)]
fn find(client: &ClientKey, now_ns: u64, dialler: &mut Dialler) {
    if let Some(dials) = dials_of(client) {
        *dialler = dials.find(client, now_ns);
    }
}

#[inline(always)]
fn dials_of<'a>(client: &ClientKey) -> Option<&'a mut Dials> {
    let set = Dials::set(client, EXECUTABLE_SEED.load(), DIALS_BITS.load());
    let dials = maps::element((&raw const DIALS).cast(), set).cast::<Dials>();
    // SAFETY: null, or a valid map value, of which each slot carries its sum.
    unsafe { dials.as_mut() }
}
