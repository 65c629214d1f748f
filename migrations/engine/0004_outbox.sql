-- Records to publish, written in the transaction that causes them. The relay removes a row after
-- the broker's acknowledgement, so each is published at least once.
CREATE TABLE outbox (
    id             bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic          text        NOT NULL,
    partition      integer,
    key            bytea,
    value          bytea,
    headers        jsonb       NOT NULL,
    -- Whether the record may go without its value where the topic refuses its size (dead letters:
    -- the table above keeps the value).
    may_omit_value boolean     NOT NULL DEFAULT false,
    created_at     timestamptz NOT NULL DEFAULT now(),
    -- Set where the broker refuses the record for good; it then holds up its topic and key only.
    refused_at     timestamptz,
    refused_reason text
);

CREATE INDEX outbox_refused ON outbox (refused_at) WHERE refused_at IS NOT NULL;

-- One relay at a time, across processes. Holding it too long or twice only repeats records.
CREATE TABLE relay_lease (
    only_row   boolean     PRIMARY KEY DEFAULT true CHECK (only_row),
    holder     text        NOT NULL,
    expires_at timestamptz NOT NULL
);
