//! The end-to-end tests: the real program, real processes, the running kernel. One binary, so that
//! its parts run beside each other; each test has its own cgroups, namespaces, agent and receiver.
#![expect(clippy::panic, reason = "a test fails by panicking, and so does what it stands on")]

mod shop;

mod alerts;
mod baseline;
mod capture;
mod carried;
mod chat;
mod delivery;
mod crafted;
mod deploy;
mod doctor;
mod drawn;
mod errors;
mod faults;
mod flood;
mod ground;
mod harness;
mod lasting;
mod lineage;
mod named;
mod names;
mod odd;
mod oddities;
mod older;
mod opened;
mod record;
mod restart;
mod state;
mod strangers;
mod tools;
mod translated;
mod watch;
mod ways;

use tests::lab::Lab;

/// A place of its own for one test.
#[track_caller]
fn lab() -> Lab {
    Lab::new(env!("CARGO_BIN_EXE_peer"))
}
