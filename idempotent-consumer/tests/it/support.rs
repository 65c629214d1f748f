//! A topic, a database and an engine for each test.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use idempotent_consumer::publish::{Publication, Publisher, PublisherOptions, Topics};
use idempotent_consumer::{
    Engine, EngineConfig, EngineError, Handler, Headers, KafkaSettings, Summary, migrate,
};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Where `cargo test` puts examples, beside the test binaries. Built here, since a run of this
/// test binary alone does not build them; of the whole workspace, so that what they need is there already.
pub(crate) fn example(name: &str) -> PathBuf {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--workspace", "--example", name])
        .status()
        .unwrap();
    assert!(built.success());
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    path.join("examples").join(name)
}

/// A topic, of one partition unless said otherwise, and a database with one table of effects.
pub(crate) struct World {
    pub(crate) config: EngineConfig,
    pub(crate) pool: PgPool,
    pub(crate) database_url: String,
    publisher: Publisher,
    refused: Arc<Mutex<Vec<String>>>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with_partitions(1).await
    }

    pub(crate) async fn with_partitions(partitions: usize) -> Self {
        let name = format!("lib_{}", Uuid::new_v4().simple());
        let database = name.clone();
        let (servers, database_url) = tokio::task::spawn_blocking(move || {
            let stack = local_stack::shared();
            (stack.bootstrap_servers.clone(), stack.create_database(&database).unwrap())
        })
        .await
        .unwrap();
        let pool = PgPool::connect(&database_url).await.unwrap();
        migrate::apply(&pool).await.unwrap();
        sqlx::query("CREATE TABLE effects (n bigint PRIMARY KEY)").execute(&pool).await.unwrap();
        let settings = KafkaSettings::new(servers);
        let timeout = Duration::from_secs(20);
        Topics::new(&settings, timeout).unwrap().ensure(&name, partitions).await.unwrap();
        let refused: Arc<Mutex<Vec<String>>> = Arc::default();
        let notes = Arc::clone(&refused);
        let publisher = Publisher::new(&settings, &PublisherOptions::default(), move |delivery| {
            if let Err(error) = delivery.outcome {
                notes.lock().unwrap().push(error.to_string());
            }
        })
        .unwrap();
        let mut config = EngineConfig::new(settings, &name, &name);
        config.partitions = partitions;
        config.exit_when_idle = Some(Duration::from_secs(1));
        config.retry_backoff.base = Duration::from_millis(5);
        config.retry_backoff.cap = Duration::from_millis(20);
        Self { config, pool, database_url, publisher, refused }
    }

    /// Publishes numbers, one message each.
    pub(crate) fn send(&self, numbers: impl IntoIterator<Item = i64>) {
        for number in numbers {
            self.send_json(number, &number.to_string());
        }
        self.flush();
    }

    /// Hands over a number with a key.
    pub(crate) fn send_keyed(&self, number: i64, key: Option<&str>) {
        self.publish(None, number, &number.to_string(), key);
    }

    /// Hands over a message whose id is made of a number, with a key.
    pub(crate) fn send_as(&self, id: i64, value: &str, key: &str) {
        self.publish(None, id, value, Some(key));
    }

    /// Hands over a message whose id is made of a number, for a partition.
    pub(crate) fn send_to(&self, partition: i32, id: i64, value: &str) {
        self.publish(Some(partition), id, value, Some(&format!("key-{id}")));
    }

    /// Hands over a message whose id is made of a number.
    pub(crate) fn send_json(&self, id: i64, value: &str) {
        self.publish(None, id, value, Some("key"));
    }

    fn publish(&self, partition: Option<i32>, id: i64, value: &str, key: Option<&str>) {
        let headers: Headers = [("ce_id", format!("number-{id}"))].into_iter().collect();
        let record = Publication {
            topic: &self.config.topic,
            partition,
            key: key.map(str::as_bytes),
            value: Some(value.as_bytes()),
            headers: &headers,
        };
        self.publisher.send(&record, 0).unwrap();
    }

    /// Everything handed over is acknowledged.
    pub(crate) fn flush(&self) {
        assert!(self.publisher.flush(Duration::from_secs(20)));
        assert_eq!(*self.refused.lock().unwrap(), [""; 0]);
    }

    pub(crate) async fn run<H: Handler<Body = i64>>(
        &self,
        handler: H,
    ) -> Result<Summary, EngineError> {
        let engine = Engine::new(self.config.clone(), handler, self.pool.clone());
        tokio::time::timeout(Duration::from_secs(90), engine.run(CancellationToken::new()))
            .await
            .expect("the engine ends once it is idle")
    }

    pub(crate) async fn effects(&self) -> Vec<i64> {
        sqlx::query_scalar("SELECT n FROM effects ORDER BY n").fetch_all(&self.pool).await.unwrap()
    }

    /// Value, class, code and attempts of each dead letter.
    pub(crate) async fn dead_letters(&self) -> Vec<(String, String, String, i32)> {
        sqlx::query_as(
            r#"
            SELECT convert_from(value, 'UTF8'), error_class, error_code, attempts
              FROM dead_letters
             ORDER BY "offset"
            "#,
        )
        .fetch_all(&self.pool)
        .await
        .unwrap()
    }

    pub(crate) async fn count(&self, table: &str) -> i64 {
        let query = format!("SELECT count(*) FROM {table}");
        sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(&self.pool).await.unwrap()
    }
}
