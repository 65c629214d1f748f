//! The outbox table: what a transaction wants published, and what the relay does with it.

use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, Row};

use crate::copy::{self, BinaryRow};
use crate::handler::Outgoing;

/// A row to publish.
#[derive(Clone, Debug)]
pub(crate) struct OutboxRow {
    pub id: i64,
    pub record: Outgoing,
    pub may_omit_value: bool,
}

/// Writes records to publish, in order.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    records: &[Outgoing],
    may_omit_value: bool,
) -> Result<(), sqlx::Error> {
    let into = "outbox (topic, partition, key, value, headers, may_omit_value)";
    let encode = |row: &mut BinaryRow, record: &Outgoing| {
        row.value(&record.topic)?
            .value(record.partition)?
            .value(record.key.as_deref())?
            .value(record.value.as_deref())?
            .value(Json(&record.headers))?
            .value(may_omit_value)?;
        Ok(())
    };
    copy::insert(connection, into, records, encode).await?;
    Ok(())
}

/// Writes one record to publish, in the transaction that is open on the connection: it is sent if and
/// only if that commits, at least once, and in the order of writing within its topic and key. Two
/// transactions that are open at the same time have no order; one that has to come behind another
/// waits for it before it writes.
///
/// Unlike a handler's records it goes in by INSERT: a client that is frozen inside COPY escapes the
/// timeouts of its transaction.
///
/// # Errors
/// The database does not answer, or lacks the engine's tables.
pub async fn publish(connection: &mut PgConnection, record: &Outgoing) -> Result<(), sqlx::Error> {
    sqlx::query(
        r"
        INSERT INTO outbox (topic, partition, key, value, headers)
        VALUES ($1, $2, $3, $4, $5)
        ",
    )
    .bind(&record.topic)
    .bind(record.partition)
    .bind(record.key.as_deref())
    .bind(record.value.as_deref())
    .bind(Json(&record.headers))
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes or renews the lease; `false` while another relay holds it. The database's clock decides.
pub(crate) async fn take_lease(
    connection: &mut PgConnection,
    holder: &str,
    lease_seconds: f64,
) -> Result<bool, sqlx::Error> {
    let taken = sqlx::query(
        r"
        INSERT INTO relay_lease (holder, expires_at)
        VALUES ($1, clock_timestamp() + $2 * interval '1 second')
            ON CONFLICT (only_row) DO UPDATE
           SET holder = excluded.holder, expires_at = excluded.expires_at
         WHERE relay_lease.holder = $1 OR relay_lease.expires_at < clock_timestamp()
        ",
    )
    .bind(holder)
    .bind(lease_seconds)
    .execute(connection)
    .await?;
    Ok(taken.rows_affected() == 1)
}

/// Gives the lease back, so that the next relay need not wait for its end.
pub(crate) async fn give_lease_back(
    connection: &mut PgConnection,
    holder: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM relay_lease WHERE holder = $1")
        .bind(holder)
        .execute(connection)
        .await?;
    Ok(())
}

/// A row that may go out.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub id: i64,
    /// About what it takes in memory.
    pub bytes: i64,
}

/// The oldest rows that may go out, in order, other than `besides`. A refused row holds up its topic and
/// key, except that it is tried again after ten seconds; a null key holds up itself only. Ids commit
/// late, so this is never "above the last one seen", and walks over the rows that were removed, until
/// they are vacuumed: so it tells of many rows, and [`read`] reads them in parts.
///
/// A plain NOT EXISTS PostgreSQL makes a join of, for which it reads and sorts all of the outbox each
/// time; it may not look into a `CASE`, and walks the rows in their order until it has enough.
pub(crate) async fn look(
    connection: &mut PgConnection,
    max_rows: i64,
    besides: &[i64],
) -> Result<Vec<Waiting>, sqlx::Error> {
    // In two arrays, which take less than many rows.
    let (ids, sizes): (Vec<i64>, Vec<i64>) = sqlx::query_as(
        r"
        WITH refused AS MATERIALIZED (
            SELECT id, topic, key
              FROM outbox
             WHERE refused_at > statement_timestamp() - interval '10 seconds'
        ), waiting AS (
            SELECT id,
                   coalesce(length(key), 0) + coalesce(length(value), 0) + pg_column_size(headers)
                       + 512::bigint AS bytes
              FROM outbox
             WHERE CASE WHEN EXISTS (
                       SELECT
                         FROM refused
                        WHERE refused.topic = outbox.topic
                          AND refused.id <= outbox.id
                          AND (refused.key = outbox.key OR refused.id = outbox.id)
                   ) THEN false ELSE true END
               AND id NOT IN (SELECT unnest($2::bigint[]))
             ORDER BY id
             LIMIT $1
        )
        SELECT coalesce(array_agg(id ORDER BY id), '{}'),
               coalesce(array_agg(bytes ORDER BY id), '{}')
          FROM waiting
        ",
    )
    .bind(max_rows)
    .bind(besides)
    .fetch_one(connection)
    .await?;
    Ok(ids.into_iter().zip(sizes).map(|(id, bytes)| Waiting { id, bytes }).collect())
}

/// These rows in their order, as far as they are still there.
pub(crate) async fn read(
    connection: &mut PgConnection,
    ids: &[i64],
) -> Result<Vec<OutboxRow>, sqlx::Error> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    sqlx::query(
        r"
        SELECT id, may_omit_value, topic, partition, key, value, headers
          FROM outbox
         WHERE id = ANY((SELECT $1)::bigint[])
         ORDER BY id
        ",
    )
    .bind(ids)
    // For each element of a list that it sees the planner looks up how frequent it is.
    .try_map(|row: PgRow| {
        let id = row.try_get(0)?;
        let Json(headers) = row.try_get(6).map_err(|error| {
            sqlx::Error::Decode(format!("headers of row {id} of the outbox: {error}").into())
        })?;
        Ok(OutboxRow {
            id,
            may_omit_value: row.try_get(1)?,
            record: Outgoing {
                topic: row.try_get(2)?,
                partition: row.try_get(3)?,
                key: row.try_get(4)?,
                value: row.try_get(5)?,
                headers,
            },
        })
    })
    .fetch_all(connection)
    .await
}

/// Removes rows that the broker has acknowledged.
pub(crate) async fn delete(connection: &mut PgConnection, ids: &[i64]) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM outbox WHERE id = ANY((SELECT $1)::bigint[])")
        .bind(ids)
        .execute(connection)
        .await?;
    Ok(())
}

/// Notes that the broker refuses a row.
pub(crate) async fn mark_refused(
    connection: &mut PgConnection,
    id: i64,
    reason: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        r"
        UPDATE outbox
           SET refused_at = clock_timestamp(), refused_reason = $2
         WHERE id = $1
        ",
    )
    .bind(id)
    .bind(reason)
    .execute(connection)
    .await?;
    Ok(())
}

/// A dead letter that the topic refuses for its size goes without its value from now on; the
/// table `dead_letters` keeps it.
pub(crate) async fn omit_value(connection: &mut PgConnection, id: i64) -> Result<(), sqlx::Error> {
    sqlx::query(
        r#"
        UPDATE outbox
           SET value = NULL,
               may_omit_value = false,
               headers = headers || '[{"name": "dlq-value-omitted", "value": "true"}]'
         WHERE id = $1
        "#,
    )
    .bind(id)
    .execute(connection)
    .await?;
    Ok(())
}
