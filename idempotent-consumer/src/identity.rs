//! Which message a record is, and what it says. Pure.
//!
//! The envelope is CloudEvents 1.0 for Kafka: attributes as `ce_…` headers (binary mode) or as
//! members of a JSON value (structured mode). The id may be elsewhere, see [`IdMode`].

mod id_mode;
mod pointer;

use std::borrow::Cow;

use serde::Deserialize;
use sha2::{Digest, Sha256};
use uuid::Uuid;

pub use self::id_mode::{HeaderName, IdMode, IdModeError};
pub use self::pointer::{JsonPointer, PointerError};
use crate::message::{Fingerprint, Headers, MessageId, Record};
use crate::redrive::Ticket;

/// Of the fingerprint's first byte, and of `dedup_scope`.
pub const FINGERPRINT_VERSION: u8 = 1;

/// Namespace of ids made from a producer's own id text. Fixed for ever: another value would let
/// every message of that kind be applied again.
const NAMESPACE_TEXT: Uuid = Uuid::from_u128(0x8f2b_77a4_4c7e_5d0a_9b61_2f0e_6a51_c3d7);
/// Namespace of ids made from a record's place in the log.
const NAMESPACE_POSITION: Uuid = Uuid::from_u128(0x41c9_05de_93b8_5f6e_8a27_d4f3_0b6c_7e19);
/// Namespace of ids under which a conflicting message is dead-lettered.
const NAMESPACE_CONFLICT: Uuid = Uuid::from_u128(0xd6a1_3f58_20c4_5b97_b3ee_8c72_9d04_16af);
/// Namespace of the ids of dead letters.
const NAMESPACE_DEAD_LETTER: Uuid = Uuid::from_u128(0x7b52_e1c9_86d3_5a40_a4f7_31be_c80d_925e);

/// The CloudEvents attributes that identity depends on; each is missing or not empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The producer's id of the event.
    pub id: Option<Cow<'a, str>>,
    /// Who produced it.
    pub source: Option<Cow<'a, str>>,
    /// What kind of event it is.
    pub event_type: Option<Cow<'a, str>>,
}

/// Reads the envelope. Whatever is not there or not text is missing; this never fails.
pub fn envelope(record: &Record) -> Envelope<'_> {
    let names = ["content-type", "ce_id", "ce_source", "ce_type"];
    let [content_type, id, source, event_type] = record.headers.get_each(names);
    if content_type.is_some_and(is_of_cloudevents) {
        return record.value.as_deref().map(structured).unwrap_or_default();
    }
    Envelope { id: text_of(id), source: text_of(source), event_type: text_of(event_type) }
}

fn text_of(value: Option<&[u8]>) -> Option<Cow<'_, str>> {
    std::str::from_utf8(value?).ok().filter(|text| !text.is_empty()).map(Cow::Borrowed)
}

/// Whether the record is in CloudEvents structured mode.
pub fn is_structured(headers: &Headers) -> bool {
    headers.get("content-type").is_some_and(is_of_cloudevents)
}

fn is_of_cloudevents(content_type: &[u8]) -> bool {
    const PREFIX: &[u8] = b"application/cloudevents";
    content_type.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX))
}

fn structured(value: &[u8]) -> Envelope<'_> {
    #[derive(Deserialize)]
    struct Attributes<'a> {
        #[serde(borrow, default)]
        id: Option<Cow<'a, str>>,
        #[serde(borrow, default)]
        source: Option<Cow<'a, str>>,
        #[serde(borrow, default, rename = "type")]
        event_type: Option<Cow<'a, str>>,
    }
    let Ok(found) = serde_json::from_slice::<Attributes<'_>>(value) else {
        return Envelope::default();
    };
    let text = |attribute: Option<Cow<'_, str>>| {
        attribute
            .filter(|text| !text.is_empty())
            .map(|text| Cow::<'static, str>::Owned(text.into_owned()))
    };
    Envelope { id: text(found.id), source: text(found.source), event_type: text(found.event_type) }
}

