//! How much one customer in ten whose rows are refused costs the others: the time to the end of the
//! log, with and without. What is refused waits in the retry queue meanwhile. A trigger refuses, and
//! both have it: where there is one, PostgreSQL inserts row by row, refused or not.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::bail;
use local_stack::programs::Program;
use sqlx::{AssertSqlSafe, Executor as _, PgConnection};

use crate::contender::Run;
use crate::stage::{Ids, Place, Shape, Stage};

const PATIENCE: Duration = Duration::from_mins(10);
const POLL: Duration = Duration::from_millis(50);
/// Customers are c-0 to c-999.
const SHAPE: Shape =
    Shape { partitions: 6, duplicates: 0, poison: 0, customers: 1000, ids: Ids::Seven };
/// One customer in ten; or nobody, since no id ends so.
const FAILING: &str = "%7";
const NOBODY: &str = "%nobody";

fn trigger(refused: &str) -> String {
    format!(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'too slow' USING ERRCODE = 'query_canceled'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON orders FOR EACH ROW
                WHEN (NEW.customer_id LIKE '{refused}') EXECUTE FUNCTION refuse()"
    )
}

/// From the first commit to the end of the log.
pub(crate) async fn run(stage: &Stage, refused: bool) -> anyhow::Result<Run> {
    let place = stage.place(SHAPE).await?;
    let mut connection = place.connect().await?;
    let trigger = trigger(if refused { FAILING } else { NOBODY });
    connection.execute(AssertSqlSafe(trigger)).await?;
    let before = place.before().await?;
    let mut run = place.consumer("run");
    run.args(["-o", "json"]);
    let mut program = Program::start(run, place.folder(), place.name())?;
    let measured = watch(&place, &mut connection, &mut program, stage.events).await;
    connection.execute("DROP TRIGGER refuse ON orders").await?;
    program.signal(rustix::process::Signal::TERM);
    let ended = program.ended(Duration::from_mins(1)).await?;
    let (events, seconds) = measured?;
    let usage = place.since(&before, ended.peak_kib).await?;
    let waiting: i64 =
        sqlx::query_scalar("SELECT count(*) FROM retry_queue").fetch_one(&mut connection).await?;
    eprintln!("{waiting} messages in the retry queue");
    if refused != (waiting > 0) {
        bail!("{waiting} messages wait");
    }
    drop(connection);
    place.clear().await?;
    Ok(Run { events, seconds, usage, lane_seconds: BTreeMap::new() })
}

/// Returns the records from the first look on, and the time they took.
async fn watch(
    place: &Place<'_>,
    connection: &mut PgConnection,
    program: &mut Program,
    events: u64,
) -> anyhow::Result<(u64, f64)> {
    let deadline = Instant::now() + PATIENCE;
    let mut first: Option<(Instant, u64)> = None;
    loop {
        let done: i64 = sqlx::query_scalar(
            "SELECT coalesce(sum(next_offset), 0)::bigint FROM partition_progress",
        )
        .fetch_one(&mut *connection)
        .await?;
        let done = done.unsigned_abs();
        match first {
            None if done > 0 => first = Some((Instant::now(), done)),
            Some((begun, before)) if done >= events => {
                return Ok((events - before, begun.elapsed().as_secs_f64()));
            }
            _ => {}
        }
        if let Some(status) = program.try_wait() {
            bail!("order-consumer run on {}: {status}: {}", place.name(), program.last_lines());
        }
        if Instant::now() > deadline {
            bail!("{done} of {events} records within {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
}
