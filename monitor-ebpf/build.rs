//! Settings of the linker, which is the optimiser of the kernel programs.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = std::env::var("CARGO_CFG_TARGET_ARCH");
    if target.is_ok_and(|target| target == "bpf") {
        // Small fills and copies are written out. Else each is a call of a loop byte by byte, which
        // is slow, and refused to programs loaded without CAP_PERFMON.
        println!("cargo:rustc-link-arg-bins=--disable-expand-memcpy-in-order");
    }
}
