//! A place with topics and a memory: what Kafka acknowledged, the auditor is told at the end.

use std::ops::{ControlFlow, Deref};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use idempotent_consumer::identity::IdMode;
use idempotent_consumer::inspect::scan_log;
use idempotent_consumer::publish::{
    Acknowledged, Delivery, DeliveryError, Publication, Publisher, PublisherOptions, Topics,
};
use idempotent_consumer::{Headers, Record};
use local_stack::Endpoints;
use serde_json::{Value, json};
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::consumer::Consumer;
use super::events::{Event, event, placed};
use super::poll::{eventually, wait};
use super::{Place, unique};

const TIMEOUT: Duration = Duration::from_mins(1);

pub(crate) struct World {
    pub(crate) place: Place,
    acknowledged: Mutex<Vec<Value>>,
}

impl Deref for World {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.place
    }
}

impl World {
    /// On the servers that all tests share, with this many partitions.
    pub(crate) fn new(what: &str, partitions: usize) -> Self {
        Self::on(local_stack::shared(), what, partitions)
    }

    pub(crate) fn on(stack: &'static Endpoints, what: &str, partitions: usize) -> Self {
        let world = Self::of(Place::on(stack, what));
        wait(world.create_topic(partitions));
        wait(Topics::new(&world.settings(), TIMEOUT).unwrap().ensure(&world.dlq_topic, 1)).unwrap();
        world
    }

    /// Whatever is there.
    pub(crate) fn of(place: Place) -> Self {
        Self { place, acknowledged: Mutex::default() }
    }

    /// The same with its PostgreSQL behind another address.
    pub(crate) fn through(&self, port: u16) -> Place {
        let mut url: Vec<&str> = self.database_url.split('/').collect();
        let (user, _) = url[2].rsplit_once('@').unwrap();
        let address = format!("{user}@127.0.0.1:{port}");
        url[2] = &address;
        let database_url = url.join("/");
        Place { database_url, ..self.place.clone() }
    }

    /// Publishes, the key decides the partition.
    pub(crate) fn send(&self, events: &[Event]) -> Vec<Acknowledged> {
        self.send_where(None, events)
    }

    /// Publishes to a partition.
    pub(crate) fn send_to(&self, partition: i32, events: &[Event]) -> Vec<Acknowledged> {
        self.send_where(Some(partition), events)
    }

    fn send_where(&self, partition: Option<i32>, events: &[Event]) -> Vec<Acknowledged> {
        let ends = self.offer(partition, events, TIMEOUT);
        ends.into_iter().map(|end| end.unwrap()).collect()
    }

    /// Publishes, and says what became of each. Remembers what was acknowledged.
    pub(crate) fn offer(
        &self,
        partition: Option<i32>,
        events: &[Event],
        timeout: Duration,
    ) -> Vec<Result<Acknowledged, DeliveryError>> {
        let (sender, deliveries) = mpsc::channel::<Delivery>();
        let options =
            PublisherOptions { delivery_timeout: Some(timeout), ..PublisherOptions::default() };
        let publisher = Publisher::new(&self.settings(), &options, move |delivery| {
            let _ = sender.send(delivery);
        })
        .unwrap();
        for (token, event) in (0..).zip(events) {
            let (key, value) = (event.key.as_deref(), event.value.as_deref());
            let record =
                Publication { topic: &self.topic, partition, key, value, headers: &event.headers };
            publisher.send(&record, token).unwrap();
        }
        publisher.flush(timeout + Duration::from_secs(5));
        let mut ends: Vec<Delivery> = deliveries.try_iter().collect();
        ends.sort_unstable_by_key(|delivery| delivery.token);
        assert_eq!(ends.len(), events.len(), "each record has an end");
        for (event, end) in events.iter().zip(&ends) {
            self.remember(event, end.outcome.as_ref().ok());
        }
        ends.into_iter().map(|end| end.outcome).collect()
    }

    /// Notes for the auditor what became of a record.
    pub(crate) fn remember(&self, event: &Event, at: Option<&Acknowledged>) {
        // Where it is hashed with its source, or elsewhere than in this header, its place has to do.
        let id = event.headers.get_str("ce_id").filter(|id| !id.is_empty());
        let source = event.headers.get_str("ce_source");
        let is_binary = event.headers.get_str("content-type") == Some("application/json");
        let id = id.filter(|_| is_binary && source == Some("/test"));
        self.acknowledged.lock().unwrap().push(json!({
            "id": id,
            "partition": at.map(|at| at.partition),
            "offset": at.map(|at| at.offset),
            "outcome": if at.is_some() { "acknowledged" } else { "unconfirmed" },
        }));
    }

    /// Consumes all there is in a run of its own; returns its summary.
    pub(crate) fn drain(&self, arguments: &[&str]) -> Value {
        let arguments = [&["--exit-when-idle", "1s"], arguments].concat();
        Consumer::start(self, &arguments).wait().summary()
    }

