//! Hands records to Kafka and tells the end of each, once, with bounded memory.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use idempotent_consumer::publish::{Delivery, DeliveryError, Publisher, PublisherOptions};
use idempotent_consumer::{KafkaSettings, SettingsError};

use crate::interrupt::Interrupt;
use crate::message::Message;

/// Most records whose end is not known. The client bounds its queue by the bytes of values only;
/// a small record's headers and bookkeeping take several times those (about a KiB each).
pub(crate) const WINDOW: usize = 50_000;
/// How often a wait looks whether a signal came.
const TICK: Duration = Duration::from_millis(50);
/// How long a stop by signal waits for confirmations, at most.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long past the delivery timeout the client may take to give a record up.
const GRACE: Duration = Duration::from_secs(5);

/// How one record ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It lies in the log.
    Acknowledged {
        /// Partition.
        partition: i32,
        /// Offset.
        offset: i64,
    },
    /// It is certainly not in the log, and trying again as it is will not help.
    Refused {
        /// What Kafka or the client said.
        reason: String,
    },
    /// It is perhaps in the log.
    Unconfirmed {
        /// Why nothing is known.
        reason: String,
    },
}

impl Outcome {
    /// The word for it, in outputs and manifests.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Acknowledged { .. } => "acknowledged",
            Self::Refused { .. } => "refused",
            Self::Unconfirmed { .. } => "unconfirmed",
        }
    }
}

impl From<DeliveryError> for Outcome {
    fn from(error: DeliveryError) -> Self {
        match error {
            DeliveryError::Refused { .. } => Self::Refused { reason: error.to_string() },
            DeliveryError::Unconfirmed(_) => Self::Unconfirmed { reason: error.to_string() },
        }
    }
}

/// Takes the end of each record, with the note that was handed over with it.
pub trait Ends<T> {
    /// One record has ended.
    fn end(&mut self, note: T, outcome: Outcome) -> anyhow::Result<()>;
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// The record was handed over (or has ended already).
    Continue,
    /// A signal came first: the record was not handed over and will have no end.
    Stop,
}

/// A topic and a publisher to it.
pub struct Session<T> {
    topic: String,
    publisher: Publisher,
    reports: Receiver<Delivery>,
    pending: Pending<T>,
    interrupt: Interrupt,
    drain_timeout: Duration,
}

impl<T> Session<T> {
    /// Connects in the background; nothing is sent yet. The delivery timeout in `options` bounds
    /// how long a record can stay without an end.
    pub fn new(
        settings: &KafkaSettings,
        options: &PublisherOptions,
        topic: &str,
        interrupt: Interrupt,
    ) -> Result<Self, SettingsError> {
        // Unbounded, but never holds more than the window.
        let (sender, reports) = channel();
        let publisher = Publisher::new(settings, options, move |delivery| {
            // Fails only once the session is gone and nobody asks for ends any more.
            let _ = sender.send(delivery);
        })?;
        let drain_timeout =
            options.delivery_timeout.map_or(STOP_TIMEOUT, |timeout| timeout.saturating_add(GRACE));
        Ok(Self {
            topic: topic.to_owned(),
            publisher,
            reports,
            pending: Pending::default(),
            interrupt,
            drain_timeout,
        })
    }

    /// Hands a record over, after waiting for room if need be. Ends that arrive meanwhile go to
    /// `ends`; so does this record's own if the client refuses it at once.
    pub fn send(
        &mut self,
        message: &Message,
        note: T,
        ends: &mut impl Ends<T>,
    ) -> anyhow::Result<Flow> {
        self.poll(ends)?;
        while self.pending.len() >= WINDOW {
            if self.interrupt.requested() {
                return Ok(Flow::Stop);
            }
            self.wait(TICK, ends)?;
        }
        let token = self.pending.insert(note);
        loop {
            if self.interrupt.requested() {
                self.pending.remove(token);
                return Ok(Flow::Stop);
            }
            match self.publisher.try_send(&message.publication(&self.topic), token) {
                Ok(true) => return Ok(Flow::Continue),
                Ok(false) => self.wait(TICK, ends)?,
                Err(error) => {
                    self.end(token, error.into(), ends)?;
                    return Ok(Flow::Continue);
                }
            }
        }
    }

