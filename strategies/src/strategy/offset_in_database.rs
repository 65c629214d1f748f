//! The position is kept where the effect is, and moves in its transaction; Kafka's own offset is not
//! used. What is delivered again stands behind the position. A message that the producer sent twice
//! has two positions.

use std::time::Duration;

use crate::effect;
use crate::stream::{Order, Poison};
use crate::worker::{Strategy, Worker};
use anyhow::Context as _;
use rdkafka::consumer::Consumer as _;
use sqlx::{Connection as _, PgConnection};

const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct OffsetInDatabase;

impl Strategy for OffsetInDatabase {
    const NAME: &'static str = "offset-in-database";
    const WHAT: &'static str = "the position moves in the transaction of the effect";
    const DDL: &'static str =
        "CREATE TABLE positions (partition int PRIMARY KEY, next_offset bigint NOT NULL)";
    const STEPS: &'static [&'static str] = &["after_position", "after_effect", "after_commit"];
    const UNDER_LOCK: &'static [&'static str] = &["after_position", "after_effect"];

    async fn open(_: &mut Worker) -> anyhow::Result<Self> {
        Ok(Self)
    }

    async fn assigned(&mut self, worker: &mut Worker) -> anyhow::Result<()> {
        let positions: Vec<(i32, i64)> =
            sqlx::query_as("SELECT partition, next_offset FROM positions")
                .fetch_all(&mut worker.db)
                .await?;
        let mine = worker.consumer.assignment()?;
        for (partition, next) in positions {
            if mine.find_partition(&worker.place.topic, partition).is_some() {
                tokio::time::timeout(PATIENCE, worker.seek(partition, next))
                    .await
                    .context("the position cannot be set")??;
            }
        }
        Ok(())
    }

    async fn process(&mut self, worker: &mut Worker, order: &Order) -> anyhow::Result<()> {
        let mut transaction = worker.db.begin().await?;
        if move_on(&mut transaction, order.partition, order.offset).await? {
            worker.steps.at("after_position").await;
            effect::apply(&mut transaction, order).await?;
            worker.steps.at("after_effect").await;
        }
        transaction.commit().await?;
        worker.steps.at("after_commit").await;
        Ok(())
    }

    async fn poison(&mut self, worker: &mut Worker, poison: &Poison) -> anyhow::Result<bool> {
        let mut transaction = worker.db.begin().await?;
        if move_on(&mut transaction, poison.partition, poison.offset).await? {
            sqlx::query(
                r#"INSERT INTO dead_letters (partition, "offset", value) VALUES ($1, $2, $3)"#,
            )
            .bind(poison.partition)
            .bind(poison.offset)
            .bind(&poison.value)
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        Ok(true)
    }
}

/// Whether nobody has been here. A second consumer waits for the row until that is known.
async fn move_on(db: &mut PgConnection, partition: i32, offset: i64) -> Result<bool, sqlx::Error> {
    let moved = sqlx::query(
        r"
        INSERT INTO positions AS position (partition, next_offset) VALUES ($1, $2 + 1)
            ON CONFLICT (partition) DO UPDATE SET next_offset = excluded.next_offset
         WHERE position.next_offset < excluded.next_offset
        ",
    )
    .bind(partition)
    .bind(offset)
    .execute(db)
    .await?;
    Ok(moved.rows_affected() > 0)
}
