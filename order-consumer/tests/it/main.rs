//! The order consumer against real Kafka and PostgreSQL.

// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used)]

mod commands;
mod crash;
mod dedup;
mod guards;
mod handler;
mod limits;
mod log;
mod notifications;
mod pipe;
mod poison;
mod pooler;
mod purge;
mod rebalance;
mod rebootstrap;
mod redrive;
mod retries;
mod roles;
mod sabotage;
mod secure;
mod servers;
mod support;
