-- Redrive: a dead letter's message is published again, and its claim replaced when that copy comes.
-- What holds and why: docs/decisions/0010-redrive-through-the-outbox.md.

-- Why the state is what it is, where a person would not guess: a copy that Kafka refused.
ALTER TABLE dead_letters ADD COLUMN state_reason text;

CREATE INDEX dead_letters_redriven ON dead_letters (state_changed_at) WHERE state = 'redriven';

-- A redriven message may be dead-lettered again: its row in dead_letters then has a new dlq_id and
-- the new error. What it had before is kept here, since its copy is in the dead letter topic.
CREATE TABLE past_dead_letterings (
    dlq_id         uuid        PRIMARY KEY,
    consumer_group text        NOT NULL,
    message_id     uuid        NOT NULL,
    error_class    text        NOT NULL,
    error_code     text        NOT NULL,
    error_message  text        NOT NULL,
    attempts       integer     NOT NULL,
    failed_at      timestamptz NOT NULL
);

CREATE INDEX past_dead_letterings_by_message ON past_dead_letterings (message_id);

-- The dlq_id of the dead letter that this record is a redrive of. If Kafka refuses the record, the
-- dead letter is opened again and the row goes.
ALTER TABLE outbox ADD COLUMN redrive_of uuid;
