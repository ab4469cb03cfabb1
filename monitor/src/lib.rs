//! The agent: adapters around the pure core, their wiring, and the verbs. Modules in reading order;
//! adapters never name one another.
#![deny(unsafe_code)]

pub mod store;
pub mod serve;
pub mod config;
pub mod baseline_file;
pub mod client;
pub mod render;
pub mod agent;
pub mod cli;
