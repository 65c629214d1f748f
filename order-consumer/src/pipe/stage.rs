//! What becomes of a raw order. Pure.

use idempotent_consumer::identity::{IdMode, id_from_text, identify};
use idempotent_consumer::pipe::{Letter, Stage, TooLarge};
use idempotent_consumer::{Headers, Outgoing, Poison, Record};
use order_events::{Envelope, EventError, RawEvent, decode_raw, encode_headers};
use time::OffsetDateTime;

/// Checks raw orders and gives them the form, the key and the partition of order records.
pub(super) struct OrderStage {
    pub(super) topic: String,
    pub(super) dlq_topic: String,
    pub(super) group: String,
    /// Of orders that name none.
    pub(super) source: String,
}

impl Stage for OrderStage {
    fn decide(&self, record: &Record, topic_id: &str) -> Vec<Outgoing> {
        vec![match decode_raw(record.value.as_deref()) {
            Ok(raw) => self.order(record, topic_id, &raw),
            Err(error) => self.letter(record, topic_id, &poison(&error), false),
        }]
    }

    /// An order that its topic does not take is a dead letter, and one that the dead letter topic
    /// does not take goes there without its value.
    fn decide_too_large(
        &self,
        record: &Record,
        topic_id: &str,
        refusal: TooLarge<'_>,
    ) -> Vec<Outgoing> {
        vec![match decode_raw(record.value.as_deref()) {
            Ok(_) => {
                let text = format!("Kafka finds its record too large: {}", refusal.reason);
                let poison = Poison { code: "too_large".into(), text };
                self.letter(record, topic_id, &poison, refusal.attempts > 1)
            }
            Err(error) => self.letter(record, topic_id, &poison(&error), true),
        }]
    }
}

impl OrderStage {
    fn order(&self, record: &Record, topic_id: &str, raw: &RawEvent<'_>) -> Outgoing {
        // By its place and content, an order without an id is the same message however often it is
        // read.
        let id = raw.id.as_ref().map_or_else(
            || identify(record, topic_id, &IdMode::Position).id.to_string(),
            ToString::to_string,
        );
        let envelope = Envelope {
            id,
            source: self.source_of(raw).to_owned(),
            // When it came in: the same however often it is read.
            time: came_in_at(record),
            traceparent: record.headers.get_str("traceparent").map(str::to_owned),
        };
        Outgoing {
            topic: self.topic.clone(),
            partition: None,
            key: Some(raw.event.customer_id().as_str().as_bytes().to_vec()),
            value: Some(raw.data.to_vec()),
            headers: encode_headers(raw.event.kind(), &envelope).into_iter().collect::<Headers>(),
        }
    }

    fn source_of<'a>(&'a self, raw: &'a RawEvent<'_>) -> &'a str {
        raw.source.as_deref().filter(|source| !source.is_empty()).unwrap_or(&self.source)
    }

    fn letter(
        &self,
        record: &Record,
        topic_id: &str,
        poison: &Poison,
        is_reduced: bool,
    ) -> Outgoing {
        // One that says who it is can be found by that.
        let message_id = decode_raw(record.value.as_deref())
            .ok()
            .and_then(|raw| raw.id.as_ref().map(|id| id_from_text(Some(self.source_of(&raw)), id)));
        let letter = Letter { record, topic_id, message_id, group: &self.group, poison };
        if is_reduced { letter.reduced(&self.dlq_topic) } else { letter.outgoing(&self.dlq_topic) }
    }
}

fn poison(error: &EventError) -> Poison {
    Poison { code: error.code().into(), text: error.to_string() }
}

