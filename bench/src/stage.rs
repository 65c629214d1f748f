//! The servers, the topics to work off, and a new database for each run.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use idempotent_consumer::publish::Topics;
use idempotent_consumer::{KafkaSettings, nodelay};
use local_stack::{Options, Stack, programs};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::process::Command;
use tokio::sync::Mutex;

use crate::baseline::Kind;
use crate::peers;
use crate::usage::{Clocks, Usage, clocks};

/// What is in a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    pub(crate) partitions: u32,
    /// Percent.
    pub(crate) duplicates: u32,
    /// Percent.
    pub(crate) poison: u32,
    /// Keys.
    pub(crate) customers: u32,
    pub(crate) ids: Ids,
}

impl Default for Shape {
    fn default() -> Self {
        Self { partitions: 6, duplicates: 0, poison: 0, customers: 10_000, ids: Ids::Seven }
    }
}

/// Version of the UUIDs of messages and orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub(crate) enum Ids {
    /// Random
    #[value(name = "4")]
    Four,
    /// Rising with the time
    #[value(name = "7")]
    Seven,
}

impl Ids {
    fn version(self) -> &'static str {
        match self {
            Self::Four => "4",
            Self::Seven => "7",
        }
    }
}

/// The auditor found something.
#[derive(Debug)]
pub(crate) struct Violated(String);

impl std::fmt::Display for Violated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the auditor found a violation: {}", self.0)
    }
}

impl std::error::Error for Violated {}

/// Both servers and both programs.
pub(crate) struct Stage {
    pub(crate) events: u64,
    stack: Stack,
    programs: PathBuf,
    topics: Mutex<HashMap<Shape, String>>,
    /// Templates with so many claims.
    grown: Mutex<HashSet<u64>>,
    numbers: AtomicU32,
    peers_records: tokio::sync::OnceCell<()>,
    /// The rows that COPY is to write, made by a run of the consumer.
    pub(crate) rows: tokio::sync::OnceCell<crate::ceiling::Rows>,
}

impl Stage {
    async fn set_up(events: u64) -> anyhow::Result<Self> {
        if cfg!(debug_assertions) {
            eprintln!("this is a debug build: its figures mean nothing");
        }
        let programs = programs::build(&programs::PAIR, &[]).await?;
        let stack =
            tokio::task::spawn_blocking(|| Stack::start(Options::private("bench"))).await??;
        Ok(Self {
            events,
            stack,
            programs,
            topics: Mutex::default(),
            grown: Mutex::default(),
            numbers: AtomicU32::new(0),
            peers_records: tokio::sync::OnceCell::new(),
            rows: tokio::sync::OnceCell::new(),
        })
    }

    pub(crate) fn servers(&self) -> &str {
        self.stack.bootstrap_servers()
    }

