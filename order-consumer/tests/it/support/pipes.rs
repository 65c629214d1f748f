//! `order-consumer pipe` before a world: raw orders, and who sees what of them downstream.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;

use idempotent_consumer::{Headers, Record};
use local_stack::Endpoints;

use super::consumer::Consumer;
use super::events::{Event, message_id, order_id};
use super::poll::{eventually, wait};
use super::world::{World, text};

/// The command with its points to die at. Built once; the other one stays as it is.
pub(crate) static WITH_FAILPOINTS: LazyLock<PathBuf> = LazyLock::new(|| {
    let example = "with_failpoints";
    wait(local_stack::programs::build_with_failpoints(&[example])).unwrap().join(example)
});

/// A world that gets its orders from a pipe.
pub(crate) struct Piped {
    pub(crate) world: World,
    pub(crate) incoming: String,
    pub(crate) group: String,
    /// Message ids of the orders, and values of what is none.
    sent: BTreeMap<String, usize>,
}

impl Piped {
    pub(crate) fn on(stack: &'static Endpoints, what: &str, partitions: usize) -> Self {
        let world = World::on(stack, what, partitions);
        let (incoming, group) =
            (format!("{}.incoming", world.topic), format!("{}-pipe", world.topic));
        wait(world.topics().ensure(&incoming, partitions)).unwrap();
        Self { world, incoming, group, sent: BTreeMap::new() }
    }

    /// Sends raw orders numbered from `first`. Every twentieth is none.
    pub(crate) fn send(&mut self, first: u128, count: u128) {
        let raw: Vec<Event> = (first..first + count)
            .map(|number| {
                let (known_by, value) = if number % 20 == 19 {
                    (format!("no order {number}"), format!("no order {number}"))
                } else {
                    (message_id(number).to_string(), raw_order(number))
                };
                *self.sent.entry(known_by).or_default() += 1;
                raw_record(number, &value)
            })
            .collect();
        self.world.publish_to(&self.incoming, &raw);
    }

    /// `pipe -o json …`
    pub(crate) fn start(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Consumer {
        let mut command = self.world.command_of(&WITH_FAILPOINTS, "pipe", &["-o", "json"]);
        command
            .args(["--from", &self.incoming, "-g", &self.group])
            .args(arguments)
            .envs(environment.iter().copied());
        Consumer::of(command, &self.world.topic)
    }

    /// Works off all there is in a run of its own.
    pub(crate) fn drain(&self, arguments: &[&str]) -> serde_json::Value {
        self.start(&[&["--exit-when-idle", "1s"], arguments].concat(), &[]).wait().summary()
    }

    /// How many different ones were sent.
    pub(crate) fn sent(&self) -> usize {
        self.sent.len()
    }

    /// How often each order and each dead letter is there for such a reader.
    pub(crate) fn downstream(&self, is_committed: bool) -> BTreeMap<String, usize> {
        let mut seen = BTreeMap::new();
        for record in self.world.seen(&self.world.topic, is_committed) {
            *seen.entry(text(&record.headers, "ce_id").to_owned()).or_default() += 1;
        }
        for letter in self.letters(is_committed) {
            let value = String::from_utf8(letter.value.unwrap()).unwrap();
            *seen.entry(value).or_default() += 1;
        }
        seen
    }

    fn letters(&self, is_committed: bool) -> Vec<Record> {
        let letters = self.world.seen(&self.world.dlq_topic, is_committed);
        letters.into_iter().filter(|letter| letter.headers.get("dlq-id").is_some()).collect()
    }

    /// Each raw order is downstream once. Returns how many more a reader without isolation sees.
    #[track_caller]
    pub(crate) fn assert_each_once(&self) -> usize {
        let seen = self.downstream(true);
        let missing: Vec<_> = self.sent.keys().filter(|id| !seen.contains_key(*id)).collect();
        assert!(missing.is_empty(), "{} missing: {missing:?}", missing.len());
        let doubled: Vec<_> =
            seen.iter().filter(|(id, times)| self.sent.get(*id) != Some(times)).collect();
        assert!(doubled.is_empty(), "{} doubled or invented: {doubled:?}", doubled.len());
        let all: usize = self.downstream(false).values().sum();
        all - seen.values().sum::<usize>()
    }

    /// What `run` makes of it downstream: each order is applied, and the auditor agrees.
    #[track_caller]
    pub(crate) fn assert_applied(&self, orders: i64) {
        self.world.drain(&["--batch-size", "50"]);
        let found = self.world.number("SELECT count(*) FROM orders");
        assert_eq!((found, self.world.claims()), (orders, orders));
        // The letters of the pipe are no business of the pair's.
        assert!(self.world.dead_letter_codes().is_empty());
        self.world.audit();
    }
}

/// A raw order as a web shop writes it.
pub(crate) fn raw_order(number: u128) -> String {
    let (id, order, customer) = (message_id(number), order_id(number), number % 13);
    format!(
        r#"{{"type":"order.placed","id":"{id}","data":{{"order_id":"{order}","customer_id":"c-{customer}","currency":"EUR","items":[{{"sku":"TEA-1","quantity":2,"unit_price_cents":450}}],"placed_at":"2026-01-03T10:00:00Z"}}}}"#
    )
}

/// Under a key that is not its customer's.
pub(crate) fn raw_record(number: u128, value: &str) -> Event {
    Event {
        key: Some(format!("cart-{}", number % 7).into_bytes()),
        value: Some(value.as_bytes().to_vec()),
        headers: Headers::new(),
    }
}

/// Waits until it has frozen itself.
#[track_caller]
pub(crate) fn wait_frozen(consumer: &Consumer) {
    let file = format!("/proc/{}/stat", consumer.pid());
    eventually("it has frozen", || {
        let stat = std::fs::read_to_string(&file).unwrap();
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
    });
}
