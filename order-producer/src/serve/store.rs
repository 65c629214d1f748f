//! All SQL of the gateway, each statement beside its function.

mod keys;
mod place;
mod read;
mod rows;

use std::time::Duration;

use idempotent_consumer::outbox::TransactionLimits;
use order_events::{OrderEvent, Status};
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::QueryAs;
use sqlx::types::Json;
use sqlx::types::time::OffsetDateTime;
use sqlx::{AssertSqlSafe, PgConnection, Postgres, Row, Transaction};
use uuid::Uuid;

pub(super) use self::keys::{KeyRow, create_key, find_key, list_keys, revoke_key};
pub(super) use self::place::{EVENT, NewOrder, STATUS, place};
pub(super) use self::read::{Known, Page, page, read_orders};
use super::answer::Answer;
use super::decide::Standing;
use super::look::WORK_TIMEOUT;
use super::truth::{Accepted, lines};

/// How long a request waits for another one with its key, or for its order.
const LIMITS: TransactionLimits = TransactionLimits {
    lock: Duration::from_secs(2),
    statement: Duration::from_secs(5),
    idle: Duration::from_secs(10),
};

/// The same for what is a transaction by itself; nothing waits for longer than this for any answer.
const SESSION_LIMITS: TransactionLimits = TransactionLimits { statement: WORK_TIMEOUT, ..LIMITS };

/// What each connection begins with.
pub(super) async fn begin_session(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(SESSION_LIMITS.session_sql())).execute(connection).await?;
    Ok(())
}

/// Opens the transaction of a request that changes something.
pub(super) async fn begin(
    connection: &mut PgConnection,
) -> Result<Transaction<'_, Postgres>, sqlx::Error> {
    use sqlx::Connection as _;
    connection.begin_with(AssertSqlSafe(LIMITS.begin_sql())).await
}

/// Opens a snapshot for a request that changes nothing.
pub(super) async fn snapshot(
    connection: &mut PgConnection,
) -> Result<Transaction<'_, Postgres>, sqlx::Error> {
    use sqlx::Connection as _;
    connection
        .begin_with(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 5000",
        )
        .await
}

/// A client's key, and what it was first used for.
#[derive(Debug, Clone)]
pub(super) struct KeyUse {
    pub(super) client: String,
    pub(super) key: String,
    pub(super) fingerprint: [u8; 32],
}

/// The answer that a key already has.
#[derive(Debug)]
pub(super) struct KeyHeld {
    pub(super) fingerprint: Vec<u8>,
    pub(super) answer: Answer,
}

/// Takes the key for this transaction. Waits for one that has it and is still open.
pub(super) async fn take_key(
    connection: &mut PgConnection,
    key: &KeyUse,
) -> Result<bool, sqlx::Error> {
    let taken = sqlx::query(
        r"
        INSERT INTO idempotency_keys (client, key, fingerprint)
        VALUES ($1, $2, $3)
            ON CONFLICT (client, key) DO NOTHING
        ",
    )
    .bind(&key.client)
    .bind(&key.key)
    .bind(&key.fingerprint[..])
    .execute(connection)
    .await?;
    Ok(taken.rows_affected() == 1)
}

/// The answer of a key that was not to be taken. A statement of its own: the snapshot of the one before
/// is older than the commit it waited for. `None` if the key has left meanwhile.
pub(super) async fn held_key(
    connection: &mut PgConnection,
    key: &KeyUse,
) -> Result<Option<KeyHeld>, sqlx::Error> {
    sqlx::query(
        r"
        SELECT fingerprint, status, headers, body
          FROM idempotency_keys
         WHERE client = $1 AND key = $2
        ",
    )
    .bind(&key.client)
    .bind(&key.key)
    .try_map(|row: PgRow| {
        let Json(headers) = row.try_get("headers")?;
        let status: i16 = row.try_get("status")?;
        let status = u16::try_from(status).map_err(|error| sqlx::Error::Decode(error.into()))?;
        let answer = Answer { status, headers, body: row.try_get("body")? };
        Ok(KeyHeld { fingerprint: row.try_get("fingerprint")?, answer })
    })
    .fetch_optional(connection)
    .await
}

/// Keeps the answer with its key.
pub(super) async fn keep_answer(
    connection: &mut PgConnection,
    key: &KeyUse,
    answer: &Answer,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        r"
        UPDATE idempotency_keys
           SET status = $3, headers = $4, body = $5
         WHERE client = $1 AND key = $2
        ",
    )
    .bind(&key.client)
    .bind(&key.key)
    .bind(i16::try_from(answer.status).unwrap_or(i16::MAX))
    .bind(Json(&answer.headers))
    .bind(&answer.body)
    .execute(connection)
    .await?;
    Ok(())
}

