//! The agent as a library: adapters and their wiring.

mod lock;
mod spelling;
mod wording;
pub mod capture;
pub mod identity;
pub mod client;
pub mod sources;
pub mod store;
pub mod notify;
pub mod serve;
pub mod config;
pub mod baseline_file;
pub mod recording;
pub mod rehearsal;
pub mod agent;
pub mod doctor;
pub mod render;
pub mod picture;
pub mod policy;
pub mod cli;
