//! What cannot be applied is one dead letter, whole, and its neighbours do not notice.

use idempotent_consumer::publish::Acknowledged;
use idempotent_consumer::{Headers, Record};
use uuid::Uuid;

use crate::support::Place;
use crate::support::events::{
    Event, change, event, message_id, order_id, placed, with_header, with_id, with_value,
};
use crate::support::poll::wait;
use crate::support::world::{World, orders, text};

/// A record and the code it is dead-lettered with; `None` for one that is applied.
type Case = (Event, Option<&'static str>);

/// The JSON of an order of `c-1` with `edit` replaced.
fn edited(number: u128, from: &str, to: &str) -> Event {
    let event = event(number, &placed(number, "c-1", 2));
    let value = String::from_utf8(event.value.clone().unwrap()).unwrap();
    assert!(value.contains(from), "{from} in {value}");
    with_value(event, value.replace(from, to).as_bytes())
}

fn order(number: u128) -> Event {
    event(number, &placed(number, "c-1", 2))
}

fn with_key(event: Event, key: Option<&[u8]>) -> Event {
    Event { key: key.map(<[u8]>::to_vec), ..event }
}

/// Bytes that look like nothing, the same on every run.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    })
    .take(len)
    .collect()
}

/// Key, value and headers of a row.
type Kept = (Option<Vec<u8>>, Option<Vec<u8>>, serde_json::Value);

