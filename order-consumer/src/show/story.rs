//! What is told. The field names are part of the command line's contract.

use std::collections::BTreeSet;

use idempotent_consumer::MessageId;
use idempotent_consumer::inspect::{
    self, Claim, DeadLetterSummary, Fate, ScannedTopic, Sighting, Waiting,
};
use serde::Serialize;
use sqlx::PgConnection;
use sqlx::types::time::OffsetDateTime;
use uuid::Uuid;

use super::orders::{self, OrderRow, TotalsRow};
use super::wanted::{Found, Seen};
use crate::cli::TopicArgs;

/// The story of an id.
#[derive(Debug, Serialize)]
pub(super) struct Story {
    pub(super) id: String,
    pub(super) topic: String,
    pub(super) consumer_group: String,
    /// `order`, `message`, or nothing if nobody has heard of it.
    pub(super) kind: Option<&'static str>,
    pub(super) records: Vec<RecordStory>,
    /// Records beyond the limit.
    pub(super) more_records: u64,
    /// Outcomes whose record was not met in the log: deleted by retention, as a rule.
    pub(super) without_record: Vec<Outcome>,
    pub(super) orders: Vec<OrderRow>,
    pub(super) customer_totals: Vec<TotalsRow>,
    /// Nothing if the log could not be read to its end.
    pub(super) looked_through: Option<ScannedTopic>,
    pub(super) kafka_problem: Option<String>,
}

/// A record and what became of it.
#[derive(Debug, Serialize)]
pub(super) struct RecordStory {
    pub(super) partition: i32,
    pub(super) offset: i64,
    #[serde(with = "time::serde::rfc3339::option")]
    pub(super) timestamp: Option<OffsetDateTime>,
    #[serde(rename = "type")]
    pub(super) event_type: Option<String>,
    pub(super) message_id: MessageId,
    /// The id as the producer wrote it, where that is not the message id.
    pub(super) producer_id: Option<String>,
    pub(super) order_id: Option<Uuid>,
    /// `applied`, `dead_lettered`, `skipped`, `duplicate`, `id_conflict`, `waiting`, `pending` or
    /// `missing`.
    pub(super) outcome: &'static str,
    /// The transaction and the dead letter behind the outcome: its own, or for a duplicate those of
    /// the record it repeats.
    #[serde(flatten)]
    pub(super) decided: Option<Outcome>,
    /// For `id_conflict`: the outcome of the other message.
    pub(super) conflicts_with: Option<Claim>,
    /// For `waiting`: its place in the retry queue.
    pub(super) waiting: Option<Waiting>,
}

/// A claim and its dead letter.
#[derive(Debug, Serialize)]
pub(super) struct Outcome {
    pub(super) claim: Claim,
    pub(super) dead_letter: Option<DeadLetterSummary>,
}

impl Story {
    /// Reads what the database knows of the records found.
    pub(super) async fn read(
        connection: &mut PgConnection,
        topics: &TopicArgs,
        id: &str,
        mut found: Found,
        scanned: Option<ScannedTopic>,
        kafka_problem: Option<String>,
    ) -> Result<Self, sqlx::Error> {
        found.sort();
        let (group, topic) = (&topics.group, &topics.topic);
        let sightings: Vec<Sighting> = found.records.iter().map(|seen| seen.sighting).collect();
        let topic_id = scanned.as_ref().map(|scanned| scanned.topic_id.as_str());
        let fates = inspect::fates(connection, group, topic, topic_id, &sightings).await?;

        let asked = Uuid::try_parse(id).ok();
        let order_ids: BTreeSet<Uuid> = asked
            .into_iter()
            .chain(found.records.iter().filter_map(|seen| seen.order_id))
            .collect();
        let order_ids: Vec<Uuid> = order_ids.into_iter().collect();
        let orders = orders::orders(connection, &order_ids).await?;
        let customers: Vec<&str> = orders.iter().map(|order| order.customer_id.as_str()).collect();
        let customer_totals = orders::totals(connection, &customers).await?;

        let mut ids = found.message_ids();
        let the_order = orders.iter().find(|order| Some(order.order_id) == asked);
        ids.extend(the_order.map(|order| MessageId(order.last_message_id)));
        let claims = inspect::claims(connection, group, &ids).await?;
        let letters = inspect::dead_letters_of_messages(connection, group, &ids).await?;
        let without_record: Vec<Outcome> = claims
            .into_iter()
            .filter(|claim| !was_met(claim, topic, &found, scanned.as_ref()))
            .map(|claim| Outcome {
                dead_letter: letters.iter().find(|l| l.message_id == claim.message_id).cloned(),
                claim,
            })
            .collect();

        let kind = if found.is_order || the_order.is_some() {
            Some("order")
        } else if found.records.is_empty() && without_record.is_empty() {
            None
        } else {
            Some("message")
        };
        let records = found.records.into_iter().zip(fates);
        Ok(Self {
            id: id.to_owned(),
            topic: topic.clone(),
            consumer_group: group.clone(),
            kind,
            records: records.map(|(seen, fate)| RecordStory::new(seen, fate)).collect(),
            more_records: found.more,
            without_record,
            orders,
            customer_totals,
            looked_through: scanned,
            kafka_problem,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kind.is_none()
    }
}

/// Whether the claim's record is among those told of, or one of those beyond the limit.
fn was_met(claim: &Claim, topic: &str, found: &Found, scanned: Option<&ScannedTopic>) -> bool {
    let place = (claim.partition, claim.offset);
    if claim.topic != topic {
        return false;
    }
    let is_told =
        found.records.iter().any(|seen| (seen.sighting.partition, seen.sighting.offset) == place);
    let is_in_log = scanned.is_some_and(|scanned| {
        scanned.partitions.iter().any(|part| {
            part.partition == claim.partition
                && (part.from_offset..part.to_offset).contains(&claim.offset)
        })
    });
    is_told || (found.more > 0 && is_in_log)
}

impl RecordStory {
    fn new(seen: Seen, fate: Fate) -> Self {
        let mut waits = None;
        let (outcome, decided, conflicts_with) = match fate {
            Fate::Waiting(waiting) => {
                waits = Some(waiting);
                ("waiting", None, None)
            }
            Fate::Pending => ("pending", None, None),
            Fate::Missing => ("missing", None, None),
            Fate::Decided(claim, dead_letter) => {
                let word = match &dead_letter {
                    // The conflict's claim, seen where the other message's claim is gone.
                    Some(letter) if letter.original_id != letter.message_id => "id_conflict",
                    _ => claim.outcome.as_str(),
                };
                (word, Some(Outcome { claim, dead_letter }), None)
            }
            Fate::Duplicate(claim, dead_letter) => {
                ("duplicate", Some(Outcome { claim, dead_letter }), None)
            }
            Fate::Conflict { claim, letter, holder } => {
                ("id_conflict", Some(Outcome { claim, dead_letter: letter }), Some(holder))
            }
        };
        Self {
            partition: seen.sighting.partition,
            offset: seen.sighting.offset,
            timestamp: seen.timestamp_ms.and_then(moment),
            event_type: seen.event_type,
            message_id: seen.sighting.id,
            producer_id: seen.producer_id,
            order_id: seen.order_id,
            outcome,
            decided,
            conflicts_with,
            waiting: waits,
        }
    }
}

/// `None` for what no calendar has: a producer may write any number, and RFC 3339 has years of
/// four digits.
fn moment(timestamp_ms: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(timestamp_ms) * 1_000_000)
        .ok()
        .filter(|at| (0..=9999).contains(&at.year()))
}
