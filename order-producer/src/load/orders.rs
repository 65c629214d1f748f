//! Synthetic orders and their status events, from the seed and a number alone.

use clap::ValueEnum;
use order_events::{
    Cents, Currency, CustomerId, Envelope, Item, OrderContent, OrderEvent, Reason, Sku,
    StatusChange, encode,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::manifest::{Entry, Kind};
use super::plan::STATUS_EVENTS_PER_ORDER;
use super::random::Random;
use crate::message::Message;

const ORDER: u64 = 2;
const STATUS: u64 = 3;
const CUSTOMER: u64 = 4;
const POISON: u64 = 5;
const PRODUCT: u64 = 6;

/// Ids within one millisecond, told apart by the counter of the version 7 UUID.
const IDS_PER_MS: u64 = 4096;
const PRODUCTS: u64 = 500;
const LINES: [&str; 6] = ["TEA", "MUG", "POT", "TIN", "SPOON", "BOOK"];
const REASONS: [&str; 3] = ["changed my mind", "ordered twice", "delivery takes too long"];

/// Makes the messages of one load.
pub(super) struct Synth<'a> {
    seed: u64,
    start_ms: u64,
    customers: u64,
    source: &'a str,
    ids: IdVersion,
}

/// Which ids messages and orders get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum IdVersion {
    /// Random
    #[value(name = "4")]
    Four,
    /// Rising with the time
    #[default]
    #[value(name = "7")]
    Seven,
}

impl<'a> Synth<'a> {
    pub(super) fn new(seed: u64, start: OffsetDateTime, customers: u64, source: &'a str) -> Self {
        let start_ms = u64::try_from(start.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        Self { seed, start_ms, customers, source, ids: IdVersion::default() }
    }

    /// With ids of that version.
    pub(super) fn ids(self, ids: IdVersion) -> Self {
        Self { ids, ..self }
    }

    /// `order.placed` of the order with this number.
    pub(super) fn order(&self, index: u64, kind: Kind) -> (Message, Entry) {
        let (message_id, content) = self.placed(index);
        self.message(&OrderEvent::Placed(content), message_id, index, kind)
    }

    /// Message id and content of the order with this number.
    fn placed(&self, index: u64) -> (Uuid, OrderContent) {
        let mut random = Random::new(self.seed, ORDER, index);
        (self.id(index, &mut random), self.content(index, &mut random))
    }

    /// The status event with this number.
    pub(super) fn status(&self, index: u64, kind: Kind) -> (Message, Entry) {
        let mut random = Random::new(self.seed, STATUS, index);
        let message_id = self.id(index, &mut random);
        let (_, order) = self.placed(index / STATUS_EVENTS_PER_ORDER);
        let mut change = StatusChange {
            order_id: order.order_id(),
            customer_id: order.customer_id().clone(),
            reason: None,
        };
        let event = if index.is_multiple_of(STATUS_EVENTS_PER_ORDER) {
            OrderEvent::Paid(change)
        } else if random.below(5) > 0 {
            OrderEvent::Fulfilled(change)
        } else {
            change.reason = Reason::new(pick(&mut random, &REASONS)).ok();
            OrderEvent::Cancelled(change)
        };
        self.message(&event, message_id, index, kind)
    }

    /// The id of the poisonous message with this number, and an order that nobody placed.
    pub(super) fn for_poison(&self, index: u64) -> (Uuid, OrderContent, Random) {
        let mut random = Random::new(self.seed, POISON, index);
        let message_id = self.id(index, &mut random);
        let content = self.content(index, &mut random);
        (message_id, content, random)
    }

    pub(super) fn envelope(&self, message_id: Uuid, index: u64) -> Envelope {
        Envelope {
            id: message_id.to_string(),
            source: self.source.to_owned(),
            time: self.time(index),
            traceparent: None,
        }
    }

    fn message(
        &self,
        event: &OrderEvent,
        message_id: Uuid,
        index: u64,
        kind: Kind,
    ) -> (Message, Entry) {
        let entry = Entry {
            id: Some(message_id),
            event: Some(event.kind()),
            order: Some(event.order_id()),
            kind,
        };
        (encode(event, &self.envelope(message_id, index)).into(), entry)
    }

    fn content(&self, index: u64, random: &mut Random) -> OrderContent {
        let order_id = self.id(index, random);
        let customer = random.below(self.customers);
        let customer_id =
            CustomerId::new(&format!("c-{customer}")).expect("a number is visible ASCII");
        // A customer always pays in the same currency.
        let currency = match Random::new(self.seed, CUSTOMER, customer).below(10) {
            0..7 => "EUR",
            7..9 => "USD",
            _ => "GBP",
        };
        let currency = Currency::new(currency).expect("the three are of ISO 4217");
        let items = (0..item_count(random)).map(|_| item(random)).collect();
        OrderContent::new(order_id, customer_id, currency, items, self.time(index))
            .expect("1 to 8 items of a few euros, placed now")
    }

    /// The same whenever it is made again. Version 7 rises with the number, so that a database's
    /// index grows at its end.
    fn id(&self, index: u64, random: &mut Random) -> Uuid {
        const VARIANT: u64 = 0b10 << 62;
        if self.ids == IdVersion::Four {
            let head = random.next() & !0xf000 | 0x4000;
            return Uuid::from_u64_pair(head, VARIANT | random.next() >> 2);
        }
        let ms = self.ms(index) & 0xffff_ffff_ffff;
        let counter = index % IDS_PER_MS;
        let tail = random.next() >> 2;
        Uuid::from_u64_pair((ms << 16) | 0x7000 | counter, VARIANT | tail)
    }

    fn ms(&self, index: u64) -> u64 {
        self.start_ms + index / IDS_PER_MS
    }

    fn time(&self, index: u64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.ms(index)) * 1_000_000)
            .unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

/// Most orders are small: half have one item, few have eight.
fn item_count(random: &mut Random) -> u32 {
    1 + random.next().trailing_ones().min(7)
}

fn item(random: &mut Random) -> Item {
    // The square favours low numbers: some products sell more than others.
    let product = random.below(random.clone().below(PRODUCTS) + 1);
    // A product has one price, whoever loads it.
    let mut of_product = Random::new(0, PRODUCT, product);
    let line = pick(&mut of_product, &LINES);
    let cents = 95 + 5 * i64::try_from(of_product.below(2000)).expect("below 2000");
    let quantity = 1 + i64::from(random.next().trailing_ones().min(9));
    Sku::new(&format!("{line}-{product}"))
        .and_then(|sku| Item::new(sku, quantity, Cents::new(cents)))
        .expect("a short name, 1 to 10 pieces, up to 101 euros")
}

pub(super) fn pick<'t>(random: &mut Random, texts: &[&'t str]) -> &'t str {
    let index = random.below(texts.len() as u64);
    texts[usize::try_from(index).expect("below the length of a slice")]
}

