-- :claims old claims, 60 to 54 days old, with ids of version 7, one in 200 of them a dead letter.
-- psql -v claims=10000000 -f fill.sql
INSERT INTO processed_messages
       (message_id, "offset", batch_seq, processed_at, partition, consumer_group, topic, outcome, fingerprint)
SELECT uuidv7(age), n, n / 1000, now() + age, 0, 'bench', 'orders',
       CASE WHEN n % 200 = 0 THEN 'dead_lettered' ELSE 'applied' END,
       '\x01'::bytea || sha256(n::text::bytea)
  FROM (SELECT n, interval '-60 days' + n * interval '6 days' / :claims AS age
          FROM generate_series(1, :claims) AS n) AS claim;
INSERT INTO dead_letters
       (dlq_id, consumer_group, message_id, original_id, topic, partition, "offset", headers,
        error_class, error_code, error_message, attempts)
SELECT gen_random_uuid(), consumer_group, message_id, message_id, topic, partition, "offset", '[]',
       'permanent', 'bench', 'bench', 0
  FROM processed_messages
 WHERE outcome = 'dead_lettered'
    ON CONFLICT DO NOTHING;
