//! What the tests ask of the servers, and what they run.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use sqlx::Connection as _;
use sqlx::postgres::PgConnection;

const PATIENCE: Duration = Duration::from_secs(30);

/// The command, in a home where nothing is up but which shares the download.
pub(crate) fn local_stack() -> Command {
    Command::new(env!("CARGO_BIN_EXE_local-stack"))
}

/// What a finished command said on stderr.
pub(crate) fn said(command: &mut Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

pub(crate) fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

pub(crate) fn execute(url: &str, statement: &'static str) {
    wait(async {
        let mut connection = PgConnection::connect(url).await.unwrap();
        sqlx::raw_sql(statement).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    });
}

pub(crate) fn number(url: &str, query: &'static str) -> i64 {
    wait(async {
        let mut connection = PgConnection::connect(url).await.unwrap();
        let number = sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        number
    })
}

pub(crate) fn create_topic(bootstrap_servers: &str, name: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", bootstrap_servers).create().unwrap();
    let topic = NewTopic::new(name, 1, TopicReplication::Fixed(1));
    let results = wait(admin.create_topics([&topic], &AdminOptions::new())).unwrap();
    results.into_iter().next().unwrap().unwrap();
}

pub(crate) fn topics(bootstrap_servers: &str) -> Vec<String> {
    let consumer: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", bootstrap_servers).create().unwrap();
    let metadata = consumer.fetch_metadata(None, PATIENCE).unwrap();
    metadata.topics().iter().map(|topic| topic.name().to_owned()).collect()
}

/// Waits for what will become true soon.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub(crate) fn runs(pid: u32) -> bool {
    // A process that has ended but whose parent does not know yet has no command line.
    Command::new("ps")
        .args(["-o", "stat=", "-p", &pid.to_string()])
        .output()
        .is_ok_and(|output| !output.stdout.is_empty() && output.stdout[0] != b'Z')
}

/// The stack's folder, from `status`, and the process numbers of both servers.
pub(crate) struct Seen {
    pub(crate) folder: PathBuf,
    pub(crate) kafka_pid: u32,
    pub(crate) postgres_pid: u32,
    pub(crate) bootstrap_servers: String,
    pub(crate) database_url: String,
}

/// The stack of that name, once it is up.
pub(crate) fn seen(name: &str) -> Option<Seen> {
    let status = local_stack::status(name).unwrap()?;
    Some(Seen {
        folder: status.folder,
        kafka_pid: status.kafka_pid?,
        postgres_pid: status.postgres_pid?,
        bootstrap_servers: status.endpoints.bootstrap_servers,
        database_url: status.endpoints.database_url,
    })
}

/// Stops the stack of that name at the end of a test, however it ends.
pub(crate) struct Down(pub(crate) &'static str);

impl Drop for Down {
    fn drop(&mut self) {
        let _ = local_stack::down(self.0, true);
    }
}

pub(crate) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}
