-- Messages that will not be applied, each with its whole original record. One row a claim with
-- outcome 'dead_lettered'.
CREATE TABLE dead_letters (
    -- Unique for each dead-lettering; the header dlq-id of the copies in the dead letter topic.
    dlq_id           uuid        PRIMARY KEY,
    consumer_group   text        NOT NULL,
    message_id       uuid        NOT NULL,
    -- The id the message came with; differs from message_id for an id_conflict only.
    original_id      uuid        NOT NULL,
    event_type       text,
    topic            text        NOT NULL,
    partition        integer     NOT NULL,
    "offset"         bigint      NOT NULL,
    record_timestamp timestamptz,
    key              bytea,
    value            bytea,
    -- [{"name": …, "value": …}] in order; name_base64 or value_base64 where it is not text.
    headers          jsonb       NOT NULL,
    error_class      text        NOT NULL,
    error_code       text        NOT NULL,
    error_message    text        NOT NULL,
    attempts         integer     NOT NULL,
    first_failed_at  timestamptz NOT NULL DEFAULT now(),
    last_failed_at   timestamptz NOT NULL DEFAULT now(),
    state            text        NOT NULL DEFAULT 'open'
                     CHECK (state IN ('open', 'redriven', 'discarded', 'resolved')),
    redrive_count    integer     NOT NULL DEFAULT 0,
    state_changed_at timestamptz,
    state_changed_by text,
    UNIQUE (message_id, consumer_group)
);

CREATE INDEX dead_letters_by_time ON dead_letters (last_failed_at);
