//! agent

pub mod identity;
pub mod notify;
