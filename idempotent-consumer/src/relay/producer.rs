//! The relay's side of Kafka: hands rows over, and hears what became of them.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout_at;
use tokio_util::sync::CancellationToken;

use super::Pace;
use super::flow::Flow;
use super::spans::{self, Sending};
use super::table::RENEW_AFTER;
use crate::failpoint::failpoint;
use crate::health::Health;
use crate::kafka::publisher::{Delivery, DeliveryError, Publication, Publisher};
use crate::store::outbox::OutboxRow;

/// Of a producer that gets no answer for so long another one takes the place. Kafka may be away;
/// but the client also waits by the clock of the day, and stands still where that was set back.
const STALLED_AFTER: Duration = Duration::from_secs(20);
/// The same where others have their answers: the topic or the partition of one may be away for longer, and
/// a new client changes nothing about that, most of the time.
const FORGOTTEN_AFTER: Duration = Duration::from_mins(5);
/// How long rows in Kafka stay in the table where others, of the same key perhaps, take their time.
const REMOVED_AFTER: Duration = Duration::from_secs(1);
/// How long one that gives up waits for what is under way.
const SETTLED_WITHIN: Duration = Duration::from_secs(1);
/// More bytes than these are not few rows, however few they are.
const FEW_BYTES: usize = 256 * 1024;
/// How soon a producer that has no room is asked again, while nothing of ours is under way.
const FREED_WITHIN: Duration = Duration::from_millis(1);

/// Rows on their way.
pub(super) struct Flight {
    pub(super) flow: Flow,
    sending: Sending,
    /// In Kafka, and not noted elsewhere yet.
    pub(super) acknowledged: Vec<i64>,
    pub(super) failed: Vec<(i64, DeliveryError)>,
    /// When the last of them had its end.
    heard_at: Instant,
}

impl Flight {
    pub(super) fn new() -> Self {
        Self {
            flow: Flow::default(),
            sending: Sending::default(),
            acknowledged: Vec::new(),
            failed: Vec::new(),
            heard_at: Instant::now(),
        }
    }

    pub(super) fn add(&mut self, rows: Vec<OutboxRow>) {
        if self.flow.under_way() == 0 {
            // There was nothing to hear of.
            self.heard_at = Instant::now();
        }
        self.flow.add(rows);
    }

    /// Nothing has failed, and few are left.
    fn is_nearly_done(&self, pace: Pace) -> bool {
        let are_few = self.flow.len() <= pace.rows() / 4 && self.flow.bytes() <= FEW_BYTES;
        self.failed.is_empty() && are_few
    }

    /// A row has its end.
    fn ends(&mut self, Delivery { token, outcome }: Delivery) {
        self.heard_at = Instant::now();
        let id = token.cast_signed();
        self.sending.ended(id, &outcome);
        self.flow.ended(id, outcome.is_ok());
        match outcome {
            Ok(_) => self.acknowledged.push(id),
            Err(error) => self.failed.push((id, error)),
        }
    }

    /// Whether one of them has been waiting for its end for so long.
    fn waits_for(&self, time: Duration) -> bool {
        self.flow.under_way_since().is_some_and(|at| at.elapsed() >= time)
    }

    /// Whether each has its end soon enough for Kafka to be there.
    pub(super) fn is_quick(&self) -> bool {
        !self.waits_for(RENEW_AFTER)
    }

    fn waiting(&self) -> String {
        format!("{} records are waiting for Kafka", self.flow.under_way())
    }
}

/// How far rows have come.
pub(super) enum Sent {
    /// Each that may go out has its end.
    All,
    /// All but a few, and there are more to hand over.
    Most,
    /// Not yet, but some may be, and want to be removed; and the lease wants to be renewed.
    Waiting,
    /// Kafka does not answer.
    Stalled(String),
    Cancelled,
}

/// The producer, and where it tells what became of records.
pub(super) struct Producer<'a> {
    pub(super) publisher: Publisher,
    pub(super) pace: Pace,
    pub(super) deliveries: UnboundedReceiver<Delivery>,
    pub(super) health: &'a Health,
    pub(super) cancel: &'a CancellationToken,
}

