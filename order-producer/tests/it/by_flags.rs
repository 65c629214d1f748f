//! One event by flags.

use order_events::{Cents, OrderEvent, decode};
use uuid::Uuid;

use crate::murmur2::partition_of;
use crate::{assert_exit, json, json_lines, kafka, run, stderr, stdout, topic};

#[test]
fn an_order_is_acknowledged_and_lies_where_the_output_says_with_key_headers_and_content() {
    let topic = topic("order");
    let item = "TEA-1:2:450";
    let output = run(&[
        "send",
        "--customer",
        "c-17",
        "--item",
        item,
        "--item",
        "a:b:1:0",
        "--currency",
        "USD",
        "--topic",
        &topic,
        "-o",
        "json",
        "--source",
        "/shop",
    ]);
    assert_exit(&output, 0);
    let sends = json(&output);
    let send = &sends[0];
    assert_eq!(sends.as_array().unwrap().len(), 1);
    assert_eq!(send["outcome"], "acknowledged");
    assert_eq!(send["type"], "order.placed");
    assert_eq!(send["topic"], topic.as_str());

    let records = kafka::read(&topic);
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!(send["partition"], record.partition);
    assert_eq!(send["offset"], record.offset);
    assert_eq!(record.key.as_deref(), Some(&b"c-17"[..]));
    assert_eq!(record.header("ce_specversion"), Some("1.0"));
    assert_eq!(record.header("ce_id"), send["message_id"].as_str());
    assert_eq!(record.header("ce_type"), Some("order.placed"));
    assert_eq!(record.header("ce_source"), Some("/shop"));
    assert_eq!(record.header("ce_dataschema"), Some("urn:order-events:order.placed:1"));
    assert_eq!(record.header("content-type"), Some("application/json"));
    assert!(record.header("ce_time").unwrap().ends_with('Z'));
    let id: Uuid = record.header("ce_id").unwrap().parse().unwrap();
    assert_eq!(id.get_version_num(), 7);

    let OrderEvent::Placed(order) = decode(&record.view()).unwrap().event else { panic!() };
    assert_eq!(send["order_id"], order.order_id().to_string());
    assert_eq!(order.currency().as_str(), "USD");
    assert_eq!(order.items()[1].sku().as_str(), "a:b");
    assert_eq!(order.total(), Cents::new(900));
}

#[test]
fn a_key_goes_to_the_partition_that_the_java_client_chooses() {
    let topic = topic("partition");
    for customer in ["c-1", "c-2", "c-33", "customer-with-a-long-name", "!", "~~"] {
        let output = run(&[
            "pay",
            &Uuid::nil().to_string(),
            "--customer",
            customer,
            "--topic",
            &topic,
            "-o",
            "jsonl",
        ]);
        assert_exit(&output, 0);
        let send = &json_lines(&stdout(&output))[0];
        assert_eq!(send["partition"], partition_of(customer.as_bytes(), 6), "{customer}");
    }
}

#[test]
fn a_repeated_message_has_the_same_id_and_the_same_bytes_every_time() {
    let topic = topic("repeat");
    let output = run(&[
        "send",
        "--customer",
        "c-17",
        "--item",
        "TEA-1:2:450",
        "--repeat",
        "3",
        "--topic",
        &topic,
    ]);
    assert_exit(&output, 0);
    let table = stdout(&output);
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.starts_with("MESSAGE ID"), "{table}");
    let records = kafka::read(&topic);
    assert_eq!(records.len(), 3);
    for record in &records {
        assert_eq!(record.value, records[0].value);
        assert_eq!(record.headers, records[0].headers);
        assert!(table.contains(record.header("ce_id").unwrap()), "{table}");
    }
}

#[test]
fn status_events_carry_order_customer_and_reason() {
    let topic = topic("status");
    let order = Uuid::now_v7().to_string();
    for (command, event_type) in
        [("pay", "order.paid"), ("fulfill", "order.fulfilled"), ("cancel", "order.cancelled")]
    {
        let output = run(&[
            command,
            &order,
            "--customer",
            "c-17",
            "--reason",
            "it's so",
            "--topic",
            &topic,
            "-o",
            "json",
        ]);
        assert_exit(&output, 0);
        assert_eq!(json(&output)[0]["type"], event_type);
    }
    let records = kafka::read(&topic);
    let types: Vec<_> = records.iter().map(|r| r.header("ce_type").unwrap()).collect();
    assert_eq!(types, ["order.paid", "order.fulfilled", "order.cancelled"]);
    for record in &records {
        let event = decode(&record.view()).unwrap().event;
        assert_eq!(event.order_id().to_string(), order);
        let (OrderEvent::Paid(change)
        | OrderEvent::Fulfilled(change)
        | OrderEvent::Cancelled(change)) = event
        else {
            panic!()
        };
        assert_eq!(change.reason.unwrap().as_str(), "it's so");
    }
}

#[test]
fn ids_given_by_flags_are_kept() {
    let topic = topic("ids");
    let order = "0192f0c1-2d3e-7a4b-8c5d-6e7f8091a2b3";
    let args = [
        "send",
        "--customer",
        "c-17",
        "--item",
        "TEA-1:2:450",
        "--order-id",
        order,
        "--message-id",
        "web shop / 17",
        "--placed-at",
        "2026-01-03T12:00:00+02:00",
        "--topic",
        &topic,
        "-o",
        "json",
    ];
    let output = run(&args);
    assert_exit(&output, 0);
    assert_eq!(json(&output)[0]["message_id"], "web shop / 17");
    assert_eq!(json(&output)[0]["order_id"], order);
    assert_exit(&run(&args), 0);
    let records = kafka::read(&topic);
    assert_eq!(records[0].value, records[1].value, "the same flags give the same bytes");
    let expected = format!(
        r#"{{"order_id":"{order}","customer_id":"c-17","currency":"EUR","items":[{{"sku":"TEA-1","quantity":2,"unit_price_cents":450}}],"placed_at":"2026-01-03T10:00:00Z"}}"#
    );
    assert_eq!(records[0].value.as_deref(), Some(expected.as_bytes()));
}

#[test]
fn a_missing_topic_is_created_with_6_partitions() {
    let topic = topic("created");
    let args = ["send", "--customer", "c-17", "--item", "TEA-1:1:1", "--topic", &topic];
    let output = run(&args);
    assert_exit(&output, 0);
    assert!(stderr(&output).contains("created the topic"), "{}", stderr(&output));
    assert_eq!(kafka::partitions(&topic), Some(6));
    let again = run(&args);
    assert_exit(&again, 0);
    assert_eq!(stderr(&again), "");
}

#[test]
fn with_no_create_topics_a_missing_topic_is_refused_with_what_to_do() {
    let topic = topic("absent");
    let output = run(&[
        "send",
        "--customer",
        "c-17",
        "--item",
        "TEA-1:1:1",
        "--topic",
        &topic,
        "--no-create-topics",
    ]);
    assert_exit(&output, 1);
    assert!(stderr(&output).contains("leave out --no-create-topics"), "{}", stderr(&output));
    assert_eq!(kafka::partitions(&topic), None);
}
