//! A handler that ends its process, or its thread, on messages that tell it to: the worst that an
//! application can do to the engine. See `suspects` in the library, and try it:
//!
//! ```text
//! cargo stack up && eval "$(cargo stack env)"
//! while ! cargo run --example unruly; do echo "it has died"; done
//! ```
//! Messages are JSON: `"work"`, `"nap"`, `"abort"`, `"hang"`, `"block"` or `"allocate"`, perhaps with
//! `"late "` before it: not at the first attempt.

use std::env;
use std::time::Duration;

use idempotent_consumer::{
    Answer, Context, Engine, EngineConfig, HandlerError, KafkaSettings, Message, MessageHandler,
    OneByOne, migrate,
};
use rustix::process::{Resource, Rlimit, setrlimit};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

/// Bytes of address space for the whole process.
const MEMORY: u64 = 4 << 30;

struct Unruly {
    /// A second connection, for what is to stay although the transaction does not.
    pool: PgPool,
}

impl Unruly {
    /// Whether this is the first time that the handler sees the message.
    async fn is_first_attempt(&self, message: &Message<String>) -> Result<bool, sqlx::Error> {
        let noted = sqlx::query("INSERT INTO seen (id) VALUES ($1) ON CONFLICT DO NOTHING")
            .bind(message.id.0)
            .execute(&self.pool)
            .await?;
        Ok(noted.rows_affected() > 0)
    }
}

impl MessageHandler for Unruly {
    type Body = String;

    async fn handle(
        &self,
        context: &mut Context<'_>,
        message: &Message<String>,
    ) -> Result<Answer, HandlerError> {
        let mut order = message.body.as_str();
        if let Some(late) = order.strip_prefix("late ") {
            if self.is_first_attempt(message).await? {
                return Ok(Answer::Retry("once more, please".into()));
            }
            order = late;
        }
        match order {
            "nap" => tokio::time::sleep(Duration::from_millis(100)).await,
            "abort" => std::process::abort(),
            "hang" => std::future::pending::<()>().await,
            "block" => std::thread::sleep(Duration::MAX),
            "allocate" => {
                let mut kept: Vec<Vec<u8>> = Vec::new();
                loop {
                    kept.push(Vec::with_capacity(64 << 20));
                }
            }
            _ => {}
        }
        sqlx::query("INSERT INTO worked (id) VALUES ($1)")
            .bind(message.id.0)
            .execute(context.connection())
            .await?;
        Ok(Answer::Applied)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    setrlimit(Resource::As, Rlimit { current: Some(MEMORY), maximum: Some(MEMORY) })?;
    let servers = env::var("KAFKA_BOOTSTRAP_SERVERS").unwrap_or("localhost:9092".to_owned());
    let topic = env::var("TOPIC").unwrap_or("unruly".to_owned());
    let pool = PgPool::connect(&env::var("DATABASE_URL")?).await?;
    migrate::apply(&pool).await?;
    for create in [
        "CREATE TABLE IF NOT EXISTS worked (id uuid)",
        "CREATE TABLE IF NOT EXISTS seen (id uuid PRIMARY KEY)",
    ] {
        sqlx::query(create).execute(&pool).await?;
    }

    // A dead consumer is taken for dead after this time.
    let session = env::var("SESSION_TIMEOUT_MS").unwrap_or("6000".to_owned());
    let kafka = KafkaSettings::new(servers)
        .property("heartbeat.interval.ms", "300")?
        .property("session.timeout.ms", session)?;
    let mut config = EngineConfig::new(kafka, topic, "unruly");
    let patience = env::var("HANDLER_TIMEOUT_MS").unwrap_or("500".to_owned()).parse()?;
    config.handler_timeout = Duration::from_millis(patience);
    if let Ok(concurrency) = env::var("CONCURRENCY") {
        config.concurrency = concurrency.parse()?;
    }
    if let Ok(batch_size) = env::var("BATCH_SIZE") {
        config.batch_size = batch_size.parse()?;
    }
    config.stuck_timeout = Some(Duration::from_secs(4));
    config.retry_backoff.base = Duration::from_millis(20);
    config.retry_backoff.cap = Duration::from_millis(100);
    config.exit_when_idle = Some(Duration::from_secs(3));
    let handler = OneByOne(Unruly { pool: pool.clone() });
    let summary = Engine::new(config, handler, pool).run(CancellationToken::new()).await?;
    println!("{} worked, {} dead-lettered", summary.applied, summary.dead_lettered);
    Ok(())
}