/// Removes keys that are older than this, some at a time; returns how many.
pub(super) async fn forget_keys(
    connection: &mut PgConnection,
    kept_for: Duration,
) -> Result<u64, sqlx::Error> {
    let gone = sqlx::query(
        r"
        DELETE FROM idempotency_keys
         WHERE (client, key) IN (
                   SELECT client, key
                     FROM idempotency_keys
                    WHERE created_at < now() - $1 * interval '1 second'
                    ORDER BY created_at
                    LIMIT 1000
                      FOR UPDATE SKIP LOCKED)
        ",
    )
    .bind(kept_for.as_secs_f64())
    .execute(connection)
    .await?;
    Ok(gone.rows_affected())
}

/// The order as accepted, locked until the end of the transaction. One that came by another way and is
/// known to the consumer alone is taken over first.
pub(super) async fn lock_order(
    connection: &mut PgConnection,
    order_id: Uuid,
) -> Result<Option<Accepted>, sqlx::Error> {
    if let Some(accepted) = lock_accepted(connection, order_id).await? {
        return Ok(Some(accepted));
    }
    sqlx::query(
        r"
        INSERT INTO accepted_orders
               (order_id, customer_id, status, currency, total_cents, items, placed_at, version,
                updated_at)
        SELECT order_id, customer_id, status, currency, total_cents, items, placed_at, 0, updated_at
          FROM orders
         WHERE order_id = $1
            ON CONFLICT (order_id) DO NOTHING
        ",
    )
    .bind(order_id)
    .execute(&mut *connection)
    .await?;
    // Also if nothing was added: another request may have taken it over since.
    lock_accepted(connection, order_id).await
}

async fn lock_accepted(
    connection: &mut PgConnection,
    order_id: Uuid,
) -> Result<Option<Accepted>, sqlx::Error> {
    sqlx::query(
        r"
        SELECT order_id, customer_id, status, currency, total_cents, items, placed_at, version,
               created_at, updated_at
          FROM accepted_orders
         WHERE order_id = $1
           FOR UPDATE
        ",
    )
    .bind(order_id)
    .try_map(|row: PgRow| rows::accepted(&row))
    .fetch_optional(connection)
    .await
}

/// Adds an order. `None` if another transaction, which this one waited for, has added it.
pub(super) async fn insert_order(
    connection: &mut PgConnection,
    standing: &Standing,
) -> Result<Option<Accepted>, sqlx::Error> {
    let insert = sqlx::query_as(
        r"
        INSERT INTO accepted_orders
               (order_id, customer_id, status, currency, total_cents, items, placed_at, version)
        VALUES ($1, $2, $3, $4, $5, $6, $7, 1)
            ON CONFLICT (order_id) DO NOTHING
     RETURNING created_at, updated_at
        ",
    );
    let times: Option<(OffsetDateTime, OffsetDateTime)> =
        with_columns(insert, standing).fetch_optional(connection).await?;
    let standing = standing.clone();
    Ok(times.map(|(created_at, updated_at)| Accepted {
        standing,
        version: 1,
        created_at,
        updated_at,
    }))
}

/// Changes an order that is locked.
pub(super) async fn update_order(
    connection: &mut PgConnection,
    before: &Accepted,
    standing: &Standing,
) -> Result<Accepted, sqlx::Error> {
    let update = sqlx::query_as(
        r"
        UPDATE accepted_orders
           SET customer_id = $2, status = $3, currency = $4, total_cents = $5, items = $6,
               placed_at = $7, version = version + 1, updated_at = now()
         WHERE order_id = $1
     RETURNING version, updated_at
        ",
    );
    let (version, updated_at) = with_columns(update, standing).fetch_one(connection).await?;
    Ok(Accepted { standing: standing.clone(), version, updated_at, ..before.clone() })
}

type Asking<'q, T> = QueryAs<'q, Postgres, T, PgArguments>;

/// The columns of an order as $1 to $7: id, customer, status, currency, total, items, time.
fn with_columns<'q, T>(query: Asking<'q, T>, standing: &'q Standing) -> Asking<'q, T> {
    let Standing { status, content } = standing;
    query
        .bind(content.order_id())
        .bind(content.customer_id().as_str())
        .bind(status.as_str())
        .bind(content.currency().as_str())
        .bind(content.total().get())
        .bind(Json(lines(content)))
        .bind(content.placed_at())
}

/// Notes the event behind a version.
pub(super) async fn insert_event(
    connection: &mut PgConnection,
    version: i64,
    message_id: Uuid,
    event: &OrderEvent,
) -> Result<OffsetDateTime, sqlx::Error> {
    sqlx::query_scalar(
        r"
        INSERT INTO accepted_events (order_id, version, message_id, event_type)
        VALUES ($1, $2, $3, $4)
     RETURNING accepted_at
        ",
    )
    .bind(event.order_id())
    .bind(version)
    .bind(message_id)
    .bind(event.kind().as_str())
    .fetch_one(connection)
    .await
}

/// The status of a column.
fn status_of(name: &str) -> Result<Status, sqlx::Error> {
    Status::from_name(name)
        .ok_or_else(|| sqlx::Error::Decode(format!("the status {name:?} is not known").into()))
}
