-- What keys are compared by, worked out by the consumer: 128 bits of SHA-256, in a type of fixed width.
-- Two keys that share them would wait for each other, and come to no other harm. The column was
-- generated, with all 256 bits, and cost a fifth of what a row costs here (docs/decisions/0011).
ALTER TABLE retry_queue ALTER COLUMN key_hash DROP EXPRESSION;

ALTER TABLE retry_queue
    ALTER COLUMN key_hash TYPE uuid USING encode(substr(key_hash, 1, 16), 'hex')::uuid,
    -- Without one a message would overtake others of its key: a consumer from before fails instead.
    ADD CONSTRAINT retry_queue_key_has_its_hash CHECK ((key IS NULL) = (key_hash IS NULL));
