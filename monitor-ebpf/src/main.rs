//! Edgewatch's kernel half: it says who talked to whom and decides by itself whether that is news.
//! Only hooks with a stable contract; no struct offsets, no policy, no payload but that of DNS. Every
//! program lets through what it sees. Modules in reading order: each uses only those above it, but for
//! `main`, and for the dials, which `lookup` hears of.
#![no_std]
#![no_main]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        clippy::cast_possible_truncation,
        reason = "helpers and contexts pack two values into a wide one; taking the lower is meant"
    ),
    expect(
        clippy::needless_borrows_for_generic_args,
        reason = "keys and values by reference: moved, they would stand on the 512-byte stack twice"
    ),
    expect(unstable_features, reason = "the only way to an atomic add on this target"),
    feature(asm_experimental_arch)
)]

mod count;
mod note;
mod packet;
mod words;

mod maps;
mod time;

mod emit;

mod budget;

mod seen;

mod follow;
mod owner;

mod bind;
mod connect;
mod datagram;
mod lifecycle;
mod lookup;
mod odd;
mod stream;

mod net;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
