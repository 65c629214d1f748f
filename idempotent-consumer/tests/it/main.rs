//! The engine against real Kafka and PostgreSQL, with handlers that behave well and badly.

// Only functions marked as tests are exempt by clippy.toml; these are their helpers.
#![allow(clippy::unwrap_used)]

mod example;
mod handlers;
mod retries;
mod support;
mod suspects;