    /// The auditor's word on everything, after waiting for what is under way.
    #[track_caller]
    pub(crate) fn audit(&self) -> Value {
        let report = self.report();
        assert!(report["holds"].as_bool().unwrap(), "{report:#}");
        report
    }

    /// What the auditor finds, whatever it is.
    #[track_caller]
    pub(crate) fn report(&self) -> Value {
        let name = format!("{}.ndjson", unique(&self.topic));
        let manifest = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let lines: Vec<String> =
            self.acknowledged.lock().unwrap().iter().map(ToString::to_string).collect();
        std::fs::write(&manifest, lines.join("\n")).unwrap();
        let arguments = ["--wait", "60s", "-o", "json", "--manifest", manifest.to_str().unwrap()];
        let ran = self.run("verify", &arguments);
        assert!([0, 3].contains(&ran.code), "{ran:#?}");
        std::fs::remove_file(&manifest).unwrap();
        serde_json::from_str(&ran.stdout).unwrap()
    }

    /// One number.
    pub(crate) fn number(&self, query: &str) -> i64 {
        self.scalar(query)
    }

    pub(crate) fn scalar<T>(&self, query: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
        T: Send + Unpin,
    {
        let query = AssertSqlSafe(query.to_owned());
        wait(async {
            let mut connection = PgConnection::connect(&self.database_url).await.unwrap();
            let value = sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap();
            connection.close().await.unwrap();
            value
        })
    }

    /// Rows as tuples.
    pub(crate) fn rows<T>(&self, query: &str) -> Vec<T>
    where
        T: for<'r> sqlx::FromRow<'r, PgRow> + Send + Unpin,
    {
        let query = AssertSqlSafe(query.to_owned());
        wait(async {
            let mut connection = PgConnection::connect(&self.database_url).await.unwrap();
            let rows = sqlx::query_as(query).fetch_all(&mut connection).await.unwrap();
            connection.close().await.unwrap();
            rows
        })
    }

    /// Cents of a customer in EUR.
    pub(crate) fn cents(&self, customer: &str) -> i64 {
        self.number(&format!(
            "SELECT coalesce(sum(spent_cents), 0)::bigint FROM customer_totals \
              WHERE customer_id = '{customer}' AND currency = 'EUR'"
        ))
    }

    pub(crate) fn claims(&self) -> i64 {
        self.number("SELECT count(*) FROM processed_messages")
    }

    /// The codes of the dead letters, in the order of their places.
    pub(crate) fn dead_letter_codes(&self) -> Vec<String> {
        let query = r#"SELECT error_code FROM dead_letters ORDER BY partition, "offset""#;
        self.rows::<(String,)>(query).into_iter().map(|(code,)| code).collect()
    }

    /// Everything in the dead letter topic.
    pub(crate) fn dead_letter_topic(&self) -> Vec<Record> {
        let mut records = Vec::new();
        let keep = |record, _| {
            records.push(record);
            ControlFlow::Continue(())
        };
        let (settings, by) = (self.settings(), IdMode::default());
        let scanned = scan_log(&settings, &self.dlq_topic, &by, TIMEOUT, keep, |_| {}).unwrap();
        assert!(scanned.is_some(), "the dead letter topic exists");
        records
    }

    /// Waits until the database is past everything in the topic and nothing waits to go out.
    #[track_caller]
    pub(crate) fn wait_consumed(&self) {
        let topics = Topics::new(&self.settings(), TIMEOUT).unwrap();
        let count = topics.partitions(&self.topic).unwrap().unwrap();
        for partition in 0..i32::try_from(count).unwrap() {
            let (_, end) = topics.watermarks(&self.topic, partition).unwrap();
            eventually(&format!("{}[{partition}] is consumed to {end}", self.topic), || {
                self.next_offset(partition) >= end
            });
        }
        eventually("the outbox is empty", || self.number("SELECT count(*) FROM outbox") == 0);
    }

    /// How far the database is; -1 if it does not know the partition.
    pub(crate) fn next_offset(&self, partition: i32) -> i64 {
        self.number(&format!(
            "SELECT coalesce(max(next_offset), -1) FROM partition_progress \
              WHERE partition = {partition}"
        ))
    }
}

/// Orders of one tea each, numbered from `first`, spread over `customers` customers.
pub(crate) fn orders(first: u128, count: u128, customers: u128) -> Vec<Event> {
    (first..first + count)
        .map(|number| event(number, &placed(number, &customer(number % customers), 1)))
        .collect()
}

pub(crate) fn customer(number: u128) -> String {
    format!("c-{number}")
}

/// The value of a header that is text.
pub(crate) fn text<'a>(headers: &'a Headers, name: &str) -> &'a str {
    headers.get_str(name).unwrap_or_else(|| panic!("no header {name} in {headers:?}"))
}
