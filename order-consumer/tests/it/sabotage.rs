//! The auditor's own test: whatever is broken on purpose, `verify` says so, with exit code 3 and
//! an example that names it; and what is right passes.

use idempotent_consumer::publish::Acknowledged;
use order_events::OrderEvent;
use serde_json::Value;
use tokio::sync::OnceCell;

use crate::support::broken::{PATIENT, break_customer};
use crate::support::consumer::Consumer;
use crate::support::events::{
    Event, change, content, event, message_id, order_id, placed, with_value,
};
use crate::support::poll::{eventually, wait};
use crate::support::world::World;
use crate::support::{Place, Ran, unique};

/// A right state: every outcome there is, in one partition, with gaps between the offsets.
struct Right {
    place: Place,
    records: Vec<(u128, Acknowledged)>,
}

/// The messages, by their numbers. What comes twice is a duplicate.
fn messages() -> Vec<(u128, Event)> {
    let paid = |order| OrderEvent::Paid(change(order, "c-1"));
    let conflict = placed(9, "c-2", 9);
    let fresh = [
        (0, placed(0, "c-1", 2)),
        (1, placed(1, "c-2", 1)),
        (2, paid(0)),
        (3, OrderEvent::Amended(content(1, "c-2", 5))),
        (4, placed(2, "c-1", 7)),
        (5, OrderEvent::Cancelled(change(2, "c-1"))),
        (6, OrderEvent::Fulfilled(change(0, "c-1"))),
        (7, placed(3, "c-3", 1)),
        (0, placed(0, "c-1", 2)),
        (7, placed(3, "c-3", 1)),
        // The id of another message; twice, to fold into one dead letter.
        (1, conflict.clone()),
        (1, conflict),
        // An order that does not exist.
        (21, paid(99)),
        // The same order under another id: applied without effect.
        (22, placed(0, "c-1", 2)),
    ];
    let mut messages: Vec<_> =
        fresh.into_iter().map(|(number, it)| (number, event(number, &it))).collect();
    messages.push((20, with_value(event(20, &placed(20, "c-4", 1)), b"{")));
    messages
}

impl Right {
    async fn prepare(what: &str) -> Self {
        let place = Place::new(what);
        place.create_topic(1).await;
        let messages = messages();
        let events: Vec<_> = messages.iter().map(|(_, event)| event.clone()).collect();
        let at = place.publish(&events);
        place.publish_in_transaction(&[event(31, &placed(31, "c-1", 1))], false);
        place.publish_in_transaction(&[event(30, &placed(30, "c-1", 1))], true);
        place.consume();
        let records = messages.into_iter().map(|(number, _)| number).zip(at).collect();
        Self { place, records }
    }

    /// The same state with a database to be broken, and topics that nobody may touch.
    async fn shared() -> &'static Self {
        static SHARED: OnceCell<Right> = OnceCell::const_new();
        SHARED.get_or_init(|| Self::prepare("sabotage")).await
    }

    fn offset_of(&self, number: u128) -> i64 {
        self.records.iter().find(|(known, _)| *known == number).unwrap().1.offset
    }
}

/// Audits as JSON.
#[track_caller]
fn verify(place: &Place, arguments: &[&str]) -> (Ran, Value) {
    let ran = place.run("verify", &[&["-o", "json"], arguments].concat());
    let report = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:#?}"));
    (ran, report)
}

#[track_caller]
fn holds(place: &Place, arguments: &[&str]) -> Value {
    let (ran, report) = verify(place, arguments);
    assert_eq!(ran.code, 0, "{}\n{}", ran.stdout, ran.stderr);
    report
}

/// The invariant with this number is violated, and an example has all of these texts.
#[track_caller]
fn finds(place: &Place, arguments: &[&str], number: u64, texts: &[&str]) {
    let (ran, report) = verify(place, arguments);
    assert_eq!(ran.code, 3, "{}\n{}", ran.stdout, ran.stderr);
    assert_eq!(report["holds"], false);
    let invariant = report["invariants"].as_array().unwrap().iter().find(|i| i["number"] == number);
    let examples = invariant.unwrap()["examples"].as_array().unwrap();
    assert!(
        examples.iter().any(|example| texts.iter().all(|t| example.as_str().unwrap().contains(t))),
        "no example of invariant {number} has {texts:?}: {}",
        ran.stdout
    );
}

