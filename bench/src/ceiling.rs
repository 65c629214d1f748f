//! What the database can take: the rows that the consumer writes, by COPY into two tables with
//! their primary keys and nothing else, without Kafka and without a look at what is there.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Context as _;
use futures_util::TryStreamExt as _;
use futures_util::future::try_join_all;
use sqlx::postgres::PgPoolCopyExt as _;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool};

use crate::consumer;
use crate::contender::Run;
use crate::stage::{Shape, Stage};

/// Most connections that share the work.
const SHARES: u32 = 4;
/// Bytes in a message of the protocol.
const CHUNK: usize = 64 * 1024;

/// Rows of both tables in PostgreSQL's binary format, in [`SHARES`] parts by partition of the topic.
pub(crate) struct Rows {
    parts: Vec<[Vec<u8>; 2]>,
    count: u64,
}

const TABLES: [&str; 2] = ["processed_messages", "orders"];

async fn rows(stage: &Stage) -> anyhow::Result<Rows> {
    let place = stage.place(Shape::default()).await?;
    consumer::drain(&place, stage.events, 4, 1).await?;
    let pool = PgPool::connect(place.url()).await?;
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM orders").fetch_one(&pool).await?;
    let mut parts = Vec::new();
    for part in 0..SHARES {
        let of_part =
            format!("FROM processed_messages WHERE \"offset\" / 1000 % {SHARES} = {part}");
        let claims = format!("SELECT * {of_part} ORDER BY batch_seq, message_id");
        let orders = format!(
            "SELECT orders.* FROM orders JOIN (SELECT message_id, batch_seq {of_part}) AS claim
                 ON message_id = last_message_id ORDER BY batch_seq, message_id"
        );
        parts.push([copy_out(&pool, &claims).await?, copy_out(&pool, &orders).await?]);
    }
    pool.close().await;
    place.clear().await?;
    Ok(Rows { parts, count: count.unsigned_abs() })
}

async fn copy_out(pool: &PgPool, query: &str) -> anyhow::Result<Vec<u8>> {
    let statement = format!("COPY ({query}) TO STDOUT (FORMAT binary)");
    let stream = pool.copy_out_raw(&statement).await?;
    let chunks: Vec<_> = stream.try_collect().await?;
    Ok(chunks.concat())
}

/// Copies them with so many connections.
pub(crate) async fn run(stage: &Stage, connections: u32) -> anyhow::Result<Run> {
    let rows = stage.rows.get_or_try_init(|| rows(stage)).await?;
    let place = stage.place(Shape::default()).await?;
    let mut connection = place.connect().await?;
    connection
        .execute(
            "CREATE SCHEMA plain;
             CREATE TABLE plain.processed_messages
                    (LIKE public.processed_messages, PRIMARY KEY (message_id, consumer_group));
             CREATE TABLE plain.orders (LIKE public.orders, PRIMARY KEY (order_id))",
        )
        .await?;
    let mut workers = Vec::new();
    for _ in 0..connections {
        workers.push(place.connect().await?);
    }
    let before = place.before().await?;
    let begun = Instant::now();
    let share = (SHARES / connections) as usize;
    let work = workers.iter_mut().zip(rows.parts.chunks(share));
    try_join_all(work.map(|(worker, parts)| copy_in(worker, parts))).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let usage = place.since(&before, 0).await?;
    let [claims, orders] = count(&mut connection).await?;
    anyhow::ensure!(claims == rows.count && orders == rows.count, "{claims} and {orders} rows");
    drop(workers);
    connection.close().await?;
    place.clear().await?;
    Ok(Run { events: rows.count, seconds, usage, lane_seconds: BTreeMap::new() })
}

/// Each part in a transaction.
async fn copy_in(worker: &mut PgConnection, parts: &[[Vec<u8>; 2]]) -> anyhow::Result<()> {
    for tables in parts {
        let mut transaction = worker.begin().await?;
        for (table, rows) in TABLES.iter().zip(tables) {
            let statement = format!("COPY plain.{table} FROM STDIN (FORMAT binary)");
            let mut copy = transaction.copy_in_raw(&statement).await?;
            for chunk in rows.chunks(CHUNK) {
                copy.send(chunk).await?;
            }
            copy.finish().await.with_context(|| statement.clone())?;
        }
        transaction.commit().await?;
    }
    Ok(())
}

async fn count(connection: &mut PgConnection) -> anyhow::Result<[u64; 2]> {
    let mut counts = [0; 2];
    for (table, count) in TABLES.iter().zip(&mut counts) {
        let statement = format!("SELECT count(*) FROM plain.{table}");
        let rows: i64 =
            sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(&mut *connection).await?;
        *count = rows.unsigned_abs();
    }
    Ok(counts)
}
