//! Messages that no consumer can apply, broken in varied ways.

use order_events::{Envelope, EventKind, OrderContent, OrderEvent, encode};

use super::manifest::{Entry, Kind};
use super::orders::Synth;
use crate::message::Message;

/// The ways, taken in turn so that a small load has many of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    CutJson,
    Tombstone,
    KeyMismatch,
    QuantityInQuotes,
    Empty,
    TooMany,
    NoHeaders,
    MissingField,
    Nul,
    NegativePrice,
    NotUtf8,
    LoneSurrogate,
    Fraction,
    UnknownCurrency,
    DeepNesting,
    TextContentType,
    NullKey,
    TooManyItems,
}

impl Way {
    const ALL: [Self; 18] = [
        Self::CutJson,
        Self::Tombstone,
        Self::KeyMismatch,
        Self::QuantityInQuotes,
        Self::Empty,
        Self::TooMany,
        Self::NoHeaders,
        Self::MissingField,
        Self::Nul,
        Self::NegativePrice,
        Self::NotUtf8,
        Self::LoneSurrogate,
        Self::Fraction,
        Self::UnknownCurrency,
        Self::DeepNesting,
        Self::TextContentType,
        Self::NullKey,
        Self::TooManyItems,
    ];
}

/// The poisonous message with this number.
pub(super) fn make(synth: &Synth<'_>, index: u64) -> (Message, Entry) {
    let (message_id, content, random) = synth.for_poison(index);
    let turn = usize::try_from(index % Way::ALL.len() as u64).expect("below the number of ways");
    let way = Way::ALL[turn];
    let message = spoil(way, content, &synth.envelope(message_id, index), random.clone().next());
    let has_headers = way != Way::NoHeaders;
    let entry = Entry {
        id: has_headers.then_some(message_id),
        event: has_headers.then_some(EventKind::Placed),
        order: None,
        kind: Kind::Poison,
    };
    (message, entry)
}

fn spoil(way: Way, content: OrderContent, envelope: &Envelope, noise: u64) -> Message {
    let mut message = Message::from(encode(&OrderEvent::Placed(content), envelope));
    let value = message.value.take().unwrap_or_default();
    let text = String::from_utf8_lossy(&value).into_owned();
    let replace = |from: &str, to: &str| Some(text.replacen(from, to, 1).into_bytes());
    message.value = match way {
        Way::Tombstone => None,
        Way::Empty => Some(Vec::new()),
        Way::CutJson => Some(value[..value.len() / 2].to_vec()),
        Way::NotUtf8 => Some([&[0xff, 0xfe][..], &noise.to_be_bytes(), &value].concat()),
        Way::QuantityInQuotes => replace("\"quantity\":", "\"quantity\":\"2\",\"x\":"),
        Way::TooMany => replace("\"quantity\":", "\"quantity\":10001,\"x\":"),
        Way::NegativePrice => replace("\"unit_price_cents\":", "\"unit_price_cents\":-1,\"x\":"),
        Way::Fraction => replace("\"unit_price_cents\":", "\"unit_price_cents\":4.5,\"x\":"),
        Way::MissingField => replace("\"currency\"", "\"x\""),
        Way::UnknownCurrency => replace("\"currency\":\"", "\"currency\":\"X"),
        Way::Nul => replace("\"sku\":\"", "\"sku\":\"\\u0000"),
        Way::LoneSurrogate => replace("\"sku\":\"", "\"sku\":\"\\ud800"),
        Way::DeepNesting => {
            let (open, close) = ("[".repeat(1000), "]".repeat(1000));
            replace("{", &format!("{{\"x\":{open}{close},"))
        }
        Way::TooManyItems => {
            let item = r#"{"sku":"TEA-1","quantity":1,"unit_price_cents":450},"#;
            replace("\"items\":[", &format!("\"items\":[{}", item.repeat(100)))
        }
        Way::KeyMismatch | Way::NoHeaders | Way::TextContentType | Way::NullKey => Some(value),
    };
    match way {
        Way::KeyMismatch => message.key = Some(b"somebody-else".to_vec()),
        Way::NullKey => message.key = None,
        Way::NoHeaders => message.headers = idempotent_consumer::Headers::new(),
        // Of headers with one name the last counts.
        Way::TextContentType => message.headers.push("content-type", Some(b"text/plain")),
        _ => {}
    }
    message
}

#[cfg(test)]
mod tests {
    use order_events::{RecordView, decode};
    use time::OffsetDateTime;

    use super::*;

    struct View<'a>(&'a idempotent_consumer::Headers);

    impl order_events::Headers for View<'_> {
        fn each<'a>(&'a self, visit: &mut dyn FnMut(&'a [u8], Option<&'a [u8]>)) {
            for (name, value) in self.0.iter() {
                visit(name, value);
            }
        }
    }

    #[test]
    fn every_way_is_poison_to_the_contract() {
        let synth = Synth::new(7, OffsetDateTime::now_utc(), 100, "/test");
        let mut codes = std::collections::BTreeSet::new();
        for index in 0..3 * Way::ALL.len() as u64 {
            let (message, entry) = make(&synth, index);
            let record = RecordView {
                key: message.key.as_deref(),
                value: message.value.as_deref(),
                headers: &View(&message.headers),
            };
            let error = decode(&record).expect_err("poison is not applied");
            codes.insert(error.code());
            assert_eq!(entry.id.is_none(), message.headers.is_empty());
        }
        assert!(codes.len() >= 9, "{codes:?}");
        assert!(!codes.contains("unknown_type"), "a consumer may be told to skip those");
    }
}
