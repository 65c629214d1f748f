//! Which records of the log belong to the story. Pure.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use idempotent_consumer::identity::{self, IdMode, Identity};
use idempotent_consumer::inspect::Sighting;
use idempotent_consumer::{Decoded, Decoder as _, MessageId, Record};
use uuid::Uuid;

use crate::decoder::OrderDecoder;

/// The source of what `order-producer` sends, unless it is told another.
const OWN_SOURCE: &str = "/order-producer";

/// Sources remembered, for the ids of messages that are not in the log any more.
const MAX_SOURCES: usize = 32;

/// What is looked for.
#[derive(Debug)]
pub(super) struct Wanted {
    text: String,
    uuid: Option<Uuid>,
    pub(super) id_mode: IdMode,
    limit: usize,
}

impl Wanted {
    pub(super) fn new(id: &str, id_mode: IdMode, limit: usize) -> Self {
        Self { text: id.to_owned(), uuid: Uuid::try_parse(id).ok(), id_mode, limit }
    }
}

/// A record of the story.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) sighting: Sighting,
    pub(super) timestamp_ms: Option<i64>,
    pub(super) event_type: Option<String>,
    /// The id as its producer wrote it, where that is not the message id.
    pub(super) producer_id: Option<String>,
    pub(super) order_id: Option<Uuid>,
    /// The latest timestamp of the partition up to here: by this records of several partitions
    /// are told in order without turning round those of one.
    told_at: i64,
}

/// The records found so far. Their number is bounded; the rest is counted.
#[derive(Debug)]
pub(super) struct Found {
    wanted: Wanted,
    pub(super) records: Vec<Seen>,
    /// Found beyond the limit.
    pub(super) more: u64,
    /// The id is that of an order.
    pub(super) is_order: bool,
    sources: BTreeSet<String>,
    latest: (i32, i64),
}

