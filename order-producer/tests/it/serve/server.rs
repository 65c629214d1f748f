//! A gateway as a child process, with a topic and a database of its own.

use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use local_stack::Endpoints;
use serde_json::{Value, json};
use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, PgPool};

use super::client::{Answer, request};
use crate::{TempFile, eventually, signal, topic};

/// A runtime for the database's client.
pub(crate) fn wait<T>(work: impl Future<Output = T>) -> T {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Runtime::new().unwrap()).block_on(work)
}

/// Where a test works.
pub(crate) struct Place {
    pub(crate) servers: String,
    pub(crate) database_url: String,
    pub(crate) topic: String,
}

impl Place {
    pub(crate) fn new(test: &str) -> Self {
        Self::on(local_stack::shared(), test)
    }

    pub(crate) fn on(stack: &Endpoints, test: &str) -> Self {
        let place = Self::without_tables(stack, test);
        wait(async {
            let pool = PgPool::connect(&place.database_url).await.unwrap();
            idempotent_consumer::migrate::apply(&pool).await.unwrap();
            orders_migrations().run(&pool).await.unwrap();
            pool.close().await;
        });
        place
    }

    pub(crate) fn without_tables(stack: &Endpoints, test: &str) -> Self {
        let topic = topic(test);
        Self {
            servers: stack.bootstrap_servers.clone(),
            database_url: stack.create_database(&topic).unwrap(),
            topic,
        }
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_order-producer"));
        command
            .args(args)
            .env_clear()
            .env("KAFKA_BOOTSTRAP_SERVERS", &self.servers)
            .env("DATABASE_URL", &self.database_url)
            .env("ORDERS_TOPIC", &self.topic);
        command
    }

    /// One number.
    pub(crate) fn number(&self, query: &str) -> i64 {
        let query = AssertSqlSafe(query.to_owned());
        wait(async {
            let pool = PgPool::connect(&self.database_url).await.unwrap();
            let number = sqlx::query_scalar(query).fetch_one(&pool).await.unwrap();
            pool.close().await;
            number
        })
    }

    /// From now on it takes so long to add an order.
    pub(crate) fn slow_orders(&self, seconds: u32) {
        self.sql(&format!(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
                    $$ BEGIN PERFORM pg_sleep({seconds}); RETURN new; END $$;
             CREATE TRIGGER slow BEFORE INSERT ON accepted_orders
                    FOR EACH ROW EXECUTE FUNCTION slow()"
        ));
    }

    /// Waits until a request adds one.
    pub(crate) fn wait_until_slow(&self) {
        let asleep = "SELECT count(*) FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event = 'PgSleep'";
        eventually("an order is being added", || self.number(asleep) > 0);
    }

    pub(crate) fn sql(&self, statement: &str) {
        let statement = AssertSqlSafe(statement.to_owned());
        wait(async {
            let pool = PgPool::connect(&self.database_url).await.unwrap();
            sqlx::raw_sql(statement).execute(&pool).await.unwrap();
            pool.close().await;
        });
    }

    /// The SQLSTATE with which the database refuses the statement; `None` if it does not.
    pub(crate) fn refusal(&self, statement: &str) -> Option<String> {
        let statement = AssertSqlSafe(statement.to_owned());
        wait(async {
            let pool = PgPool::connect(&self.database_url).await.unwrap();
            let error = sqlx::raw_sql(statement).execute(&pool).await.err();
            pool.close().await;
            Some(error?.as_database_error()?.code()?.into_owned())
        })
    }

    /// Waits until nothing waits to be published.
    pub(crate) fn wait_published(&self) {
        eventually("the outbox is empty", || {
            let rows = self.number("SELECT count(*) FROM outbox");
            std::thread::sleep(Duration::from_millis(if rows == 0 { 0 } else { 100 }));
            rows == 0
        });
    }

    /// A digest of everything that the tables of the gateway hold.
    pub(crate) fn everything(&self) -> i64 {
        self.number(
            "SELECT hashtextextended(coalesce(string_agg(line, E'\n' ORDER BY line), ''), 0)
               FROM (SELECT accepted_orders::text AS line FROM accepted_orders
                     UNION ALL SELECT accepted_events::text FROM accepted_events
                     UNION ALL SELECT idempotency_keys::text FROM idempotency_keys
                     UNION ALL SELECT outbox::text FROM outbox) AS lines",
        )
    }
}

fn orders_migrations() -> Migrator {
    let mut migrator = sqlx::migrate!("../migrations/orders");
    migrator.dangerous_set_table_name("_order_migrations");
    migrator
}

/// A running gateway. Killed when dropped.
pub(crate) struct Server {
    child: Child,
    log: TempFile,
    pub(crate) address: String,
}

impl Server {
    /// One that asks nobody for a key.
    pub(crate) fn start(place: &Place) -> Self {
        Self::with(place, &["--no-auth"])
    }

    pub(crate) fn with(place: &Place, args: &[&str]) -> Self {
        let args = [&["serve", "--listen", "127.0.0.1:0"], args].concat();
        Self::of(&mut place.command(&args))
    }

    /// One for which there is no Kafka.
    pub(crate) fn cut_off_from_kafka(place: &Place) -> Self {
        let args = ["serve", "--listen", "127.0.0.1:0", "--no-auth"];
        Self::of(place.command(&args).env("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1"))
    }

    /// One that ends itself at a point of its program.
    #[cfg(feature = "failpoints")]
    pub(crate) fn dying_at(place: &Place, point: &str) -> Self {
        let args = ["serve", "--listen", "127.0.0.1:0", "--no-auth"];
        Self::of(place.command(&args).env("FAILPOINT", point))
    }

    fn of(command: &mut Command) -> Self {
        let log = TempFile::new("serve");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log.0).unwrap())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        let address = loop {
            let text = log.text();
            let listens = text
                .split_once("orders on http")
                .and_then(|(_, rest)| rest.split_once("://")?.1.split_once('/'));
            if let Some((address, _)) = listens {
                break address.to_owned();
            }
            assert!(child.try_wait().unwrap().is_none(), "it ended: {text}");
            assert!(Instant::now() < deadline, "it does not listen: {text}");
            std::thread::sleep(Duration::from_millis(10));
        };
        Self { child, log, address }
    }

    pub(crate) fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        request("GET", path).send(&self.address)
    }

    /// POSTs an order under a key.
    pub(crate) fn place(&self, key: &str, order: &Value) -> Answer {
        request("POST", "/v1/orders").key(key).json(order).send(&self.address)
    }

    pub(crate) fn ready(&self) -> (u16, Value) {
        let answer = self.get("/readyz");
        (answer.status, answer.json())
    }

    /// Kills it without warning.
    pub(crate) fn sigkill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to stop; returns its exit code and what it said.
    pub(crate) fn stop(mut self) -> (Option<i32>, String) {
        signal(&self.child, "-TERM");
        let code = self.child.wait().unwrap().code();
        (code, self.log())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // By its own number, and only while it is ours to wait for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An order of so many teas at 4.50.
pub(crate) fn tea(customer: &str, quantity: u32) -> Value {
    json!({
        "customer_id": customer,
        "currency": "EUR",
        "items": [{ "sku": "TEA-1", "quantity": quantity, "unit_price_cents": 450 }],
    })
}
