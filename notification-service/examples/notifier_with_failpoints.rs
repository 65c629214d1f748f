//! The command as it is. The tests build this one with the feature `failpoints`, and so leave the
//! command itself as it was built.

use std::process::ExitCode;

fn main() -> ExitCode {
    notification_service::cli::main()
}
