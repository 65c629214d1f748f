//! A full outbox, and the relay of a consumer that has nothing else to do.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use local_stack::programs::Program;

use crate::produce::Run;
use crate::stage::Stage;

/// Between two looks whether the outbox is empty.
const POLL: Duration = Duration::from_millis(20);
const TIMEOUT: Duration = Duration::from_mins(30);

/// Rows of 256 bytes and headers for as many keys as `load` has customers.
const FILL: &str = r"
    INSERT INTO outbox (topic, key, value, headers)
    SELECT $1,
           convert_to('customer-' || n % 10000, 'UTF8'),
           convert_to(encode(sha512(n::text::bytea), 'hex') || encode(sha512(md5(n::text)::bytea), 'hex'),
                      'UTF8'),
           jsonb_build_array(
               jsonb_build_object('name', 'ce_specversion', 'value', '1.0'),
               jsonb_build_object('name', 'ce_id', 'value', uuidv7()::text),
               jsonb_build_object('name', 'ce_type', 'value', 'order.noted'))
      FROM generate_series(1, $2) AS n
";

/// Publishes that many rows to a topic.
pub(crate) async fn publish(stage: &Stage, topic: &str, rows: u64) -> anyhow::Result<Run> {
    let place = stage.empty_place(1).await?;
    let mut connection = place.connect().await?;
    sqlx::query(FILL).bind(topic).bind(i64::try_from(rows)?).execute(&mut connection).await?;
    for statement in ["VACUUM (ANALYZE) outbox", "CHECKPOINT"] {
        sqlx::query(statement).execute(&mut connection).await?;
    }
    let (before, begun) = (stage.clocks(), Instant::now());
    let mut program = Program::start(place.consumer("run"), place.folder(), place.name())?;
    // From the last one seen on: those before it are dead, and would be looked at each time.
    let mut first = Some(0_i64);
    while let Some(from) = first {
        tokio::time::sleep(POLL).await;
        let left = "SELECT min(id) FROM outbox WHERE id >= $1";
        first = sqlx::query_scalar(left).bind(from).fetch_one(&mut connection).await?;
        if let Some(status) = program.try_wait() {
            bail!("order-consumer run: {status}: {}", program.last_lines());
        }
        if begun.elapsed() > TIMEOUT {
            bail!("the outbox is not empty after {TIMEOUT:?}");
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    program.signal(rustix::process::Signal::TERM);
    program.ended(Duration::from_mins(1)).await.context("order-consumer run")?;
    let used = stage.clocks().since(before);
    place.clear().await?;
    Ok(Run {
        rate: rows as f64 / seconds,
        cpu: used.own_children,
        postgres_cpu: used.postgres,
        kafka_cpu: used.kafka,
    })
}
