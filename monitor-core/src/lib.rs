//! Edgewatch, pure: flows in, judgements out. Nothing here knows a clock, a file, a socket or the
//! kernel; time is an argument and every effect is data. Modules in reading order: each uses only
//! those above it.
#![forbid(unsafe_code)]

pub mod ids;
pub mod pattern;
pub mod network;
pub mod socket;
pub mod flow;
pub mod rtt;
pub mod edge;
pub mod instances;
pub mod executables;
pub mod dns;
pub mod directory;
pub mod attribute;
pub mod graph;
pub mod baseline;
pub mod detect;
pub mod incident;
pub mod delivery;
pub mod mute;
pub mod engine;
