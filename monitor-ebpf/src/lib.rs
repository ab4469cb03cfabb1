//! Lets cargo see when the kernel programs change; the programs themselves are the binary target.
#![no_std]
