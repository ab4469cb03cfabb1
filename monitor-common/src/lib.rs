//! The wire between kernel and agent.
#![no_std]
