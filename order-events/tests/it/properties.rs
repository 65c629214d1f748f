//! Properties over generated events and bytes.

use order_events::{
    Cents, Currency, CustomerId, EncodedRecord, Envelope, Item, OrderContent, OrderEvent, Reason,
    RecordView, Sku, StatusChange, decode, encode, encode_structured, event_type, limits,
    parse_event,
};
use proptest::collection::vec;
use proptest::prelude::*;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{Record, placed};

fn id() -> impl Strategy<Value = String> {
    vec(b'!'..=b'~', 1..=64).prop_map(|bytes| String::from_utf8(bytes).unwrap())
}

fn item() -> impl Strategy<Value = Item> {
    let quantity = limits::QUANTITY_MIN..=limits::QUANTITY_MAX;
    let price = limits::UNIT_PRICE_CENTS_MIN..=limits::UNIT_PRICE_CENTS_MAX;
    (id(), quantity, price).prop_map(|(sku, quantity, price)| {
        Item::new(Sku::new(&sku).unwrap(), quantity, Cents::new(price)).unwrap()
    })
}

fn instant() -> impl Strategy<Value = OffsetDateTime> {
    // Years 0 to 9999.
    (-62_167_219_200_i64..=253_402_300_799, 0..1_000_000_000_i64).prop_map(|(seconds, nanos)| {
        OffsetDateTime::from_unix_timestamp(seconds).unwrap() + time::Duration::nanoseconds(nanos)
    })
}

fn content() -> impl Strategy<Value = OrderContent> {
    let currency = prop_oneof![Just("EUR"), Just("USD"), Just("JPY")];
    (any::<u128>(), id(), currency, vec(item(), 1..=100), instant()).prop_map(
        |(order_id, customer_id, currency, items, placed_at)| {
            OrderContent::new(
                Uuid::from_u128(order_id),
                CustomerId::new(&customer_id).unwrap(),
                Currency::new(currency).unwrap(),
                items,
                placed_at,
            )
            .unwrap()
        },
    )
}

fn status_change() -> impl Strategy<Value = StatusChange> {
    let reason = proptest::option::of(vec(any::<char>(), 1..=1024));
    (any::<u128>(), id(), reason).prop_map(|(order_id, customer_id, reason)| StatusChange {
        order_id: Uuid::from_u128(order_id),
        customer_id: CustomerId::new(&customer_id).unwrap(),
        reason: reason.map(|chars| {
            let text: String = chars.into_iter().map(|c| if c == '\0' { ' ' } else { c }).collect();
            Reason::new(&text).unwrap()
        }),
    })
}

pub(crate) fn event() -> impl Strategy<Value = OrderEvent> {
    prop_oneof![
        content().prop_map(OrderEvent::Placed),
        content().prop_map(OrderEvent::Amended),
        status_change().prop_map(OrderEvent::Paid),
        status_change().prop_map(OrderEvent::Fulfilled),
        status_change().prop_map(OrderEvent::Cancelled),
    ]
}

fn envelope() -> impl Strategy<Value = Envelope> {
    let text = || vec(any::<char>(), 1..40).prop_map(String::from_iter);
    (text(), text(), instant(), proptest::option::of(text()))
        .prop_map(|(id, source, time, traceparent)| Envelope { id, source, time, traceparent })
}

fn view(record: &EncodedRecord) -> RecordView<'_> {
    RecordView { key: Some(&record.key), value: Some(&record.value), headers: &record.headers }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn what_is_encoded_in_either_mode_decodes_to_the_same(
        event in event(),
        envelope in envelope(),
    ) {
        for record in [encode(&event, &envelope), encode_structured(&event, &envelope)] {
            let decoded = decode(&view(&record)).unwrap();
            prop_assert_eq!(&decoded.event, &event);
            prop_assert_eq!(decoded.id.as_deref(), Some(&*envelope.id));
            prop_assert_eq!(decoded.source.as_deref(), Some(&*envelope.source));
            let kind = event_type(&view(&record)).unwrap();
            prop_assert_eq!(&*kind, event.kind().as_str());
        }
    }

    #[test]
    fn the_total_is_the_sum_of_its_items(content in content()) {
        let sum: i128 = content
            .items()
            .iter()
            .map(|item| i128::from(item.quantity()) * i128::from(item.unit_price().get()))
            .sum();
        prop_assert_eq!(i128::from(content.total().get()), sum);
    }

    #[test]
    fn encoding_is_a_function_of_event_and_envelope(event in event(), envelope in envelope()) {
        prop_assert_eq!(encode(&event, &envelope), encode(&event, &envelope));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_records_never_panic_and_give_short_texts(
        key in proptest::option::of(vec(any::<u8>(), 0..20)),
        value in proptest::option::of(vec(any::<u8>(), 0..200)),
        headers in vec(("(ce_type|CE_ID|content-type|ce_specversion|x)", vec(any::<u8>(), 0..30)), 0..5),
    ) {
        let record = Record { key, value, headers };
        let _ = event_type(&record.view());
        if let Err(error) = record.decode() {
            prop_assert!(error.to_string().len() <= limits::ERROR_TEXT_BYTES_MAX);
        }
    }

    #[test]
    fn a_valid_record_with_bytes_changed_never_panics(
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
        structured in any::<bool>(),
    ) {
        let mut record = placed();
        if structured {
            let data = String::from_utf8(record.value.take().unwrap()).unwrap();
            record = Record::structured(format!(
                r#"{{"specversion":"1.0","type":"order.placed","id":"m","data":{data}}}"#
            ));
        }
        let value = record.value.as_mut().unwrap();
        for (index, byte) in &changes {
            let at = index.index(value.len());
            value[at] = *byte;
        }
        if changes.len() == 1 {
            value.truncate(cut.index(value.len()));
        }
        if let Err(error) = record.decode() {
            prop_assert!(error.to_string().len() <= limits::ERROR_TEXT_BYTES_MAX);
        }
    }

    #[test]
    fn json_of_any_shape_never_panics_for_any_type(
        json in r#"(\{|\}|\[|\]|"order_id":|"items":|"quantity":|"reason":|"|,|null|1|-1|1.5|\\u0000|x){0,30}"#,
        kind in prop::sample::select(order_events::EventKind::ALL.to_vec()),
    ) {
        let _ = parse_event(kind, json.as_bytes(), "");
    }
}
