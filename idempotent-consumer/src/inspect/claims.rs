//! Claims by message id: what the table `processed_messages` says.

use serde::Serialize;
use sqlx::postgres::PgRow;
use sqlx::types::time::OffsetDateTime;
use sqlx::{PgConnection, Row};

use crate::message::{Fingerprint, MessageId};
use crate::outcome::Outcome;

/// A row of `processed_messages`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Claim {
    /// Whose outcome it is.
    pub message_id: MessageId,
    /// `applied`, `dead_lettered` or `skipped`.
    #[serde(serialize_with = "word")]
    pub outcome: Outcome,
    /// Where the record lies that got the outcome.
    pub topic: String,
    /// Where the record lies that got the outcome.
    pub partition: i32,
    /// Where the record lies that got the outcome.
    pub offset: i64,
    /// Which transaction it was.
    pub batch_seq: i64,
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    pub processed_at: OffsetDateTime,
    /// What the message said.
    #[serde(skip)]
    pub fingerprint: Fingerprint,
}

// serde hands over references to the fields.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn word<S: serde::Serializer>(outcome: &Outcome, out: S) -> Result<S::Ok, S::Error> {
    out.serialize_str(outcome.as_str())
}

/// The group's claims of these ids.
///
/// # Errors
/// The database does not answer, or lacks the engine's tables.
pub async fn claims(
    connection: &mut PgConnection,
    group: &str,
    ids: &[MessageId],
) -> Result<Vec<Claim>, sqlx::Error> {
    sqlx::query(
        r#"
        SELECT message_id, outcome, topic, partition, "offset", batch_seq, processed_at, fingerprint
          FROM processed_messages
         WHERE message_id = ANY($1) AND consumer_group = $2
         ORDER BY batch_seq, "offset", message_id
        "#,
    )
    .bind(ids.iter().map(|id| id.0).collect::<Vec<_>>())
    .bind(group)
    .try_map(|row: PgRow| {
        let word: &str = row.try_get("outcome")?;
        let outcome = [Outcome::Applied, Outcome::DeadLettered, Outcome::Skipped]
            .into_iter()
            .find(|outcome| outcome.as_str() == word)
            .ok_or_else(|| {
                sqlx::Error::Decode(format!("the outcome {word:?} is not known").into())
            })?;
        let fingerprint = Fingerprint::from_bytes(row.try_get("fingerprint")?)
            .ok_or_else(|| sqlx::Error::Decode("a fingerprint of another length".into()))?;
        Ok(Claim {
            message_id: MessageId(row.try_get("message_id")?),
            outcome,
            topic: row.try_get("topic")?,
            partition: row.try_get("partition")?,
            offset: row.try_get("offset")?,
            batch_seq: row.try_get("batch_seq")?,
            processed_at: row.try_get("processed_at")?,
            fingerprint,
        })
    })
    .fetch_all(connection)
    .await
}
