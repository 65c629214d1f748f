//! Leaves of `processed_messages`, and what goes from them. The work is in functions of the
//! migration `0006_retention`, each called in a transaction of its own.

use std::time::Duration;

use serde::Serialize;
use sqlx::types::time::OffsetDateTime;
use sqlx::{Connection, FromRow, PgConnection};

/// Claims that a purge takes.
#[derive(Clone, Debug, PartialEq, Eq, FromRow, Serialize)]
pub struct Purgeable {
    /// The table that they are in, a leaf of `processed_messages`.
    pub leaf: String,
    /// Whether all of them go at once. If not, they are deleted in small batches.
    pub is_whole: bool,
    /// Claims in the leaf, about.
    pub claims: i64,
    /// What the leaf takes on disk, indexes included.
    pub bytes: i64,
}

/// The user of this session, if it is not the owner of the claims.
pub(crate) async fn stranger(connection: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar(
        r"
        SELECT current_user::text
          FROM pg_class
         WHERE oid = 'processed_messages'::regclass AND NOT pg_has_role(relowner, 'USAGE')
        ",
    )
    .fetch_optional(connection)
    .await
}

/// What is recorded of the window.
pub(crate) async fn recorded_window(
    connection: &mut PgConnection,
) -> Result<Option<Duration>, sqlx::Error> {
    let recorded: Option<Option<i64>> = sqlx::query_scalar(
        "SELECT (extract(epoch FROM kept_for) * 1000)::bigint FROM dedup_window",
    )
    .fetch_optional(connection)
    .await?;
    Ok(recorded.flatten().and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis))
}

/// Records the window, for all consumers of this database.
pub(crate) async fn record_window(
    connection: &mut PgConnection,
    window: Duration,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        r"
        INSERT INTO dedup_window AS recorded (kept_for)
        VALUES (make_interval(secs => $1))
            ON CONFLICT (only_row) DO UPDATE
           SET kept_for = excluded.kept_for,
               recorded_at = now()
         WHERE recorded.kept_for IS DISTINCT FROM excluded.kept_for
        ",
    )
    .bind(window.as_secs_f64())
    .execute(connection)
    .await?;
    Ok(())
}

/// Claims from before this moment are old: the window and `margin` ago, by the database's clock.
pub(crate) async fn cutoff(
    connection: &mut PgConnection,
    window: Duration,
    margin: Duration,
) -> Result<OffsetDateTime, sqlx::Error> {
    sqlx::query_scalar("SELECT clock_timestamp() - make_interval(secs => $1)")
        .bind((window.saturating_add(margin)).as_secs_f64())
        .fetch_one(connection)
        .await
}

/// Writes down that claims from before `cutoff` may be gone. Has to be committed before the first
/// of them goes.
pub(crate) async fn record_purge(
    connection: &mut PgConnection,
    cutoff: OffsetDateTime,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE dedup_window SET purged_before = GREATEST(purged_before, $1)")
        .bind(cutoff)
        .execute(connection)
        .await?;
    Ok(())
}

/// The transactions that work on partitions now, which may not know of the purge.
pub(crate) async fn running_batches(
    connection: &mut PgConnection,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar(
        r"
        SELECT DISTINCT virtualtransaction
          FROM pg_locks
         WHERE relation = 'partition_progress'::regclass
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND mode IN ('RowShareLock', 'RowExclusiveLock')
        ",
    )
    .fetch_all(connection)
    .await
}

/// What a purge up to `cutoff` would take.
pub(crate) async fn purgeable(
    connection: &mut PgConnection,
    cutoff: OffsetDateTime,
) -> Result<Vec<Purgeable>, sqlx::Error> {
    sqlx::query_as("SELECT leaf, is_whole, claims, bytes FROM claims_to_purge($1)")
        .bind(cutoff)
        .fetch_all(connection)
        .await
}

/// Brings the indexes by time of past leaves up to date. Nobody waits for it, and a vacuum that
/// stands in the way of what follows makes room for it.
pub(crate) async fn summarize(
    connection: &mut PgConnection,
    cutoff: OffsetDateTime,
    lock_timeout: Duration,
) -> Result<(), sqlx::Error> {
    within(
        connection,
        lock_timeout,
        sqlx::query_scalar::<_, i64>(
            r"
            SELECT count(summarize_claims(leaf::text)::text)
              FROM claim_leaves()
             WHERE until_id <= claim_bound($1) AND pg_relation_size(leaf) > 0
            ",
        )
        .bind(cutoff),
    )
    .await?;
    Ok(())
}

/// Empties a leaf; returns how many claims stayed. `None` if its range is not past.
pub(crate) async fn empty_leaf(
    connection: &mut PgConnection,
    leaf: &str,
    cutoff: OffsetDateTime,
    lock_timeout: Duration,
) -> Result<Option<i64>, sqlx::Error> {
    let empty = sqlx::query_scalar("SELECT empty_claim_leaf($1, $2)").bind(leaf).bind(cutoff);
    within(connection, lock_timeout, empty).await
}

/// Deletes old claims from so many blocks; returns how many, and `None` behind the leaf's end.
pub(crate) async fn delete_claims(
    connection: &mut PgConnection,
    leaf: &str,
    cutoff: OffsetDateTime,
    from_block: i64,
    blocks: i64,
) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar("SELECT delete_old_claims($1, $2, $3, $4)")
        .bind(leaf)
        .bind(cutoff)
        .bind(from_block)
        .bind(blocks)
        .fetch_one(connection)
        .await
}

/// Years that are to be divided into weeks, or to be one leaf again.
pub(crate) async fn years_to_exchange(
    connection: &mut PgConnection,
) -> Result<Vec<(i32, bool)>, sqlx::Error> {
    sqlx::query_as("SELECT year, by_week FROM claim_years_to_exchange()")
        .fetch_all(connection)
        .await
}

/// Does that; `false` if the year holds too much.
pub(crate) async fn exchange_year(
    connection: &mut PgConnection,
    year: i32,
    by_week: bool,
    lock_timeout: Duration,
) -> Result<bool, sqlx::Error> {
    let exchange =
        sqlx::query_scalar("SELECT exchange_claim_year($1, $2)").bind(year).bind(by_week);
    within(connection, lock_timeout, exchange).await
}

/// One statement in a transaction that waits for no lock longer than that.
async fn within<'q, T>(
    connection: &mut PgConnection,
    lock_timeout: Duration,
    statement: sqlx::query::QueryScalar<'q, sqlx::Postgres, T, sqlx::postgres::PgArguments>,
) -> Result<T, sqlx::Error>
where
    T: Send + Unpin,
    (T,): for<'r> sqlx::FromRow<'r, sqlx::postgres::PgRow>,
{
    let mut transaction = connection.begin().await?;
    sqlx::query("SELECT set_config('lock_timeout', $1, true)")
        .bind(lock_timeout.as_millis().to_string())
        .execute(&mut *transaction)
        .await?;
    let value = statement.fetch_one(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(value)
}