impl Producer<'_> {
    /// Hands rows over, and waits until each has its end, or until few have none and there are `more`, or
    /// until [`REMOVED_AFTER`] has passed.
    pub(super) async fn send(&mut self, flight: &mut Flight, more: &CancellationToken) -> Sent {
        let until = tokio::time::Instant::now() + REMOVED_AFTER;
        self.hear(flight);
        if flight.waits_for(FORGOTTEN_AFTER) {
            self.settle(flight).await;
            return Sent::Stalled(flight.waiting());
        }
        if !flight.is_quick() {
            self.health.set("outbox", flight.waiting());
        }
        loop {
            if !self.cancel.is_cancelled() {
                self.hand_over(flight);
            }
            if flight.flow.is_done() {
                return Sent::All;
            }
            if more.is_cancelled() && flight.is_nearly_done(self.pace) {
                return Sent::Most;
            }
            // The client counts a record until a moment after it has told of its end.
            let has_no_room = flight.flow.under_way() == 0;
            let delivery = tokio::select! {
                () = self.cancel.cancelled() => {
                    self.settle(flight).await;
                    return Sent::Cancelled;
                }
                () = more.cancelled(), if !more.is_cancelled() => continue,
                delivery = self.deliveries.recv() => delivery,
                () = tokio::time::sleep(FREED_WITHIN), if has_no_room => continue,
                () = tokio::time::sleep_until(until) => None,
            };
            if let Some(delivery) = delivery {
                flight.ends(delivery);
                // Of a request all have their end at once.
                self.hear(flight);
            } else if flight.heard_at.elapsed() > STALLED_AFTER {
                return Sent::Stalled(flight.waiting());
            } else {
                return Sent::Waiting;
            }
        }
    }

    /// Takes the ends that have been told.
    pub(super) fn hear(&mut self, flight: &mut Flight) {
        while let Ok(delivery) = self.deliveries.try_recv() {
            flight.ends(delivery);
        }
    }

    /// Waits for the ends of what is under way, so that it need not go out again; not for long.
    async fn settle(&mut self, flight: &mut Flight) {
        let until = tokio::time::Instant::now() + SETTLED_WITHIN;
        while flight.flow.under_way() > 0
            && let Ok(Some(delivery)) = timeout_at(until, self.deliveries.recv()).await
        {
            flight.ends(delivery);
        }
    }

    /// Gives the producer what may go out and what it has room for.
    fn hand_over(&self, flight: &mut Flight) {
        let now = Instant::now();
        while let Some(row) = flight.flow.next(now) {
            failpoint("relay.before_send");
            let id = row.id;
            let record = Publication {
                topic: &row.record.topic,
                partition: row.record.partition,
                key: row.record.key.as_deref(),
                value: row.record.value.as_deref(),
                headers: &row.record.headers,
            };
            let span = spans::begun(&row.record);
            let refused = match self.publisher.try_send(&record, id.cast_unsigned()) {
                Ok(true) => {
                    flight.sending.begun(id, span);
                    continue;
                }
                // It does not even fit an empty queue.
                Ok(false) if flight.flow.under_way() == 1 && self.publisher.in_flight() == 0 => {
                    let reason = "the record is larger than the publisher's queue".to_owned();
                    DeliveryError::Refused { reason, too_large: true }
                }
                Ok(false) => {
                    flight.flow.put_back(id);
                    return;
                }
                Err(error) => error,
            };
            flight.flow.ended(id, false);
            flight.failed.push((id, refused));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handler::Outgoing;
    use crate::message::Headers;

    fn row(id: i64, bytes: usize) -> OutboxRow {
        let value = Some(vec![0; bytes]);
        let headers = Headers::new();
        let record = Outgoing { topic: "t".into(), partition: None, key: None, value, headers };
        OutboxRow { id, record, may_omit_value: false }
    }

    #[test]
    fn few_rows_are_not_few_where_they_are_large() {
        let mut flight = Flight::new();
        flight.add((0..499).map(|id| row(id, 0)).collect());
        assert!(flight.is_nearly_done(Pace::Batches));
        assert!(!flight.is_nearly_done(Pace::Alone));
        flight.add(vec![row(499, FEW_BYTES)]);
        assert!(!flight.is_nearly_done(Pace::Batches));
        while let Some(next) = flight.flow.next(Instant::now()) {
            let id = next.id;
            flight.flow.ended(id, true);
        }
        assert!(flight.is_nearly_done(Pace::Batches));
    }

    #[test]
    fn a_row_without_an_end_is_noticed_beside_others_that_have_theirs() {
        let mut flight = Flight::new();
        flight.add(vec![row(1, 0)]);
        assert!(flight.is_quick());
        let long_ago = Instant::now().checked_sub(RENEW_AFTER).unwrap();
        flight.flow.next(long_ago).unwrap();
        flight.add(vec![row(2, 0)]);
        flight.flow.next(Instant::now()).unwrap();
        flight.flow.ended(2, true);
        assert!(!flight.is_quick() && !flight.waits_for(FORGOTTEN_AFTER));
        flight.flow.ended(1, true);
        assert!(flight.is_quick());
    }
}
