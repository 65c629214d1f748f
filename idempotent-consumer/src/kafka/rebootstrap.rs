//! A client that has lost every broker gets its bootstrap servers again.
//!
//! librdkafka forgets a broker that an answer to its metadata request does not name. One that has just
//! started may name none, not even itself, until the controller has let it in: then nobody is left to
//! ask, and a client may stay like this until its process ends
//! (<https://github.com/confluentinc/librdkafka/issues/5301>, in 2.10 and later).

use std::ffi::CString;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::Statistics;
use rdkafka_sys::rd_kafka_t;

use super::raw;
use super::settings::KafkaSettings;

/// Between two statistics of a client that is watched by them, in milliseconds.
pub(super) const WATCH_INTERVAL_MS: &str = "1000";

/// So many statistics in a row have to show it: a client may be between two attempts.
const STATISTICS: u32 = 2;

/// Between two times that a client is given the servers; doubles. It keeps each list that it was ever
/// given, and goes through all of them when no broker answers, which may be for days.
const PAUSE: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_mins(1);

/// Of one client.
pub(super) struct Rebootstrap {
    servers: CString,
    /// Null until [`Self::watch`].
    client: AtomicPtr<rd_kafka_t>,
    /// Statistics in a row that showed nobody to ask.
    alone: AtomicU32,
    given: Mutex<Given>,
}

struct Given {
    last: Option<Instant>,
    pause: Duration,
}

impl Rebootstrap {
    pub(super) fn new(settings: &KafkaSettings) -> Self {
        Self {
            // With a zero in it the client has refused it as a setting.
            servers: CString::new(settings.bootstrap_servers()).unwrap_or_default(),
            client: AtomicPtr::new(ptr::null_mut()),
            alone: AtomicU32::new(0),
            given: Mutex::new(Given { last: None, pause: PAUSE }),
        }
    }

    /// For the context of this client, whose callbacks run while there is a client.
    pub(super) fn watch(&self, client: *mut rd_kafka_t) {
        self.client.store(client, Ordering::Relaxed);
    }

    /// Only from the statistics callback of the watched client.
    pub(super) fn heed(&self, statistics: &Statistics) {
        if has_a_connection(statistics) {
            if self.alone.swap(0, Ordering::Relaxed) > 0 {
                self.had_an_answer();
            }
            return;
        }
        let client = self.client.load(Ordering::Relaxed);
        if self.alone.fetch_add(1, Ordering::Relaxed) + 1 >= STATISTICS && !client.is_null() {
            self.had_no_answer(client);
        }
    }

    /// For a client without statistics, when it had no answer: whether it has brokers is not known.
    pub(super) fn had_no_answer(&self, client: *mut rd_kafka_t) {
        let mut given = self.lock();
        if given.last.is_none_or(|last| last.elapsed() >= given.pause) {
            if given.last.is_some() {
                given.pause = (given.pause * 2).min(PAUSE_MAX);
            }
            given.last = Some(Instant::now());
            drop(given);
            tracing::debug!(servers = ?self.servers, "naming the bootstrap servers again");
            raw::add_brokers(client, &self.servers);
        }
    }

    /// The next time is a first one again.
    pub(super) fn had_an_answer(&self) {
        self.lock().pause = PAUSE;
    }

    fn lock(&self) -> MutexGuard<'_, Given> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether there is a broker that the client talks to, or tries to. Those that it has forgotten may be
/// there still, as idle. A coordinator's is a second connection, "logical", which waits for an address.
fn has_a_connection(statistics: &Statistics) -> bool {
    let mut brokers = statistics.brokers.values();
    brokers.any(|broker| {
        matches!(broker.source.as_str(), "configured" | "learned")
            && !matches!(broker.state.as_str(), "INIT" | "DOWN")
    })
}

#[cfg(test)]
mod tests {
    use rdkafka::statistics::Broker;

    use super::*;

    #[test]
    fn a_client_that_talks_to_nobody_and_does_not_try_to_is_told() {
        let has = |brokers: &[(&str, &str)]| {
            let mut statistics = Statistics::default();
            for (source, state) in brokers {
                let broker = Broker {
                    source: (*source).to_owned(),
                    state: (*state).to_owned(),
                    ..Broker::default()
                };
                statistics.brokers.insert((*source).to_owned(), broker);
            }
            has_a_connection(&statistics)
        };
        assert!(!has(&[]) && !has(&[("logical", "TRY_CONNECT"), ("internal", "UP")]));
        assert!(!has(&[("learned", "INIT"), ("configured", "DOWN"), ("logical", "UP")]));
        assert!(has(&[("learned", "INIT"), ("configured", "TRY_CONNECT")]));
        assert!(has(&[("learned", "UP")]));
    }
}
