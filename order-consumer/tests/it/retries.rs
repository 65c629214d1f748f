//! Orders that fail for now: they wait with their customer's others, and everybody sees them.

use serde_json::{Value, json};

use crate::support::broken::{PATIENT, break_customer, mend_customer};
use crate::support::consumer::Consumer;
use crate::support::events::{event, message_id, order_id, placed};
use crate::support::poll::{eventually, wait};
use crate::support::stacks::{QUICK, quick};
use crate::support::world::{World, customer, orders};

fn jsonl(world: &World, command: &str, arguments: &[&str]) -> Value {
    let ran = world.run(command, &[arguments, &["-o", "json"]].concat());
    assert_eq!(ran.code, 0, "{ran:#?}");
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn orders_that_fail_for_now_wait_and_are_applied_in_their_order_once_they_can_be() {
    let world = World::new("later", 2);
    wait(break_customer(&world, &customer(3)));
    world.send(&orders(0, 60, 6));
    let consumer = Consumer::start(&world, &PATIENT);
    world.wait_consumed();
    assert_eq!(world.claims(), 50, "the other five customers' orders");

    let status = jsonl(&world, "status", &[]);
    let queue = &status["retry_queue"];
    assert_eq!((&queue["messages"], &queue["heads"]), (&json!(10), &json!(1)), "{status:#}");
    let text = world.run("status", &[]).stdout;
    assert!(text.contains("to be tried again: 1, and 9 behind them"), "{text}");
    let heads = jsonl(&world, "retries", &["list"]);
    let head = &heads[0];
    assert_eq!(
        (&head["key"], &head["behind"], &head["attempts"]),
        (&json!("c-3"), &json!(9), &json!(1))
    );
    assert_eq!(head["error_code"], "sqlstate_57014");
    let story = jsonl(&world, "show", &[&order_id(3).to_string()]);
    assert_eq!(story["records"][0]["outcome"], "waiting", "{story:#}");
    let story = world.run("show", &[&message_id(9).to_string()]).stdout;
    assert!(story.contains("waits behind another message of its key"), "{story}");
    // Beside a working consumer, what waits is no violation.
    let report = jsonl(&world, "verify", &[]);
    assert_eq!(
        (&report["holds"], &report["tally"]["waiting"]),
        (&json!(true), &json!(10)),
        "{report:#}"
    );

    // One is given up, the others go on once they can.
    let ran = world.run("retries", &["dead-letter", "--id", &message_id(3).to_string()]);
    assert!(ran.stdout.contains("1 message left the retry queue"), "{ran:#?}");
    eventually("the next of the key has been tried", || {
        jsonl(&world, "retries", &["list"])[0]["message_id"] == json!(message_id(9))
            && world.number("SELECT max(attempts)::bigint FROM retry_queue") == 1
    });
    wait(mend_customer(&world));
    world.run("retries", &["now", "--key", "c-3"]).succeeded();
    eventually("nothing waits", || world.number("SELECT count(*) FROM retry_queue") == 0);
    consumer.stop().summary();
    assert_eq!(world.dead_letter_codes(), ["given_up"]);
    assert_eq!(world.claims(), 60);
    world.audit();
}

#[test]
fn what_waits_survives_a_kill_and_its_attempts_are_counted_on() {
    let world = World::on(quick(), "killed", 1);
    wait(break_customer(&world, &customer(0)));
    world.send(&orders(0, 20, 2));
    let soon =
        ["--retry-backoff", "300ms", "--retry-backoff-max", "300ms", "--max-attempts", "1000"];
    let arguments = [&QUICK[..], &soon].concat();
    let mut attempts = 0;
    for _ in 0..3 {
        let consumer = Consumer::start(&world, &arguments);
        let before = attempts;
        eventually("another attempt", || {
            let now = world.number("SELECT coalesce(max(attempts), 0)::bigint FROM retry_queue");
            assert!(now >= attempts, "{now} attempts behind {attempts}");
            attempts = now;
            now > before
        });
        consumer.sigkill();
    }
    wait(mend_customer(&world));
    world.drain(&arguments);
    assert_eq!(world.number("SELECT count(*) FROM retry_queue"), 0);
    assert_eq!(world.dead_letter_codes(), [""; 0]);
    assert_eq!(world.claims(), 20);
    world.audit();
}

#[test]
fn a_small_batch_finds_its_keys_among_many_that_wait() {
    let world = World::new("among_many", 1);
    wait(break_customer(&world, "c-%"));
    world.send(&orders(0, 40, 40));
    let consumer = Consumer::start(&world, &PATIENT);
    world.wait_consumed();
    consumer.stop().summary();
    assert_eq!(world.number("SELECT count(*) FROM retry_queue"), 40);
    wait(mend_customer(&world));
    // Twenty of customers with nothing in the queue, and forty of those with something.
    world.send(&orders(40, 60, 60));
    let consumer = Consumer::start(&world, &[&PATIENT[..], &["--batch-size", "3"]].concat());
    world.wait_consumed();
    assert_eq!((world.claims(), world.number("SELECT count(*) FROM retry_queue")), (20, 80));
    world.run("retries", &["now", "--all"]).succeeded();
    eventually("nothing waits", || world.number("SELECT count(*) FROM retry_queue") == 0);
    consumer.stop().summary();
    assert_eq!(world.claims(), 100);
    world.audit();
}

#[test]
fn a_message_read_again_while_it_waits_is_neither_applied_nor_queued_twice() {
    let world = World::new("again", 1);
    wait(break_customer(&world, &customer(0)));
    world.send(&orders(0, 10, 2));
    // Neither key: nothing else tells that they are in the queue but their places.
    let consumer = Consumer::start(&world, &PATIENT);
    world.wait_consumed();
    consumer.stop().summary();
    wait(mend_customer(&world));
    // Kafka's offset is behind: everything is read again.
    world.commit_offset(0, 0);
    let consumer = Consumer::start(&world, &PATIENT);
    eventually("all were read again", || {
        world.number("SELECT sum(duplicates)::bigint FROM partition_progress") == 10
    });
    assert_eq!(world.number("SELECT count(*) FROM retry_queue"), 5);
    assert_eq!(world.claims(), 5);
    world.run("retries", &["now", "--all"]).succeeded();
    eventually("nothing waits", || world.number("SELECT count(*) FROM retry_queue") == 0);
    consumer.stop().summary();
    assert_eq!((world.claims(), world.cents(&customer(0))), (10, world.cents(&customer(1))));
    world.audit();
}

#[test]
fn the_commands_say_what_they_did_not_find_and_change_nothing_on_a_dry_run() {
    let world = World::new("dry", 1);
    wait(break_customer(&world, &customer(0)));
    world.send(&[event(1, &placed(1, &customer(0), 1))]);
    let ran = world.run("retries", &["now", "--all"]);
    assert!(ran.code == 0 && ran.stderr.contains("no such message waits"), "{ran:#?}");
    let consumer = Consumer::start(&world, &PATIENT);
    world.wait_consumed();
    for command in ["now", "dead-letter"] {
        let ran = world.run("retries", &[command, "--all", "--dry-run"]);
        assert_eq!(ran.stdout.trim(), message_id(1).to_string(), "{ran:#?}");
    }
    assert_eq!(world.run("retries", &["now"]).code, 2, "which ones has to be said");
    consumer.stop().summary();
    assert_eq!(world.number("SELECT count(*) FROM retry_queue WHERE given_up_by IS NULL"), 1);
    wait(mend_customer(&world));
    world.run("retries", &["now", "--all"]).succeeded();
    world.drain(&[]);
    assert_eq!(world.claims(), 1);
    world.audit();
}

#[test]
fn what_waited_when_the_topic_was_created_anew_goes_first_and_is_not_called_wrong() {
    let world = World::new("waited", 1);
    wait(break_customer(&world, &customer(0)));
    world.send(&orders(0, 6, 2));
    let consumer = Consumer::start(&world, &PATIENT);
    world.wait_consumed();
    assert_eq!(consumer.stop().code, Some(0));
    world.delete_topic(&world.topic);
    world.create_topic_with(&world.topic, 1, &[]);
    // Its records lie at the same offsets as those that wait.
    let anew = World::of(world.place.clone());
    anew.send(&orders(100, 6, 2));
    anew.run("accept", &[]).succeeded();
    let consumer = Consumer::start(&anew, &PATIENT);
    anew.wait_consumed();
    assert_eq!(anew.number("SELECT count(*) FROM retry_queue"), 6);
    assert_eq!(anew.claims(), 6);
    let report = jsonl(&anew, "verify", &[]);
    assert_eq!(report["tally"]["waiting"], 3, "{report:#}");
    wait(mend_customer(&anew));
    anew.run("retries", &["now", "--all"]).succeeded();
    eventually("nothing waits", || anew.number("SELECT count(*) FROM retry_queue") == 0);
    consumer.stop().summary();
    assert_eq!((anew.claims(), anew.cents(&customer(0))), (12, anew.cents(&customer(1))));
    anew.audit();
}