fn came_in_at(record: &Record) -> OffsetDateTime {
    record
        .timestamp_ms
        .and_then(|ms| OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use idempotent_consumer::PartitionKey;

    const DATA: &str =
        r#"{"order_id":"0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3","customer_id":"c-17", "later":[1]}"#;

    fn stage() -> OrderStage {
        OrderStage {
            topic: "orders".to_owned(),
            dlq_topic: "orders.dlq".to_owned(),
            group: "pipe".to_owned(),
            source: "/pipe".to_owned(),
        }
    }

    fn record(value: Option<&str>) -> Record {
        Record {
            source: PartitionKey { topic: "incoming".into(), partition: 2 },
            offset: 41,
            timestamp_ms: Some(1_767_434_400_000),
            key: Some(b"whatever".to_vec()),
            value: value.map(|value| value.as_bytes().to_vec()),
            headers: [("x-shop", "7")].into_iter().collect(),
        }
    }

    fn decide(value: Option<&str>) -> Outgoing {
        let all = stage().decide(&record(value), "topic-id");
        assert_eq!(all, stage().decide(&record(value), "topic-id"), "the same answer every time");
        all.into_iter().next().unwrap()
    }

    #[test]
    fn a_raw_order_becomes_the_record_of_its_customer_with_the_bytes_of_its_data() {
        let out = decide(Some(&format!(r#"{{"id":"m 1","type":"order.paid","data":{DATA}}}"#)));
        assert_eq!((out.topic.as_str(), out.partition), ("orders", None));
        assert_eq!(out.key.as_deref(), Some(&b"c-17"[..]));
        assert_eq!(out.value.as_deref(), Some(DATA.as_bytes()));
        let header = |name| out.headers.get_str(name).unwrap();
        assert_eq!((header("ce_id"), header("ce_type")), ("m 1", "order.paid"));
        assert_eq!((header("ce_source"), header("ce_time")), ("/pipe", "2026-01-03T10:00:00Z"));
        let walk: Vec<_> = out.headers.iter().map(|(n, v)| (n, v.unwrap())).collect();
        let view = order_events::RecordView {
            key: out.key.as_deref(),
            value: out.value.as_deref(),
            headers: &walk,
        };
        assert!(order_events::decode(&view).is_ok(), "`run` reads it");
    }

    #[test]
    fn an_order_without_an_id_has_one_by_its_place_and_a_cloud_event_keeps_its_source() {
        let out = decide(Some(&format!(r#"{{"type":"order.paid","data":{DATA}}}"#)));
        let id = out.headers.get_str("ce_id").unwrap();
        assert_eq!(uuid::Uuid::parse_str(id).unwrap().get_version_num(), 5);
        let mut moved = record(Some(&format!(r#"{{"type":"order.paid","data":{DATA}}}"#)));
        moved.offset += 1;
        let other = stage().decide(&moved, "topic-id");
        assert_ne!(other[0].headers.get_str("ce_id"), Some(id));
        let out = decide(Some(&format!(
            r#"{{"specversion":"1.0","id":"1","source":"/shop","type":"order.paid","data":{DATA}}}"#
        )));
        assert_eq!(out.headers.get_str("ce_source"), Some("/shop"));
    }

    #[test]
    fn what_is_no_order_is_a_dead_letter_with_its_bytes_and_the_reason() {
        let wrong_id = format!(r#"{{"type":"order.paid","id":"","data":{DATA}}}"#);
        for (value, code) in [
            (None, "tombstone"),
            (Some(""), "empty_value"),
            (Some("no JSON"), "invalid_json"),
            (Some(r#"{"type":"order.paid"}"#), "missing_field"),
            (Some(r#"{"type":"order.lost","data":{}}"#), "unknown_type"),
            (Some(wrong_id.as_str()), "limit_exceeded"),
        ] {
            let stage = stage();
            let original = record(value);
            let out = &stage.decide(&original, "topic-id")[0];
            assert_eq!(out.topic, "orders.dlq");
            assert_eq!((&out.key, &out.value), (&original.key, &original.value));
            let header = |name| out.headers.get_str(name).unwrap();
            assert_eq!(header("dlq-error-code"), code);
            assert_eq!((header("x-shop"), header("dlq-consumer-group")), ("7", "pipe"));
            assert_eq!(
                (header("dlq-original-topic"), header("dlq-original-offset")),
                ("incoming", "41")
            );
            let again = &stage.decide(&original, "topic-id")[0];
            assert_eq!(again.headers.get_str("dlq-id"), Some(header("dlq-id")));
        }
    }

    #[test]
    fn what_kafka_finds_too_large_is_a_letter_and_at_last_one_without_a_value() {
        let valid = record(Some(&format!(r#"{{"type":"order.paid","id":"m","data":{DATA}}}"#)));
        let refused = |record: &Record, attempts| {
            let refusal = TooLarge { attempts, reason: "too large" };
            stage().decide_too_large(record, "topic-id", refusal).remove(0)
        };
        let first = refused(&valid, 1);
        assert_eq!((first.topic.as_str(), &first.value), ("orders.dlq", &valid.value));
        assert_eq!(first.headers.get_str("dlq-error-code"), Some("too_large"));
        for out in [refused(&valid, 2), refused(&record(Some("no JSON")), 1)] {
            assert_eq!(out.value, None);
            assert_eq!(out.headers.get_str("dlq-value-omitted"), Some("true"));
            assert_eq!(out.headers.get_str("x-shop"), Some("7"));
        }
        let mut wide = record(Some("no JSON"));
        wide.headers.push("wide", Some(&vec![b'x'; 100_000]));
        let out = refused(&wide, 2);
        assert_eq!((out.key, out.headers.get("wide")), (None, None));
        assert_eq!(out.headers.get_str("dlq-headers-omitted"), Some("true"));
    }
}