/// Breaks a copy of the right database by a statement.
async fn sabotage(statement: &str, number: u64, texts: &[&str]) {
    let place = Right::shared().await.place.with_copied_database().await;
    place.sql(statement).await;
    finds(&place, &[], number, texts);
}

#[tokio::test]
async fn a_right_state_with_every_outcome_and_gaps_between_offsets_holds() {
    let right = Right::shared().await;
    let place = right.place.with_copied_database().await;
    let manifest = manifest(&right.records);
    let report = holds(&place, &["--wait", "20s", "--manifest", &manifest]);
    let tally = &report["tally"];
    assert_eq!(tally["records"], 16);
    assert_eq!(tally["applied"], 10);
    assert_eq!(tally["dead_lettered"], 3);
    assert_eq!(tally["duplicates"], 3);
    assert_eq!(report["pending"], 0);
    assert_eq!(report["not_provable"], 0);

    let table = place.run("verify", &[]);
    table.succeeded();
    let verdict = table.stdout.lines().last().unwrap();
    assert_eq!(verdict, "verdict: every acknowledged event has exactly one outcome");
}

#[tokio::test]
async fn a_removed_claim_is_found() {
    let id = message_id(7).to_string();
    let statement = format!("DELETE FROM processed_messages WHERE message_id = '{id}'");
    sabotage(&statement, 1, &[&id, "has no outcome"]).await;
}

#[tokio::test]
async fn a_claim_on_a_record_that_was_never_committed_to_the_log_is_found() {
    // Before the last record are a marker and the record of the aborted transaction.
    sabotage(
        r#"INSERT INTO processed_messages
                  (message_id, "offset", batch_seq, partition, consumer_group, topic, outcome,
                   fingerprint)
           SELECT '01920000-0000-7000-8000-0000000000ff', max("offset") - 2, max(batch_seq), 0,
                  min(consumer_group), min(topic), 'applied', min(fingerprint)
             FROM processed_messages"#,
        1,
        &["01920000-0000-7000-8000-0000000000ff", "no such record"],
    )
    .await;
}

#[tokio::test]
async fn a_claim_on_a_record_of_another_message_is_found() {
    let statement = format!(
        "UPDATE processed_messages SET message_id = gen_random_uuid() WHERE message_id = '{}'",
        message_id(7)
    );
    sabotage(&statement, 1, &["the claim says message", &message_id(7).to_string()]).await;
}

#[tokio::test]
async fn a_claim_with_another_fingerprint_is_found() {
    let statement = format!(
        "UPDATE processed_messages SET fingerprint = set_byte(fingerprint, 9, 1)
          WHERE message_id = '{}' AND get_byte(fingerprint, 9) <> 1",
        message_id(7)
    );
    sabotage(&statement, 1, &["with other content", &message_id(7).to_string()]).await;
}

#[tokio::test]
async fn an_outcome_that_says_skipped_for_an_applied_event_is_found() {
    let statement = format!(
        "UPDATE processed_messages SET outcome = 'skipped' WHERE message_id = '{}'",
        message_id(7)
    );
    sabotage(&statement, 2, &[&order_id(3).to_string(), "no applied event"]).await;
}

#[tokio::test]
async fn a_doubled_total_is_found() {
    sabotage(
        "UPDATE customer_totals SET spent_cents = spent_cents * 2 WHERE customer_id = 'c-1'",
        2,
        &["customer c-1", "2700 cents", "make 2 orders and 1350 cents"],
    )
    .await;
}

#[tokio::test]
async fn a_removed_total_is_found() {
    sabotage(
        "DELETE FROM customer_totals WHERE customer_id = 'c-3'",
        2,
        &["customer c-3: no total"],
    )
    .await;
}

#[tokio::test]
async fn a_changed_amount_is_found() {
    let id = order_id(1).to_string();
    let statement = format!("UPDATE orders SET total_cents = 2251 WHERE order_id = '{id}'");
    sabotage(&statement, 2, &[&id, "total_cents is 2251, the applied events make it 2250"]).await;
}

