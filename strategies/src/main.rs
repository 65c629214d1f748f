//! The usual ways to consume exactly once, side by side on the same orders under the same faults.

mod catalog;
mod cell;
mod cli;
mod compare;
mod effect;
mod engine;
mod engine_cell;
mod expected;
mod fault;
mod html;
mod http_service;
mod judge;
mod measure;
mod place;
mod redis_server;
mod report;
mod stage;
mod steps;
mod strategy;
mod stream;
mod worker;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
