//! From an order's event to a mail, or to a dead letter that says why there is none.

use std::time::Duration;

use idempotent_consumer::{Engine, EngineConfig, Headers, migrate};
use order_consumer::{OrderDecoder, OrderHandler};
use order_events::{
    Cents, Currency, CustomerId, Envelope, Item, OrderContent, OrderEvent, OrderNotification, Sku,
    StatusChange, encode,
};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::notifier::{EVERYBODY, Notifier};
use crate::support::post::Mail;
use crate::support::{World, placed, wait};

const ORDER: Uuid = Uuid::from_u128(0x0193_0000_0000_7000_8000_0000_0000_0001);

fn content(quantity: i64) -> OrderContent {
    OrderContent::new(
        ORDER,
        CustomerId::new("c-17").unwrap(),
        Currency::new("EUR").unwrap(),
        vec![Item::new(Sku::new("TEA-1").unwrap(), quantity, Cents::new(450)).unwrap()],
        sqlx::types::time::OffsetDateTime::UNIX_EPOCH,
    )
    .unwrap()
}

fn change() -> StatusChange {
    let customer_id = CustomerId::new("c-17").unwrap();
    StatusChange { order_id: ORDER, customer_id, reason: None }
}

/// Publishes events as messages numbered from 1, and lets the order handler apply them to the same
/// database, in its own schema.
async fn apply_orders(world: &World, events: &[OrderEvent]) {
    let topic = format!("{}.orders", world.topic);
    world.topics().ensure(&topic, 1).await.unwrap();
    for (number, event) in (1_u128..).zip(events) {
        let envelope = Envelope {
            id: message_id(number).to_string(),
            source: "/test".to_owned(),
            time: sqlx::types::time::OffsetDateTime::UNIX_EPOCH,
            traceparent: None,
        };
        let record = encode(event, &envelope);
        let headers: Headers = record.headers.into_iter().collect();
        world.publish(&topic, &record.key, &record.value, &headers);
    }
    let pool = PgPool::connect(&world.database_url).await.unwrap();
    migrate::apply(&pool).await.unwrap();
    let tables = include_str!("../../../migrations/orders/0001_orders.sql");
    sqlx::raw_sql(tables).execute(&pool).await.unwrap();
    let mut config = EngineConfig::new(world.settings(), &topic, format!("{topic}.group"));
    config.exit_when_idle = Some(Duration::from_secs(1));
    let handler = OrderHandler::notifying(&world.topic);
    let engine = Engine::with_decoder(config, handler, OrderDecoder::default(), pool.clone());
    engine.run(CancellationToken::new()).await.unwrap();
    let waiting: i64 =
        sqlx::query_scalar("SELECT count(*) FROM outbox").fetch_one(&pool).await.unwrap();
    assert_eq!(waiting, 0, "the outbox is empty");
}

fn message_id(number: u128) -> Uuid {
    Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0000 + number)
}

#[test]
fn each_applied_change_of_an_orders_status_is_one_mail_with_its_text() {
    let world = World::new("mails", 2);
    world.post.start();
    let events = [
        OrderEvent::Placed(content(2)),
        OrderEvent::Amended(content(3)),
        OrderEvent::Paid(change()),
        OrderEvent::Paid(change()), // another message: rejected, for the order is paid
        OrderEvent::Fulfilled(change()),
        OrderEvent::Cancelled(change()), // rejected, for it is delivered
    ];
    wait(apply_orders(&world, &events));
    let summary = Notifier::drain(&world, &EVERYBODY);
    assert_eq!(
        (summary["applied"].as_i64(), summary["dead_lettered"].as_i64()),
        (Some(3), Some(0))
    );
    let mails = world.post.mails();
    let expected = [
        (1, "We have your order", "thank you, we have your order.", "9.00 EUR"),
        (3, "Your payment has arrived", "your payment for this order has arrived.", "13.50 EUR"),
        (5, "Your order has been delivered", "your order has been delivered.", "13.50 EUR"),
    ];
    assert_eq!(mails.len(), expected.len(), "{mails:#?}");
    for ((number, subject, sentence, total), mail) in expected.into_iter().zip(&mails) {
        assert_eq!(mail.to(), "c-17@example.com");
        assert!(mail.header("from").contains("shop@tea.example"));
        assert_eq!(mail.header("x-order-id"), ORDER.to_string());
        assert_eq!(mail.header("x-message-id"), message_id(number).to_string());
        let unfolded: String =
            mail.header("subject").split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(unfolded, format!("{subject} (order {ORDER})"));
        for part in [sentence, total, "c-17", &ORDER.to_string()] {
            assert!(mail.text().contains(part), "{part}: {}", mail.text());
        }
    }
    world.assert_settled(3, 0);
}

