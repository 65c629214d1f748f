//! The SMTP server is away, slow, or puts a mail off.

use local_stack::{Options, Stack};
use order_events::Status;

use crate::support::notifier::{EVERYBODY, Notifier};
use crate::support::{World, eventually, notification, placed};

fn everybody(customers: u128) -> Vec<order_events::OrderNotification> {
    (0..20).flat_map(|n| placed(n, 1, &format!("c-{}", n % customers))).collect()
}

#[test]
fn a_server_that_is_away_is_waited_for_and_nothing_is_lost_doubled_or_dead() {
    let world = World::new("away", 3);
    let notifier = Notifier::start(&world, &[&EVERYBODY[..], &["--max-attempts", "2"]].concat());
    world.send(&everybody(7));
    eventually("it says for whom it waits", || {
        notifier.log().contains(&format!("waiting: SMTP server {}", world.post.place()))
    });
    let tried = || notifier.mails("server_away");
    // Each of the three partitions more often than a message may be.
    eventually("it tries again and again", || tried() >= 12);
    assert_eq!((world.claims(), world.number("SELECT count(*) FROM retry_queue")), (0, 0));

    world.post.start();
    eventually("all are sent", || world.claims() == 20);
    world.post.stop();
    let before = tried();
    world.send(&placed(100, 10, "c-1"));
    eventually("it tries again and again", || tried() >= before + 4);
    assert_eq!(world.claims(), 20);
    world.post.start();
    eventually("these as well", || world.claims() == 30);
    notifier.stop();
    world.assert_settled(30, 0);
    let mut ids = world.post.message_ids();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((world.post.mails().len(), ids.len()), (30, 30));
}

#[test]
fn a_mail_that_is_put_off_waits_with_those_behind_it_of_its_customer_and_others_go_on() {
    let world = World::new("later", 1);
    world.post.start();
    let later = |number, status| notification(number, "later-1", status);
    world.send(&[later(1, Status::Placed)]);
    world.send(&placed(2, 3, "c-1"));
    world.send(&[later(1, Status::Paid)].map(|paid| order_events::OrderNotification {
        message_id: uuid::Uuid::from_u128(7),
        ..paid
    }));
    let notifier = Notifier::start(&world, &EVERYBODY);
    eventually("the others are sent", || world.claims() == 3);
    eventually("both wait", || world.number("SELECT count(*) FROM retry_queue") == 2);
    world.post.open();
    eventually("they are sent", || world.claims() == 5);
    notifier.stop();
    world.assert_settled(5, 0);
    let subjects: Vec<String> = world
        .post
        .mails()
        .iter()
        .filter(|mail| mail.to() == "later-1@example.com")
        .map(|mail| mail.header("subject").split(" (").next().unwrap().to_owned())
        .collect();
    assert_eq!(subjects, ["We have your order", "Your payment has arrived"]);
}

#[test]
fn a_mail_that_was_taken_without_an_answer_is_sent_again_under_the_same_message_id() {
    let world = World::new("slow", 1);
    world.post.start();
    world.send(&placed(1, 1, "slow-1"));
    // The second one may take longer than a second by itself.
    let impatient = ["--smtp-timeout", "1s", "--max-attempts", "20"];
    Notifier::drain(&world, &[&EVERYBODY[..], &impatient].concat());
    world.assert_settled(1, 0);
    let ids = world.post.message_ids();
    assert!(ids.len() >= 2 && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[test]
fn a_mail_that_is_put_off_for_too_long_is_a_dead_letter() {
    let world = World::new("too_long", 1);
    world.post.start();
    world.send(&placed(1, 1, "later-1"));
    world.send(&placed(2, 1, "c-1"));
    Notifier::drain(&world, &[&EVERYBODY[..], &["--max-attempts", "3"]].concat());
    world.assert_settled(1, 1);
    assert_eq!(world.dead_letters(), [("later-1".to_owned(), "retries_exhausted".to_owned())]);
}

/// While it cannot make sure that the topic is still the same, a mail would be sent and never committed.
#[test]
fn while_the_broker_is_away_no_mail_is_sent_and_behind_that_each_is_sent_once() {
    let stack = Stack::start(Options::private("broker-away")).unwrap();
    let world = World::on(stack.endpoints(), "broker_away", 2);
    world.post.start();
    let all: Vec<_> = (0..40).flat_map(|n| placed(n * 10, 10, &format!("c-{n}"))).collect();
    world.send(&all);
    // It keeps its partitions, and what it has read of them.
    let patient = ["-X", "session.timeout.ms=60000"];
    let notifier = Notifier::start(&world, &[&EVERYBODY[..], &patient].concat());
    eventually("it is at work", || world.claims() >= 20);
    stack.kafka().kill();
    eventually("it waits for the broker", || notifier.log().contains("waiting: kafka: "));
    let failed = "idempotent_consumer_infrastructure_failures_total";
    let failures = || notifier.metric(failed).unwrap_or(0);
    let before = failures();
    eventually("it tries again", || failures() >= before + 2);
    assert!(world.claims() < 400, "there was work left");
    stack.kafka().start().unwrap();
    eventually("all are sent", || world.claims() == 400);
    notifier.stop();
    world.assert_settled(400, 0);
    let mut ids = world.post.message_ids();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((world.post.mails().len(), ids.len()), (400, 400));
}