/// Sends the cases with good neighbours, consumes, and checks what became of each.
fn check(world: &World, cases: &[Case]) {
    let neighbours = orders(100_000, u128::try_from(cases.len()).unwrap(), 1);
    let events: Vec<Event> = cases
        .iter()
        .zip(neighbours)
        .flat_map(|((event, _), neighbour)| [event.clone(), neighbour])
        .collect();
    let places = world.send_to(0, &events);
    let places: Vec<Acknowledged> = places.into_iter().step_by(2).collect();
    let summary = world.drain(&[]);
    let dead = cases.iter().filter(|(_, code)| code.is_some()).count();
    assert_eq!(summary["dead_lettered"], dead, "{:?}", world.dead_letter_codes());
    assert_eq!(summary["applied"], 2 * cases.len() - dead);
    let copies = world.dead_letter_topic();
    assert_eq!(copies.len(), dead, "each once in the dead letter topic");
    for ((event, code), at) in cases.iter().zip(places) {
        let here = format!(r#"partition = {} AND "offset" = {}"#, at.partition, at.offset);
        let codes: Vec<(String,)> =
            world.rows(&format!("SELECT error_code FROM dead_letters WHERE {here}"));
        let codes: Vec<&str> = codes.iter().map(|(code,)| code.as_str()).collect();
        let expected: Vec<&str> = code.iter().copied().collect();
        assert_eq!(codes, expected, "of {:?}", shown(event));
        if code.is_some() {
            let copy = copies.iter().find(|copy| is_of(copy, at)).unwrap();
            check_copy(world, event, at, copy, false);
        }
    }
    world.audit();
}

fn shown(event: &Event) -> String {
    let value = event.value.as_deref().map(|value| &value[..value.len().min(200)]);
    format!("{:?} {:?}", event.headers, value.map(String::from_utf8_lossy))
}

fn is_of(copy: &Record, at: Acknowledged) -> bool {
    text(&copy.headers, "dlq-original-offset") == at.offset.to_string()
        && text(&copy.headers, "dlq-original-partition") == at.partition.to_string()
}

/// Row and copy have the record byte for byte, and the copy says what happened.
fn check_copy(world: &World, event: &Event, at: Acknowledged, copy: &Record, value_omitted: bool) {
    let all: Vec<_> = copy.headers.iter().collect();
    let (original, added) = all.split_at(event.headers.len());
    assert!(event.headers.iter().eq(original.iter().copied()), "{original:?}");
    assert_eq!(copy.key, event.key);
    assert_eq!(copy.value, event.value.clone().filter(|_| !value_omitted));
    let mut names: Vec<&str> =
        added.iter().map(|(name, _)| std::str::from_utf8(name).unwrap()).collect();
    if value_omitted {
        assert_eq!(names.pop(), Some("dlq-value-omitted"));
        assert_eq!(text(&copy.headers, "dlq-value-omitted"), "true");
    }
    let expected = [
        "dlq-id",
        "dlq-message-id",
        "dlq-original-topic",
        "dlq-original-partition",
        "dlq-original-offset",
        "dlq-original-timestamp",
        "dlq-consumer-group",
        "dlq-error-class",
        "dlq-error-code",
        "dlq-error-message",
        "dlq-attempts",
        "dlq-dead-lettered-at",
    ];
    assert_eq!(names, expected);

    let header = |name: &str| text(&copy.headers, name).to_owned();
    let id: Uuid = header("dlq-id").parse().unwrap();
    let row = format!(
        "SELECT message_id::text, error_class, error_code, error_message, attempts::text
           FROM dead_letters WHERE dlq_id = '{id}'"
    );
    let rows: Vec<(String, String, String, String, String)> = world.rows(&row);
    let said = ["message-id", "error-class", "error-code", "error-message", "attempts"]
        .map(|name| header(&format!("dlq-{name}")));
    assert_eq!(rows, [said.into()]);
    assert_eq!(header("dlq-original-topic"), world.topic);
    assert_eq!(header("dlq-original-partition"), at.partition.to_string());
    assert_eq!(header("dlq-consumer-group"), world.group);
    assert!(header("dlq-error-message").len() <= 1024);
    let when = header("dlq-dead-lettered-at");
    let format = &time::format_description::well_known::Rfc3339;
    assert!(time::OffsetDateTime::parse(&when, format).is_ok(), "{when}");

    let kept = format!("SELECT key, value, headers FROM dead_letters WHERE dlq_id = '{id}'");
    let kept: Vec<Kept> = world.rows(&kept);
    assert_eq!(kept, [(event.key.clone(), event.value.clone(), event.headers.to_json())]);
}

#[test]
fn values_that_are_no_order_are_dead_letters() {
    let json = |number, value: &[u8]| with_value(order(number), value);
    let (open, close) = ("[".repeat(100_000), "]".repeat(100_000));
    let deep = format!("{{\"ignored\":{open}{close},\"order_id\"");
    let changed = with_value(
        event(14, &order_events::OrderEvent::Paid(change(1, "c-1"))),
        format!(r#"{{"order_id":"{}","customer_id":"c-1","reason":"a\u0000b"}}"#, order_id(1))
            .as_bytes(),
    );
    let cases: Vec<Case> = vec![
        (json(0, b"{\"order_id\":"), Some("invalid_json")),
        (json(1, b"hello"), Some("invalid_json")),
        (edited(2, "}],", "}],}"), Some("invalid_json")),
        (json(3, b"[]"), Some("invalid_field")),
        (json(4, b"null"), Some("invalid_field")),
        (json(5, b"{}"), Some("missing_field")),
        (edited(6, "\"quantity\":2", "\"quantity\":\"2\""), Some("invalid_field")),
        (edited(7, "\"quantity\":2", "\"quantity\":2.5"), Some("invalid_field")),
        (edited(8, "\"quantity\":2", "\"quantity\":null"), Some("invalid_field")),
        (edited(9, "\"customer_id\":\"c-1\",", ""), Some("missing_field")),
        (edited(10, "\"customer_id\":\"c-1\"", "\"customer_id\":17"), Some("invalid_field")),
        (edited(11, "EUR", "eur"), Some("invalid_field")),
        (edited(12, "2026-01-03", "2026-13-03"), Some("invalid_field")),
        (edited(13, "TEA-1", "TEA\\u0000"), Some("invalid_field")),
        (changed, Some("invalid_field")),
        (edited(15, "TEA-1", "\\ud800"), Some("invalid_json")),
        (edited(16, "\"quantity\":2", "\"quantity\":2,\"quantity\":3"), Some("invalid_field")),
        (json(17, b"{\"order_id\":\"\xff\xfe\"}"), Some("invalid_json")),
        (json(18, b""), Some("empty_value")),
        (Event { value: None, ..order(19) }, Some("tombstone")),
        (json(20, &noise(1_000_000)), Some("invalid_json")),
        (edited(21, "{\"order_id\"", &deep), Some("invalid_json")),
        (edited(22, "{\"order_id\"", "{\"ignored\":{\"a\":[1,\"\\u0000\"]},\"order_id\""), None),
    ];
    check(&World::new("values", 1), &cases);
}

#[test]
fn envelopes_that_cannot_be_read_are_dead_letters() {
    let header = |number, name, value: &[u8]| with_header(order(number), name, Some(value));
    let mut doubled = with_value(order(8), b"no JSON");
    doubled.headers.push("x", Some(b"1"));
    doubled.headers.push("x", None);
    doubled.headers.push("x", Some(b""));
    doubled.headers.push("", Some(b"a name of no length"));
    let mut odd = order(9);
    odd.headers.push(b"\xff\xfe", Some(b"\xc3\x28"));
    let poisoned_odd = Event { value: None, ..odd.clone() };
    let cases: Vec<Case> = vec![
        (Event { headers: Headers::new(), ..order(0) }, Some("missing_type")),
        (with_header(order(1), "ce_type", None), Some("missing_type")),
        (header(2, "ce_type", b"order.lost"), Some("unknown_type")),
        (header(3, "ce_type", b"order.\xff"), Some("unknown_type")),
        (header(4, "ce_type", b"order.\0placed"), Some("unknown_type")),
        (header(5, "content-type", b"text/plain"), Some("unsupported_content_type")),
        (header(6, "ce_specversion", b"2.0"), Some("unsupported_version")),
        (
            header(7, "ce_dataschema", b"urn:order-events:order.placed:2"),
            Some("unsupported_version"),
        ),
        (doubled, Some("invalid_json")),
        (odd, None),
        (with_id(poisoned_odd, Some(&message_id(10).to_string())), Some("tombstone")),
        (header(11, "ce_id", b"\xff"), None),
        (header(12, "content-type", b"application/cloudevents+json"), Some("missing_type")),
        (with_key(order(13), Some(b"c-2")), Some("key_mismatch")),
        (with_key(order(14), Some(b"\xff\x00")), Some("key_mismatch")),
        (with_key(order(15), Some(b"")), Some("key_mismatch")),
        (with_key(order(16), None), Some("key_mismatch")),
    ];
    check(&World::new("envelopes", 1), &cases);
}

#[test]
fn each_limit_is_kept_and_what_is_just_within_is_applied() {
    let item = r#"{"sku":"TEA-1","quantity":2,"unit_price_cents":450}"#;
    let items = |number, count: usize| edited(number, item, &vec![item; count].join(","));
    let quantity = |number, quantity: &str| {
        edited(number, "\"quantity\":2", &format!("\"quantity\":{quantity}"))
    };
    let price = |number, cents: &str| {
        edited(number, "\"unit_price_cents\":450", &format!("\"unit_price_cents\":{cents}"))
    };
    let customer = |number, len| {
        let customer = "c".repeat(len);
        let event = edited(number, "\"c-1\"", &format!("\"{customer}\""));
        with_key(event, Some(customer.as_bytes()))
    };
    let sku = |number, len| edited(number, "TEA-1", &"S".repeat(len));
    let over = Some("limit_exceeded");
    let cases: Vec<Case> = vec![
        (items(0, 100), None),
        (items(1, 101), over),
        (edited(2, item, ""), over),
        (quantity(3, "10000"), None),
        (quantity(4, "10001"), over),
        (quantity(5, "1"), None),
        (quantity(6, "0"), over),
        (quantity(7, "-1"), over),
        (quantity(8, "9223372036854775807"), over),
        (quantity(9, "9223372036854775808"), over),
        (price(10, "100000000"), None),
        (price(11, "100000001"), over),
        (price(12, "0"), None),
        (price(13, "-1"), over),
        (price(14, "1e400"), Some("invalid_json")),
        (customer(15, 64), None),
        (customer(16, 65), over),
        (customer(17, 0), over),
        (sku(18, 64), None),
        (sku(19, 65), over),
        (sku(20, 0), over),
    ];
    check(&World::new("limits", 1), &cases);
}

#[test]
fn a_sum_that_the_database_cannot_hold_is_a_dead_letter_of_that_message_alone() {
    let world = World::new("overflow", 1);
    world.send(&[event(0, &placed(0, "c-1", 1)), event(1, &placed(1, "c-2", 1))]);
    world.drain(&[]);
    let set = |cents: i64| {
        wait(world.sql(&format!(
            "UPDATE customer_totals SET spent_cents = {cents} WHERE customer_id = 'c-1'"
        )));
    };
    set(i64::MAX - 100);
    let mut events = orders(100, 20, 1);
    for (number, event) in (100..).zip(&mut events) {
        *event = self::event(number, &placed(number, "c-2", 1));
    }
    events.insert(7, event(2, &placed(2, "c-1", 1)));
    world.send(&events);
    let summary = world.drain(&[]);
    assert_eq!((&summary["applied"], &summary["dead_lettered"]), (&20.into(), &1.into()));
    assert_eq!(world.dead_letter_codes(), ["sqlstate_22003"]);
    set(450);
    world.audit();
}

#[test]
fn a_dead_letter_that_its_topic_is_too_small_for_goes_without_its_value() {
    let world = World::of(Place::on(local_stack::shared(), "small_topic"));
    world.create_topic_with(&world.topic, 1, &[]);
    world.create_topic_with(&world.dlq_topic, 1, &[("max.message.bytes", "20000")]);
    let large = with_value(order(1), &noise(100_000));
    let small = with_value(order(2), &noise(1000));
    let places = world.send(&[large.clone(), small.clone(), order(3)]);
    let summary = world.drain(&[]);
    assert_eq!(summary["dead_lettered"], 2);
    let copies = world.dead_letter_topic();
    assert_eq!(copies.len(), 2);
    for (event, at, omitted) in [(large, places[0], true), (small, places[1], false)] {
        let copy = copies.iter().find(|copy| is_of(copy, at)).unwrap();
        check_copy(&world, &event, at, copy, omitted);
    }
    world.audit();
}

/// Kafka refuses a request of many for its size, or all of them for one: none of them is too large
/// for that, and each goes out once.
#[test]
fn dead_letters_that_are_too_large_only_together_all_arrive_with_their_values() {
    let world = World::of(Place::on(local_stack::shared(), "small_together"));
    world.create_topic_with(&world.topic, 1, &[]);
    world.create_topic_with(&world.dlq_topic, 1, &[("max.message.bytes", "20000")]);
    // Of one key one is under way at a time: these have a key each.
    let large = with_value(event(0, &placed(0, "c-0", 1)), &noise(100_000));
    let small: Vec<Event> = (1..120)
        .map(|n| with_value(event(n, &placed(n, &format!("c-{n}"), 1)), &noise(2000)))
        .collect();
    let sent = [&[large], &*small].concat();
    let places = world.send(&sent);
    let summary = world.drain(&[]);
    assert_eq!(summary["dead_lettered"], 120);
    let copies = world.dead_letter_topic();
    assert_eq!(copies.len(), 120);
    for (number, (event, at)) in sent.iter().zip(places).enumerate() {
        let copy = copies.iter().find(|copy| is_of(copy, at)).unwrap();
        check_copy(&world, event, at, copy, number == 0);
    }
    world.audit();
}

#[test]
fn timestamps_of_any_size_hinder_nothing() {
    let world = World::of(Place::on(local_stack::shared(), "timestamps"));
    let any = i64::MAX.to_string();
    // What is of 1970 would be gone as soon as retention is looked after.
    let settings = [
        ("message.timestamp.after.max.ms", &*any),
        ("message.timestamp.before.max.ms", &*any),
        ("retention.ms", "-1"),
    ];
    world.create_topic_with(&world.topic, 1, &settings);
    world.create_topic_with(&world.dlq_topic, 1, &[]);
    let stamps = [1, 253_402_300_799_000, 253_402_300_800_000, i64::MAX / 2, i64::MAX - 1];
    let mut number = 0;
    for stamp in stamps {
        for event in [order(number), with_value(order(number + 1), b"no JSON")] {
            world.send_with_timestamp(&event, stamp);
        }
        number += 2;
    }
    assert_eq!(world.log_end(0), 10, "Kafka took them all");
    let summary = world.drain(&[]);
    assert_eq!((&summary["applied"], &summary["dead_lettered"]), (&5.into(), &5.into()));
    let copies = world.dead_letter_topic();
    let mut said: Vec<i64> = copies
        .iter()
        .map(|copy| text(&copy.headers, "dlq-original-timestamp").parse().unwrap())
        .collect();
    said.sort_unstable();
    assert_eq!(said, stamps);
    world.audit();
}
