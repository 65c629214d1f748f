//! Against the real servers. One binary, so that they are started as few times as possible.

// The helpers are outside of the test functions, which the setting in clippy.toml covers.
#![allow(clippy::unwrap_used)]

mod client;
mod command;
mod disturbed;
mod lifetime;
mod one_server;
mod ready;
mod refused;
