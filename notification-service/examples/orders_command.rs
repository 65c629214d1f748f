//! `order-consumer`, for the test that redrives mails with it: it is another package's command.

use std::process::ExitCode;

fn main() -> ExitCode {
    order_consumer::cli::main()
}
