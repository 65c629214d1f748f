//! Dead letters: the row with the whole original record, and its copy for the dead letter topic.

use sqlx::PgConnection;
use sqlx::types::Json;
use sqlx::types::time::OffsetDateTime;
use uuid::Uuid;

use super::time_of;
use crate::copy::{self, BinaryRow};
use crate::handler::Outgoing;
use crate::message::{MessageId, Record};
use crate::outcome::Verdict;

/// A message to be dead-lettered.
pub(crate) struct NewDeadLetter<'a> {
    /// Unique for each dead-lettering.
    pub dlq_id: Uuid,
    /// The id that its claim is under.
    pub message_id: MessageId,
    /// The id it came with.
    pub original_id: MessageId,
    pub event_type: Option<&'a str>,
    pub record: &'a Record,
    pub verdict: &'a Verdict,
    /// The database's clock when the transaction began, in milliseconds since 1970.
    pub now_ms: i64,
    /// `None`: now.
    pub first_failed_at: Option<OffsetDateTime>,
}

/// Milliseconds of 9999-12-31: what the database's calendar takes with room to spare. A producer
/// may write any number as a timestamp, and a dead letter must never fail for its content.
const MAX_TIMESTAMP_MS: i64 = 253_402_300_799_000;

impl NewDeadLetter<'_> {
    fn timestamp(&self) -> Option<OffsetDateTime> {
        let ms = self.record.timestamp_ms.filter(|ms| (0..=MAX_TIMESTAMP_MS).contains(ms))?;
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok()
    }

    /// The copy in the dead letter topic: key, value and headers byte for byte, and what happened
    /// as `dlq-…` headers.
    pub(crate) fn copy(&self, group: &str, dlq_topic: &str) -> Outgoing {
        let mut headers = self.record.headers.clone();
        let mut add = |name: &str, value: &str| headers.push(name, Some(value.as_bytes()));
        add("dlq-id", &self.dlq_id.to_string());
        add("dlq-message-id", &self.message_id.to_string());
        add("dlq-original-topic", &self.record.source.topic);
        add("dlq-original-partition", &self.record.source.partition.to_string());
        add("dlq-original-offset", &self.record.offset.to_string());
        if let Some(timestamp_ms) = self.record.timestamp_ms {
            add("dlq-original-timestamp", &timestamp_ms.to_string());
        }
        add("dlq-consumer-group", group);
        add("dlq-error-class", self.verdict.class.as_str());
        add("dlq-error-code", &self.verdict.code);
        add("dlq-error-message", &self.verdict.text);
        add("dlq-attempts", &self.verdict.attempts.to_string());
        add("dlq-dead-lettered-at", &rfc3339(self.now_ms));
        Outgoing {
            topic: dlq_topic.to_owned(),
            partition: None,
            key: self.record.key.clone(),
            value: self.record.value.clone(),
            headers,
        }
    }
}

fn rfc3339(ms: i64) -> String {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000)
        .ok()
        .and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_default()
}

/// Writes the rows. Their claims are in the same transaction.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    group: &str,
    letters: &[NewDeadLetter<'_>],
) -> Result<(), sqlx::Error> {
    let into = r#"dead_letters
        (dlq_id, message_id, original_id, event_type, topic, partition, "offset",
         record_timestamp, key, value, headers, error_class, error_code, error_message, attempts,
         first_failed_at, last_failed_at, consumer_group)"#;
    let encode = |row: &mut BinaryRow, letter: &NewDeadLetter<'_>| {
        let NewDeadLetter { record, verdict, .. } = letter;
        let now = time_of(letter.now_ms);
        row.value(letter.dlq_id)?
            .value(letter.message_id.0)?
            .value(letter.original_id.0)?
            // No text column takes a NUL, and a type is whatever a producer wrote.
            .value(letter.event_type.map(|event_type| event_type.replace('\0', "\u{fffd}")))?
            .value(&*record.source.topic)?
            .value(record.source.partition)?
            .value(record.offset)?
            .value(letter.timestamp())?
            .value(record.key.as_deref())?
            .value(record.value.as_deref())?
            .value(Json(&record.headers))?
            .value(verdict.class.as_str())?
            .value(&*verdict.code)?
            .value(verdict.text.as_str())?
            .value(verdict.attempts.cast_signed())?
            .value(letter.first_failed_at.unwrap_or(now))?
            .value(now)?
            .value(group)?;
        Ok(())
    };
    copy::insert(connection, into, letters, encode).await?;
    Ok(())
}
