//! Backends are terminated, statements cancelled, tables locked, rows refused.

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

/// Rows of some customers fail, and no others.
pub(super) async fn refuse_customers(
    stage: &Stage<'_>,
    lasts: Duration,
    from_the_beginning: bool,
) -> anyhow::Result<()> {
    const BEGIN: &str = "
        CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'canceling statement due to statement timeout'
                USING ERRCODE = 'query_canceled';
        END $$;
        CREATE OR REPLACE TRIGGER refuse BEFORE INSERT OR UPDATE ON orders FOR EACH ROW
            WHEN (hashtext(NEW.customer_id) % 3 = 0) EXECUTE FUNCTION refuse()";
    let run = async |statement: &'static str| -> anyhow::Result<()> {
        let mut connection = stage.connect().await?;
        sqlx::raw_sql(statement).execute(&mut connection).await?;
        connection.close().await?;
        Ok(())
    };
    stage.patiently("a trigger", async || run(BEGIN).await).await?;
    if from_the_beginning {
        stage.has_begun();
    }
    sleep(lasts).await;
    let end = "DROP TRIGGER IF EXISTS refuse ON orders";
    stage.patiently("the trigger away", async || run(end).await).await
}
