//! The orders: made, sent, and read again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use futures_util::future::try_join_all;
use rdkafka::message::{BorrowedMessage, Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub(crate) const PARTITIONS: i32 = 2;
/// Few, so that each has later messages behind one that is held up.
pub(crate) const CUSTOMERS: i64 = 4;

/// The value of a record, as JSON.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Body {
    pub(crate) order_id: Uuid,
    pub(crate) customer_id: String,
    /// Counted by the producer for each customer, from 1.
    pub(crate) number: i64,
    pub(crate) amount_cents: i64,
}

/// An order as it came from Kafka.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) message_id: String,
    pub(crate) body: Body,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

/// A record that is no order.
#[derive(Clone, Debug)]
pub(crate) struct Poison {
    pub(crate) value: Vec<u8>,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

/// Reads a record.
pub(crate) fn read(message: &BorrowedMessage<'_>) -> Result<Order, Poison> {
    let (partition, offset) = (message.partition(), message.offset());
    let value = message.payload().unwrap_or_default();
    let id = message
        .headers()
        .and_then(|headers| headers.iter().find(|header| header.key == "ce_id"))
        .and_then(|header| std::str::from_utf8(header.value?).ok());
    match (id, serde_json::from_slice(value)) {
        (Some(id), Ok(body)) => Ok(Order { message_id: id.to_owned(), body, partition, offset }),
        _ => Err(Poison { value: value.to_vec(), partition, offset }),
    }
}

/// A record to send.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) message_id: Uuid,
    /// `None`: garbage.
    pub(crate) body: Option<Body>,
    pub(crate) partition: i32,
    /// Microseconds since 1970, once it is sent.
    pub(crate) sent_us: i64,
}

/// Makes order after order, customers in turn.
#[derive(Default)]
pub(crate) struct Orders {
    made: i64,
}

impl Orders {
    pub(crate) fn take(&mut self, count: u64) -> Vec<Outgoing> {
        (0..count).map(|_| self.make()).collect()
    }

    fn make(&mut self) -> Outgoing {
        let customer = self.made % CUSTOMERS;
        let body = Body {
            order_id: Uuid::now_v7(),
            customer_id: format!("c-{customer}"),
            number: self.made / CUSTOMERS + 1,
            amount_cents: 100 + self.made % 997,
        };
        self.made += 1;
        Outgoing {
            message_id: Uuid::now_v7(),
            body: Some(body),
            // A customer's orders are in one partition.
            partition: i32::from(customer % 2 != 0),
            sent_us: 0,
        }
    }

    /// What cannot be read.
    pub(crate) fn garbage() -> Outgoing {
        Outgoing { message_id: Uuid::now_v7(), body: None, partition: 0, sent_us: 0 }
    }
}

/// Every fifth message again right behind itself, every seventh again at the end.
pub(crate) fn with_duplicates(messages: &[Outgoing]) -> Vec<Outgoing> {
    let mut all = Vec::with_capacity(messages.len() * 3 / 2);
    for (at, message) in messages.iter().enumerate() {
        all.push(message.clone());
        if at % 5 == 0 {
            all.push(message.clone());
        }
    }
    all.extend(messages.iter().step_by(7).cloned());
    all
}

/// Sends them in their order and waits for the acknowledgements.
pub(crate) async fn send(
    producer: &FutureProducer,
    topic: &str,
    messages: &mut [Outgoing],
) -> anyhow::Result<()> {
    for some in messages.chunks_mut(5_000) {
        let mut sends = Vec::with_capacity(some.len());
        for message in some {
            message.sent_us = now_us();
            sends.push(send_one(producer, topic, message));
        }
        try_join_all(sends).await?;
    }
    Ok(())
}

/// Sends them one by one with a pause behind each.
pub(crate) async fn trickle(
    producer: &FutureProducer,
    topic: &str,
    messages: &mut [Outgoing],
    pause: Duration,
) -> anyhow::Result<()> {
    let mut ticks = tokio::time::interval(pause);
    for message in messages {
        ticks.tick().await;
        message.sent_us = now_us();
        send_one(producer, topic, message).await?;
    }
    Ok(())
}

async fn send_one(
    producer: &FutureProducer,
    topic: &str,
    message: &Outgoing,
) -> anyhow::Result<()> {
    let value = match &message.body {
        Some(body) => serde_json::to_vec(body)?,
        None => b"{ no order".to_vec(),
    };
    let id = message.message_id.to_string();
    let key = message.body.as_ref().map_or("c-0", |body| &body.customer_id);
    let headers = OwnedHeaders::new().insert(Header { key: "ce_id", value: Some(&id) });
    let record = FutureRecord::to(topic)
        .partition(message.partition)
        .key(key)
        .payload(&value)
        .headers(headers);
    let sent = producer.send(record, Duration::from_secs(30)).await;
    sent.map_err(|(error, _)| error).context("Kafka took no order")?;
    Ok(())
}

fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_customers_orders_are_numbered_and_in_one_partition() {
        let orders = Orders::default().take(40);
        for customer in 0..CUSTOMERS {
            let name = format!("c-{customer}");
            let of_it =
                orders.iter().filter_map(|order| Some((order.partition, order.body.as_ref()?)));
            let of_it: Vec<_> = of_it.filter(|(_, body)| body.customer_id == name).collect();
            assert!(of_it.iter().all(|(partition, _)| *partition == of_it[0].0));
            assert!((1..).zip(&of_it).all(|(number, (_, body))| body.number == number));
        }
    }

    #[test]
    fn duplicates_keep_their_id_and_come_at_once_and_at_the_end() {
        let orders = Orders::default().take(20);
        let all = with_duplicates(&orders);
        assert_eq!(all.len(), 20 + 4 + 3);
        assert_eq!(all[0].message_id, all[1].message_id);
        assert_eq!(all[24].message_id, all[0].message_id);
    }
}
