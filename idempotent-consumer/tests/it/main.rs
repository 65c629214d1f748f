//! The engine against real Kafka and PostgreSQL, with handlers that behave well and badly.

mod example;
mod handlers;
mod support;
