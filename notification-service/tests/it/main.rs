//! The notification service against real Kafka and PostgreSQL and a real SMTP server.

// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used)]

mod commands;
mod mails;
mod outages;
mod probes;
mod roles;
mod support;
mod tls;
mod traces;
mod when_killed;
mod with_orders;
