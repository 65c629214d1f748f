//! Named steps at which a worker can be held, so that no fault depends on luck.

use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

/// Before anything is done for a message.
pub(crate) const READ: &str = "read";
/// Behind a message, before the next one is asked for.
pub(crate) const BETWEEN: &str = "between";

/// Where a worker is to be held: at the first time that it comes to `step` with message number
/// `from` or a later one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trap {
    pub(crate) step: &'static str,
    pub(crate) from: u64,
}

/// The worker's end.
#[derive(Default)]
pub(crate) struct Steps {
    messages: AtomicU64,
    trap: Mutex<Option<Set>>,
}

struct Set {
    trap: Trap,
    reached: oneshot::Sender<()>,
    released: oneshot::Receiver<()>,
}

/// The harness's end. Dropped without a release, it holds the worker for ever.
pub(crate) struct Gate {
    pub(crate) reached: oneshot::Receiver<()>,
    release: oneshot::Sender<()>,
}

impl Gate {
    /// Lets the worker go on.
    pub(crate) fn release(self) {
        // A worker that is gone needs none.
        let _ = self.release.send(());
    }
}

impl Steps {
    /// Steps with a trap, and its gate.
    pub(crate) fn with(trap: Trap) -> (Self, Gate) {
        let (reached, has_reached) = oneshot::channel();
        let (release, released) = oneshot::channel();
        let set = Set { trap, reached, released };
        let steps = Self { messages: AtomicU64::new(0), trap: Mutex::new(Some(set)) };
        (steps, Gate { reached: has_reached, release })
    }

    /// Another message is in hand.
    pub(crate) fn next_message(&self) {
        self.messages.fetch_add(1, SeqCst);
    }

    /// The worker is at this step. True if it was held there.
    pub(crate) async fn at(&self, step: &'static str) -> bool {
        let messages = self.messages.load(SeqCst);
        let set = self
            .trap
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take_if(|set| set.trap.step == step && messages >= set.trap.from);
        let Some(Set { reached, released, .. }) = set else { return false };
        let _ = reached.send(());
        if released.await.is_err() {
            std::future::pending::<()>().await;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_worker_is_held_once_and_not_before_its_message() {
        let (steps, gate) = Steps::with(Trap { step: READ, from: 2 });
        steps.next_message();
        assert!(!steps.at(READ).await);
        steps.next_message();
        assert!(!steps.at(BETWEEN).await);
        gate.release();
        assert!(steps.at(READ).await);
        assert!(!steps.at(READ).await);
    }
}
