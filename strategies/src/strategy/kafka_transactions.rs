//! Consume, process, produce: the output and the offsets of the input commit in one Kafka
//! transaction, which a `read_committed` reader sees whole or not at all. A database is not part of
//! it: what is written there stays when the transaction is aborted, and is written again.

use std::time::Duration;

use crate::effect;
use crate::steps::READ;
use crate::stream::Order;
use crate::worker::{Strategy, Worker};
use anyhow::Context as _;
use rdkafka::ClientConfig;
use rdkafka::consumer::Consumer as _;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use sqlx::Connection as _;
use tokio::task::block_in_place;

/// Messages in a transaction, or fewer when there is nothing more to read.
const BATCH: u64 = 100;
const PATIENCE: Duration = Duration::from_secs(20);

/// With `DATABASE`, it also writes the effect to PostgreSQL.
pub(crate) struct KafkaTransactions<const DATABASE: bool> {
    producer: ThreadedProducer<DefaultProducerContext>,
    /// Messages in the open transaction.
    open: u64,
}

impl<const DATABASE: bool> Strategy for KafkaTransactions<DATABASE> {
    const NAME: &'static str =
        if DATABASE { "kafka-transactions-database" } else { "kafka-transactions" };
    const WHAT: &'static str = if DATABASE {
        "a database write inside a Kafka transaction"
    } else {
        "output and offsets in one Kafka transaction, topic to topic"
    };
    const STEPS: &'static [&'static str] =
        &["after_effect", "after_produce", "after_offsets", "after_commit"];
    // Whoever took its place has fenced it.
    const NEEDS_GROUP: &'static [&'static str] =
        &[READ, "after_effect", "after_produce", "after_offsets", "after_commit"];

    async fn open(worker: &mut Worker) -> anyhow::Result<Self> {
        // Whoever takes a place fences who had it before, and aborts what that one left open.
        let id = format!("{}-{}", worker.place.group, worker.role.slot);
        let producer: ThreadedProducer<_> = ClientConfig::new()
            .set("bootstrap.servers", &worker.place.servers)
            .set("transactional.id", id)
            .create()?;
        block_in_place(|| producer.init_transactions(PATIENCE)).context("init_transactions")?;
        Ok(Self { producer, open: 0 })
    }

    /// What is open was made of records that are read again.
    async fn assigned(&mut self, worker: &mut Worker) -> anyhow::Result<()> {
        if std::mem::take(&mut self.open) > 0 {
            worker.counts.requests += 1;
            block_in_place(|| self.producer.abort_transaction(PATIENCE))?;
        }
        Ok(())
    }

    async fn process(&mut self, worker: &mut Worker, order: &Order) -> anyhow::Result<()> {
        if self.open == 0 {
            self.producer.begin_transaction()?;
        }
        self.open += 1;
        if DATABASE {
            let mut transaction = worker.db.begin().await?;
            effect::apply(&mut transaction, order).await?;
            transaction.commit().await?;
        }
        worker.steps.at("after_effect").await;
        let value = serde_json::to_vec(&order.body)?;
        let id = Header { key: "ce_id", value: Some(&order.message_id) };
        let record = BaseRecord::to(&worker.place.output)
            .partition(order.partition)
            .key(&order.body.customer_id)
            .payload(&value)
            .headers(OwnedHeaders::new().insert(id));
        self.producer.send(record).map_err(|(error, _)| error)?;
        worker.steps.at("after_produce").await;
        worker.note_done(order);
        if self.open >= BATCH { self.commit(worker).await } else { Ok(()) }
    }

    async fn idle(&mut self, worker: &mut Worker) -> anyhow::Result<()> {
        if self.open > 0 { self.commit(worker).await } else { Ok(()) }
    }
}

impl<const DATABASE: bool> KafkaTransactions<DATABASE> {
    async fn commit(&mut self, worker: &mut Worker) -> anyhow::Result<()> {
        let offsets = worker.take_done()?;
        let group = worker.consumer.group_metadata().context("no group")?;
        block_in_place(|| self.producer.send_offsets_to_transaction(&offsets, &group, PATIENCE))?;
        worker.steps.at("after_offsets").await;
        block_in_place(|| self.producer.commit_transaction(PATIENCE))?;
        worker.counts.requests += 2;
        self.open = 0;
        worker.steps.at("after_commit").await;
        Ok(())
    }
}