    /// Waits until `deadline`, taking ends meanwhile; shorter if a signal comes.
    pub fn wait_until(&mut self, deadline: Instant, ends: &mut impl Ends<T>) -> anyhow::Result<()> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || self.interrupt.requested() {
                return Ok(());
            }
            self.wait(left.min(TICK), ends)?;
        }
    }

    /// Waits for the ends of all records handed over, within the delivery timeout, or within a
    /// few seconds after a signal. What has no end then is given up as unconfirmed.
    pub fn finish(mut self, ends: &mut impl Ends<T>) -> anyhow::Result<()> {
        let mut deadline = Instant::now() + self.drain_timeout;
        let mut stopping = false;
        while self.pending.len() > 0 && Instant::now() < deadline {
            if !stopping && self.interrupt.requested() {
                stopping = true;
                deadline = deadline.min(Instant::now() + STOP_TIMEOUT);
            }
            self.wait(TICK, ends)?;
        }
        if self.pending.len() > 0 {
            // With no time left this purges the queue, which gives every record its end.
            self.publisher.flush(Duration::ZERO);
            self.poll(ends)?;
        }
        for note in self.pending.drain() {
            let reason = "no answer from Kafka before this command ended".to_owned();
            ends.end(note, Outcome::Unconfirmed { reason })?;
        }
        Ok(())
    }

    /// Takes the ends that have arrived, without waiting.
    pub fn poll(&mut self, ends: &mut impl Ends<T>) -> anyhow::Result<()> {
        while let Ok(delivery) = self.reports.try_recv() {
            self.deliver(delivery, ends)?;
        }
        Ok(())
    }

    /// Waits for one end, and takes all that have arrived by then.
    fn wait(&mut self, timeout: Duration, ends: &mut impl Ends<T>) -> anyhow::Result<()> {
        match self.reports.recv_timeout(timeout) {
            Ok(delivery) => {
                self.deliver(delivery, ends)?;
                self.poll(ends)
            }
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => {
                anyhow::bail!("the Kafka client stopped reporting deliveries")
            }
        }
    }

    fn deliver(&mut self, delivery: Delivery, ends: &mut impl Ends<T>) -> anyhow::Result<()> {
        let outcome = match delivery.outcome {
            Ok(place) => Outcome::Acknowledged { partition: place.partition, offset: place.offset },
            Err(error) => error.into(),
        };
        self.end(delivery.token, outcome, ends)
    }

    fn end(&mut self, token: u64, outcome: Outcome, ends: &mut impl Ends<T>) -> anyhow::Result<()> {
        match self.pending.remove(token) {
            Some(note) => ends.end(note, outcome),
            None => Ok(()),
        }
    }
}

/// The notes of unfinished records, by token. Slots are used again, so that it grows to the
/// window and no further.
struct Pending<T> {
    slots: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Pending<T> {
    fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn insert(&mut self, note: T) -> u64 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(note);
        slot as u64
    }

    fn remove(&mut self, token: u64) -> Option<T> {
        let slot = usize::try_from(token).ok()?;
        let note = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        Some(note)
    }

    fn drain(&mut self) -> impl Iterator<Item = T> {
        self.free.clear();
        std::mem::take(&mut self.slots).into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::Pending;

    #[test]
    fn slots_of_ended_records_are_used_again_and_a_token_ends_once() {
        let mut pending = Pending::default();
        let first = pending.insert("a");
        let second = pending.insert("b");
        assert_eq!(pending.remove(first), Some("a"));
        assert_eq!(pending.remove(first), None);
        assert_eq!(pending.insert("c"), first);
        assert_eq!(pending.len(), 2);
        assert_eq!(pending.remove(second), Some("b"));
        assert_eq!(pending.drain().collect::<Vec<_>>(), ["c"]);
        assert_eq!(pending.len(), 0);
        assert_eq!(pending.remove(99), None);
    }
}
