//! `dlq list` and `dlq show`.

use serde_json::Value;

use super::{assert_says, json, poison_value, world};
use crate::support::events::{event, message_id, order_id, placed, with_id, with_value};
use crate::support::poll::wait;
use crate::support::world::World;

fn codes(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|letter| letter["error_code"].as_str().unwrap()).collect()
}

#[test]
fn dead_letters_are_listed_by_code_state_and_age() {
    let world = world("dlq_list");
    let list = json(&world, 0, "dlq", &["list"]);
    assert_eq!(codes(&list).len(), 3);
    let poison = json(&world, 0, "dlq", &["list", "--code", "invalid_field"]);
    assert_eq!(codes(&poison), ["invalid_field"]);
    assert_eq!(poison[0]["message_id"], message_id(5).to_string());
    assert_eq!((&poison[0]["key"], &poison[0]["offset"]), (&"c-1".into(), &4.into()));

    wait(world.sql(
        "UPDATE dead_letters
            SET state = 'discarded', last_failed_at = now() - interval '2 days'
          WHERE error_code = 'invalid_field'",
    ));
    assert_eq!(
        codes(&json(&world, 0, "dlq", &["list", "--state", "discarded"])),
        ["invalid_field"]
    );
    assert_eq!(codes(&json(&world, 0, "dlq", &["list", "--state", "open"])).len(), 2);
    assert_eq!(codes(&json(&world, 0, "dlq", &["list", "--since", "1d"])).len(), 2);
    assert_eq!(codes(&json(&world, 0, "dlq", &["list", "--since", "3d"])).len(), 3);
    assert_eq!(json(&world, 0, "dlq", &["list", "--code", "none"]), serde_json::json!([]));
}

#[test]
fn a_list_has_a_limit_and_says_that_there_is_more() {
    let world = world("dlq_limit");
    let ran = world.run("dlq", &["list", "--limit", "2", "-o", "jsonl"]);
    assert_eq!((ran.code, ran.stdout.lines().count()), (0, 2), "{ran:#?}");
    assert!(ran.stdout.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    assert_says(&ran.stderr, &["only the newest 2"]);
    let ran = world.run("dlq", &["list", "--limit", "3"]);
    assert_says(&ran.stdout, &["dlq id", "invalid_field", &format!("{}[0]@4", world.topic)]);
    assert_eq!(ran.stderr, "");
}

#[test]
fn one_is_shown_whole_by_dlq_id_message_id_or_its_producers_id() {
    let world = World::new("dlq_show", 1);
    let poison = with_value(event(5, &placed(1, "c-1", 1)), &poison_value());
    world.send(&[with_id(poison, Some("order-7"))]);
    world.drain(&[]);
    let listed = json(&world, 0, "dlq", &["list"]);
    let ids = ["dlq_id", "message_id"].map(|name| listed[0][name].as_str().unwrap());
    for id in [ids[0], ids[1], "order-7"] {
        let letter = json(&world, 0, "dlq", &["show", id]);
        assert_eq!(letter["dlq_id"], listed[0]["dlq_id"]);
        assert_eq!(letter["value"], String::from_utf8(poison_value()).unwrap());
        let headers = letter["headers"].as_array().unwrap();
        assert!(headers.contains(&serde_json::json!({"name": "ce_id", "value": "order-7"})));
    }
    let text = world.run("dlq", &["show", "order-7"]).stdout;
    assert_says(
        &text,
        &["invalid_field (permanent)", "ce_id: order-7", "without being tried", "what to do"],
    );
    assert_says(&text, &[&format!("order-consumer show {}", order_id(1))]);
}

#[test]
fn bytes_that_are_no_text_come_as_they_are_with_raw_and_as_base64_in_json() {
    let world = World::new("dlq_bytes", 1);
    let noise: Vec<u8> = (0..=255).cycle().take(1000).collect();
    world.send(&[with_value(event(1, &placed(1, "c-1", 1)), &noise)]);
    world.drain(&[]);
    let id = message_id(1).to_string();
    let raw = world.command("dlq", &["show", &id, "--raw"]).output().unwrap();
    assert_eq!((raw.status.code(), raw.stdout), (Some(0), noise));
    let letter = json(&world, 0, "dlq", &["show", &id]);
    assert!(letter["value_base64"].as_str().unwrap().starts_with("AAECAwQF"));
    assert_eq!((&letter["value"], &letter["value_bytes"]), (&Value::Null, &1000.into()));
    let text = world.run("dlq", &["show", &id]).stdout;
    assert_says(&text, &["value: 1000 bytes", "000010  10 11 12", "… cut", "--raw"]);
}

#[test]
fn a_conflict_leads_to_the_message_that_was_first() {
    let world = world("dlq_conflict");
    let letter = json(&world, 0, "dlq", &["show", &message_id(1).to_string()]);
    assert_eq!(letter["error_code"], "id_conflict");
    let text = world.run("dlq", &["show", letter["dlq_id"].as_str().unwrap()]).stdout;
    assert_says(&text, &[&format!("order-consumer show {}", message_id(1)), "under a new id"]);
}

#[test]
fn several_with_one_id_are_named_to_choose_from() {
    let world = World::new("dlq_several", 1);
    world.send(&[1, 2, 3].map(|quantity| event(1, &placed(quantity, "c-1", 1))));
    world.drain(&[]);
    let ran = world.run("dlq", &["show", &message_id(1).to_string()]);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
    assert_eq!(ran.stderr.matches("id_conflict").count(), 2, "{}", ran.stderr);
}

#[test]
fn an_unknown_id_is_a_failure_and_a_wrong_option_is_wrong_use() {
    let world = World::new("dlq_unknown", 1);
    let ran = world.run("dlq", &["show", &message_id(1).to_string()]);
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
    assert_says(&ran.stderr, &["no dead letter of group"]);
    for wrong in [["list", "--since", "soon"], ["list", "--limit", "0"], ["list", "--state", "x"]] {
        assert_eq!(world.run("dlq", &wrong).code, 2, "{wrong:?}");
    }
    let ran = world.run("dlq", &["list"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (0, "no dead letters\n"));
}