#[cfg(test)]
mod tests {
    use order_events::{RecordView, Status, decode};

    use super::*;

    const START: OffsetDateTime = time::macros::datetime!(2026-01-03 10:00 UTC);

    struct View<'a>(&'a idempotent_consumer::Headers);

    impl order_events::Headers for View<'_> {
        fn each<'a>(&'a self, visit: &mut dyn FnMut(&'a [u8], Option<&'a [u8]>)) {
            for (name, value) in self.0.iter() {
                visit(name, value);
            }
        }
    }

    fn event_of(message: &Message) -> OrderEvent {
        let record = RecordView {
            key: message.key.as_deref(),
            value: message.value.as_deref(),
            headers: &View(&message.headers),
        };
        decode(&record).unwrap().event
    }

    #[test]
    fn a_number_gives_the_same_message_every_time() {
        let synth = Synth::new(7, START, 100, "/test");
        for index in [0, 1, 5000] {
            assert_eq!(synth.order(index, Kind::Order).0, synth.order(index, Kind::Duplicate).0);
            assert_eq!(synth.status(index, Kind::Order).0, synth.status(index, Kind::Duplicate).0);
        }
    }

    #[test]
    fn another_start_changes_only_times() {
        let later = START + time::Duration::hours(1);
        let [early, late] = [START, later].map(|start| {
            let synth = Synth::new(7, start, 100, "/test");
            let event = event_of(&synth.order(3, Kind::Order).0);
            let order = event.content().unwrap().clone();
            (order.items().to_vec(), order.customer_id().clone(), order.order_id().as_u64_pair().1)
        });
        assert_eq!(early, late);
    }

    #[test]
    fn ids_are_version_7_rise_with_the_number_and_differ() {
        let synth = Synth::new(7, START, 100, "/test");
        let mut last = Uuid::nil();
        for index in 0..10_000 {
            let (_, entry) = synth.order(index, Kind::Order);
            let id = entry.id.unwrap();
            assert!(id > last);
            assert_ne!(entry.order, entry.id);
            assert_eq!((id.get_version_num(), id.get_variant()), (7, uuid::Variant::RFC4122));
            last = id;
        }
    }

    #[test]
    fn ids_of_version_4_are_random_and_the_same_every_time() {
        let synth = Synth::new(7, START, 100, "/test").ids(IdVersion::Four);
        let ids = |index| {
            let (_, entry) = synth.order(index, Kind::Order);
            [entry.id.unwrap(), entry.order.unwrap()]
        };
        let all: Vec<Uuid> = (0..1000).flat_map(ids).collect();
        assert_eq!(all, (0..1000).flat_map(ids).collect::<Vec<_>>());
        assert_eq!(all.iter().collect::<std::collections::HashSet<_>>().len(), all.len());
        assert!(!all.is_sorted());
        let of_version_4 =
            |id: &Uuid| (id.get_version_num(), id.get_variant()) == (4, uuid::Variant::RFC4122);
        assert!(all.iter().all(of_version_4));
    }

    #[test]
    fn status_events_lead_through_the_life_of_their_order() {
        let synth = Synth::new(7, START, 100, "/test");
        for index in 0..200 {
            let order = event_of(&synth.order(index, Kind::Order).0);
            let mut status = Status::apply(None, order.kind()).unwrap();
            for number in [2 * index, 2 * index + 1] {
                let event = event_of(&synth.status(number, Kind::Order).0);
                assert_eq!(event.order_id(), order.order_id());
                assert_eq!(event.customer_id(), order.customer_id());
                status = Status::apply(Some(status), event.kind()).unwrap();
            }
        }
    }
}
