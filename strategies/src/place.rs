//! Where one cell of the table takes place: a database, a topic and a group of its own.

use std::time::Duration;

use anyhow::Context as _;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::http_service::HttpService;
use crate::judge::Facts;
use crate::stream::{self, CUSTOMERS, Order, Outgoing, PARTITIONS};

const TABLES: &str = r"
CREATE TABLE orders (
    seq          bigint GENERATED ALWAYS AS IDENTITY,
    order_id     uuid NOT NULL,
    customer_id  text NOT NULL,
    number       bigint NOT NULL,
    amount_cents bigint NOT NULL
);
CREATE TABLE totals (
    customer_id text PRIMARY KEY,
    spent_cents bigint NOT NULL DEFAULT 0,
    version     bigint NOT NULL DEFAULT 0
);
CREATE TABLE sent (
    order_id     uuid PRIMARY KEY,
    customer_id  text NOT NULL,
    number       bigint NOT NULL,
    amount_cents bigint NOT NULL,
    sent_us      bigint NOT NULL
);
";

const DEAD_LETTERS: &str = r#"
CREATE TABLE dead_letters (
    partition int,
    "offset"  bigint,
    value     bytea NOT NULL,
    PRIMARY KEY (partition, "offset")
);
"#;

/// Addresses and names.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) servers: String,
    pub(crate) database: PgConnectOptions,
    pub(crate) database_url: String,
    pub(crate) topic: String,
    pub(crate) output: String,
    pub(crate) group: String,
    pub(crate) redis_url: Option<String>,
    pub(crate) service: Option<HttpService>,
}

/// When rows were committed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Speed {
    /// Orders a second, from the first commit to the last, the orders of the first left out.
    pub(crate) rate: Option<f64>,
    /// From the producer's hand to the commit.
    pub(crate) p99_ms: Option<f64>,
}

impl Place {
    pub(crate) async fn connect(&self) -> anyhow::Result<PgConnection> {
        PgConnection::connect_with(&self.database).await.context("no database")
    }

    /// Creates the tables. The engine brings its own for dead letters.
    pub(crate) async fn create_tables(&self, ddl: &str, is_engine: bool) -> anyhow::Result<()> {
        let mut db = self.connect().await?;
        sqlx::raw_sql(TABLES).execute(&mut db).await?;
        if !is_engine {
            sqlx::raw_sql(DEAD_LETTERS).execute(&mut db).await?;
        }
        sqlx::raw_sql(AssertSqlSafe(ddl)).execute(&mut db).await?;
        sqlx::query(
            "INSERT INTO totals (customer_id) SELECT 'c-' || n FROM generate_series(0, $1) n",
        )
        .bind(CUSTOMERS - 1)
        .execute(&mut db)
        .await?;
        Ok(db.close().await?)
    }

