//! Builds the kernel programs into `OUT_DIR`, from where `capture` includes them.

use std::process::Command;

use anyhow::Context as _;

/// The toolchain `cargo xtask setup` links where no nightly with `rust-src` can be had.
const LINKED_TOOLCHAIN: &str = "edgewatch-ebpf";

fn main() -> anyhow::Result<()> {
    let toolchains = Command::new("rustup").args(["toolchain", "list"]).output();
    let linked = toolchains
        .is_ok_and(|list| String::from_utf8_lossy(&list.stdout).contains(LINKED_TOOLCHAIN));
    let toolchain = if linked { LINKED_TOOLCHAIN } else { "nightly" };
    let features: &[&str] =
        if std::env::var_os("CARGO_FEATURE_KERNEL_LOG").is_some() { &["log"] } else { &[] };
    let package = aya_build::Package {
        name: "monitor-ebpf",
        root_dir: concat!(env!("CARGO_MANIFEST_DIR"), "/../monitor-ebpf"),
        features,
        ..Default::default()
    };
    aya_build::build_ebpf([package], aya_build::Toolchain::Custom(toolchain))
        .context("build the kernel programs; `cargo xtask setup` installs what they need")
}