#[tokio::test]
async fn a_changed_status_is_found() {
    let id = order_id(0).to_string();
    let statement = format!("UPDATE orders SET status = 'paid' WHERE order_id = '{id}'");
    sabotage(&statement, 2, &[&id, "status is paid, the applied events make it fulfilled"]).await;
}

#[tokio::test]
async fn changed_items_are_found() {
    let id = order_id(1).to_string();
    let statement = format!(
        r#"UPDATE orders SET items = jsonb_set(items, '{{0,sku}}', '"TEA-2"') WHERE order_id = '{id}'"#
    );
    sabotage(&statement, 2, &[&id, "items are not those"]).await;
}

#[tokio::test]
async fn a_changed_time_currency_customer_or_last_message_is_found() {
    let id = order_id(1);
    for (change, text) in [
        ("placed_at = placed_at + interval '1 microsecond'", "placed_at"),
        ("currency = 'USD'", "currency is USD, the applied events make it EUR"),
        ("customer_id = 'c-9'", "customer_id is c-9, the applied events make it c-2"),
        ("last_message_id = order_id", "last_message_id"),
    ] {
        let statement = format!("UPDATE orders SET {change} WHERE order_id = '{id}'");
        sabotage(&statement, 2, &[&id.to_string(), text]).await;
    }
}

#[tokio::test]
async fn a_removed_and_an_invented_order_are_found() {
    let id = order_id(3).to_string();
    let statement = format!("DELETE FROM orders WHERE order_id = '{id}'");
    sabotage(&statement, 2, &[&id, "it has no row"]).await;
    sabotage(
        "INSERT INTO orders
         SELECT '01930000-0000-7000-8000-0000000000ff', customer_id, status, currency, total_cents,
                items, placed_at, updated_at, last_message_id
           FROM orders LIMIT 1",
        2,
        &["01930000-0000-7000-8000-0000000000ff", "no applied event"],
    )
    .await;
}

#[tokio::test]
async fn a_position_beyond_the_log_is_found() {
    sabotage(
        "UPDATE partition_progress SET next_offset = next_offset + 100",
        3,
        &["[0]: next_offset", "beyond the log's end"],
    )
    .await;
}

#[tokio::test]
async fn a_topic_created_anew_is_told_in_words() {
    sabotage(
        "UPDATE partition_progress SET topic_id = 'another'",
        3,
        &["the topic was created anew"],
    )
    .await;
}

#[tokio::test]
async fn offsets_noted_as_lost_stay_a_violation() {
    sabotage(
        "INSERT INTO lost_ranges
                (consumer_group, topic, partition, topic_id, from_offset, to_offset)
         SELECT consumer_group, topic, partition, topic_id, 3, 5 FROM partition_progress",
        3,
        &["the offsets 3 to 4 were deleted before"],
    )
    .await;
}

#[tokio::test]
async fn a_removed_dead_letter_is_found_by_its_claim_and_by_its_copy() {
    let id = message_id(20).to_string();
    let statement = format!("DELETE FROM dead_letters WHERE message_id = '{id}'");
    sabotage(&statement, 4, &[&id, "claimed as dead-lettered, but has no row"]).await;
    sabotage(&statement, 4, &[".dlq[", "has no row in dead_letters"]).await;
}

#[tokio::test]
async fn an_invented_dead_letter_is_found() {
    let id = "01920000-0000-7000-8000-0000000000ff";
    let statement = format!(
        r#"INSERT INTO dead_letters
                  (dlq_id, consumer_group, message_id, original_id, topic, partition, "offset",
                   headers, error_class, error_code, error_message, attempts)
           SELECT '{id}', consumer_group, '{id}', '{id}', topic, partition, "offset", headers,
                  error_class, error_code, error_message, attempts
             FROM dead_letters LIMIT 1"#
    );
    sabotage(&statement, 4, &[id, "has no claim"]).await;
    sabotage(&statement, 4, &[id, "no copy in the dead letter topic"]).await;
}

