//! `order-producer`, for the test of a trace through all programs: it is another package's command.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(order_producer::cli::run().code())
}
