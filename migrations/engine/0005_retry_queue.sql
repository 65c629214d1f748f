-- Messages that wait for another attempt, and those behind them with the same key. They hold no
-- claim: their outcome is still open. Only the lane that owns the partition adds and removes rows,
-- in a transaction that holds the partition's row in partition_progress.
CREATE TABLE retry_queue (
    consumer_group      text        NOT NULL,
    topic               text        NOT NULL,
    topic_id            text        NOT NULL,
    partition           integer     NOT NULL,
    "offset"            bigint      NOT NULL,
    -- Rises in the order of the log; the order in which the messages of a key are tried.
    queue_no            bigint      GENERATED ALWAYS AS IDENTITY UNIQUE,
    message_id          uuid        NOT NULL,
    fingerprint         bytea       NOT NULL,
    record_timestamp_ms bigint,
    key                 bytea,
    value               bytea,
    -- As in dead_letters.
    headers             jsonb       NOT NULL,
    -- A key may be longer than an index takes.
    key_hash            bytea       GENERATED ALWAYS AS (sha256(key)) STORED,
    attempts            integer     NOT NULL DEFAULT 0,
    -- NULL: behind an older message of its key.
    next_attempt_at     timestamptz,
    first_failed_at     timestamptz,
    last_failed_at      timestamptz,
    error_class         text,
    error_code          text,
    error_message       text,
    -- An operator wants it dead-lettered instead of tried again.
    given_up_by         text,
    -- An operator has accepted another log since: its offset need not mean a record of this one.
    of_old_log          boolean     NOT NULL DEFAULT false,
    queued_at           timestamptz NOT NULL DEFAULT now(),
    -- The message as well: a log that was cut short may have another one at this offset.
    PRIMARY KEY (consumer_group, topic_id, partition, "offset", message_id, fingerprint)
);

CREATE INDEX retry_queue_due ON retry_queue (consumer_group, topic, partition, next_attempt_at)
 WHERE next_attempt_at IS NOT NULL;

CREATE INDEX retry_queue_by_key ON retry_queue (consumer_group, topic, partition, key_hash, queue_no);
