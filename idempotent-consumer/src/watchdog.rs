//! Ends the process where nothing else ends a handler: one that blocks its thread gives no timeout
//! a chance to fire, and its partition would stand still for ever while the process looks alive.
//! What was in work is then suspected like after any other death, see `suspects`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Watches over what is in work.
pub(crate) struct Watchdog {
    limit: Duration,
    next: AtomicU64,
    in_work: Mutex<HashMap<u64, Work>>,
}

struct Work {
    partition: i32,
    offset: i64,
    begun: Instant,
}

/// Something in work, until it is dropped.
pub(crate) struct Watched<'a> {
    watchdog: &'a Watchdog,
    number: u64,
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.watchdog.lock().remove(&self.number);
    }
}

impl Watchdog {
    /// Starts watching, until the last of it is dropped.
    pub(crate) fn start(limit: Duration) -> std::io::Result<Arc<Self>> {
        let watchdog =
            Arc::new(Self { limit, next: AtomicU64::new(0), in_work: Mutex::new(HashMap::new()) });
        let watched = Arc::downgrade(&watchdog);
        std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
            while let Some(watchdog) = watched.upgrade() {
                watchdog.look();
                let pause = (watchdog.limit / 4).min(Duration::from_secs(1));
                drop(watchdog);
                std::thread::sleep(pause);
            }
        })?;
        Ok(watchdog)
    }

    /// Work on records of a partition from an offset on begins.
    pub(crate) fn watch(&self, partition: i32, offset: i64) -> Watched<'_> {
        let number = self.next.fetch_add(1, Relaxed);
        self.lock().insert(number, Work { partition, offset, begun: Instant::now() });
        Watched { watchdog: self, number }
    }

    fn look(&self) {
        let stuck = self.lock().values().find_map(|work| {
            (work.begun.elapsed() > self.limit).then_some((work.partition, work.offset))
        });
        if let Some((partition, offset)) = stuck {
            tracing::error!(
                partition,
                offset,
                "the handler has blocked its thread for more than {} s; ending the process, since \
                 nothing else ends that",
                self.limit.as_secs_f64()
            );
            std::process::abort();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Work>> {
        self.in_work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
