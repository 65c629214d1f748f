//! `order-producer serve`, by a client over TCP.

mod client;
mod contract;
mod crashes;
mod effects;
mod keys;
mod limits;
mod outages;
mod problems;
mod server;
