-- One row an order. placed -> paid -> fulfilled; cancelled from placed or paid.
CREATE TABLE orders (
    order_id        uuid        PRIMARY KEY,
    customer_id     text        NOT NULL,
    status          text        NOT NULL
                    CHECK (status IN ('placed', 'paid', 'fulfilled', 'cancelled')),
    currency        text        NOT NULL,
    total_cents     bigint      NOT NULL,
    items           jsonb       NOT NULL,
    placed_at       timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL DEFAULT now(),
    last_message_id uuid        NOT NULL
);

-- Not idempotent by nature, on purpose: an event applied twice shows here to the cent.
CREATE TABLE customer_totals (
    customer_id text   NOT NULL,
    currency    text   NOT NULL,
    orders      bigint NOT NULL,
    spent_cents bigint NOT NULL,
    PRIMARY KEY (customer_id, currency)
) WITH (fillfactor = 50);
