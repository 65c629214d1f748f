//! Command line of the notification service; see `notification_service::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    notification_service::cli::main()
}
