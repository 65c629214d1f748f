//! The command `order-producer`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(order_producer::cli::run().code())
}