/// What the record says: a version byte, then SHA-256 over type, key and value.
pub fn fingerprint(
    event_type: Option<&str>,
    key: Option<&[u8]>,
    value: Option<&[u8]>,
) -> Fingerprint {
    let mut hasher = Sha256::new();
    for part in [event_type.map(str::as_bytes), key, value] {
        update(&mut hasher, part);
    }
    let mut out = [FINGERPRINT_VERSION; Fingerprint::LEN];
    out[1..].copy_from_slice(&hasher.finalize());
    Fingerprint(out)
}

/// The id of a message that carries one: a hyphenated UUID is itself, anything else is hashed
/// together with its source, since two producers may count alike.
pub fn id_from_text(source: Option<&str>, id: &str) -> MessageId {
    const HYPHENATED: usize = 36;
    if id.len() == HYPHENATED
        && let Ok(uuid) = Uuid::try_parse(id)
    {
        return MessageId(uuid);
    }
    let mut name = Vec::new();
    push(&mut name, source.map(str::as_bytes));
    push(&mut name, Some(id.as_bytes()));
    MessageId(Uuid::new_v5(&NAMESPACE_TEXT, &name))
}

/// The id of a record that carries none. Its place alone would collide after the topic is created
/// anew, so the topic's id, the timestamp and the content go in as well.
pub fn id_from_position(topic_id: &str, record: &Record, fingerprint: Fingerprint) -> MessageId {
    let mut name = Vec::new();
    push(&mut name, Some(topic_id.as_bytes()));
    push(&mut name, Some(&record.source.partition.to_be_bytes()));
    push(&mut name, Some(&record.offset.to_be_bytes()));
    push(&mut name, record.timestamp_ms.map(i64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice));
    push(&mut name, Some(&fingerprint.0));
    MessageId(Uuid::new_v5(&NAMESPACE_POSITION, &name))
}

/// The id under which a message is dead-lettered whose own id belongs to another message: replays
/// of it fold, and it never touches the first one's claim.
pub fn id_of_conflict(id: MessageId, fingerprint: Fingerprint) -> MessageId {
    let mut name = Vec::new();
    push(&mut name, Some(id.0.as_bytes()));
    push(&mut name, Some(&fingerprint.0));
    MessageId(Uuid::new_v5(&NAMESPACE_CONFLICT, &name))
}

/// The `dlq-id` of the dead letter of a claim, which has one at most. It comes from the message and
/// not from chance: a database that was set back writes the dead letter again, and its copies in
/// the topic from before and after are then one.
pub fn id_of_dead_letter(group: &str, claimed: MessageId) -> Uuid {
    let mut name = Vec::new();
    push(&mut name, Some(group.as_bytes()));
    push(&mut name, Some(claimed.0.as_bytes()));
    Uuid::new_v5(&NAMESPACE_DEAD_LETTER, &name)
}

/// The same for a message that was redriven so often and dead-lettered each time.
pub fn id_of_redriven_dead_letter(group: &str, claimed: MessageId, redrive_count: i32) -> Uuid {
    if redrive_count == 0 {
        return id_of_dead_letter(group, claimed);
    }
    let mut name = Vec::new();
    push(&mut name, Some(group.as_bytes()));
    push(&mut name, Some(claimed.0.as_bytes()));
    push(&mut name, Some(&redrive_count.to_be_bytes()));
    Uuid::new_v5(&NAMESPACE_DEAD_LETTER, &name)
}

/// Id, fingerprint and type of a record. Every record has an identity, also one that nobody can
/// decode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What the message is known by.
    pub id: MessageId,
    /// What it says.
    pub fingerprint: Fingerprint,
    /// Its CloudEvents type, if it has one.
    pub event_type: Option<String>,
}

/// Derives the [`Identity`] of a record. One that carries no id is known by its place, and a
/// redriven copy of it by its ticket: the place of the copy is another one.
pub fn identify(record: &Record, topic_id: &str, id_mode: &IdMode) -> Identity {
    let envelope = envelope(record);
    let fingerprint =
        fingerprint(envelope.event_type.as_deref(), record.key.as_deref(), record.value.as_deref());
    let id = match id_mode.id_text(record, &envelope) {
        Some(id) => id_from_text(envelope.source.as_deref(), &id),
        None => Ticket::of(record)
            .map_or_else(|| id_from_position(topic_id, record, fingerprint), |ticket| ticket.id),
    };
    Identity { id, fingerprint, event_type: envelope.event_type.map(Cow::into_owned) }
}

