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
    /// For how long it has been, as far as the watchdog was awake.
    lasted: Duration,
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
            let pause = (limit / 4).min(Duration::from_secs(1));
            let mut looked = Instant::now();
            while let Some(watchdog) = watched.upgrade() {
                // A process that was stopped, or a machine that slept, has blocked nobody.
                let awake = looked.elapsed().min(2 * pause);
                looked = Instant::now();
                watchdog.look(awake);
                drop(watchdog);
                std::thread::sleep(pause);
            }
        })?;
        Ok(watchdog)
    }

    /// Work on records of a partition from an offset on begins.
    pub(crate) fn watch(&self, partition: i32, offset: i64) -> Watched<'_> {
        let number = self.next.fetch_add(1, Relaxed);
        self.lock().insert(number, Work { partition, offset, lasted: Duration::ZERO });
        Watched { watchdog: self, number }
    }

    /// `awake`: for how long since the last look.
    fn look(&self, awake: Duration) {
        if let Some((partition, offset)) = self.stuck(awake) {
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

    fn stuck(&self, awake: Duration) -> Option<(i32, i64)> {
        let mut in_work = self.lock();
        in_work.values_mut().for_each(|work| work.lasted += awake);
        let stuck = in_work.values().find(|work| work.lasted > self.limit);
        stuck.map(|work| (work.partition, work.offset))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Work>> {
        self.in_work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lasts_while_the_watchdog_is_awake_is_stuck() {
        let limit = Duration::from_secs(30);
        let dog = Watchdog { limit, next: AtomicU64::new(0), in_work: Mutex::default() };
        let (one, two) = (dog.watch(1, 10), dog.watch(2, 20));
        let look = |seconds| dog.stuck(Duration::from_secs(seconds));
        assert_eq!((look(20), look(10)), (None, None));
        drop(one);
        let three = dog.watch(3, 30);
        assert_eq!(look(1), Some((2, 20)));
        drop(two);
        assert_eq!((look(29), look(1)), (None, Some((3, 30))));
        drop(three);
        assert_eq!(look(100), None);
    }
}
