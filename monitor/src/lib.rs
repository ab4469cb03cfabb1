//! agent

pub mod identity;
