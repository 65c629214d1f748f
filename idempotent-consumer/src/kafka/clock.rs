//! What has to be done for the client when the time of day is set back.
//!
//! librdkafka waits until a time of day (`cnd_timedwait` in its `tinycthread_extra.c`). Set back by
//! an hour, a wait that had begun lasts an hour longer, unless it is woken: no heartbeat, no
//! rebalance, no timer of the client. Whatever is asked of its main thread wakes that one, and its
//! timers wake the others.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::callbacks::Callbacks;

/// Between two looks at the clocks.
const TICK: Duration = Duration::from_millis(500);
/// Less is no matter: the waits are that much longer.
const TOLERANCE: Duration = Duration::from_secs(1);
/// So many looks in a row wake the client: a wait may be about to begin with an end read before.
const WAKES: u32 = 3;

/// Watches for the consumer, until dropped.
pub(super) struct ClockWatch {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ClockWatch {
    pub(super) fn start(consumer: Arc<BaseConsumer<Callbacks>>) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let thread =
            std::thread::Builder::new().name("kafka-clock".to_owned()).spawn(move || {
                let mut clocks = Clocks::now();
                let mut wakes = 0;
                while stopped.recv_timeout(TICK) == Err(mpsc::RecvTimeoutError::Timeout) {
                    let now = Clocks::now();
                    if let Some(seconds) = now.set_back_since(&clocks) {
                        tracing::warn!(seconds, "the time of day was set back; waking the client");
                        wakes = WAKES;
                    }
                    clocks = now;
                    if wakes > 0 {
                        wakes -= 1;
                        // A question to the main thread.
                        if let Err(error) = consumer.assignment() {
                            tracing::debug!(%error, "the client was asked for its assignment");
                        }
                    }
                }
            })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for ClockWatch {
    /// Waits for the thread: the owner's consumer is to be the last.
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[derive(Clone, Copy)]
struct Clocks {
    steady: Instant,
    day: SystemTime,
}

impl Clocks {
    fn now() -> Self {
        Self { steady: Instant::now(), day: SystemTime::now() }
    }

    /// By how many seconds the time of day was set back.
    fn set_back_since(&self, before: &Self) -> Option<u64> {
        let expected = before.day + self.steady.duration_since(before.steady);
        let missing = expected.duration_since(self.day).ok()?;
        (missing > TOLERANCE).then_some(missing.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_time_of_day_that_falls_behind_counts() {
        let before = Clocks::now();
        let after = |steady: u64, day: i64| {
            let step = Duration::from_secs(day.unsigned_abs());
            let day = if day < 0 { before.day - step } else { before.day + step };
            Clocks { steady: before.steady + Duration::from_secs(steady), day }
                .set_back_since(&before)
        };
        assert_eq!(after(1, 1 - 3600), Some(3600));
        assert_eq!(after(5, 3), Some(2));
        assert_eq!([after(5, 5), after(5, 4), after(1, 3601), after(0, 0)], [None; 4]);
    }
}
