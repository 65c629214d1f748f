//! The orders' commands on the tables of the mails.

use crate::support::notifier::{Notifier, order_consumer};
use crate::support::{World, placed};

/// As `docs/notifications.md` has it: the orders' command on the schema of the mails.
#[test]
fn a_mail_without_an_address_is_sent_once_there_is_one_and_its_message_is_redriven() {
    let world = World::new("redriven", 1);
    world.post.start();
    world.send(&placed(1, 2, "c-1"));
    Notifier::drain(&world, &[]);
    world.assert_settled(0, 2);
    world.sql(
        "INSERT INTO notification_contacts (customer_id, email) VALUES ('c-1', 'one@tea.example')",
    );

    let of_orders = |command: &str, arguments: &[&str], options: &str| {
        let url = format!("{}{options}", world.database_url);
        let mut program = world.command_of(&order_consumer(), command, arguments);
        program
            .env("DATABASE_URL", url)
            .env("ORDERS_TOPIC", &world.topic)
            .env("ORDERS_DLQ_TOPIC", format!("{}.dlq", world.topic))
            .env("CONSUMER_GROUP", &world.group);
        let output = program.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    of_orders("migrate", &[], "");
    let schema = "?options[search_path]=notifications,public";
    let listed = of_orders("dlq", &["list", "-o", "jsonl"], schema);
    assert_eq!(listed.lines().count(), 2, "{listed}");
    assert!(listed.lines().all(|line| line.contains("no_recipient")), "{listed}");
    of_orders("dlq", &["redrive", "--code", "no_recipient"], schema);
    Notifier::drain(&world, &[]);
    world.assert_settled(2, 0);
    assert_eq!(world.post.message_ids().len(), 2);
    of_orders("status", &[], schema);
}