    /// Where files may be written.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.stack.folder()
    }

    pub(crate) fn broker_pid(&self) -> anyhow::Result<u32> {
        self.stack.kafka().pid().context("Kafka is not running")
    }

    pub(crate) fn clocks(&self) -> Clocks {
        clocks(self.stack.postgres().pid(), self.stack.kafka().pid())
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command
            .env("KAFKA_BOOTSTRAP_SERVERS", self.stack.bootstrap_servers())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// The topic of that shape, filled once.
    async fn topic(&self, shape: Shape) -> anyhow::Result<String> {
        let mut topics = self.topics.lock().await;
        if let Some(topic) = topics.get(&shape) {
            return Ok(topic.clone());
        }
        let Shape { partitions, duplicates, poison, customers, ids } = shape;
        let ids = ids.version();
        let topic = format!("orders-{partitions}-{duplicates}-{poison}-{customers}-{ids}");
        self.ensure_topic(&topic, partitions).await?;
        let mut load = self.command("order-producer");
        load.env("ORDERS_TOPIC", &topic)
            .args(["load", "--seed", "7", "--orders", &self.events.to_string()])
            .args(["--customers", &customers.to_string(), "--id-version", ids])
            .args(["--duplicates", &duplicates.to_string()])
            .args(["--poison", &poison.to_string()]);
        succeed(load, "order-producer load").await?;
        topics.insert(shape, topic.clone());
        Ok(topic)
    }

    async fn ensure_topic(&self, topic: &str, partitions: u32) -> anyhow::Result<()> {
        let settings = KafkaSettings::new(self.stack.bootstrap_servers());
        Topics::new(&settings, Duration::from_secs(10))?.ensure(topic, partitions as usize).await?;
        Ok(())
    }

    /// A new database with the tables, and a group and a dead letter topic of its own.
    pub(crate) async fn place(&self, shape: Shape) -> anyhow::Result<Place<'_>> {
        let topic = self.topic(shape).await?;
        self.place_for(topic).await
    }

    /// The same, with a topic of its own that is empty.
    pub(crate) async fn empty_place(&self, partitions: u32) -> anyhow::Result<Place<'_>> {
        let topic = self.empty_topic(partitions).await?;
        self.place_for(topic).await
    }

    pub(crate) async fn empty_topic(&self, partitions: u32) -> anyhow::Result<String> {
        let topic = format!("empty-{}", self.numbers.fetch_add(1, Relaxed));
        self.ensure_topic(&topic, partitions).await?;
        Ok(topic)
    }

    /// The same as [`Stage::place`], with claims of the last 25 days in the table.
    pub(crate) async fn grown_place(&self, claims: u64, ids: Ids) -> anyhow::Result<Place<'_>> {
        let topic = self.topic(Shape { ids, ..Shape::default() }).await?;
        if claims == 0 {
            return self.place_for(topic).await;
        }
        let mut grown = self.grown.lock().await;
        let template = format!("grown_{claims}");
        if !grown.contains(&claims) {
            // What is written is the same, in a fraction of the time.
            self.tune(Some("shared_buffers=4GB,max_wal_size=8GB,synchronous_commit=off")).await?;
            let mut place = self.place_for(topic.clone()).await?;
            place.fill(i64::try_from(claims)?, 0, [25, 0], ids).await?;
            self.admin(&format!("ALTER DATABASE {} RENAME TO {template}", place.database)).await?;
            place.database.clone_from(&template);
            grown.insert(claims);
        }
        drop(grown);
        self.place_like(topic, Some(&template)).await
    }

    /// Starts PostgreSQL anew with these settings (`name=value,…`), and no others of ours.
    pub(crate) async fn tune(&self, settings: Option<&str>) -> anyhow::Result<()> {
        self.set(settings).await?;
        tokio::task::block_in_place(|| {
            self.stack.postgres().terminate()?;
            self.stack.postgres().start()
        })?;
        Ok(())
    }

    /// From the next start of PostgreSQL on. One that it does not know is an error.
    pub(crate) async fn set(&self, settings: Option<&str>) -> anyhow::Result<()> {
        self.admin("ALTER SYSTEM RESET ALL").await?;
        for setting in settings.into_iter().flat_map(|settings| settings.split(',')) {
            let (name, value) = setting.split_once('=').with_context(|| setting.to_owned())?;
            self.admin(&format!("ALTER SYSTEM SET {name} = '{value}'"))
                .await
                .with_context(|| setting.to_owned())?;
        }
        Ok(())
    }

    /// Starts PostgreSQL anew, and has the system give up what it holds of its files.
    pub(crate) async fn forget_pages(&self) -> anyhow::Result<()> {
        self.admin("CHECKPOINT").await?;
        tokio::task::block_in_place(|| self.stack.postgres().terminate())?;
        succeed(Command::new("sync"), "sync").await?;
        let mut find = Command::new("find");
        find.arg(self.stack.folder())
            .args(["-type", "f", "-size", "+64k", "-exec", "dd", "if={}", "iflag=nocache"])
            .args(["count=0", "status=none", ";"]);
        succeed(find, "find").await?;
        Ok(tokio::task::block_in_place(|| self.stack.postgres().start())?)
    }

    async fn place_for(&self, topic: String) -> anyhow::Result<Place<'_>> {
        self.place_like(topic, None).await
    }

    /// A new database without tables.
    pub(crate) async fn bare_place(&self) -> anyhow::Result<Place<'_>> {
        self.bare_place_like(String::new(), None).await
    }

    /// The records of those that a user would pick instead, written once.
    pub(crate) async fn peers_records(
        &self,
        folder: &std::path::Path,
        work: &std::path::Path,
    ) -> anyhow::Result<()> {
        let once = async {
            self.let_in_without_password().await?;
            peers::generate(self, folder, work).await
        };
        self.peers_records.get_or_try_init(|| once).await.copied()
    }

    /// The peers give none.
    async fn let_in_without_password(&self) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(self.stack.database_url()).await?;
        let file: String = sqlx::query_scalar("SHOW hba_file").fetch_one(&mut connection).await?;
        let rules = std::fs::read_to_string(&file).with_context(|| file.clone())?;
        std::fs::write(&file, format!("host all all 127.0.0.1/32 trust\n{rules}"))?;
        sqlx::query("SELECT pg_reload_conf()").execute(&mut connection).await?;
        Ok(connection.close().await?)
    }

    async fn place_like(&self, topic: String, template: Option<&str>) -> anyhow::Result<Place<'_>> {
        let place = self.bare_place_like(topic, template).await?;
        succeed(place.consumer("migrate"), "order-consumer migrate").await?;
        self.ensure_topic(&place.dlq_topic(), 1).await?;
        self.admin("CHECKPOINT").await?;
        Ok(place)
    }

    async fn bare_place_like(
        &self,
        topic: String,
        template: Option<&str>,
    ) -> anyhow::Result<Place<'_>> {
        let number = self.numbers.fetch_add(1, Relaxed);
        let database = format!("run_{number}");
        // Files are copied; to log all of their pages would take longer.
        let template = template.map(|it| format!(" TEMPLATE {it} STRATEGY FILE_COPY"));
        let template = template.unwrap_or_default();
        self.admin(&format!("CREATE DATABASE {database}{template}")).await?;
        let (server, _) = self.stack.database_url().rsplit_once('/').context("no database")?;
        let url = format!("{server}/{database}");
        let group = format!("group-{number}");
        Ok(Place { stage: self, topic, database, url, group })
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
    events: u64,
    work: impl AsyncFnOnce(&Stage) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let stage = Stage::set_up(events).await?;
    let done = tokio::select! {
        done = work(&stage) => done,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted; everything is stopped")),
    };
    tokio::task::spawn_blocking(move || drop(stage)).await?;
    done
}

