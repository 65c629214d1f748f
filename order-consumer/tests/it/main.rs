//! The order consumer against real Kafka and PostgreSQL.

mod sabotage;
mod support;