    /// Notes what was sent.
    pub(crate) async fn note(&self, messages: &[Outgoing]) -> anyhow::Result<()> {
        let mut db = self.connect().await?;
        let bodies = || messages.iter().filter_map(|message| message.body.as_ref());
        let with_bodies = messages.iter().filter(|message| message.body.is_some());
        sqlx::query(
            r"
            INSERT INTO sent (order_id, customer_id, number, amount_cents, sent_us)
            SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[])
                ON CONFLICT DO NOTHING
            ",
        )
        .bind(bodies().map(|body| body.order_id).collect::<Vec<_>>())
        .bind(bodies().map(|body| body.customer_id.clone()).collect::<Vec<_>>())
        .bind(bodies().map(|body| body.number).collect::<Vec<_>>())
        .bind(bodies().map(|body| body.amount_cents).collect::<Vec<_>>())
        .bind(with_bodies.map(|message| message.sent_us).collect::<Vec<_>>())
        .execute(&mut db)
        .await?;
        Ok(db.close().await?)
    }

    /// Takes what a `read_committed` reader finds in the output topic for the orders.
    pub(crate) async fn load_output(&self) -> anyhow::Result<()> {
        let orders = tokio::task::block_in_place(|| self.read_output())?;
        let mut db = self.connect().await?;
        let mut transaction = db.begin().await?;
        for order in &orders {
            crate::effect::apply(&mut transaction, order).await?;
        }
        transaction.commit().await?;
        Ok(db.close().await?)
    }

    fn read_output(&self) -> anyhow::Result<Vec<Order>> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.servers)
            .set("group.id", format!("{}-reader", self.group))
            .set("enable.auto.commit", "false")
            .set("enable.partition.eof", "true")
            .set("isolation.level", "read_committed")
            .create()?;
        let mut partitions = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            partitions.add_partition_offset(&self.output, partition, Offset::Beginning)?;
        }
        consumer.assign(&partitions)?;
        let (mut orders, mut ends) = (Vec::new(), 0);
        while ends < PARTITIONS {
            match consumer.poll(Duration::from_secs(30)).context("the output topic is silent")? {
                Ok(message) => {
                    orders.push(stream::read(&message).ok().context("garbage in the output")?);
                }
                Err(KafkaError::PartitionEOF(_)) => ends += 1,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(orders)
    }

    /// How many distinct orders are there.
    pub(crate) async fn orders(&self, db: &mut PgConnection) -> anyhow::Result<u64> {
        let count: i64 =
            sqlx::query_scalar("SELECT count(DISTINCT order_id) FROM orders").fetch_one(db).await?;
        Ok(count.cast_unsigned())
    }

    /// Compares what is there with what was sent.
    pub(crate) async fn facts(&self, poison: u64, is_stuck: bool) -> anyhow::Result<Facts> {
        let mut db = self.connect().await?;
        let (lost_orders, doubled_orders, dead_letters): (i64, i64, i64) = sqlx::query_as(
            r"
            SELECT (SELECT count(*) FROM sent WHERE order_id NOT IN (SELECT order_id FROM orders)),
                   (SELECT count(*) - count(DISTINCT order_id) FROM orders),
                   (SELECT count(*) FROM dead_letters)
            ",
        )
        .fetch_one(&mut db)
        .await?;
        let (missing_cents, surplus_cents): (i64, i64) = sqlx::query_as(
            r"
            SELECT sum(greatest(expected - spent_cents, 0))::bigint,
                   sum(greatest(spent_cents - expected, 0))::bigint
              FROM totals
              JOIN (SELECT customer_id, sum(amount_cents)::bigint AS expected
                      FROM sent GROUP BY customer_id) AS sums USING (customer_id)
            ",
        )
        .fetch_one(&mut db)
        .await?;
        let out_of_order: i64 = sqlx::query_scalar(
            r"
            SELECT count(*)
              FROM (SELECT number,
                           max(number) OVER (PARTITION BY customer_id ORDER BY seq
                                             ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
                               AS before
                      FROM (SELECT customer_id, number, min(seq) AS seq
                              FROM orders GROUP BY customer_id, number) AS firsts) AS numbers
             WHERE before > number
            ",
        )
        .fetch_one(&mut db)
        .await?;
        db.close().await?;
        Ok(Facts {
            lost_orders: lost_orders.cast_unsigned(),
            doubled_orders: doubled_orders.cast_unsigned(),
            missing_cents: missing_cents.cast_unsigned(),
            surplus_cents: surplus_cents.cast_unsigned(),
            out_of_order: out_of_order.cast_unsigned(),
            lost_poison: poison.saturating_sub(dead_letters.cast_unsigned()),
            is_stuck,
        })
    }

    /// By the times of commit that PostgreSQL keeps. `from_us`: who was sent before is part of the
    /// backlog, the others of the trickle.
    pub(crate) async fn speed(&self, from_us: i64) -> anyhow::Result<Speed> {
        let mut db = self.connect().await?;
        let rate: Option<f64> = sqlx::query_scalar(
            r"
            WITH commits AS (
                SELECT pg_xact_commit_timestamp(orders.xmin) AS at, count(*) AS orders
                  FROM orders JOIN sent USING (order_id)
                 WHERE sent_us < $1
                 GROUP BY 1)
            SELECT (sum(orders) - (SELECT orders FROM commits ORDER BY at LIMIT 1))::float8
                   / nullif(extract(epoch FROM max(at) - min(at)), 0)::float8
              FROM commits
            ",
        )
        .bind(from_us)
        .fetch_one(&mut db)
        .await?;
        let p99_ms: Option<f64> = sqlx::query_scalar(
            r"
            SELECT percentile_disc(0.99) WITHIN GROUP (ORDER BY
                       extract(epoch FROM pg_xact_commit_timestamp(orders.xmin))::float8 * 1e3
                       - sent_us::float8 / 1e3)
              FROM orders JOIN sent USING (order_id)
             WHERE sent_us >= $1
            ",
        )
        .bind(from_us)
        .fetch_one(&mut db)
        .await?;
        db.close().await?;
        Ok(Speed { rate, p99_ms })
    }
}