/// Where one run takes place.
pub(crate) struct Place<'a> {
    stage: &'a Stage,
    topic: String,
    database: String,
    url: String,
    group: String,
}

/// The state of things before a run.
pub(crate) struct Before {
    clocks: Clocks,
    wal: i64,
}

impl Place<'_> {
    fn dlq_topic(&self) -> String {
        format!("{}.dlq", self.group)
    }

    /// `order-consumer` with a command.
    pub(crate) fn consumer(&self, command: &str) -> Command {
        let mut consumer = self.stage.command("order-consumer");
        consumer
            .arg(command)
            .env("DATABASE_URL", &self.url)
            .env("ORDERS_TOPIC", &self.topic)
            .env("ORDERS_DLQ_TOPIC", self.dlq_topic())
            .env("CONSUMER_GROUP", &self.group)
            .env("ORDER_CONSUMER_LISTEN", "127.0.0.1:0");
        consumer
    }

    /// Writes claims of earlier messages, the first so many days ago and the last so many.
    /// `dead_letters`: how many of them are claimed as such.
    pub(crate) async fn fill(
        &self,
        claims: i64,
        dead_letters: i64,
        [first, last]: [i32; 2],
        ids: Ids,
    ) -> anyhow::Result<()> {
        const FILL: &str = r#"
            INSERT INTO processed_messages
                   (message_id, "offset", batch_seq, processed_at, partition, consumer_group, topic,
                    outcome, fingerprint)
            SELECT CASE WHEN $5 THEN uuidv7(age) ELSE uuidv4() END, n, n / 1000, now() + age, 0,
                   'earlier', 'earlier',
                   CASE WHEN n <= $2 THEN 'dead_lettered' ELSE 'applied' END,
                   '\x01'::bytea || sha256(n::text::bytea)
              FROM (SELECT n, make_interval(days => -$3) + n * make_interval(days => $3 - $4) / $1
                             AS age
                      FROM generate_series(1, $1) AS n) AS claim
        "#;
        eprintln!("{claims} claims are written");
        let mut connection = self.connect().await?;
        sqlx::query(FILL)
            .bind(claims)
            .bind(dead_letters)
            .bind(first)
            .bind(last)
            .bind(ids == Ids::Seven)
            .execute(&mut connection)
            .await?;
        sqlx::query("VACUUM (ANALYZE) processed_messages").execute(&mut connection).await?;
        Ok(connection.close().await?)
    }

    /// This program itself, as a contender.
    pub(crate) fn baseline(
        &self,
        kind: Kind,
        workers: u32,
        events: u64,
    ) -> anyhow::Result<Command> {
        let mut baseline = Command::new(std::env::current_exe()?);
        baseline
            .arg("baseline")
            .arg(kind.to_possible_value().context("no name")?.get_name())
            .args(["--workers", &workers.to_string(), "--events", &events.to_string()])
            .env("KAFKA_BOOTSTRAP_SERVERS", self.stage.servers())
            .env("ORDERS_TOPIC", &self.topic)
            .env("CONSUMER_GROUP", &self.group)
            .env("DATABASE_URL", &self.url)
            .kill_on_drop(true);
        Ok(baseline)
    }

    /// `order-producer load` at that rate.
    pub(crate) fn load(&self, rate: u64, orders: u64) -> Command {
        let mut load = self.stage.command("order-producer");
        load.env("ORDERS_TOPIC", &self.topic)
            .args(["load", "--seed", "7", "--rate", &rate.to_string()])
            .args(["--orders", &orders.to_string()]);
        load
    }

    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    /// Where logs may be written.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.stage.folder()
    }

    pub(crate) fn name(&self) -> &str {
        &self.database
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) async fn connect(&self) -> anyhow::Result<PgConnection> {
        let options: PgConnectOptions = self.url.parse()?;
        let connection = PgConnection::connect_with(&options).await?;
        nodelay::set_on_connections(&options);
        Ok(connection)
    }

    async fn wal(&self) -> anyhow::Result<i64> {
        let mut connection = self.connect().await?;
        let position = "SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint";
        Ok(sqlx::query_scalar(position).fetch_one(&mut connection).await?)
    }

    pub(crate) async fn before(&self) -> anyhow::Result<Before> {
        Ok(Before { wal: self.wal().await?, clocks: self.stage.clocks() })
    }

    /// What was used since then. Processes count once they have ended.
    pub(crate) async fn since(&self, before: &Before, peak_kib: u64) -> anyhow::Result<Usage> {
        let used = self.stage.clocks().since(before.clocks);
        let wal_bytes = self.wal().await? - before.wal;
        let (table_bytes, index_bytes) = self.sizes().await?;
        Ok(Usage {
            contender_cpu: used.own_children,
            postgres_cpu: used.postgres,
            kafka_cpu: used.kafka,
            peak_mib: peak_kib / 1024,
            wal_bytes,
            table_bytes,
            index_bytes,
        })
    }

    /// Bytes of tables and of indexes.
    pub(crate) async fn sizes(&self) -> anyhow::Result<(i64, i64)> {
        let mut connection = self.connect().await?;
        let sizes = sqlx::query_as(
            "SELECT sum(pg_table_size(oid))::bigint, sum(pg_indexes_size(oid))::bigint
               FROM pg_class
              WHERE relkind = 'r' AND relnamespace NOT IN
                    ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)",
        );
        Ok(sizes.fetch_one(&mut connection).await?)
    }

    /// Has the auditor look at it.
    pub(crate) async fn audit(&self) -> anyhow::Result<()> {
        let mut verify = self.consumer("verify");
        let audited = verify.args(["--wait", "120s"]).output().await?;
        match audited.status.code() {
            Some(0) => Ok(()),
            Some(3) => Err(Violated(String::from_utf8_lossy(&audited.stdout).into_owned()).into()),
            _ => bail!("verify: {}", String::from_utf8_lossy(&audited.stderr)),
        }
    }

    /// Removes the database.
    pub(crate) async fn clear(self) -> anyhow::Result<()> {
        self.stage.admin(&format!("DROP DATABASE {} WITH (FORCE)", self.database)).await
    }
}

/// Runs it to its end, which has to be a good one.
pub(crate) async fn succeed(mut command: Command, what: &str) -> anyhow::Result<()> {
    let ended = tokio::time::timeout(Duration::from_mins(30), command.output()).await;
    let ended = ended.with_context(|| format!("{what} did not end"))??;
    if !ended.status.success() {
        bail!("{what}: {}: {}", ended.status, String::from_utf8_lossy(&ended.stderr));
    }
    Ok(())
}
