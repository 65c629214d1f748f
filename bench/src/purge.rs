//! How long old claims take to leave, and how much that delays batches that claim meanwhile.

use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;
use serde::Serialize;
use sqlx::{Connection as _, PgConnection};
use tokio::sync::oneshot;

use crate::Format;
use crate::stage::{Ids, Shape, Stage, on_stage, succeed};

/// Between the batches beside.
const PACE: Duration = Duration::from_millis(25);
/// How long batches run alone.
const ALONE: Duration = Duration::from_secs(30);
/// How long they go on after the purge, whose files may still be leaving.
const AFTER: Duration = Duration::from_secs(5);
/// One batch of 100 claims, as a lane makes them.
const BATCH: &str = r#"
    INSERT INTO processed_messages
           (message_id, "offset", batch_seq, partition, consumer_group, topic, outcome, fingerprint)
    SELECT id, n, 1, 0, 'beside', 'orders', 'applied', '\x01'::bytea || sha256(n::text::bytea)
      FROM (SELECT uuidv7() AS id, n FROM generate_series(1, 100) AS n ORDER BY 1) AS claim
        ON CONFLICT (message_id, consumer_group) DO NOTHING
"#;
const FILL_DEAD_LETTERS: &str = r#"
    INSERT INTO dead_letters
           (dlq_id, consumer_group, message_id, original_id, topic, partition, "offset", headers,
            error_class, error_code, error_message, attempts)
    SELECT gen_random_uuid(), consumer_group, message_id, message_id, topic, partition, "offset",
           '[]', 'permanent', 'bench', 'bench', 0
      FROM processed_messages
     WHERE outcome = 'dead_lettered'
"#;

#[derive(Args)]
pub(crate) struct PurgeOptions {
    /// Claims to purge
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(i64).range(1_000..))]
    claims: i64,
    /// How many of them are of dead letters, and stay
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    dead_letters: i64,
    /// How results are printed
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Serialize)]
struct Purged {
    claims: i64,
    dead_letters: i64,
    left: i64,
    purge_seconds: f64,
    alone: Delays,
    beside: Delays,
    /// Slowest beside less slowest alone.
    delayed_by_ms: f64,
}

#[derive(Serialize)]
struct Delays {
    batches: usize,
    median_ms: f64,
    slowest_ms: f64,
}

impl Delays {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort();
        let ms = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e3);
        Self {
            batches: times.len(),
            median_ms: ms(times.get(times.len() / 2)),
            slowest_ms: ms(times.last()),
        }
    }
}

pub(crate) async fn run(options: &PurgeOptions) -> anyhow::Result<()> {
    let purged = on_stage(1_000, async |stage| measure(stage, options).await).await?;
    if matches!(options.output, Format::Json) {
        println!("{}", serde_json::to_string(&purged)?);
        return Ok(());
    }
    let Purged { claims, dead_letters, left, purge_seconds, alone, beside, delayed_by_ms } = purged;
    println!("claims to purge       {claims}, {dead_letters} of dead letters");
    println!("left of them          {left}");
    println!("purge                 {purge_seconds:.2} s");
    for (name, Delays { batches, median_ms, slowest_ms }) in [("alone", alone), ("beside", beside)]
    {
        println!(
            "batches {name:<13} {batches} of 100 claims, median {median_ms:.1} ms, slowest \
             {slowest_ms:.1} ms"
        );
    }
    println!("delayed by at most    {delayed_by_ms:.1} ms");
    Ok(())
}

async fn measure(stage: &Stage, options: &PurgeOptions) -> anyhow::Result<Purged> {
    let PurgeOptions { claims, dead_letters, .. } = *options;
    let place = stage.place(Shape::default()).await?;
    let mut connection = place.connect().await?;
    // All in one or two weeks.
    place.fill(claims, dead_letters, [60, 59], Ids::Seven).await?;
    sqlx::query(FILL_DEAD_LETTERS).execute(&mut connection).await?;
    sqlx::query("CHECKPOINT").execute(&mut connection).await?;
    eprintln!("batches run alone, then beside the purge");
    let mut beside = place.connect().await?;
    let alone = batches(&mut beside, tokio::time::sleep(ALONE)).await?;
    let (done, ended) = oneshot::channel();
    let purging = async {
        let begun = Instant::now();
        let mut purge = place.consumer("purge");
        purge.args(["--dedup-window", "30days"]);
        succeed(purge, "order-consumer purge").await?;
        let took = begun.elapsed();
        tokio::time::sleep(AFTER).await;
        _ = done.send(());
        anyhow::Ok(took)
    };
    let (beside, took) =
        tokio::try_join!(batches(&mut beside, async { _ = ended.await }), purging)?;
    let left: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM processed_messages WHERE consumer_group = 'earlier'",
    )
    .fetch_one(&mut connection)
    .await?;
    if left != dead_letters {
        bail!("{left} claims are left, and {dead_letters} were to stay");
    }
    connection.close().await?;
    place.clear().await?;
    let (alone, beside) = (Delays::of(alone), Delays::of(beside));
    Ok(Purged {
        claims,
        dead_letters,
        left,
        purge_seconds: took.as_secs_f64(),
        delayed_by_ms: beside.slowest_ms - alone.slowest_ms,
        alone,
        beside,
    })
}

/// Runs batches at a steady pace until something has ended. Each one's time counts from when it was
/// to begin, so one that waits is not spared by those behind it.
async fn batches(
    connection: &mut PgConnection,
    until: impl Future<Output = ()>,
) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    let mut until = std::pin::pin!(until);
    let mut due = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = &mut until => return Ok(times),
            () = tokio::time::sleep_until(due.into()) => {}
        }
        sqlx::query(BATCH).execute(&mut *connection).await?;
        times.push(due.elapsed());
        due += PACE;
    }
}
