//! The command `order-producer`.

use std::process::ExitCode;

/// librdkafka allocates for each record on one thread and frees on another; see decision 0014.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    ExitCode::from(order_producer::cli::run().code())
}
