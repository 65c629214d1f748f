//! The gateway as a database user that has its role and nothing else.

use uuid::Uuid;

use super::client::request;
use super::effects::{audit, consume, path};
use super::server::{Place, Server, tea};
use crate::{assert_exit, eventually, topic};

/// The same place as a new user of the database that has the gateway's role.
fn as_producer(place: &Place) -> Place {
    let user = topic("user").replace('-', "_");
    place.sql(&format!(
        "CREATE ROLE {user} LOGIN PASSWORD 'secret'; GRANT order_pipeline_producer TO {user}"
    ));
    let (_, address) = place.database_url.split_once('@').unwrap();
    Place {
        servers: place.servers.clone(),
        database_url: format!("postgres://{user}:secret@{address}"),
        topic: place.topic.clone(),
    }
}

#[test]
fn a_gateway_does_all_its_work_under_its_role() {
    let owner = Place::new("roles");
    let place = as_producer(&owner);
    let made = place.command(&["keys", "create", "--client", "shop"]).output().unwrap();
    assert_exit(&made, 0);
    let key = String::from_utf8(made.stdout).unwrap();
    let bearer = format!("Bearer {}", key.trim());
    let server = Server::with(&place, &[]);
    let ask = |method, path: &str| {
        request(method, path).header("authorization", &bearer).key(path).send(&server.address)
    };
    let place_order = || {
        let order = request("POST", "/v1/orders").header("authorization", &bearer).key("first");
        order.json(&tea("c-1", 2)).send(&server.address).expect(201).json()
    };
    let order = place_order();
    assert_eq!(place_order()["order_id"], order["order_id"]);
    ask("POST", &format!("{}/pay", path(&order))).expect(202);
    ask("DELETE", &path(&order)).expect(202);
    ask("GET", "/v1/orders?customer_id=c-1").expect(200);
    owner.wait_published();
    assert_eq!(consume(&owner).applied, 3);
    assert_eq!(ask("GET", &path(&order)).expect(200).json()["state"], "cancelled");
    // An order that only the consumer knows is taken over.
    let id = Uuid::now_v7().to_string();
    let send = ["send", "--customer", "c-2", "--item", "TEA-1:1:450", "--order-id", &id];
    assert_exit(&owner.command(&send).output().unwrap(), 0);
    assert_eq!(consume(&owner).applied, 1);
    ask("POST", &format!("/v1/orders/{id}/pay")).expect(202);
    owner.wait_published();
    assert_eq!(consume(&owner).applied, 1);
    assert!(audit(&owner).holds());

    // A redrive that Kafka refuses: the gateway's relay opens its dead letter again, on which it has no
    // right of its own.
    owner.sql(
        "INSERT INTO dead_letters (dlq_id, consumer_group, message_id, original_id, topic, partition,
                                   \"offset\", headers, error_class, error_code, error_message,
                                   attempts, state, redrive_count)
         SELECT id, 'g', id, id, 't', 0, 0, '[]', 'permanent', 'x', 'x', 1, 'redriven', 1
           FROM gen_random_uuid() AS id;
         INSERT INTO outbox (topic, partition, headers, redrive_of)
         SELECT 'no such topic!', 0, '[]', dlq_id FROM dead_letters",
    );
    eventually("the dead letter is open again", || {
        owner.number("SELECT count(*) FROM dead_letters WHERE state = 'open' AND redrive_count = 0")
            == 1
    });
    let (code, log) = server.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("permission denied"), "{log}");
    let listed = place.command(&["keys", "list"]).output().unwrap();
    assert!(String::from_utf8(listed.stdout).unwrap().contains("shop"));
}

#[test]
fn a_gateways_user_neither_reads_nor_writes_what_is_the_consumers() {
    let owner = Place::new("roles-denied");
    let place = as_producer(&owner);
    for table in ["processed_messages", "dead_letters", "retry_queue", "customer_totals"] {
        for statement in [
            format!("SELECT FROM {table}"),
            format!("INSERT INTO {table} DEFAULT VALUES"),
            format!("DELETE FROM {table}"),
        ] {
            assert_eq!(place.refusal(&statement).as_deref(), Some("42501"), "{statement}");
        }
    }
    for statement in [
        "UPDATE orders SET total_cents = 0",
        "INSERT INTO outbox (topic, headers, redrive_of) VALUES ('t', '[]', gen_random_uuid())",
        "UPDATE outbox SET topic = 'other'",
        "SELECT exchange_claim_year(2030, true)",
        "DELETE FROM accepted_orders",
        "CREATE TABLE mine ()",
    ] {
        assert_eq!(place.refusal(statement).as_deref(), Some("42501"), "{statement}");
    }
    assert_eq!(place.refusal("SELECT FROM message_outcomes"), None);
}
