//! A topic, a group and a database of a test's own, and the command under test.

pub(crate) mod admin;
pub(crate) mod broken;
pub(crate) mod consumer;
pub(crate) mod events;
pub(crate) mod kafka;
pub(crate) mod load;
pub(crate) mod pipes;
pub(crate) mod poll;
pub(crate) mod proxy;
pub(crate) mod secure;
pub(crate) mod stacks;
pub(crate) mod users;
pub(crate) mod world;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use idempotent_consumer::KafkaSettings;
use local_stack::Endpoints;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

/// A name that no other test has, in this run or another.
pub(crate) fn unique(what: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let nanos = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos();
    format!("{what}_{nanos:x}_{}", COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Where one test works.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) stack: &'static Endpoints,
    pub(crate) topic: String,
    pub(crate) dlq_topic: String,
    pub(crate) group: String,
    pub(crate) database_url: String,
}

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Place {
    /// An empty database with all tables, and the name of a topic that does not exist yet.
    pub(crate) fn new(what: &str) -> Self {
        Self::on(local_stack::shared(), what)
    }

    /// The same on other servers.
    pub(crate) fn on(stack: &'static Endpoints, what: &str) -> Self {
        let place = Self::without_tables(stack, what);
        place.run("migrate", &[]).succeeded();
        place
    }

    /// The same without tables.
    pub(crate) fn without_tables(stack: &'static Endpoints, what: &str) -> Self {
        let name = unique(what);
        Self {
            stack,
            topic: name.clone(),
            dlq_topic: format!("{name}.dlq"),
            group: name.clone(),
            database_url: stack.create_database(&name).unwrap(),
        }
    }

    /// The same topics and group, with a copy of the database. Nobody may be connected to it.
    pub(crate) async fn with_copied_database(&self) -> Self {
        let name = unique("copy");
        let (_, original) = self.database_url.rsplit_once('/').unwrap();
        let statement = format!("CREATE DATABASE {name} TEMPLATE {original}");
        execute(&self.stack.database_url, &statement).await;
        let database_url = self.database_url.replace(original, &name);
        Self { database_url, ..self.clone() }
    }

    pub(crate) fn settings(&self) -> KafkaSettings {
        KafkaSettings::new(&self.stack.bootstrap_servers)
    }

    /// `order-consumer COMMAND …` for this place.
    pub(crate) fn command(&self, command: &str, arguments: &[&str]) -> Command {
        self.command_of(Path::new(env!("CARGO_BIN_EXE_order-consumer")), command, arguments)
    }

    /// The same of another program.
    pub(crate) fn command_of(&self, program: &Path, command: &str, arguments: &[&str]) -> Command {
        let mut program = Command::new(program);
        program
            .arg(command)
            .args(arguments)
            .env_clear()
            .env("KAFKA_BOOTSTRAP_SERVERS", &self.stack.bootstrap_servers)
            .env("DATABASE_URL", &self.database_url)
            .env("ORDERS_TOPIC", &self.topic)
            .env("ORDERS_DLQ_TOPIC", &self.dlq_topic)
            .env("CONSUMER_GROUP", &self.group)
            .env("ORDER_CONSUMER_LISTEN", "127.0.0.1:0");
        program
    }

    /// Runs `order-consumer COMMAND …` for this place.
    pub(crate) fn run(&self, command: &str, arguments: &[&str]) -> Ran {
        let Output { status, stdout, stderr } = self.command(command, arguments).output().unwrap();
        Ran {
            code: status.code().unwrap_or(-1),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    /// Consumes everything there is, each record in a transaction of its own.
    pub(crate) fn consume(&self) {
        self.run("run", &["--exit-when-idle", "1s", "--batch-size", "1"]).succeeded();
    }

    /// Executes one statement.
    pub(crate) async fn sql(&self, statement: &str) {
        execute(&self.database_url, statement).await;
    }
}

impl Ran {
    #[track_caller]
    pub(crate) fn succeeded(&self) {
        assert_eq!(self.code, 0, "{self:#?}");
    }
}

async fn execute(url: &str, statement: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let done = sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(&mut connection).await;
    let changed = done.unwrap_or_else(|error| panic!("{error}: {statement}")).rows_affected();
    let changes = ["UPDATE", "DELETE", "INSERT"].iter().any(|verb| statement.contains(verb));
    let defines = statement.starts_with("CREATE");
    assert!(defines || !changes || changed > 0, "changed nothing: {statement}");
    connection.close().await.unwrap();
}
