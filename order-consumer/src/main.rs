//! Command line of the order consumer; see `order_consumer::cli`.

use std::process::ExitCode;

/// Every record is some twenty allocations, of this code and of librdkafka, made on one thread and
/// freed on another; see decision 0014.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Few arenas, whatever the number of cores, and memory that is not used goes back in half a second.
#[expect(unsafe_code, reason = "jemalloc reads its settings from a symbol of this name")]
#[unsafe(export_name = "malloc_conf")]
static MALLOC_CONF: &[u8; 46] = b"narenas:2,dirty_decay_ms:500,muzzy_decay_ms:0\0";

fn main() -> ExitCode {
    order_consumer::cli::main()
}