fn update(hasher: &mut Sha256, part: Option<&[u8]>) {
    hasher.update(prefix(part).to_be_bytes());
    hasher.update(part.unwrap_or_default());
}

fn push(name: &mut Vec<u8>, part: Option<&[u8]>) {
    name.extend_from_slice(&prefix(part).to_be_bytes());
    name.extend_from_slice(part.unwrap_or_default());
}

/// The length before a part; null is not empty.
fn prefix(part: Option<&[u8]>) -> i64 {
    part.map_or(-1, |bytes| i64::try_from(bytes.len()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::PartitionKey;
    use proptest::prelude::*;

    fn record(headers: &[(&str, &str)], value: Option<&[u8]>) -> Record {
        Record {
            source: PartitionKey { topic: "orders".into(), partition: 3 },
            offset: 42,
            timestamp_ms: Some(1_700_000_000_000),
            key: Some(b"c-1".to_vec()),
            value: value.map(<[u8]>::to_vec),
            headers: headers.iter().copied().collect(),
        }
    }

    fn identify(record: &Record, topic_id: &str) -> Identity {
        super::identify(record, topic_id, &IdMode::CeId)
    }

    /// The id by that mode; `None` if it is that of the place.
    fn id_by(id_mode: &str, record: &Record) -> Option<MessageId> {
        let Identity { id, fingerprint, .. } =
            super::identify(record, "x", &id_mode.parse().unwrap());
        (id != id_from_position("x", record, fingerprint)).then_some(id)
    }

    #[test]
    fn a_hyphenated_uuid_is_itself_in_either_case_and_anything_else_is_hashed_with_its_source() {
        let text = "0192d4e0-7b1a-7c3e-8a55-0123456789ab";
        let uuid = Uuid::try_parse(text).unwrap();
        assert_eq!(id_from_text(Some("a"), text).0, uuid);
        assert_eq!(id_from_text(None, &text.to_uppercase()).0, uuid);
        assert_ne!(id_from_text(Some("a"), &text.replace('-', "")).0, uuid);
        assert_ne!(id_from_text(Some("a"), "7"), id_from_text(Some("b"), "7"));
        assert_ne!(id_from_text(Some("a7"), ""), id_from_text(Some("a"), "7"));
    }

    #[test]
    fn ids_made_from_text_never_change_between_versions() {
        // These values are in users' databases. If this test fails, the change is wrong.
        assert_eq!(
            id_from_text(Some("shop"), "order-1").to_string(),
            "a43b5acd-aca6-5ac7-8534-84790c2397e5"
        );
        assert_eq!(
            format!("{:?}", fingerprint(Some("order.placed"), Some(b"c-1"), Some(b"{}"))),
            "017f7ec3d050a12fe384aead90d28ee74b747519d4a1efbae87a6954d7dc913ca8"
        );
    }

    #[test]
    fn null_and_empty_are_different_contents() {
        assert_ne!(fingerprint(None, None, None), fingerprint(None, None, Some(b"")));
        assert_ne!(fingerprint(None, None, Some(b"")), fingerprint(None, Some(b""), None));
        assert_ne!(
            fingerprint(Some("ab"), Some(b"c"), None),
            fingerprint(Some("a"), Some(b"bc"), None)
        );
    }

    #[test]
    fn a_record_without_an_id_is_known_by_its_place_and_content() {
        let one = record(&[], Some(b"x"));
        let here = identify(&one, "topic-a").id;
        assert_eq!(here, identify(&one, "topic-a").id);
        assert_ne!(here, identify(&one, "topic-b").id, "a topic created anew is another place");
        let mut moved = one.clone();
        moved.offset += 1;
        assert_ne!(here, identify(&moved, "topic-a").id);
        assert_ne!(here, identify(&record(&[], Some(b"y")), "topic-a").id);
    }

    #[test]
    fn structured_mode_carries_the_same_identity_as_binary_mode() {
        let binary = record(&[("ce_id", "7"), ("ce_source", "s"), ("ce_type", "t")], Some(b"{}"));
        let structured = record(
            &[("Content-Type", "application/cloudevents+json; charset=utf-8")],
            Some(br#"{"specversion":"1.0","id":"7","source":"s","type":"t","data":{}}"#),
        );
        assert_eq!(identify(&binary, "x").id, identify(&structured, "x").id);
        assert_eq!(identify(&structured, "x").event_type.as_deref(), Some("t"));
    }

    #[test]
    fn a_structured_record_that_is_not_json_is_known_by_its_place() {
        let broken = record(&[("content-type", "application/cloudevents+json")], Some(b"{\"id\":"));
        let identity = identify(&broken, "x");
        assert_eq!(identity.id, id_from_position("x", &broken, identity.fingerprint));
    }

    #[test]
    fn an_id_counts_the_same_wherever_it_stands() {
        let uuid = "0192d4e0-7b1a-7c3e-8a55-0123456789ab";
        for text in ["7", "order-7", uuid] {
            let with = |name, value: &[u8]| {
                record(&[("ce_id", "other"), ("ce_source", "/shop"), (name, text)], Some(value))
            };
            let id = Some(id_from_text(Some("/shop"), text));
            assert_eq!(id_by("header:Message-Id", &with("message-iD", b"no JSON")), id);
            assert_eq!(id_by("ce_id", &with("ce_id", b"no JSON")), id, "the last header counts");
            let value = format!(r#"{{"event":{{"ids":[null,"{text}"]}}}}"#);
            assert_eq!(id_by("json:/event/ids/1", &with("x", value.as_bytes())), id);
            let structured =
                format!(r#"{{"id":"other","source":"/shop","data":{{"no":"{text}"}}}}"#);
            let headers = [("content-type", "application/cloudevents+json")];
            assert_eq!(id_by("json:/data/no", &record(&headers, Some(structured.as_bytes()))), id);
        }
        let number = record(&[("ce_source", "/shop")], Some(br#"{"no":7}"#));
        assert_eq!(id_by("json:/no", &number), Some(id_from_text(Some("/shop"), "7")));
    }

    #[test]
    fn where_no_id_is_found_the_record_is_known_by_its_place() {
        let all = record(&[("ce_id", "7"), ("id", "7")], Some(br#"{"id":"7"}"#));
        assert_eq!(id_by("position", &all), None, "whatever the producer says");
        for (headers, value) in [
            (&[][..], None),
            (&[("id", "")], Some(&b""[..])),
            (&[("Id ", "7")], Some(br#"{"id":""}"#)),
            (&[], Some(br#"{"id":null}"#)),
            (&[], Some(br#"{"id":{"id":"7"}}"#)),
            (&[], Some(br#"{"id":"7""#)),
        ] {
            for id_mode in ["header:id", "json:/id"] {
                assert_eq!(id_by(id_mode, &record(headers, value)), None, "{headers:?}");
            }
        }
        let mut binary = record(&[("id", "7")], None);
        binary.headers.push("id", Some(b"\xff"));
        assert_eq!(id_by("header:id", &binary), None, "the last one is no text");
    }

    proptest! {
        #[test]
        fn arbitrary_records_have_an_identity_and_never_panic(
            names in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..16), prop::option::of(prop::collection::vec(any::<u8>(), 0..64))), 0..8),
            structured in any::<bool>(),
            value in prop::option::of(prop::collection::vec(any::<u8>(), 0..256)),
        ) {
            let mut r = record(&[], value.as_deref());
            if structured {
                r.headers.push("content-type", Some(b"application/cloudevents+json"));
            }
            for (name, value) in &names {
                r.headers.push(name, value.as_deref());
            }
            for id_mode in ["ce_id", "header:id", "json:/0/a", "position"] {
                prop_assert_eq!(id_by(id_mode, &r), id_by(id_mode, &r.clone()));
            }
        }
    }
}
