//! Servers besides those that all tests share.

use std::ops::Deref;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use local_stack::{Endpoints, Options, Stack};

/// The broker takes a dead consumer for dead after this time, and not only after 6 s.
pub(crate) const QUICK: [&str; 4] =
    ["-X", "session.timeout.ms=2000", "-X", "heartbeat.interval.ms=300"];

fn options(label: &str) -> Options {
    Options::private(label)
        .kafka_property("group.min.session.timeout.ms", "500")
        // How often the broker looks for transactions that are open for too long.
        .kafka_property("transaction.abort.timed.out.transaction.cleanup.interval.ms", "500")
}

/// For tests that kill consumers, and leave the servers alone: give those consumers [`QUICK`].
pub(crate) fn quick() -> &'static Endpoints {
    static STACK: LazyLock<Stack> = LazyLock::new(|| Stack::start(options("quick")).unwrap());
    STACK.endpoints()
}

/// A stack whose servers one test at a time kills, stops and sets back.
pub(crate) struct Victim(MutexGuard<'static, Stack>);

impl Victim {
    /// Waits for its turn. Both servers run.
    pub(crate) fn take() -> Self {
        static STACK: LazyLock<Mutex<Stack>> =
            LazyLock::new(|| Mutex::new(Stack::start(options("victim")).unwrap()));
        let stack = STACK.lock().unwrap_or_else(PoisonError::into_inner);
        stack.kafka().start().unwrap();
        stack.postgres().start().unwrap();
        Self(stack)
    }

    pub(crate) fn endpoints(&self) -> &'static Endpoints {
        Box::leak(Box::new(self.0.endpoints().clone()))
    }
}

impl Deref for Victim {
    type Target = Stack;

    fn deref(&self) -> &Stack {
        &self.0
    }
}
