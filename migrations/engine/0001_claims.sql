-- The claim: one row a message, written in the transaction of its effect. This row is the outcome.
--
-- batch_seq is one value of the sequence per transaction, drawn while the transaction holds the
-- lock on its partition's row in partition_progress. So within a partition it rises in the order
-- of commit, and together with the offset it proves the order of application. Clocks don't.
CREATE SEQUENCE batch_seq;

CREATE TABLE processed_messages (
    message_id     uuid        NOT NULL,
    "offset"       bigint      NOT NULL,
    batch_seq      bigint      NOT NULL,
    processed_at   timestamptz NOT NULL DEFAULT now(),
    partition      integer     NOT NULL,
    consumer_group text        NOT NULL,
    topic          text        NOT NULL,
    outcome        text        NOT NULL CHECK (outcome IN ('applied', 'dead_lettered', 'skipped')),
    -- A version byte, then SHA-256 over type, key and value, each with its length before it.
    fingerprint    bytea       NOT NULL,
    PRIMARY KEY (message_id, consumer_group)
);

-- Whose effects these tables hold. Another group, id mode or fingerprint would find no claim of
-- its own here and apply everything again, so it is refused.
CREATE TABLE dedup_scope (
    only_row            boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    consumer_group      text        NOT NULL,
    id_mode             text        NOT NULL,
    fingerprint_version smallint    NOT NULL,
    recorded_at         timestamptz NOT NULL DEFAULT now()
);
