//! The servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use anyhow::Context as _;
use idempotent_consumer::publish::Topics;
use idempotent_consumer::{KafkaSettings, migrate};
use local_stack::{Options, Stack};
use rdkafka::ClientConfig;
use rdkafka::producer::{FutureProducer, Producer as _};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::catalog::Entry;
use crate::http_service::HttpService;
use crate::place::Place;
use crate::redis_server::RedisServer;
use crate::stream::PARTITIONS;

/// Kafka, PostgreSQL, and Redis where it is installed.
pub(crate) struct Stage {
    stack: Stack,
    redis: Option<RedisServer>,
    topics: Topics,
    pub(crate) producer: FutureProducer,
    numbers: AtomicU32,
}

impl Stage {
    pub(crate) async fn set_up() -> anyhow::Result<Self> {
        let options = Options::private("strategies")
            .postgres_setting("track_commit_timestamp", "on")
            .postgres_setting("shared_preload_libraries", "pg_stat_statements");
        let stack = tokio::task::spawn_blocking(|| Stack::start(options)).await??;
        let redis = RedisServer::start(stack.folder()).await?;
        let settings = KafkaSettings::new(stack.bootstrap_servers());
        let topics = Topics::new(&settings, Duration::from_secs(30))?;
        let producer = ClientConfig::new()
            .set("bootstrap.servers", stack.bootstrap_servers())
            .set("enable.idempotence", "true")
            .set("linger.ms", "0")
            .create()?;
        let stage = Self { stack, redis, topics, producer, numbers: AtomicU32::new(0) };
        stage.admin("CREATE EXTENSION pg_stat_statements").await?;
        Ok(stage)
    }

    pub(crate) fn has_redis(&self) -> bool {
        self.redis.is_some()
    }

    /// A database with the tables, topics that are empty, a group that nobody is in.
    pub(crate) async fn place(&self, entry: &Entry) -> anyhow::Result<Arc<Place>> {
        let number = self.numbers.fetch_add(1, Relaxed);
        let name = format!("cell_{number}");
        self.admin(&format!("CREATE DATABASE {name}")).await?;
        let (server, _) = self.stack.database_url().rsplit_once('/').context("no database")?;
        let database_url = format!("{server}/{name}");
        let mut place = Place {
            servers: self.stack.bootstrap_servers().to_owned(),
            database: database_url.parse()?,
            database_url,
            topic: format!("cell-{number}"),
            output: format!("cell-{number}.output"),
            group: format!("cell-{number}"),
            redis_url: self.redis.as_ref().map(|redis| redis.url.clone()),
            service: None,
        };
        if entry.is_engine() {
            let pool = PgPoolOptions::new().connect_with(place.database.clone()).await?;
            migrate::apply(&pool).await?;
            pool.close().await;
        }
        place.create_tables(entry.ddl, entry.is_engine()).await?;
        if entry.needs_service() {
            let pool = PgPoolOptions::new().connect_with(place.database.clone()).await?;
            place.service = Some(HttpService::start(pool).await?);
        }
        for topic in [&place.topic, &place.output] {
            self.topics.ensure(topic, PARTITIONS as usize).await?;
        }
        Ok(Arc::new(place))
    }

    /// Removes the database: hundreds of them would be many files.
    pub(crate) async fn clear(&self, place: &Place) -> anyhow::Result<()> {
        self.admin(&format!("DROP DATABASE {} WITH (FORCE)", place.group.replace('-', "_"))).await
    }

    /// The end of each partition's log.
    pub(crate) fn ends(&self, place: &Place) -> anyhow::Result<Vec<i64>> {
        let end = |partition| Ok(self.topics.watermarks(&place.topic, partition)?.1);
        (0..PARTITIONS).map(end).collect()
    }

    /// How many members of the group have something assigned.
    pub(crate) fn members_with_partitions(&self, place: &Place) -> anyhow::Result<usize> {
        let client = self.producer.client();
        let groups = client.fetch_group_list(Some(&place.group), Duration::from_secs(10))?;
        let Some(group) = groups.groups().first().filter(|group| group.state() == "Stable") else {
            return Ok(0);
        };
        // An assignment is a version in two bytes, and the number of its topics in four.
        let topics = |assignment: &[u8]| assignment.get(2..6).is_some_and(|it| it != [0; 4]);
        let has_some = |assignment: Option<&[u8]>| assignment.is_some_and(topics);
        Ok(group.members().iter().filter(|member| has_some(member.assignment())).count())
    }

    /// Begins to count statements.
    pub(crate) async fn reset_statements(&self) -> anyhow::Result<()> {
        self.admin("SELECT pg_stat_statements_reset()").await
    }

    /// Statements since then in the cell's database, and the next transaction's number.
    pub(crate) async fn statements(&self, place: &Place) -> anyhow::Result<(i64, i64)> {
        let mut db = PgConnection::connect(self.stack.database_url()).await?;
        let counted = sqlx::query_as(
            r"
            SELECT coalesce(sum(calls), 0)::bigint,
                   pg_snapshot_xmax(pg_current_snapshot())::text::bigint
              FROM pg_stat_statements(false)
             WHERE dbid = (SELECT oid FROM pg_database WHERE datname = $1)
            ",
        )
        .bind(place.database.get_database())
        .fetch_one(&mut db)
        .await?;
        db.close().await?;
        Ok(counted)
    }

    async fn admin(&self, statement: &str) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(self.stack.database_url()).await?;
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection).await?;
        connection.close().await?;
        Ok(())
    }
}

/// Sets the stage, has work done on it, and clears it whatever became of that.
pub(crate) async fn on_stage<T>(
    work: impl AsyncFnOnce(Arc<Stage>) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let stage = Arc::new(Stage::set_up().await?);
    let done = tokio::select! {
        done = work(Arc::clone(&stage)) => done,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted; everything is stopped")),
    };
    tokio::task::spawn_blocking(move || drop(stage)).await?;
    done
}
