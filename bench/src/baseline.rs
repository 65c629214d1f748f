//! What people write by hand: a message a transaction, and a consumer that only reads. Each runs in
//! a process of its own, so that processor time and memory are taken as the consumer's are.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use idempotent_consumer::nodelay;
use order_events::{EventKind, OrderContent, parse_event};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

/// How long a worker waits for its first message, and for one more.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Args, Clone)]
pub(crate) struct BaselineOptions {
    kind: Kind,
    /// How many threads, each with a consumer and a connection of its own
    #[arg(long, default_value_t = 1)]
    workers: u32,
    /// It ends after so many messages
    #[arg(long)]
    events: u64,
    #[arg(long, env = "KAFKA_BOOTSTRAP_SERVERS")]
    servers: String,
    #[arg(long, env = "ORDERS_TOPIC")]
    topic: String,
    #[arg(long, env = "CONSUMER_GROUP")]
    group: String,
    #[arg(long, env = "DATABASE_URL")]
    database_url: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Reads, and does nothing
    Read,
    /// Claims, applies and commits each message, and then its offset
    OneByOne,
}

/// What a contender says at its end.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Summary {
    pub(crate) events: u64,
    /// From the first message on.
    pub(crate) seconds: f64,
    /// A consumer says where its lanes spent their time.
    #[serde(default)]
    pub(crate) lane_seconds: BTreeMap<String, f64>,
}

/// All workers together.
struct Count {
    done: AtomicU64,
    wanted: u64,
    begun: OnceLock<Instant>,
}

impl Count {
    /// Whether another message is to be worked on.
    fn take(&self) -> bool {
        self.begun.get_or_init(Instant::now);
        self.done.fetch_add(1, SeqCst) < self.wanted
    }
}

/// Runs in a process of its own, and prints a [`Summary`].
pub(crate) fn run(options: &BaselineOptions) -> anyhow::Result<()> {
    let count = Count { done: AtomicU64::new(0), wanted: options.events, begun: OnceLock::new() };
    std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..options.workers).map(|_| scope.spawn(|| work(options, &count))).collect();
        workers.into_iter().try_for_each(|worker| {
            worker.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a worker panicked")))
        })
    })?;
    let begun = count.begun.get().context("no message came")?;
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{}",
        serde_json::to_string(&Summary {
            events: options.events,
            seconds,
            lane_seconds: BTreeMap::new()
        })?
    );
    Ok(())
}

fn work(options: &BaselineOptions, count: &Count) -> anyhow::Result<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &options.servers)
        .set("group.id", &options.group)
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", if options.kind == Kind::Read { "true" } else { "false" })
        .create()?;
    consumer.subscribe(&[&options.topic])?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let database: PgConnectOptions = options.database_url.parse()?;
    let mut connection = runtime.block_on(PgConnection::connect_with(&database))?;
    nodelay::set_on_connections(&database);
    let mut last = Instant::now();
    while count.done.load(SeqCst) < count.wanted {
        let message = match consumer.poll(Duration::from_millis(100)) {
            Some(message) => message?,
            // With more workers than partitions, some have nothing to do.
            None if last.elapsed() < PATIENCE => continue,
            None if count.done.load(SeqCst) > 0 => return Ok(()),
            None => bail!("no message within {} s", PATIENCE.as_secs()),
        };
        last = Instant::now();
        if !count.take() {
            break;
        }
        if options.kind == Kind::Read {
            continue;
        }
        let id = message
            .headers()
            .and_then(|headers| headers.iter().find(|header| header.key == "ce_id"))
            .and_then(|header| Uuid::try_parse_ascii(header.value?).ok())
            .context("no message id")?;
        let (partition, offset) = (message.partition(), message.offset());
        let value = message.payload().context("no value")?;
        let event = parse_event(EventKind::Placed, value, "the value")?;
        let order = event.content().context("no order")?;
        let apply = apply(&mut connection, options, (id, partition, offset), order);
        runtime.block_on(apply)?;
        consumer.commit_message(&message, CommitMode::Sync)?;
    }
    Ok(())
}

/// Claim and effect of one message, in a transaction.
async fn apply(
    connection: &mut PgConnection,
    options: &BaselineOptions,
    (id, partition, offset): (Uuid, i32, i64),
    order: &OrderContent,
) -> anyhow::Result<()> {
    let mut transaction = connection.begin().await?;
    let claimed = sqlx::query(
        r#"
        INSERT INTO processed_messages
               (message_id, "offset", batch_seq, partition, consumer_group, topic, outcome, fingerprint)
        VALUES ($1, $2, 0, $3, $4, $5, 'applied', '')
            ON CONFLICT DO NOTHING
        "#,
    )
    .bind(id)
    .bind(offset)
    .bind(partition)
    .bind(&options.group)
    .bind(&options.topic)
    .execute(&mut *transaction)
    .await?;
    if claimed.rows_affected() > 0 {
        let items: Vec<serde_json::Value> = order
            .items()
            .iter()
            .map(|item| {
                serde_json::json!({
                    "sku": item.sku().as_str(),
                    "quantity": item.quantity(),
                    "unit_price_cents": item.unit_price().get(),
                })
            })
            .collect();
        sqlx::query(
            r"
            INSERT INTO orders
                   (order_id, customer_id, status, currency, total_cents, items, placed_at,
                    last_message_id)
            VALUES ($1, $2, 'placed', $3, $4, $5, $6, $7)
            ",
        )
        .bind(order.order_id())
        .bind(order.customer_id().as_str())
        .bind(order.currency().as_str())
        .bind(order.total().get())
        .bind(sqlx::types::Json(items))
        .bind(order.placed_at())
        .bind(id)
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            r"
            INSERT INTO customer_totals (customer_id, currency, orders, spent_cents)
            VALUES ($1, $2, 1, $3)
                ON CONFLICT (customer_id, currency) DO UPDATE
               SET orders = customer_totals.orders + 1,
                   spent_cents = customer_totals.spent_cents + excluded.spent_cents
            ",
        )
        .bind(order.customer_id().as_str())
        .bind(order.currency().as_str())
        .bind(order.total().get())
        .execute(&mut *transaction)
        .await?;
    }
    Ok(transaction.commit().await?)
}
