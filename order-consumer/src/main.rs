//! Command line of the order consumer; see `order_consumer::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    order_consumer::cli::main()
}
