//! A topic, a group, a schema and a mailbox of a test's own, and the command under test.

pub(crate) mod collector;
pub(crate) mod notifier;
pub(crate) mod post;

use std::future::Future;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use idempotent_consumer::publish::{Publication, Publisher, PublisherOptions, Topics};
use idempotent_consumer::{Headers, KafkaSettings};
use local_stack::{Bouncer, Endpoints, Options, Stack};
use order_events::{Cents, CustomerId, OrderNotification, Status};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::runtime::Runtime;
use uuid::Uuid;

use notifier::COMMAND;
use post::Post;

/// How long anything may take that has to happen. Generous: a machine may be busy.
const PATIENCE: Duration = Duration::from_secs(90);
const TIMEOUT: Duration = Duration::from_secs(30);

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
});

pub(crate) fn wait<T>(work: impl Future<Output = T>) -> T {
    RUNTIME.block_on(work)
}

/// Waits until it holds.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(30));
    }
}

/// A name that no other test has, in this run or another.
pub(crate) fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let nanos = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    format!("{what}_{nanos:x}_{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Servers whose broker soon takes a dead consumer for dead.
pub(crate) fn servers() -> &'static Endpoints {
    static STACK: LazyLock<Stack> = LazyLock::new(|| {
        let options = Options::private("quick");
        let quick = options.kafka_property("group.min.session.timeout.ms", "500");
        // When all tests run, and nobody ends this process before.
        if std::env::args().len() == 1 {
            std::thread::spawn(|| LazyLock::force(&notifier::WITH_FAILPOINTS));
        }
        Stack::start(quick).unwrap()
    });
    STACK.endpoints()
}

/// Where one test works.
pub(crate) struct World {
    pub(crate) topic: String,
    pub(crate) group: String,
    pub(crate) database_url: String,
    /// The same place for commands, by a user that may be another one.
    commands_url: String,
    pub(crate) post: Post,
    bootstrap_servers: String,
}

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stderr: String,
}

impl World {
    /// A topic, a database with all tables, and an SMTP server that is not started yet.
    pub(crate) fn new(what: &str, partitions: usize) -> Self {
        Self::on(servers(), what, partitions)
    }

    /// The same on other servers.
    pub(crate) fn on(stack: &Endpoints, what: &str, partitions: usize) -> Self {
        let world = Self::bare(stack, what);
        wait(world.topics().ensure(&world.topic, partitions)).unwrap();
        wait(world.topics().ensure(&format!("{}.dlq", world.topic), 1)).unwrap();
        let ran = world.run("migrate", &[]);
        assert_eq!(ran.code, Some(0), "{ran:?}");
        world
    }

    pub(crate) fn without_tables(what: &str) -> Self {
        Self::bare(servers(), what)
    }

    fn bare(stack: &Endpoints, what: &str) -> Self {
        let name = unique(what);
        let database_url = stack.create_database(&name).unwrap();
        Self {
            topic: name.clone(),
            group: name.clone(),
            commands_url: database_url.clone(),
            database_url,
            post: Post::new(&name),
            bootstrap_servers: stack.bootstrap_servers.clone(),
        }
    }

    pub(crate) fn settings(&self) -> KafkaSettings {
        KafkaSettings::new(&self.bootstrap_servers)
    }

    pub(crate) fn topics(&self) -> Topics {
        Topics::new(&self.settings(), TIMEOUT).unwrap()
    }

    /// `PROGRAM COMMAND …` for this place.
    pub(crate) fn command_of(&self, program: &Path, command: &str, arguments: &[&str]) -> Command {
        let mut program = Command::new(program);
        program
            .arg(command)
            .args(arguments)
            .env_clear()
            .env("KAFKA_BOOTSTRAP_SERVERS", &self.bootstrap_servers)
            .env("DATABASE_URL", &self.commands_url)
            .env("NOTIFICATION_SERVICE_TOPIC", &self.topic)
            .env("NOTIFICATION_SERVICE_GROUP", &self.group)
            .env("NOTIFICATION_SERVICE_SMTP_URL", self.post.url())
            .env("NOTIFICATION_SERVICE_LISTEN", "127.0.0.1:0")
            .env("NOTIFICATION_SERVICE_FROM", "Tea shop <shop@tea.example>");
        program
    }

    /// Runs `notification-service COMMAND …` to its end.
    pub(crate) fn run(&self, command: &str, arguments: &[&str]) -> Ran {
        let Output { status, stderr, .. } =
            self.command_of(COMMAND.as_ref(), command, arguments).output().unwrap();
        Ran { code: status.code(), stderr: String::from_utf8(stderr).unwrap() }
    }