#[test]
fn asked_for_html_a_mail_has_its_text_and_a_page_that_says_the_same() {
    let world = World::new("pages", 1);
    world.post.start();
    world.send(&placed(1, 2, "c-<b>17"));
    world.sql(
        "INSERT INTO notification_contacts (customer_id, email)
         VALUES ('c-<b>17', 'c-17@tea.example')",
    );
    Notifier::drain(&world, &["--mail-format", "html"]);
    world.send(&placed(3, 1, "c-<b>17"));
    Notifier::drain(&world, &[]);
    let mails = world.post.mails();
    assert_eq!(mails.len(), 3);
    for mail in &mails[..2] {
        let page = mail.page().unwrap();
        for part in ["thank you, we have your order.", mail.header("x-order-id"), "9.00 EUR"] {
            assert!(mail.text().contains(part), "{part}: {}", mail.text());
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(mail.text().contains("Customer: c-<b>17\r\n"), "{}", mail.text());
        assert!(page.contains("c-&lt;b&gt;17") && page.ends_with("</html>\r\n"), "{page}");
    }
    assert_eq!(mails[2].page(), None, "text is the default");
    world.assert_settled(3, 0);
}

#[test]
fn a_notification_that_comes_again_sends_nothing() {
    let world = World::new("repeats", 2);
    world.post.start();
    for _ in 0..3 {
        world.send(&placed(1, 2, "c-1"));
        Notifier::drain(&world, &EVERYBODY);
    }
    world.assert_settled(2, 0);
    assert_eq!(world.post.mails().len(), 2);
}

#[test]
fn who_cannot_be_written_to_is_a_dead_letter_and_the_others_get_their_mails() {
    let world = World::new("refused", 1);
    world.post.start();
    world.sql(
        "INSERT INTO notification_contacts (customer_id, email) VALUES
         ('c-1', 'one@tea.example'), ('c-2', 'refused-2@tea.example'), ('c-3', 'no address'),
         ('c-5', E'five@tea.example\\r\\nBcc: all@tea.example')",
    );
    let customers = ["c-1", "c-2", "c-3", "c-4", "c-5", "c-1"];
    for (number, customer) in (1..).zip(customers) {
        world.send(&placed(number, 1, customer));
    }
    Notifier::drain(&world, &[]);
    let dead = [
        ("c-2", "recipient_refused"),
        ("c-3", "invalid_recipient"),
        ("c-4", "no_recipient"),
        ("c-5", "invalid_recipient"),
    ];
    assert_eq!(world.dead_letters(), dead.map(|(key, code)| (key.to_owned(), code.to_owned())));
    let mails = world.post.mails();
    assert_eq!(mails.iter().map(Mail::to).collect::<Vec<_>>(), ["one@tea.example"; 2]);
    world.assert_settled(2, 4);
}

#[test]
fn what_is_no_notification_is_a_dead_letter() {
    let world = World::new("poison", 1);
    world.post.start();
    let good = placed(1, 1, "c-1").remove(0).encode("/test");
    let headers = |event_type: &str, id: u128| -> Headers {
        [("ce_type", event_type), ("ce_id", &message_id(id).to_string())].into_iter().collect()
    };
    let right = OrderNotification::TYPE;
    world.publish(&world.topic, b"a", b"{", &headers(right, 1));
    world.publish(&world.topic, b"b", &good.value, &headers("order.placed", 2));
    world.publish(&world.topic, b"c", &good.value, &headers(right, 3));
    world.send(&placed(9, 1, "c-1"));
    Notifier::drain(&world, &EVERYBODY);
    let dead = [("a", "invalid_json"), ("b", "unknown_type"), ("c", "key_mismatch")];
    assert_eq!(world.dead_letters(), dead.map(|(key, code)| (key.to_owned(), code.to_owned())));
    assert_eq!(world.post.mails().len(), 1);
}
