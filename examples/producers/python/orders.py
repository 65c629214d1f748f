"""Places orders, the first of them twice, and lists what Kafka acknowledged as lines for
`order-consumer verify --manifest`."""

import argparse
import json
import os
import uuid
from datetime import datetime, timezone

SERVERS = os.environ["KAFKA_BOOTSTRAP_SERVERS"]
TOPIC = os.environ["ORDERS_TOPIC"]


def placed(customer, message_id, args):
    """Key, value and headers of an order."""
    value = {
        "order_id": str(uuid.uuid4()),
        "customer_id": customer,
        "currency": "EUR",
        "items": [{"sku": "TEA-1", "quantity": 1, "unit_price_cents": 450}],
        "placed_at": datetime.now(timezone.utc).isoformat(),
    }
    headers = {
        args.id_header: message_id,
        "ce_type": "order.placed",
        # An id that is no UUID counts together with its source.
        "ce_source": "/python-service/" + args.client,
        "ce_specversion": "1.0",
        "content-type": "application/json",
    }
    # The key is the customer: their events keep their order.
    return (
        customer.encode(),
        json.dumps(value).encode(),
        [(name, text.encode()) for name, text in headers.items()],
    )


def acknowledged(message_id, partition, offset):
    line = {"id": message_id, "partition": partition, "offset": offset, "outcome": "acknowledged"}
    print(json.dumps(line))


def send_by_confluent_kafka(messages, args):
    from confluent_kafka import KafkaException, Producer

    producer = Producer(
        {
            "bootstrap.servers": SERVERS,
            "enable.idempotence": True,
            # librdkafka's own default, consistent_random, puts keys into other partitions.
            "partitioner": args.partitioner,
        }
    )

    def end_of(message_id):
        def end(error, record):
            if error is not None:
                raise KafkaException(error)
            acknowledged(message_id, record.partition(), record.offset())

        return end

    for message_id, (key, value, headers) in messages:
        producer.produce(TOPIC, value, key, headers=headers, on_delivery=end_of(message_id))
        producer.poll(0)
    producer.flush()


def send_by_kafka_python(messages, _args):
    from kafka import KafkaProducer

    # Partitions by murmur2 of the key by default, as the Java client does.
    producer = KafkaProducer(bootstrap_servers=SERVERS, enable_idempotence=True, acks="all")
    sent = [
        (message_id, producer.send(TOPIC, value, key, headers=headers))
        for message_id, (key, value, headers) in messages
    ]
    for message_id, end in sent:
        at = end.get(timeout=30)
        acknowledged(message_id, at.partition, at.offset)
    producer.close()


CLIENTS = {"confluent-kafka": send_by_confluent_kafka, "kafka-python": send_by_kafka_python}

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("client", choices=CLIENTS)
parser.add_argument("--orders", type=int, default=1000)
parser.add_argument("--customers", type=int, default=50)
parser.add_argument("--repeats", type=int, default=100)
parser.add_argument("--id-header", default="ce_id")
parser.add_argument("--partitioner", default="murmur2_random")
args = parser.parse_args()

run = uuid.uuid4().hex[:8]
messages = [
    (f"{run}-{number}", placed(f"c-{number % args.customers}", f"{run}-{number}", args))
    for number in range(args.orders)
]
# A repeat is the same record: the same id, and the same value to the last byte.
CLIENTS[args.client](messages + messages[: args.repeats], args)
