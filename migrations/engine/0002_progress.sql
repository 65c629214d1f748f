-- How far each partition is, written in the batch's transaction: the database knows by itself,
-- and Kafka's committed offset is only a hint. A transaction locks its partition's row first.
CREATE TABLE partition_progress (
    consumer_group text        NOT NULL,
    topic          text        NOT NULL,
    partition      integer     NOT NULL,
    -- Kafka's id of the topic. A topic created anew under the same name has another one, and its
    -- offsets mean other records.
    topic_id       text        NOT NULL,
    next_offset    bigint      NOT NULL,
    -- The lane that works on the partition now; a lane that finds another name here has been
    -- replaced and writes nothing.
    owner          text        NOT NULL,
    -- Counted in the same transactions, so they are exact.
    applied        bigint      NOT NULL DEFAULT 0,
    duplicates     bigint      NOT NULL DEFAULT 0,
    dead_lettered  bigint      NOT NULL DEFAULT 0,
    skipped        bigint      NOT NULL DEFAULT 0,
    -- Claims of transactions up to this one were made before an operator accepted another log:
    -- their offsets need not mean records of this one.
    accepted_batch_seq bigint  NOT NULL DEFAULT 0,
    updated_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer_group, topic, partition)
) WITH (fillfactor = 50);

-- Offsets that retention deleted before they were read: reported for ever, never called fine.
CREATE TABLE lost_ranges (
    consumer_group text        NOT NULL,
    topic          text        NOT NULL,
    partition      integer     NOT NULL,
    topic_id       text        NOT NULL,
    from_offset    bigint      NOT NULL,
    to_offset      bigint      NOT NULL,
    noticed_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer_group, topic, partition, topic_id, from_offset)
);
