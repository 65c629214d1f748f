//! What has to hold before an engine begins.

use std::time::Duration;

use sqlx::PgPool;

use super::EngineError;
use crate::config::EngineConfig;
use crate::identity::FINGERPRINT_VERSION;
use crate::kafka::admin::AdminError;
use crate::kafka::facts::Facts;
use crate::purge;
use crate::store::scope::Scope;
use crate::store::{migrate, position, scope};

/// Makes sure of topics and tables. Blocks its thread for as long as Kafka takes.
pub(super) async fn all(
    config: &EngineConfig,
    facts: &Facts,
    pool: &PgPool,
    timeout: Duration,
) -> Result<(), EngineError> {
    prepare_topics(config, facts).await?;
    prepare_database(config, facts, pool).await?;
    prepare_window(config, pool, timeout).await
}

async fn prepare_topics(config: &EngineConfig, facts: &Facts) -> Result<(), EngineError> {
    for topic in [&config.topic, &config.dlq_topic].into_iter().chain(&config.publishes_to) {
        if !facts.topics.prepare(topic, config.partitions, config.create_topics).await? {
            return Err(EngineError::TopicMissing(topic.clone()));
        }
    }
    Ok(())
}

async fn prepare_database(
    config: &EngineConfig,
    facts: &Facts,
    pool: &PgPool,
) -> Result<(), EngineError> {
    let mut connection = pool.acquire().await?;
    let encoding: String =
        sqlx::query_scalar("SHOW server_encoding").fetch_one(&mut *connection).await?;
    if encoding != "UTF8" {
        return Err(EngineError::Encoding(encoding));
    }
    let missing =
        migrate::pending(&migrate::engine(), migrate::TRACKING_TABLE, &mut connection).await?;
    if !missing.is_empty() {
        return Err(EngineError::SchemaMissing(missing));
    }
    let given = Scope {
        consumer_group: config.group.clone(),
        id_mode: config.message_id_from.to_string(),
        fingerprint_version: i16::from(FINGERPRINT_VERSION),
    };
    let recorded = scope::record(&mut connection, &given).await?;
    if recorded != given {
        return Err(EngineError::OtherScope {
            recorded: recorded.to_string(),
            given: given.to_string(),
        });
    }
    if !position::is_registered(&mut connection, &config.group, &config.topic).await? {
        let (topic_id, starts) = log_starts(facts, &config.topic)?
            .ok_or_else(|| EngineError::TopicMissing(config.topic.clone()))?;
        position::register(&mut connection, &config.group, &config.topic, &topic_id, &starts)
            .await?;
    }
    Ok(())
}

/// Checks the dedup window against the topics' retention, and records it.
async fn prepare_window(
    config: &EngineConfig,
    pool: &PgPool,
    timeout: Duration,
) -> Result<(), EngineError> {
    if let Some(window) = config.dedup_window {
        let topics = [config.topic.as_str(), config.dlq_topic.as_str()];
        purge::check_window(&config.kafka, topics, window, timeout).await?;
        purge::adopt(&mut *pool.acquire().await?, window).await?;
    }
    Ok(())
}

/// The topic's id and where each of its partitions begins.
fn log_starts(facts: &Facts, topic: &str) -> Result<Option<(String, Vec<i64>)>, AdminError> {
    let (Some(count), Some(topic_id)) = (facts.topics.partitions(topic)?, facts.topics.id(topic)?)
    else {
        return Ok(None);
    };
    let starts: Result<Vec<i64>, AdminError> = (0..)
        .take(count)
        .map(|partition| facts.topics.watermarks(topic, partition).map(|(start, _)| start))
        .collect();
    Ok(Some((topic_id, starts?)))
}
