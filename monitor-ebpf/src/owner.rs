//! Whose socket is this? The dialler is whoever makes the call; the accepter is whoever listens,
//! since callbacks of an accepted socket run in somebody else's time.

use core::ffi::c_void;

use aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE;
use aya_ebpf::helpers::generated::{bpf_get_current_comm, bpf_sk_storage_get};
use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_uid_gid,
};
use aya_ebpf::maps::lpm_trie::Key;
use monitor_common::{Address, COMM_BYTES, ClientKey, ListenKey, Owner, Process, RemoteKind};
use zerocopy::{Immutable, IntoBytes};

use crate::follow;
use crate::maps::{COMMAND_IN_CGROUP, INTERNAL, LISTENERS, OWNERS, PROCESSES};
use crate::words::Words;

/// The task that makes the call: right in process context only.
#[inline(always)]
pub(crate) fn caller() -> Owner {
    let owner = current();
    Owner { process: process(owner.process.pid), ..owner }
}

/// All there is to say of the process that makes the call.
#[inline(always)]
pub(crate) fn process(pid: u32) -> Process {
    let comm = if COMMAND_IN_CGROUP.load() != 0 { command() } else { [0; COMM_BYTES] };
    Process { pid, uid: bpf_get_current_uid_gid() as u32, comm }
}

/// The command name of the task that makes the call, read in whole words.
#[inline(always)]
fn command() -> [u8; COMM_BYTES] {
    let mut words = [0_u64; COMM_BYTES / 8];
    // SAFETY: there is room for as much as is said; what cannot be had is left at zero.
    _ = unsafe { bpf_get_current_comm(words.as_mut_ptr().cast(), COMM_BYTES as u32) };
    zerocopy::transmute!(words)
}

/// As [`caller`], with what `sock_ops` programs may ask for: no user, no command name.
#[inline(always)]
pub(crate) fn current() -> Owner {
    let pid = (bpf_get_current_pid_tgid() >> 32) as u32;
    Owner {
        cgroup_id: cgroup_id(),
        executable_id: executable_id(pid),
        process: Process { pid, ..Process::UNKNOWN },
    }
}

/// What a process runs; 0 where that is not known.
#[inline(always)]
fn executable_id(pid: u32) -> u64 {
    let key = Words::of(Pid { pid, _reserved: 0 });
    // SAFETY: it begins with the id. Of the value a part is copied at once; a recycled entry gives
    // another executable's id, which makes for news too many.
    let lineage = unsafe { PROCESSES.get(&*(&raw const *key).cast::<u32>()) };
    lineage.map_or(0, |it| it.executable_id)
}

/// A process id in a whole word.
#[derive(Immutable, IntoBytes, Clone, Copy)]
#[repr(C, align(8))]
struct Pid {
    pid: u32,
    _reserved: u32,
}

/// The cgroup of the task that makes the call.
#[inline(always)]
pub(crate) fn cgroup_id() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_current_cgroup_id() }
}

/// The owner of the socket that listens at `key`, from a socket accepted there.
#[inline(always)]
pub(crate) fn of_accepted(key: &ListenKey, socket: *mut c_void) -> Option<Owner> {
    let address = key.address;
    let at = |address| LISTENERS.get_ptr(&*Words::of(ListenKey { address, ..*key }));
    let listener = at(address)
        .or_else(|| at(if address.is_v4() { Address::v4(0) } else { Address::ZERO }))
        // An IPv4 client of a socket that listens at `::`.
        .or_else(|| if address.is_v4() { at(Address::ZERO) } else { None });
    let Some(listener) = listener else {
        // The table had no room for it.
        return stored(socket, None);
    };
    // SAFETY: a valid map value. These entries are not recycled while in use: the map is no LRU.
    let listener = unsafe { &*listener };
    if listener.shared != 0
        && let Some(own) = stored(socket, None)
    {
        return Some(own);
    }
    Some(listener.owner)
}

/// Makes every socket that will be accepted from `socket` carry its owner.
#[inline(always)]
pub(crate) fn store(socket: *mut c_void, owner: Owner) -> bool {
    stored(socket, Some(&Words::of(owner))).is_some()
}

#[inline(always)]
fn stored(socket: *mut c_void, create: Option<&Owner>) -> Option<Owner> {
    if socket.is_null() {
        return None;
    }
    let map = (&raw const OWNERS).cast_mut().cast();
    let (value, flags) = match create {
        Some(owner) => {
            (core::ptr::from_ref(owner).cast_mut().cast(), u64::from(BPF_SK_STORAGE_GET_F_CREATE))
        }
        None => (core::ptr::null_mut(), 0),
    };
    // SAFETY: `map` is a socket storage of `Owner`, `socket` the context's own, checked above.
    let owner = unsafe { bpf_sk_storage_get(map, socket, value, flags) }.cast::<Owner>();
    // SAFETY: null, or a value of the storage.
    unsafe { owner.as_ref() }.copied()
}

/// The far end of an accepted connection.
pub(crate) struct Client {
    pub(crate) kind: RemoteKind,
    pub(crate) remote: Address,
    /// Whether its dial was news on this machine.
    pub(crate) is_news: bool,
}

/// The cgroup that dialled where this machine saw it do so, its address where that is an internal
/// one, else the world.
#[inline(always)]
pub(crate) fn of_client(client: &ClientKey, now_ns: u64) -> Client {
    if let Some(dialler) = follow::dialler(client, now_ns) {
        let remote = Address::of_cgroup(dialler.cgroup_id);
        return Client { kind: RemoteKind::Cgroup, remote, is_news: dialler.news != 0 };
    }
    match kind_of(client.address) {
        RemoteKind::World => {
            Client { kind: RemoteKind::World, remote: Address::ZERO, is_news: false }
        }
        kind => Client { kind, remote: client.address, is_news: false },
    }
}

/// A key of `INTERNAL` in whole words.
#[derive(Immutable, IntoBytes, Clone, Copy)]
#[repr(C, align(8))]
struct Network {
    prefix_length: u32,
    address: Address,
    _reserved: u32,
}

/// Whether an address is one of the internal networks or stands for all the world.
#[inline(always)]
pub(crate) fn kind_of(address: Address) -> RemoteKind {
    let key = Words::of(Network { prefix_length: 128, address, _reserved: 0 });
    // SAFETY: what `Network` begins with is laid out like that.
    let key = unsafe { &*(&raw const *key).cast::<Key<Address>>() };
    if INTERNAL.get(key).is_some() { RemoteKind::Address } else { RemoteKind::World }
}