#[tokio::test]
async fn a_dead_letter_with_other_bytes_is_found() {
    let id = message_id(20).to_string();
    let statement = format!("UPDATE dead_letters SET value = 'x'::bytea WHERE message_id = '{id}'");
    sabotage(&statement, 4, &[&id, "not the content that was claimed"]).await;
    sabotage(&statement, 4, &["another value than the original"]).await;
}

#[tokio::test]
async fn a_swapped_order_of_application_is_found() {
    let (one, two) = (message_id(0), message_id(2));
    let statement = format!(
        "UPDATE processed_messages AS this
            SET batch_seq = other.batch_seq
           FROM processed_messages AS other
          WHERE (this.message_id, other.message_id) IN (('{one}', '{two}'), ('{two}', '{one}'))"
    );
    sabotage(&statement, 5, &[&two.to_string(), "of key \"c-1\""]).await;
}

#[tokio::test]
async fn an_acknowledged_message_that_is_not_in_the_log_is_found() {
    let right = Right::shared().await;
    let place = right.place.with_copied_database().await;
    let beyond = Acknowledged { partition: 0, offset: 1_000 };
    for (number, at) in [(50, beyond), (51, Acknowledged { partition: 9, offset: 0 })] {
        let manifest = manifest(&[&right.records[..], &[(number, at)]].concat());
        let arguments = ["--manifest", &manifest];
        let id = message_id(number).to_string();
        finds(&place, &arguments, 1, &["manifest", &id, "no such record is in the log"]);
    }
    let elsewhere = Acknowledged { partition: 0, offset: right.offset_of(7) };
    let manifest = manifest(&[(52, elsewhere)]);
    let arguments = ["--manifest", &manifest];
    finds(&place, &arguments, 1, &["manifest", "but the record there is"]);
}

#[tokio::test]
async fn what_is_pending_is_told_and_a_violation_only_after_the_wait() {
    let Right { place, .. } = Right::prepare("pending").await;
    let at = place.publish(&[event(60, &placed(60, "c-1", 1))])[0];
    let report = holds(&place, &[]);
    assert_eq!(report["pending"], 1);
    assert!(report["verdict"].as_str().unwrap().contains("1 are not consumed yet"));
    let offset = format!("offset {}", at.offset);
    finds(&place, &["--wait", "500ms"], 1, &[&offset, "was not consumed in the time given"]);
    place.consume();
    holds(&place, &["--wait", "20s"]);

    place.sql("INSERT INTO outbox (topic, headers) VALUES ('nowhere', '[]')").await;
    assert_eq!(holds(&place, &[])["pending"], 1);
    finds(&place, &["--wait", "500ms"], 4, &["not published to nowhere in the time given"]);
}

#[test]
fn a_retry_queue_that_loses_invents_or_keeps_a_message_is_found() {
    let Right { place, .. } = wait(Right::prepare("queue"));
    wait(break_customer(&place, "c-1"));
    let at = place.publish(&[event(60, &placed(60, "c-1", 1)), event(61, &placed(61, "c-1", 1))]);
    let world = World::of(place.clone());
    let consumer = Consumer::start(&place, &PATIENT);
    eventually("both wait", || world.number("SELECT count(*) FROM retry_queue") == 2);
    consumer.stop().summary();
    assert_eq!(holds(&place, &[])["pending"], 2);
    finds(&place, &["--wait", "500ms"], 1, &["still waits for another attempt"]);

    let broken = wait(place.with_copied_database());
    wait(broken.sql("DELETE FROM retry_queue WHERE next_attempt_at IS NULL"));
    let offset = format!("offset {}", at[1].offset);
    finds(&broken, &[], 1, &[&offset, "has no outcome"]);
    let columns = "consumer_group, topic, topic_id, partition, message_id, fingerprint, headers";
    let broken = wait(place.with_copied_database());
    wait(broken.sql(&format!(
        r#"INSERT INTO retry_queue ({columns}, "offset")
               SELECT {columns}, 0 FROM retry_queue LIMIT 1"#
    )));
    finds(&broken, &[], 1, &["the retry queue has 3 messages", "only 2 of the records"]);
}

