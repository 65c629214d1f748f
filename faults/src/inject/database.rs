//! Backends are terminated, statements cancelled, tables locked.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::time::{Instant, sleep};

use crate::random::Random;
use crate::stage::Stage;

/// Calls that function on one of the consumers' backends, again and again.
pub(super) async fn strike(
    stage: &Stage<'_>,
    function: &str,
    lasts: Duration,
    random: &mut Random,
) -> anyhow::Result<()> {
    let statement = format!(
        "SELECT {function}
           FROM (SELECT pid
                   FROM pg_stat_activity
                  WHERE datname = current_database() AND pid <> pg_backend_pid()
                    AND application_name LIKE 'idempotent-consumer%'
                  ORDER BY (state <> 'idle') DESC, random()
                  LIMIT 1)"
    );
    let deadline = Instant::now() + lasts;
    let mut strikes = 0;
    while Instant::now() < deadline {
        // PostgreSQL may be away by another fault.
        if let Ok(mut connection) = stage.connect().await {
            let struck = sqlx::query(AssertSqlSafe(&*statement)).fetch_all(&mut connection).await;
            strikes += struck.map_or(0, |rows| rows.len());
        }
        sleep(Duration::from_millis(random.between(5, 250))).await;
    }
    stage.timeline.note(format!("{strikes} calls of {function}"));
    Ok(())
}

/// Holds a lock that everybody needs.
pub(super) async fn lock(
    stage: &Stage<'_>,
    lasts: Duration,
    random: &mut Random,
) -> anyhow::Result<()> {
    let table = random.one_of(&[
        "customer_totals",
        "orders",
        "processed_messages",
        "outbox",
        "dead_letters",
    ]);
    let mut connection = stage
        .patiently("a lock", async || {
            let mut connection: PgConnection = stage.connect().await?;
            let lock = format!("BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
            sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut connection).await?;
            Ok(connection)
        })
        .await?;
    stage.timeline.note(format!("{table} is locked"));
    sleep(lasts).await;
    // It is gone if PostgreSQL was killed meanwhile, and the lock with it.
    let _ = sqlx::raw_sql("ROLLBACK").execute(&mut connection).await;
    let _ = connection.close().await;
    Ok(())
}
