//! Consume, process, produce: the output and the offsets of the input commit in one Kafka
//! transaction, which a `read_committed` reader sees whole or not at all. A database is not part of
//! it, and neither is a service behind HTTP: what is done there stays when the transaction is aborted,
//! and is done again.

use std::marker::PhantomData;
use std::time::Duration;

use crate::effect;
use crate::steps::READ;
use crate::stream::Order;
use crate::worker::{Besides, Strategy, Worker};
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

/// What is done inside of the transaction, besides the output.
pub(crate) trait Inside: Send + 'static {
    const NAME: &'static str;
    const WHAT: &'static str;
    const BESIDES: Besides;

    fn act(worker: &mut Worker, order: &Order) -> impl Future<Output = anyhow::Result<()>> + Send;
}

/// Nothing: from topic to topic.
pub(crate) struct Nothing;

impl Inside for Nothing {
    const NAME: &'static str = "kafka-transactions";
    const WHAT: &'static str = "output and offsets in one Kafka transaction, topic to topic";
    const BESIDES: Besides = Besides::OutputTopic;

    async fn act(_: &mut Worker, _: &Order) -> anyhow::Result<()> {
        Ok(())
    }
}

/// The effect is written to PostgreSQL.
pub(crate) struct DatabaseWrite;

impl Inside for DatabaseWrite {
    const NAME: &'static str = "kafka-transactions-database";
    const WHAT: &'static str = "a database write inside a Kafka transaction";
    const BESIDES: Besides = Besides::Nothing;

    async fn act(worker: &mut Worker, order: &Order) -> anyhow::Result<()> {
        let mut transaction = worker.db.begin().await?;
        effect::apply(&mut transaction, order).await?;
        Ok(transaction.commit().await?)
    }
}

/// A service is told of the order, and books it.
pub(crate) struct HttpCall;

impl Inside for HttpCall {
    const NAME: &'static str = "kafka-transactions-http";
    const WHAT: &'static str = "a call by HTTP inside a Kafka transaction";
    const BESIDES: Besides = Besides::Service;

    async fn act(worker: &mut Worker, order: &Order) -> anyhow::Result<()> {
        worker.counts.requests += 1;
        worker.place.service.as_ref().context("no service")?.post(order).await
    }
}

pub(crate) struct KafkaTransactions<I> {
    inside: PhantomData<I>,
    producer: ThreadedProducer<DefaultProducerContext>,
    /// Messages in the open transaction.
    open: u64,
}

impl<I: Inside> Strategy for KafkaTransactions<I> {
    const NAME: &'static str = I::NAME;
    const WHAT: &'static str = I::WHAT;
    const BESIDES: Besides = I::BESIDES;
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
        Ok(Self { inside: PhantomData, producer, open: 0 })
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
        I::act(worker, order).await?;
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

impl<I: Inside> KafkaTransactions<I> {
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
