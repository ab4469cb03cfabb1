//! What a packet holds, read byte by byte: it begins with its IP header.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes;

/// Reads from the packet; None where it ends before.
#[inline(always)]
pub(crate) fn load<T: Copy + Default>(skb: *mut __sk_buff, at: u32) -> Option<T> {
    let mut value = T::default();
    let size = const { size_of::<T>() as u32 };
    // SAFETY: there is room for as much as is said.
    let result = unsafe { bpf_skb_load_bytes(skb.cast(), at, (&raw mut value).cast(), size) };
    (result == 0).then_some(value)
}
