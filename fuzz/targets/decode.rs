//! The kernel's bytes: records of the ring and entries of the seen-map. Nothing panics, and a key that
//! was read is the same key after it was written: the kernel is told to forget exactly what it told.
#![no_main]

use libfuzzer_sys::fuzz_target;
use monitor::capture::fuzzing::{Trip, entry, record};

fuzz_target!(|bytes: &[u8]| {
    for Trip { read, again } in [record(bytes), entry(bytes)].into_iter().flatten() {
        assert_eq!(Some(read), again);
    }
});
