-- One batch of 1000 claims with ids of version 7, as a lane claims it.
BEGIN;
INSERT INTO processed_messages
       (message_id, "offset", batch_seq, partition, consumer_group, topic, outcome, fingerprint)
SELECT id, row_number() OVER (), 1, 0, 'bench', 'orders', 'applied', fingerprint
  FROM (SELECT uuidv7() AS id, '\x01'::bytea || sha256(n::text::bytea) AS fingerprint
          FROM generate_series(1, 1000) AS n ORDER BY 1) AS claim
    ON CONFLICT (message_id, consumer_group) DO NOTHING;
COMMIT;
