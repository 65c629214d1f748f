//! `order-producer serve`, by a client over TCP. Each answer is held against the OpenAPI document.

mod client;
mod contract;
mod cors;
mod crashes;
mod described;
mod effects;
mod keys;
mod limits;
mod outages;
mod problems;
mod roles;
mod server;
mod tls;