    /// Publishes notifications.
    pub(crate) fn send(&self, notifications: &[OrderNotification]) {
        let publisher = self.publisher();
        for notification in notifications {
            let record = notification.encode("/test");
            let headers: Headers = record.headers.into_iter().collect();
            let (key, value) = (Some(&*record.key), Some(&*record.value));
            let (topic, headers) = (&self.topic, &headers);
            publisher
                .send(&Publication { topic, partition: None, key, value, headers }, 0)
                .unwrap();
        }
        assert!(publisher.flush(TIMEOUT));
    }

    pub(crate) fn publish(&self, topic: &str, key: &[u8], value: &[u8], headers: &Headers) {
        let publisher = self.publisher();
        let (key, value) = (Some(key), Some(value));
        let record = Publication { topic, partition: None, key, value, headers };
        publisher.send(&record, 0).unwrap();
        assert!(publisher.flush(TIMEOUT));
    }

    fn publisher(&self) -> Publisher {
        Publisher::new(&self.settings(), &PublisherOptions::default(), |delivery| {
            delivery.outcome.unwrap();
        })
        .unwrap()
    }

    /// Rows as tuples, of the service's schema.
    pub(crate) fn rows<T>(&self, query: &str) -> Vec<T>
    where
        T: for<'r> sqlx::FromRow<'r, PgRow> + Send + Unpin,
    {
        let query = AssertSqlSafe(query.to_owned());
        wait(async {
            let mut connection = self.connection(&self.database_url).await;
            let rows = sqlx::query_as(query).fetch_all(&mut connection).await.unwrap();
            connection.close().await.unwrap();
            rows
        })
    }

    pub(crate) fn number(&self, query: &str) -> i64 {
        self.rows::<(i64,)>(query)[0].0
    }

    pub(crate) fn sql(&self, statement: &str) {
        let statement = AssertSqlSafe(statement.to_owned());
        wait(async {
            let mut connection = self.connection(&self.database_url).await;
            sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        });
    }

    /// The SQLSTATE with which the database refuses the statement to the commands' user; `None` if it
    /// does not.
    pub(crate) fn refusal(&self, statement: &str) -> Option<String> {
        let statement = AssertSqlSafe(statement.to_owned());
        wait(async {
            let mut connection = self.connection(&self.commands_url).await;
            let error = sqlx::raw_sql(statement).execute(&mut connection).await.err()?;
            Some(error.as_database_error().unwrap().code().unwrap().into_owned())
        })
    }

    /// From now on commands log in as a new user that has this role and nothing else.
    pub(crate) fn commands_as_member_of(&mut self, role: &str) {
        let user = unique("user");
        self.sql(&format!("CREATE ROLE {user} LOGIN PASSWORD 'secret'; GRANT {role} TO {user}"));
        let (_, address) = self.database_url.split_once('@').unwrap();
        self.commands_url = format!("postgres://{user}:secret@{address}");
    }

    /// From now on commands come to the database through this.
    pub(crate) fn commands_go_through(&mut self, bouncer: &Bouncer) {
        self.commands_url = bouncer.through(&self.commands_url).unwrap();
    }

    async fn connection(&self, url: &str) -> PgConnection {
        let options = url.parse::<sqlx::postgres::PgConnectOptions>().unwrap();
        let options = options.options([("search_path", "notifications")]);
        PgConnection::connect_with(&options).await.unwrap()
    }

    pub(crate) fn claims(&self) -> i64 {
        self.number("SELECT count(*) FROM processed_messages")
    }

    /// Customers and codes of the dead letters.
    pub(crate) fn dead_letters(&self) -> Vec<(String, String)> {
        self.rows("SELECT convert_from(key, 'UTF8'), error_code FROM dead_letters ORDER BY 1")
    }

    /// Every message has its outcome, and every mail that was taken its row.
    #[track_caller]
    pub(crate) fn assert_settled(&self, applied: i64, dead_lettered: i64) {
        let of = |outcome: &str| {
            self.number(&format!(
                "SELECT count(*) FROM processed_messages WHERE outcome = '{outcome}'"
            ))
        };
        assert_eq!((of("applied"), of("dead_lettered")), (applied, dead_lettered));
        assert_eq!(self.number("SELECT count(*) FROM notifications_sent"), applied);
        assert_eq!(self.number("SELECT count(*) FROM retry_queue"), 0);
    }
}

/// What event `number` tells of the order of that number.
pub(crate) fn notification(number: u128, customer: &str, status: Status) -> OrderNotification {
    OrderNotification {
        order_id: Uuid::from_u128(0x0193_0000_0000_7000_8000_0000_0000_0000 + number),
        status,
        customer_id: CustomerId::new(customer).unwrap(),
        total: Cents::new(900),
        currency: "EUR".to_owned(),
        message_id: Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0000 + number),
    }
}

/// Orders placed, numbered from `first`, all of one customer.
pub(crate) fn placed(first: u128, count: u128, customer: &str) -> Vec<OrderNotification> {
    (first..first + count).map(|n| notification(n, customer, Status::Placed)).collect()
}
