//! The agent as a library: adapters and their wiring.

pub mod capture;
pub mod identity;
pub mod notify;
