//! What the end-to-end tests stand on: real cgroups, network namespaces, processes, a real receiver
//! and the real program. Every failure panics and says the nearest thing it saw; everything made is
//! removed again, also when a test fails. Nothing here knows how the agent works inside.
#![expect(clippy::panic, reason = "a test fails by panicking, and so does what it stands on")]

mod waiting;

pub mod process;

pub mod activation;
pub mod agent;
pub mod bpffs;
pub mod ground;
pub mod kernel;
pub mod lab;
pub mod manifest;
pub mod odd;
pub mod others;
pub mod receiver;
pub mod resolver;
pub mod runtime;
pub mod tool;
pub mod traffic;
pub mod ways;

pub use waiting::eventually;