#[tokio::test]
async fn a_skipped_offset_and_a_committed_offset_ahead_are_found() {
    let Right { place, .. } = Right::prepare("skipped").await;
    let at = place.publish(&[event(60, &placed(60, "c-1", 1))])[0];
    place.commit_offset(0, at.offset + 1);
    let offset = at.offset.to_string();
    finds(&place, &[], 3, &["the committed offset", "ahead of the record at offset", &offset]);
    place.sql(&format!("UPDATE partition_progress SET next_offset = {} + 1", at.offset)).await;
    let id = message_id(60).to_string();
    finds(&place, &[], 1, &[&id, &format!("offset {offset}"), "has no outcome"]);
}

#[tokio::test]
async fn an_invented_or_altered_record_in_the_dead_letter_topic_is_found() {
    let Right { place, .. } = Right::prepare("copies").await;
    let mut invented = event(70, &placed(70, "c-1", 1));
    invented.headers.push("dlq-consumer-group", Some(place.group.as_bytes()));
    let mut of_another_group = event(71, &placed(70, "c-1", 1));
    of_another_group.headers.push("dlq-consumer-group", Some(b"another"));
    place.publish_to(&place.dlq_topic, &[of_another_group]);
    holds(&place, &[]);
    place.publish_to(&place.dlq_topic, &[invented.clone()]);
    finds(&place, &[], 4, &["a dead letter without dlq-id"]);
    invented.headers.push("dlq-id", Some(message_id(72).to_string().as_bytes()));
    place.publish_to(&place.dlq_topic, &[invented]);
    finds(&place, &[], 4, &[&message_id(72).to_string(), "has no row in dead_letters"]);
}

#[tokio::test]
async fn what_the_log_no_longer_has_is_not_provable_and_not_called_wrong() {
    let right = Right::prepare("retention").await;
    let place = &right.place;
    // The order 0 was placed before, and paid and fulfilled behind the new beginning.
    place.delete_records_before(&place.topic, 0, right.offset_of(2)).await;
    let manifest = manifest(&right.records);
    let report = holds(place, &["--manifest", &manifest]);
    // Two claims, two lines, and the orders 0 and 1 whose beginnings are gone.
    assert_eq!(report["not_provable"], 6, "{report:#}");
    assert!(report["verdict"].as_str().unwrap().contains("6 are older than the log"));
    // Sums over what the tables themselves say still have to come out right.
    place.sql("UPDATE customer_totals SET orders = orders + 1 WHERE customer_id = 'c-2'").await;
    finds(place, &[], 2, &["customer c-2"]);
}

#[tokio::test]
async fn what_cannot_be_checked_is_a_failure_and_no_verdict() {
    let right = Right::shared().await;
    let place = right.place.with_copied_database().await;
    let no_topic = Place { topic: "nowhere".to_owned(), ..place.clone() };
    let other_group = Place { group: "another".to_owned(), ..place.clone() };
    for (place, text) in
        [(no_topic, "the topic nowhere does not exist"), (other_group, "not of the group another")]
    {
        let ran = place.run("verify", &[]);
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{ran:#?}");
        assert!(ran.stderr.contains(text), "{ran:#?}");
    }
    let broken = place.run("verify", &["--manifest", "nowhere.ndjson"]);
    assert_eq!(broken.code, 1);
    assert!(broken.stderr.contains("cannot read the manifest nowhere.ndjson"), "{broken:#?}");
}

/// A manifest in which all of these were acknowledged; returns its path.
fn manifest(records: &[(u128, Acknowledged)]) -> String {
    let path = format!("{}/{}.ndjson", env!("CARGO_TARGET_TMPDIR"), unique("manifest"));
    let mut lines = String::new();
    for (number, Acknowledged { partition, offset }) in records {
        let line = serde_json::json!({
            "id": message_id(*number), "type": "order.placed", "order": null, "kind": "order",
            "partition": partition, "offset": offset, "outcome": "acknowledged",
        });
        lines.push_str(&line.to_string());
        lines.push('\n');
    }
    std::fs::write(&path, lines).unwrap();
    path
}
