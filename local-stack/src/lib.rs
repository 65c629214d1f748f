//! Real Apache Kafka and PostgreSQL on one machine, without Docker.
//!
//! Needs Java 17 or later. The first start downloads both servers with Maven (about 100 MB);
//! later ones work offline and take some seconds. Everything lives below `target/local-stack`.
//!
//! A test that is content with a topic and a database of its own uses the servers that all tests
//! of its process share:
//!
//! ```no_run
//! let servers = local_stack::shared();
//! let database_url = servers.create_database("my_test")?;
//! # Ok::<(), local_stack::StackError>(())
//! ```
//!
//! One that disturbs them starts its own:
//!
//! ```no_run
//! use local_stack::{Options, Stack};
//!
//! let stack = Stack::start(Options::default().kafka_property("message.max.bytes", "2000000"))?;
//! stack.kafka().kill();
//! stack.kafka().start()?;
//! # Ok::<(), local_stack::StackError>(())
//! ```
//!
//! The servers end with the process that started them, also when it is killed; the command
//! `cargo stack up` leaves them in the background until `cargo stack down`, where `stop` and `start`
//! make an outage of one. PostgreSQL's user `orders`, password `orders`, is a superuser, and both
//! servers listen on 127.0.0.1 only.

mod background;
mod bouncer;
mod database;
mod dist;
mod error;
mod files;
mod home;
pub mod http;
mod java;
mod kafka;
mod kind;
mod log;
mod one_server;
mod options;
mod ports;
mod postgres;
mod processes;
pub mod programs;
mod progress;
mod registry;
mod server;
mod shared;
mod stack;
mod tools;
mod user;
mod watchdog;

pub use background::{State, Status, down, status};
pub use bouncer::Bouncer;
pub use database::create_database;
pub use error::StackError;
pub use kind::Kind;
pub use one_server::{start_server, stop_server};
pub use options::{Listener, Options};
pub use postgres::Postgres;
pub use registry::check_name;
pub use server::Server;
pub use shared::{Endpoints, shared};
pub use stack::Stack;
pub use tools::{Certificate, kafka_tool};
pub use watchdog::Watchdog;
