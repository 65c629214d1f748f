//! What the use cases share: where the servers are, some messages to begin with, and the log as a
//! consumer that claims nothing gets it.

// Each example uses its part of it.
#![allow(dead_code)]

mod http;
pub(crate) mod provider;
pub(crate) mod samples;

use std::env;
use std::ops::ControlFlow;
use std::time::Duration;

use idempotent_consumer::identity::IdMode;
use idempotent_consumer::inspect::scan_log;
use idempotent_consumer::publish::{Ensured, Publication, Publisher, PublisherOptions, Topics};
use idempotent_consumer::{
    Decoded, Decoder as _, Engine, EngineConfig, Headers, Json, KafkaSettings, MessageHandler,
    OneByOne, migrate,
};
use serde::de::DeserializeOwned;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn kafka() -> anyhow::Result<KafkaSettings> {
    let servers = env::var("KAFKA_BOOTSTRAP_SERVERS").unwrap_or("localhost:9092".to_owned());
    // A dead consumer is taken for dead after this time.
    let session = env::var("SESSION_TIMEOUT_MS").unwrap_or("6000".to_owned());
    Ok(KafkaSettings::new(servers)
        .property("heartbeat.interval.ms", "300")?
        .property("session.timeout.ms", session)?)
}

/// The topic of the variable `TOPIC`, or this one. If there is none yet, it is made, and filled with
/// these messages.
pub(crate) async fn topic(
    kafka: &KafkaSettings,
    name: &str,
    samples: &[samples::Sample],
) -> anyhow::Result<String> {
    let topic = env::var("TOPIC").unwrap_or(name.to_owned());
    if Topics::new(kafka, PATIENCE)?.ensure(&topic, 1).await? == Ensured::Created {
        let publisher = Publisher::new(kafka, &PublisherOptions::default(), |delivery| {
            if let Err(error) = delivery.outcome {
                eprintln!("{error}");
            }
        })?;
        for (id, value) in samples {
            let headers: Headers = id.map(|id| ("ce_id", id)).into_iter().collect();
            let record = Publication {
                topic: &topic,
                partition: None,
                key: None,
                value: Some(value.as_bytes()),
                headers: &headers,
            };
            publisher.send(&record, 0)?;
        }
        anyhow::ensure!(publisher.flush(PATIENCE), "Kafka does not acknowledge");
    }
    Ok(topic)
}

/// The database of `DATABASE_URL`, with the engine's tables and these.
pub(crate) async fn database(tables: &'static str) -> anyhow::Result<PgPool> {
    let pool = PgPool::connect(&env::var("DATABASE_URL")?).await?;
    migrate::apply(&pool).await?;
    sqlx::raw_sql(tables).execute(&pool).await?;
    Ok(pool)
}

/// Lets the handler apply what is in the topic, until nothing has come for two seconds.
pub(crate) async fn consume<H: MessageHandler<Body: DeserializeOwned>>(
    kafka: &KafkaSettings,
    topic: &str,
    handler: H,
    pool: &PgPool,
) -> anyhow::Result<()> {
    let mut config = EngineConfig::new(kafka.clone(), topic, topic);
    config.partitions = 1;
    config.exit_when_idle = Some(Duration::from_secs(2));
    let engine = Engine::new(config, OneByOne(handler), pool.clone());
    let summary = engine.run(CancellationToken::new()).await?;
    let (applied, duplicates) = (summary.applied, summary.duplicates);
    println!("{applied} applied, {duplicates} seen before, {} refused", summary.dead_lettered);
    Ok(())
}

/// Every record of the topic in its order, repeats included: what a consumer gets that claims
/// nothing. A record that is no such message is named and passed over.
pub(crate) async fn deliveries<B: DeserializeOwned + Send + Sync + 'static>(
    kafka: &KafkaSettings,
    topic: &str,
) -> anyhow::Result<Vec<B>> {
    let (kafka, topic) = (kafka.clone(), topic.to_owned());
    tokio::task::spawn_blocking(move || {
        let mut bodies = Vec::new();
        let visit = |record, _| {
            match Json::<B>::default().decode(&record) {
                Ok(Decoded::Message(body)) => bodies.push(body),
                Ok(Decoded::Skip) => {}
                Err(poison) => eprintln!("offset {}: {poison}", record.offset),
            }
            ControlFlow::Continue(())
        };
        scan_log(&kafka, &topic, &IdMode::default(), PATIENCE, visit, |_| ())?;
        Ok(bodies)
    })
    .await?
}
