//! The order handler against the library's test kit: whatever orders do, in whatever batches.

use idempotent_consumer::test_kit;
use idempotent_consumer::{Answer, Message, migrate};
use order_consumer::OrderHandler;
use order_events::{
    Cents, Currency, CustomerId, Item, OrderContent, OrderEvent, Sku, StatusChange,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use sqlx::PgPool;
use uuid::Uuid;

/// Two of the orders that events are about, as two events would leave them.
const SOME_ORDERS: &str = r#"
    INSERT INTO orders (order_id, customer_id, status, currency, total_cents, items, placed_at, last_message_id)
    SELECT ('00000000-0000-0000-0000-00000000000' || n)::uuid, 'c-0', status, 'EUR', 450,
           '[{"sku": "TEA-1", "quantity": 1, "unit_price_cents": 450}]', '2026-01-03 10:00Z',
           gen_random_uuid()
      FROM (VALUES (1, 'placed'), (2, 'paid')) AS one (n, status);
    INSERT INTO customer_totals VALUES ('c-0', 'EUR', 2, 900);
"#;

/// Few orders and customers, so that events meet.
fn events() -> impl Strategy<Value = OrderEvent> {
    let ids = (0_u128..6, 0_u8..2);
    let content = (ids.clone(), 1_i64..4, prop_oneof![Just("EUR"), Just("JPY")]).prop_map(
        |((order, customer), quantity, currency)| {
            OrderContent::new(
                Uuid::from_u128(order),
                CustomerId::new(&format!("c-{customer}")).unwrap(),
                Currency::new(currency).unwrap(),
                vec![Item::new(Sku::new("TEA-1").unwrap(), quantity, Cents::new(450)).unwrap()],
                time::macros::datetime!(2026-01-03 10:00 UTC),
            )
            .unwrap()
        },
    );
    let change = ids.prop_map(|(order, customer)| StatusChange {
        order_id: Uuid::from_u128(order),
        customer_id: CustomerId::new(&format!("c-{customer}")).unwrap(),
        reason: None,
    });
    prop_oneof![
        3 => content.clone().prop_map(OrderEvent::Placed),
        2 => content.prop_map(OrderEvent::Amended),
        2 => change.clone().prop_map(OrderEvent::Paid),
        1 => change.clone().prop_map(OrderEvent::Fulfilled),
        2 => change.prop_map(OrderEvent::Cancelled),
    ]
}

#[tokio::test]
async fn the_order_handler_keeps_the_contract_whatever_orders_do() {
    let database = format!("handler_{}", Uuid::new_v4().simple());
    let url = tokio::task::spawn_blocking(move || {
        local_stack::shared().create_database(&database).unwrap()
    })
    .await
    .unwrap();
    let pool = PgPool::connect(&url).await.unwrap();
    migrate::apply(&pool).await.unwrap();
    sqlx::raw_sql(include_str!("../../../migrations/orders/0001_orders.sql"))
        .execute(&pool)
        .await
        .unwrap();
    let mut runner = TestRunner::deterministic();
    let handler = OrderHandler::notifying("told");
    let (mut applied, mut rejected) = (0, 0);
    for round in 0..60 {
        if round == 20 {
            // From now on some of the orders are there already, which costs the first attempt.
            sqlx::raw_sql(sqlx::AssertSqlSafe(SOME_ORDERS)).execute(&pool).await.unwrap();
        }
        let batch = prop::collection::vec(events(), 1..80).new_tree(&mut runner).unwrap().current();
        let messages: Vec<Message<OrderEvent>> = batch
            .into_iter()
            .zip(1_u128..)
            .map(|(event, id)| test_kit::message(Uuid::from_u128(id), event))
            .collect();
        let answers = test_kit::check(&handler, &pool, &messages).await.unwrap();
        for answer in answers {
            match answer {
                Answer::Applied => applied += 1,
                Answer::Rejected(..) => rejected += 1,
                Answer::Retry(reason) => panic!("{reason}"),
            }
        }
    }
    assert!(applied > 100 && rejected > 100, "both happen: {applied} and {rejected}");
}
