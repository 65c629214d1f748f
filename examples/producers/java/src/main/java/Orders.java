import static java.nio.charset.StandardCharsets.UTF_8;

import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.Future;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.Producer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Places orders, the first of them twice, and lists what Kafka acknowledged as lines for {@code
 * order-consumer verify --manifest}.
 *
 * <p>Arguments: orders, customers, repeats, and the header that carries the message id.
 */
public final class Orders {
    private record Sent(String id, Future<RecordMetadata> end) {}

    public static void main(String[] args) throws Exception {
        int orders = Integer.parseInt(args[0]);
        int customers = Integer.parseInt(args[1]);
        int repeats = Integer.parseInt(args[2]);
        String idHeader = args[3];
        String topic = System.getenv("ORDERS_TOPIC");

        List<ProducerRecord<String, String>> records = new ArrayList<>();
        for (int number = 0; number < orders; number++) {
            records.add(placed(topic, "c-" + number % customers, idHeader));
        }
        // A repeat is the same record: the same id, and the same value to the last byte.
        records.addAll(records.subList(0, repeats).stream().toList());

        // Partitions by murmur2 of the key, and sends idempotently with acks=all: all by default.
        Map<String, Object> settings =
                Map.of("bootstrap.servers", System.getenv("KAFKA_BOOTSTRAP_SERVERS"));
        try (Producer<String, String> producer =
                new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer())) {
            List<Sent> sent = new ArrayList<>();
            for (ProducerRecord<String, String> record : records) {
                String id = new String(record.headers().lastHeader(idHeader).value(), UTF_8);
                sent.add(new Sent(id, producer.send(record)));
            }
            for (Sent one : sent) {
                RecordMetadata at = one.end.get();
                System.out.printf(
                        "{\"id\":\"%s\",\"partition\":%d,\"offset\":%d,\"outcome\":\"acknowledged\"}%n",
                        one.id, at.partition(), at.offset());
            }
        }
    }

    private static ProducerRecord<String, String> placed(
            String topic, String customer, String idHeader) {
        String value =
                """
                {"order_id":"%s","customer_id":"%s","currency":"EUR",\
                "items":[{"sku":"TEA-1","quantity":1,"unit_price_cents":450}],"placed_at":"%s"}"""
                        .formatted(
                                UUID.randomUUID(),
                                customer,
                                Instant.now().truncatedTo(ChronoUnit.MILLIS));
        // The key is the customer: their events keep their order.
        ProducerRecord<String, String> record = new ProducerRecord<>(topic, customer, value);
        Map.of(
                        idHeader, UUID.randomUUID().toString(),
                        "ce_type", "order.placed",
                        "ce_source", "/java-service",
                        "ce_specversion", "1.0",
                        "content-type", "application/json")
                .forEach((name, text) -> record.headers().add(name, text.getBytes(UTF_8)));
        return record;
    }
}