impl Found {
    pub(super) fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            records: Vec::new(),
            more: 0,
            is_order: false,
            sources: BTreeSet::from([OWN_SOURCE.to_owned()]),
            latest: (-1, i64::MIN),
        }
    }

    /// Keeps what has to be known of the record if it belongs to the story.
    pub(super) fn look_at(&mut self, record: &Record, identity: &Identity) -> ControlFlow<()> {
        let partition = record.source.partition;
        let before = if self.latest.0 == partition { self.latest.1 } else { i64::MIN };
        self.latest = (partition, before.max(record.timestamp_ms.unwrap_or(i64::MIN)));

        let envelope = identity::envelope(record);
        if let Some(source) = envelope.source.as_deref()
            && self.sources.len() < MAX_SOURCES
            && !self.sources.contains(source)
        {
            self.sources.insert(source.to_owned());
        }
        let sighting = Sighting::of(record, identity);
        let producer_id = self.wanted.id_mode.id_text(record, &envelope);
        let is_message = producer_id.as_deref() == Some(self.wanted.text.as_str())
            || self.wanted.uuid.is_some_and(|wanted| {
                wanted == sighting.id.0 || wanted == sighting.conflict_id().0
            });
        let is_order = self
            .wanted
            .uuid
            .is_some_and(|wanted| may_hold(record, wanted) && order_id_of(record) == Some(wanted));
        self.is_order |= is_order;
        if !is_message && !is_order {
            return ControlFlow::Continue(());
        }
        if self.records.len() == self.wanted.limit {
            self.more += 1;
            return ControlFlow::Continue(());
        }
        self.records.push(Seen {
            sighting,
            timestamp_ms: record.timestamp_ms,
            event_type: identity.event_type.clone(),
            producer_id: producer_id
                .filter(|id| **id != identity.id.to_string())
                .map(std::borrow::Cow::into_owned),
            order_id: order_id_of(record),
            told_at: self.latest.1,
        });
        ControlFlow::Continue(())
    }

    /// In the order in which they are told.
    pub(super) fn sort(&mut self) {
        self.records
            .sort_by_key(|seen| (seen.told_at, seen.sighting.partition, seen.sighting.offset));
    }

    /// The message ids that the text may stand for, whatever the log still has.
    pub(super) fn message_ids(&self) -> Vec<MessageId> {
        let of = |source| identity::id_from_text(source, &self.wanted.text);
        let mut ids: Vec<MessageId> = self.wanted.uuid.map(MessageId).into_iter().collect();
        ids.push(of(None));
        ids.extend(self.sources.iter().map(|source| of(Some(source))));
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// Whether a look at the whole value is worth it: the id stands in it, or something is escaped.
fn may_hold(record: &Record, id: Uuid) -> bool {
    let mut buffer = Uuid::encode_buffer();
    let id = id.hyphenated().encode_lower(&mut buffer).as_bytes();
    let value = record.value.as_deref().unwrap_or_default();
    value.contains(&b'\\') || value.windows(id.len()).any(|part| part.eq_ignore_ascii_case(id))
}

/// The order that a record is about; of one that cannot be applied, as far as its JSON still
/// tells.
pub(crate) fn order_id_of(record: &Record) -> Option<Uuid> {
    if let Ok(Decoded::Message(event)) = OrderDecoder::default().decode(record) {
        return Some(event.order_id());
    }
    let json: serde_json::Value = serde_json::from_slice(record.value.as_deref()?).ok()?;
    ["/order_id", "/data/order_id"]
        .into_iter()
        .find_map(|pointer| Uuid::try_parse(json.pointer(pointer)?.as_str()?).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use idempotent_consumer::{Headers, PartitionKey};

    const ORDER: &str = "01930000-0000-7000-8000-000000000001";

    fn record(partition: i32, offset: i64, id: &str, value: &str) -> Record {
        let headers: Headers = [("ce_id", id), ("ce_type", "order.paid"), ("ce_source", "/shop")]
            .into_iter()
            .collect();
        Record {
            source: PartitionKey { topic: "t".into(), partition },
            offset,
            timestamp_ms: Some(1000 - offset),
            key: Some(b"c-1".to_vec()),
            value: Some(value.as_bytes().to_vec()),
            headers,
        }
    }

    fn found(id: &str, limit: usize, records: &[Record]) -> Found {
        let mut found = Found::new(Wanted::new(id, IdMode::default(), limit));
        for record in records {
            let _ =
                found.look_at(record, &identity::identify(record, "topic-id", &IdMode::default()));
        }
        found.sort();
        found
    }

    #[test]
    fn an_order_is_found_in_events_and_in_poison_that_still_names_it() {
        let paid = format!(r#"{{"order_id":"{ORDER}","customer_id":"c-1"}}"#);
        let poison = format!(r#"{{"order_id":"{}","items":7}}"#, ORDER.to_uppercase());
        let records = [
            record(0, 1, "a", &paid),
            record(0, 2, "b", &poison),
            record(0, 3, "c", &paid.replace("01930000", "01940000")),
            record(0, 4, "d", &format!("{{\"order_id\":\"{ORDER}\"")),
        ];
        let found = found(ORDER, 9, &records);
        let offsets: Vec<_> = found.records.iter().map(|seen| seen.sighting.offset).collect();
        assert_eq!(offsets, [1, 2], "in the log's order, whatever the timestamps say");
        assert!(found.is_order && found.records[1].order_id.is_some());
    }

    #[test]
    fn a_message_is_found_by_its_uuid_and_by_its_producers_text() {
        let records = [record(0, 1, "order-7", "{}"), record(1, 5, "order-7", "{}")];
        let by_text = found("order-7", 9, &records);
        assert_eq!(by_text.records.len(), 2);
        assert_eq!(by_text.records[0].producer_id.as_deref(), Some("order-7"));
        let id = by_text.records[0].sighting.id;
        assert!(by_text.message_ids().contains(&id), "also without the record");
        assert_eq!(found(&id.to_string(), 9, &records).records.len(), 2);
        assert_eq!(
            found(&by_text.records[0].sighting.conflict_id().to_string(), 9, &records)
                .records
                .len(),
            2
        );
        assert!(found("order-8", 9, &records).records.is_empty());
    }

    #[test]
    fn what_is_beyond_the_limit_is_counted() {
        let records = [0, 1, 2].map(|offset| record(0, offset, "x", "{}"));
        let found = found("x", 2, &records);
        assert_eq!((found.records.len(), found.more), (2, 1));
    }
}
